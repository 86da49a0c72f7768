"""Picture <-> latents: our closed form, and Stable Diffusion's wrapped."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from patchscaler.config import AutoencoderConfig, preset
from patchscaler.errors import PatchScalerError
from patchscaler.models.autoencoder import DecoderCorrection, PCAAutoencoder, build_autoencoder


@pytest.fixture(scope="module")
def images(picture) -> torch.Tensor:
    """(4, 3, 64, 128) in [-1, 1]: 512 blocks, more than the 192 that are needed."""
    arrays = np.stack([np.asarray(picture(64, 128, seed)) for seed in range(4)])
    return torch.from_numpy(arrays).movedim(-1, 1).float() / 127.5 - 1


def fitted(images: torch.Tensor, **settings) -> PCAAutoencoder:
    return PCAAutoencoder(AutoencoderConfig(**settings)).fit([images[:2], images[2:]])


def eigenvalues(images: torch.Tensor) -> torch.Tensor:
    """Of the covariance of 8x8 blocks, falling; worked out by another routine than the one under
    test.
    """
    blocks = F.pixel_unshuffle(images, 8).movedim(1, -1).flatten(0, 2).double()
    return torch.linalg.svdvals(blocks - blocks.mean(0)).square() / len(blocks)


@pytest.mark.parametrize("channels", [8, 64, 192])
def test_basis_is_orthonormal(images, channels):
    basis = fitted(images, channels=channels).basis
    torch.testing.assert_close(basis @ basis.T, torch.eye(channels), atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale_power", [0.0, 0.5, 1.0])
def test_all_components_reconstruct_exactly(images, scale_power):
    autoencoder = fitted(images, channels=192, scale_power=scale_power)
    latents = autoencoder.encode(images)
    assert latents.shape == (4, 192, 8, 16)
    torch.testing.assert_close(autoencoder.decode(latents), images, atol=1e-3, rtol=0)


@pytest.mark.parametrize("channels", [1, 8, 64])
def test_error_is_the_sum_of_the_eigenvalues_left_out(images, channels):
    autoencoder = fitted(images, channels=channels)
    error = (autoencoder.decode(autoencoder.encode(images)) - images).square().mean().item()
    assert error == pytest.approx(eigenvalues(images)[channels:].sum().item() / 192, rel=1e-3)


@pytest.mark.parametrize("scale_power", [0.0, 1.0])
def test_latents_have_mean_zero_and_the_promised_variance(images, scale_power):
    latents = (
        fitted(images, channels=32, scale_power=scale_power).encode(images).movedim(1, 0).flatten(1)
    )
    expected = eigenvalues(images)[:32].float() if scale_power == 0 else torch.ones(32)
    torch.testing.assert_close(latents.mean(1), torch.zeros(32), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.var(1, unbiased=False), expected, rtol=1e-2, atol=1e-4)


def test_batches_do_not_matter(images):
    a, b = (
        fitted(images, channels=8),
        PCAAutoencoder(AutoencoderConfig(channels=8)).fit(images.split(1)),
    )
    torch.testing.assert_close(a.encode(images), b.encode(images), atol=1e-4, rtol=0)


def test_too_few_blocks_are_refused(images):
    autoencoder, row = PCAAutoencoder(AutoencoderConfig(channels=8)), images[:1, :, :8]  # 16 blocks
    with pytest.raises(PatchScalerError, match="191 blocks are too few to fit 192 components"):
        autoencoder.fit([row] * 11 + [row[..., :-8]])


def test_correction_starts_as_the_identity(images):
    plain, corrected = fitted(images, channels=8), fitted(images, channels=8, correction_channels=4)
    latents = plain.encode(images)
    assert torch.equal(corrected.decode(latents), plain.decode(latents))
    torch.nn.init.normal_(corrected.correction.conv_out.weight, std=0.1)
    assert (corrected.decode(latents) - plain.decode(latents)).abs().max() > 1e-3


def test_windows_equal_the_whole(images):
    autoencoder = fitted(images, channels=8)
    latents = autoencoder.encode(images)
    halves = torch.cat([autoencoder.encode(half) for half in images.split(64, dim=-1)], -1)
    torch.testing.assert_close(halves, latents, atol=1e-5, rtol=0)
    halves = torch.cat([autoencoder.decode_linear(half) for half in latents.split(8, dim=-1)], -1)
    torch.testing.assert_close(halves, autoencoder.decode_linear(latents), atol=1e-5, rtol=0)


def test_correction_sees_no_farther_than_its_reach(images):
    torch.manual_seed(0)
    correction = DecoderCorrection(4)
    torch.nn.init.normal_(correction.conv_out.weight, std=0.1)
    reach = 8  # three 3x3 convolutions on 2x2 pixels: 6 or 7 pixels, and windows lie on even ones
    window = correction(images[..., 32 - reach : 64 + reach])[..., reach:-reach]
    torch.testing.assert_close(window, correction(images)[..., 32:64], atol=1e-6, rtol=0)


def test_unknown_kind():
    with pytest.raises(
        PatchScalerError, match="unknown autoencoder 'vq': choose pixel_unshuffle, pca or kl"
    ):
        build_autoencoder(AutoencoderConfig(kind="vq"))


# --- Stable Diffusion's, at random and at the smallest size ---------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of a random AutoencoderKL and AutoencoderTiny as diffusers saves them."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("vae")
    diffusers.AutoencoderKL(
        block_out_channels=(8,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        latent_channels=4,
    ).save_pretrained(root / "kl")
    diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    ).save_pretrained(root / "tiny")
    return {"kl": root / "kl", "tiny": root / "tiny"}


@pytest.mark.parametrize("kind", ["kl"])
def test_wrapper_equals_diffusers(folders, images, kind):
    import diffusers

    cls = {"kl": diffusers.AutoencoderKL}[kind]
    model = cls.from_pretrained(folders[kind]).eval()
    config = replace(
        preset("paper").autoencoder, kind=kind, model_id=str(folders[kind]), revision=""
    )
    autoencoder = build_autoencoder(config)
    with torch.no_grad():
        latents = autoencoder.encode(images[:1])
        out = model.encode(images[:1])
        # The mean of the distribution, not a sample: two calls must agree.
        expected = out.latent_dist.mean if kind == "kl" else out.latents
        assert latents.shape == (1, 4, 8, 16)
        torch.testing.assert_close(latents, expected * 0.18215)
        torch.testing.assert_close(
            autoencoder.decode(latents), model.decode(expected).sample, atol=1e-5, rtol=1e-4
        )
    assert not any(p.requires_grad for p in autoencoder.parameters())


@pytest.mark.parametrize("kind", ["kl"])
def test_missing_model(folders, tmp_path, kind):
    config = AutoencoderConfig(kind=kind, channels=4, model_id=str(tmp_path / "none"))
    with pytest.raises(
        PatchScalerError, match=r"none' cannot be loaded .* local copy with --autoencoder"
    ):
        build_autoencoder(config)


def test_wrong_number_of_channels(folders):
    config = AutoencoderConfig(kind="kl", channels=16, model_id=str(folders["kl"]))
    with pytest.raises(PatchScalerError, match="has 4 latent channels, not 16"):
        build_autoencoder(config)


def test_diffusers_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)  # makes the import fail
    with pytest.raises(
        PatchScalerError, match=r"needs diffusers: pip install 'patchscaler\[paper\]'"
    ):
        build_autoencoder(AutoencoderConfig(kind="kl", channels=4))


def test_pixel_unshuffle_loses_nothing_and_keeps_noise_as_it_is():
    autoencoder = build_autoencoder(AutoencoderConfig(kind="pixel_unshuffle", channels=192))
    image = torch.rand(2, 3, 16, 24) * 2 - 1
    latents = autoencoder.encode(image)
    assert latents.shape == (2, 192, 2, 3) and torch.equal(autoencoder.decode(latents), image)
    noise = torch.randn(1, 192, 4, 4)
    assert torch.equal(
        autoencoder.decode(noise).sort().values.flatten().sort().values,
        noise.flatten().sort().values,
    )
    with pytest.raises(PatchScalerError, match="take 192"):
        build_autoencoder(AutoencoderConfig(kind="pixel_unshuffle", channels=64))
