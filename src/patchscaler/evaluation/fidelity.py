"""Fidelity to the HR image: PSNR and SSIM on Y or RGB, and sharpness.

Y is the luma of ITU-R BT.601 in 16..235, as MATLAB's rgb2ycbcr and BasicSR have it, in float64, not
rounded.
"""

from collections.abc import Callable

import numpy as np

from patchscaler.evaluation.metric import Metric, MetricOptions, border_text

Y_TEXT, RGB_TEXT = "BT.601 Y in 16..235, not rounded", "R, G, B in 0..255"
SSIM_TEXT = "Gaussian window 11, sigma 1.5, K .01 and .03, no padding, no downsampling"


def luma(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (H, W) float64 Y of BT.601, 16..235."""
    return 16 + image.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255


def _planes(image: np.ndarray, space: str) -> np.ndarray:
    """-> (C, H, W) float64: Y alone, or R, G, B."""
    return luma(image)[None] if space == "y" else np.moveaxis(image.astype(np.float64), 2, 0)


def psnr(image: np.ndarray, reference: np.ndarray, space: str = "y") -> float:
    """Peak 255; the mean square is over all pixels (and channels). Infinite for equal images."""
    error = np.square(_planes(image, space) - _planes(reference, space)).mean()
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def ssim(image: np.ndarray, reference: np.ndarray, space: str = "y") -> float:
    """Wang et al. 2004: Gaussian window of 11 pixels, sigma 1.5, K .01 and .03, where the window
    fits wholly.
    """
    x, y = _planes(image, space), _planes(reference, space)  # (C, H, W)
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


def sharpness(image: np.ndarray, reference: np.ndarray | None) -> float:
    """Mean absolute gradient of Y, as a share of the HR image's: 1 is as sharp, more is sharper (or
    noisier).
    """
    assert reference is not None
    own, theirs = (
        float(sum(np.abs(np.diff(luma(x), axis=a)).mean() for a in (0, 1)))
        for x in (image, reference)
    )
    return own / theirs if theirs else float("nan")


# --- as metrics -----------------------------------------------------------------------------------


def psnr_metric(name: str, space: str) -> Callable[[MetricOptions], Metric]:
    return _on_planes(name, psnr, space, 1, 2, "PSNR in dB, peak 255, mean square over ")


def ssim_metric(name: str, space: str) -> Callable[[MetricOptions], Metric]:
    return _on_planes(name, ssim, space, 11, 4, f"SSIM, {SSIM_TEXT}, mean over ")


def _on_planes(
    name: str, function: Callable[..., float], space: str, least: int, digits: int, text: str
) -> Callable[[MetricOptions], Metric]:
    def build(options: MetricOptions) -> Metric:
        border = options.crop_border
        return Metric(
            name,
            higher_is_better=True,
            needs_reference=True,
            protocol=f"{text}{Y_TEXT if space == 'y' else RGB_TEXT}, {border_text(border)}",
            score=lambda x, y: function(x, y, space),
            least=least,
            crop_border=border,
            digits=digits,
        )

    return build


def sharpness_metric(options: MetricOptions) -> Metric:
    border = options.crop_border
    return Metric(
        "sharpness",
        higher_is_better=True,
        needs_reference=True,
        protocol=f"mean absolute gradient of Y over that of HR, {Y_TEXT}, {border_text(border)}",
        score=lambda x, y: sharpness(x, y),
        least=2,
        crop_border=border,
        best=1.0,
        digits=3,
    )
