"""What an image costs: multiply-adds of the networks, by stage. The share of `budget` and
`Output.gmac` are of these.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from patchscaler.config import GroupConfig
from patchscaler.denoising import region_work
from patchscaler.diffusion.budget import GroupWork, spend
from patchscaler.diffusion.groups import HARD
from patchscaler.diffusion.groups import assign_groups as by_confidence
from patchscaler.model import Model
from patchscaler.patching import PatchGrid
from patchscaler.regions import regions_of
from patchscaler.tiling import Job

GIGA = 1e9


@dataclass(frozen=True)
class Work:
    """In 10^9 multiply-adds."""

    restore: float
    denoise: float
    denoise_uniform: float  # every patch hard

    @property
    def total(self) -> float:
        return self.restore + self.denoise

    @property
    def uniform(self) -> float:
        return self.restore + self.denoise_uniform


def image_work(model: Model, job: Job) -> Work:
    """Of one pass over an image whose patches have their groups."""
    height, width = job.grid.height, job.grid.width
    restore = model.grm.macs(height * model.step, width * model.step)
    hard = torch.full_like(job.groups, HARD)
    return Work(
        restore / GIGA,
        denoising_macs(model, job.groups, job.grid, job.config) / GIGA,
        denoising_macs(model, hard, job.grid, job.config) / GIGA,
    )


def denoising_macs(model: Model, groups: Tensor, grid: PatchGrid, config: GroupConfig) -> float:
    """Multiply-adds of denoising patches of these groups. groups: (M,)."""
    if model.denoiser is None:
        counts, per_patch = config.num_inference_steps, model.patch_dit.macs()
        return float(sum(int((groups == g).sum()) * n * per_patch for g, n in enumerate(counts)))
    work = region_work(model, config)
    areas = ((r.area * model.step**2 * work[r.group]) for r in regions_of(groups, grid, work))
    return float(sum(areas))


def group_work(model: Model, config: GroupConfig) -> GroupWork:
    """Work of a patch of each group, in that of one evaluation at full depth."""
    simple, medium, hard = (float(n) for n in config.num_inference_steps)
    if model.denoiser is not None:
        medium *= model.denoiser.macs(early=True) / model.denoiser.macs(early=False)
    return GroupWork(simple, medium, hard)


def assign_groups(
    model: Model, scores: Tensor, grid: PatchGrid, config: GroupConfig, budget: float | None
) -> Tensor:
    """A group for each patch: by its confidence (Eq. 2), or as far as the budget goes.

    Args:
        scores: (M,) mean confidences.
        budget: Share of the work of every patch hard; None for Eq. 2.

    Returns:
        (M,) of 0, 1, 2.
    """
    if budget is None:
        return by_confidence(scores, config.thresholds)
    work, whole = group_work(model, config), torch.full((len(scores),), HARD)
    uniform = denoising_macs(model, whole, grid, config)
    low, high = (
        0.0,
        1.0,
    )  # regions read around themselves: search the share of patches that costs the budget
    groups = torch.zeros(len(scores), dtype=torch.long)
    for _ in range(12):
        middle = (low + high) / 2 if uniform else 0.0
        found = torch.from_numpy(spend(middle, np.asarray(scores), config, work))
        if denoising_macs(model, found, grid, config) <= budget * uniform:
            low, groups = middle, found
        else:
            high = middle
    everything = torch.from_numpy(spend(1.0, np.asarray(scores), config, work))
    return everything if budget >= 1 else groups
