"""Difficulty as a picture: which patches were simple, medium, hard (the paper's Figure 7)."""

import numpy as np
from PIL import Image

from patchscaler.patches import blended
from patchscaler.pipeline import Result

# Simple dark blue, medium orange, hard light yellow: each lighter than the one before, so that brightness
# alone tells them apart.
COLOURS = np.array([[20, 40, 110], [225, 110, 40], [255, 240, 130]], np.float32)


def difficulty_overlay(result: Result, strength: float = 0.5) -> Image.Image:
    """The upscaled picture in grey under the groups' colours; overlapping patches are blended as latents are."""
    grid = result.grid
    colour = blended(COLOURS[result.groups], grid)  # (H, W, 3)
    picture = result.image.convert("L").convert("RGB")
    tint = Image.fromarray(colour.round().astype(np.uint8))
    tint = tint.resize((grid.width * 8, grid.height * 8), Image.Resampling.BILINEAR)
    return Image.blend(picture, tint.crop((0, 0, *picture.size)), strength)
