"""A model with the text prompt (4.4) as a method: caption of the LR image -> tokens -> the same
denoising.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.methods import PatchScalerMethod, code_hash
from patchscaler.model import Model
from patchscaler.models.patch_dit import Prompt
from patchscaler.models.text_encoders import Captioner, TextEncoder
from patchscaler.models.text_projection import TextProjection
from patchscaler.pipeline import PatchScaler
from patchscaler.reproduce.measuring import Entry
from patchscaler.reproduce.paper import TABLE_5


class TextModel(Model):
    """A model whose prompt is one caption for all patches. Set `tokens`, (1, L, W), first."""

    tokens: Tensor

    @property
    def top_k(self) -> int:
        return 1

    @torch.inference_mode()
    def texture_prompt(self, y_0: Tensor) -> tuple[Prompt, Tensor]:
        projection = self.networks["text_projection"]
        assert isinstance(projection, TextProjection)
        with self.autocast():
            context = projection(self.tokens.to(self.device)).expand(len(y_0), -1, -1)  # (n, L, D)
            return self.patch_dit.prepare(context), torch.full((len(y_0), 1), -1)


class TextPrompted(PatchScalerMethod):
    """A method of `patchscaler.evaluation`."""

    def __init__(self, model: Model, captioner: Captioner, encoder: TextEncoder, **options: Any):
        if model.config.text_width != encoder.width:
            width = model.config.text_width
            trained = f"for tokens of {width}" if width else "with textures"
            raise PatchScalerError(
                f"{model.config.name}: trained {trained}, the text encoder gives {encoder.width}. "
                "Hint: train it with 'patchscaler train diffusion --prompt text'"
            )
        device = str(model.device)
        self.model = TextModel(model.config, model.networks, model.memory, device, model.dtype)
        self.captioner, self.encoder = captioner, encoder
        super().__init__(PatchScaler(self.model), "text prompt", **options)

    def upscale(self, lr: np.ndarray) -> np.ndarray:
        caption = self.captioner.captions([Image.fromarray(lr)])[0]
        self.model.tokens = self.encoder.tokens([caption])
        image = super().upscale(lr)
        self.cost["caption"] = caption
        return image

    def describe(self) -> dict[str, Any]:
        return super().describe() | {
            "code of the prompt": code_hash("reproduce/text_method.py", "models/text_encoders.py"),
            "captioner": self.captioner.name,
            "text encoder": self.encoder.name,
        }


def text_entry(
    folder: str | Path | None,
    captioner: str,
    encoder: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    autoencoder: str | None = None,
    seed: int = 0,
) -> Entry:
    """Table 5's row of the text prompt; without a model or its helpers, the reason and the hint."""
    entry = Entry("text prompt", TABLE_5["text prompt"])
    if folder is None:
        entry.reason = (
            "no --text-model was given; train one with 'patchscaler train diffusion --prompt text'"
        )
        return entry
    try:
        model = Model.from_pretrained(folder, device=device, dtype=dtype, autoencoder=autoencoder)
        where = str(model.device)
        helpers = Captioner(captioner, where), TextEncoder(encoder, where)
        entry.method = TextPrompted(model, *helpers, seed=seed)
    except PatchScalerError as error:
        entry.reason = str(error)
    return entry
