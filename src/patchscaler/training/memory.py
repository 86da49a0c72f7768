"""`patchscaler memory build` and `score`: a texture memory from folders of images."""

import argparse
from pathlib import Path

import numpy as np

from patchscaler.devices import choose_device
from patchscaler.errors import PatchScalerError
from patchscaler.model_folder import find_model
from patchscaler.models.weights import file_hash
from patchscaler.texture_memory import Origin, TextureMemory, build_memory, random_crops
from patchscaler.training.classifier import KeyScore, score_classifier
from patchscaler.training.data.sources import count_images, iterate_images
from patchscaler.training.data.textures import LabelledTextures
from patchscaler.training.folder import ModelFolder


def build_from_folders(args: argparse.Namespace) -> TextureMemory:
    """Random crops of the images below folders -> farthest point sampling on keys -> memory.

    Needs of the model folder only autoencoder and classifier, so that it serves in the middle of
    training.
    """
    model = _open(args)
    config = model.config.texture
    candidates, size = args.candidates or config.candidates, args.size or config.memory_size
    if not 1 <= size <= candidates:
        raise PatchScalerError(f"--size {size} of --candidates {candidates}: take 1 to candidates")
    autoencoder, classifier = model.autoencoder().to(model.device), model.classifier().eval()
    prefixes = tuple(p for p in args.include.split(",") if p)
    images = (
        (name, image)
        for folder in args.images
        for name, image in iterate_images(folder)
        if not prefixes or Path(name).name.startswith(prefixes)
    )
    count = sum(count_images(folder, prefixes) for folder in args.images)
    rng = np.random.default_rng(args.seed)
    side = model.config.groups.latent_patch_size * autoencoder.factor
    found = list(random_crops(images, side, -(-candidates // max(1, count)), rng))
    if len(found) > candidates:
        kept = rng.choice(len(found), candidates, replace=False)
        found = [found[i] for i in sorted(kept)]
    licences = read_licences(args.licences)
    return build_memory(
        [crop for _, crop in found],
        [origin_of(Path(name).name, licences, args.licence) for name, _ in found],
        autoencoder,
        classifier,
        size,
        file_hash(model.path("classifier")),
        args.quality,
    )


def score_folder(args: argparse.Namespace) -> tuple[KeyScore, int]:
    """Score the classifier of a model folder on labelled textures -> score, number of classes."""
    model = _open(args)
    data = LabelledTextures(args.textures, args.exclude, args.dtd_split)
    if data.classes != model.config.texture.classes:
        raise PatchScalerError(
            f"{args.textures}: not the classes of the model's classifier. "
            "Hint: give the folder it was trained on"
        )
    autoencoder, classifier = model.autoencoder().to(model.device), model.classifier().eval()
    side = model.config.groups.latent_patch_size * autoencoder.factor
    return score_classifier(classifier, autoencoder, data, side), len(data.classes)


def _open(args: argparse.Namespace) -> ModelFolder:
    folder = find_model(args.model)
    return ModelFolder(folder, "compact", choose_device(args.device), args.autoencoder)


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
