"""Distances on features of trained networks, as metrics: LPIPS and DISTS
(`patchscaler.models.perceptual`).
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from patchscaler.evaluation.metric import (
    Metric,
    MetricOptions,
    MetricUnavailable,
    Score,
    border_text,
)
from patchscaler.models.packages import PackageMissing
from patchscaler.models.perceptual import DISTS, LPIPS


def lpips_metric(net: str) -> Callable[[MetricOptions], Metric]:
    """net: alex or vgg."""
    name, least = f"lpips-{net}", {"alex": 31, "vgg": 16}[net]

    def build(options: MetricOptions) -> Metric:
        weights = _hash(name, lambda: LPIPS.files(net))
        protocol = f"LPIPS 0.1 on {net}, RGB in [-1, 1], float32, "
        return _distance(name, LPIPS(net), protocol, -1.0, least, weights, options)

    return build


def dists_metric(options: MetricOptions) -> Metric:
    weights = _hash("dists", DISTS.files)
    protocol = "DISTS, RGB in [0, 1], not resized, float32, "
    return _distance("dists", DISTS(), protocol, 0.0, 16, weights, options)


def _distance(
    name: str,
    network: nn.Module,
    protocol: str,
    low: float,
    least: int,
    weights: str,
    options: MetricOptions,
) -> Metric:
    return Metric(
        name,
        higher_is_better=False,
        needs_reference=True,
        protocol=protocol + border_text(options.crop_border),
        score=pair_score(network.to(options.device), options.device, low),
        least=least,
        crop_border=options.crop_border,
        weights=weights,
    )


def pair_score(network: nn.Module, device: str, low: float) -> Score:
    """Image and HR image -> the network's distance; it is given both in [low, 1]."""

    def score(image: np.ndarray, reference: np.ndarray | None) -> float:
        assert reference is not None
        # TF32, torch's choice for convolutions on a GPU, would change the third digit.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return float(network(to_tensor(image, device, low), to_tensor(reference, device, low)))

    return score


def to_tensor(image: np.ndarray, device: str, low: float = 0.0) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) in [low, 1]."""
    x = torch.from_numpy(np.array(image)).movedim(-1, 0)[None].to(device).float() / 255
    return x * (1 - low) + low


def _hash(name: str, files: Callable[[], list[Path]]) -> str:
    """SHA-256 of the weights. Raises MetricUnavailable where a package is missing."""
    try:
        found = files()
    except PackageMissing as error:
        raise MetricUnavailable(name, error.reason, error.hint) from error
    digest = hashlib.sha256()
    for file in found:
        digest.update(file.read_bytes())
    return digest.hexdigest()
