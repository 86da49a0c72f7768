"""Latents -> overlapping patches -> latents: an inverse pair, and the windows that fuse
overlaps.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from patchscaler.errors import PatchScalerError


@dataclass(frozen=True)
class PatchGrid:
    """Where the patches of a (height, width) picture of latents lie: `rows` x `columns` of top-left
    corners.
    """

    height: int
    width: int
    size: int
    overlap: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def corners(self) -> list[tuple[int, int]]:
        """(row, column) of each patch, row by row."""
        return [(y, x) for y in self.rows for x in self.columns]


def make_grid(height: int, width: int, size: int = 16, overlap: int = 8) -> PatchGrid:
    """Strides of size - overlap; the last window is aligned to the edge. All in latents."""
    if not 0 <= overlap < size:
        raise PatchScalerError(f"overlap {overlap} of patches of {size}: take 0 to {size - 1}")
    if min(height, width) < size:
        raise PatchScalerError(
            f"{height}x{width} latents are smaller than a patch of {size}: pad first"
        )

    def starts(length: int) -> tuple[int, ...]:
        regular = list(range(0, length - size + 1, size - overlap))
        return tuple(regular + ([length - size] if regular[-1] != length - size else []))

    return PatchGrid(height, width, size, overlap, starts(height), starts(width))


def meeting(
    starts: tuple[int, ...], size: int, low: int, high: int
) -> list[tuple[int, slice, slice]]:
    """Sides that meet [low, high): their numbers, where they lie in it, and which part of them
    does.
    """
    return [
        (
            i,
            slice(max(s, low) - low, min(s + size, high) - low),
            slice(max(s, low) - s, min(s + size, high) - s),
        )
        for i, s in enumerate(starts)
        if s + size > low and s < high
    ]


def partition(x: Tensor, grid: PatchGrid) -> Tensor:
    """(C, H, W) -> (M, C, V, V), row by row."""
    v = grid.size
    return torch.stack([x[:, r : r + v, c : c + v] for r, c in grid.corners()])


class Canvas:
    """Where patches are fused once, at the end: weighted sums that need not wait for
    all of them.
    """

    def __init__(self, channels: int, grid: PatchGrid, device: torch.device | str = "cpu"):
        self.size = grid.size
        self.window = blend_window(grid.size, grid.overlap).to(device)  # (V, V)
        self.sum = torch.zeros(channels, grid.height, grid.width, device=device)
        self.weight = torch.zeros(grid.height, grid.width, device=device)

    def add(self, patch: Tensor, row: int, column: int) -> None:
        """(C, V, V) at its top-left corner."""
        place = (..., slice(row, row + self.size), slice(column, column + self.size))
        self.sum[place] += patch * self.window
        self.weight[place] += self.window

    def fused(self) -> Tensor:
        """(C, H, W), once every patch of the grid was added."""
        return self.sum / self.weight


def merge(patches: Tensor, grid: PatchGrid) -> Tensor:
    """(M, C, V, V) -> (C, H, W): overlaps fused by smooth weights that sum to one.

    Inverse of `partition`.
    """
    canvas = Canvas(patches.shape[1], grid, patches.device)
    for patch, (row, column) in zip(patches, grid.corners(), strict=True):
        canvas.add(patch, row, column)
    return canvas.fused()


def blend_window(size: int, overlap: int) -> Tensor:
    """(V, V): flat in the middle, a raised cosine over the overlap, nowhere zero."""
    i = torch.arange(size, dtype=torch.float64) + 0.5
    edge = torch.minimum(i, size - i)  # distance to the nearer edge, .5 at the first latent
    ramp = (
        torch.sin(torch.pi / 2 * (edge / overlap).clamp(max=1)) ** 2
        if overlap
        else torch.ones(size)
    )
    return (ramp[:, None] * ramp[None, :]).float().clamp_min(1e-4)


def blended(values: np.ndarray, grid: PatchGrid) -> np.ndarray:
    """(M, ...) numbers of each patch -> (H, W, ...), weighted as latents are where patches are
    fused.
    """
    window = blend_window(grid.size, grid.overlap).numpy()
    total = np.zeros((grid.height, grid.width, *values.shape[1:]), np.float32)
    weight = np.zeros((grid.height, grid.width), np.float32)
    window_of_each = window.reshape(*window.shape, *(1,) * (values.ndim - 1))
    for value, (y, x) in zip(values, grid.corners(), strict=True):
        place = (slice(y, y + grid.size), slice(x, x + grid.size))
        total[place] += window_of_each * value
        weight[place] += window
    return total / weight.reshape(*weight.shape, *(1,) * (values.ndim - 1))
