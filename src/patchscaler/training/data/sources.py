"""Where training images come from: folders of images and tar shards, split by source image."""

import io
import re
import tarfile
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from patchscaler.errors import PatchScalerError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def list_sources(path: str | Path) -> list[Path]:
    """Images below a folder and tar files in it (or one tar file), sorted.

    Raises PatchScalerError if none.
    """
    root = Path(path)
    if root.is_file() and root.suffix == ".tar":
        return [root]
    if not root.is_dir():
        raise PatchScalerError(f"{root}: no such folder of images (or .tar file)")
    found = sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES | {".tar"})
    if not found:
        raise PatchScalerError(
            f"{root}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}, .tar)"
        )
    return found


def count_images(path: str | Path, prefixes: tuple[str, ...] = ()) -> int:
    """How many images a folder or tar holds whose names start with one of `prefixes` (any, if
    there are none).
    """
    names: list[str] = []
    for source in list_sources(path):
        if source.suffix == ".tar":
            with tarfile.open(source) as tar:
                names += [Path(m.name).name for m in tar if m.isfile()]
        else:
            names.append(source.name)
    return sum(
        Path(n).suffix.lower() in IMAGE_SUFFIXES and n.startswith(prefixes or "") for n in names
    )


def read_rgb(data: Path | bytes) -> np.ndarray:
    """(H, W, 3) uint8."""
    with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
        return np.asarray(image.convert("RGB"))


def iterate_images(path: str | Path, exclude: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, (H, W, 3) uint8) of every readable image; a corrupt one is skipped and named.

    exclude: skip names that start with one of these comma-separated prefixes.
    """
    skip = tuple(p for p in exclude.split(",") if p)
    for source in list_sources(path):
        if source.suffix == ".tar":
            with tarfile.open(source) as tar:
                for member in tar:
                    name = Path(member.name).name
                    file = tar.extractfile(member) if member.isfile() else None
                    if (
                        file
                        and Path(name).suffix.lower() in IMAGE_SUFFIXES
                        and not name.startswith(skip or ("\0",))
                    ):
                        yield from _readable(f"{source.name}/{member.name}", file.read())
        elif not source.name.startswith(skip or ("\0",)):
            yield from _readable(
                str(source.relative_to(path) if Path(path).is_dir() else source), source
            )


def _readable(name: str, data: Path | bytes) -> Iterator[tuple[str, np.ndarray]]:
    try:
        yield name, read_rgb(data)
    except Exception as error:  # Pillow raises many kinds on corrupt data
        warnings.warn(f"skipped {name}: {error}", stacklevel=2)


def source_of(name: str) -> str:
    """The source image of a tile: SOURCE_HASH_NN without its number, other names without suffix."""
    stem = Path(name).stem
    tile = re.fullmatch(r"(.+_[0-9a-f]{6})_\d+", stem)
    return tile.group(1) if tile else stem


def is_validation(name: str, share: float = 0.03) -> bool:
    """Split by *source image*, whatever else is in the set."""
    return zlib.crc32(source_of(name).encode()) % 1000 < share * 1000
