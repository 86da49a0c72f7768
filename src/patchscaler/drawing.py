"""The fused picture drawn once more by the `Drawer`, tile by tile, where patches were sampled (`compact` only).

Tiles lie where the whole picture's size puts them, and each reads a little around it: what a tile becomes depends
on nothing else, so that windows, a part made anew and other machines draw the same. Simple patches are never drawn.
Letters: C channels, H, W latents of the whole picture, M patches, h, w latents of a part.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from patchscaler.patches import PatchGrid, blend_window
from patchscaler.streaming.windows import Span, Window, cut_windows

if TYPE_CHECKING:
    pass

TILE = 64  # latents of a tile's side
# Latents read around it. On 4 Kodak pictures a cut differs from the whole by 15 grey levels at most with 4, by 5 with
# 8; LPIPS is the same with 2.
CONTEXT = 6
PER_STEP = 16  # latents that are drawn in about the time of a patch-step, for the progress bar


Drawn = tuple[Window, Tensor]  # a part, and the share of sampled patches over its core, (h, w)


def tiles_of(height: int, width: int) -> list[Window]:
    """Of a picture of these latents, row by row."""
    return cut_windows(height, width, TILE, CONTEXT)


def drawn_part(tile: Window, share: Tensor) -> Window | None:
    """The part of a tile that holds sampled patches. share: (h, w) over the tile's core."""
    rows, columns = ((share.sum(other) > 0).nonzero()[:, 0] for other in (1, 0))
    if not len(rows):
        return None
    return Window(_part(tile.rows, rows), _part(tile.columns, columns))


def _part(side: Span, found: Tensor) -> Span:
    start, stop = side.start + int(found[0]), side.start + int(found[-1]) + 1
    return replace(
        side, start=start, stop=stop, low=max(side.low, start - CONTEXT), high=min(side.high, stop + CONTEXT)
    )


def sampled_share(sampled: Tensor, grid: PatchGrid, rows: slice, columns: slice) -> Tensor:
    """(M,) bool -> (h, w): how much of a place's fused latents comes from sampled patches, 0 to 1."""
    v, window = grid.size, blend_window(grid.size, grid.overlap)
    shares, weight = torch.zeros(2, rows.stop - rows.start, columns.stop - columns.start)
    across = [(j, *_meet(column, v, columns)) for j, column in enumerate(grid.columns) if _meets(column, v, columns)]
    for i, row in enumerate(grid.rows):
        if not _meets(row, v, rows):
            continue
        y, in_y = _meet(row, v, rows)
        for j, x, in_x in across:
            weight[y, x] += window[in_y, in_x]
            shares[y, x] += window[in_y, in_x] * float(sampled[i * len(grid.columns) + j])
    return shares / weight


def _meets(start: int, v: int, side: slice) -> bool:
    return start + v > side.start and start < side.stop


def _meet(start: int, v: int, side: slice) -> tuple[slice, slice]:
    """Where a patch's side lies on another one: slices of that one, and of the patch."""
    low, high = max(start, side.start), min(start + v, side.stop)
    return slice(low - side.start, high - side.start), slice(low - start, high - start)


def drawn_parts(sampled: Tensor, grid: PatchGrid, tiles: list[Window] | None = None) -> Iterator[Drawn]:
    """All parts of a picture, or of some of its tiles, that are drawn. sampled: (M,) bool."""
    for tile in tiles_of(grid.height, grid.width) if tiles is None else tiles:
        rows, columns = tile.rows, tile.columns
        share = sampled_share(sampled, grid, slice(rows.start, rows.stop), slice(columns.start, columns.stop))
        part = drawn_part(tile, share)
        if part is not None:
            top, left = part.rows.start - rows.start, part.columns.start - columns.start
            n, m = part.rows.stop - part.rows.start, part.columns.stop - part.columns.start
            yield part, share[top : top + n, left : left + m]


def looked_at(part: Window) -> int:
    """Latents that the drawer sees for a part, what lies around it included."""
    return (part.rows.high - part.rows.low) * (part.columns.high - part.columns.low)


def latents_drawn(sampled: Tensor, grid: PatchGrid) -> int:
    """The same, of a whole picture."""
    return sum(looked_at(part) for part, _ in drawn_parts(sampled, grid))
