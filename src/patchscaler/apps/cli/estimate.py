"""`--dry-run`: what images become, and about how long that takes here."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchscaler.images.planes import to_planes
from patchscaler.images.sizes import TargetSize, passes
from patchscaler.pipeline import PatchScaler

SIDE = 96  # of the part of an image that is upscaled to measure
PROBES = 3  # images of a run that are measured


@dataclass(frozen=True)
class Speed:
    """Of this machine, measured."""

    seconds: float  # a pixel that a pass reads
    gmac: float
    gmac_uniform: float

    def of(self, size: tuple[int, int], target: tuple[int, int]) -> "Speed":
        """The same of an image of `size` (width, height), over all its passes."""
        made = [size, *passes(size, target)[:-1]]
        pixels = sum(width * height for width, height in made)
        return Speed(self.seconds * pixels, self.gmac * pixels, self.gmac_uniform * pixels)


def measure(
    pipeline: PatchScaler, sources: Iterable[Path], target_size: TargetSize, options: dict[str, Any]
) -> Speed:
    """Upscale the middle of the first few images.

    Args:
        pipeline: The model.
        sources: Images; PROBES of them are read.
        target_size: Not used for the probes, which are made at x4.
        options: Of `PatchScaler.__call__`.
    """
    fixed = {key: value for key, value in options.items() if key not in ("scale", "size", "maps")}
    fixed["fidelity_mask"] = None
    seconds = gmac = uniform = pixels = 0.0
    for number, source in enumerate(sources):
        if number == PROBES:
            break
        planes = to_planes(source)
        height, width = planes.rgb.shape[-2:]
        top, left = max(0, height - SIDE) // 2, max(0, width - SIDE) // 2
        part = (planes.rgb[:, top : top + SIDE, left : left + SIDE] + 1) / 2
        if not number:
            pipeline(part[:, :32, :32], **fixed)  # the first call of a process is slower
        began = time.perf_counter()
        output = pipeline(part, **fixed)
        seconds += time.perf_counter() - began
        gmac, uniform = gmac + output.gmac, uniform + output.gmac_uniform
        pixels += part.shape[-2] * part.shape[-1]
    whole = max(1.0, pixels)
    return Speed(seconds / whole, gmac / whole, uniform / whole)
