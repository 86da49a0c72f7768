"""The field of noise: one for the whole canvas, the same from every window."""

import pytest
import torch

from patchscaler.diffusion.noise import noise_field


@pytest.mark.parametrize(("top", "left"), [(0, 0), (3, 5), (16, 8), (-7, 2)])
def test_windows_of_one_field_agree(top, left):
    whole = noise_field(3, 4, -8, -8, 48, 48)
    window = noise_field(3, 4, top, left, 16, 20)
    assert torch.equal(window, whole[:, top + 8 : top + 24, left + 8 : left + 28])


def test_more_channels_leave_the_first_alone():
    assert torch.equal(noise_field(3, 64, 0, 0, 8, 8)[:4], noise_field(3, 4, 0, 0, 8, 8))


def test_moments_of_the_normal_distribution():
    x = noise_field(0, 4, 0, 0, 256, 256).double().flatten()
    n = len(x)
    # Within four standard errors: 1/n, 2/n, 15/n and 96/n are the variances of the four moments.
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert x.pow(power).mean().item() == pytest.approx(moment, abs=4 * (variance / n) ** 0.5)
    assert 4 < x.abs().max() < 6.7  # a tail, and the end of what 32 bits can give


def test_distribution_is_normal_throughout():
    x = noise_field(1, 1, 0, 0, 256, 256).double().flatten().sort().values
    normal = torch.distributions.Normal(0.0, 1.0).cdf(x)
    steps = (torch.arange(len(x)) + 0.5) / len(x)
    # Kolmogorov and Smirnov: 1.95 / sqrt(n) is passed once in a thousand fields.
    assert (normal - steps).abs().max() < 1.95 / len(x) ** 0.5


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def test_nothing_is_correlated():
    x = noise_field(0, 3, 0, 0, 128, 128)
    limit = 4 / 128  # four standard errors, 1 / sqrt(n)
    for other in (1, 2, 1 << 32, 1 << 63, -1):
        assert abs(correlation(x, noise_field(other, 3, 0, 0, 128, 128))) < limit
    assert abs(correlation(x[0], x[1])) < limit and abs(correlation(x[0], x[2])) < limit  # channels
    assert (
        abs(correlation(x[0, 1:], x[0, :-1])) < limit
        and abs(correlation(x[0, :, 1:], x[0, :, :-1])) < limit
    )
    assert abs(correlation(x[0], x[0].T)) < limit  # rows and columns are not exchanged


def test_golden_values():
    # Worked out in Python's own integers. Pictures of a seed stay the same from release to release.
    got = (
        noise_field(0, 2, 0, 0, 1, 2).flatten().tolist()
        + noise_field(1234, 1, 7, -3, 1, 2).flatten().tolist()
    )
    assert got == pytest.approx(
        [-0.731005, 0.007571, 1.863992, 1.392887, 0.437676, 0.390316], abs=1e-6
    )


@pytest.mark.parametrize(
    "corner", [(-(2**31), 0), (2**31, 2**31), (-5, -(2**31)), (2**31 - 4, 2**31 - 4)]
)
def test_far_corners_are_as_random_as_near_ones(corner):
    x = noise_field(0, 1, *corner, 64, 64)
    assert x.isfinite().all()
    assert x.mean().item() == pytest.approx(0, abs=4 / 64)
    assert x.std().item() == pytest.approx(1, abs=4 / (64 * 2**0.5))
    assert abs(correlation(x, noise_field(0, 1, 0, 0, 64, 64))) < 4 / 64
    assert torch.equal(noise_field(0, 1, corner[0] + 5, corner[1] + 6, 4, 4), x[:, 5:9, 6:10])


@pytest.mark.parametrize("seed", [-1, 2**64 - 1, 2**64 + 5])
def test_any_integer_is_a_seed(seed):
    assert torch.equal(noise_field(seed, 1, 0, 0, 4, 4), noise_field(seed % 2**64, 1, 0, 0, 4, 4))


def test_an_empty_window():
    assert noise_field(0, 4, 0, 0, 0, 5).shape == (4, 0, 5)
    assert noise_field(0, 4, 0, 0, 3, 5).dtype == torch.float32
