"""Table 3 and its two workers, on tiny networks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from patchscaler.config import PATCH_DIT_SIZES, TextureConfig, preset
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.cost.images import synthetic_photo
from patchscaler.pipeline import PatchScaler
from patchscaler.reproduce import paper_networks, speed
from patchscaler.reproduce.two_workers import Job, Timed, run_two_workers

# --- the paper's networks -------------------------------------------------------------------------


def test_shares_of_the_paper():
    # Half of the patches lie between .70 and 1: a sixth of these above .95, two thirds from .75 to
    # .95.
    assert paper_networks.paper_shares() == pytest.approx((0.5 / 6, 0.5 * 5 / 6))


def test_networks_have_the_published_sizes():
    pytest.importorskip("diffusers")
    with torch.device("meta"):
        unet, decoder = paper_networks.latent_diffusion()
        kl = paper_networks.RandomAutoencoder(preset("paper").autoencoder)
    assert sum(p.numel() for p in unet.network.parameters()) == 113_622_563  # "113.6 M"
    assert sum(p.numel() for p in kl.model.parameters()) == 83_653_863
    assert unet.calls == 20 and decoder.calls == 1


def small_paper(monkeypatch):
    """The `paper` preset with shrunken networks in place of the real ones."""
    diffusers = pytest.importorskip("diffusers")
    base = preset("paper")
    config = replace(
        base,
        grm=replace(base.grm, width=8),
        texture=TextureConfig(widths=(8, 8), classes=("a",), memory_size=6),
        patch_dit=replace(
            PATCH_DIT_SIZES["tiny"], shared_modulation=False, depthwise_mlp=False, cross_size=0
        ),
    )

    class SmallAutoencoder(paper_networks.RandomAutoencoder):
        def __init__(self, config):
            paper_networks.Autoencoder.__init__(self)
            self.model = diffusers.AutoencoderKL(
                block_out_channels=(4, 4, 4, 4),
                layers_per_block=1,
                norm_num_groups=2,
                latent_channels=4,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
            )
            self.channels, self.factor, self.scaling_factor = 4, 8, 0.18
            self.reach, self.exact = 24, False

    monkeypatch.setattr(paper_networks, "RandomAutoencoder", SmallAutoencoder)
    monkeypatch.setattr(paper_networks, "preset", lambda name: config)

    def two_convolutions():
        conv = torch.nn.Conv2d(3, 3, 3, padding=1)
        return [paper_networks.Part("conv", conv, 2, lambda n: (1, 3, n, n))]

    methods = {"LDM": two_convolutions, "SwinIR-GAN": unavailable}
    monkeypatch.setattr(speed, "PAPER_METHODS", methods)
    monkeypatch.setattr(speed, "matmul_peak", lambda device, dtype: 1e9)


def unavailable():
    raise PatchScalerError("needs spandrel. Hint: pip install it")


def test_thresholds_part_the_patches_as_in_the_paper(monkeypatch):
    small_paper(monkeypatch)
    model = paper_networks.paper_model("cpu", torch.float32)
    lr = synthetic_photo(96)  # 48 latents a side, 5 x 5 patches
    groups = paper_networks.groups_with_shares(model, lr, (0.2, 0.6))
    output = PatchScaler(model).upscale(lr, groups=groups)
    assert [int((output.groups == g).sum()) for g in range(3)] == [5, 10, 10]
    assert output.nfe == 5 * 8 + 10 * 14 + 10 * 20
    model.grm.confidence_head.weight.fill_(float("nan"))
    with pytest.raises(PatchScalerError, match="take --dtype bfloat16"):
        paper_networks.groups_with_shares(model, lr, (0.2, 0.6))


def test_table_3_puts_the_papers_seconds_beside_ours(monkeypatch):
    small_paper(monkeypatch)
    report = speed.table3([64], "cpu", "float32", 1)
    rows = {row.label: row for row in report.rows}
    ours, ldm = rows["64 -> 256, PatchScaler"], rows["64 -> 256, LDM"]
    assert ours.here["seconds"] > 0 and "NFE" in ours.note and not ours.paper
    # two calls of a 3x3 convolution of 3 channels
    assert ldm.here["TFLOP"] == pytest.approx(2 * 2 * 9 * 9 * 64**2 / 1e12)
    assert "SwinIR-GAN: needs spandrel. Hint: pip install it" in report.differs
    monkeypatch.setitem(speed.TABLE_3, 64, speed.TABLE_3[256])
    rows = {row.label: row for row in speed.table3([64], "cpu", "float32", 1).rows}
    assert rows["64 -> 256, PatchScaler"].paper == {"seconds": 1.29}
    assert rows["64 -> 256, ResShift"].paper == {"seconds": 1.44}
    assert not rows["64 -> 256, ResShift"].here
    with pytest.raises(PatchScalerError, match="even numbers of 32 or more"):
        speed.table3([33], "cpu", "float32", 1)


# --- two workers ----------------------------------------------------------------------------------


def test_two_workers_give_the_image_of_one(model_folder, tiny, picture):
    images = [np.asarray(picture(64, 64)), np.asarray(picture(33, 47))]
    timed = run_two_workers(Job(images, model=str(model_folder), dtype="float32", seed=3))
    for lr, result in zip(images, timed, strict=True):
        one = tiny.upscale(lr, seed=3)
        assert result.difference == 0 and result.rounding <= 1
        assert np.abs(one.array.astype(int) - result.array).max() <= 1
        assert result.patches["worker 0"] == (one.groups == 2).sum()
        assert result.patches["worker 1"] == (one.groups == 1).sum()  # simple ones take no steps
        assert min(result.alone, result.together, result.alone_all_threads) > 0


def test_what_fails_in_a_worker_is_one_line(picture, tmp_path):
    images = [np.asarray(picture(32, 32))]
    with pytest.raises(PatchScalerError, match="no such folder"):
        run_two_workers(Job(images, model=str(tmp_path / "nowhere")))
    with pytest.raises(PatchScalerError, match="device 'cuda:7' is unknown"):
        run_two_workers(Job(images, devices=("cpu", "cuda:7")))


def test_table_3_on_two_devices_prints_its_speed_up(monkeypatch):
    array = np.zeros((1024, 1024, 3), np.uint8)
    timed = [Timed(array, 0, 2, 2.0, 1.5, 1.0, {"worker 0": 5, "worker 1": 4})]
    monkeypatch.setattr(speed, "run_two_workers", lambda job: timed)
    report = speed.table3_two(Job([np.zeros((256, 256, 3), np.uint8)], shares=(0.1, 0.4)))
    one, everything, two = report.rows
    assert one.here == {"seconds": 2.0, "speed-up": 1.0}
    assert two.here == {"seconds": 1.0, "speed-up": 2.0}
    assert two.paper["speed-up"] == pytest.approx(1.29 / 0.88)
    assert everything.here["seconds"] == 1.5
    assert "worker 0 5 patches, worker 1 4 patches" in two.note
    assert "0 levels with the same two batches, 2 with one" in two.note
