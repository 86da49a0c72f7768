"""Which regions of an image are denoised by a network of convolutions, and how their results are
weighted.

A patch's group decides for its place; where patches of several groups overlap, their results are
weighted as the patches
are blended. Regions lie in tiles whose places follow from the size of the whole image, and each
reads a little around
it: what a region becomes depends on nothing else, so that tiles of large images and other machines
give the same.

Letters: H, W latents of the whole image, M patches, h, w latents of a tile's core.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from patchscaler.patching import PatchGrid, Span, Window, blend_window, cut_windows, meeting

TILE = 64  # latents of a tile's side
CONTEXT = 6  # latents that are read around a region
CUT = 4  # latents between the places where a region may be cut in two


@dataclass(frozen=True)
class Region:
    """A window of latents that is denoised for one group, and the group's weight over its core, (h,
    w) in 0..1.
    """

    group: int
    window: Window
    weight: Tensor

    @property
    def area(self) -> int:
        """Latents that the network sees, the context included."""
        rows, columns = self.window.rows, self.window.columns
        return (rows.high - rows.low) * (columns.high - columns.low)


def group_weight(chosen: Tensor, grid: PatchGrid, rows: slice, columns: slice) -> Tensor:
    """(M,) bool -> (h, w): how much of a place's blended latents comes from the chosen patches, 0
    to 1.
    """
    v, window = grid.size, blend_window(grid.size, grid.overlap)
    shares, weight = torch.zeros(2, rows.stop - rows.start, columns.stop - columns.start)
    across = meeting(grid.columns, v, columns.start, columns.stop)
    for i, y, own_y in meeting(grid.rows, v, rows.start, rows.stop):
        for j, x, own_x in across:
            weight[y, x] += window[own_y, own_x]
            shares[y, x] += window[own_y, own_x] * float(chosen[i * len(grid.columns) + j])
    return shares / weight


def regions_of(
    groups: Tensor, grid: PatchGrid, work: tuple[float, float, float] = (0.0, 1.0, 1.0)
) -> Iterator[Region]:
    """All regions of an image, tile by tile.

    Where regions of two groups, with what they read around themselves, are more work than one of
    the
    group with more of it, a tile has that one alone.

    Args:
        groups: (M,) of 0, 1, 2.
        grid: Of the image.
        work: Of a latent of each group; groups of no work have no regions.
    """
    for tile in cut_windows(grid.height, grid.width, TILE, CONTEXT):
        rows, columns = (slice(s.start, s.stop) for s in (tile.rows, tile.columns))
        weights = {
            group: group_weight(groups == group, grid, rows, columns)
            for group in range(3)
            if work[group] and bool((groups == group).any())
        }
        apart = [r for group, weight in weights.items() for r in _regions(group, weight, tile)]
        if len(weights) > 1:
            most = max(weights, key=lambda group: work[group])
            together = _regions(most, torch.stack(list(weights.values())).sum(0), tile)
            if _work(together, work) <= _work(apart, work):
                apart = together
        yield from apart


def _regions(group: int, weight: Tensor, tile: Window) -> list[Region]:
    boxes = _boxes(weight > 0, tile)
    return [Region(group, _part(tile, y, x), weight[y, x]) for y, x in boxes]


def _work(regions: list[Region], work: tuple[float, float, float]) -> float:
    return sum(region.area * work[region.group] for region in regions)


def _boxes(chosen: Tensor, tile: Window) -> list[tuple[slice, slice]]:
    """(h, w) bool over a tile's core -> boxes that hold all that is chosen, cut where that leaves
    less to see.
    """
    if not chosen.any():
        return []
    box = _around(chosen)
    if chosen[box].all():
        return [box]
    least, best = _seen(_part(tile, *box)), [box]
    for axis, side in enumerate(box):
        for cut in range(side.start + CUT, side.stop, CUT):
            before, after = chosen.clone(), chosen.clone()
            before.narrow(axis, cut, before.shape[axis] - cut).fill_(False)
            after.narrow(axis, 0, cut).fill_(False)
            if not (before.any() and after.any()):
                continue
            halves = [_around(half) for half in (before, after)]
            seen = sum(_seen(_part(tile, *half)) for half in halves)
            if seen < least:
                least, best = seen, halves
    if len(best) == 1:
        return best
    return [found for half in best for found in _boxes(_within(chosen, half), tile)]


def _around(chosen: Tensor) -> tuple[slice, slice]:
    """The smallest box that holds all that is chosen, which is something."""
    rows, columns = (chosen.any(other).nonzero()[:, 0].tolist() for other in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _within(chosen: Tensor, box: tuple[slice, slice]) -> Tensor:
    inside = torch.zeros_like(chosen)
    inside[box] = chosen[box]
    return inside


def _part(tile: Window, y: slice, x: slice) -> Window:
    """A box of a tile's core, with as much around it as the tile reads or CONTEXT, whichever is
    less.
    """
    return Window(_side(tile.rows, y), _side(tile.columns, x))


def _side(side: Span, own: slice) -> Span:
    start, stop = side.start + own.start, side.start + own.stop
    return Span(start, stop, max(side.low, start - CONTEXT), min(side.high, stop + CONTEXT))


def _seen(part: Window) -> int:
    return (part.rows.high - part.rows.low) * (part.columns.high - part.columns.low)
