"""The public data sets the paper and its field use: found in a folder, counted, measured, named by
a hash.

A collection is recognised by its files' own names, wherever below the folder they lie, so that it
does not matter which part of a release was unpacked where. Nothing is fetched: the data sets have
their own terms.
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from patchscaler.errors import PatchScalerError
from patchscaler.training.data.sources import IMAGE_SUFFIXES


@dataclass(frozen=True)
class Part:
    """Some files of a release: how many, and what sizes they have."""

    pattern: str  # regular expression over the end of a path with forward slashes
    count: int | tuple[int, ...]  # several: of different versions of the release
    needed: bool = True  # False: counted only where there is any of it
    size: tuple[int, int] | None = None  # width, height of every image
    longest: int | None = None  # longer side of every image
    sides: tuple[int, int] | None = None  # smallest and largest side allowed
    folders: int | None = None  # how many folders they lie in


@dataclass(frozen=True)
class Release:
    """A data set as it was published. pairs: parts of LR images and their originals, by
    position.
    """

    title: str
    source: str
    terms: str
    parts: dict[str, Part]
    pairs: tuple[tuple[str, str], ...] = ()
    hash: str = ""  # of the list of names and sizes, where it is known
    contains: tuple[str, ...] = ()  # some names that must be there, where the hash is not known


_IMAGE = r"[^/]+\.(png|jpg|jpeg|webp|bmp|tif|tiff)$"
_STABLESR = "https://huggingface.co/datasets/Iceclear/StableSR-TestSets"
OST_CLASSES = ("animal", "building", "grass", "mountain", "plant", "sky", "water")
COLLECTIONS: dict[str, Release] = {
    # 84,991 + 1,000 were released; the thousand of the official test are not public
    # (yongliuy/PatchScaler, issue 1).
    "lsdir": Release(
        "LSDIR",
        "https://data.vision.ee.ethz.ch/yawli/",
        "research",
        {
            "val": Part(r"/HR/val/\d{7}\.png$", 1000),
            "test": Part(r"/HR/test/\d{7}\.png$", 1000, needed=False),
            "train": Part(r"/\d{4}000/\d{7}\.png$", 84_991, needed=False),
        },
    ),
    # Version 3 alone has LR images; in versions 1 and 2 both have one size.
    "realsr": Release(
        "RealSR version 3, x4, test",
        "https://github.com/csjcai/RealSR",
        "research",
        {
            "canon_lr": Part(r"/Canon/Test/4/Canon_\d+_LR4\.png$", 50),
            "canon_hr": Part(r"/Canon/Test/4/Canon_\d+_HR\.png$", 50),
            "nikon_lr": Part(r"/Nikon/Test/4/Nikon_\d+_LR4\.png$", 50),
            "nikon_hr": Part(r"/Nikon/Test/4/Nikon_\d+_HR\.png$", 50),
        },
        pairs=(("canon_lr", "canon_hr"), ("nikon_lr", "nikon_hr")),
    ),
    "realsr-crops": Release(
        "RealSR, StableSR's centre crops",
        _STABLESR,
        "research",
        {
            "lr": Part(r"/RealSRVal_crop128/test_LR/" + _IMAGE, 100, size=(128, 128)),
            "hr": Part(r"/RealSRVal_crop128/test_HR/" + _IMAGE, 100, size=(512, 512)),
        },
        pairs=(("lr", "hr"),),
    ),
    "drealsr-crops": Release(
        "DRealSR, StableSR's centre crops",
        _STABLESR,
        "research",
        {
            "lr": Part(r"/DrealSRVal_crop128/test_LR/" + _IMAGE, 93, size=(128, 128)),
            "hr": Part(r"/DrealSRVal_crop128/test_HR/" + _IMAGE, 93, size=(512, 512)),
        },
        pairs=(("lr", "hr"),),
    ),
    "div2k-crops": Release(
        "DIV2K validation, StableSR's crops",
        _STABLESR,
        "academic",
        {
            "lr": Part(r"/DIV2K_V2_val/lq/" + _IMAGE, 3000, size=(128, 128)),
            "hr": Part(r"/DIV2K_V2_val/gt/" + _IMAGE, 3000, size=(512, 512)),
        },
        pairs=(("lr", "hr"),),
    ),
    "realset65": Release(
        "RealSet65",
        "https://github.com/zsyOAOA/ResShift, testdata/RealSet65",
        "mixed, do not redistribute",
        {"lr": Part("/" + _IMAGE, 65)},
        hash="3786fa15dc3361178298df91fd1fe8fca23ff9ddf541d346ba2175783cec40f5",
    ),
    "realset80": Release(
        "RealSet80",
        "https://github.com/zsyOAOA/ResShift, testdata/RealSet80",
        "mixed, do not redistribute",
        {"lr": Part("/" + _IMAGE, 80)},
        # The whole list was not at hand; these are its own, not in RealSet65.
        contains=(
            "1-1Z510232U7-51.jpg",
            "1572516605.jpg",
            "2684538-PH.jpg",
            "2684549-PH.jpg",
            "2684559-PH.jpg",
            "Canon_009.png",
        ),
    ),
    "div2k": Release(
        "DIV2K",
        "https://data.vision.ee.ethz.ch/cvl/DIV2K/",
        "academic",
        {
            "train": Part(r"/DIV2K_train_HR/\d{4}\.png$", 800, longest=2040),
            "val": Part(r"/DIV2K_valid_HR/\d{4}\.png$", 100, longest=2040),
            "val_lr": Part(
                r"/DIV2K_valid_LR_bicubic/X4/\d{4}x4\.png$", 100, needed=False, longest=510
            ),
        },
        pairs=(("val_lr", "val"),),
    ),
    "ost": Release(
        "OutdoorScene (SFTGAN), training in seven classes",
        "https://github.com/xinntao/SFTGAN",
        "research",
        {
            "train": Part(rf"/({'|'.join(OST_CLASSES)})/" + _IMAGE, 10_324),
            "test": Part(r"/OutdoorSceneTest300/(.*/)?OST_\d{3}\.png$", 300, needed=False),
        },
    ),
    # 10,619 double pages up to the version of December 2020, 10,602 since December 2021.
    "manga109": Release(
        "Manga109, 109 volumes",
        "http://www.manga109.org/en/",
        "academic",
        {
            "pages": Part(r"/images/[^/]+/\d{3}\.jpg$", (10_602, 10_619), folders=109),
        },
    ),
    "dtd": Release(
        "Describable Textures, 47 classes of 120",
        "https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        "research",
        # Its page says 300x300 to 640x640; the bounds here are wider, against thumbnails alone.
        {"images": Part(r"/images/([a-z-]+)/\1_\d{4}\.jpg$", 5640, sides=(200, 800))},
    ),
}
SCALE = 4


@dataclass
class Collection:
    """A data set that was found.

    `parts`: files in the order of their names; `problems`: what is not as published.
    """

    name: str
    release: Release
    folder: Path
    parts: dict[str, list[Path]]
    hash: str
    problems: list[str] = field(default_factory=list)

    def files(self, *parts: str) -> list[Path]:
        """All images, or those of these parts."""
        return [file for part in parts or self.parts for file in self.parts[part]]

    @property
    def pairs(self) -> list[tuple[Path, Path]]:
        """(LR image, original) of a release that has both."""
        found: list[tuple[Path, Path]] = []
        for lr, hr in self.release.pairs:
            originals = {_stem(file): file for file in self.parts[hr]}
            found += [
                (file, originals[_stem(file)])
                for file in self.parts[lr]
                if _stem(file) in originals
            ]
        return found

    def describe(self) -> dict[str, object]:
        """What belongs beside any figure measured on it."""
        counts = {part: len(files) for part, files in self.parts.items() if files}
        return {
            "collection": self.name,
            "title": self.release.title,
            "counts": counts,
            "hash": self.hash,
            "as published": not self.problems,
            "problems": self.problems,
        }


def open_collection(name: str, folder: str | Path, *, unchecked: bool = False) -> Collection:
    """Find a data set below a folder and check it.

    unchecked: go on with what is there; the differences are in `problems`. Raises PatchScalerError
    for an unknown name, a folder without any of its images, and, unless unchecked, for the first
    difference.
    """
    if name not in COLLECTIONS:
        raise PatchScalerError(f"unknown data set '{name}': choose from {', '.join(COLLECTIONS)}")
    release, root = COLLECTIONS[name], Path(folder)
    if not root.is_dir():
        raise PatchScalerError(
            f"{root}: no such folder; {release.title} comes from {release.source}"
        )
    parts = _find(release, root)
    if not any(parts.values()):
        raise PatchScalerError(
            f"{root}: holds no image of {release.title}; it comes from {release.source}"
        )
    problems = [
        problem
        for part in parts
        for problem in _wrong_counts(part, release.parts[part], parts[part])
    ]
    # (width, height) each
    sizes = {file: _size(file) for files in parts.values() for file in files}
    problems += [
        problem
        for part in parts
        for problem in _wrong_sizes(release.parts[part], parts[part], sizes)
    ]
    problems += _wrong_pairs(release, parts, sizes)
    names = {file.name for file in sizes}
    if missing := [name for name in release.contains if name not in names]:
        problems.append(f"expected {missing[0]} among the images")
    digest = list_hash(
        {f"{part}/{file.name}": sizes[file] for part, files in parts.items() for file in files}
    )
    if release.hash and release.hash != digest:
        problems.append(
            f"expected the list of names and sizes {release.hash[:16]}, found {digest[:16]}"
        )
    if problems and not unchecked:
        raise PatchScalerError(
            f"{root}: not {release.title} as published ({problems[0]}). Hint: unpack the release "
            f"again ({release.source}), or continue with --unchecked"
        )
    return Collection(name, release, root, parts, digest, problems)


def list_hash(sizes: dict[str, tuple[int, int]]) -> str:
    """SHA-256 of the sorted lines "PART/NAME WIDTHxHEIGHT"; where the files lie does not matter."""
    lines = sorted(f"{name} {width}x{height}" for name, (width, height) in sizes.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _find(release: Release, root: Path) -> dict[str, list[Path]]:
    """Files by part.

    The whole path is looked at, so that a folder inside the release does as well.
    """
    parts: dict[str, list[Path]] = {part: [] for part in release.parts}
    patterns = {
        part: re.compile(spec.pattern, re.IGNORECASE) for part, spec in release.parts.items()
    }
    base = root.resolve()  # of the folder alone: a link to a image keeps the image's name
    for file in sorted(root.rglob("*")):
        if file.suffix.lower() not in IMAGE_SUFFIXES or file.name.startswith("."):
            continue
        place = (base / file.relative_to(root)).as_posix()
        for part, pattern in patterns.items():
            if pattern.search(place):
                parts[part].append(file)
                break
    return parts


def _size(file: Path) -> tuple[int, int]:
    """(width, height) out of the header."""
    try:
        with Image.open(file) as image:
            return image.size
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise PatchScalerError(
            f"{file}: damaged or not an image; unpack it again or remove it"
        ) from error


def _wrong_counts(name: str, part: Part, files: list[Path]) -> list[str]:
    counts = part.count if isinstance(part.count, tuple) else (part.count,)
    if not files and not part.needed:
        return []
    if len(files) not in counts:
        expected = " or ".join(str(count) for count in counts)
        return [f"expected {expected} images of '{name}', found {len(files)}"]
    folders = len({file.parent for file in files})
    if part.folders and folders != part.folders:
        return [f"expected {part.folders} folders of '{name}', found {folders}"]
    return []


def _wrong_sizes(part: Part, files: list[Path], sizes: dict[Path, tuple[int, int]]) -> list[str]:
    """The first image whose size cannot be, if there is one."""
    for file in files:
        width, height = sizes[file]
        if part.size and (width, height) != part.size:
            expected = f"{part.size[0]}x{part.size[1]}"
        elif part.longest and max(width, height) != part.longest:
            expected = f"a longer side of {part.longest}"
        elif (
            part.sides
            and not part.sides[0] <= min(width, height) <= max(width, height) <= part.sides[1]
        ):
            expected = f"sides of {part.sides[0]} to {part.sides[1]}"
        else:
            continue
        return [f"expected {expected} of {file.name}, found {width}x{height}"]
    return []


def _wrong_pairs(
    release: Release, parts: dict[str, list[Path]], sizes: dict[Path, tuple[int, int]]
) -> list[str]:
    """LR images whose original is missing or not four times as large: the first of
    each kind.
    """
    for lr, hr in release.pairs:
        if not parts[lr]:
            continue
        if len(parts[lr]) != len(parts[hr]):
            return [
                f"expected as many images of '{lr}' as of '{hr}', found {len(parts[lr])} and "
                f"{len(parts[hr])}"
            ]
        for small, large in zip(parts[lr], parts[hr], strict=True):
            if _stem(small) != _stem(large):
                return [f"expected an original of {small.name}, found {large.name}"]
            expected = (SCALE * sizes[small][0], SCALE * sizes[small][1])
            if sizes[large] != expected:
                found = f"{sizes[large][0]}x{sizes[large][1]}"
                return [f"expected {expected[0]}x{expected[1]} of {large.name}, found {found}"]
    return []


def _stem(file: Path) -> str:
    """Canon_004_LR4, Canon_004_HR -> Canon_004; 0801x4 -> 0801."""
    return re.sub(r"(_LR4|_HR|x4)$", "", file.stem)


# --- DTD's ten splits -----------------------------------------------------------------------------

DTD_PARTS = ("train", "val", "test")
DTD_PART_SIZE = 1880


def dtd_split(folder: str | Path, number: int) -> dict[str, set[str]]:
    """Read one of DTD's ten official splits: "CLASS/NAME.jpg" of train, val and test.

    Args:
        folder: Holds `labels/trainN.txt`, ... somewhere below it.

    Raises:
        PatchScalerError: There is no such split, or it is not the published one.
    """
    if not 1 <= number <= 10:
        raise PatchScalerError(f"DTD split {number}: take 1 to 10")
    split: dict[str, set[str]] = {}
    for part in DTD_PARTS:
        found = sorted(Path(folder).rglob(f"labels/{part}{number}.txt"))
        if not found:
            raise PatchScalerError(
                f"{folder}: no labels/{part}{number}.txt below it. Hint: unpack the whole of DTD "
                f"({COLLECTIONS['dtd'].source})"
            )
        split[part] = set(found[0].read_text("utf-8").split())
    names = set.union(*split.values())
    sizes = [len(split[part]) for part in DTD_PARTS]
    if sizes != [DTD_PART_SIZE] * 3 or len(names) != sum(sizes):
        raise PatchScalerError(
            f"{folder}: split {number} has {', '.join(map(str, sizes))} images, expected three "
            f"disjoint parts of {DTD_PART_SIZE}. Hint: unpack DTD again"
        )
    return split
