"""Several methods on the same pictures: quality and cost side by side."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.cost.memory import method_cost
from patchscaler.evaluation.methods import Method, ResultFolder
from patchscaler.evaluation.pairs import Failure, Pair
from patchscaler.evaluation.run import Evaluation, evaluate, resolve_metrics
from patchscaler.evaluation.sets import PictureSet
from patchscaler.evaluation.specs import AnyMethod, Settings, Spec, build_methods

Progress = Callable[[str, int, int, str], None]  # method, pictures done, in all, name of the last


@dataclass
class MethodCost:
    """Of one method. What does not apply, as seconds of finished pictures, is None."""

    seconds: float | None = None  # median of a picture, warm-up left out
    warm_up: float | None = None  # seconds of the first run, before the first picture is timed
    megapixels_per_second: float | None = None  # of output, all pictures together
    evaluations: float | None = None  # of Patch-DiT a picture, mean; ours only
    # of a process that loads the method and enlarges the largest picture
    peak_mib: float | None = None
    cuda_mib: float | None = None  # of the same on the GPU
    memory_failure: str = ""


@dataclass
class Comparison:
    """evaluations and costs in the order the methods were named."""

    evaluations: list[Evaluation]
    costs: dict[str, MethodCost]
    unavailable: dict[str, str]  # method -> reason and hint

    @property
    def failures(self) -> list[Failure]:
        """Of any method, once each."""
        return list(dict.fromkeys(f for e in self.evaluations for f in e.failures))


class Timed:
    """A method whose first call is made twice, so that loading and warming up stay out of the
    seconds.
    """

    def __init__(self, method: Method):
        self.method, self.name = method, method.name
        self.warm_up: float | None = None
        self.cost: dict[str, Any] = {}

    def upscale(self, lr: np.ndarray) -> np.ndarray:
        if self.warm_up is None:
            self.warm_up = self._timed(lr)[1]
        picture, seconds = self._timed(lr)
        self.cost = dict(getattr(self.method, "cost", {})) | {
            "warm_seconds": seconds,
            "warm_up": self.warm_up,
        }
        return picture

    def _timed(self, lr: np.ndarray) -> tuple[np.ndarray, float]:
        began = time.perf_counter()
        picture = self.method.upscale(lr)  # an array: a GPU is done when it is there
        return picture, time.perf_counter() - began

    def describe(self) -> dict[str, Any]:
        return self.method.describe()


def compare(
    specs: Sequence[Spec],
    pairs: Sequence[Pair],
    metrics: Sequence[Any],
    out: str | Path,
    settings: Settings,
    *,
    failures: Sequence[Failure] = (),
    **options: Any,
) -> Comparison:
    """Every method over every pair. failures: of `load_pairs`, passed on; options: those of
    `compare_sets`.
    """
    return compare_sets(
        specs, [PictureSet("", None, [*pairs], [*failures])], metrics, out, settings, **options
    )[0]


def compare_sets(
    specs: Sequence[Spec],
    sets: Sequence[PictureSet],
    metrics: Sequence[Any],
    out: str | Path,
    settings: Settings,
    *,
    memory: bool = True,
    progress: Progress | None = None,
    crop_border: int = 0,
    niqe_parameters: str | Path | None = None,
    device: str = "cpu",
) -> list[Comparison]:
    """Every method over every set. memory: also ask a process of its own for each method's peak.

    crop_border, niqe_parameters, device: as for `evaluate`. What was done in `out` before is not
    done again, and keeps the seconds it had. Raises PatchScalerError where no method at all is to
    be had.
    """
    methods, unavailable = build_methods(specs, settings)
    if not methods:
        raise PatchScalerError(
            "; ".join(f"{name}: {reason}" for name, reason in unavailable.items())
        )
    # Their networks are built once, and not for every method.
    found, missing = resolve_metrics(
        metrics, crop_border, device=device, niqe_parameters=niqe_parameters
    )
    comparisons = compare_methods(methods, sets, found, out, missing=missing, progress=progress)
    # of one size, pictures differ little in what they need
    peaks: dict[tuple[str, tuple[int, ...]], MethodCost] = {}
    for comparison, pictures in zip(comparisons, sets, strict=True):
        comparison.unavailable = unavailable
        largest = largest_input(pictures.pairs) if memory else None
        for spec in specs:
            if largest is None or spec.kind == "folder" or spec.name not in comparison.costs:
                continue
            key = spec.name, largest.shape
            if key not in peaks:
                peaks[key] = _memory(spec, settings, largest)
            cost, peak = comparison.costs[spec.name], peaks[key]
            cost.peak_mib, cost.cuda_mib, cost.memory_failure = (
                peak.peak_mib,
                peak.cuda_mib,
                peak.memory_failure,
            )
    return comparisons


def compare_methods(
    methods: Sequence[AnyMethod],
    sets: Sequence[PictureSet],
    metrics: Sequence[Any],
    out: str | Path,
    *,
    missing: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> list[Comparison]:
    """Methods that are loaded over every set, without their memory. missing: metrics that are not
    to be had, and why.

    One set has its results in `out`, several each in a folder of its own there.
    """
    timed = [method if isinstance(method, ResultFolder) else Timed(method) for method in methods]
    comparisons = []
    for pictures in sets:
        comparison = Comparison([], {}, {})
        for method in timed:
            label = method.name if len(sets) == 1 else f"{pictures.title}, {method.name}"

            def show(done: int, total: int, name: str, label: str = label) -> None:
                if progress:
                    progress(label, done, total, name)

            folder = Path(out) if len(sets) == 1 else Path(out) / pictures.folder
            evaluation = evaluate(
                method,
                pictures.pairs,
                metrics,
                folder,
                failures=pictures.failures,
                unavailable=missing,
                progress=show,
            )
            for row in evaluation.rows:
                row.seconds = row.cost.get("warm_seconds", row.seconds)
            comparison.evaluations.append(evaluation)
            comparison.costs[method.name] = cost_of(evaluation)
        comparisons.append(comparison)
    return comparisons


def cost_of(evaluation: Evaluation) -> MethodCost:
    """From what the rows say; memory is left out."""
    timed = [row for row in evaluation.rows if row.seconds]
    warm_ups = [
        row.cost["warm_up"] for row in evaluation.rows if row.cost.get("warm_up") is not None
    ]
    counted = [
        row.cost["evaluations_total"] for row in evaluation.rows if "evaluations_total" in row.cost
    ]
    cost = MethodCost(evaluation.seconds, warm_ups[0] if warm_ups else None)
    if timed:
        pixels = sum(row.size[0] * row.size[1] for row in timed)
        cost.megapixels_per_second = pixels / 1e6 / sum(row.seconds or 0 for row in timed)
    if counted:
        cost.evaluations = float(np.mean(counted))
    return cost


def largest_input(pairs: Sequence[Pair]) -> np.ndarray | None:
    """The small picture of most pixels, (h, w, 3) uint8; None where there are only
    finished ones.
    """
    largest: np.ndarray | None = None
    for pair in pairs:
        lr = pair.lr if pair.has_lr else None  # made anew each time it is asked for
        if lr is not None and (largest is None or lr.size > largest.size):
            largest = lr
    return largest


def _memory(spec: Spec, settings: Settings, picture: np.ndarray) -> MethodCost:
    """Its peak alone, or why that could not be measured."""
    try:
        child = method_cost(spec.text, picture, asdict(settings))
    except PatchScalerError as error:
        return MethodCost(memory_failure=str(error))
    return MethodCost(peak_mib=child.peak_mib, cuda_mib=child.cuda_mib or None)
