"""A model with the text prompt (4.4) as a method: caption of the small picture -> tokens -> the
same sampling.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from patchscaler.config import GroupConfig
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.methods import PatchScalerMethod, code_hash
from patchscaler.evaluation.pairs import to_rgb
from patchscaler.models.patch_dit import Prompt
from patchscaler.models.text_encoders import Captioner, TextEncoder
from patchscaler.models.text_projection import TextProjection
from patchscaler.pipeline import PatchScaler
from patchscaler.reproduce.chain import fuse, refine, restore
from patchscaler.reproduce.paper import TABLE_5
from patchscaler.reproduce.quality import Entry


class TextPrompted:
    """A method of `patchscaler.evaluation`. groups: in place of the model's own numbers."""

    name = "text prompt"

    def __init__(
        self,
        model: PatchScaler,
        folder: str | Path,
        captioner: Captioner,
        encoder: TextEncoder,
        groups: GroupConfig | None = None,
        seed: int = 0,
    ):
        if model.config.text_width != encoder.width:
            trained = (
                f"for tokens of {model.config.text_width}"
                if model.config.text_width
                else "with textures"
            )
            raise PatchScalerError(
                f"{folder}: this model was trained {trained}, the text encoder gives "
                f"{encoder.width}; "
                "train it with 'patchscaler train diffusion --prompt text'"
            )
        self.model, self.captioner, self.encoder = model, captioner, encoder
        self.groups, self.seed = groups, seed
        self.cost: dict[str, Any] = {}  # of the last picture: its caption

    def upscale(self, lr: np.ndarray) -> np.ndarray:
        caption = self.captioner.captions([Image.fromarray(lr)])[0]
        self.cost = {"caption": caption}
        restored = restore(self.model, lr, self.groups, self.seed)
        patches = refine(
            self.model, restored, prompt_of=self._prompts(self.encoder.tokens([caption]))
        )
        return to_rgb(fuse(self.model, restored, patches))

    def _prompts(self, tokens: Tensor) -> Any:
        """One caption for all patches of the picture. tokens: (1, L, W)."""
        projection = self.model.networks["text_projection"]
        assert isinstance(projection, TextProjection)

        @torch.inference_mode()
        def prompt_of(y_0: Tensor, places: Tensor) -> Prompt:
            with self.model.autocast():
                # (n, L, D)
                context = projection(tokens.to(self.model.device)).expand(len(y_0), -1, -1)
                return self.model.patch_dit.prepare(context)

        return prompt_of

    def describe(self) -> dict[str, Any]:
        ours = PatchScalerMethod(self.model, seed=self.seed, groups=self.groups).describe()
        own = code_hash("reproduce/chain.py", "reproduce/text_method.py", "models/text_encoders.py")
        return ours | {
            "code of the prompt": own,
            "captioner": self.captioner.name,
            "text encoder": self.encoder.name,
        }


def text_entry(
    folder: str | None,
    captioner: str,
    encoder: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    autoencoder: str | None = None,
    seed: int = 0,
) -> Entry:
    """Table 5's row of the text prompt; without a model or its two helpers, the reason and the
    hint.
    """
    entry = Entry("text prompt", TABLE_5["text prompt"])
    if folder is None:
        entry.reason = (
            "no --text-model was given; train one with 'patchscaler train diffusion --prompt text'"
        )
        return entry
    try:
        model = PatchScaler.from_pretrained(
            folder, device=device, dtype=dtype, autoencoder=autoencoder
        )
        helpers = Captioner(captioner, str(model.device)), TextEncoder(encoder, str(model.device))
        entry.method = TextPrompted(model, folder, *helpers, seed=seed)
    except PatchScalerError as error:
        entry.reason = str(error)
    return entry
