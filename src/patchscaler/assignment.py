"""A group for each patch: by its confidence, by what a budget buys, or as somebody wants it for a
box.
"""

from typing import TYPE_CHECKING

import torch

from patchscaler.dials.boxes import last_seeds, patches_in
from patchscaler.dials.budget import spend
from patchscaler.diffusion.groups import assign_groups
from patchscaler.errors import PatchScalerError
from patchscaler.jobs import Job, Options

if TYPE_CHECKING:
    from patchscaler.pipeline import PatchScaler


def assign(scaler: "PatchScaler", job: Job, options: Options, spent: float = 0.0) -> None:
    """A group for each patch: by its confidence (Eq. 2), or by what the budget buys; then the
    boxes' wishes.
    """
    job.groups = assign_groups(job.scores, job.config.thresholds)
    if options.budget:
        affordable = None
        if options.budget.seconds is not None:
            from patchscaler.dials.speed import affordable_evaluations

            affordable = affordable_evaluations(scaler, job, options, spent)
        plan = spend(options.budget, job.scores.numpy(), job.config, affordable)
        job.groups, job.config = torch.from_numpy(plan.groups), plan.config
    if options.assigned is not None:
        if len(options.assigned) != len(job.grid):
            raise PatchScalerError(
                f"{len(options.assigned)} groups for {len(job.grid)} patches: another picture's"
            )
        job.groups = torch.as_tensor(options.assigned, dtype=torch.long).clone()
    change(scaler, job, options)


def change(scaler: "PatchScaler", job: Job, options: Options) -> None:
    """What boxes want otherwise: another group, other noise."""
    for wish in options.changes:
        if wish.group is not None:
            job.groups[patches_in(wish.box, job.grid, scaler.step, job.size)] = wish.group
    corners, size = job.grid.corners(), job.grid.size
    for i, seed in last_seeds(options.changes, job.grid, scaler.step, job.size).items():
        job.noise_of[i] = scaler.noise(options, *corners[i], size, size, seed).to(scaler.device)
