"""Which part of an image to show: chosen by rule, so that no method can be favoured."""

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

    def of(self, image: np.ndarray) -> np.ndarray:
        return image[self.top : self.top + self.side, self.left : self.left + self.side]


def choose_crops(
    name: str, results: Sequence[np.ndarray], hr: np.ndarray | None, side: int = 128
) -> list[Crop]:
    """Where the results differ most (of one: from the HR image, or of most detail), and at random.

    Args:
        name: The image's, which alone decides the random place.
        results: (H, W, 3) uint8 each, of one size.
        hr: (H, W, 3) uint8, or None.
    """
    height, width = results[0].shape[:2]
    side = min(side, height, width)
    if len(results) > 1:
        label, weight = "where methods differ most", np.stack([luma(r) for r in results]).std(0)
    elif hr is not None:
        label, weight = "of most error", np.abs(luma(results[0]) - luma(hr))
    else:
        label, weight = "of most detail", sum(map(np.abs, np.gradient(luma(results[0]))))
    # sums of any rectangle by four look-ups
    total = np.pad(weight.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = (
        total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    )
    top, left = np.unravel_index(int(inside.argmax()), inside.shape)
    digest = hashlib.sha256(name.encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    place = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    return [Crop(label, int(top), int(left), side), Crop("at random", *place, side)]
