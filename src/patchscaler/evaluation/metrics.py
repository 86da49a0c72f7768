"""All metrics by name. `metric.py` says what one is; each kind has its own file."""

from collections.abc import Callable, Sequence

from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.fidelity import psnr_metric, sharpness_metric, ssim_metric
from patchscaler.evaluation.learned import dists_metric, lpips_metric
from patchscaler.evaluation.metric import Metric, MetricOptions, MetricUnavailable, SetMetric
from patchscaler.evaluation.niqe import niqe_metric
from patchscaler.evaluation.patch_kid import patch_kid_metric
from patchscaler.evaluation.pyiqa_metrics import VARIANTS, pyiqa_metric

AnyMetric = Metric | SetMetric

METRICS: dict[str, Callable[[MetricOptions], AnyMetric]] = {
    "psnr-y": psnr_metric("psnr-y", "y"),
    "psnr-rgb": psnr_metric("psnr-rgb", "rgb"),
    "ssim-y": ssim_metric("ssim-y", "y"),
    "ssim-rgb": ssim_metric("ssim-rgb", "rgb"),
    "sharpness": sharpness_metric,
    "lpips-alex": lpips_metric("alex"),
    "lpips-vgg": lpips_metric("vgg"),
    "dists": dists_metric,
    "niqe": niqe_metric,
    "patch-kid": patch_kid_metric,
    **{name: pyiqa_metric(name) for name in VARIANTS},
}
DEFAULT_METRICS = ("psnr-y", "ssim-y", "lpips-alex", "dists", "niqe", "patch-kid", "sharpness")


def get_metric(name: str, crop_border: int = 0, *, device: str = "cpu") -> AnyMetric:
    """Build a metric by name.

    Args:
        name: A key of METRICS.
        crop_border: Pixels cut off each side first.
        device: Where its network runs.

    Raises:
        PatchScalerError: The name is unknown, or `crop_border` negative.
        MetricUnavailable: A package or its weights are missing.
    """
    if name not in METRICS:
        raise PatchScalerError(f"unknown metric '{name}': choose from {', '.join(METRICS)}")
    if crop_border < 0:
        raise PatchScalerError(f"crop border {crop_border}: take 0 or more")
    return METRICS[name](MetricOptions(crop_border, device))


def resolve_metrics(
    metrics: Sequence[str | AnyMetric], crop_border: int = 0, *, device: str = "cpu"
) -> tuple[list[AnyMetric], dict[str, str]]:
    """Names -> metrics, and the reasons of those that are unavailable.

    Raises PatchScalerError for unknown names.
    """
    found: list[AnyMetric] = []
    unavailable: dict[str, str] = {}
    for metric in dict.fromkeys(metrics):
        if not isinstance(metric, str):
            found.append(metric)
            continue
        try:
            found.append(get_metric(metric, crop_border, device=device))
        except MetricUnavailable as error:
            unavailable[metric] = f"{error.reason}. Hint: {error.hint}"
    return found, unavailable
