"""Tiles: the same picture as without them, for whatever looks no farther than they overlap."""

import numpy as np
import pytest

from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.peers.tiles import in_tiles, to_bytes


@pytest.fixture
def lr(picture):
    return np.array(picture(24, 36))


def nearest(x: np.ndarray) -> np.ndarray:
    return x.repeat(4, 0).repeat(4, 1)


def blurred(x: np.ndarray) -> np.ndarray:
    """A mean of 3x3 of the input: looks one pixel far."""
    padded = np.pad(x.astype(float), ((1, 1), (1, 1), (0, 0)), "edge")
    h, w = x.shape[:2]
    return nearest(sum(padded[i : i + h, j : j + w] for i in range(3) for j in range(3)) / 9)


@pytest.mark.parametrize(
    ("function", "overlap"), [(nearest, 0), (nearest, 2), (blurred, 1), (blurred, 3)]
)
@pytest.mark.parametrize("tile", [7, 9, 16])
def test_tiles_equal_the_whole_for_what_looks_no_farther(function, overlap, tile, lr):
    sides = []

    def enlarge(x):
        sides.append(max(x.shape[:2]))
        return function(x)

    assert np.allclose(in_tiles(enlarge, lr, tile, overlap), function(lr))
    assert max(sides) <= tile and len(sides) > 1


def test_too_little_overlap_shows():
    x = np.random.default_rng(0).random((20, 20, 3))
    assert not np.allclose(in_tiles(blurred, x, 8, 0), blurred(x))


def test_tiles_that_cannot_be(lr):
    with pytest.raises(PatchScalerError, match="more than 32"):
        in_tiles(nearest, lr, 32, 16)
    with pytest.raises(PatchScalerError, match="enlarges 36x24 to 72x48"):
        in_tiles(lambda x: x.repeat(2, 0).repeat(2, 1), lr)


def test_to_bytes():
    assert to_bytes(np.array([-1, 0, 0.5, 1.2])).tolist() == [0, 0, 128, 255]
