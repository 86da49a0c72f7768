"""All measures by name. `metric.py` says what one is; each kind has its own file."""

from collections.abc import Callable
from pathlib import Path

from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.fidelity import luma, psnr_metric, sharpness_metric, ssim_metric
from patchscaler.evaluation.learned import dists_metric, lpips_metric
from patchscaler.evaluation.metric import Metric, MetricOptions, MetricUnavailable
from patchscaler.evaluation.pyiqa_metrics import pyiqa_metric
from patchscaler.evaluation.statistics import brisque_metric, niqe_metric

__all__ = [
    "DEFAULT_METRICS",
    "METRICS",
    "Metric",
    "MetricOptions",
    "MetricUnavailable",
    "get_metric",
    "luma",
]

METRICS: dict[str, Callable[[MetricOptions], Metric]] = {
    "psnr-y": psnr_metric("psnr-y", "y"),
    "psnr-rgb": psnr_metric("psnr-rgb", "rgb"),
    "ssim-y": ssim_metric("ssim-y", "y"),
    "ssim-rgb": ssim_metric("ssim-rgb", "rgb"),
    "sharpness": sharpness_metric,
    "lpips-alex": lpips_metric("alex"),
    "lpips-vgg": lpips_metric("vgg"),
    "dists": dists_metric,
    "niqe": niqe_metric,
    "brisque": brisque_metric,
    "musiq-koniq": pyiqa_metric("musiq-koniq", "musiq"),
    "maniqa-koniq": pyiqa_metric("maniqa-koniq", "maniqa"),
    "maniqa-pipal": pyiqa_metric("maniqa-pipal", "maniqa-pipal"),
    "clipiqa": pyiqa_metric("clipiqa", "clipiqa"),
    "clipiqa+": pyiqa_metric("clipiqa+", "clipiqa+"),
}
DEFAULT_METRICS: tuple[str, ...] = (
    "psnr-y",
    "ssim-y",
    "lpips-alex",
    "dists",
    "niqe",
    "brisque",
    "sharpness",
)


def get_metric(
    name: str,
    crop_border: int = 0,
    *,
    device: str = "cpu",
    niqe_parameters: str | Path | None = None,
) -> Metric:
    """A metric by name. device: of the networks. niqe_parameters: a file of `--fit-niqe`.

    Raises PatchScalerError listing the known names, MetricUnavailable with reason and hint.
    """
    if name not in METRICS:
        raise PatchScalerError(f"unknown metric '{name}': choose from {', '.join(METRICS)}")
    if crop_border < 0:
        raise PatchScalerError(f"crop border {crop_border}: take 0 or more")
    return METRICS[name](MetricOptions(crop_border, device, niqe_parameters))
