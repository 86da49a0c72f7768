"""Denoise the patches of images of any size, and blend what comes out where it is read (Eq. 3 to
7).

Patch-DiT takes patches in batches; the RRDB denoiser of `compact` takes regions of patches of one
group.

Letters: C channels, H, W latents of the whole image, M patches, V a patch's side, K textures of a
prompt.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchscaler.config import GroupConfig
from patchscaler.devices import is_out_of_memory
from patchscaler.diffusion.batches import Batches
from patchscaler.diffusion.groups import MEDIUM
from patchscaler.diffusion.schedule import group_timesteps
from patchscaler.model import Model
from patchscaler.patching import Span
from patchscaler.regions import regions_of
from patchscaler.storage import Array
from patchscaler.tiling import Advance, Executor, Job, Latents


def denoise_batch(
    model: Model, y_0: Tensor, noise: Tensor, groups: Tensor, config: GroupConfig, prompt: bool
) -> tuple[Tensor, Tensor]:
    """`Model.denoise_patches`, in halves where memory runs out."""
    try:
        x_0, entries = model.denoise_patches(y_0, noise, groups, config, prompt)
        return x_0.cpu(), entries
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or len(y_0) == 1:
            raise
    n = len(y_0) // 2
    halves = [
        denoise_batch(model, y_0[part], noise[part], groups[part], config, prompt)
        for part in (slice(n), slice(n, None))
    ]
    return torch.cat([x_0 for x_0, _ in halves]), torch.cat([entries for _, entries in halves])


def denoise_tile(
    model: Model, y_0: Tensor, noise: Tensor, lr: Tensor, timesteps: list[int], early: bool
) -> Tensor:
    """`Model.denoise_region` -> what it adds to the coarse latents, (C, h, w)."""
    return (model.denoise_region(y_0, noise, lr, timesteps, early).cpu() - y_0).float()


def denoise(
    model: Model,
    executor: Executor,
    jobs: list[Job],
    batch_size: int,
    prompt: bool,
    advance: Advance,
) -> list[Latents]:
    """Denoise all patches of all images (Eq. 3 to 7): the patches of Patch-DiT share batches."""
    if model.denoiser is not None:
        return [denoise_regions(model, executor, job, advance) for job in jobs]
    found = [PatchStore(job) for job in jobs]
    for config in dict.fromkeys(job.config for job in jobs):
        chosen = [i for i, job in enumerate(jobs) if job.config == config]
        denoise_patches(
            executor,
            [jobs[i] for i in chosen],
            [found[i] for i in chosen],
            batch_size,
            prompt,
            advance,
        )
    return list(found)


def denoise_patches(
    executor: Executor,
    jobs: list[Job],
    stores: list["PatchStore"],
    batch_size: int,
    prompt: bool,
    advance: Advance,
) -> None:
    """Patch-DiT in batches over the patches of images of one configuration."""
    batches = Batches(
        [job.grid for job in jobs],
        [job.steps for job in jobs],
        [s.todo for s in stores],
        batch_size,
    )
    total = max(1, sum(int(job.steps.sum()) for job in jobs))
    advance(
        "denoise",
        1 - sum(int(j.steps[s.todo].sum()) for j, s in zip(jobs, stores, strict=True)) / total,
    )
    given: deque[Any] = deque()

    def calls() -> Iterator[tuple[Any, ...]]:
        while len(batches):
            places = batches.next_batch()
            given.append(places)
            y_0, noise, groups = [], [], []
            for number, patch, row, column in places:
                job = jobs[number]
                y_0.append(latents_of(job.coarse, row, column, job.grid.size))
                noise.append(job.noise.window(row, column, job.grid.size, job.grid.size))
                groups.append(job.groups[patch])
            yield torch.stack(y_0), torch.stack(noise), torch.stack(groups), jobs[0].config, prompt

    for x_0, entries in executor.map(denoise_batch, calls()):
        for patch, entry, (number, index, row, column) in zip(
            x_0, entries, given.popleft(), strict=True
        ):
            stores[number].add(index, patch, row, column)
            textures = jobs[number].textures
            if textures is not None:
                textures[index] = entry.numpy()
            advance("denoise", float(jobs[number].steps[index]) / total)
            jobs[number].storage.record()
    for job in jobs:
        job.storage.record(now=True)


def latents_of(array: Array, row: int, column: int, size: int) -> Tensor:
    """(H, W, C) -> a patch (C, V, V)."""
    return (
        torch.from_numpy(array[row : row + size, column : column + size])
        .movedim(-1, 0)
        .contiguous()
    )


def region_work(model: Model, config: GroupConfig) -> tuple[float, float, float]:
    """Multiply-adds of a LR pixel of each group by the RRDB denoiser."""
    assert model.denoiser is not None
    simple, medium, hard = config.num_inference_steps
    full, early = model.denoiser.macs(), model.denoiser.macs(early=True)
    return simple * full, medium * early, hard * full


def denoise_regions(model: Model, executor: Executor, job: Job, advance: Advance) -> "RegionStore":
    """The RRDB denoiser on the regions of an image, what it adds kept as (H, W, C)."""
    step, padded = model.step, model.padded_size(*job.source.size)
    regions = list(regions_of(job.groups, job.grid, region_work(model, job.config)))
    store = RegionStore(job, sorted({region.group for region in regions}))
    done = job.storage.progress("denoised", len(regions))
    total = max(1, sum(region.area for region in regions))
    todo = [int(n) for n in np.flatnonzero(~done)]
    advance("denoise", 1 - sum(regions[n].area for n in todo) / total)

    def calls() -> Iterator[tuple[Any, ...]]:
        for n in todo:
            region = regions[n]
            rows, columns = region.window.rows, region.window.columns
            y, x = (slice(s.low, s.high) for s in (rows, columns))
            y_0 = torch.from_numpy(job.coarse[y, x]).movedim(-1, 0).contiguous()
            start = job.config.start_times[region.group]
            noise = torch.zeros(())  # times 0
            if start:
                noise = job.noise.window(rows.low, columns.low, *y_0.shape[1:])
            places = [slice(step * side.low, step * side.high) for side in (rows, columns)]
            lr = job.source.window(places[0], places[1], padded)
            steps = job.config.num_inference_steps[region.group]
            timesteps = group_timesteps(start, steps) if start else [0]
            yield y_0, noise, lr, timesteps, region.group == MEDIUM

    for n, added in zip(todo, executor.map(denoise_tile, calls()), strict=True):
        rows, columns = regions[n].window.rows, regions[n].window.columns
        place = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
        own = regions[n].weight * added[:, rows.core, columns.core]  # (C, h, w)
        store.added[regions[n].group][place] = own.movedim(0, -1).numpy()
        done[n] = True
        advance("denoise", regions[n].area / total)
        job.storage.record()
    job.storage.record(now=True)
    return store


class RegionStore:
    """What the regions of each group add to the coarse latents, by weights that sum to one."""

    def __init__(self, job: Job, denoised: list[int]):
        self.coarse = job.coarse
        shape, storage = job.coarse.shape, job.storage
        self.added = {g: storage.array(f"added{g}", shape, np.float16) for g in denoised}

    def window(self, rows: Span, columns: Span) -> tuple[Tensor, Tensor]:
        place = slice(rows.low, rows.high), slice(columns.low, columns.high)
        coarse = torch.from_numpy(self.coarse[place]).movedim(-1, 0)
        latents = coarse
        for array in self.added.values():
            latents = latents + torch.from_numpy(array[place]).movedim(-1, 0).float()
        return latents, coarse


class PatchStore:
    """Denoised patches, blended where they are read; patches without steps stay coarse."""

    def __init__(self, job: Job):
        self.grid, self.coarse = job.grid, job.coarse
        self.sampled = (job.steps > 0).numpy()  # (M,)
        self.slot = np.cumsum(self.sampled) - 1  # (M,) place in the store
        count, v = int(self.sampled.sum()), job.grid.size
        self.patches = job.storage.array("patches", (count, job.coarse.shape[2], v, v), np.float32)
        self.done = job.storage.progress("patches", count)
        self.window_of_patch = job.grid.blend_window()  # (V, V)
        self.todo = torch.zeros(len(job.grid), dtype=torch.bool)
        self.todo[torch.from_numpy(np.flatnonzero(self.sampled)[~self.done])] = True

    def add(self, index: int, patch: Tensor, row: int, column: int) -> None:
        """Keep what patch number `index`, (C, V, V), adds to the coarse one at its top-
        left corner.
        """
        slot = self.slot[index]
        self.patches[slot] = (patch - latents_of(self.coarse, row, column, self.grid.size)).numpy()
        self.done[slot] = True

    def window(self, rows: Span, columns: Span) -> tuple[Tensor, Tensor]:
        coarse = torch.from_numpy(
            self.coarse[rows.low : rows.high, columns.low : columns.high]
        ).movedim(-1, 0)
        added, weight = torch.zeros(coarse.shape), torch.zeros(coarse.shape[1:])
        for index, y, x, own_y, own_x in self.grid.meeting(
            rows.low, rows.high, columns.low, columns.high
        ):
            window = self.window_of_patch[own_y, own_x]
            weight[y, x] += window
            if self.sampled[index]:
                patch = torch.from_numpy(self.patches[self.slot[index]])
                added[:, y, x] += patch[:, own_y, own_x] * window
        return coarse + added / weight, coarse
