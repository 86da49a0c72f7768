"""The drawing head at the end of `compact`'s Patch-DiT: how it begins, what it learns from; a teacher's pictures."""

import ast
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from patchscaler.checkpoints import save_module
from patchscaler.cli import main
from patchscaler.config import AutoencoderConfig, preset
from patchscaler.data.coarse import CoarseShards, write_teacher
from patchscaler.errors import PatchScalerError
from patchscaler.models.autoencoder import PCAAutoencoder
from patchscaler.models.drawing_head import Drawer, DrawingHead
from patchscaler.models.patch_dit import PatchDiT
from patchscaler.pipeline import PatchScaler
from patchscaler.training.commands import ModelFolder
from patchscaler.training.drawing import DistilTrainer


@pytest.fixture
def autoencoder() -> PCAAutoencoder:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(4, 3, 64, 64, generator=generator) * 2 - 1
    return PCAAutoencoder(AutoencoderConfig(channels=192)).fit([pictures])


class Says(nn.Module):
    """A drawer that keeps what it was shown and says one of its two pictures, or a shade."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, pixels):
        self.seen = pixels
        return self.what(pixels)


def test_the_head_sees_pixels_as_the_autoencoder_decodes_them(autoencoder):
    head = DrawingHead(4, 0, 192).connect(autoencoder)
    head.drawer = Says(lambda pixels: pixels[:, 3:])
    x_0, coarse = torch.randn(2, 2, 192, 4, 4)
    assert head(x_0, coarse).abs().max() < 1e-4  # the coarse patch drawn as it was: nothing is added
    assert torch.allclose(head.drawer.seen[:, :3], autoencoder.decode(x_0), atol=1e-4)
    assert torch.allclose(head.drawer.seen[:, 3:], autoencoder.decode(coarse), atol=1e-4)


def test_the_drawing_stands_in_place_of_the_coarse_patch(autoencoder):
    head = DrawingHead(4, 0, 192).connect(autoencoder)
    shade = torch.tensor([0.5, -0.25, 0.0])[:, None, None]
    head.drawer = Says(lambda pixels: shade.expand(len(pixels), 3, *pixels.shape[-2:]))
    coarse = autoencoder.encode(torch.rand(1, 3, 32, 32) - 0.5)
    assert torch.allclose(autoencoder.decode(coarse + head(coarse, coarse)), shade.expand(1, 3, 32, 32), atol=1e-4)


def test_patch_dit_with_a_head_takes_gradients_into_both():
    config = replace(preset("tiny").patch_dit, head_width=8, head_depth=1)
    network = PatchDiT(config, 8, 16)
    torch.nn.init.normal_(network.out.weight, std=0.1)
    x_t, coarse = torch.randn(2, 2, 8, 16, 16)
    network(x_t, torch.tensor([400, 400]), coarse, None).square().mean().backward()
    assert network.out.weight.grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in network.head.drawer.parameters())


def test_a_fresh_head_takes_the_autoencoder_of_its_model_folder(tmp_path, tiny):
    tiny.save_pretrained(tmp_path)
    (tmp_path / "patch_dit.safetensors").unlink()
    folder = ModelFolder(tmp_path, "tiny", "cpu")
    folder.config = replace(folder.config, patch_dit=replace(folder.config.patch_dit, head_width=8, head_depth=1))
    head = folder.patch_dit(needed=False).head
    autoencoder = folder.autoencoder()
    z = torch.randn(1, 8, 2, 2)
    blocks = torch.nn.functional.conv2d(z, head.to_pixels[..., None, None], head.mean)
    assert torch.allclose(torch.nn.functional.pixel_shuffle(blocks, 8), autoencoder.decode_linear(z), atol=1e-5)


def test_a_head_needs_the_closed_form_autoencoder(tmp_path):
    config = replace(preset("paper"), patch_dit=replace(preset("tiny").patch_dit, head_width=8, head_depth=1))
    folder = ModelFolder(tmp_path, "tiny", "cpu")
    folder.config = replace(config, autoencoder=replace(config.autoencoder, kind="tiny"))
    folder.autoencoder = lambda needed=True: torch.nn.Identity()
    with pytest.raises(PatchScalerError, match="closed-form"):
        folder.patch_dit(needed=False)


# --- the teacher ----------------------------------------------------------------------------------


def test_teacher_pictures_are_cut_and_turned_with_their_regions(tmp_path):
    rng = np.random.default_rng(0)
    n, tile = 3, 64
    for name, shape in (("hr", (n, tile, tile, 3)), ("lr", (n, 2, 16, 16, 3)), ("coarse", (n, 2, tile, tile, 3))):
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
            assert torch.equal(blocks, blocks[:, :, :1, :, :1].expand_as(blocks)) and not torch.equal(picture, truth)


# --- from an ESRGAN -------------------------------------------------------------------------------


def esrgan(width: int = 8, blocks: int = 2) -> dict[str, torch.Tensor]:
    """Random weights of an ESRGAN with such names."""
    generator = torch.Generator().manual_seed(1)

    def conv(name: str, inside: int, outside: int) -> dict[str, torch.Tensor]:
        weight = torch.randn(outside, inside, 3, 3, generator=generator) / (3 * inside**0.5)
        return {f"{name}.weight": weight, f"{name}.bias": torch.randn(outside, generator=generator) / 9}

    weights = conv("conv_first", 3, width) | conv("conv_last", width, 3)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        weights |= conv(name, width, width)
    for b in range(blocks):
        for r in range(1, 4):
            for k in range(1, 6):
                weights |= conv(f"body.{b}.rdb{r}.conv{k}", width + 32 * (k - 1), width if k == 5 else 32)
    return weights


def reference(weights: dict[str, torch.Tensor], x: torch.Tensor, blocks: tuple[int, ...]) -> torch.Tensor:
    """ESRGAN by its paper: x (N, 3, h, w) in [0, 1] -> (N, 3, 4h, 4w) in [0, 1]."""

    def conv(name: str, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)

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


def test_a_drawer_from_an_esrgan_is_that_esrgan_on_the_reduced_picture():
    """Outside of the picture an ESRGAN sees black and the drawer grey: first without blocks, where that stays near."""
    small, weights = torch.rand(2, 3, 8, 8), esrgan()
    picture = torch.nn.functional.interpolate(2 * small - 1, scale_factor=4, mode="nearest")
    both = torch.cat([torch.rand(2, 3, 32, 32), picture], 1)  # what x_0 is does not matter at the start
    shallow = Drawer(8, 0)
    shallow.load_esrgan(weights, ())
    drawn, expected = shallow(both), 2 * reference(weights, small, ()) - 1
    assert drawn.shape == (2, 3, 32, 32)
    assert torch.allclose(drawn[..., 14:-14, 14:-14], expected[..., 14:-14, 14:-14], atol=1e-5)
    # Then with blocks, on what the biases alone make of any picture.
    weights["conv_first.weight"].zero_()
    deep = Drawer(8, 2)
    deep.load_esrgan(weights, (1, 0))
    assert torch.allclose(deep(both), 2 * reference(weights, small, (1, 0)) - 1, atol=1e-5)
    assert not torch.allclose(deep(both), 2 * reference(weights, small, (0, 1)) - 1, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"width": 12}, {"blocks": 1}])
def test_another_esrgan_does_not_fit(wrong):
    with pytest.raises(PatchScalerError, match="the ESRGAN network does not fit"):
        Drawer(8, 2).load_esrgan(esrgan(**wrong), (0, 1))


def test_distilling_weighs_an_error_as_the_enlargement_shows_it():
    drawer = Drawer(8, 0)
    drawer.load_esrgan(esrgan(), ())
    trainer = DistilTrainer(drawer)
    error = torch.zeros(1, 8, 9, 9)
    error[0, :, 4, 4] = torch.randn(8)
    enlarged = nn.functional.interpolate(error, scale_factor=2.0)
    shown = nn.functional.conv2d(enlarged, drawer.conv_up1.weight, padding=1).square().sum()
    weighed = nn.functional.conv2d(error, trainer.reads[..., None, None]).square().sum()
    assert torch.allclose(weighed, shown, rtol=1e-4)


def test_the_head_is_put_on_distilled_and_trained(tmp_path, tiny, capsys):
    """Each stage leaves a model that loads; features come nearer to the whole network's, pictures to the truth."""
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
    shards = ["--shards", str(data), "--validation", str(data), "--side", "8", "--batch-size", "2", "--warmup", "1"]
    assert main(["train", "distil", *common, *network, *shards, "--steps", "1"]) == 1
    assert "no drawing head; 'patchscaler train graft' puts it on" in capsys.readouterr().err
    assert main(["train", "graft", *common, *network, "--head-blocks", "0,2"]) == 0

    def figures(stage: str, steps: int, *options: str) -> dict[str, float]:
        assert main(["train", stage, *common, *shards, "--steps", str(steps), "--no-bf16", *options]) == 0
        return ast.literal_eval(capsys.readouterr().out.splitlines()[-1])

    first = figures("distil", 1, *network, "--lr", "1e-3")["error"]
    assert figures("distil", 30, *network, "--lr", "1e-3")["error"] < 0.8 * first
    losses = ["--lpips", "0", "--gan", "0", "--pattern", "0", "--lr", "3e-3"]
    first = figures("drawing", 1, *losses)["psnr_drawn"]
    assert figures("drawing", 40, *losses)["psnr_drawn"] > first + 1
    assert PatchScaler.from_pretrained(folder, device="cpu").config.patch_dit.head_depth == 2


