"""What the refiner learns from: an ESRGAN, its features, a teacher's pictures, the whole chain."""

import ast
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from patchscaler.apps.cli import main
from patchscaler.config import RefinerConfig
from patchscaler.errors import PatchScalerError
from patchscaler.models.refiner import Refiner
from patchscaler.models.weights import save_module
from patchscaler.pipeline import PatchScaler
from patchscaler.training.commands import ModelFolder
from patchscaler.training.data.coarse import CoarseShards, write_teacher
from patchscaler.training.few_step import FewStepStage
from patchscaler.training.losses import low_band
from patchscaler.training.refining import DistilTrainer, RefiningStage

REFINER = RefinerConfig(8, 1)


def test_the_last_stage_takes_gradients_into_patch_dit_and_refiner(tmp_path, tiny):
    folder = with_refiner(tmp_path, tiny)
    network, encoder, refiner = folder.patch_dit(), folder.texture_encoder(), folder.refiner()
    rng = np.random.default_rng(0)
    shards = tmp_path / "data"
    shards.mkdir()
    for name, shape in (
        ("hr", (2, 160, 160, 3)),
        ("lr", (2, 1, 40, 40, 3)),
        ("coarse", (2, 1, 160, 160, 3)),
    ):
        np.save(shards / f"0000_{name}.npy", rng.integers(0, 256, shape, dtype=np.uint8))
    np.save(shards / "0000_confidence.npy", np.full((2, 1, 20, 20), 0.5, np.float16))
    data = CoarseShards(shards)
    weights = {"lpips": 0.0, "gan": 0.0, "pattern": 0.0}
    stage = FewStepStage(
        folder.frozen(),
        network,
        encoder,
        refiner,
        data,
        data,
        batch_size=1,
        side=20,
        weights=weights,
    )
    batch = stage.batch(np.random.default_rng(0), torch.Generator().manual_seed(0))
    loss, _ = stage.generator(batch)
    loss.backward()
    assert network.out.weight.grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in refiner.parameters())


# --- the teacher ----------------------------------------------------------------------------------


def test_teacher_pictures_are_cut_and_turned_with_their_regions(tmp_path):
    rng = np.random.default_rng(0)
    n, tile = 3, 64
    for name, shape in (
        ("hr", (n, tile, tile, 3)),
        ("lr", (n, 2, 16, 16, 3)),
        ("coarse", (n, 2, tile, tile, 3)),
    ):
        np.save(tmp_path / f"0000_{name}.npy", rng.integers(0, 256, shape, dtype=np.uint8))
    np.save(tmp_path / "0000_confidence.npy", np.full((n, 2, 8, 8), 0.5, np.float16))
    enlarge = lambda lr: lr.repeat(4, 0).repeat(4, 1)  # noqa: E731
    assert write_teacher(tmp_path, enlarge, 1, 0) == 1
    assert write_teacher(tmp_path, enlarge, 1, 0) == 0  # done already
    shards = CoarseShards(tmp_path)
    regions = shards.draw(40, 4, 8, np.random.default_rng(1))
    taught, (_, hr) = shards.taught(regions, 4, 8), shards.read(regions, 4, 8)
    assert taught.shape == (40, 3, 32, 32)
    for region, picture, truth in zip(regions, taught, hr, strict=True):
        if region.variant:  # only the first degradation was shown to the teacher
            assert torch.equal(picture, truth)
        else:
            blocks = picture.unflatten(1, (8, 4)).unflatten(3, (8, 4))
            assert torch.equal(
                blocks, blocks[:, :, :1, :, :1].expand_as(blocks)
            ) and not torch.equal(picture, truth)


