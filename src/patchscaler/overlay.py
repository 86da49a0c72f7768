"""Difficulty as a picture: which patches were simple, medium, hard (the paper's Figure 7)."""

import numpy as np
from PIL import Image

from patchscaler.patches import blend_window
from patchscaler.pipeline import Result

# Simple dark blue, medium orange, hard light yellow: each lighter than the one before, so that brightness
# alone tells them apart.
COLOURS = np.array([[20, 40, 110], [225, 110, 40], [255, 240, 130]], np.float32)


def difficulty_overlay(result: Result, strength: float = 0.5) -> Image.Image:
    """The upscaled picture in grey under the groups' colours; overlapping patches are blended as latents are."""
    grid = result.grid
    window = blend_window(grid.size, grid.overlap).numpy()
    colour = np.zeros((grid.height, grid.width, 3), np.float32)
    total = np.zeros((grid.height, grid.width, 1), np.float32)
    for group, (y, x) in zip(result.groups, grid.corners(), strict=True):
        colour[y : y + grid.size, x : x + grid.size] += window[..., None] * COLOURS[group]
        total[y : y + grid.size, x : x + grid.size] += window[..., None]
    picture = result.image.convert("L").convert("RGB")
    tint = Image.fromarray((colour / total).round().astype(np.uint8))
    tint = tint.resize((grid.width * 8, grid.height * 8), Image.Resampling.BILINEAR)
    return Image.blend(picture, tint.crop((0, 0, *picture.size)), strength)
