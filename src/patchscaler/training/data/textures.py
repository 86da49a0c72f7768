"""Labelled texture images: a folder a class, split by source image."""

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from patchscaler.errors import PatchScalerError
from patchscaler.training.data.collections import dtd_split
from patchscaler.training.data.shards import to_unit
from patchscaler.training.data.sources import iterate_images, source_of

HELD_OUT = 0.2  # of the source images of each class


class LabelledTextures:
    """Images of classes, on disk or in a tar, held in memory.

    A fifth of each class's source images, one at least, is held out by a hash of its name.

    Args:
        folder: One sub-folder a class.
        exclude: Comma-separated prefixes of file names to leave out.
        dtd_split: The folder is DTD: train and val of this official split, test held out.
    """

    def __init__(self, folder: str | Path, exclude: str = "", dtd_split: int | None = None):
        images = [(Path(name), image) for name, image in iterate_images(folder, exclude)]
        self.classes = tuple(sorted({path.parent.name for path, _ in images}))
        if len(self.classes) < 2:
            raise PatchScalerError(
                f"{folder}: needs a sub-folder of images for each of two or more classes"
            )
        held_out = _dtd_test(folder, dtd_split) if dtd_split else _held_out([p for p, _ in images])
        self.train: list[tuple[np.ndarray, int]] = []
        self.validation: list[tuple[np.ndarray, int]] = []
        for path, image in images:
            label = path.parent.name
            part = self.validation if (label, source_of(path.name)) in held_out else self.train
            part.append((image, self.classes.index(label)))

    def sample(self, batch: int, side: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Random crops of training images, augmented: (B, 3, s, s) in [-1, 1], labels (B,)."""
        picks = [self.train[i] for i in rng.integers(len(self.train), size=batch)]
        crops = [_augment(random_crop(image, side, rng), rng) for image, _ in picks]
        return _to_batch(crops), torch.tensor([label for _, label in picks])

    def crops(
        self, held_out: bool, side: int, each: int, blurred: bool = False, batch: int = 64
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """`each` plain crops of every image of one part, the same every time, in batches.

        Args:
            blurred: Reduce them four times and enlarge them again, as a coarse image is.
        """
        rng = np.random.default_rng(0)
        part = self.validation if held_out else self.train
        crops, labels = [], []
        for image, label in part:
            for _ in range(each):
                crop = random_crop(image, side, rng)
                crops.append(blur(crop, 4) if blurred else crop)
                labels.append(label)
        for i in range(0, len(crops), batch):
            yield _to_batch(crops[i : i + batch]), torch.tensor(labels[i : i + batch])


def _held_out(paths: list[Path]) -> set[tuple[str, str]]:
    """(class, source) of the held-out images."""
    sources: dict[str, set[str]] = {}
    for path in paths:
        sources.setdefault(path.parent.name, set()).add(source_of(path.name))
    chosen = set()
    for label, names in sources.items():
        ordered = sorted(names, key=lambda name: (zlib.crc32(name.encode()), name))
        chosen |= {(label, name) for name in ordered[: max(1, round(HELD_OUT * len(ordered)))]}
    return chosen


def _dtd_test(folder: str | Path, number: int) -> set[tuple[str, str]]:
    test = (Path(name) for name in dtd_split(folder, number)["test"])
    return {(path.parent.name, source_of(path.name)) for path in test}


def random_crop(image: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A square of one to two times `side` (as the image allows), reduced to it."""
    size = round(side * min(rng.uniform(1, 2), min(image.shape[:2]) / side))
    y, x = rng.integers(image.shape[0] - size + 1), rng.integers(image.shape[1] - size + 1)
    crop = Image.fromarray(image[y : y + size, x : x + size])
    return np.asarray(crop.resize((side, side), Image.Resampling.BOX))


def blur(crop: np.ndarray, factor: float) -> np.ndarray:
    """Reduce and enlarge again: what is left at a lower resolution."""
    side = len(crop)
    small = max(8, round(side / factor))
    image = Image.fromarray(crop).resize((small, small), Image.Resampling.BOX)
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))


def _augment(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.5:  # the query is a coarse patch: keys must not depend on the finest detail
        crop = blur(crop, rng.uniform(1.5, 5))
    flip = rng.integers(4)
    crop = crop[::-1] if flip & 1 else crop
    crop = crop[:, ::-1] if flip & 2 else crop
    gain = rng.uniform(0.7, 1.3, size=3) * rng.uniform(0.8, 1.2)
    return (crop * gain).clip(0, 255).astype(np.uint8)


def _to_batch(crops: list[np.ndarray]) -> Tensor:
    return to_unit(np.stack(crops).transpose(0, 3, 1, 2))
