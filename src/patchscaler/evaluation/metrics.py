"""Scores of one picture. Each metric knows its direction, its protocol and what it can be given.

Y is the luma of ITU-R BT.601 in 16..235, as MATLAB's rgb2ycbcr and BasicSR have it, in float64 and not
rounded, unless a protocol says otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from patchscaler.errors import PatchScalerError

Score = Callable[[np.ndarray, np.ndarray | None], float]


class MetricUnavailable(PatchScalerError):  # noqa: N818
    """A metric that cannot be computed here: its name, why, and the mend."""


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

    def __call__(self, picture: np.ndarray, reference: np.ndarray | None = None) -> float:
        """-> the score. Raises PatchScalerError for pictures it cannot be given."""
        pictures = [self._checked(picture, "the picture")]
        if self.needs_reference:
            if reference is None:
                raise PatchScalerError(f"{self.name}: needs the original to compare with (--hr)")
            pictures.append(self._checked(reference, "the original"))
            if picture.shape != reference.shape:
                sizes = " and ".join(f"{x.shape[1]}x{x.shape[0]}" for x in (picture, reference))
                raise PatchScalerError(f"{self.name}: picture and original must be of one size, not {sizes}")
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
            raise PatchScalerError(f"{self.name}: {which} has shape {picture.shape}; give (H, W, 3)")
        b, (h, w) = self.crop_border, picture.shape[:2]
        if min(h, w) - 2 * b < max(1, self.least):
            border = f" after {b} pixels are taken off each side" if b else ""
            raise PatchScalerError(f"{self.name}: {which} is {w}x{h}; it takes {self.least} or more a side{border}")
        return picture[b : h - b, b : w - b]


# --- colour ---------------------------------------------------------------------------------------


def luma(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (H, W) float64 Y of BT.601, 16..235."""
    return 16 + picture.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255


def _planes(picture: np.ndarray, space: str) -> np.ndarray:
    """-> (C, H, W) float64: Y alone, or R, G, B."""
    return luma(picture)[None] if space == "y" else np.moveaxis(picture.astype(np.float64), 2, 0)


# --- fidelity -------------------------------------------------------------------------------------


def psnr(picture: np.ndarray, reference: np.ndarray, space: str = "y") -> float:
    """Peak 255; the mean square is over all pixels (and channels). Infinite for equal pictures."""
    error = np.square(_planes(picture, space) - _planes(reference, space)).mean()
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def ssim(picture: np.ndarray, reference: np.ndarray, space: str = "y") -> float:
    """Wang et al. 2004: Gaussian window of 11 pixels, sigma 1.5, K .01 and .03, where the window fits wholly."""
    x, y = _planes(picture, space), _planes(reference, space)  # (C, H, W)
    c_1, c_2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mu_x, mu_y = _window_mean(x), _window_mean(y)  # (C, H-10, W-10)
    var_x, var_y = _window_mean(x * x) - mu_x**2, _window_mean(y * y) - mu_y**2
    cov = _window_mean(x * y) - mu_x * mu_y
    similar = (2 * mu_x * mu_y + c_1) * (2 * cov + c_2)
    return float((similar / ((mu_x**2 + mu_y**2 + c_1) * (var_x + var_y + c_2))).mean())


def _window_mean(x: np.ndarray) -> np.ndarray:
    """(C, H, W) -> (C, H-10, W-10), weighted by the Gaussian window."""
    taps = np.exp(-np.square(np.arange(-5, 6)) / (2 * 1.5**2))
    taps /= taps.sum()
    h, w = x.shape[1] - 10, x.shape[2] - 10
    rows = sum(t * x[:, i : i + h] for i, t in enumerate(taps))
    return sum(t * rows[..., i : i + w] for i, t in enumerate(taps))


def sharpness(picture: np.ndarray, reference: np.ndarray) -> float:
    """Mean absolute gradient of Y, as a share of the original's: 1 is as sharp, more is sharper (or noisier)."""
    own, wanted = (float(sum(np.abs(np.diff(luma(x), axis=a)).mean() for a in (0, 1))) for x in (picture, reference))
    return own / wanted if wanted else float("nan")


def _fidelity(
    name: str, function: Callable[..., float], space: str, least: int, protocol: str
) -> Callable[..., Metric]:
    def build(crop_border: int = 0) -> Metric:
        def score(picture: np.ndarray, reference: np.ndarray | None) -> float:
            return function(picture, reference, space)

        text = f"{protocol}; {_border(crop_border)}"
        return Metric(name, True, True, text, score, least, crop_border)

    return build


def _sharpness(crop_border: int = 0) -> Metric:
    text = f"mean |gradient| of BT.601 Y of the picture over the original's; {_border(crop_border)}"
    return Metric("sharpness", True, True, text, lambda x, y: sharpness(x, y), 2, crop_border, best=1.0)  # type: ignore[arg-type]


def _border(crop_border: int) -> str:
    return f"border of {crop_border} pixels cut off" if crop_border else "whole picture, no border cut off"


# --- the table ------------------------------------------------------------------------------------

_Y, _RGB = "BT.601 Y in 16..235, not rounded", "R, G, B in 0..255"
_SSIM = "Gaussian window 11, sigma 1.5, no padding, no downsampling"
METRICS: dict[str, Callable[..., Metric]] = {
    "psnr-y": _fidelity("psnr-y", psnr, "y", 1, f"PSNR in dB, peak 255, {_Y}"),
    "psnr-rgb": _fidelity("psnr-rgb", psnr, "rgb", 1, f"PSNR in dB, peak 255, one mean square over {_RGB}"),
    "ssim-y": _fidelity("ssim-y", ssim, "y", 11, f"SSIM, {_Y}, {_SSIM}"),
    "ssim-rgb": _fidelity("ssim-rgb", ssim, "rgb", 11, f"SSIM, mean over {_RGB}, {_SSIM}"),
    "sharpness": _sharpness,
}
DEFAULT_METRICS: tuple[str, ...] = ("psnr-y", "ssim-y", "sharpness")


def get_metric(name: str, crop_border: int = 0, **options: Any) -> Metric:
    """A metric by name. Raises PatchScalerError listing the known names, MetricUnavailable with reason and mend."""
    if name not in METRICS:
        raise PatchScalerError(f"unknown metric '{name}': choose from {', '.join(METRICS)}")
    if crop_border < 0:
        raise PatchScalerError(f"crop border {crop_border}: take 0 or more")
    return METRICS[name](crop_border=crop_border, **options)
