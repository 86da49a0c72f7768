"""Difficulty as an image: which patches were simple, medium, hard (the paper's Figure 7)."""

from typing import Protocol

import numpy as np
from PIL import Image

from patchscaler.patching import PatchGrid, blended

# Simple dark blue, medium orange, hard light yellow: each lighter than the one before, so that
# brightness alone tells them apart.
COLORS = np.array([[20, 40, 110], [225, 110, 40], [255, 240, 130]], np.float32)


class Grouped(Protocol):
    """What of an `Output` is read here."""

    array: np.ndarray
    groups: np.ndarray
    grid: PatchGrid

    @property
    def image(self) -> Image.Image: ...


def difficulty_overlay(result: Grouped, strength: float = 0.5) -> Image.Image:
    """The upscaled picture in grey under the groups' colours; overlapping patches are blended as
    latents are.
    """
    tint = Image.fromarray(_placed(COLORS[result.groups], result).round().astype(np.uint8))
    return Image.blend(result.image.convert("L").convert("RGB"), tint, strength)


def difficulty_mask(result: Grouped, size: tuple[int, int] | None = None) -> np.ndarray:
    """Where the work went: (H, W) floats, 0 simple, .5 medium, 1 hard, overlapping patches blended.

    size: (height, width), by default of the result's array.
    """
    mask = _placed(result.groups.astype(np.float32) / (len(COLORS) - 1), result)
    if size and size != mask.shape:
        mask = np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.BILINEAR))
    return mask.clip(0, 1)


def _placed(values: np.ndarray, result: Grouped) -> np.ndarray:
    """(M,) or (M, 3) numbers of the patches -> (H, W) or (H, W, 3) over the result's array."""
    grid, (height, width) = result.grid, result.array.shape[:2]
    # (h, w, ...) of all that was made: with padding, or with what lies around a tile
    cells = blended(values, grid)
    planes = [
        np.asarray(
            Image.fromarray(plane).resize(
                (grid.width * 8, grid.height * 8), Image.Resampling.BILINEAR
            )
        )
        for plane in np.moveaxis(np.atleast_3d(cells).astype(np.float32), -1, 0)
    ]
    whole = np.stack(planes, -1) if values.ndim > 1 else planes[0]
    return whole[:height, :width]