def with_head(tmp_path, tiny) -> ModelFolder:
    tiny.save_pretrained(tmp_path, half=False)
    (tmp_path / "patch_dit.safetensors").unlink()
    folder = ModelFolder(tmp_path, "tiny", "cpu")
    folder.save_config(replace(folder.config, patch_dit=replace(folder.config.patch_dit, head_width=8, head_depth=1)))
    network = folder.patch_dit(needed=False)
    torch.nn.init.normal_(network.out.weight, std=0.1)
    save_module(folder.path("patch_dit"), network, {"network": "patch_dit"}, half=False)
    return folder


def test_training_in_a_copy_of_a_saved_model_renews_its_sums(tmp_path, tiny):
    with_head(tmp_path, tiny)
    with pytest.raises(PatchScalerError, match="not the file that was saved"):  # this test changed it by hand
        PatchScaler.from_pretrained(tmp_path, device="cpu")
    assert main(["train", "graft", "--model", str(tmp_path), "--device", "cpu", "--keep", "1"]) == 0
    assert len(PatchScaler.from_pretrained(tmp_path, device="cpu").patch_dit.blocks) == 1


def test_a_graft_that_keeps_one_block(tmp_path, tiny):
    folder = with_head(tmp_path, tiny)
    old = folder.patch_dit()
    assert main(["train", "graft", "--model", str(tmp_path), "--device", "cpu", "--keep", "1"]) == 0
    new = ModelFolder(tmp_path, "tiny", "cpu").patch_dit()
    assert len(new.blocks) == 1
    assert torch.allclose(new.blocks[0].attention.qkv.weight, old.blocks[1].attention.qkv.weight, atol=1e-3)
    assert torch.allclose(new.head.drawer.conv_hr.weight, old.head.drawer.conv_hr.weight, atol=1e-3)


