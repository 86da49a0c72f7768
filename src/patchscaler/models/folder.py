"""Where a model lies and what is in its folder, on disk as on a hub:

config.json, one safetensors file a network, memory.safetensors, README.md (the model card),
SHA256SUMS, and, where the autoencoder is a diffusers one, a copy of it in autoencoder/, so that the
folder needs nobody else's.
"""

import json
from dataclasses import replace
from pathlib import Path

from torch import nn

from patchscaler.config import AutoencoderConfig, ModelConfig
from patchscaler.errors import PatchScalerError
from patchscaler.models.autoencoder import build_autoencoder
from patchscaler.models.card import MARK, model_card
from patchscaler.models.checksums import write_sums, write_text
from patchscaler.models.grm import build_grm
from patchscaler.models.hub import fetch, is_hub_id
from patchscaler.models.patch_dit import PatchDiT, TextureEncoder
from patchscaler.models.refiner import Refiner
from patchscaler.models.text_projection import TextProjection
from patchscaler.models.texture import TextureClassifier
from patchscaler.models.weights import file_hash, save_module
from patchscaler.texture_memory import TextureMemory

SHIPPED = Path(__file__).parents[1] / "weights"
AUTOENCODER = "autoencoder"  # folder of the copy of a diffusers autoencoder
AUTOENCODER_CLASSES = {"AutoencoderKL": "kl", "AutoencoderTiny": "tiny"}


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


def with_autoencoder(config: ModelConfig, folder: Path) -> ModelConfig:
    """The same model with a local copy of its AutoencoderKL, or an AutoencoderTiny of the same
    latents.
    """
    if config.autoencoder.kind == "pca":
        raise PatchScalerError(
            f"model '{config.name}' has its own autoencoder: leave --autoencoder out"
        )
    try:
        name = json.loads((folder / "config.json").read_text("utf-8"))["_class_name"]
        kind = AUTOENCODER_CLASSES[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PatchScalerError(
            f"{folder}: no AutoencoderKL or AutoencoderTiny in diffusers' format"
        ) from error
    # A distilled autoencoder takes and gives scaled latents.
    factor = (
        AutoencoderConfig.scaling_factor if kind == "tiny" else config.autoencoder.scaling_factor
    )
    changed = replace(
        config.autoencoder, kind=kind, model_id=str(folder), revision="", scaling_factor=factor
    )
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
    networks: dict[str, nn.Module] = {
        "autoencoder": first,
        "grm": build_grm(config.grm, c),
        "classifier": TextureClassifier(config.texture, c),
    }
    if config.text_width:
        networks["text_projection"] = TextProjection(
            config.text_width, config.patch_dit.hidden_size
        )
    else:
        networks["texture_encoder"] = TextureEncoder(config.patch_dit, c, v)
    networks["patch_dit"] = PatchDiT(config.patch_dit, c, v)
    return networks | ({"refiner": Refiner(config.refiner)} if config.refiner.width else {})


def write_model(
    folder: Path,
    config: ModelConfig,
    networks: dict[str, nn.Module],
    memory: TextureMemory | None,
    half: bool = True,
    licence: str = "unknown",
    copy_autoencoder: bool = True,
) -> None:
    """The whole folder, its sums last: one that was not written to the end does not load as if it
    had been.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for name, network in networks.items():
        if name != "autoencoder" or config.autoencoder.kind == "pca":
            names.append(f"{name}.safetensors")
            save_module(folder / names[-1], network, {"network": name}, half)
        elif copy_autoencoder:
            network.model.save_pretrained(folder / AUTOENCODER)  # type: ignore[operator, union-attr]
            names += autoencoder_files(folder)
    if memory:
        memory.key_model = file_hash(folder / "classifier.safetensors")
        memory.save(folder / "memory.safetensors")
        names.append("memory.safetensors")
    else:
        config = replace(config, texture=replace(config.texture, memory_size=0))
    write_text(folder / "config.json", config.to_json() + "\n")
    card = folder / "README.md"
    if not card.is_file() or MARK in card.read_text(encoding="utf-8", errors="replace"):
        write_text(card, model_card(config, networks, memory, licence))
    write_sums(folder, [*names, "config.json"])
