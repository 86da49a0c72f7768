"""The convolutions on pixels at the end of `compact`'s Patch-DiT, and a teacher's pictures beside the shards."""

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
from patchscaler.models.patch_dit import PatchDiT
from patchscaler.models.pixel_head import PixelHead, Trunk
from patchscaler.pipeline import PatchScaler
from patchscaler.training.commands import ModelFolder


@pytest.fixture
def autoencoder() -> PCAAutoencoder:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(4, 3, 64, 64, generator=generator) * 2 - 1
    return PCAAutoencoder(AutoencoderConfig(channels=192)).fit([pictures])


def test_starts_at_zero_whatever_the_transformer_says(autoencoder):
    head = PixelHead(8, 1, 192).connect(autoencoder)
    x_0, coarse = torch.randn(2, 2, 192, 4, 4)
    assert torch.equal(head(x_0, coarse), torch.zeros_like(x_0))


def test_a_change_of_pixels_is_that_change_in_latents(autoencoder):
    head = PixelHead(8, 1, 192).connect(autoencoder)
    torch.nn.init.zeros_(head.conv_out.weight)
    head.conv_out.bias.data.fill_(0.25)  # every pixel a quarter up
    z = autoencoder.encode(torch.rand(1, 3, 32, 32) - 0.5)
    lifted = autoencoder.decode(z + head(z, z))
    assert torch.allclose(lifted, autoencoder.decode(z) + 0.25, atol=1e-4)


def test_the_head_sees_pixels_as_the_autoencoder_decodes_them(autoencoder):
    head = PixelHead(3, 0, 192).connect(autoencoder)
    # One channel through: the first pixel of each 2x2 square of x_0's red plane comes back as the change.
    torch.nn.init.zeros_(head.conv_in.weight)
    head.conv_in.weight.data[0, 0, 1, 1] = 1
    head.conv_out.weight.data[0, 0, 1, 1] = 1
    pixels = torch.rand(1, 3, 32, 32) - 0.5
    z = autoencoder.encode(pixels)
    changed = autoencoder.decode(z + head(z, torch.zeros_like(z))) - autoencoder.decode(z)
    assert torch.allclose(changed[:, 0, ::2, ::2], pixels[:, 0, ::2, ::2], atol=1e-3)
    assert changed[:, 1:].abs().max() < 1e-3 and changed[:, 0, 1::2].abs().max() < 1e-3


def test_patch_dit_with_a_head_takes_gradients_into_both():
    config = replace(preset("tiny").patch_dit, head_width=8, head_depth=1)
    network = PatchDiT(config, 8, 16)
    for linear in (network.out, network.head.conv_out):
        torch.nn.init.normal_(linear.weight, std=0.1)
    x_t, coarse = torch.randn(2, 2, 8, 16, 16)
    network(x_t, torch.tensor([400, 400]), coarse, None).square().mean().backward()
    assert network.out.weight.grad.abs().sum() > 0 and network.head.conv_in.weight.grad.abs().sum() > 0


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


# --- the trunk ------------------------------------------------------------------------------------


def esrgan(width: int = 8, blocks: int = 2) -> dict[str, torch.Tensor]:
    """Random weights of an ESRGAN with such names."""
    generator = torch.Generator().manual_seed(1)

    def conv(name: str, inside: int, outside: int) -> dict[str, torch.Tensor]:
        weight = torch.randn(outside, inside, 3, 3, generator=generator) / (3 * inside**0.5)
        return {f"{name}.weight": weight, f"{name}.bias": torch.randn(outside, generator=generator) / 9}

    weights = conv("conv_first", 3, width) | conv("conv_body", width, width) | conv("conv_up1", width, width)
    for b in range(blocks):
        for r in range(1, 4):
            for k in range(1, 6):
                weights |= conv(f"body.{b}.rdb{r}.conv{k}", width + 32 * (k - 1), width if k == 5 else 32)
    return weights