def test_a_new_head_is_the_esrgans_drawing_of_the_coarse_patch(tmp_path, tiny):
    with_head(tmp_path, tiny)
    save_file(esrgan(12, 3), tmp_path / "esrgan.safetensors")
    options = ["--model", str(tmp_path), "--device", "cpu", "--esrgan", str(tmp_path / "esrgan.safetensors")]
    assert main(["train", "graft", *options, "--head-blocks", "0,2"]) == 0
    folder = ModelFolder(tmp_path, "tiny", "cpu")
    assert (folder.config.patch_dit.head_width, folder.config.patch_dit.head_depth) == (12, 2)
    network, autoencoder = folder.patch_dit(), folder.autoencoder()
    x_t, coarse = torch.randn(2, 2, 8, 16, 16)
    added = network(x_t, torch.tensor([400, 400]), coarse, None)
    expected = Drawer(12, 2)
    expected.load_esrgan(esrgan(12, 3), (0, 2))
    pixels = autoencoder.decode_linear(coarse)
    drawn = expected(torch.cat([pixels, pixels], 1))
    assert torch.allclose(added, autoencoder.encode(drawn) - autoencoder.encode(pixels), atol=0.05)  # half precision


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keep", "7"], "--keep 7: Patch-DiT has the blocks 0 to 1"),
        (["--keep", "a"], "--keep a: give numbers separated by commas"),
        (["--esrgan", "other"], "--esrgan: give --head-blocks, and weights that have 'conv_first.weight'"),
    ],
)
def test_grafts_that_cannot_be(tmp_path, tiny, capsys, monkeypatch, options, message):
    with_head(tmp_path, tiny)
    monkeypatch.chdir(tmp_path)
    save_file({"a": torch.zeros(1)}, "other")
    before = (tmp_path / "patch_dit.safetensors").read_bytes()
    assert main(["train", "graft", "--model", str(tmp_path), "--device", "cpu", *options]) == 1
    assert message in capsys.readouterr().err
    assert (tmp_path / "patch_dit.safetensors").read_bytes() == before
