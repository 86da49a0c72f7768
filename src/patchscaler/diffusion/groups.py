"""Confidence of a patch -> its group: simple, medium or hard (Eq. 2)."""

import torch
from torch import Tensor

from patchscaler.config import GroupConfig
from patchscaler.diffusion.samplers import SAMPLERS
from patchscaler.errors import PatchScalerError
from patchscaler.patching import PatchGrid, partition

SIMPLE, MEDIUM, HARD = 0, 1, 2


def check_groups(config: GroupConfig) -> GroupConfig:
    """Raises PatchScalerError, naming the number that cannot be."""
    g1, g2 = config.thresholds
    if not 0 <= g2 <= g1 <= 1:
        raise PatchScalerError(
            f"thresholds {g1:g}, {g2:g}: they must fall from gamma_1 <= 1 to gamma_2 >= 0"
        )
    if not 0 <= config.least_confidence <= 1:
        raise PatchScalerError(f"least confidence {config.least_confidence:g}: it must lie in 0..1")
    for time, steps in zip(config.start_times, config.num_inference_steps, strict=True):
        if not 0 <= time <= 1000:
            raise PatchScalerError(f"start time {time}: it must lie in 0..1000")
        if not 0 <= steps <= max(1, time):
            raise PatchScalerError(
                f"{steps} steps from time {time}: take 0 (stays coarse) to {max(1, time)}"
            )
    if config.sampler not in SAMPLERS:
        raise PatchScalerError(
            f"unknown sampler '{config.sampler}': choose one of {', '.join(SAMPLERS)}"
        )
    return config


def patch_confidence(confidence: Tensor, grid: PatchGrid, least: float = 0.0) -> Tensor:
    """Avg(C<y_0>) of Eq. 2: (1, H, W) -> (M,). least: see `capped`."""
    places = partition(confidence, grid)  # (M, 1, V, V)
    return capped(places.mean((1, 2, 3)), places.amin((1, 2, 3)), least)


def capped(mean: Tensor, lowest: Tensor, least: float) -> Tensor:
    """Mean confidences (M,) of patches, no more than `least` where their lowest place is below it
    (ours).

    A patch of blurred fur or feathers has the mean of a flat one, but not everywhere: taken for
    simple it would lie smooth, with straight edges, among others that were drawn.
    """
    return torch.where(lowest < least, mean.clamp_max(least), mean)


def assign_groups(scores: Tensor, thresholds: tuple[float, float]) -> Tensor:
    """Eq. 2: (M,) mean confidences -> (M,) of SIMPLE (gamma_1, 1], MEDIUM (gamma_2, gamma_1], HARD
    [0, gamma_2].
    """
    g1, g2 = thresholds
    return (scores <= g1).long() + (scores <= g2).long()


def thresholds_from_table(
    table: tuple[float, ...], shares: tuple[float, float]
) -> tuple[float, float]:
    """Thresholds for shares of simple and of simple + medium patches, from confidences at even
    quantiles.

    table: `GroupConfig.calibration`. Raises PatchScalerError where a model has none.
    """
    if len(table) < 2:
        raise PatchScalerError(
            "this model stores no calibration: give --thresholds in place of shares"
        )
    check_shares(shares)
    position = [(1 - share) * (len(table) - 1) for share in shares]
    low = [min(int(p), len(table) - 2) for p in position]
    g1, g2 = (
        table[i] + (p - i) * (table[i + 1] - table[i]) for p, i in zip(position, low, strict=True)
    )
    # Nobody and everybody are meant literally, whatever this picture's confidences are.
    return {0.0: 1.0, 1.0: 0.0}.get(shares[0], g1), {0.0: 1.0, 1.0: 0.0}.get(shares[1], g2)


def check_shares(shares: tuple[float, float]) -> None:
    simple, easy = shares
    if not 0 <= simple <= easy <= 1:
        raise PatchScalerError(f"group shares {simple:g}, {easy:g}: they must rise within 0..1")


def thresholds_for(scores: Tensor, shares: tuple[float, float]) -> tuple[float, float]:
    """Thresholds that make `shares[0]` of these patches simple and `shares[1]` simple or medium."""
    check_shares(shares)
    simple, easy = shares
    ordered = scores.float().sort(descending=True).values.tolist()

    def threshold(share: float) -> float:
        """Half-way between the last patch above and the first below; 1 and 0 where
        there is none.
        """
        k = round(share * len(ordered))
        return 1.0 if k == 0 else 0.0 if k == len(ordered) else (ordered[k - 1] + ordered[k]) / 2

    return threshold(simple), threshold(easy)
