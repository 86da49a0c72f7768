"""A seam between two groups of patches is bounded by the blend's weights."""

import dataclasses

import pytest
import torch

from patchscaler.config import DiffusionConfig, GroupConfig
from patchscaler.diffusion.group_sampling import sample_groups
from patchscaler.diffusion.groups import HARD, SIMPLE
from patchscaler.diffusion.schedule import Diffusion
from patchscaler.patching import blend_window, make_grid, merge, partition

WIDTH = 56  # latents: six patches in a row


def seam(overlap: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of an image whose left patches are simple and whose right ones are hard.

    The denoiser answers 1 in each of the hard patches' steps and 0 in the simple ones'.

    Returns:
        The blended row (WIDTH,) and the weights of one patch along a side.
    """
    grid = make_grid(16, WIDTH, 16, overlap)
    coarse = partition(torch.zeros(1, 16, WIDTH), grid)
    groups = torch.tensor([SIMPLE if 2 * x < WIDTH - 16 else HARD for _, x in grid.corners()])
    config = dataclasses.replace(GroupConfig(), num_inference_steps=(2, 3, 4))
    answer = groups.float()[:, None, None, None] / HARD
    noise = torch.randn(coarse.shape, generator=torch.Generator().manual_seed(0))
    x_0 = sample_groups(
        lambda x_t, t, index: answer[index].expand_as(x_t),
        coarse,
        noise,
        groups,
        config,
        Diffusion(DiffusionConfig()),
    )
    return merge(x_0, grid)[0, 8], blend_window(16, overlap)[8]


@pytest.mark.parametrize(("overlap", "bound"), [(4, 0.383), (8, 0.196)])
def test_a_step_between_two_groups_is_a_fraction_of_their_difference(overlap, bound):
    """The groups differ by 1. The raised cosine of the overlap takes it in steps of at most
    sin(pi / (2 overlap)): .383 for 4 latents, .196 for 8.
    """
    row, _ = seam(overlap)
    assert float(row[0]) == pytest.approx(0, abs=1e-5)
    assert float(row[-1]) == pytest.approx(1, abs=1e-5)
    steps = row.diff()
    assert float(steps.min()) >= -1e-5  # it only rises
    assert float(steps.max()) <= bound + 1e-3
    assert int((steps > 1e-4).sum()) <= overlap + 1


def test_without_an_overlap_the_seam_is_the_whole_difference():
    row, _ = seam(0)
    assert float(row.diff().max()) == pytest.approx(1, abs=1e-5)
