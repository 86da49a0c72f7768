"""The model folder that the stages fill: the layout of `save_pretrained`."""

import argparse
import dataclasses
import os
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from patchscaler.config import ModelConfig, preset
from patchscaler.devices import choose_device
from patchscaler.errors import PatchScalerError
from patchscaler.model_folder import has_own_autoencoder, read_config, with_autoencoder
from patchscaler.models.autoencoder import Autoencoder, PCAAutoencoder, build_autoencoder
from patchscaler.models.denoiser import RRDBDenoiser
from patchscaler.models.grm import GRM, build_grm
from patchscaler.models.patch_dit import PatchDiT, TextureEncoder
from patchscaler.models.text_projection import TextProjection
from patchscaler.models.texture import TextureClassifier
from patchscaler.models.weights import file_hash, load_module, write_text
from patchscaler.texture_memory import TextureMemory

Network = TypeVar("Network", bound=nn.Module)


class ModelFolder:
    """The networks of a model folder: loaded where a file is there, fresh where none is.

    Args:
        folder: Made, with the configuration of `preset_name`, where it is missing.
        autoencoder: A local copy of the autoencoder of a `paper` model.
    """

    def __init__(
        self, folder: str | Path, preset_name: str, device: str, autoencoder: str | None = None
    ):
        self.folder, self.device = Path(folder), device
        if not (self.folder / "config.json").exists():
            config = preset(preset_name)
            self.save_config(with_autoencoder(config, Path(autoencoder)) if autoencoder else config)
        self.config = read_config(self.folder, autoencoder)

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "ModelFolder":
        """The folder that a command names; seeds torch, too."""
        torch.manual_seed(args.seed)
        device = choose_device(args.device)
        if device == "cuda":  # one process a device: torchrun and accelerate say which
            device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        return cls(args.model, args.preset, device, args.autoencoder)

    def save_config(self, config: ModelConfig) -> None:
        self.config = config
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "config.json", config.to_json() + "\n")

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _fill(self, name: str, network: Network, needed: bool) -> Network:
        if self.path(name).exists():
            load_module(self.path(name), network)
        elif needed:
            raise PatchScalerError(
                f"{self.path(name)}: missing. Hint: run the stage that makes it first"
            )
        return network.to(self.device)

    @property
    def channels(self) -> int:
        return self.config.autoencoder.channels

    def autoencoder(self) -> Autoencoder:
        """Raises PatchScalerError where a fitted one is missing."""
        network = build_autoencoder(self.config.autoencoder)
        if has_own_autoencoder(self.config) and isinstance(network, PCAAutoencoder):
            return self._fill("autoencoder", network, True)
        return network

    def grm(self, needed: bool = True) -> GRM:
        return self._fill("grm", build_grm(self.config.grm, self.channels), needed)

    def classifier(self, needed: bool = True) -> TextureClassifier:
        network = TextureClassifier(self.config.texture, self.channels)
        return self._fill("classifier", network, needed)

    def patch_dit(self, needed: bool = True) -> PatchDiT:
        size = self.config.groups.latent_patch_size
        return self._fill("patch_dit", PatchDiT(self.config.patch_dit, self.channels, size), needed)

    def texture_encoder(self, needed: bool = True) -> TextureEncoder:
        size = self.config.groups.latent_patch_size
        network = TextureEncoder(self.config.patch_dit, self.channels, size)
        return self._fill("texture_encoder", network, needed)

    def text_projection(self, needed: bool = True) -> TextProjection:
        network = TextProjection(self.config.text_width, self.config.patch_dit.hidden_size)
        return self._fill("text_projection", network, needed)

    def denoiser(self, needed: bool = True) -> RRDBDenoiser:
        """Raises PatchScalerError where the configuration has none."""
        if not self.config.denoiser.width:
            raise PatchScalerError(
                f"{self.folder}: the model '{self.config.name}' has no RRDB denoiser. "
                "Hint: take --preset compact"
            )
        return self._fill("denoiser", RRDBDenoiser(self.config.denoiser), needed)

    def memory(self, autoencoder: Autoencoder) -> TextureMemory:
        key_model = file_hash(self.path("classifier"))
        return TextureMemory.load(self.path("memory"), autoencoder, key_model)

    def choose_prompt(self, kind: str, text_width: int) -> None:
        """Settle on `texture` or `text` in the configuration.

        Raises:
            PatchScalerError: The other was trained in this folder.
        """
        other = "texture_encoder" if kind == "text" else "text_projection"
        if self.path(other).exists():
            raise PatchScalerError(
                f"{self.folder}: holds a model with another prompt ({self.path(other).name}). "
                "Hint: copy the folder as it was before 'train diffusion' and train the "
                f"{kind} prompt there"
            )
        if kind == "text":  # such a model retrieves nothing
            texture = dataclasses.replace(self.config.texture, memory_size=0)
            config = dataclasses.replace(self.config, text_width=text_width, texture=texture)
            self.save_config(config)


def read_foreign(path: str) -> dict[str, Tensor]:
    """Read a safetensors file that PatchScaler did not write."""
    try:
        return load_file(path)
    except Exception as error:  # safetensors and file errors
        raise PatchScalerError(f"{path}: not a readable safetensors file ({error})") from error