def test_the_refiner_sees_easy_regions_as_often_as_others(tmp_path):
    """Patch-DiT sees them a quarter as often: simple patches never meet it."""
    for name, shape in (
        ("hr", (8, 64, 64, 3)),
        ("lr", (8, 1, 16, 16, 3)),
        ("coarse", (8, 1, 64, 64, 3)),
    ):
        np.save(tmp_path / f"0000_{name}.npy", np.zeros(shape, np.uint8))
    confidence = np.full((8, 1, 8, 8), 0.5, np.float16)
    confidence[0] = 0.9  # an eighth of the tiles
    np.save(tmp_path / "0000_confidence.npy", confidence)
    shards = CoarseShards(tmp_path)

    def share(evenly: bool) -> float:
        drawn = shards.draw(2000, 8, 8, np.random.default_rng(0), evenly=evenly)
        return float(np.mean([region.tile == 0 for region in drawn]))

    assert share(True) == pytest.approx(1 / 8, abs=0.02)
    assert share(False) == pytest.approx(1 / 29, abs=0.01)
    stage = RefiningStage(
        Refiner(REFINER),
        shards,
        shards,
        batch_size=2000,
        side=8,
        weights={"lpips": 0.0, "gan": 0.0},
    )
    asked = []
    shards.draw = lambda *_, **options: asked.append(options) or []
    with pytest.raises(ValueError, match="need at least one array"):
        stage.batch(np.random.default_rng(0), torch.Generator())
    assert asked == [{"evenly": True}]


def test_a_teacher_at_hand_is_asked_about_each_degradation(tmp_path):
    """Half of the steps aim at what it draws of the small picture, its wide colours the coarse
    picture's.
    """
    rng = np.random.default_rng(0)
    for name, shape in (
        ("hr", (3, 64, 64, 3)),
        ("lr", (3, 2, 16, 16, 3)),
        ("coarse", (3, 2, 64, 64, 3)),
    ):
        np.save(tmp_path / f"0000_{name}.npy", rng.integers(0, 256, shape, dtype=np.uint8))
    np.save(tmp_path / "0000_confidence.npy", np.full((3, 2, 8, 8), 0.5, np.float16))
    shards, teacher = CoarseShards(tmp_path), Refiner(REFINER)
    weights = {"lpips": 0.0, "gan": 0.0, "teacher": 0.5}
    stage = RefiningStage(
        Refiner(REFINER), shards, shards, teacher, batch_size=2, side=8, weights=weights
    )
    batches = [stage.batch(np.random.default_rng(i), torch.Generator()) for i in range(40)]
    taught = [b for b in batches if not torch.equal(b["aim"], b["hr"])]
    assert 10 < len(taught) < 30
    for batch in taught:
        coarse = batch["coarse_pixels"]
        with torch.no_grad():
            drawn = teacher(torch.cat([coarse, coarse], 1), batch["small"]).clamp(-1, 1)
        # it draws in bfloat16
        assert torch.allclose(batch["aim"], drawn + low_band(coarse - drawn), atol=0.03)
        _, terms = stage.loss(coarse, batch)
        assert terms["l1"] == pytest.approx(float((coarse - batch["aim"]).abs().mean()), rel=1e-5)


# --- from an ESRGAN -------------------------------------------------------------------------------


def esrgan(width: int = 8, blocks: int = 2) -> dict[str, torch.Tensor]:
    """Random weights of an ESRGAN with such names."""
    generator = torch.Generator().manual_seed(1)

    def conv(name: str, inside: int, outside: int) -> dict[str, torch.Tensor]:
        weight = torch.randn(outside, inside, 3, 3, generator=generator) / (3 * inside**0.5)
        return {
            f"{name}.weight": weight,
            f"{name}.bias": torch.randn(outside, generator=generator) / 9,
        }

    weights = conv("conv_first", 3, width) | conv("conv_last", width, 3)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        weights |= conv(name, width, width)
    for b in range(blocks):
        for r in range(1, 4):
            for k in range(1, 6):
                weights |= conv(
                    f"body.{b}.rdb{r}.conv{k}", width + 32 * (k - 1), width if k == 5 else 32
                )
    return weights


