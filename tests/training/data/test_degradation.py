"""Degradation of training pictures: JPEG, kernels, blur, noise, and the whole."""

import io
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from patchscaler.errors import PatchScalerError
from patchscaler.training.data.degradation import (
    DEGRADATIONS,
    add_gaussian_noise,
    add_poisson_noise,
    blur,
    degrade,
    gaussian_kernel,
    random_kernel,
    resize,
    sinc_kernel,
)
from patchscaler.training.data.jpeg import (
    CHROMA_TABLE,
    LUMA_TABLE,
    dct_matrix,
    jpeg,
    quantisation_table,
)

KERNELS = {
    "isotropic": gaussian_kernel(21, 2.0, 2.0, 0.0),
    "anisotropic": gaussian_kernel(15, 3.0, 0.7, 0.6),
    "generalised": gaussian_kernel(13, 2.0, 2.0, 0.0, beta=0.6),
    "plateau": gaussian_kernel(9, 1.0, 2.0, 1.0, beta=1.5, plateau=True),
    "sinc": sinc_kernel(11, math.pi / 2),
    "sinc, wide open": sinc_kernel(7, math.pi),
}


def unit(image: Image.Image) -> torch.Tensor:
    """(1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image)).movedim(-1, 0)[None].float() / 255


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- JPEG -----------------------------------------------------------------------------------------


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * math.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2))


@pytest.mark.parametrize("size", [(64, 80), (50, 67), (128, 128)])
@pytest.mark.parametrize("quality", [10, 30, 50, 75, 90, 95, 100])
def test_jpeg_equals_a_real_encoder(picture, size, quality):
    image = picture(*size, 3)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=2)
    real = np.asarray(Image.open(buffer).convert("RGB"))
    ours = (
        (jpeg(unit(image), torch.tensor([float(quality)])) * 255).round()[0].movedim(0, -1).numpy()
    )
    # Libraries round intermediate values to integers, we do not; a coefficient near one half then
    # falls to the other side. The two decodes must lie 7 dB nearer each other than either lies to
    # the picture (at low quality it is far more), and be as far from it as each other.
    original = np.asarray(image)
    assert psnr(ours, real) > max(36, psnr(real, original) + 7)
    assert psnr(ours, original) == pytest.approx(psnr(real, original), abs=0.2)


def test_jpeg_has_one_quality_for_each_picture(picture):
    images = torch.cat([unit(picture(64, 64, 0)), unit(picture(64, 64, 1))])
    both = jpeg(images, torch.tensor([20.0, 90.0]))
    assert torch.equal(both[:1], jpeg(images[:1], torch.tensor([20.0])))
    assert torch.equal(both[1:], jpeg(images[1:], torch.tensor([90.0])))


def test_jpeg_loses_more_at_lower_quality(picture):
    image = unit(picture(64, 64))
    errors = [
        (jpeg(image, torch.tensor([q])) - image).square().mean().item()
        for q in (10.0, 30.0, 60.0, 90.0)
    ]
    assert errors == sorted(errors, reverse=True) and errors[0] > 4 * errors[-1]


@pytest.mark.parametrize("table", [LUMA_TABLE, CHROMA_TABLE], ids=["luma", "chroma"])
def test_quantisation_tables(table):
    base = torch.tensor(table, dtype=torch.float32)
    assert base.shape == (8, 8)
    at = quantisation_table(table, torch.tensor([50.0, 100.0, 75.0, 25.0, 1.0]))
    assert torch.equal(at[0], base)  # quality 50 is the table itself
    assert torch.equal(at[1], torch.ones(8, 8))
    assert torch.equal(at[2], ((base * 50 + 50) / 100).floor())  # 75: half of it, rounded
    assert torch.equal(at[3], (base * 2).clamp(max=255))  # 25: twice
    assert torch.equal(at[4], torch.full((8, 8), 255.0))


def test_dct_is_orthonormal():
    m = dct_matrix()
    torch.testing.assert_close(m @ m.T, torch.eye(8), atol=1e-6, rtol=0)
    assert m[0].tolist() == pytest.approx([8**-0.5] * 8)


def test_gradient_flows_through_jpeg(picture):
    # away from black and white, where it is cut
    image = (unit(picture(32, 32)) * 0.8 + 0.1).requires_grad_()
    jpeg(image, torch.tensor([50.0])).mean().backward()
    # With rounding passed over, JPEG keeps the mean of a picture: each value counts alike, in all.
    assert image.grad.isfinite().all() and (image.grad != 0).all()
    assert image.grad.sum().item() == pytest.approx(1, abs=0.02)


# --- kernels and blur -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_sum_to_one(name):
    kernel = KERNELS[name]
    assert kernel.shape == (21, 21)
    assert kernel.sum().item() == pytest.approx(1, abs=1e-5)
    assert (kernel < 0).any() == name.startswith("sinc")


def test_isotropic_kernel_is_symmetric_and_gaussian():
    kernel = KERNELS["isotropic"]
    for other in (kernel.T, kernel.flip(0), kernel.flip(1)):
        torch.testing.assert_close(kernel, other)
    # sigma = 2: one pixel off the centre is exp(-1/8) of it, two diagonal pixels exp(-1).
    assert (kernel[10, 11] / kernel[10, 10]).item() == pytest.approx(math.exp(-1 / 8), rel=1e-4)
    assert (kernel[12, 12] / kernel[10, 10]).item() == pytest.approx(math.exp(-1), rel=1e-4)


def test_sinc_kernel_by_hand():
    # c J1(c d) / (2 pi d) against its limit c^2 / (4 pi): 2 J1(c d) / (c d), with J1(pi/2) =
    # .566824.
    kernel = sinc_kernel(21, math.pi / 2)
    assert (kernel[10, 11] / kernel[10, 10]).item() == pytest.approx(
        2 * 0.566824 / (math.pi / 2), rel=1e-4
    )
    torch.testing.assert_close(kernel, kernel.T)


def test_anisotropic_kernel_has_its_variances_along_its_axes():
    # turned by a right angle: sigma_x is vertical
    kernel = gaussian_kernel(21, 2.0, 1.0, math.pi / 2).double()
    r = torch.arange(21.0).double() - 10
    assert (kernel.sum(1) * r**2).sum().item() == pytest.approx(4, rel=1e-2)
    assert (kernel.sum(0) * r**2).sum().item() == pytest.approx(1, rel=1e-2)


def test_small_kernels_lie_in_the_middle():
    assert KERNELS["sinc, wide open"][7:14, 7:14].abs().min() > 0
    assert not KERNELS["sinc, wide open"][:7].any() and not KERNELS["sinc, wide open"][:, 14:].any()


@pytest.mark.parametrize("kind", ["mild", "real"])
def test_random_kernels_sum_to_one(kind):
    g, stage = seeded(0), DEGRADATIONS[kind].first
    kernels = torch.stack([random_kernel(stage, g) for _ in range(200)])
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(200), atol=1e-4, rtol=0)
    ringing = (kernels < 0).flatten(1).any(1).float().mean()  # the sinc kernels, a tenth
    assert 0.04 < ringing < 0.18


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("size", [(16, 24), (6, 9)])  # the smaller than the kernel's radius
def test_blur_of_a_constant_is_that_constant(name, size):
    image = torch.full((1, 3, *size), 0.6)
    torch.testing.assert_close(blur(image, KERNELS[name][None]), image, atol=1e-5, rtol=0)


def test_blur_equals_direct_convolution(picture):
    images = torch.cat([unit(picture(24, 30, 0)), unit(picture(24, 30, 1))])
    kernels = torch.stack([KERNELS["anisotropic"], KERNELS["sinc"]])
    got = blur(images, kernels)
    for i in range(2):
        x = F.pad(images[i : i + 1], (10,) * 4, mode="reflect")
        weight = kernels[i].flip(0, 1).expand(3, 1, 21, 21)  # conv2d correlates
        torch.testing.assert_close(got[i : i + 1], F.conv2d(x, weight, groups=3), atol=1e-5, rtol=0)


# --- noise ----------------------------------------------------------------------------------------


def test_gaussian_noise():
    image = torch.full((2, 3, 64, 64), 0.5)
    noise = (
        add_gaussian_noise(image, torch.tensor([0.1, 0.02]), torch.tensor([False, True]), seeded(0))
        - image
    )
    assert noise[0].std().item() == pytest.approx(0.1, rel=0.03)
    assert noise[1].std().item() == pytest.approx(0.02, rel=0.05)
    assert torch.equal(noise[1, 0], noise[1, 1]) and not torch.equal(noise[0, 0], noise[0, 1])


def test_poisson_noise():
    image = (torch.arange(256.0) / 255).view(16, 16).repeat(4, 4).expand(2, 3, 64, 64)
    noise = (
        add_poisson_noise(image, torch.tensor([1.0, 0.5]), torch.tensor([False, True]), seeded(0))
        - image
    )
    # 256 grey values are 256 levels: the variance at x is x / 256, times the scale's square.
    bright = image[0, 0] > 0.5
    assert noise[0, :, bright].var().item() == pytest.approx(
        image[0, :, bright].mean().item() / 256, rel=0.08
    )
    assert noise[0, :, ~bright].var().item() == pytest.approx(
        image[0, :, ~bright].mean().item() / 256, rel=0.08
    )
    assert noise[1, :, bright].var().item() == pytest.approx(
        image[0, :, bright].mean().item() / 1024, rel=0.08
    )
    assert torch.equal(noise[1, 0], noise[1, 2]) and not torch.equal(noise[0, 0], noise[0, 2])
    assert noise.mean().abs() < 1e-3


# --- resizing and the whole -----------------------------------------------------------------------


def test_bicubic_equals_pillow(picture):
    image = picture(64, 96)
    expected = np.asarray(image.resize((24, 16), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    got = degrade(unit(image), "bicubic", seeded(0))[0].movedim(0, -1).numpy()
    assert got.shape == (16, 24, 3)
    assert np.abs(got - expected).max() <= 1.5 / 255


@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic"])
def test_resizing_keeps_a_ramp(mode):
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 32, 64)
    small = resize(ramp, (8, 16), mode)
    # Every filter is symmetric: away from the borders it takes the value at its centre.
    torch.testing.assert_close(
        small[..., 2:-2], F.avg_pool2d(ramp, 4)[..., 2:-2], atol=1e-5, rtol=0
    )
    assert resize(ramp, (32, 64), mode) is ramp


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_shapes_values_and_seeds(picture, kind):
    images = torch.cat([unit(picture(64, 64, 0)), unit(picture(64, 64, 1))])
    before = images.clone()
    for seed in range(6):  # enough to take both ways through the close
        low = degrade(images, kind, seeded(seed))
        assert low.shape == (2, 3, 16, 16)
        assert torch.equal((low * 255).round() / 255, low) and low.min() >= 0 and low.max() <= 1
        assert torch.equal(low, degrade(images, kind, seeded(seed)))
        assert kind == "bicubic" or not torch.equal(low, degrade(images, kind, seeded(seed + 100)))
    assert torch.equal(images, before)


def test_other_scales(picture):
    assert degrade(unit(picture(64, 48)), "mild", seeded(0), scale=2).shape == (1, 3, 32, 24)


def test_mild_is_closer_than_stable_than_real(picture):
    images = torch.cat([unit(picture(64, 64, 0)), unit(picture(64, 64, 1))])
    clean = degrade(images, "bicubic", seeded(0))
    mean = {}
    for kind in ("mild", "stable", "real"):
        errors = [
            (degrade(images, kind, seeded(s)) - clean).square().mean().item() for s in range(12)
        ]
        mean[kind] = np.mean(errors)
    assert 0 < mean["mild"] < mean["stable"] < mean["real"]


def test_unknown_kind(picture):
    with pytest.raises(
        PatchScalerError,
        match="unknown degradation 'vhs': choose one of bicubic, mild, stable, real",
    ):
        degrade(torch.zeros(1, 3, 64, 64), "vhs", seeded(0))
