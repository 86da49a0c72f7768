"""What is measured: a image made by code, or the middle of a photograph, at any size."""

import numpy as np
from PIL import Image

from patchscaler.images.read import load_image


def synthetic_photo(side: int) -> np.ndarray:
    """(side, side, 3) uint8 made by code: a smooth sky above, 1/f texture and edges below."""
    rng = np.random.default_rng(0)
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    f[0, 0] = 1
    layers = [
        np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) / f, (side, side))
        for _ in range(3)
    ]
    ground = np.stack([(x - x.mean()) / x.std() * 40 + 120 for x in layers], -1)
    y = np.linspace(0, 1, side)[:, None, None]
    sky = np.array([120, 160, 220]) * (1 - 0.4 * y) + np.zeros((side, side, 3))
    return np.where(y < 0.5, sky, ground).clip(0, 255).astype(np.uint8)


def square_of(file: str, side: int) -> np.ndarray:
    """The middle of a photograph, reduced by bicubic to (side, side, 3) uint8.

    Raises PatchScalerError.
    """
    photo = load_image(file, 0).convert("RGB")
    shorter = min(photo.size)
    left, top = (photo.width - shorter) // 2, (photo.height - shorter) // 2
    square = photo.crop((left, top, left + shorter, top + shorter))
    return np.asarray(square.resize((side, side), Image.Resampling.BICUBIC))


def mirrored(image: np.ndarray, side: int) -> np.ndarray:
    """(h, w, 3) -> (side, side, 3): repeated by mirroring, so that every size has the same mix of
    content.
    """
    for axis in (0, 1):
        line = np.arange(side) % (2 * image.shape[axis])
        image = image.take(np.minimum(line, 2 * image.shape[axis] - 1 - line), axis)
    return image
