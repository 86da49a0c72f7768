"""Passes over a picture of any size: restore, sample, draw, decode. What is done survives a kill.

The patches, their groups and their noise are those of the whole picture; windows only bound what is
in memory. Letters: C channels, H, W latents of the whole picture, M patches, V a patch's side.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from patchscaler.assignment import assign, change
from patchscaler.batches import Batches
from patchscaler.dials.invention import cell_moments
from patchscaler.dials.record import group_config
from patchscaler.diffusion.groups import capped
from patchscaler.images.color import Statistics, reach_of, with_statistics
from patchscaler.images.planes import finish
from patchscaler.jobs import Counter, Job, Options
from patchscaler.patching import PatchGrid, blend_window, make_grid, meeting
from patchscaler.refining import refined_parts, sampled_share
from patchscaler.streaming.disk import DiskArray, JobFolder
from patchscaler.streaming.source import Source
from patchscaler.streaming.windows import FADE, Sizes, Span, Window, cut_windows, faded, spans
from patchscaler.work import Executor

if TYPE_CHECKING:
    from patchscaler.pipeline import PatchScaler

Watch = Callable[[str, int, int], None]  # (stage, done, in all)


class DiskLatents:
    """(H, W, C) on disk, read as (C, H, W)."""

    def __init__(self, array: DiskArray):
        self.array = array

    def __getitem__(self, key: tuple[slice, slice, slice]) -> Tensor:
        _, rows, columns = key
        return torch.from_numpy(self.array[rows, columns]).float().movedim(-1, 0).contiguous()


class NoiseTiles:
    """The noise field, drawn where it is read; tiles are kept as long as neighbours are likely to
    want them.
    """

    SIDE, KEPT = 64, 48

    def __init__(self, scaler: "PatchScaler", options: Options):
        self.scaler, self.options = scaler, options
        self.tiles: dict[tuple[int, int], Tensor] = {}

    def _tile(self, y: int, x: int) -> Tensor:
        tile = self.tiles.pop((y, x), None)
        if tile is None:
            s = self.SIDE
            tile = self.scaler.noise(self.options, y * s, x * s, s, s)
            if len(self.tiles) >= self.KEPT:
                # the one that was not read for the longest time
                self.tiles.pop(next(iter(self.tiles)))
        self.tiles[y, x] = tile
        return tile

    def __getitem__(self, key: tuple[slice, slice, slice]) -> Tensor:
        _, rows, columns = key
        s = self.SIDE
        ys, xs = (range(side.start // s, (side.stop - 1) // s + 1) for side in (rows, columns))
        block = torch.cat([torch.cat([self._tile(y, x) for x in xs], -1) for y in ys], -2)
        top, left = rows.start - ys[0] * s, columns.start - xs[0] * s
        return block[
            :, top : top + rows.stop - rows.start, left : left + columns.stop - columns.start
        ]


class PatchStore:
    """Sampled patches as what they add to the coarse ones; fused where they are wanted.

    A canvas for `sample`.
    """

    def __init__(self, job: Job, folder: JobFolder, channels: int):
        self.grid, self.coarse, self.folder = job.grid, job.coarse, folder
        # (M,) place in the store of a sampled patch
        self.slot = (torch.cumsum(job.steps > 0, 0) - 1).numpy()
        self.sampled = (job.steps > 0).numpy()
        count, v = int(self.sampled.sum()), job.grid.size
        self.patches = folder.array("patches", (count, channels, v, v), np.float16)
        self.done = folder.progress("patches", count)
        self.refined: DiskArray | None = None  # (H, W, C) what the refiner adds, once it was drawn
        self.window = blend_window(v, job.grid.overlap)  # (V, V)
        self.rows = {row: i for i, row in enumerate(job.grid.rows)}
        self.columns = {column: i for i, column in enumerate(job.grid.columns)}
        todo = torch.zeros(len(job.grid), dtype=torch.bool)
        todo[torch.from_numpy(np.flatnonzero(self.sampled)[~self.done])] = True
        self.todo = todo

    def add(self, patch: Tensor, row: int, column: int) -> None:
        """(C, V, V) at its top-left corner."""
        v, slot = (
            self.grid.size,
            self.slot[self.rows[row] * len(self.columns) + self.columns[column]],
        )
        coarse = self.coarse[:, row : row + v, column : column + v]
        self.patches[slot] = (patch.cpu() - coarse).numpy().astype(np.float16)
        self.done[slot] = True
        self.folder.record()

    def fused(self, rows: Span, columns: Span) -> tuple[Tensor, Tensor]:
        """[low, high) of both -> fused latents, coarse latents: (C, n, m)."""
        v, grid = self.grid.size, self.grid
        coarse = self.coarse[:, rows.low : rows.high, columns.low : columns.high]
        added, weight = torch.zeros_like(coarse), torch.zeros(coarse.shape[1:])
        across = meeting(grid.columns, v, columns.low, columns.high)
        for i, y, own_y in meeting(grid.rows, v, rows.low, rows.high):
            for j, x, own_x in across:
                index, window = i * len(grid.columns) + j, self.window[own_y, own_x]
                weight[y, x] += window
                if self.sampled[index]:
                    patch = torch.from_numpy(self.patches[self.slot[index]]).float()
                    added[:, y, x] += patch[:, own_y, own_x] * window
        latents = coarse + added / weight
        if self.refined is not None:
            refined = torch.from_numpy(
                self.refined[rows.low : rows.high, columns.low : columns.high]
            )
            latents += refined.float().movedim(-1, 0)
        return latents, coarse


# --- the passes -----------------------------------------------------------------------------------


def noop(stage: str, done: int, total: int) -> None:
    """A watch that does not look."""


def restore_windows(
    scaler: "PatchScaler",
    executor: Executor,
    source: Source,
    sizes: Sizes,
    options: Options,
    folder: JobFolder,
    watch: Watch = noop,
) -> Job:
    """Pass 1: coarse latents and confidence of all windows, then a score for every patch of the
    whole picture.
    """
    step, padded = scaler.step, scaler.padded_size(*source.size)
    height, width = padded[0] // step, padded[1] // step
    coarse = folder.array("coarse", (height, width, scaler.autoencoder.channels), np.float32)
    confidence = folder.array("confidence", (height, width), np.float32)
    multiple = -(-scaler.grm.multiple // step) * step
    reach = scaler.grm.reach + (0 if scaler.autoencoder.exact else step * scaler.autoencoder.reach)
    windows = cut_windows(*padded, sizes.restore * step, reach, multiple)
    done = folder.progress("restored", len(windows))
    exact = scaler.grm.exact and scaler.autoencoder.exact
    fade = 0 if exact else FADE  # latents over which windows are faded into each other
    todo = [
        (n, windows[n].rows.extended(fade * step), windows[n].columns.extended(fade * step))
        for n in np.flatnonzero(~done)
    ]
    calls = (
        (source.window(slice(rows.low, rows.high), slice(columns.low, columns.high), padded)[None],)
        for _, rows, columns in todo
    )
    restored = executor.map("restore", calls)  # (C, n, m), (1, n, m) each
    for (n, rows, columns), (y_0, c) in zip(todo, restored, strict=True):
        core = tuple(slice(s.core.start // step, s.core.stop // step) for s in (rows, columns))
        place = tuple(slice(s.start // step, s.stop // step) for s in (rows, columns))
        own = torch.cat([y_0, c])[:, core[0], core[1]]  # (C + 1, n, m)
        if fade:
            there = torch.from_numpy(
                np.concatenate([coarse[place], confidence[place][..., None]], -1)
            ).movedim(-1, 0)
            own = faded(there, own, fade * (rows.start > 0), fade * (columns.start > 0))
        coarse[place], confidence[place] = own[:-1].movedim(0, -1).numpy(), own[-1].numpy()
        done[n] = True
        watch("windows restored", int(done.sum()), len(windows))
        folder.record(now=fade > 0)  # faded twice is not faded once
    folder.record(now=True)
    grid = make_grid(height, width, options.groups.latent_patch_size, options.groups.overlap)
    job = scaler.new_job(
        source.planes(0, 0),
        source.size,
        DiskLatents(coarse),
        NoiseTiles(scaler, options),
        torch.zeros(0),
        grid,
        scores_by_rows(confidence, grid, options.groups.least_confidence),
        options.groups,
        None,
    )
    job.textures = folder.array("textures", job.textures.shape, np.int32)
    return job


def scores_by_rows(confidence: DiskArray, grid: PatchGrid, least: float = 0.0) -> Tensor:
    """`patch_confidence` of (H, W) on disk -> (M,)."""
    v, means, lowest = grid.size, [], []
    for row in grid.rows:
        band = torch.from_numpy(confidence[row : row + v])  # (V, W)
        places = [band[:, column : column + v] for column in grid.columns]  # (V, V) each
        means += [place.mean() for place in places]
        lowest += [place.amin() for place in places]
    return capped(torch.stack(means), torch.stack(lowest), least)


def assign_once(
    scaler: "PatchScaler", job: Job, options: Options, folder: JobFolder, spent: float = 0.0
) -> None:
    """Groups as `assignment.assign` gives them, kept: a budget in seconds would come out otherwise
    next time.
    """
    file = folder.path / f"{folder.prefix}groups.json"
    if not file.exists():
        assign(scaler, job, options, spent)
        stored = {"groups": job.groups.tolist(), "config": asdict(job.config)}
        folder.write(file.name, json.dumps(stored).encode())
        return
    stored = json.loads(file.read_text())
    job.config = group_config(stored["config"])
    change(scaler, job, options)
    job.groups = torch.tensor(stored["groups"])


def sample_patches(
    scaler: "PatchScaler", executor: Executor, job: Job, options: Options, folder: JobFolder
) -> PatchStore:
    """Pass 2: every patch that has steps, in the batches that the whole picture would have had."""
    ready = f"{folder.prefix}textures.ready"
    if not (folder.path / ready).exists():
        job.textures[:] = -1
        folder.write(ready, b"")
    store = PatchStore(job, folder, scaler.autoencoder.channels)
    job.canvas, job.todo = store, store.todo
    count = Counter([job], options.progress)
    if count.done < count.total:
        count(0)  # the stage begins
    batches = Batches([job], job.config.latent_patch_size, options.max_patches)
    given: deque[Tensor] = deque()  # batches that are being sampled

    def calls() -> Iterator[tuple[Any, ...]]:
        while len(batches):
            batch = batches.next_batch()
            given.append(batch)
            noise = batches.noise(batch) if batches.sampled(batch) else None
            yield batches.coarse(batch), noise, batches.groups[batch], job.config, options

    for patches, entries in executor.map("sample", calls()):
        batch = given.popleft()
        batches.put(batch, patches, entries)
        count(int(batches.steps[batch].sum()))
    folder.record(now=True)
    return store


def refine_tiles(
    scaler: "PatchScaler",
    executor: Executor,
    job: Job,
    store: PatchStore,
    source: Source,
    folder: JobFolder,
    watch: Watch = noop,
) -> None:
    """Pass 3: what the refiner adds, on disk, for the store to add it.

    Nothing without a refiner.
    """
    if scaler.refiner is None:
        return
    step, padded = scaler.step, scaler.padded_size(*source.size)
    refined = folder.array(
        "refined", (job.grid.height, job.grid.width, scaler.autoencoder.channels), np.float16
    )
    sampled = job.steps > 0
    parts = [part for part, _ in refined_parts(sampled, job.grid)]
    done = folder.progress("refined", len(parts))
    todo = [int(n) for n in np.flatnonzero(~done)]
    if todo:
        watch("tiles refined", int(done.sum()), len(parts))

    def calls() -> Iterator[tuple[Any, ...]]:
        for n in todo:
            rows, columns = parts[n].rows, parts[n].columns
            y, x = (slice(step * side.low, step * side.high) for side in (rows, columns))
            yield *store.fused(rows, columns), source.window(y, x, padded)

    for n, added in zip(todo, executor.map("refine_tile", calls()), strict=True):
        rows, columns = parts[n].rows, parts[n].columns
        place = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
        # (C, h, w)
        own = sampled_share(sampled, job.grid, *place) * added[:, rows.core, columns.core]
        refined[place] = own.movedim(0, -1).numpy()
        done[n] = True
        watch("tiles refined", int(done.sum()), len(parts))
        folder.record()
    folder.record(now=True)
    store.refined = refined


def decode_windows(
    scaler: "PatchScaler",
    executor: Executor,
    job: Job,
    store: PatchStore,
    source: Source,
    sizes: Sizes,
    options: Options,
    folder: JobFolder,
    watch: Watch = noop,
) -> DiskArray:
    """Pass 4: fused, decoded, colours matched, finished strip by strip -> (h, w, 1..4) uint8 or
    uint16 on disk.

    Where the invention is asked for, what `dials.invention` needs is kept as "moments" (4, H, W).
    """
    f, scale = scaler.autoencoder.factor, scaler.config.scale
    height, width = (side * scale for side in source.size)
    channels = (1 if source.grey else 3) + source.has_alpha
    picture = folder.array(
        "picture", (height, width, channels), np.uint16 if source.bits == 16 else np.uint8
    )
    if options.invention:
        folder.array("moments", (4, job.grid.height, job.grid.width), np.float32)
    reach = scaler.autoencoder.reach + -(-reach_of(options.color, options.fidelity > 0, scale) // f)
    strips = [s for s in spans(job.grid.height, sizes.rows, reach) if s.start * f < height]
    across = [s for s in spans(job.grid.width, sizes.columns, reach) if s.start * f < width]
    done = folder.progress("decoded", len(strips))
    statistics = None
    # of the whole picture, so they are needed before the first strip is finished
    if options.color == "adain":
        windows = [Window(rows, columns) for rows in strips for columns in across]
        cores = _decoded(scaler, executor, store, source, windows, options, folder)
        statistics = _statistics(cores)
    fade = 0 if scaler.autoencoder.exact else FADE
    if not done.all():
        watch("strips decoded", int(done.sum()), len(strips))
    # what a strip has to say of the next one's top
    carry = folder.array("carry", (3, fade * f, width), np.float32)
    todo = [int(n) for n in np.flatnonzero(~done)]
    windows = [
        Window(strips[n].extended(fade), columns.extended(fade)) for n in todo for columns in across
    ]
    cores = _decoded(scaler, executor, store, source, windows, options, folder)
    for n in todo:
        rows = strips[n]
        top, bottom = rows.start * f, min(rows.stop * f, height)
        strip = torch.zeros(3, min(rows.extended(fade).stop * f, height) - top, width)
        for columns in across:
            left, right = columns.start * f, min(columns.stop * f, width)
            image, plain, _ = next(cores)
            if statistics:
                own, own_plain, wanted = statistics
                image, plain = (
                    with_statistics(image, own, wanted),
                    with_statistics(plain, own_plain, wanted),
                )
            place = strip[:, :, left : left + image.shape[2]]
            place[:] = faded(place, image, 0, fade * f * (left > 0))
            if options.invention:
                core = slice(bottom - top), slice(right - left)
                # (4, n, m)
                cells = cell_moments(
                    image[:, core[0], core[1]], plain[:, core[0], core[1]], f
                ).numpy()
                bottom_cell, right_cell = (
                    rows.start + cells.shape[1],
                    columns.start + cells.shape[2],
                )
                folder.arrays["moments"][
                    :, rows.start : bottom_cell, columns.start : right_cell
                ] = cells
        if fade:
            head = slice(min(fade * f, strip.shape[1]) if n else 0)
            strip[:, head] = faded(torch.from_numpy(carry[:, head]), strip[:, head], fade * f, 0)
            carry[:, : strip.shape[1] - (bottom - top)] = strip[:, bottom - top :].numpy()
        picture[top:bottom] = finish_strip(strip[:, : bottom - top], source, top, scale)
        done[n] = True
        watch("strips decoded", int(done.sum()), len(strips))
        folder.record(now=fade > 0)
    folder.record(now=True)
    return picture


def _decoded(
    scaler: "PatchScaler",
    executor: Executor,
    store: PatchStore,
    source: Source,
    windows: list[Window],
    options: Options,
    folder: JobFolder,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """What `work.decode` gives for each window, cut to its core: (3, n, m) each."""
    f, scale, step = scaler.autoencoder.factor, scaler.config.scale, scaler.step

    def read(window: Window) -> tuple[list[slice], tuple[Any, ...]]:
        """-> the places in the input that it reads, the arguments of `work.decode`."""
        rows, columns = window.rows, window.columns
        latents, coarse = store.fused(rows, columns)  # (C, n, m)
        confidence = torch.from_numpy(
            folder.arrays["confidence"][rows.low : rows.high, columns.low : columns.high]
        )
        sides = zip((rows, columns), source.size, strict=True)
        places = [slice(step * s.low, min(step * s.high, n)) for s, n in sides]
        lr = source.window(places[0], places[1], source.size)
        return places, (latents, coarse, confidence[None], lr, options)

    given: deque[list[slice]] = deque()

    def calls() -> Iterator[tuple[Any, ...]]:
        for window in windows:
            places, arguments = read(window)
            given.append(places)
            yield arguments

    for window, parts in zip(windows, executor.map("decode", calls()), strict=True):
        sides = zip((window.rows, window.columns), given.popleft(), strict=True)
        y, x = (
            slice(f * (s.start - s.low), min(f * (s.stop - s.low), scale * (p.stop - p.start)))
            for s, p in sides
        )
        image, plain, enlarged = (part[:, y, x] for part in parts)
        yield image, plain, enlarged


def _statistics(cores: Iterable[tuple[Tensor, ...]]) -> list[Statistics]:
    """Of the whole result, the whole coarse picture and the whole enlarged input, gathered window
    by window.
    """
    count, sums = 0, torch.zeros(3, 2, 3, 1, 1, dtype=torch.float64)  # of each: values, squares
    for core in cores:
        count += core[0].shape[1] * core[0].shape[2]
        for i, x in enumerate(part.double() for part in core):
            sums[i] += torch.stack(
                [x.sum((1, 2), keepdim=True), x.square().sum((1, 2), keepdim=True)]
            )
    means = sums[:, 0] / count
    deviations = (
        ((sums[:, 1] / count - means.square()) * count / max(1, count - 1)).clamp_min(0).sqrt()
    )
    return [
        (mean.float(), deviation.float()) for mean, deviation in zip(means, deviations, strict=True)
    ]


def finish_strip(strip: Tensor, source: Source, top: int, scale: int, rows: int = 64) -> np.ndarray:
    """(3, n, W) from output row `top` on -> (n, W, 1..4), `rows` at a time."""
    n, width = strip.shape[1:]
    parts, around = [], 8  # LR rows that the enlarged transparency needs on either side, and some
    for y in range(0, n, rows):
        part = strip[:, y : y + rows]
        first, last = (top + y) // scale, -(-(top + y + part.shape[1]) // scale)
        low, high = max(0, first - around), min(source.size[0], last + around)
        begin = top + y - low * scale
        size = ((high - low) * scale, width)
        parts.append(finish(part, source.planes(low, high), (begin, begin + part.shape[1]), size))
    return np.concatenate(parts)
