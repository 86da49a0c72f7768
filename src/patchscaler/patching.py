"""All geometry: patches and how they are blended, tiles of large images and what they read around
them.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

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

    def blend_window(self) -> Tensor:
        """(V, V) weights of a patch where patches are blended."""
        return blend_window(self.size, self.overlap)

    def meeting(
        self, top: int, bottom: int, left: int, right: int
    ) -> Iterator[tuple[int, slice, slice, slice, slice]]:
        """Patches that meet a window: number, rows and columns in the window, and in the patch."""
        across = meeting(self.columns, self.size, left, right)
        for i, y, own_y in meeting(self.rows, self.size, top, bottom):
            for j, x, own_x in across:
                yield i * len(self.columns) + j, y, x, own_y, own_x

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
    """Where patches are fused once, at the end: weighted sums that need not wait for all
    of them.
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


# --- tiles ----------------------------------------------------------------------------------------

FADE = 8  # latents over which tiles are faded where their networks see a whole tile at once


@dataclass(frozen=True)
class Span:
    """One side of a window: the core [start, stop), read as [low, high)."""

    start: int
    stop: int
    low: int
    high: int

    def extended(self, by: int) -> "Span":
        """A core that reaches `by` further into what was read, to be faded into the next one."""
        return replace(self, stop=min(self.stop + by, self.high))

    @property
    def core(self) -> slice:
        """The core within what was read."""
        return slice(self.start - self.low, self.stop - self.low)


@dataclass(frozen=True)
class Window:
    """Rows and columns."""

    rows: Span
    columns: Span


def spans(length: int, core: int, reach: int, multiple: int = 1) -> list[Span]:
    """Cut 0..length into equal cores of at most `core`, each read with `reach` more on both sides.

    All edges but the last are multiples of `multiple`.

    Raises:
        PatchScalerError: Cores of nothing.
    """
    if core < multiple:
        raise PatchScalerError(f"tiles of {core}: take {multiple} or more")
    count = -(-length // (core // multiple * multiple))
    size = -(-length // (count * multiple)) * multiple
    reach = -(-reach // multiple) * multiple
    starts = range(0, length, size)
    return [
        Span(s, min(s + size, length), max(0, s - reach), min(s + size + reach, length))
        for s in starts
    ]


def cut_windows(height: int, width: int, core: int, reach: int, multiple: int = 1) -> list[Window]:
    """Cut into square cores of at most `core`, row by row."""
    sides = (spans(side, core, reach, multiple) for side in (height, width))
    return [Window(rows, columns) for rows, columns in itertools.product(*sides)]


def faded(stored: Tensor, own: Tensor, above: int, left: int) -> Tensor:
    """Fade `own` in from `stored` over its first `above` rows and `left` columns: (c, n, m) both.

    For networks that see a whole tile at once, whose tiles never quite agree.
    """
    weight = own.new_ones(own.shape[1:])
    for axis, length in ((0, min(above, own.shape[1])), (1, min(left, own.shape[2]))):
        ramp = (torch.arange(length) + 0.5) / max(1, length)
        weight.narrow(axis, 0, length).mul_(ramp[:, None] if axis == 0 else ramp)
    return stored + weight * (own - stored)
