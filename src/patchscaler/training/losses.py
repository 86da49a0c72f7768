"""Losses of the last stage beside LPIPS (`patchscaler.models.perceptual`): a light patch
discriminator, fixed patterns.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


def low_band(image: Tensor, side: int = 32) -> Tensor:
    """(B, C, H, W) -> what of it is wider than squares of `side` pixels, as smooth as that."""
    means = F.avg_pool2d(image, side, side // 2, ceil_mode=True, count_include_pad=False)
    return F.interpolate(means, size=image.shape[-2:], mode="bilinear")


def fixed_pattern(added: Tensor, wanted: Tensor, period: int = 16) -> Tensor:
    """How strongly pixels at one phase of the tokens' grid are changed alike wherever they are: a
    scalar.

    added, wanted: (B, 3, H, W), what was added to the coarse picture and what should have been.
    Real texture averages to nothing over many places; a weave that a perceptual loss rewards on
    flat areas does not.
    """
    mean = F.pixel_unshuffle(added - wanted, period).mean((0, 2, 3))  # (3 period^2,)
    return (mean.square().mean() + 1e-8).sqrt()


def uneven_steps(image: Tensor, reference: Tensor, period: int = 8) -> Tensor:
    """How unevenly a picture's steps fall on the phases of the blocks' grid, against a reference's:
    a scalar.

    image, reference: (B, 3, H, W), cut on the grid. A picture has as much contrast between the
    blocks' borders as across them; what is put together from blocks, or from 4x4 pixels of one
    place of the small picture, has more across. `fixed_pattern` does not see it, for the steps'
    signs follow the picture.
    """
    apart = image.new_zeros(())
    for axis in (-1, -2):
        # (period,) each, of mean 1
        own, wanted = (_steps(x, axis, period) for x in (image, reference))
        apart = apart + (own - wanted).square().mean()
    return apart


def _steps(image: Tensor, axis: int, period: int) -> Tensor:
    # (side - 1,): mean over the other axis, too
    steps = image.diff(dim=axis).abs().mean((0, 1, -3 - axis))
    phases = steps[: len(steps) // period * period].view(-1, period).mean(0)
    return phases / phases.mean().clamp_min(1e-6)


class PatchDiscriminator(nn.Module):
    """Scores of overlapping pixel patches, given the coarse picture; full resolution in the first
    layer, so that it sees stipple and grids. Spectral norm keeps it gentle.
    """

    def __init__(self, width: int = 32):
        super().__init__()
        widths = [6, width, 2 * width, 4 * width, 4 * width]
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(itertools.pairwise(widths)):
            layers += [
                spectral_norm(nn.Conv2d(a, b, 3, stride=1 if i == 0 else 2, padding=1)),
                nn.LeakyReLU(0.2),
            ]
        layers += [spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1))]
        self.body = nn.Sequential(*layers)

    def forward(self, images: Tensor, coarse: Tensor) -> Tensor:
        """images, coarse: (B, 3, H, W) in [-1, 1] -> logits (B, 1, H/8, W/8)."""
        return self.body(torch.cat([images, coarse], 1))
