"""One image before denoising, for figures that need what lies between the steps.

Letters: M patches of an image, C channels, V side of a patch in latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from patchscaler.config import GroupConfig
from patchscaler.diffusion.groups import assign_groups, patch_confidence
from patchscaler.diffusion.noise import NoiseField
from patchscaler.evaluation.learned import to_tensor
from patchscaler.images.planes import reflect_pad
from patchscaler.model import Model
from patchscaler.patching import PatchGrid, make_grid, partition


@dataclass
class Restored:
    """What the GRM made of an image, cut into patches; all on the CPU."""

    lr: Tensor  # (3, h, w) in [-1, 1], padded
    grid: PatchGrid
    coarse: Tensor  # (M, C, V, V) y_0
    noise: Tensor  # (M, C, V, V)
    scores: Tensor  # (M,) mean confidence
    groups: Tensor  # (M,) 0 simple, 1 medium, 2 hard


@torch.inference_mode()
def restore(
    model: Model, lr: np.ndarray, groups: GroupConfig | None = None, seed: int = 0
) -> Restored:
    """Everything up to the denoising, as `PatchScaler.upscale` does it in one tile.

    Args:
        model: The networks.
        lr: (h, w, 3) uint8.
        groups: In place of the model's own.
        seed: Of the noise.
    """
    config = groups or model.config.groups
    x = to_tensor(lr, "cpu", -1.0)[0]  # (3, h, w)
    x = reflect_pad(x, *model.padded_size(*x.shape[1:]))
    latents, confidence = (z.cpu() for z in model.restore(x[None]))  # (C, H, W), (1, H, W)
    height, width = latents.shape[1:]
    grid = make_grid(height, width, config.latent_patch_size, config.overlap)
    noise = NoiseField(seed, len(latents)).window(0, 0, height, width)
    scores = patch_confidence(confidence, grid, config.least_confidence)
    return Restored(
        x,
        grid,
        partition(latents, grid),
        partition(noise, grid),
        scores,
        assign_groups(scores, config.thresholds),
    )


@torch.inference_mode()
def patch_images(model: Model, patches: Tensor | Sequence[Tensor]) -> list[Image.Image]:
    """Latents (n, C, V, V) -> images of 8V pixels a side, each decoded by itself."""
    latents = torch.stack(list(patches)).float().to(model.device)
    x = model.autoencoder.decode(latents).clamp(-1, 1)  # (n, 3, 8V, 8V)
    arrays = ((x + 1) * 127.5).round().byte().movedim(1, -1).cpu().numpy()
    return [Image.fromarray(np.ascontiguousarray(a)) for a in arrays]
