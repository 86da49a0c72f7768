"""A large image through a network in overlapping tiles.

Each tile sees `overlap` pixels of its surroundings on every side, which are cut off its result. So
an operation that looks no farther than `overlap` gives the same image as without tiles; others
may show a seam.
"""

from collections.abc import Callable

import numpy as np

from patchscaler.errors import PatchScalerError

SCALE = 4


def in_tiles(
    upscale: Callable[[np.ndarray], np.ndarray], lr: np.ndarray, tile: int = 0, overlap: int = 16
) -> np.ndarray:
    """(h, w, C) -> (4h, 4w, C) by `upscale`, in tiles of at most `tile` pixels a side of the input,
    0 for none.

    The surroundings count towards `tile`. Raises PatchScalerError where nothing would be left of
    it, or where `upscale` gives another size than four times.
    """
    if tile < 0 or overlap < 0 or (tile and tile <= 2 * overlap):
        raise PatchScalerError(
            f"tiles of {tile} with an overlap of {overlap}: take 0 for none, or more than "
            f"{2 * overlap}"
        )
    h, w = lr.shape[:2]
    if not tile or max(h, w) <= tile:
        return _upscaled(upscale, lr)
    step = tile - 2 * overlap
    out: np.ndarray | None = None
    for top in range(0, h, step):
        for left in range(0, w, step):
            bottom, right = min(top + step, h), min(left + step, w)
            y, x = max(0, top - overlap), max(0, left - overlap)
            seen = lr[y : bottom + overlap, x : right + overlap]
            result = _upscaled(upscale, np.ascontiguousarray(seen))
            if out is None:
                out = np.empty((SCALE * h, SCALE * w, *result.shape[2:]), result.dtype)
            rows, columns = (
                slice(SCALE * a, SCALE * b)
                for a, b in ((top - y, bottom - y), (left - x, right - x))
            )
            out[SCALE * top : SCALE * bottom, SCALE * left : SCALE * right] = result[rows, columns]
    assert out is not None  # h and w are at least 1
    return out


def _upscaled(upscale: Callable[[np.ndarray], np.ndarray], lr: np.ndarray) -> np.ndarray:
    result = upscale(lr)
    if result.shape[:2] != (SCALE * lr.shape[0], SCALE * lr.shape[1]):
        sizes = " to ".join(f"{x.shape[1]}x{x.shape[0]}" for x in (lr, result))
        raise PatchScalerError(
            f"upscales {sizes}; only methods that upscale {SCALE} times can be compared"
        )
    return result


def to_bytes(image: np.ndarray) -> np.ndarray:
    """(h, w, C) floats, [0, 1] after clipping -> uint8, rounded."""
    return (image.clip(0, 1) * 255).round().astype(np.uint8)
