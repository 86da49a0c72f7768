"""Two nodes: load a model, upscale. All that they do is turn ComfyUI's tensors into pictures and
back.

ComfyUI's IMAGE is (B, H, W, 3 or 4) floats in [0, 1] on the processor, its MASK (B, H, W).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from patchscaler import PatchScaler
from patchscaler.enlarge import upscale_to_size
from patchscaler.images.overlay import difficulty_mask

CATEGORY = "image/upscaling"
STEPS = 1000  # of the progress bar, an image


class PatchScalerLoader:
    """A shipped model, a folder, or a hub id; ComfyUI keeps what it returns until an
    input changes.
    """

    RETURN_TYPES = ("PATCHSCALER",)
    RETURN_NAMES = ("model",)
    FUNCTION = "load"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Loads a PatchScaler model. 'compact' is installed with the package and fetches nothing."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "model": (
                    "STRING",
                    {"default": "compact", "tooltip": "compact, a folder, or OWNER/NAME of a hub"},
                ),
                "device": (["auto", "cuda", "mps", "cpu"],),
                "dtype": (["auto", "float32", "bfloat16", "float16"],),
            },
            "optional": {
                "memory": (
                    "STRING",
                    {"default": "", "tooltip": "textures of your own (patchscaler memory build)"},
                ),
            },
        }

    def load(self, model: str, device: str, dtype: str, memory: str = "") -> tuple[PatchScaler]:
        return (
            PatchScaler.from_pretrained(model, device=device, dtype=dtype, memory=memory or None),
        )


class PatchScalerUpscale:
    """Images, and for each a mask of where the work went: black simple, grey medium, white hard
    patches.
    """

    RETURN_TYPES = ("IMAGE", "MASK")
    RETURN_NAMES = ("image", "difficulty")
    FUNCTION = "upscale"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Enlarges images; work follows the picture. The mask is white where patches were hard."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "model": ("PATCHSCALER",),
                "image": ("IMAGE",),
                "scale": ("FLOAT", {"default": 4.0, "min": 0.25, "max": 16.0, "step": 0.25}),
                "fidelity": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.05,
                        "tooltip": "0: all that the diffusion invents; 1: nothing invented",
                    },
                ),
                "budget": (
                    "STRING",
                    {
                        "default": "balanced",
                        "tooltip": "fast, balanced, best, or a share of full sampling such as .4",
                    },
                ),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**63 - 1}),
            },
            "optional": {
                "tileable": (
                    "BOOLEAN",
                    {"default": False, "tooltip": "a texture whose opposite borders meet"},
                ),
            },
        }

    def upscale(
        self,
        model: PatchScaler,
        image: torch.Tensor,
        scale: float,
        fidelity: float,
        budget: str,
        seed: int,
        tileable: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        report = progress_bar(len(image))
        images, masks = [], []
        for number, picture in enumerate(image):  # (H, W, 3 or 4)
            # Sixteen bits in are sixteen bits out: a float image shall not come back in 256 steps.
            pixels = (picture.cpu().float().clamp(0, 1) * 65535).round().numpy().astype(np.uint16)
            made = upscale_to_size(
                model,
                pixels,
                scale,
                tileable=tileable,
                seed=seed,
                fidelity=fidelity,
                budget=budget.strip() or None,
                progress=lambda done, total, number=number: report(number, done / total),
            )
            report(number, 1.0)
            images.append(torch.from_numpy(made.array.astype(np.float32) / 65535))  # (h, w, 3 or 4)
            # (h, w)
            masks.append(torch.from_numpy(difficulty_mask(made.passes[-1], made.array.shape[:2])))
        return torch.stack(images), torch.stack(masks)


def progress_bar(images: int) -> Callable[[int, float], None]:
    """(image, share of it) -> ComfyUI's bar, which is also where it stops a run that
    was cancelled.
    """
    try:
        from comfy.utils import ProgressBar
    except ImportError:  # outside of ComfyUI
        return lambda number, share: None
    bar = ProgressBar(images * STEPS)
    return lambda number, share: bar.update_absolute(number * STEPS + int(share * STEPS))


NODE_CLASS_MAPPINGS = {
    "PatchScalerLoader": PatchScalerLoader,
    "PatchScalerUpscale": PatchScalerUpscale,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "PatchScalerLoader": "Load PatchScaler",
    "PatchScalerUpscale": "Upscale (PatchScaler)",
}
