"""Seconds of a function, the machine's matmul peak, and how fast a cost grows."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from patchscaler.devices import synchronise
from patchscaler.errors import PatchScalerError


@dataclass(frozen=True)
class Timing:
    """Seconds. `median`, `low` and `high` leave the warm-up out."""

    median: float
    low: float
    high: float
    warm_up: float
    runs: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(function: Callable[[], Any], runs: int, device: torch.device | str = "cpu") -> Timing:
    """One warm-up, then `runs` times. On a GPU, a run ends when its queue is empty."""
    if runs < 1:
        raise PatchScalerError(f"{runs} runs: take 1 or more")
    seconds = [_seconds(function, device) for _ in range(runs + 1)]
    warm = seconds[1:]
    return Timing(statistics.median(warm), min(warm), max(warm), seconds[0], runs)


def _seconds(function: Callable[[], Any], device: torch.device | str) -> float:
    synchronise(device)
    began = time.perf_counter()
    function()
    synchronise(device)
    return time.perf_counter() - began


def growth_exponent(pixels: Sequence[float], seconds: Sequence[float]) -> float:
    """k of seconds = c pixels^k, least squares of the logarithms: 1 is linear in the area, 2 the
    square of it.
    """
    if len(pixels) != len(seconds) or len(set(pixels)) < 2:
        raise PatchScalerError("a growth exponent needs two sizes or more, and a time for each")
    return float(np.polyfit(np.log(pixels), np.log(seconds), 1)[0])


@torch.inference_mode()
def matmul_peak(
    device: torch.device | str, dtype: torch.dtype, side: int = 0, runs: int = 5
) -> float:
    """FLOP/s of a square matrix product, the best of `runs`: the most that this machine does in
    this precision.

    side: by default 2048, and 8192 on a GPU, which a smaller product does not fill.
    """
    n = side or (2048 if torch.device(device).type == "cpu" else 8192)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, n, generator=generator).to(device, dtype) for _ in range(2))
    return 2 * n**3 / measure(lambda: a @ b, runs, device).low
