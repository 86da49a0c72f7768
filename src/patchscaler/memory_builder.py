"""`patchscaler memory build`: a texture memory from a folder of pictures."""

import argparse
from pathlib import Path

import numpy as np

from patchscaler.devices import choose_device
from patchscaler.errors import PatchScalerError
from patchscaler.models.autoencoder import PCAAutoencoder, build_autoencoder
from patchscaler.models.folder import find_model, read_config
from patchscaler.models.texture import TextureClassifier
from patchscaler.models.weights import file_hash, load_module
from patchscaler.texture_memory import Origin, TextureMemory, build_memory, random_crops
from patchscaler.training.data.sources import count_images, iterate_images


def build_from_folder(args: argparse.Namespace) -> TextureMemory:
    """Random crops of the pictures below a folder -> farthest point sampling on keys -> memory.

    Needs of the model folder only autoencoder and classifier, so that it serves in the middle of
    training.
    """
    folder = find_model(args.model)
    config = read_config(folder, args.autoencoder)
    device = choose_device(args.device)
    autoencoder = build_autoencoder(config.autoencoder).to(device)
    if isinstance(autoencoder, PCAAutoencoder):
        load_module(folder / "autoencoder.safetensors", autoencoder)
    classifier = TextureClassifier(config.texture, autoencoder.channels).to(device).eval()
    load_module(folder / "classifier.safetensors", classifier)
    candidates, size = (
        args.candidates or config.texture.candidates,
        args.size or config.texture.memory_size,
    )
    if min(candidates, size) < 1:
        raise PatchScalerError("--candidates and --size take 1 or more")
    prefixes = tuple(p for p in args.include.split(",") if p)
    pictures = (
        (n, x)
        for n, x in iterate_images(args.images)
        if not prefixes or Path(n).name.startswith(prefixes)
    )
    count = count_images(args.images, prefixes)
    rng = np.random.default_rng(args.seed)
    side = config.groups.latent_patch_size * autoencoder.factor
    found = list(random_crops(pictures, side, -(-candidates // max(1, count)), rng))
    licences = read_licences(args.licences)
    origins = [origin_of(Path(name).name, licences, args.licence) for name, _ in found]
    return build_memory(
        [crop for _, crop in found],
        origins,
        autoencoder,
        classifier,
        size,
        file_hash(folder / "classifier.safetensors"),
        args.quality,
    )


def read_licences(path: str | None) -> list[tuple[str, str, str]]:
    """Lines of PREFIX<tab>LICENCE[<tab>AUTHOR]."""
    if path is None:
        return []
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except OSError as error:
        raise PatchScalerError(f"{path}: cannot be read ({error.strerror})") from error
    rows = [line.split("\t") for line in lines if line.strip()]
    if any(len(row) < 2 for row in rows):
        raise PatchScalerError(f"{path}: each line needs PREFIX<tab>LICENCE<tab>AUTHOR")
    return [(row[0], row[1], row[2] if len(row) > 2 else "") for row in rows]


def origin_of(name: str, licences: list[tuple[str, str, str]], default: str) -> Origin:
    for prefix, licence, author in licences:
        if name.startswith(prefix):
            return Origin(name, licence, author)
    return Origin(name, default)
