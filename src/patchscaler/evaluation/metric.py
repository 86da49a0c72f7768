"""What a measure is: its name, direction, protocol, and the pictures it can be given."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from patchscaler.errors import PatchScalerError

Score = Callable[[np.ndarray, np.ndarray | None], float]


class MetricUnavailable(PatchScalerError):  # noqa: N818
    """A metric that cannot be computed here: its name, why, and the hint."""

    def __init__(self, name: str, reason: str, hint: str):
        super().__init__(f"{name} is unavailable: {reason}; hint: {hint}")
        self.name, self.reason, self.hint = name, reason, hint


@dataclass(frozen=True)
class MetricOptions:
    """What a measure can be told."""

    crop_border: int = 0  # pixels taken off each side first
    device: str = "cpu"  # where networks run
    niqe_parameters: str | Path | None = None  # of `--fit-niqe`, in place of the published ones


@dataclass(frozen=True)
class Metric:
    """One measure. Call it with (H, W, 3) uint8 RGB pictures."""

    name: str
    higher_is_better: bool
    needs_reference: bool
    protocol: str  # everything that another lab must do alike, in one line
    score: Score = field(repr=False, compare=False)
    least: int = 1  # smallest side, in pixels, that it can be computed on, border taken off
    crop_border: int = 0  # pixels taken off each side first
    best: float | None = None  # where neither more nor less is better, but nearness to this
    weights: str = ""  # SHA-256 of what it was trained on, where it was
    digits: int = 4  # decimals in tables

    def __call__(self, picture: np.ndarray, reference: np.ndarray | None = None) -> float:
        """-> the score. Raises PatchScalerError for pictures it cannot be given."""
        pictures = [self._checked(picture, "the picture")]
        if self.needs_reference:
            if reference is None:
                raise PatchScalerError(f"{self.name}: needs the original to compare with (--hr)")
            pictures.append(self._checked(reference, "the original"))
            if picture.shape != reference.shape:
                sizes = " and ".join(f"{x.shape[1]}x{x.shape[0]}" for x in (picture, reference))
                raise PatchScalerError(
                    f"{self.name}: picture and original must be of one size, not {sizes}"
                )
        value = float(self.score(pictures[0], pictures[1] if self.needs_reference else None))
        if np.isnan(value):
            raise PatchScalerError(f"{self.name}: has no value for this picture (too flat?)")
        return value

    def badness(self, value: float) -> float:
        """Larger is worse: what "worst first" sorts by."""
        if self.best is not None:
            return abs(value - self.best)
        return -value if self.higher_is_better else value

    @property
    def arrow(self) -> str:
        return f"→{self.best:g}" if self.best is not None else "↑" if self.higher_is_better else "↓"

    def _checked(self, picture: np.ndarray, which: str) -> np.ndarray:
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8:
            kind = getattr(picture, "dtype", type(picture).__name__)
            raise PatchScalerError(f"{self.name}: {which} is of {kind}; give uint8 in 0..255")
        if picture.ndim != 3 or picture.shape[2] != 3:
            raise PatchScalerError(
                f"{self.name}: {which} has shape {picture.shape}; give (H, W, 3)"
            )
        b, (h, w) = self.crop_border, picture.shape[:2]
        if min(h, w) - 2 * b < max(1, self.least):
            border = f" after {b} pixels are taken off each side" if b else ""
            raise PatchScalerError(
                f"{self.name}: {which} is {w}x{h}; it takes {self.least} or more a side{border}"
            )
        return picture[b : h - b, b : w - b]


def border_text(crop_border: int) -> str:
    """The end of a protocol."""
    return f"border of {crop_border} pixels cut off" if crop_border else "no border cut off"
