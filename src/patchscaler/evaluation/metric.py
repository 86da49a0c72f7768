"""What a metric is: its name, direction, protocol, and the images it can be given."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from patchscaler.errors import PatchScalerError

Score = Callable[[np.ndarray, np.ndarray | None], float]


class MetricUnavailable(PatchScalerError):  # noqa: N818
    """A metric that cannot be computed here: its name, why, and the hint."""

    def __init__(self, name: str, reason: str, hint: str):
        super().__init__(f"{name} is unavailable: {reason}. Hint: {hint}")
        self.name, self.reason, self.hint = name, reason, hint


@dataclass(frozen=True)
class MetricOptions:
    crop_border: int = 0  # pixels cut off each side first
    device: str = "cpu"  # where networks run


@dataclass(frozen=True)
class Measure:
    """What tables need to know of a metric."""

    name: str
    higher_is_better: bool
    needs_reference: bool
    protocol: str  # everything that another lab must do alike, in one line
    least: int = field(default=1, kw_only=True)  # smallest side in pixels, border cut off
    crop_border: int = field(default=0, kw_only=True)  # pixels cut off each side first
    best: float | None = field(default=None, kw_only=True)  # where nearness to this value is best
    weights: str = field(default="", kw_only=True)  # SHA-256 of what it was trained on
    digits: int = field(default=4, kw_only=True)  # decimals in tables

    def badness(self, value: float) -> float:
        """Larger is worse: what "worst first" sorts by."""
        if self.best is not None:
            return abs(value - self.best)
        return -value if self.higher_is_better else value

    @property
    def arrow(self) -> str:
        return f"→{self.best:g}" if self.best is not None else "↑" if self.higher_is_better else "↓"

    @property
    def title(self) -> str:
        """The head of its column."""
        return f"{self.name} {self.arrow}"

    def text(self, value: float | None) -> str:
        return "-" if value is None else f"{value:.{self.digits}f}"

    def checked(self, image: np.ndarray, which: str) -> np.ndarray:
        """The image without its border. Raises PatchScalerError for one it cannot be given."""
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
            kind = getattr(image, "dtype", type(image).__name__)
            raise PatchScalerError(f"{self.name}: {which} is of {kind}. Hint: give uint8 in 0..255")
        if image.ndim != 3 or image.shape[2] != 3:
            raise PatchScalerError(
                f"{self.name}: {which} has shape {image.shape}. Hint: give (H, W, 3)"
            )
        b, (h, w) = self.crop_border, image.shape[:2]
        if min(h, w) - 2 * b < max(1, self.least):
            border = f" after a border of {b} pixels is cut off" if b else ""
            raise PatchScalerError(
                f"{self.name}: {which} is {w}x{h}; it takes {self.least} or more a side{border}"
            )
        return image[b : h - b, b : w - b]


@dataclass(frozen=True)
class Metric(Measure):
    """A score of one image. Call it with (H, W, 3) uint8 RGB images."""

    score: Score = field(repr=False, compare=False)

    def __call__(self, image: np.ndarray, reference: np.ndarray | None = None) -> float:
        """Score an image. Raises PatchScalerError for images it cannot be given."""
        images = [self.checked(image, "the image")]
        if self.needs_reference:
            if reference is None:
                raise PatchScalerError(f"{self.name}: needs the HR image. Hint: give --hr")
            images.append(self.checked(reference, "the HR image"))
            if image.shape != reference.shape:
                sizes = " and ".join(f"{x.shape[1]}x{x.shape[0]}" for x in (image, reference))
                raise PatchScalerError(f"{self.name}: both images must be of one size, not {sizes}")
        value = float(self.score(images[0], images[1] if self.needs_reference else None))
        if np.isnan(value):
            raise PatchScalerError(f"{self.name}: has no value for this image (too flat?)")
        return value


@dataclass(frozen=True)
class SetMetric(Measure):
    """A distance between two sets of images, through features of each image."""

    features: Callable[[np.ndarray], np.ndarray] = field(repr=False, compare=False)
    distance: Callable[[np.ndarray, np.ndarray], float] = field(repr=False, compare=False)

    def of_image(self, image: np.ndarray, which: str = "the image") -> np.ndarray:
        """(H, W, 3) uint8 -> features (patches, D). Raises PatchScalerError."""
        return self.features(self.checked(image, which))


def border_text(crop_border: int) -> str:
    """The end of a protocol."""
    return f"border of {crop_border} pixels cut off" if crop_border else "no border cut off"
