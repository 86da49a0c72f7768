"""Where a model lies and what is in its folder: config.json, one safetensors file a network, the memory."""

import json
from dataclasses import replace
from pathlib import Path

from torch import nn

from patchscaler.config import AutoencoderConfig, ModelConfig
from patchscaler.errors import PatchScalerError
from patchscaler.models.autoencoder import build_autoencoder
from patchscaler.models.grm import build_grm
from patchscaler.models.patch_dit import PatchDiT, TextureEncoder
from patchscaler.models.text_projection import TextProjection
from patchscaler.models.texture import TextureClassifier

SHIPPED = Path(__file__).parent / "weights"
AUTOENCODER_CLASSES = {"AutoencoderKL": "kl", "AutoencoderTiny": "tiny"}


def find_model(source: str | Path) -> Path:
    """Shipped name, folder, or hub id -> folder. Raises PatchScalerError."""
    if (SHIPPED / str(source) / "config.json").is_file():
        return SHIPPED / str(source)
    path = Path(source)
    if path.is_dir():
        return path
    if str(source).count("/") != 1 or str(source).startswith((".", "/")):
        names = ", ".join(sorted(p.parent.name for p in SHIPPED.glob("*/config.json"))) or "none"
        raise PatchScalerError(f"model '{source}': no such folder, and the shipped ones are {names}")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise PatchScalerError(f"model '{source}' is on a hub: pip install 'patchscaler[hub]'") from error
    try:
        return Path(snapshot_download(str(source), allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # network and hub errors have no common base class
        raise PatchScalerError(
            f"model '{source}' cannot be fetched ({type(error).__name__}); download its folder and give that"
        ) from error


def read_config(folder: Path, autoencoder: str | Path | None = None) -> ModelConfig:
    """config.json of a model folder. autoencoder: a local copy to use instead of the one it names."""
    file = folder / "config.json"
    if not file.is_file():
        raise PatchScalerError(f"{folder}: no config.json; give a folder written by save_pretrained")
    try:
        config = ModelConfig.from_json(file.read_text(encoding="utf-8"))
    except (PatchScalerError, UnicodeDecodeError) as error:
        raise PatchScalerError(f"{file}: {error}") from error
    return config if autoencoder is None else with_autoencoder(config, Path(autoencoder))


def with_autoencoder(config: ModelConfig, folder: Path) -> ModelConfig:
    """The same model with a local copy of its AutoencoderKL, or an AutoencoderTiny of the same latents."""
    if config.autoencoder.kind == "pca":
        raise PatchScalerError(f"model '{config.name}' has its own autoencoder: leave --autoencoder out")
    try:
        name = json.loads((folder / "config.json").read_text("utf-8"))["_class_name"]
        kind = AUTOENCODER_CLASSES[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PatchScalerError(f"{folder}: no AutoencoderKL or AutoencoderTiny in diffusers' format") from error
    # A distilled autoencoder takes and gives scaled latents.
    factor = AutoencoderConfig.scaling_factor if kind == "tiny" else config.autoencoder.scaling_factor
    changed = replace(config.autoencoder, kind=kind, model_id=str(folder), revision="", scaling_factor=factor)
    return replace(config, autoencoder=changed)


def build_networks(config: ModelConfig) -> dict[str, nn.Module]:
    """The five networks of a configuration, freshly initialised (a diffusers autoencoder is loaded)."""
    autoencoder = build_autoencoder(config.autoencoder)
    c, v = autoencoder.channels, config.groups.latent_patch_size
    networks: dict[str, nn.Module] = {
        "autoencoder": autoencoder,
        "grm": build_grm(config.grm, c),
        "classifier": TextureClassifier(config.texture, c),
    }
    if config.text_width:
        networks["text_projection"] = TextProjection(config.text_width, config.patch_dit.hidden_size)
    else:
        networks["texture_encoder"] = TextureEncoder(config.patch_dit, c, v)
    return networks | {"patch_dit": PatchDiT(config.patch_dit, c, v)}