def reference(
    weights: dict[str, torch.Tensor], x: torch.Tensor, blocks: tuple[int, ...]
) -> torch.Tensor:
    """ESRGAN by its paper: x (N, 3, h, w) in [0, 1] -> (N, 3, 4h, 4w) in [0, 1]."""

    def conv(name: str, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(
            x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1
        )

    def bent(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.leaky_relu(x, 0.2)

    first = h = conv("conv_first", x)
    for b in blocks:
        inner = h
        for r in range(1, 4):
            maps = [inner]
            for k in range(1, 5):
                maps.append(bent(conv(f"body.{b}.rdb{r}.conv{k}", torch.cat(maps, 1))))
            inner = inner + 0.2 * conv(f"body.{b}.rdb{r}.conv5", torch.cat(maps, 1))
        h = h + 0.2 * inner
    h = first + conv("conv_body", h)
    for name in ("conv_up1", "conv_up2"):
        h = bent(conv(name, nn.functional.interpolate(h, scale_factor=2, mode="nearest")))
    return conv("conv_last", bent(conv("conv_hr", h)))


def test_a_refiner_from_an_esrgan_is_that_esrgan_on_the_small_picture():
    """Outside of the picture an ESRGAN sees black and the refiner grey: first without blocks, where
    that stays near.
    """
    small, weights = torch.rand(2, 3, 8, 8), esrgan()
    # what x_0 and y_0 are does not matter at the start
    given = torch.rand(2, 6, 32, 32), 2 * small - 1
    shallow = Refiner(RefinerConfig(8, 0))
    shallow.load_esrgan(weights, ())
    drawn, expected = shallow(*given), 2 * reference(weights, small, ()) - 1
    assert drawn.shape == (2, 3, 32, 32)
    assert torch.allclose(drawn[..., 14:-14, 14:-14], expected[..., 14:-14, 14:-14], atol=1e-5)
    # Then with blocks, on what the biases alone make of any picture.
    weights["conv_first.weight"].zero_()
    deep = Refiner(RefinerConfig(8, 2))
    deep.load_esrgan(weights, (1, 0))
    assert torch.allclose(deep(*given), 2 * reference(weights, small, (1, 0)) - 1, atol=1e-5)
    assert not torch.allclose(deep(*given), 2 * reference(weights, small, (0, 1)) - 1, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"width": 12}, {"blocks": 1}])
def test_another_esrgan_does_not_fit(wrong):
    with pytest.raises(PatchScalerError, match="the ESRGAN network does not fit"):
        Refiner(RefinerConfig(8, 2)).load_esrgan(esrgan(**wrong), (0, 1))


def test_distilling_weighs_an_error_as_the_enlargement_shows_it():
    refiner = Refiner(RefinerConfig(8, 0))
    refiner.load_esrgan(esrgan(), ())
    trainer = DistilTrainer(refiner)
    error = torch.zeros(1, 8, 9, 9)
    error[0, :, 4, 4] = torch.randn(8)
    enlarged = nn.functional.interpolate(error, scale_factor=2.0)
    shown = nn.functional.conv2d(enlarged, refiner.conv_up1.weight, padding=1).square().sum()
    weighed = nn.functional.conv2d(error, trainer.reads[..., None, None]).square().sum()
    assert torch.allclose(weighed, shown, rtol=1e-4)


