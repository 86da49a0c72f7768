"""One picture on its way through the pipeline: what is asked for, what is known so far, what comes
out.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from patchscaler.config import GROUP_NAMES, GroupConfig
from patchscaler.devices import synchronise
from patchscaler.dials.boxes import Change
from patchscaler.dials.budget import Budget
from patchscaler.diffusion.group_sampling import steps_of
from patchscaler.errors import PatchScalerError
from patchscaler.images.planes import Planes, to_pil
from patchscaler.patching import PatchGrid
from patchscaler.refining import latents_refined

Picture = Image.Image | np.ndarray | Tensor | Planes
# (done, in all) in patch-steps, and what takes as long as so many
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Options:
    """The arguments of `PatchScaler.upscale_many`, checked."""

    groups: GroupConfig
    seed: int
    origin: tuple[int, int]
    prompt: bool
    max_patches: int
    max_pixels: int
    progress: Progress | None
    coarse: bool
    color: str
    period: tuple[int, int] | None
    budget: Budget | None
    fidelity: float
    changes: tuple[Change, ...]
    invention: bool
    assigned: np.ndarray | None  # (M,) groups of an earlier run
    asked: GroupConfig  # `groups` before fidelity moved their starts


def check_passes(count: int, options: Options) -> None:
    """Raises PatchScalerError for what is said of one enlargement and would be done in each of
    several.
    """
    seconds = options.budget is not None and options.budget.seconds is not None
    if count > 1 and (options.changes or seconds):
        what = "boxes are" if options.changes else "a budget in seconds is"
        raise PatchScalerError(
            f"{what} for one enlargement, and this size takes {count}; ask for x4 or less first"
        )


@dataclass
class Result:
    """One upscaled picture and how it came about. M patches, row by row over `grid`."""

    array: np.ndarray  # (h, w, 1..4) uint8, or uint16 where the input had more than 8 bits
    coarse: Image.Image | None  # what the GRM alone gives, decoded; where it was asked for
    confidence: np.ndarray  # (H/8, W/8) of the output, in (0, 1]
    groups: np.ndarray  # (M,) 0 simple, 1 medium, 2 hard
    scores: np.ndarray  # (M,) mean confidence of each patch
    textures: np.ndarray  # (M, K) memory entries that fed each patch, -1 where none did
    grid: PatchGrid
    cost: dict[str, Any] = field(default_factory=dict)
    icc_profile: bytes | None = None  # of the array's colours
    config: GroupConfig = field(default_factory=GroupConfig)  # as the dials left it
    # (4, H/8, W/8) behind `dials.invention`; where it was asked for
    moments: np.ndarray | None = None
    options: Options | None = None  # what the run was asked for

    @property
    def image(self) -> Image.Image:
        """The array as a Pillow image of 8 bits."""
        return to_pil(self.array, self.icc_profile)


class Latents(Protocol):
    """(C, H, W) latents, or what reads like them: `[:, top:bottom, left:right]` is a tensor."""

    def __getitem__(self, key: tuple[slice, slice, slice], /) -> Tensor: ...


class Fusion(Protocol):
    """Where sampled patches go: `patches.Canvas`, or the disk."""

    def add(self, patch: Tensor, row: int, column: int) -> None: ...


@dataclass
class Job:
    """One picture between restoration and result. C, H, W: its latents; M: its patches."""

    planes: Planes
    size: tuple[int, int]  # LR (h, w)
    coarse: Latents  # (C, H, W) y_0
    noise: Latents  # (C, H, W) the picture's window of the noise field
    confidence: Tensor  # (1, H, W)
    grid: PatchGrid
    scores: Tensor  # (M,)
    groups: Tensor  # (M,)
    config: GroupConfig  # as the budget and the fidelity left it
    canvas: Fusion
    textures: Any  # (M, K) int64 array: memory entries that fed each patch
    todo: Tensor  # (M,) bool: patches that are to be put on the canvas
    # (C, V, V) of patches with a seed of their own
    noise_of: dict[int, Tensor] = field(default_factory=dict)
    refines: bool = False  # has the model a refiner?

    @property
    def steps(self) -> Tensor:
        """(M,) evaluations of each patch."""
        return steps_of(self.groups, self.config)

    def cost(self) -> dict[str, Any]:
        return cost_of_groups(self.groups, self.config, self.grid, self.refines)


def cost_of_groups(
    groups: Tensor, config: GroupConfig, grid: PatchGrid, refines: bool
) -> dict[str, Any]:
    """groups: (M,) of a picture's patches; refines: has the model a refiner? -> `Result.cost`
    without its seconds.
    """
    patches = {name: int((groups == g).sum()) for g, name in enumerate(GROUP_NAMES)}
    numbers = zip(GROUP_NAMES, config.num_inference_steps, strict=True)
    evaluations = {name: patches[name] * steps for name, steps in numbers}
    return {
        "patches": patches,
        "evaluations": evaluations,
        "evaluations_total": sum(evaluations.values()),
        "latents_refined": latents_refined(steps_of(groups, config) > 0, grid) if refines else 0,
    }


class Counter:
    """Patch-steps done, of all pictures together; what is drawn afterwards, in as many as take its
    time.
    """

    def __init__(self, jobs: list[Job], progress: Progress | None, refining: int = 0):
        self.total = sum(int(job.steps.sum()) for job in jobs) + refining
        self.done = sum(int(job.steps[~job.todo].sum()) for job in jobs)
        self.progress = progress

    def __call__(self, evaluated: int) -> None:
        self.done += evaluated
        if self.progress:
            self.progress(self.done, self.total)


class Clock:
    """Seconds by stage; laps of one name add up.

    A GPU's work counts where it was given, not where it is waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self.device, self.last = device, time.perf_counter()

    def lap(self, name: str) -> None:
        synchronise(self.device)
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.last
        self.last = now
