"""LDM-SR (Rombach et al., 2022): diffusers' LDMSuperResolutionPipeline out of a local folder."""

import importlib.util
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from patchscaler.devices import choose_device, choose_dtype
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.methods import code_hash, file_hash
from patchscaler.evaluation.peers.tiles import SCALE, in_tiles, to_bytes
from patchscaler.images.planes import reflect_pad

# the pipeline's own choice for the sides of its input; it shrinks others, we pad them
MULTIPLE = 32


class LatentDiffusionMethod:
    """Whole images or tiles, the same noise for each of one size. eta = 0 is
    deterministic DDIM.
    """

    def __init__(
        self,
        folder: str | Path,
        name: str | None = None,
        *,
        steps: int = 20,
        eta: float = 0.0,
        seed: int = 0,
        device: str = "auto",
        dtype: str = "float32",
        tile: int = 0,
        overlap: int = 16,
    ):
        self.folder = Path(folder)
        self.name, self.steps, self.eta, self.seed = (
            name or f"ldm-{self.folder.name}",
            steps,
            eta,
            seed,
        )
        self.tile, self.overlap = tile, overlap
        if steps < 1:
            raise PatchScalerError(f"{self.name}: steps {steps}: take 1 or more")
        if not (self.folder / "model_index.json").is_file():
            raise PatchScalerError(
                f"{self.folder}: no model_index.json; give the folder of an "
                "LDMSuperResolutionPipeline"
            )
        if importlib.util.find_spec("diffusers") is None:
            raise PatchScalerError(
                f"{self.name}: needs diffusers: pip install 'patchscaler[paper]'"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # By its own module: the package hides it where transformers is missing, which it does
            # not use.
            module = importlib.import_module(
                "diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion_superresolution"
            )
            from diffusers.utils import logging

        self.device = torch.device(choose_device(device))
        logging.disable_progress_bar()
        try:
            pipeline = module.LDMSuperResolutionPipeline.from_pretrained(
                self.folder, local_files_only=True
            )
        except Exception as error:  # file and format errors have no common base class
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise PatchScalerError(f"{self.folder}: diffusers cannot load it ({reason})") from error
        half = choose_dtype(dtype, str(self.device))
        self.pipeline: Any = pipeline.to(self.device)
        if half != torch.float32:
            self.pipeline = self.pipeline.to(half)
        self.pipeline.set_progress_bar_config(disable=True)

    def upscale(self, lr: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8 -> (4h, 4w, 3) uint8."""
        return to_bytes(
            in_tiles(self._upscale, lr.astype(np.float32) / 255, self.tile, self.overlap)
        )

    def _upscale(self, x: np.ndarray) -> np.ndarray:
        h, w = x.shape[:2]
        planes = torch.from_numpy(x).movedim(-1, 0) * 2 - 1  # (3, h, w) in [-1, 1]
        padded = reflect_pad(planes, *(-(-side // MULTIPLE) * MULTIPLE for side in (h, w)))[None]
        # of the processor: the same on every device
        generator = torch.Generator("cpu").manual_seed(self.seed)
        out = self.pipeline(
            padded,
            num_inference_steps=self.steps,
            eta=self.eta,
            generator=generator,
            output_type="np",
        ).images[0]  # (4 padded h, 4 padded w, 3) in [0, 1]
        if out.shape[0] != SCALE * padded.shape[-2]:
            raise PatchScalerError(
                f"{self.folder}: upscales {out.shape[0] / padded.shape[-2]:g} times, not {SCALE}"
            )
        return out[: SCALE * h, : SCALE * w]

    @cached_property
    def weights(self) -> str:
        """SHA-256 over the names and contents of weights and configurations."""
        suffixes = (".safetensors", ".bin", ".json")
        return file_hash(*(f for f in sorted(self.folder.rglob("*")) if f.suffix in suffixes))

    def describe(self) -> dict[str, Any]:
        from importlib.metadata import version

        return {
            "weights": self.weights,
            "steps": self.steps,
            "eta": self.eta,
            "seed": self.seed,
            "scheduler": type(self.pipeline.scheduler).__name__,
            "runtime": f"diffusers {version('diffusers')}, torch {torch.__version__}",
            "device": str(self.device),
            "dtype": str(self.pipeline.unet.dtype),
            "tile": self.tile,
            "overlap": self.overlap,
            "code": code_hash("evaluation/peers/*.py"),
            "licence": "of the folder's authors",
        }
