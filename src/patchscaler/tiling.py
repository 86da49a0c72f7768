"""The steps of the pipeline on an image of any size: an image in memory is one tile, a large one
many on disk.

Patches, their groups and their noise are those of the whole image; tiles only bound what is in
memory. What a step
leaves lies in a `Storage`; where that is a folder, a killed run goes on behind what is done.

Letters: C channels, H, W latents of the whole image, M patches, V a patch's side, K textures of a
prompt.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from patchscaler.config import GroupConfig
from patchscaler.diffusion.groups import capped
from patchscaler.diffusion.noise import NoiseField
from patchscaler.images.color import match_color, reach_of
from patchscaler.images.planes import finish
from patchscaler.images.source import Source
from patchscaler.model import Model
from patchscaler.patching import FADE, PatchGrid, Span, Window, cut_windows, faded, make_grid, spans
from patchscaler.storage import Array, Storage

Advance = Callable[[str, float], None]  # (stage, work done, in units of `Work`)


class Executor(Protocol):
    """Where the work of a step is done: in this process, or on other machines."""

    compute_signature: str

    def map(self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """function(model, *call) for each call -> the results in order. `function` is of a module's
        top level.
        """


class LocalExecutor:
    """One call after the other, in this process."""

    def __init__(self, model: Model):
        self.model = model
        self.compute_signature = model.compute_signature

    @torch.inference_mode()
    def map(self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        for call in calls:
            yield function(self.model, *call)


@dataclass(frozen=True)
class TileSizes:
    """Of tiles in latents, so that each step keeps to its memory. All None: one tile."""

    restore: int | None = None  # side of a core
    rows: int | None = None  # of a decoded strip
    columns: int | None = None  # of a tile within the strip


@dataclass
class Job:
    """One image between its pixels and its result."""

    source: Source
    storage: Storage
    sizes: TileSizes
    grid: PatchGrid
    coarse: Array  # (H, W, C) y_0
    confidence: Array  # (H, W)
    scores: Tensor  # (M,) mean confidence of each patch
    noise: NoiseField
    config: GroupConfig
    groups: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))  # (M,)
    textures: Array | None = None  # (M, K) memory entries of each patch's prompt

    @property
    def steps(self) -> Tensor:
        """(M,) network evaluations of each patch."""
        return torch.tensor(self.config.num_inference_steps)[self.groups]


# --- what an executor runs ------------------------------------------------------------------------


def restore_tile(model: Model, lr: Tensor) -> tuple[Tensor, Tensor]:
    """(1, 3, h, w) -> coarse latents (C, H, W), confidence (1, H, W)."""
    coarse, confidence = model.restore(lr)
    return coarse.cpu(), confidence.cpu()


def decode_tile(
    model: Model,
    latents: Tensor,
    coarse: Tensor,
    weight: Tensor,
    lr: Tensor,
    color: str,
    maps: bool,
) -> tuple[Tensor, Tensor]:
    """Decode, move towards the coarse image, match colors.

    Args:
        latents, coarse: (C, H, W).
        weight: (h, w) of the coarse image, 0 to 1, by LR pixels; or (1, 1).
        lr: (3, h, w) in [-1, 1].
        maps: Give the coarse image, too.

    Returns:
        The image, and the coarse one where it was asked for: (3, 4h, 4w) both, in [-1, 1].
    """
    height, width = (side * model.scale for side in lr.shape[1:])
    image = plain = model.decode(latents)[:, :height, :width].cpu()
    if maps or bool((weight > 0).any()):
        plain = model.decode(coarse)[:, :height, :width].cpu()
        image = image + _enlarged(weight, (height, width)) * (plain - image)
    image = match_color(image, lr, color)
    return image, match_color(plain, lr, color) if maps else image


def _enlarged(weight: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(weight[None, None], size=size, mode="bilinear")[0]  # (1, *size)


# --- the steps ------------------------------------------------------------------------------------


def restore(
    model: Model,
    executor: Executor,
    source: Source,
    storage: Storage,
    sizes: TileSizes,
    advance: Advance,
) -> tuple[Array, Array]:
    """Coarse latents (H, W, C) and confidence (H, W) of the whole image, tile by tile (Eq. 1)."""
    step, padded = model.step, model.padded_size(*source.size)
    height, width = padded[0] // step, padded[1] // step
    coarse = storage.array("coarse", (height, width, model.autoencoder.channels), np.float32)
    confidence = storage.array("confidence", (height, width), np.float32)
    multiple = -(-model.grm.multiple // step) * step
    reach = model.grm.reach + (0 if model.autoencoder.exact else step * model.autoencoder.reach)
    core = max(padded) if sizes.restore is None else sizes.restore * step
    tiles = cut_windows(*padded, -(-core // multiple) * multiple, reach, multiple)
    done = storage.progress("restored", len(tiles))
    exact = model.grm.exact and model.autoencoder.exact
    fade = 0 if exact else FADE  # latents over which tiles are faded into each other
    todo = [
        (n, tiles[n].rows.extended(fade * step), tiles[n].columns.extended(fade * step))
        for n in np.flatnonzero(~done)
    ]
    advance("restore", int(done.sum()) / len(tiles))
    calls = (
        (source.window(slice(rows.low, rows.high), slice(columns.low, columns.high), padded)[None],)
        for _, rows, columns in todo
    )
    for (n, rows, columns), (y_0, c) in zip(todo, executor.map(restore_tile, calls), strict=True):
        core_of = tuple(slice(s.core.start // step, s.core.stop // step) for s in (rows, columns))
        place = tuple(slice(s.start // step, s.stop // step) for s in (rows, columns))
        own = torch.cat([y_0, c])[:, core_of[0], core_of[1]]  # (C + 1, n, m)
        if fade:
            there = np.concatenate([coarse[place], confidence[place][..., None]], -1)
            above, left = fade * (rows.start > 0), fade * (columns.start > 0)
            own = faded(torch.from_numpy(there).movedim(-1, 0), own, above, left)
        coarse[place], confidence[place] = own[:-1].movedim(0, -1).numpy(), own[-1].numpy()
        done[n] = True
        advance("restore", 1 / len(tiles))
        storage.record(now=fade > 0)  # a tile that is faded in twice would not be the same
    storage.record(now=True)
    return coarse, confidence


def score_patches(confidence: Array, grid: PatchGrid, least: float) -> Tensor:
    """Avg(C<y_0>) of Eq. 2 -> (M,), a row of patches at a time. least: see `capped`."""
    means, lowest = [], []
    for row in grid.rows:
        band = torch.from_numpy(confidence[row : row + grid.size])  # (V, W)
        places = [band[:, column : column + grid.size] for column in grid.columns]  # (V, V) each
        means += [place.mean() for place in places]
        lowest += [place.amin() for place in places]
    return capped(torch.stack(means), torch.stack(lowest), least)


class Latents(Protocol):
    """The denoised latents of a whole image."""

    def window(self, rows: Span, columns: Span) -> tuple[Tensor, Tensor]:
        """[low, high) of both -> blended latents, coarse latents: (C, n, m) each."""


@dataclass(frozen=True)
class Finishing:
    """How latents become pixels."""

    fidelity: float  # weight of the coarse image, 0 to 1
    mask: Tensor | None  # (h, w) by LR pixels, 0 to 1: where it is 1, the coarse image
    color: str
    maps: bool


def decode(
    model: Model,
    executor: Executor,
    job: Job,
    latents: "Latents",
    finishing: Finishing,
    advance: Advance,
) -> Array:
    """Blend, decode, match colors and finish the whole image, strip by strip -> (h, w, 1..4) uint8
    or uint16.

    With `finishing.maps`, "coarse_image" (h, w, 3) uint8 and "deviation" (H, W) are left in the
    storage.
    """
    f, scale, source, storage = model.factor, model.scale, job.source, job.storage
    height, width = (side * scale for side in source.size)
    channels = (1 if source.grey else 3) + source.has_alpha
    image = storage.array(
        "image", (height, width, channels), np.uint16 if source.bits == 16 else np.uint8
    )
    if finishing.maps:
        coarse_image = storage.array("coarse_image", (height, width, 3), np.uint8)
        deviation = storage.array("deviation", (job.grid.height, job.grid.width), np.float32)
    reach = model.autoencoder.reach + -(-reach_of(finishing.color, scale) // f)
    rows_of_strip = job.grid.height if job.sizes.rows is None else job.sizes.rows
    columns_of_tile = job.grid.width if job.sizes.columns is None else job.sizes.columns
    strips = [s for s in spans(job.grid.height, rows_of_strip, reach) if s.start * f < height]
    across = [s for s in spans(job.grid.width, columns_of_tile, reach) if s.start * f < width]
    done = storage.progress("decoded", len(strips))
    fade = 0 if model.autoencoder.exact else FADE
    carry = storage.array(
        "carry", (3, fade * f, width), np.float32
    )  # what a strip adds to the next one's top
    todo = [int(n) for n in np.flatnonzero(~done)]
    advance("decode", 1 - len(todo) / len(strips))
    tiles = [
        Window(strips[n].extended(fade), columns.extended(fade)) for n in todo for columns in across
    ]
    cores = _decoded(model, executor, job, latents, tiles, finishing)
    for n in todo:
        rows = strips[n]
        top, bottom = rows.start * f, min(rows.stop * f, height)
        strip = torch.zeros(3, min(rows.extended(fade).stop * f, height) - top, width)
        for columns in across:
            left, right = columns.start * f, min(columns.stop * f, width)
            part, plain = next(cores)
            place = strip[:, :, left : left + part.shape[2]]
            place[:] = faded(place, part, 0, fade * f * (left > 0))
            if finishing.maps:
                part, plain = (x[:, : bottom - top, : right - left] for x in (part, plain))
                coarse_image[top:bottom, left:right] = to_levels(plain)
                cells = deviation_of(part, plain, f).numpy()
                deviation[
                    rows.start : rows.start + len(cells),
                    columns.start : columns.start + cells.shape[1],
                ] = cells
            advance("decode", 1 / len(strips) / len(across))
        if fade:
            head = slice(min(fade * f, strip.shape[1]) if n else 0)
            strip[:, head] = faded(torch.from_numpy(carry[:, head]), strip[:, head], fade * f, 0)
            carry[:, : strip.shape[1] - (bottom - top)] = strip[:, bottom - top :].numpy()
        image[top:bottom] = finish_strip(strip[:, : bottom - top], source, top, scale)
        done[n] = True
        storage.record(now=fade > 0)
    storage.record(now=True)
    return image


def _decoded(
    model: Model,
    executor: Executor,
    job: Job,
    latents: "Latents",
    tiles: list[Window],
    finishing: Finishing,
) -> Iterator[tuple[Tensor, Tensor]]:
    """`decode_tile` of each tile, cut to its core: (3, n, m) twice."""
    f, scale, step = model.factor, model.scale, model.step
    given: deque[list[slice]] = deque()

    def calls() -> Iterator[tuple[Any, ...]]:
        for tile in tiles:
            sides = zip((tile.rows, tile.columns), job.source.size, strict=True)
            places = [slice(step * s.low, min(step * s.high, n)) for s, n in sides]
            given.append(places)
            lr = job.source.window(places[0], places[1], job.source.size)
            weight = torch.full((1, 1), finishing.fidelity)
            if finishing.mask is not None:
                weight = torch.maximum(weight, finishing.mask[places[0], places[1]])
            yield (
                *latents.window(tile.rows, tile.columns),
                weight,
                lr,
                finishing.color,
                finishing.maps,
            )

    for tile, parts in zip(tiles, executor.map(decode_tile, calls()), strict=True):
        sides = zip((tile.rows, tile.columns), given.popleft(), strict=True)
        y, x = (
            slice(f * (s.start - s.low), min(f * (s.stop - s.low), scale * (p.stop - p.start)))
            for s, p in sides
        )
        image, plain = (part[:, y, x] for part in parts)
        yield image, plain


def to_levels(image: Tensor) -> np.ndarray:
    """(3, h, w) in [-1, 1] -> (h, w, 3) uint8."""
    return ((image.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(0, -1).numpy()


def deviation_of(image: Tensor, coarse: Tensor, factor: int) -> Tensor:
    """(3, h, w) twice -> root mean square difference of cells of factor x factor, in
    levels of 255.
    """
    square = (127.5 * (image - coarse)).square().mean(0, keepdim=True)[None]
    pool = F.avg_pool2d(square, factor, ceil_mode=True, count_include_pad=False)
    return pool[0, 0].sqrt()


def finish_strip(strip: Tensor, source: Source, top: int, scale: int, rows: int = 64) -> np.ndarray:
    """(3, n, W) from output row `top` on -> (n, W, 1..4) levels, `rows` at a time."""
    n, width = strip.shape[1:]
    parts, around = [], 8  # LR rows that the resized transparency needs on either side
    for y in range(0, n, rows):
        part = strip[:, y : y + rows]
        first, last = (top + y) // scale, -(-(top + y + part.shape[1]) // scale)
        low, high = max(0, first - around), min(source.size[0], last + around)
        begin = top + y - low * scale
        size = ((high - low) * scale, width)
        parts.append(finish(part, source.planes(low, high), (begin, begin + part.shape[1]), size))
    return np.concatenate(parts)


def grid_of(model: Model, source: Source, config: GroupConfig) -> PatchGrid:
    """The patches of an image, in latents."""
    height, width = (side // model.step for side in model.padded_size(*source.size))
    return make_grid(height, width, config.latent_patch_size, config.overlap)
