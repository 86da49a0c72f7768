"""Two nodes: load a model, upscale.

ComfyUI's IMAGE is (B, H, W, 3 or 4) floats in [0, 1] on the processor, its MASK (B, H, W).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from patchscaler import PatchScaler, Progress
from patchscaler.images.overlay import difficulty_mask

CATEGORY = "image/upscaling"
FIDELITY = {
    "default of the model": None,
    "0 (vivid)": 0.0,
    "0.25": 0.25,
    "0.5": 0.5,
    "0.75": 0.75,
    "1 (faithful)": 1.0,
}
BUDGET = {
    "default of the model": None,
    "1/4 of all hard": 0.25,
    "1/2 of all hard": 0.5,
    "3/4 of all hard": 0.75,
    "all hard": 1.0,
}
TILE = {"automatic": None, "128": 128, "256": 256, "512": 512, "1024": 1024, "whole image": 0}


class PatchScalerLoader:
    """Load a shipped model or one of ComfyUI/models/patchscaler."""

    RETURN_TYPES = ("PATCHSCALER",)
    RETURN_NAMES = ("model",)
    FUNCTION = "load"
    CATEGORY = CATEGORY
    DESCRIPTION = "Loads a PatchScaler model. 'compact' is installed with the package."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """The inputs, as ComfyUI asks for them."""
        return {
            "required": {
                "model": (["compact", *models()],),
                "device": (["auto", "cuda", "mps", "cpu"],),
                "dtype": (["auto", "float32", "bfloat16", "float16"],),
            }
        }

    def load(self, model: str, device: str, dtype: str) -> tuple[PatchScaler]:
        """Return the pipeline, which ComfyUI keeps until an input changes."""
        source = models().get(model, model)
        return (PatchScaler.from_pretrained(source, device=device, dtype=dtype),)


class PatchScalerUpscale:
    """Upscale images; the second output is white where patches were hard, grey where medium."""

    RETURN_TYPES = ("IMAGE", "MASK")
    RETURN_NAMES = ("image", "difficulty")
    FUNCTION = "upscale"
    CATEGORY = CATEGORY
    DESCRIPTION = "Upscales images of any size. The mask is white where patches were hard."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """The inputs, as ComfyUI asks for them."""
        scale = {"default": 4.0, "min": 0.25, "max": 16.0, "step": 0.25}
        return {
            "required": {
                "model": ("PATCHSCALER",),
                "image": ("IMAGE",),
                "scale": ("FLOAT", scale),
                "fidelity": (list(FIDELITY),),
                "budget": (list(BUDGET),),
                "tile": (list(TILE),),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**63 - 1}),
            },
            "optional": {
                "tileable": ("BOOLEAN", {"default": False}),
                "fidelity_mask": ("MASK", {"tooltip": "white keeps the faithful result there"}),
            },
        }

    def upscale(
        self,
        model: PatchScaler,
        image: torch.Tensor,
        scale: float,
        fidelity: str,
        budget: str,
        tile: str,
        seed: int,
        tileable: bool = False,
        fidelity_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images (B, h, w, 3 or 4) and masks (B, h, w)."""
        report = progress_bar(len(image))
        images, masks = [], []
        for number, frame in enumerate(image):  # (H, W, 3 or 4)
            mask = None
            if fidelity_mask is not None:
                mask = fidelity_mask[number % len(fidelity_mask)].cpu().float().numpy()
            output = model(
                levels(frame),
                scale=scale,
                fidelity=FIDELITY[fidelity],
                fidelity_mask=mask,
                budget=BUDGET[budget],
                tile=TILE[tile],
                seed=seed,
                tileable=tileable,
                max_pixels=0,
                callback=lambda progress, number=number: report(number, progress),
            )
            images.append(torch.from_numpy(output.array.astype(np.float32) / 65535))
            masks.append(torch.from_numpy(difficulty_mask(output, output.array.shape[:2])))
        return torch.stack(images), torch.stack(masks)


def models() -> dict[str, Path]:
    """Name -> folder, of the models in ComfyUI/models/patchscaler."""
    try:
        from folder_paths import models_dir
    except ImportError:  # outside of ComfyUI
        return {}
    found = sorted(Path(models_dir, "patchscaler").glob("*/config.json"))
    return {file.parent.name: file.parent for file in found}


def levels(frame: torch.Tensor) -> np.ndarray:
    """Floats -> 16 bits, which come out in 16 bits again."""
    return (frame.cpu().float().clamp(0, 1) * 65535).round().numpy().astype(np.uint16)


def progress_bar(images: int) -> Callable[[int, Progress], None]:
    """ComfyUI's bar over all images, which is also where it stops a cancelled run."""
    try:
        from comfy.utils import ProgressBar
    except ImportError:  # outside of ComfyUI
        return lambda number, progress: None
    bar, steps = ProgressBar(images * 1000), 1000

    def report(number: int, progress: Progress) -> None:
        bar.update_absolute(number * steps + progress.done * steps // progress.total)

    return report


NODE_CLASS_MAPPINGS = {
    "PatchScalerLoader": PatchScalerLoader,
    "PatchScalerUpscale": PatchScalerUpscale,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "PatchScalerLoader": "Load PatchScaler",
    "PatchScalerUpscale": "Upscale (PatchScaler)",
}
