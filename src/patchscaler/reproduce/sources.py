"""Where an experiment's images come from: a named data set, checked, or any folder.

`NAME=DIR` is a data set of `patchscaler data`, `DIR` a folder of images. LSDIR becomes LSDIR-Test
here.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.pairs import Failure, Pair, load_pairs, problem_of, read_image
from patchscaler.images.write import save_image
from patchscaler.training.data.collections import COLLECTIONS, Collection, open_collection

DEGRADATION = "mild"  # ResShift's test set, which LSDIR-Test follows (4.1)
LSDIR_TEST_SIZE, CROP = 2000, 512


@dataclass
class Source:
    """Images of one data set, ready to be measured."""

    name: str
    pairs: list[Pair]
    failures: list[Failure] = field(default_factory=list)
    described: dict[str, Any] = field(default_factory=dict)

    @property
    def has_originals(self) -> bool:
        return any(pair.hr_file for pair in self.pairs)


def open_source(
    text: str,
    *,
    originals: bool = False,
    limit: int = 0,
    seed: int = 0,
    unchecked: bool = False,
    out: str | Path = ".",
) -> Source:
    """'NAME=DIR' or 'DIR' -> its images, the first `limit` by name (0: all).

    originals: a folder holds HR images, which are degraded as LSDIR-Test is; otherwise LR
    images. out: where crops of LSDIR are kept. Raises PatchScalerError.
    """
    name, separator, folder = text.partition("=")
    if separator and name in COLLECTIONS:
        collection = open_collection(name, folder, unchecked=unchecked)
        pairs, failures = _collection_pairs(collection, originals, limit, seed, Path(out))
        described = collection.describe()
    else:
        if separator and not Path(text).is_dir():
            raise PatchScalerError(
                f"unknown data set '{name}': choose from {', '.join(COLLECTIONS)}, or give a folder"
            )
        folders = {"hr": text, "degradation": DEGRADATION} if originals else {"lr": text}
        pairs, failures = load_pairs(**folders, seed=seed, limit=limit)  # type: ignore[arg-type]
        name, described = Path(text).name, {"collection": None, "folder": Path(text).name}
    if not pairs:
        raise PatchScalerError(f"{text}: no image can be used ({failures[0]})")
    described |= {"used": len(pairs), "seed": seed, "degradation": pairs[0].degradation}
    return Source(name, pairs, failures, described)


def _collection_pairs(
    collection: Collection, originals: bool, limit: int, seed: int, out: Path
) -> tuple[list[Pair], list[Failure]]:
    if collection.name == "lsdir":
        return lsdir_test(collection, out / "lsdir-test", limit, seed)
    if collection.pairs:
        pairs = [Pair(_plain_stem(hr), lr, hr) for lr, hr in collection.pairs]
    elif originals:
        pairs = [Pair(file.stem, None, file, DEGRADATION, seed) for file in collection.files()]
    else:
        pairs = [Pair(file.stem, file) for file in collection.files()]
    return _usable(pairs[: limit or None])


def lsdir_test(
    collection: Collection, folder: Path, limit: int = 0, seed: int = 0
) -> tuple[list[Pair], list[Failure]]:
    """LSDIR-Test: 2,000 images, centre crops of 512 pixels, degraded mildly, each seeded by its
    own name.

    The paper's own 2,000 were drawn at random and not published. Here they are validation and test;
    where the test images, which are not public, are missing, as many of the training images
    take their place, those whose names have the smallest hashes. Crops are kept in `folder`.
    """
    chosen = choose_lsdir_test(collection)
    pairs, failures = [], []
    for name, file in chosen[: limit or None]:
        target = folder / f"{name}.png"
        try:
            if not target.is_file():
                save_image(centre_crop(file), target)
        except PatchScalerError as error:
            failures.append(Failure(name, str(error)))
            continue
        pairs.append(Pair(name, None, target, DEGRADATION, seed))
    return pairs, failures


def choose_lsdir_test(
    collection: Collection, count: int = LSDIR_TEST_SIZE
) -> list[tuple[str, Path]]:
    """(name, file) of the images, sorted by name: PART_NAME, as numbers repeat
    between the parts.
    """
    chosen = [
        (f"{part}_{file.stem}", file) for part in ("val", "test") for file in collection.parts[part]
    ]
    spare = sorted(
        collection.parts["train"], key=lambda file: hashlib.sha256(file.stem.encode()).digest()
    )
    chosen += [(f"train_{file.stem}", file) for file in spare[: max(0, count - len(chosen))]]
    return sorted(chosen)


def centre_crop(file: Path, side: int = CROP) -> Image.Image:
    """The middle of a image, side x side. Raises PatchScalerError for one that is smaller."""
    image = read_image(file)
    height, width = image.shape[:2]
    if min(height, width) < side:
        raise PatchScalerError(f"{file.name} is {width}x{height}: smaller than the crop of {side}")
    top, left = (height - side) // 2, (width - side) // 2
    return Image.fromarray(image[top : top + side, left : left + side])


def _usable(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Failure]]:
    good, failures = [], []
    for pair in pairs:
        reason = problem_of(pair)
        if reason:
            failures.append(Failure(pair.name, reason))
        else:
            good.append(pair)
    return good, failures


def _plain_stem(file: Path) -> str:
    return file.stem.removesuffix("_HR")
