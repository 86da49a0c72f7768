"""What an evaluation costs here and now, in seconds: a handful of patches sampled for the clock
alone.
"""

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from patchscaler.assignment import assign
from patchscaler.devices import synchronise
from patchscaler.dials.budget import hardest_first, spend
from patchscaler.diffusion.group_sampling import steps_of
from patchscaler.jobs import Clock, Counter, Job, Options, Picture
from patchscaler.refining import latents_refined, refine_tile
from patchscaler.streaming.cost import Cost, cost_of, in_memory_bytes

if TYPE_CHECKING:
    from patchscaler.pipeline import PatchScaler


class Nowhere:
    """A canvas for patches that nobody will see."""

    def add(self, patch: Tensor, row: int, column: int) -> None: ...


def seconds_per_evaluation(scaler: "PatchScaler", job: Job, options: Options) -> float:
    """Of the hard group, prompt included.

    One patch warms up; an eighth of them, 32 at most, is timed.
    """
    hardest = torch.from_numpy(hardest_first(job.scores.numpy()).copy())
    seconds, evaluations = 0.0, 0
    for count in (1, max(1, min(len(job.grid) // 8, options.max_patches, 32))):
        todo = torch.zeros(len(job.grid), dtype=torch.bool)
        todo[hardest[:count]] = True
        trial = replace(
            job,
            groups=torch.full_like(job.groups, 2),
            todo=todo,
            canvas=Nowhere(),
            textures=np.array(job.textures[:]),
        )
        evaluations = int(trial.steps[todo].sum())
        if not evaluations:
            return 0.0
        began = time.perf_counter()
        scaler.sample([trial], options, Clock(scaler.device), Counter([trial], None))
        seconds = time.perf_counter() - began
    return seconds / evaluations


def seconds_of_decoding(scaler: "PatchScaler", job: Job, side: int = 64) -> float:
    """Of the whole picture, from one corner of `side` latents."""
    corner = job.coarse[:, :side, :side]  # (C, <= side, <= side)
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        scaler.autoencoder.decode(corner[None].to(scaler.device))
        synchronise(scaler.device)
        seconds = time.perf_counter() - began
    return seconds * job.grid.height * job.grid.width / (corner.shape[-2] * corner.shape[-1])


def seconds_per_refined(scaler: "PatchScaler", job: Job, side: int = 32) -> float:
    """Of drawing, a latent: from one corner of `side` latents."""
    corner = job.coarse[:, :side, :side].to(scaler.device)  # (C, <= side, <= side)
    h, w = corner.shape[1:]
    small = torch.zeros(3, h * scaler.step, w * scaler.step, device=scaler.device)
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        refine_tile(scaler, corner, corner, small)
        synchronise(scaler.device)
        seconds = time.perf_counter() - began
    return seconds / (h * w)


def affordable_evaluations(
    scaler: "PatchScaler", job: Job, options: Options, spent: float
) -> float:
    """How many evaluations the budget's seconds leave room for. spent: seconds that restoring the
    picture took.
    """
    budget = options.budget
    assert budget is not None and budget.seconds is not None
    began = time.perf_counter()
    each, decoding = seconds_per_evaluation(scaler, job, options), seconds_of_decoding(scaler, job)
    refined = seconds_per_refined(scaler, job) if scaler.refiner else 0.0
    left = budget.seconds - spent - decoding - (time.perf_counter() - began)
    if not refined:
        return left / each if each else float("inf")

    def seconds(evaluations: float) -> float:
        """What is sampled is drawn, too, and neighbours share what lies around them."""
        plan = spend(budget, job.scores.numpy(), job.config, evaluations)
        steps = steps_of(torch.from_numpy(plan.groups), plan.config)
        return each * int(steps.sum()) + refined * latents_refined(steps > 0, job.grid)

    low, high = 0.0, float(len(job.grid) * max(job.config.num_inference_steps))
    if seconds(high) <= left:
        return high
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (middle, high) if seconds(middle) <= left else (low, middle)
    return low


@torch.inference_mode()
def estimate(scaler: "PatchScaler", picture: Picture, keywords: dict[str, Any]) -> Cost:
    """What enlarging a picture in memory costs: counted, and measured on a handful of
    its patches.
    """
    options = scaler.options(**keywords)
    began = time.perf_counter()
    job = scaler.restored(picture, options)
    restoring = time.perf_counter() - began
    assign(scaler, job, options, restoring)
    sampling = seconds_per_evaluation(scaler, job, options) * int(job.steps.sum())
    seconds = {"restoring": restoring, "sampling": sampling}
    if scaler.refiner:
        seconds["refining"] = seconds_per_refined(scaler, job) * latents_refined(
            job.steps > 0, job.grid
        )
    seconds["decoding"] = seconds_of_decoding(scaler, job)
    h, w = job.size
    size, memory = (w * scaler.config.scale, h * scaler.config.scale), in_memory_bytes(scaler, h, w)
    return replace(cost_of(job, size, 0, memory, 0), seconds=seconds)