def test_the_refiner_is_put_there_distilled_and_trained(tmp_path, tiny, capsys):
    """Each stage leaves a model that loads; features come nearer to the whole network's, pictures
    to the truth.
    """
    folder, data = tmp_path / "model", tmp_path / "data"
    tiny.save_pretrained(folder)
    save_file(esrgan(blocks=3), tmp_path / "esrgan.safetensors")
    rng = np.random.default_rng(0)
    data.mkdir()
    lr = rng.integers(0, 256, (4, 1, 16, 16, 3), dtype=np.uint8)
    large = lr.repeat(4, 2).repeat(4, 3)
    for name, array in (("lr", lr), ("hr", large[:, 0]), ("coarse", large)):
        np.save(data / f"0000_{name}.npy", array)
    np.save(data / "0000_confidence.npy", np.full((4, 1, 8, 8), 0.5, np.float16))
    common = ["--model", str(folder), "--device", "cpu"]
    network = ["--esrgan", str(tmp_path / "esrgan.safetensors")]
    shards = [
        "--shards",
        str(data),
        "--validation",
        str(data),
        "--side",
        "8",
        "--batch-size",
        "2",
        "--warmup",
        "1",
    ]
    assert main(["train", "distil", *common, *network, *shards, "--steps", "1"]) == 1
    assert "no refiner; 'patchscaler train graft' puts it there" in capsys.readouterr().err
    assert main(["train", "graft", *common, *network, "--refiner-blocks", "0,2"]) == 0

    def figures(stage: str, steps: int, *options: str) -> dict[str, float]:
        assert (
            main(["train", stage, *common, *shards, "--steps", str(steps), "--no-bf16", *options])
            == 0
        )
        return ast.literal_eval(capsys.readouterr().out.splitlines()[-1])

    first = figures("distil", 1, *network, "--lr", "1e-3")["error"]
    assert figures("distil", 30, *network, "--lr", "1e-3")["error"] < 0.8 * first
    losses = ["--lpips", "0", "--gan", "0", "--pattern", "0", "--lr", "3e-3"]
    first = figures("refining", 1, *losses)["psnr_refined"]
    assert figures("refining", 40, *losses)["psnr_refined"] > first + 1
    assert figures("refining", 42, *losses, *network, "--teacher", "1")["psnr_refined"] > first
    assert PatchScaler.from_pretrained(folder, device="cpu").config.refiner.depth == 2


def with_refiner(tmp_path, tiny) -> ModelFolder:
    tiny.save_pretrained(tmp_path, half=False)
    folder = ModelFolder(tmp_path, "tiny", "cpu")
    folder.save_config(replace(folder.config, refiner=REFINER))
    network, refiner = folder.patch_dit(), Refiner(REFINER)
    torch.nn.init.normal_(network.out.weight, std=0.1)
    save_module(folder.path("patch_dit"), network, {"network": "patch_dit"}, half=False)
    save_module(folder.path("refiner"), refiner, {"network": "refiner"}, half=False)
    return folder


def test_training_in_a_copy_of_a_saved_model_renews_its_sums(tmp_path, tiny):
    with_refiner(tmp_path, tiny)
    # this test changed it by hand
    with pytest.raises(PatchScalerError, match="not the file that was saved"):
        PatchScaler.from_pretrained(tmp_path, device="cpu")
    assert main(["train", "graft", "--model", str(tmp_path), "--device", "cpu", "--keep", "1"]) == 0
    assert len(PatchScaler.from_pretrained(tmp_path, device="cpu").patch_dit.blocks) == 1


def test_a_graft_that_keeps_one_block(tmp_path, tiny):
    folder = with_refiner(tmp_path, tiny)
    old = folder.patch_dit()
    assert main(["train", "graft", "--model", str(tmp_path), "--device", "cpu", "--keep", "1"]) == 0
    new = ModelFolder(tmp_path, "tiny", "cpu").patch_dit()
    assert len(new.blocks) == 1
    assert torch.allclose(
        new.blocks[0].attention.qkv.weight, old.blocks[1].attention.qkv.weight, atol=1e-3
    )
    assert torch.equal(
        folder.refiner().conv_hr.weight,
        ModelFolder(tmp_path, "tiny", "cpu").refiner().conv_hr.weight,
    )


def test_a_new_refiner_has_the_esrgans_weights(tmp_path, tiny):
    with_refiner(tmp_path, tiny)
    save_file(esrgan(12, 3), tmp_path / "esrgan.safetensors")
    options = [
        "--model",
        str(tmp_path),
        "--device",
        "cpu",
        "--esrgan",
        str(tmp_path / "esrgan.safetensors"),
    ]
    assert main(["train", "graft", *options, "--refiner-blocks", "0,2"]) == 0
    folder = ModelFolder(tmp_path, "tiny", "cpu")
    assert folder.config.refiner == RefinerConfig(12, 2)
    pixels, small = torch.rand(1, 6, 32, 32), torch.rand(1, 3, 8, 8) * 2 - 1
    expected = Refiner(RefinerConfig(12, 2))
    expected.load_esrgan(esrgan(12, 3), (0, 2))
    # half precision
    assert torch.allclose(folder.refiner()(pixels, small), expected(pixels, small), atol=0.05)
    assert not folder.patch_dit().out.weight.any()  # the transformer says nothing at first


