"""The small picture on disk, read by windows: converted a strip at a time, so that it is never
whole in floats.
"""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from patchscaler.images.planes import Planes, array_planes, reflect_index, to_planes
from patchscaler.images.rows import Rows
from patchscaler.streaming.disk import DiskArray, JobFolder

Pixels = Image.Image | np.ndarray | Rows | DiskArray
# of a strip; a power of two, on whose squares `bleed` works: strips see what the whole sees
ROWS = 256


class Source:
    """What `Planes` hold, in files. h, w: the picture's size in pixels."""

    def __init__(self, pixels: Pixels, profile: bytes | None, bits: int, folder: JobFolder):
        """pixels: upright; (h, w, 1..4) uint8 or uint16 where it is an array. profile: its ICC
        profile.
        """
        h, w = (
            (pixels.height, pixels.width) if isinstance(pixels, Image.Image) else pixels.shape[:2]
        )
        self.size, self.bits = (h, w), bits
        cut = _cutter(pixels, profile)
        first = cut(0, 1)
        self.grey, self.icc_profile = first.grey, first.icc_profile
        channels = 1 if self.grey else 3
        self.rgb = folder.array("source.rgb", (h, w, channels), np.float32)
        self.alpha = (
            None if first.alpha is None else folder.array("source.alpha", (h, w), np.float32)
        )
        self.excess: DiskArray | None = None
        done = folder.progress("source", -(-h // ROWS))
        for n in np.flatnonzero(~done):
            self._fill(cut, int(n) * ROWS, folder)
            done[n] = True
        if (folder.path / f"{folder.prefix}source.excess").exists():
            self.excess = folder.array("source.excess", (h, w, channels), np.float32)
        folder.record(now=True)

    def _fill(self, cut: Callable[[int, int], Planes], top: int, folder: JobFolder) -> None:
        bottom = min(top + ROWS, self.size[0])
        planes = cut(top, bottom)
        self.rgb[top:bottom] = planes.rgb[: self.rgb.shape[2]].movedim(0, -1).numpy()
        if self.alpha is not None and planes.alpha is not None:
            self.alpha[top:bottom] = planes.alpha.numpy()
        if planes.excess is not None:  # most pictures have none, so its file is made when it is met
            excess = folder.array("source.excess", self.rgb.shape, np.float32)
            excess[top:bottom] = planes.excess.movedim(0, -1).numpy()

    @property
    def has_alpha(self) -> bool:
        return self.alpha is not None

    def window(self, rows: slice, columns: slice, padded: tuple[int, int]) -> Tensor:
        """(3, n, m) in [-1, 1] of the picture that is mirrored at its right and lower edge to
        `padded` (h, w).
        """
        across = [reflect_index(old, new) for old, new in zip(self.size, padded, strict=True)]
        y, x = across[0][rows], across[1][columns]
        top, left = int(y.min()), int(x.min())
        part = torch.from_numpy(self.rgb[top : int(y.max()) + 1, left : int(x.max()) + 1])
        part = part[(y - top)[:, None], x - left].movedim(-1, 0)  # (1 or 3, n, m)
        return part.expand(3, -1, -1)

    def planes(self, top: int, bottom: int) -> Planes:
        """What `finish` needs to know of the rows [top, bottom): all but the colours themselves."""
        shape = (3, bottom - top, self.size[1])
        alpha = None if self.alpha is None else torch.from_numpy(self.alpha[top:bottom])
        excess = (
            None
            if self.excess is None
            else torch.from_numpy(self.excess[top:bottom]).movedim(-1, 0)
        )
        return Planes(
            torch.zeros(1).expand(shape), alpha, self.grey, self.bits, self.icc_profile, excess
        )


def _cutter(pixels: Pixels, profile: bytes | None) -> Callable[[int, int], Planes]:
    """-> the function from rows [top, bottom) to planes."""
    if not isinstance(pixels, Image.Image):
        return lambda top, bottom: array_planes(pixels[top:bottom], profile)
    image = pixels
    # a palette's greyness and a float's range are those of the whole
    if image.mode in ("P", "PA", "F"):
        whole = to_planes(image)

        def rows(top: int, bottom: int) -> Planes:
            alpha = None if whole.alpha is None else whole.alpha[top:bottom]
            excess = None if whole.excess is None else whole.excess[:, top:bottom]
            return Planes(
                whole.rgb[:, top:bottom], alpha, whole.grey, whole.bits, whole.icc_profile, excess
            )

        return rows
    return lambda top, bottom: to_planes(image.crop((0, top, image.width, bottom)))
