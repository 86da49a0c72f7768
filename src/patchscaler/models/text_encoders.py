"""Caption and text encoder of the paper's text prompt (4.4): BLIP-2 and CLIP, by transformers.

Both are frozen and not ours. Neither is fetched unless its hub id is named; a local folder does as
well.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from patchscaler.errors import PatchScalerError

CAPTIONER, TEXT_ENCODER = "Salesforce/blip2-opt-2.7b", "openai/clip-vit-large-patch14"


class Captioner:
    """BLIP-2: a picture -> one sentence, by greedy search, so that the same picture has the same
    caption.
    """

    def __init__(self, source: str | Path = CAPTIONER, device: str = "cpu", longest: int = 30):
        transformers = _transformers()
        self.name, self.device, self.longest = Path(source).name, device, longest
        self.processor = _load(transformers.Blip2Processor, source)
        self.model = _load(transformers.Blip2ForConditionalGeneration, source).to(device).eval()

    @torch.inference_mode()
    def captions(self, pictures: list[Image.Image]) -> list[str]:
        """RGB pictures of any size -> their captions."""
        inputs = self.processor(
            images=[p.convert("RGB") for p in pictures], return_tensors="pt"
        ).to(self.device)
        out = self.model.generate(
            **inputs, max_new_tokens=self.longest, do_sample=False, num_beams=1
        )
        return [text.strip() for text in self.processor.batch_decode(out, skip_special_tokens=True)]


class TextEncoder:
    """CLIP's text encoder: captions -> hidden states of its last layer, as Stable Diffusion uses
    them.
    """

    def __init__(self, source: str | Path = TEXT_ENCODER, device: str = "cpu"):
        transformers = _transformers()
        self.name, self.device = Path(source).name, device
        self.tokenizer = _load(transformers.CLIPTokenizer, source)
        self.model = _load(transformers.CLIPTextModel, source).to(device).eval()
        self.length = int(self.model.config.max_position_embeddings)  # 77
        self.width = int(self.model.config.hidden_size)  # 768 of ViT-L/14

    @torch.inference_mode()
    def tokens(self, captions: list[str]) -> Tensor:
        """(B, L, W), short captions padded, long ones cut."""
        inputs = self.tokenizer(
            captions,
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        )
        return self.model(**inputs.to(self.device)).last_hidden_state.float()


def _transformers() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import transformers
    except ImportError as error:
        raise PatchScalerError(
            "the text prompt needs transformers: pip install 'patchscaler[text]'"
        ) from error
    return transformers


def _load(cls: Any, source: str | Path) -> Any:
    try:
        return cls.from_pretrained(str(source))
    except Exception as error:  # hub, network, file and format errors have no common base class
        raise PatchScalerError(
            f"'{source}' cannot be loaded as {cls.__name__} ({type(error).__name__}): give the "
            "path of a local copy, "
            "or go online once"
        ) from error
