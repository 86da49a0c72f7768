"""Cutting latents into patches and fusing them again."""

from itertools import pairwise

import pytest
import torch

from patchscaler.errors import PatchScalerError
from patchscaler.patching import make_grid, merge, partition

SIZES = [(16, 16), (17, 31), (40, 33), (23, 50)]
OVERLAPS = [0, 2, 4, 8, 15]


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("size", SIZES)
def test_merge_undoes_partition(size, overlap):
    grid = make_grid(*size, overlap=overlap)
    x = torch.randn(3, *size, generator=torch.Generator().manual_seed(1))
    patches = partition(x, grid)
    assert patches.shape == (len(grid), 3, 16, 16)
    torch.testing.assert_close(merge(patches, grid), x)


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("size", SIZES)
def test_windows_keep_their_stride_and_end_at_the_edge(size, overlap):
    grid = make_grid(*size, overlap=overlap)
    for starts, length in ((grid.rows, size[0]), (grid.columns, size[1])):
        steps = [b - a for a, b in pairwise(starts)]
        assert starts[0] == 0 and starts[-1] == length - 16
        assert all(step == 16 - overlap for step in steps[:-1])
        assert all(0 < step <= 16 - overlap for step in steps[-1:])


def test_weights_of_the_patches_are_positive_where_they_lie_and_sum_to_one():
    grid = make_grid(23, 30, overlap=8)
    total = torch.zeros(23, 30)
    for i, (row, column) in enumerate(grid.corners()):
        one_hot = torch.zeros(len(grid), 1, 16, 16)
        one_hot[i] = 1
        weight = merge(one_hot, grid)[0]  # the weight of patch i everywhere
        covered = torch.zeros(23, 30, dtype=torch.bool)
        covered[row : row + 16, column : column + 16] = True
        assert torch.equal(weight > 0, covered)
        total += weight
    torch.testing.assert_close(total, torch.ones(23, 30))


def test_overlap_is_a_raised_cosine():
    # Two patches of 4 share 2 columns; sin^2 of pi/2 times .25 and .75 are .1464 and .8536.
    grid = make_grid(4, 6, size=4, overlap=2)
    left_black_right_white = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    expected = torch.tensor([0, 0, 0.146447, 0.853553, 1, 1]).expand(1, 4, 6)
    torch.testing.assert_close(merge(left_black_right_white, grid), expected, atol=1e-6, rtol=0)


def test_patches_run_row_by_row():
    grid = make_grid(24, 32, overlap=8)
    assert grid.corners() == [(0, 0), (0, 8), (0, 16), (8, 0), (8, 8), (8, 16)]
    x = torch.arange(24 * 32.0).view(1, 24, 32)
    assert partition(x, grid)[:, 0, 0, 0].tolist() == [0, 8, 16, 256, 264, 272]


@pytest.mark.parametrize(
    ("side", "overlap", "count"), [(128, 8, 225), (256, 8, 961), (128, 0, 64), (256, 0, 256)]
)
def test_number_of_patches(side, overlap, count):
    assert len(make_grid(side, side, overlap=overlap)) == count


@pytest.mark.parametrize("overlap", [-1, 16, 17])
def test_overlap_must_be_smaller_than_a_patch(overlap):
    with pytest.raises(PatchScalerError, match=f"overlap {overlap} .* 0 to 15"):
        make_grid(32, 32, overlap=overlap)


@pytest.mark.parametrize("size", [(15, 40), (40, 15)])
def test_latents_smaller_than_a_patch_are_refused(size):
    with pytest.raises(PatchScalerError, match="smaller than a patch of 16"):
        make_grid(*size)
