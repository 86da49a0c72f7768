"""`--fidelity`: from 0, all that the diffusion invents, to 1, the coarse picture and nothing
invented.

Three things move together. The diffusion starts later, from less noise. What it changes is taken
back, most where the GRM was sure and least where it was not. And the low band, the colours, follows
the coarse picture sooner than the detail does.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from patchscaler.config import GroupConfig
from patchscaler.errors import PatchScalerError
from patchscaler.images.color import low_band


def check_fidelity(fidelity: float) -> float:
    if not 0 <= fidelity <= 1:
        raise PatchScalerError(f"fidelity {fidelity:g}: take 0 (vivid) to 1 (faithful)")
    return fidelity


def start_later(config: GroupConfig, fidelity: float) -> GroupConfig:
    """Start times from the group's own at 0 to half of it towards 1, never below a step each; no
    steps at 1.
    """
    if fidelity == 0:
        return config
    if fidelity == 1:
        return replace(config, num_inference_steps=(0, 0, 0))
    pairs = zip(config.start_times, config.num_inference_steps, strict=True)
    first, second, third = (max(n, round(t * (1 - fidelity / 2))) for t, n in pairs)
    return replace(config, start_times=(first, second, third))


def sureness(confidence: Tensor, calibration: tuple[float, ...]) -> Tensor:
    """Confidence as a quantile of what the model's held-out patches had, in [0, 1]; as it is
    without a table.
    """
    if len(calibration) < 2:
        return confidence.clamp(0, 1)
    quantiles = np.linspace(0, 1, len(calibration))
    values = np.interp(confidence.cpu().numpy(), calibration, quantiles).astype(np.float32)
    return torch.from_numpy(values).to(confidence.device)


def detail_kept(confidence: Tensor, calibration: tuple[float, ...], fidelity: float) -> Tensor:
    """(1, H, W) -> (1, H, W): the share of what was invented that stays. (1 - f) to the power of
    1/2 to 2.
    """
    return (1 - fidelity) ** (2.0 ** (2 * sureness(confidence, calibration) - 1))


def towards_coarse(
    latents: Tensor,
    coarse: Tensor,
    confidence: Tensor,
    calibration: tuple[float, ...],
    fidelity: float,
) -> Tensor:
    """latents, coarse: (C, H, W); confidence: (1, H, W) -> (C, H, W)."""
    return coarse + detail_kept(confidence, calibration, fidelity) * (latents - coarse)


def colors_of_coarse(rgb: Tensor, coarse: Tensor, fidelity: float) -> Tensor:
    """(3, H, W) both: the low band of the difference goes, all of it from the middle of the dial
    on.
    """
    return rgb - min(1.0, 2 * fidelity) * low_band(rgb - coarse)
