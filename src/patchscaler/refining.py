"""The fused picture drawn once more by the `Refiner`, tile by tile, where patches were sampled
(`compact` only).

Tiles lie where the whole picture's size puts them, and each reads a little around it: what a tile
becomes depends on nothing else, so that windows, a part made anew and other machines draw the same.
Simple patches are never drawn. Letters: C channels, H, W latents of the whole picture, M patches,
h, w latents of a part.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from patchscaler.images.planes import reflect_pad
from patchscaler.patching import Canvas, PatchGrid, blend_window, meeting
from patchscaler.streaming.windows import Span, Window, cut_windows

if TYPE_CHECKING:
    from patchscaler.jobs import Job
    from patchscaler.pipeline import PatchScaler

TILE = 64  # latents of a tile's side
# Latents read around it. With ten blocks and 6 a cut on 4 Kodak pictures differs from the whole by
# 35 grey levels at most and by 1 in the mean of 16 pixels beside it (8: 22 and .6; 12: 6 and .25);
# LPIPS is the same with 2.
CONTEXT = 6
CUT = 4  # latents between the places where a tile may be cut into parts
PER_STEP = 16  # latents that are drawn in about the time of a patch-step, for the progress bar

# a part, and the share of sampled patches over its core, (h, w)
RefinedPart = tuple[Window, Tensor]


def refined(scaler: "PatchScaler", job: "Job", count: Callable[[int], None]) -> Tensor:
    """-> fused latents (C, H, W), drawn anew where patches were sampled."""
    assert isinstance(job.canvas, Canvas) and isinstance(job.coarse, Tensor)
    latents = job.canvas.fused()
    if scaler.refiner is None:
        return latents
    lr = reflect_pad(job.planes.rgb, *scaler.padded_size(*job.size))
    parts = list(refined_parts(job.steps > 0, job.grid))
    return refine_parts(scaler, latents, job.coarse, lr, parts, count=count)


def refine_parts(
    scaler: "PatchScaler",
    latents: Tensor,
    coarse: Tensor,
    lr: Tensor,
    parts: Sequence[RefinedPart],
    origin: tuple[int, int] = (0, 0),
    count: Callable[[int], None] = lambda evaluated: None,
) -> Tensor:
    """Fused and coarse latents (C, H, W) of an area, its small picture (3, sH, sW) -> with these
    parts drawn.

    origin: of the area in the picture, (row, column) in latents.
    """
    out = latents.clone()
    for part, share in parts:
        sides = zip((part.rows, part.columns), origin, strict=True)
        (y, rows), (x, columns) = (
            (slice(s.start - o, s.stop - o), slice(s.low - o, s.high - o)) for s, o in sides
        )
        small = lr[:, scaler.step * rows.start : scaler.step * rows.stop]
        small = small[:, :, scaler.step * columns.start : scaler.step * columns.stop]
        added = refine_tile(scaler, latents[:, rows, columns], coarse[:, rows, columns], small)
        out[:, y, x] += share.to(added) * added[:, part.rows.core, part.columns.core]
        count(patch_steps(part))
    return out


def refining_steps(scaler: "PatchScaler", jobs: list["Job"]) -> int:
    """The time that drawing these pictures takes, in patch-steps."""
    if scaler.refiner is None:
        return 0
    parts = (part for job in jobs for part, _ in refined_parts(job.steps > 0, job.grid))
    return sum(patch_steps(part) for part in parts)


def refine_tile(scaler: "PatchScaler", latents: Tensor, coarse: Tensor, small: Tensor) -> Tensor:
    """Fused and coarse latents (C, h, w), the small picture (3, s h, s w) -> what to add to them,
    (C, h, w).
    """
    assert scaler.refiner is not None
    pixels = scaler.autoencoder.decode(torch.stack([latents, coarse]))  # (2, 3, fh, fw)
    # (1, 6, fh, fw)
    pixels = pixels.flatten(0, 1)[None].contiguous(memory_format=torch.channels_last)
    with scaler.autocast():
        picture = scaler.refiner.refine(pixels, small[None].to(pixels))  # (1, 3, fh, fw)
    return scaler.autoencoder.encode(picture.float())[0] - coarse


# --- which parts ----------------------------------------------------------------------------------


def tiles_of(height: int, width: int) -> list[Window]:
    """Of a picture of these latents, row by row."""
    return cut_windows(height, width, TILE, CONTEXT)


def sampled_share(sampled: Tensor, grid: PatchGrid, rows: slice, columns: slice) -> Tensor:
    """(M,) bool -> (h, w): how much of a place's fused latents comes from sampled
    patches, 0 to 1.
    """
    v, window = grid.size, blend_window(grid.size, grid.overlap)
    shares, weight = torch.zeros(2, rows.stop - rows.start, columns.stop - columns.start)
    across = meeting(grid.columns, v, columns.start, columns.stop)
    for i, y, own_y in meeting(grid.rows, v, rows.start, rows.stop):
        for j, x, own_x in across:
            weight[y, x] += window[own_y, own_x]
            shares[y, x] += window[own_y, own_x] * float(sampled[i * len(grid.columns) + j])
    return shares / weight


def refined_parts(
    sampled: Tensor, grid: PatchGrid, tiles: list[Window] | None = None
) -> Iterator[RefinedPart]:
    """All parts of a picture, or of some of its tiles, that are drawn. sampled: (M,) bool."""
    for tile in tiles_of(grid.height, grid.width) if tiles is None else tiles:
        rows, columns = tile.rows, tile.columns
        share = sampled_share(
            sampled, grid, slice(rows.start, rows.stop), slice(columns.start, columns.stop)
        )
        for y, x in _boxes(share > 0, tile):
            yield _part(tile, y, x), share[y, x]


def _boxes(wanted: Tensor, tile: Window) -> list[tuple[slice, slice]]:
    """(h, w) bool over a tile's core -> boxes that hold all that is wanted, cut where that leaves
    less to look at.
    """
    if not wanted.any():
        return []
    box = _around(wanted)
    if wanted[box].all():
        return [box]
    least, best = looked_at(_part(tile, *box)), [box]
    for axis, side in enumerate(box):
        for cut in range(side.start + CUT, side.stop, CUT):
            before, after = wanted.clone(), wanted.clone()
            before.narrow(axis, cut, before.shape[axis] - cut).fill_(False)
            after.narrow(axis, 0, cut).fill_(False)
            halves = [_around(half) for half in (before, after)]
            seen = sum(looked_at(_part(tile, *half)) for half in halves)
            if seen < least:
                least, best = seen, halves
    if len(best) == 1:
        return best
    return [found for half in best for found in _boxes(_within(wanted, half), tile)]


def _around(wanted: Tensor) -> tuple[slice, slice]:
    """The smallest box that holds all that is wanted, which is something."""
    rows, columns = (wanted.any(other).nonzero()[:, 0].tolist() for other in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _within(wanted: Tensor, box: tuple[slice, slice]) -> Tensor:
    inside = torch.zeros_like(wanted)
    inside[box] = wanted[box]
    return inside


def _part(tile: Window, y: slice, x: slice) -> Window:
    """This box of a tile's core, with as much around it as the tile reads or CONTEXT, whichever is
    less.
    """
    return Window(_side(tile.rows, y), _side(tile.columns, x))


def _side(side: Span, own: slice) -> Span:
    start, stop = side.start + own.start, side.start + own.stop
    return Span(start, stop, max(side.low, start - CONTEXT), min(side.high, stop + CONTEXT))


def looked_at(part: Window) -> int:
    """Latents that the refiner sees for a part, what lies around it included."""
    return (part.rows.high - part.rows.low) * (part.columns.high - part.columns.low)


def patch_steps(part: Window) -> int:
    """That take about the time of drawing it."""
    return -(-looked_at(part) // PER_STEP)


def latents_refined(sampled: Tensor, grid: PatchGrid) -> int:
    """What the refiner sees of a whole picture."""
    return sum(looked_at(part) for part, _ in refined_parts(sampled, grid))
