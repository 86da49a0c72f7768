"""Textures that tile: surround an image with itself, and fade its borders into each other
afterwards.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from patchscaler.images.planes import Planes
from patchscaler.images.sizes import resized

SEAM = 8  # LR pixels on either side of a border over which its two sides are faded


def wrap_planes(planes: Planes, margin: int) -> Planes:
    """The image going on from its other side, `margin` pixels around it."""
    return replace(
        planes,
        rgb=wrap_pad(planes.rgb, margin),
        alpha=None if planes.alpha is None else wrap_pad(planes.alpha, margin),
        excess=None if planes.excess is None else wrap_pad(planes.excess, margin),
    )


def wrap_pad(x: Tensor, margin: int) -> Tensor:
    """(..., h, w) -> (..., h + 2 margin, w + 2 margin)."""
    h, w = x.shape[-2:]
    rows, columns = (torch.arange(-margin, n + margin) % n for n in (h, w))
    return x[..., rows[:, None], columns]


def unwrap_array(array: np.ndarray, margin: int, size: tuple[int, int], seam: int) -> np.ndarray:
    """The middle (h, w) of an array surrounded by `margin`, its borders faded into what lies around
    the others.
    """
    for axis, length in enumerate(size):
        array = unwrap(array, axis, margin, length, seam)
    return array


def unwrap(array: np.ndarray, axis: int, margin: int, length: int, seam: int) -> np.ndarray:
    """The middle `length` of an axis, near its ends faded into what lies around the other, half and
    half there.
    """
    a = np.moveaxis(array, axis, 0)
    core = a[margin : margin + length].copy()
    seam = min(seam, length // 2)
    weight = (0.5 + (np.arange(seam) + 0.5) / (2 * seam)).reshape(-1, 1, 1) if seam else np.empty(0)
    if seam:
        after, before = a[margin + length : margin + length + seam], a[margin - seam : margin]
        core[:seam] = np.rint(weight * core[:seam] + (1 - weight) * after).astype(a.dtype)
        core[-seam:] = np.rint(weight[::-1] * core[-seam:] + (1 - weight[::-1]) * before).astype(
            a.dtype
        )
    return np.moveaxis(core, 0, axis)


def resized_tile(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """As `resized`, to (height, width), but the filter reads across the borders."""
    height, width = size
    tiled = np.tile(array, (3, 3, 1))
    return resized(tiled, (3 * height, 3 * width))[height : 2 * height, width : 2 * width]