def reference_features(weights: dict[str, torch.Tensor], x: torch.Tensor, blocks: tuple[int, ...]) -> torch.Tensor:
    """ESRGAN up to its first enlargement, by its paper: x (N, 3, h, w) in [0, 1] -> (N, W, 2h, 2w)."""

    def conv(name: str, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)

    first = h = conv("conv_first", x)
    for b in blocks:
        inner = h
        for r in range(1, 4):
            maps = [inner]
            for k in range(1, 5):
                maps.append(nn.functional.leaky_relu(conv(f"body.{b}.rdb{r}.conv{k}", torch.cat(maps, 1)), 0.2))
            inner = inner + 0.2 * conv(f"body.{b}.rdb{r}.conv5", torch.cat(maps, 1))
        h = h + 0.2 * inner
    h = first + conv("conv_body", h)
    return nn.functional.leaky_relu(conv("conv_up1", nn.functional.interpolate(h, scale_factor=2, mode="nearest")), 0.2)


def test_a_trunk_from_an_esrgan_is_that_esrgan_on_the_reduced_picture():
    """Outside of the picture an ESRGAN sees black and the trunk grey: first without blocks, where that stays near."""
    small, weights = torch.rand(2, 3, 8, 8), esrgan()
    picture = torch.nn.functional.interpolate(2 * small - 1, scale_factor=4, mode="nearest")
    both = torch.cat([torch.rand(2, 3, 32, 32), picture], 1)  # what x_0 is does not matter at the start
    shallow = Trunk(8, 0)
    shallow.load_esrgan(weights, ())
    features, expected = shallow(both), reference_features(weights, small, ())
    assert features.shape == (2, 8, 16, 16)
    assert torch.allclose(features[..., 6:-6, 6:-6], expected[..., 6:-6, 6:-6], atol=1e-5)
    # Then with blocks, on what the biases alone make of any picture.
    weights["conv_first.weight"].zero_()
    deep = Trunk(8, 2)
    deep.load_esrgan(weights, (1, 0))
    assert torch.allclose(deep(both), reference_features(weights, small, (1, 0)), atol=1e-5)
    assert not torch.allclose(deep(both), reference_features(weights, small, (0, 1)), atol=1e-5)


@pytest.mark.parametrize("wrong", [{"width": 12}, {"blocks": 1}])
def test_another_esrgan_does_not_fit(wrong):
    with pytest.raises(PatchScalerError, match="the ESRGAN network does not fit"):
        Trunk(8, 2).load_esrgan(esrgan(**wrong), (0, 1))


def with_head(tmp_path, tiny) -> ModelFolder:
    tiny.save_pretrained(tmp_path, half=False)
    (tmp_path / "patch_dit.safetensors").unlink()
    folder = ModelFolder(tmp_path, "tiny", "cpu")
    folder.save_config(replace(folder.config, patch_dit=replace(folder.config.patch_dit, head_width=8, head_depth=1)))
    network = folder.patch_dit(needed=False)
    for linear in (network.out, network.head.conv_out):
        torch.nn.init.normal_(linear.weight, std=0.1)
    save_module(folder.path("patch_dit"), network, {"network": "patch_dit"}, half=False)
    return folder


def test_a_graft_keeps_what_was_trained(tmp_path, tiny):
    folder = with_head(tmp_path, tiny)
    old = folder.patch_dit()
    save_file(esrgan(), tmp_path / "esrgan.safetensors")
    options = ["--model", str(tmp_path), "--device", "cpu", "--trunk", str(tmp_path / "esrgan.safetensors")]
    assert main(["train", "graft", *options, "--trunk-blocks", "0,1"]) == 0
    folder = ModelFolder(tmp_path, "tiny", "cpu")
    new = folder.patch_dit()
    assert folder.config.patch_dit.head_trunk == 2 and folder.config.patch_dit.depth == 2
    x_t, coarse = torch.randn(2, 2, 8, 16, 16)
    t = torch.tensor([400, 400])
    assert torch.allclose(new(x_t, t, coarse, None), old(x_t, t, coarse, None), atol=0.02)  # stored in half precision
    new.head.join.weight.data.fill_(0.1)
    assert not torch.allclose(new(x_t, t, coarse, None), old(x_t, t, coarse, None), atol=0.1)


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keep", "7"], "--keep 7: Patch-DiT has the blocks 0 to 1"),
        (["--keep", "a"], "--keep a: give numbers separated by commas"),
    ],
)
def test_grafts_that_cannot_be(tmp_path, tiny, capsys, options, message):
    with_head(tmp_path, tiny)
    before = (tmp_path / "patch_dit.safetensors").read_bytes()
    assert main(["train", "graft", "--model", str(tmp_path), "--device", "cpu", *options]) == 1
    assert message in capsys.readouterr().err
    assert (tmp_path / "patch_dit.safetensors").read_bytes() == before