def test_more_blocks_change_nothing_until_they_are_trained(tmp_path, tiny):
    folder = with_refiner(tmp_path, tiny)
    given = torch.rand(1, 6, 32, 32), torch.rand(1, 3, 8, 8) * 2 - 1
    before, said = folder.refiner()(*given), folder.patch_dit().out.weight
    save_file(esrgan(8, 3), tmp_path / "esrgan.safetensors")
    options = [
        "--model",
        str(tmp_path),
        "--device",
        "cpu",
        "--esrgan",
        str(tmp_path / "esrgan.safetensors"),
    ]
    assert main(["train", "graft", *options, "--refiner-blocks", "1,2", "--more"]) == 0
    grown = ModelFolder(tmp_path, "tiny", "cpu")
    assert grown.config.refiner == RefinerConfig(8, 3)
    assert torch.allclose(grown.refiner()(*given), before, atol=0.02)  # half precision
    assert torch.allclose(grown.patch_dit().out.weight, said, atol=1e-3)
    source = esrgan(8, 3)["body.2.rdb1.conv1.weight"]
    assert torch.allclose(grown.refiner().blocks[2][0].convs[0].weight, source, atol=1e-3)


def test_a_refiner_in_eight_bits_draws_nearly_the_same(tmp_path, tiny):
    folder = with_refiner(tmp_path, tiny)
    given = torch.rand(1, 6, 32, 32), torch.rand(1, 3, 8, 8) * 2 - 1
    before, size = folder.refiner()(*given), folder.path("refiner").stat().st_size
    assert (
        main(["train", "graft", "--model", str(tmp_path), "--device", "cpu", "--refiner-bits", "8"])
        == 0
    )
    after = PatchScaler.from_pretrained(tmp_path, device="cpu", dtype="float32")
    assert after.config.refiner.bits == 8 and folder.path("refiner").stat().st_size < size / 3
    error = (after.refiner(*given) - before).square().mean() / before.var()
    assert 0 < error < 1e-3
    # what was rounded once is not rounded to anything else
    after.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "refiner.safetensors").read_bytes() == folder.path(
        "refiner"
    ).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--more"], "--more: give --esrgan, whose blocks are put behind the refiner's own"),
        (["--keep", "7"], "--keep 7: Patch-DiT has the blocks 0 to 1"),
        (["--keep", "a"], "--keep a: give numbers separated by commas"),
        (
            ["--esrgan", "other"],
            "--esrgan: give --refiner-blocks, and weights that have 'conv_first.weight'",
        ),
    ],
)
def test_grafts_that_cannot_be(tmp_path, tiny, capsys, monkeypatch, options, message):
    with_refiner(tmp_path, tiny)
    monkeypatch.chdir(tmp_path)
    save_file({"a": torch.zeros(1)}, "other")
    before = (tmp_path / "patch_dit.safetensors").read_bytes()
    assert main(["train", "graft", "--model", str(tmp_path), "--device", "cpu", *options]) == 1
    assert message in capsys.readouterr().err
    assert (tmp_path / "patch_dit.safetensors").read_bytes() == before


def test_bits_of_a_refiner_that_is_not_there(tmp_path, tiny, capsys):
    tiny.save_pretrained(tmp_path)
    assert (
        main(["train", "graft", "--model", str(tmp_path), "--device", "cpu", "--refiner-bits", "8"])
        == 1
    )
    assert f"--refiner-bits: {tmp_path} has no refiner; give --esrgan" in capsys.readouterr().err
