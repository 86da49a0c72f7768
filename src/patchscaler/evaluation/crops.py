"""Which part of a picture to show: chosen by rule, so that nobody can choose it in favour of a
method.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from patchscaler.evaluation.fidelity import luma


@dataclass(frozen=True)
class Crop:
    """A square of a result. label: how it was chosen."""

    label: str
    top: int
    left: int
    side: int


def most_different(results: Sequence[np.ndarray], side: int) -> Crop:
    """Where the standard deviation of Y over the results, (H, W, 3) uint8 each, has the largest sum
    in a square.
    """
    h, w = results[0].shape[:2]
    side = min(side, h, w)
    difference = np.stack([luma(r) for r in results]).std(0)  # (H, W)
    # sums of any rectangle by four look-ups
    total = np.pad(difference.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = (
        total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    )
    top, left = np.unravel_index(int(inside.argmax()), inside.shape)
    return Crop("where methods differ most", int(top), int(left), side)


def at_random(name: str, height: int, width: int, side: int, avoid: Crop | None = None) -> Crop:
    """By the picture's name alone. Of a few draws, the one that overlaps `avoid` least."""
    side = min(side, height, width)
    rng = np.random.default_rng(
        int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    )
    draws = [
        (int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)))
        for _ in range(8)
    ]

    def shared(place: tuple[int, int]) -> int:
        if avoid is None:
            return 0
        rows, columns = (
            max(0, side - abs(a - b)) for a, b in zip(place, (avoid.top, avoid.left), strict=True)
        )
        return rows * columns

    top, left = min(draws, key=shared)
    return Crop("at random", top, left, side)


def choose_crops(name: str, results: Sequence[np.ndarray], side: int = 128) -> list[Crop]:
    """Where the methods differ most, and one at random."""
    first = most_different(results, side)
    height, width = results[0].shape[:2]
    return [first, at_random(name, height, width, side, first)]
