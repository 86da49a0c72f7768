"""Does the confidence know where the coarse picture is wrong?

Rank correlation over the patches of pictures.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from patchscaler.diffusion.groups import patch_confidence
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.pairs import Pair
from patchscaler.images.planes import array_planes, reflect_pad
from patchscaler.patching import make_grid, partition
from patchscaler.training.coarse import rank_correlation

if TYPE_CHECKING:
    from patchscaler.pipeline import PatchScaler

ERRORS = ("latents", "pixels", "pixels_l1")  # mean squared error of either, mean absolute error


@torch.inference_mode()
def patch_errors(scaler: "PatchScaler", pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Confidence of each patch of all pictures, and its errors: (M,), (3, M) in the order of
    `ERRORS`.

    The errors are those of the coarse picture against the original, in standardised latents and in
    pixels of -1..1; patches are those that are sampled. Raises PatchScalerError where a pair has no
    original.
    """
    scores, errors = [], []
    for pair in pairs:
        hr = pair.hr
        if hr is None:
            raise PatchScalerError(f"{pair.name}: has no original to compare with; give --hr")
        planes = array_planes(pair.lr)
        height, width = planes.rgb.shape[-2:]
        padded = scaler.padded_size(height, width)
        coarse, confidence = scaler.restore(
            reflect_pad(planes.rgb, *padded)[None].to(scaler.device)
        )
        factor, groups = scaler.autoencoder.factor, scaler.config.groups
        grid = make_grid(coarse.shape[1], coarse.shape[2], groups.latent_patch_size, groups.overlap)
        original = reflect_pad(
            array_planes(hr).rgb, *(scaler.config.scale * side for side in padded)
        )
        original = original[None].to(scaler.device)  # (1, 3, H, W)
        apart = scaler.autoencoder.decode(coarse[None]) - original  # (1, 3, H, W)
        wrong = torch.stack(
            [
                (coarse - scaler.autoencoder.encode(original)[0]).square().mean(0),
                F.avg_pool2d(apart.square().mean(1), factor)[0],
                F.avg_pool2d(apart.abs().mean(1), factor)[0],
            ]
        )  # (3, H / factor, W / factor)
        scores.append(patch_confidence(confidence, grid).cpu())
        errors.append(partition(wrong, grid).mean((2, 3)).T.cpu())
    return torch.cat(scores), torch.cat(errors, 1)


def confidence_lines(scores: Tensor, errors: Tensor) -> list[str]:
    """For people. Raises PatchScalerError for too few patches to be put in order."""
    if len(scores) < 3:
        raise PatchScalerError(
            f"{len(scores)} patches are too few to be put in order: give more or larger pictures"
        )
    names = {
        "latents": "latents, squared",
        "pixels": "pixels, squared",
        "pixels_l1": "pixels, absolute",
    }
    low, median, high = np.quantile(scores.numpy(), (0.1, 0.5, 0.9))
    lines = [
        f"{len(scores)} patches; confidence {median:.3f} (a tenth below {low:.3f}, a tenth above "
        f"{high:.3f})"
    ]
    lines += [
        f"rank correlation of low confidence and error ({names[name]}): "
        f"{rank_correlation(-scores, error):.3f}"
        for name, error in zip(ERRORS, errors, strict=True)
    ]
    return lines
