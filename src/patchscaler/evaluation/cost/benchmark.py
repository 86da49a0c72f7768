"""`patchscaler benchmark`: every method in one process and in turn, then what was asked for
besides.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from patchscaler.devices import choose_dtype
from patchscaler.diffusion.groups import check_groups
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.cost.flops import network_flops
from patchscaler.evaluation.cost.measure import (
    measure_method,
    measure_picture,
    megapixels,
    shares_of_peak,
)
from patchscaler.evaluation.cost.memory import command_cost, cuda_peak
from patchscaler.evaluation.cost.pictures import mirrored, square_of, synthetic_photo
from patchscaler.evaluation.cost.sweeps import (
    groups_with_steps,
    sweep_batches,
    sweep_dtypes,
    sweep_overlaps,
    sweep_sizes,
    sweep_steps,
    sweep_threads,
    threads,
    uniform_groups,
)
from patchscaler.evaluation.cost.timing import matmul_peak
from patchscaler.evaluation.environment import environment
from patchscaler.patching import make_grid
from patchscaler.pipeline import PatchScaler

OURS, UNIFORM = "patchscaler", "patchscaler, all patches hard"


@dataclass(frozen=True)
class Plan:
    """What to measure. Empty sweeps are left out."""

    size: int = 128  # LR side
    image: str | None = None
    runs: int = 5
    threads: int = 0  # 0: as many as torch takes
    against: dict[str, Callable[[np.ndarray], Any]] = field(default_factory=dict)
    sizes: Sequence[int] = ()
    overlaps: Sequence[int] = ()
    steps: Sequence[tuple[int, int, int]] = ()
    batch_sizes: Sequence[int] = ()
    dtypes: Sequence[str] = ()
    thread_counts: Sequence[int] = ()
    # of the command line, for processes of its own: device, dtype, autoencoder
    options: Sequence[str] = ()


def benchmark(
    load: Callable[[str | None], PatchScaler],
    folder: Path,
    plan: Plan,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """-> everything measured, plain values for JSON.

    load: a dtype, or None for the one of the command line, -> the model. say: told what is being
    measured.
    """
    if plan.size < 8 or plan.runs < 1:
        raise PatchScalerError("--size takes 8 or more, --runs 1 or more")
    model = load(None)
    _check(model, plan)
    with threads(plan.threads) as count:
        picture = square_of(plan.image, plan.size) if plan.image else synthetic_photo(plan.size)
        record: dict[str, Any] = {
            "size": plan.size,
            "picture": plan.image or "made by code",
            "threads": count,
            "device": str(model.device),
            "dtype": str(model.dtype),
            "compute_signature": model.compute_signature,
            "runs": plan.runs,
            "model": model.config.name,
            "environment": environment(),
        }
        say("one picture")
        record |= _one_picture(model, picture, plan)
        say("the command in a process of its own")
        record["command"] = _commands(folder, picture, plan)
        record["sweeps"], record["growth_exponents"] = _sweeps(model, load, picture, plan, say)
    return record


def _check(model: PatchScaler, plan: Plan) -> None:
    """What cannot be is said before anything is measured."""
    groups = model.config.groups
    for overlap in plan.overlaps:
        make_grid(
            groups.latent_patch_size, groups.latent_patch_size, groups.latent_patch_size, overlap
        )
    for steps in plan.steps:
        check_groups(groups_with_steps(model, steps))
    for name in plan.dtypes:
        choose_dtype(name, str(model.device))


def _one_picture(model: PatchScaler, picture: np.ndarray, plan: Plan) -> dict[str, Any]:
    """Ours, ours without groups, and the others; stages, evaluations, FLOPs and share of the peak
    of ours.
    """
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
    peak = matmul_peak(model.device, model.dtype)
    ours = measure_picture(model, picture, plan.runs)
    cuda = cuda_peak()
    hard = measure_picture(model, picture, plan.runs, uniform_groups(model))
    timings = {OURS: ours.seconds, UNIFORM: hard.seconds}
    for name, enlarge in plan.against.items():  # slower ones: half the runs
        timings[name] = measure_method(enlarge, picture, max(1, plan.runs // 2))
    height, width = model.padded_size(*picture.shape[:2])
    flops = network_flops(model, height, width)
    # again: something else may have run the first time
    peak = max(peak, matmul_peak(model.device, model.dtype))
    return {
        "methods": {
            name: {
                "seconds": t.as_dict(),
                "ours_takes": ours.seconds.median / t.median,
                "megapixels_per_second": megapixels(picture) / t.median,
            }
            for name, t in timings.items()
        },
        "stages": ours.stages,
        "patches": ours.patches,
        "cuda_peak_mib": cuda,
        "evaluations": {
            "adaptive": ours.evaluations_total,
            "uniform": hard.evaluations_total,
            "by_group": ours.evaluations,
        },
        "flops": {
            "per_call": asdict(flops),
            "per_picture": flops.of_picture(ours.cost),
            "uniform_per_picture": flops.of_picture(hard.cost),
        },
        "peak_flops_per_second": peak,
        "share_of_peak": shares_of_peak(flops, ours, peak),
    }


def _commands(folder: Path, picture: np.ndarray, plan: Plan) -> dict[str, Any]:
    """`patchscaler upscale` from a cold start, on the picture and on one of four times the side."""
    options = ["--model", str(folder), *plan.options]
    large = mirrored(picture, 4 * picture.shape[0])
    return {
        "cold_start": asdict(command_cost(picture, options, plan.threads)),
        "four_times_larger": asdict(command_cost(large, options, plan.threads)),
    }


def _sweeps(
    model: PatchScaler,
    load: Callable[[str | None], PatchScaler],
    picture: np.ndarray,
    plan: Plan,
    say: Callable[[str], None],
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, float]]:
    runs = plan.runs
    out: dict[str, list[dict[str, Any]]] = {}
    exponents: dict[str, float] = {}
    if plan.sizes:
        say("sizes " + ", ".join(f"{s}->{4 * s}" for s in plan.sizes))
        out["sizes"], exponents = sweep_sizes(model, picture, plan.sizes, runs, plan.against)
    if plan.overlaps:
        say("overlaps")
        out["overlaps"] = sweep_overlaps(model, picture, plan.overlaps, runs)
    if plan.steps:
        say("steps")
        out["steps"] = sweep_steps(model, picture, plan.steps, runs)
    if plan.batch_sizes:
        say("batch sizes")
        out["batch sizes"] = sweep_batches(model, picture, plan.batch_sizes, runs)
    if plan.dtypes:
        say("dtypes")
        out["dtypes"] = sweep_dtypes(load, picture, plan.dtypes, runs)
    if plan.thread_counts:
        say("threads")
        out["threads"] = sweep_threads(model, picture, plan.thread_counts, runs)
    return out, exponents
