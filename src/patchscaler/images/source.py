"""The LR image as the steps read it: by windows, in memory or on disk a strip at a time."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from patchscaler.images.planes import Planes, array_planes, reflect_index, to_planes
from patchscaler.storage import Array, Storage

# of a strip; a power of two, on whose squares `bleed` works: strips see what the whole sees
ROWS = 256


class Source:
    """What `Planes` hold, in arrays. h, w: the image's size in pixels.

    rgb: (h, w, 1 or 3) in [-1, 1]; alpha: (h, w); excess: (h, w, 1 or 3), both as in `Planes`.
    """

    def __init__(
        self,
        size: tuple[int, int],
        bits: int,
        icc_profile: bytes | None,
        rgb: Array,
        alpha: Array | None = None,
        excess: Array | None = None,
    ):
        self.size, self.bits, self.icc_profile = size, bits, icc_profile
        self.rgb, self.alpha, self.excess = rgb, alpha, excess
        self.grey = rgb.shape[2] == 1

    @classmethod
    def from_planes(cls, planes: Planes) -> "Source":
        """An image in memory."""
        h, w = planes.rgb.shape[-2:]
        rgb = planes.rgb[:1] if planes.grey else planes.rgb
        alpha = None if planes.alpha is None else planes.alpha.numpy()
        excess = None if planes.excess is None else planes.excess.movedim(0, -1).numpy()
        return cls(
            (h, w), planes.bits, planes.icc_profile, rgb.movedim(0, -1).numpy(), alpha, excess
        )

    @classmethod
    def from_pixels(
        cls, pixels: Any, profile: bytes | None, bits: int, storage: Storage
    ) -> "Source":
        """Convert an upright image to arrays of `storage`, a strip at a time.

        Args:
            pixels: A Pillow image, or (h, w, 1..4) uint8 or uint16, or what reads like one.
            profile: ICC profile of arrays.
        """
        h, w = (
            (pixels.height, pixels.width) if isinstance(pixels, Image.Image) else pixels.shape[:2]
        )
        cut = _cutter(pixels, profile)
        first = cut(0, 1)
        channels = 1 if first.grey else 3
        rgb = storage.array("source.rgb", (h, w, channels), np.float32)
        alpha = None if first.alpha is None else storage.array("source.alpha", (h, w), np.float32)
        excess = None
        if first.wide:
            excess = storage.array("source.excess", (h, w, channels), np.float32)
        done = storage.progress("source", -(-h // ROWS))
        for n in np.flatnonzero(~done):
            top, bottom = int(n) * ROWS, min((int(n) + 1) * ROWS, h)
            planes = cut(top, bottom)
            rgb[top:bottom] = planes.rgb[:channels].movedim(0, -1).numpy()
            if alpha is not None and planes.alpha is not None:
                alpha[top:bottom] = planes.alpha.numpy()
            if excess is not None and planes.excess is not None:
                excess[top:bottom] = planes.excess.movedim(0, -1).numpy()
            done[n] = True
        storage.record(now=True)
        return cls((h, w), bits, first.icc_profile, rgb, alpha, excess)

    @property
    def has_alpha(self) -> bool:
        return self.alpha is not None

    def window(self, rows: slice, columns: slice, padded: tuple[int, int]) -> Tensor:
        """(3, n, m) in [-1, 1] of the image, mirrored at its right and lower edge to `padded` (h,
        w).
        """
        across = [reflect_index(old, new) for old, new in zip(self.size, padded, strict=True)]
        y, x = across[0][rows], across[1][columns]
        top, left = int(y.min()), int(x.min())
        part = torch.from_numpy(self.rgb[top : int(y.max()) + 1, left : int(x.max()) + 1])
        part = part[(y - top)[:, None], x - left].movedim(-1, 0)  # (1 or 3, n, m)
        return part.expand(3, -1, -1)

    def planes(self, top: int, bottom: int) -> Planes:
        """What `finish` needs of the rows [top, bottom): all but the colors themselves."""
        shape = (3, bottom - top, self.size[1])
        alpha = None if self.alpha is None else torch.from_numpy(self.alpha[top:bottom])
        excess = None
        if self.excess is not None:
            excess = torch.from_numpy(self.excess[top:bottom]).movedim(-1, 0)
        return Planes(
            torch.zeros(1).expand(shape), alpha, self.grey, self.bits, self.icc_profile, excess
        )


def _cutter(pixels: Any, profile: bytes | None) -> Callable[[int, int], Planes]:
    """-> the function from rows [top, bottom) to planes."""
    if not isinstance(pixels, Image.Image):
        return lambda top, bottom: array_planes(pixels[top:bottom], profile)
    image = pixels
    if image.mode in (
        "P",
        "PA",
        "F",
    ):  # a palette's greyness and a float's range are those of the whole
        whole = to_planes(image)

        def rows(top: int, bottom: int) -> Planes:
            alpha = None if whole.alpha is None else whole.alpha[top:bottom]
            excess = None if whole.excess is None else whole.excess[:, top:bottom]
            return Planes(
                whole.rgb[:, top:bottom], alpha, whole.grey, whole.bits, whole.icc_profile, excess
            )

        return rows
    return lambda top, bottom: to_planes(image.crop((0, top, image.width, bottom)))
