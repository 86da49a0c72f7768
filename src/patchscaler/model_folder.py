"""Where a model lies and what is in its folder, on disk as on a hub:

config.json, one safetensors file a network, memory.safetensors, README.md (the model card), and,
where the autoencoder is a diffusers one, a copy of it in autoencoder/, so that the folder is whole.
"""

import json
from dataclasses import replace
from pathlib import Path

from torch import nn

from patchscaler.config import ModelConfig
from patchscaler.errors import PatchScalerError
from patchscaler.model_card import MARK, model_card
from patchscaler.models.autoencoder import build_autoencoder
from patchscaler.models.denoiser import RRDBDenoiser
from patchscaler.models.grm import build_grm
from patchscaler.models.hub import fetch, is_hub_id
from patchscaler.models.patch_dit import PatchDiT, TextureEncoder
from patchscaler.models.text_projection import TextProjection
from patchscaler.models.texture import TextureClassifier
from patchscaler.models.weights import file_hash, save_module, write_text
from patchscaler.texture_memory import TextureMemory

SHIPPED = Path(__file__).parent / "weights"
AUTOENCODER = "autoencoder"  # folder of the copy of a diffusers autoencoder
OWN_AUTOENCODERS = ("pca", "pixel_unshuffle")


def find_model(source: str | Path, offline: bool = False) -> Path:
    """Shipped name, folder, or hub id (owner/name, or owner/name@revision) -> folder.

    Raises PatchScalerError.
    """
    if (SHIPPED / str(source) / "config.json").is_file():
        return SHIPPED / str(source)
    path = Path(source)
    if path.is_dir():
        return path
    if not is_hub_id(str(source)):
        names = ", ".join(sorted(p.parent.name for p in SHIPPED.glob("*/config.json"))) or "none"
        raise PatchScalerError(
            f"model '{source}': no such folder, and the shipped ones are {names}"
        )
    return fetch(str(source), offline)


def read_config(folder: Path, autoencoder: str | Path | None = None) -> ModelConfig:
    """config.json of a model folder. autoencoder: a local copy to use instead of the
    one it names.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise PatchScalerError(
            f"{folder}: no config.json; give a folder written by save_pretrained"
        )
    try:
        config = ModelConfig.from_json(file.read_text(encoding="utf-8"))
    except (PatchScalerError, UnicodeDecodeError) as error:
        raise PatchScalerError(f"{file}: {error}") from error
    return config if autoencoder is None else with_autoencoder(config, Path(autoencoder))


def has_own_autoencoder(config: ModelConfig) -> bool:
    """Whether the autoencoder is ours, in a file of the model's folder."""
    return config.autoencoder.kind in OWN_AUTOENCODERS


def with_autoencoder(config: ModelConfig, folder: Path) -> ModelConfig:
    """The same model with a local copy of its AutoencoderKL."""
    if has_own_autoencoder(config):
        raise PatchScalerError(
            f"model '{config.name}' has its own autoencoder. Hint: leave --autoencoder out"
        )
    try:
        name = json.loads((folder / "config.json").read_text("utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        name = None
    if name != "AutoencoderKL":
        raise PatchScalerError(f"{folder}: no AutoencoderKL in diffusers' format")
    changed = replace(config.autoencoder, model_id=str(folder), revision="")
    return replace(config, autoencoder=changed)


def autoencoder_files(folder: Path) -> list[str]:
    """Of the autoencoder's copy in a model folder, by their names in it; none where there is no
    copy.
    """
    if not (folder / AUTOENCODER / "config.json").is_file():
        return []
    return sorted(
        f"{AUTOENCODER}/{file.name}" for file in (folder / AUTOENCODER).iterdir() if file.is_file()
    )


def build_networks(
    config: ModelConfig, autoencoder: str | Path | None = None, offline: bool = False
) -> dict[str, nn.Module]:
    """The networks of a configuration, freshly initialised (a diffusers autoencoder is loaded).

    autoencoder: where that one is, in place of what the configuration names. offline: nothing is
    fetched.
    """
    first = build_autoencoder(config.autoencoder, autoencoder, offline)
    c, v = first.channels, config.groups.latent_patch_size
    networks: dict[str, nn.Module] = {"autoencoder": first, "grm": build_grm(config.grm, c)}
    if config.denoiser.width:
        return networks | {"denoiser": RRDBDenoiser(config.denoiser)}
    networks["classifier"] = TextureClassifier(config.texture, c)
    if config.text_width:
        networks["text_projection"] = TextProjection(
            config.text_width, config.patch_dit.hidden_size
        )
    else:
        networks["texture_encoder"] = TextureEncoder(config.patch_dit, c, v)
    networks["patch_dit"] = PatchDiT(config.patch_dit, c, v)
    return networks


def write_model(
    folder: Path,
    config: ModelConfig,
    networks: dict[str, nn.Module],
    memory: TextureMemory | None,
    half: bool = True,
    license: str = "unknown",
    copy_autoencoder: bool = True,
) -> None:
    """Write the whole folder, its configuration last: half of one does not load."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, network in networks.items():
        if name != "autoencoder" or config.autoencoder.kind == "pca":
            save_module(folder / f"{name}.safetensors", network, {"network": name}, half)
        elif not has_own_autoencoder(config) and copy_autoencoder:
            network.model.save_pretrained(folder / AUTOENCODER)  # type: ignore[operator, union-attr]
    if memory:
        memory.key_model = file_hash(folder / "classifier.safetensors")
        memory.save(folder / "memory.safetensors")
    else:
        config = replace(config, texture=replace(config.texture, memory_size=0))
    card = folder / "README.md"
    if not card.is_file() or MARK in card.read_text(encoding="utf-8", errors="replace"):
        write_text(card, model_card(config, networks, memory, license))
    write_text(folder / "config.json", config.to_json() + "\n")
