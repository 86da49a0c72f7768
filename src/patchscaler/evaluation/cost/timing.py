"""Seconds of functions, in alternation: a busy machine is busy for all of them."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from patchscaler.devices import synchronize
from patchscaler.errors import PatchScalerError


@dataclass(frozen=True)
class Timing:
    """Of one function. Everything but `warm_up` leaves the first call out."""

    median: float  # wall seconds
    low: float
    high: float
    cpu: float  # median seconds of all processor threads together
    warm_up: float  # wall seconds of the first call
    repeats: int


def alternate(
    functions: dict[str, Callable[[], Any]],
    repeats: int,
    device: torch.device | str = "cpu",
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Timing]:
    """Call each function once to warm it up, then all of them in turn, `repeats` times.

    Args:
        functions: By name.
        repeats: 1 or more.
        device: On a GPU, a call ends when its queue is empty.
        progress: Called with what is about to run.
    """
    if repeats < 1:
        raise PatchScalerError(f"{repeats} repeats: take 1 or more")
    warm_up = {}
    for name, function in functions.items():
        progress(f"warm-up of {name}")
        warm_up[name] = _seconds(function, device)[0]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    names = list(functions)
    for i in range(repeats):
        progress(f"repeat {i + 1} of {repeats}")
        for name in names[i % len(names) :] + names[: i % len(names)]:  # no place is always first
            found[name].append(_seconds(functions[name], device))
    out = {}
    for name, both in found.items():
        wall, cpu = zip(*both, strict=True)
        median = statistics.median
        out[name] = Timing(median(wall), min(wall), max(wall), median(cpu), warm_up[name], repeats)
    return out


def median_seconds(
    function: Callable[[], Any], repeats: int, device: torch.device | str = "cpu"
) -> float:
    """Of one function alone, warmed up."""
    return alternate({"": function}, repeats, device)[""].median


def _seconds(function: Callable[[], Any], device: torch.device | str) -> tuple[float, float]:
    synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu


@contextmanager
def torch_threads(count: int) -> Iterator[int]:
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


@torch.inference_mode()
def matmul_peak(device: torch.device | str, dtype: torch.dtype, repeats: int = 5) -> float:
    """FLOP/s of a square matrix product: the most that this machine does in this precision."""
    n = 2048 if torch.device(device).type == "cpu" else 8192  # a GPU is not filled by less
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, n, generator=generator).to(device, dtype) for _ in range(2))
    return 2 * n**3 / alternate({"": lambda: a @ b}, repeats, device)[""].low
