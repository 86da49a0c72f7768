"""The pipeline's steps one at a time, for figures and experiments that need what lies between them.

The same networks in the same order as `PatchScaler.upscale`; a test holds both to the same picture.
Letters: M patches of a picture, C channels, V side of a patch in latents.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from patchscaler.config import GroupConfig
from patchscaler.diffusion.group_sampling import sample_groups, steps_of
from patchscaler.diffusion.groups import assign_groups, check_groups, patch_confidence
from patchscaler.diffusion.noise import noise_field
from patchscaler.images.color import DEFAULT, match_color
from patchscaler.images.planes import Planes, finish, reflect_pad, to_pil, to_planes
from patchscaler.models.patch_dit import Prompt
from patchscaler.patching import PatchGrid, make_grid, merge, partition
from patchscaler.pipeline import PatchScaler, Picture
from patchscaler.refining import refine_parts, refine_tile, refined_parts

# Coarse patches (n, C, V, V) and their places in the picture (n,) -> what cross-attention reads, or
# None.
PromptOf = Callable[[Tensor, Tensor], Prompt | None]


@dataclass
class Restored:
    """One picture before sampling: what the GRM made of it, cut into patches."""

    planes: Planes
    size: tuple[int, int]  # of the small picture, (h, w)
    lr: Tensor  # (3, sH, sW) the small picture, padded
    latents: Tensor  # (C, H, W)
    confidence: Tensor  # (1, H, W)
    grid: PatchGrid
    coarse: Tensor  # (M, C, V, V) y_0
    noise: Tensor  # (M, C, V, V)
    scores: Tensor  # (M,) mean confidence, on the CPU
    groups: Tensor  # (M,) 0 simple, 1 medium, 2 hard, on the CPU
    config: GroupConfig


@torch.inference_mode()
def restore(
    model: PatchScaler, picture: Picture, groups: GroupConfig | None = None, seed: int = 0
) -> Restored:
    """Everything up to the sampling. groups: in place of the model's own numbers."""
    config = check_groups(groups or model.config.groups)
    planes = to_planes(picture)
    height, width = planes.rgb.shape[-2:]
    # (1, 3, h, w)
    lr = reflect_pad(planes.rgb, *model.padded_size(height, width))[None].to(model.device)
    latents, confidence = model.restore(lr)  # (C, H, W), (1, H, W)
    grid = make_grid(latents.shape[-2], latents.shape[-1], config.latent_patch_size, config.overlap)
    noise = noise_field(seed, len(latents), 0, 0, grid.height, grid.width).to(model.device)
    scores = patch_confidence(confidence, grid, config.least_confidence).cpu()
    return Restored(
        planes,
        (height, width),
        lr[0],
        latents,
        confidence,
        grid,
        partition(latents, grid),
        partition(noise, grid),
        scores,
        assign_groups(scores, config.thresholds),
        config,
    )


@torch.inference_mode()
def refine(
    model: PatchScaler,
    restored: Restored,
    index: Tensor | None = None,
    prompt_of: PromptOf | None = None,
    max_patches: int = 64,
) -> Tensor:
    """Sample these patches (all by default), each from its group's start -> (n, C, V, V).

    prompt_of: None for no prompt; `texture_prompts(model)` for the model's own.
    """
    index = torch.arange(len(restored.grid)) if index is None else index.cpu()
    out = restored.coarse[index].clone()
    steps = steps_of(restored.groups[index], restored.config)
    order = steps.argsort(descending=True, stable=True)
    sampled = order[: int((steps > 0).sum())]
    # an empty tensor would give one empty chunk
    for chunk in sampled.split(max_patches) if len(sampled) else ():
        places = index[chunk]
        y_0 = restored.coarse[places]
        prompt = prompt_of(y_0, places) if prompt_of else None
        denoise = model.denoiser(y_0, prompt)
        out[chunk] = sample_groups(
            denoise,
            y_0,
            restored.noise[places],
            restored.groups[places],
            restored.config,
            model.diffusion,
        )
    return out


def texture_prompts(model: PatchScaler) -> PromptOf:
    """The texture prompt of 3.3."""
    return lambda y_0, places: model.texture_prompt(y_0)[0]


@torch.inference_mode()
def fuse(model: PatchScaler, restored: Restored, patches: Tensor) -> Image.Image:
    """(M, C, V, V) -> the picture."""
    latents = merge(patches, restored.grid)
    if model.refiner:
        parts = list(refined_parts(steps_of(restored.groups, restored.config) > 0, restored.grid))
        latents = refine_parts(model, latents, restored.latents, restored.lr, parts)
    image = model.decode(latents, restored.size)  # (3, 4h, 4w)
    image = match_color(image, restored.planes.rgb.to(image), DEFAULT)
    return to_pil(finish(image, restored.planes))


@torch.inference_mode()
def refine_patches(
    model: PatchScaler, restored: Restored, index: Tensor, patches: Tensor
) -> Tensor:
    """Sampled patches (n, C, V, V) at these places, each drawn by itself where the model has a
    refiner.
    """
    if model.refiner is None:
        return patches
    corners, v, s = restored.grid.corners(), restored.grid.size, model.step
    out = []
    for patch, i in zip(patches, index.tolist(), strict=True):
        (y, x), y_0 = corners[i], restored.coarse[i]
        small = restored.lr[:, s * y : s * (y + v), s * x : s * (x + v)]
        out.append(patch + refine_tile(model, patch, y_0, small))
    return torch.stack(out)


@torch.inference_mode()
def patch_pictures(model: PatchScaler, patches: Tensor | Sequence[Tensor]) -> list[Image.Image]:
    """Latents (n, C, V, V) -> pictures of 128 pixels a side (8 V), each decoded by itself."""
    latents = torch.stack(list(patches)).float().to(model.device)
    x = model.autoencoder.decode(latents).clamp(-1, 1)  # (n, 3, 8V, 8V)
    arrays = ((x + 1) * 127.5).round().byte().movedim(1, -1).cpu().numpy()
    return [Image.fromarray(np.ascontiguousarray(a)) for a in arrays]
