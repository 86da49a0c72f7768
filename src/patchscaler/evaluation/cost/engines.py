"""Engines side by side: one picture, an engine after the other, round after round; a busy machine
is busy for all.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from patchscaler.pipeline import PatchScaler


@dataclass(frozen=True)
class EngineTime:
    """Seconds of one picture, medians over the rounds; difference: to the first engine's picture,
    in grey levels.

    work: seconds of all processor threads together, which other programs on the machine hardly
    change.
    """

    engine: str
    dtype: str
    median: float
    low: float
    work: float
    stages: dict[str, float]
    difference: float


def compare_engines(
    load: Callable[[str], "PatchScaler"], engines: Sequence[str], picture: np.ndarray, rounds: int
) -> list[EngineTime]:
    """load: engine -> model. picture: (h, w, 3) uint8. One warm-up of each is left out."""
    models, dtypes = {}, {}
    for engine in engines:
        models[engine] = load(engine)
        # An engine holds torch to float32, whatever it computes in itself.
        named = models[engine].compute_signature.split(" ", 1)[1].removeprefix("torch.")
        dtypes[engine] = named if engine == "torch" else "of the engine"
    pictures = {
        engine: model.upscale(picture, max_pixels=0).array.astype(int)
        for engine, model in models.items()
    }
    seconds: dict[str, list[float]] = {engine: [] for engine in engines}
    work: dict[str, list[float]] = {engine: [] for engine in engines}
    stages: dict[str, list[dict[str, Any]]] = {engine: [] for engine in engines}
    for _ in range(rounds):
        for engine, model in models.items():
            began, worked = time.perf_counter(), time.process_time()
            result = model.upscale(picture, max_pixels=0)
            seconds[engine].append(time.perf_counter() - began)
            work[engine].append(time.process_time() - worked)
            stages[engine].append(result.cost["seconds"])
    first = pictures[engines[0]]
    return [
        EngineTime(
            engine,
            dtypes[engine],
            statistics.median(seconds[engine]),
            min(seconds[engine]),
            statistics.median(work[engine]),
            {
                name: statistics.median([s[name] for s in stages[engine]])
                for name in stages[engine][0]
            },
            float(np.abs(pictures[engine] - first).mean()),
        )
        for engine in engines
    ]


def engine_lines(times: Sequence[EngineTime]) -> list[str]:
    """For people: a line an engine, each beside the first."""
    lines = []
    for t in times:
        stages = ", ".join(f"{name} {seconds:.3f}" for name, seconds in t.stages.items())
        lines.append(
            f"{t.engine:12s} {t.dtype:14s} median {t.median:.3f} s, fastest {t.low:.3f} s, "
            f"{t.median / times[0].median:.2f} of {times[0].engine} ({stages}), processor time "
            f"{t.work:.3f} s, "
            f"{t.work / times[0].work:.2f} of {times[0].engine}, picture differs by "
            f"{t.difference:.2f}"
        )
    return lines
