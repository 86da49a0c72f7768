"""One number varied, everything else as it is.

Each sweep is a list of rows for JSON, tables and plots.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from patchscaler.config import GroupConfig
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.cost.measure import measure_method, measure_picture, megapixels
from patchscaler.evaluation.cost.pictures import mirrored
from patchscaler.evaluation.cost.timing import growth_exponent
from patchscaler.pipeline import PatchScaler

Row = dict[str, Any]
Others = dict[str, Callable[[np.ndarray], Any]]  # other methods by name
UNIFORM = (1.0, 1.0)  # thresholds that no confidence is above: every patch is hard


def uniform_groups(model: PatchScaler) -> GroupConfig:
    """The model's settings with every patch in the hard group."""
    return replace(model.config.groups, thresholds=UNIFORM)


def sweep_sizes(
    model: PatchScaler, picture: np.ndarray, sizes: Sequence[int], runs: int, others: Others
) -> tuple[list[Row], dict[str, float]]:
    """-> rows, and the exponent k of seconds ~ pixels^k of each method.

    `picture` is mirrored to each size.
    """
    rows: list[Row] = []
    for size in sizes:
        large = mirrored(picture, size)
        rows.append(
            {"size": size, "method": "patchscaler"} | measure_picture(model, large, runs).as_dict()
        )
        hard = measure_picture(model, large, runs, uniform_groups(model))
        rows.append({"size": size, "method": "patchscaler, all patches hard"} | hard.as_dict())
        for name, enlarge in others.items():
            seconds = measure_method(enlarge, large, runs)
            speed = megapixels(large) / seconds.median
            rows.append(
                {
                    "size": size,
                    "method": name,
                    "seconds": seconds.as_dict(),
                    "megapixels_per_second": speed,
                }
            )
    exponents = {}
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        if len({row["size"] for row in own}) > 1:
            medians = [row["seconds"]["median"] for row in own]
            exponents[name] = growth_exponent([row["size"] ** 2 for row in own], medians)
    return rows, exponents


def sweep_overlaps(
    model: PatchScaler, picture: np.ndarray, overlaps: Iterable[int], runs: int
) -> list[Row]:
    """Of patches, in latents: fewer latents shared are fewer patches."""
    groups = model.config.groups
    return [
        {"overlap": o} | measure_picture(model, picture, runs, replace(groups, overlap=o)).as_dict()
        for o in overlaps
    ]


def sweep_steps(
    model: PatchScaler, picture: np.ndarray, steps: Iterable[tuple[int, int, int]], runs: int
) -> list[Row]:
    """Of the three groups."""
    return [
        {"steps": list(triple)}
        | measure_picture(model, picture, runs, groups_with_steps(model, triple)).as_dict()
        for triple in steps
    ]


def groups_with_steps(model: PatchScaler, steps: tuple[int, int, int]) -> GroupConfig:
    """The model's settings with these steps.

    A group without a start of its own starts where the next one does.
    """
    starts = list(model.config.groups.start_times)
    for g in (1, 0):
        starts[g] = starts[g + 1] if steps[g] and not starts[g] else starts[g]
    return replace(
        model.config.groups,
        num_inference_steps=steps,
        start_times=(starts[0], starts[1], starts[2]),
    )


def sweep_batches(
    model: PatchScaler, picture: np.ndarray, sizes: Iterable[int], runs: int
) -> list[Row]:
    """Patches that go through the networks at once."""
    return [
        {"batch_size": n} | measure_picture(model, picture, runs, max_patches=n).as_dict()
        for n in sizes
    ]


def sweep_dtypes(
    load: Callable[[str], PatchScaler], picture: np.ndarray, names: Iterable[str], runs: int
) -> list[Row]:
    """load: dtype -> the same model in it."""
    return [
        {"dtype": name} | measure_picture(load(name), picture, runs).as_dict() for name in names
    ]


def sweep_threads(
    model: PatchScaler, picture: np.ndarray, counts: Iterable[int], runs: int
) -> list[Row]:
    """Of the processor."""
    rows = []
    for count in counts:
        with threads(count):
            rows.append({"threads": count} | measure_picture(model, picture, runs).as_dict())
    return rows


@contextmanager
def threads(count: int) -> Iterator[int]:
    """torch's processor threads for a while; 0 leaves them as they are. -> how many there are."""
    if count < 0:
        raise PatchScalerError(f"{count} threads: take 1 or more")
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
