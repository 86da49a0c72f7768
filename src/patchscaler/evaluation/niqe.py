"""NIQE (Mittal et al. 2013): the distance of an image's statistics from those of good photographs.

The brightness of an image is divided by its local contrast (MSCN); it and products of neighbors are
described by asymmetric generalised Gaussians (AGGD) in blocks of 96 pixels.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from patchscaler.evaluation.fidelity import luma
from patchscaler.evaluation.metric import Metric, MetricOptions, border_text

BLOCK = 96  # pixels a side of the blocks, at full size
PUBLISHED = Path(__file__).parent / "data" / "niqe_published.npz"


def window() -> np.ndarray:
    """(7,) the Gaussian, sigma 7/6, sums to one; it is applied to rows and columns."""
    taps = np.exp(-np.square(np.arange(-3, 4)) / (2 * (7 / 6) ** 2))
    return taps / taps.sum()


def smooth(x: np.ndarray) -> np.ndarray:
    """(H, W) -> (H, W), weighted means; edges are repeated."""
    taps, (h, w) = window(), x.shape
    padded = np.pad(x, 3, mode="edge")
    rows = sum(t * padded[i : i + h] for i, t in enumerate(taps))
    return sum(t * rows[:, i : i + w] for i, t in enumerate(taps))


def mscn(x: np.ndarray) -> np.ndarray:
    """(H, W) brightness -> mean-subtracted, contrast-normalised coefficients."""
    mean = smooth(x)
    deviation = np.sqrt(np.abs(smooth(x * x) - mean * mean))
    coefficients = (x - mean) / (deviation + 1)
    # flat places: what the mean's rounding left there is no sign
    coefficients[np.abs(coefficients) < 1e-9] = 0
    return coefficients


def spread(x: np.ndarray) -> tuple[float, float, float]:
    """Left and right deviation of an AGGD, and E|x|^2 / E x^2 of the symmetric one of its shape.

    A side that is empty is NaN.
    """
    left, right = (
        math.sqrt(np.square(side).mean()) if side.size else math.nan
        for side in (x[x < 0], x[x > 0])
    )
    if math.isnan(left) or math.isnan(right) or right == 0:
        return left, right, math.nan
    g = left / right
    ratio = np.abs(x).mean() ** 2 / np.square(x).mean() * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
    return left, right, float(ratio)


def shape_ratio(alpha: float) -> float:
    """E|x|^2 / E x^2 of a generalised Gaussian of shape alpha; rises with alpha."""
    return math.exp(2 * math.lgamma(2 / alpha) - math.lgamma(1 / alpha) - math.lgamma(3 / alpha))


def scale_of(alpha: float) -> float:
    """Deviation -> the scale parameter of shape alpha."""
    return math.exp(0.5 * (math.lgamma(1 / alpha) - math.lgamma(3 / alpha)))


def mean_of(alpha: float) -> float:
    """Mean of |x| of a generalised Gaussian of shape alpha and scale 1."""
    return math.exp(math.lgamma(2 / alpha) - math.lgamma(1 / alpha))


@dataclass(frozen=True)
class Pristine:
    """How good pictures look: mean (36,) and covariance (36, 36) of their blocks' features."""

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    @cache
    def published(cls) -> "Pristine":
        """The authors' parameters."""
        with np.load(PUBLISHED, allow_pickle=False) as arrays:
            mean = np.asarray(arrays["mu_pris_param"], np.float64).reshape(-1)
            return cls(mean, np.asarray(arrays["cov_pris_param"], np.float64))


def niqe(image: np.ndarray, pristine: Pristine | None = None) -> float:
    """(H, W, 3) uint8 -> the distance of its blocks from good ones.

    NaN where too few blocks have texture.
    """
    pristine = pristine or Pristine.published()
    features = niqe_features(image)
    good = features[~np.isnan(features).any(1)]
    if len(good) < 2:
        return math.nan
    d = pristine.mean - np.nanmean(features, 0)
    middle = (pristine.covariance + np.cov(good, rowvar=False)) / 2
    return float(math.sqrt(d @ np.linalg.pinv(middle) @ d))


def niqe_features(image: np.ndarray) -> np.ndarray:
    """-> (blocks, 36) features at two scales, NaN where flat."""
    x = luma(image).round()  # as MATLAB's rgb2gray of 8-bit images rounds
    rows, columns = x.shape[0] // BLOCK, x.shape[1] // BLOCK
    x = x[: rows * BLOCK, : columns * BLOCK]
    features = []
    for scale in (1, 2):
        normalised = mscn(x)
        side = BLOCK // scale
        corners = [(i * side, j * side) for j in range(columns) for i in range(rows)]
        blocks = (normalised[i : i + side, j : j + side] for i, j in corners)
        features.append(np.array([_block_features(block) for block in blocks]))
        if scale == 1:
            x = halve(halve(x).T).T
    return np.concatenate(features, 1)


def _block_features(block: np.ndarray) -> list[float]:
    """18 numbers: shape and scale of the block, and shape, mean, both scales of four products of
    neighbours.
    """
    alpha, left, right = _on_grid(block)
    out = [alpha, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        alpha, left, right = _on_grid(block * np.roll(block, shift, (0, 1)))
        out += [alpha, (right - left) * mean_of(alpha), left, right]
    return out


def _on_grid(x: np.ndarray) -> tuple[float, float, float]:
    """Shape (the nearest of .2, .201 ... 10, as the authors search it) and both scales.

    Where a side is empty the search finds the first, .2, in MATLAB and in BasicSR; so it does here.
    """
    left, right, ratio = spread(x)
    shapes, ratios = _shape_table()
    alpha = float(shapes[0 if math.isnan(ratio) else np.argmin(np.square(ratios - ratio))])
    return alpha, left * scale_of(alpha), right * scale_of(alpha)


@cache
def _shape_table() -> tuple[np.ndarray, np.ndarray]:
    shapes = np.arange(0.2, 10.001, 0.001)
    return shapes, np.array([shape_ratio(a) for a in shapes.tolist()])


def halve(x: np.ndarray) -> np.ndarray:
    """(H, W) of even H -> (H/2, W): antialiased bicubic as MATLAB's imresize, mirrored at the
    edges.
    """
    taps = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256
    padded = np.pad(x, ((3, 3), (0, 0)), mode="symmetric")
    n = len(x) // 2
    return sum(t * padded[i : i + 2 * n : 2] for i, t in enumerate(taps))


def niqe_metric(options: MetricOptions) -> Metric:
    protocol = (
        "NIQE, published parameters, BT.601 Y rounded, blocks of 96 pixels from the upper left, "
        f"MATLAB's imresize, {border_text(options.crop_border)}"
    )
    return Metric(
        "niqe",
        higher_is_better=False,
        needs_reference=False,
        protocol=protocol,
        score=lambda image, reference: niqe(image),
        least=BLOCK,
        crop_border=options.crop_border,
        weights=hashlib.sha256(PUBLISHED.read_bytes()).hexdigest(),
        digits=3,
    )
