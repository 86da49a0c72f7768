"""The convolutions on pixels at the end of `compact`'s Patch-DiT, and a teacher's pictures beside the shards."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from patchscaler.config import AutoencoderConfig, preset
from patchscaler.data.coarse import CoarseShards, write_teacher
from patchscaler.errors import PatchScalerError
from patchscaler.models.autoencoder import PCAAutoencoder
from patchscaler.models.patch_dit import PatchDiT
from patchscaler.models.pixel_head import PixelHead
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
