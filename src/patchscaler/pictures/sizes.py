"""From one size to another: filters by Pillow in floats, whole or row by row."""

import numpy as np
from PIL import Image

BICUBIC, LANCZOS = Image.Resampling.BICUBIC, Image.Resampling.LANCZOS


def resample(
    x: np.ndarray, size: tuple[int, int], rows: tuple[int, int] | None = None, method: int = BICUBIC
) -> np.ndarray:
    """(c, h, w) floats -> (c, H, W) of `size`, or of its rows [top, bottom) alone: the same numbers.

    Antialiased where it reduces. Rows outside of the wanted ones are read as far as the filter reaches.
    """
    height, width = size
    top, bottom = rows or (0, height)
    h, w = x.shape[1:]
    box = (0, top * h / height, w, min(h, bottom * h / height))
    planes = [Image.fromarray(np.ascontiguousarray(plane, np.float32)) for plane in x]
    return np.stack([np.asarray(plane.resize((width, bottom - top), method, box)) for plane in planes])
