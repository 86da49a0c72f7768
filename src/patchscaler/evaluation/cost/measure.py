"""One picture's figures: seconds in all and by stage, evaluations by group, FLOPs, share of the
machine's peak.
"""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from patchscaler.config import GroupConfig
from patchscaler.evaluation.cost.flops import NetworkFlops
from patchscaler.evaluation.cost.timing import Timing, measure
from patchscaler.pipeline import PatchScaler


@dataclass(frozen=True)
class Measured:
    """`upscale` on one picture, several times. Stages are medians, warm-up left out."""

    seconds: Timing
    stages: dict[str, float]
    patches: dict[str, int]  # by group
    evaluations: dict[str, int]  # by group
    evaluations_total: int
    latents_refined: int
    megapixels_per_second: float  # of output

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def cost(self) -> dict[str, Any]:
        """As `Result.cost` has it."""
        return {
            "patches": self.patches,
            "evaluations": self.evaluations,
            "evaluations_total": self.evaluations_total,
            "latents_refined": self.latents_refined,
        }


def measure_picture(
    model: PatchScaler,
    picture: np.ndarray,
    runs: int,
    groups: GroupConfig | None = None,
    max_patches: int | None = None,
) -> Measured:
    """picture: (h, w, 3) uint8. groups, max_patches: as in `PatchScaler.upscale_many`."""
    costs: list[dict[str, Any]] = []

    def run() -> None:
        costs.append(
            model.upscale(picture, groups=groups, max_patches=max_patches, max_pixels=0).cost
        )

    seconds = measure(run, runs, model.device)
    warm, last = costs[1:], costs[-1]
    stages = {
        name: statistics.median([c["seconds"][name] for c in warm]) for name in last["seconds"]
    }
    return Measured(
        seconds,
        stages,
        last["patches"],
        last["evaluations"],
        last["evaluations_total"],
        last["latents_refined"],
        megapixels(picture, model.config.scale) / seconds.median,
    )


def measure_method(enlarge: Callable[[np.ndarray], Any], picture: np.ndarray, runs: int) -> Timing:
    """Another method. It gives an array back, so a GPU is done when it returns."""
    return measure(lambda: enlarge(picture), runs)


def megapixels(picture: np.ndarray, scale: int = 4) -> float:
    """Of the output that (h, w, 3) becomes."""
    return picture.shape[0] * picture.shape[1] * scale**2 / 1e6


def shares_of_peak(flops: NetworkFlops, measured: Measured, peak: float) -> dict[str, float]:
    """FLOP/s over the matmul peak, by stage and in all.

    Stages that do no counted work are left out.
    """
    operations = flops.of_picture(measured.cost)
    seconds = measured.stages | {"total": measured.seconds.median}
    return {
        name: operations[name] / seconds[name] / peak
        for name in operations
        if operations[name] and seconds.get(name, 0) > 0
    }
