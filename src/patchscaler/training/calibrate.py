"""Stage `calibrate`: what confidences held-out patches have, and the groups' thresholds from it."""

import argparse
import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from patchscaler.diffusion.groups import thresholds_for
from patchscaler.errors import PatchScalerError
from patchscaler.models.autoencoder import Autoencoder
from patchscaler.models.grm import GRM
from patchscaler.training.data.shards import PairShards
from patchscaler.training.folder import ModelFolder

PATCH, STRIDE = 16, 8  # latents


@torch.no_grad()
def patch_errors(
    grm: GRM, autoencoder: Autoencoder, shards: PairShards, device: str
) -> tuple[Tensor, Tensor]:
    """Measure the mean confidence and the mean squared latent error of every patch: (M,), (M,)."""
    errors, confidences = [], []
    for lr, hr in shards.pairs(8):
        coarse, confidence = grm(lr.to(device), autoencoder)
        e2 = (coarse - autoencoder.encode(hr.to(device))).square().mean(1, keepdim=True)
        errors.append(F.avg_pool2d(e2, PATCH, STRIDE).flatten())
        confidences.append(F.avg_pool2d(confidence, PATCH, STRIDE).flatten())
    return torch.cat(confidences).cpu(), torch.cat(errors).cpu()


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's: Pearson's correlation of ranks (ties by position)."""
    ranks = torch.stack([x.argsort().argsort().float() for x in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


def run(args: argparse.Namespace) -> None:
    if not 0 <= args.least <= 1:
        raise PatchScalerError(f"--least {args.least}: take a share of the first threshold, 0 to 1")
    model = ModelFolder.from_args(args)
    shards = PairShards(args.validation)
    scores, errors = patch_errors(model.grm(), model.autoencoder(), shards, model.device)
    table = torch.quantile(scores, torch.linspace(0, 1, 21)).tolist()
    groups = dataclasses.replace(model.config.groups, calibration=tuple(round(c, 5) for c in table))
    if not args.keep_thresholds:
        shares = (args.simple, args.easy)
        groups = dataclasses.replace(
            groups, thresholds=thresholds_for(scores, shares), quantiles=shares
        )
    groups = dataclasses.replace(
        groups, least_confidence=round(args.least * groups.thresholds[0], 5)
    )
    model.save_config(dataclasses.replace(model.config, groups=groups))
    g1, g2 = groups.thresholds
    simple, easy = (float((scores > g).float().mean()) for g in (g1, g2))
    print(
        f"thresholds {g1:.4f}, {g2:.4f}: {simple:.1%} simple, {easy - simple:.1%} medium; "
        f"median confidence {scores.median():.3f}, median squared error {errors.median():.4f}"
    )
