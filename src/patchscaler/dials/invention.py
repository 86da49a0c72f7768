"""The invention map: how far the result leaves the coarse picture, in the low and in the high band.

Kept while a picture is decoded are four numbers for each cell of 8x8 pixels, the difference's mean
(three colours) and mean square. All maps follow from these, on the whole picture, without seams.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LOW_BAND = (0.0625, 0.25, 0.375, 0.25, 0.0625)  # over cells: what is wider than some 30 pixels
LEVELS = 127.5  # grey levels of 255 in a unit of [-1, 1]


@dataclass
class Invention:
    """Root mean squares over the colours, in grey levels of 255, a number a cell: (H, W)."""

    low: np.ndarray  # colours and large shapes
    high: np.ndarray  # texture and edges

    def summary(self) -> dict[str, float]:
        return {
            "low_mean": round(float(self.low.mean()), 3),
            "low_95": round(float(np.quantile(self.low, 0.95)), 3),
            "high_mean": round(float(self.high.mean()), 3),
            "high_95": round(float(np.quantile(self.high, 0.95)), 3),
        }


def cell_moments(image: Tensor, coarse: Tensor, factor: int) -> Tensor:
    """(3, h, w) both in [-1, 1] -> (4, h/f, w/f): mean difference of each colour, mean square; in
    grey levels.
    """
    d = LEVELS * (image.float() - coarse.float())
    numbers = torch.cat([d, d.square().mean(0, keepdim=True)])
    # Cells at the right and lower edge may be cut off: the mean is over what there is.
    return F.avg_pool2d(numbers[None], factor, ceil_mode=True, count_include_pad=False)[0]


def invention(moments: Any, rows: int = 512) -> Invention:
    """(4, H, W) of `cell_moments`, an array or what reads like one -> the two bands, some rows at a
    time.
    """
    _, height, width = moments.shape
    low, high = (np.zeros((height, width), np.float32) for _ in range(2))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        first, last = max(0, top - 4), min(height, bottom + 4)
        x = torch.from_numpy(np.array(moments[:, first:last]))  # (4, n, W)
        square = blurred(x[:3]).square().mean(0, keepdim=True)  # (1, n, W)
        rest = blurred((x[3:] - square).clamp_min(0))
        core = slice(top - first, bottom - first)
        low[top:bottom], high[top:bottom] = (
            square[0, core].sqrt().numpy(),
            rest[0, core].sqrt().numpy(),
        )
    return Invention(low, high)


def blurred(x: Tensor) -> Tensor:
    """(c, H, W) cells, each channel by itself."""
    kernel = torch.tensor(LOW_BAND)
    padded = F.pad(x[:, None], (2, 2, 2, 2), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, 5)), kernel.view(1, 1, 5, 1))[:, 0]
