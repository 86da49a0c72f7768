"""Finished images as files to download."""

import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from patchscaler.apps.web.jobs import Item, Visit
from patchscaler.images.read import load
from patchscaler.images.write import save_image

SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WebP": ".webp", "AVIF": ".avif", "TIFF": ".tif"}
LOSSY = ("JPEG", "WebP", "AVIF")


def converted(item: Item, kind: str, quality: int) -> Path:
    """The result in one of SUFFIXES. Raises PatchScalerError where the format cannot hold it."""
    assert item.result is not None
    if kind == "PNG":
        return item.result
    lossy = kind in LOSSY
    folder = item.folder / f"q{quality}" if lossy else item.folder
    path = folder / f"{item.result.stem}{SUFFIXES[kind]}"
    if not path.exists() or path.stat().st_mtime < item.result.stat().st_mtime:
        picture = load(item.result, 0)
        pixels: Any = picture.pixels
        array = np.asarray(pixels if isinstance(pixels, Image.Image) else pixels[:])
        save_image(array, path, picture.metadata, quality if lossy else None)
    return path


def pack(items: list[Item], kind: str, quality: int) -> Path:
    """All results in one zip file."""
    path = Path(tempfile.mkdtemp(dir=items[0].folder)) / "patchscaler.zip"
    names: set[str] = set()
    with zipfile.ZipFile(path, "w") as file:  # stored: images are packed already
        for number, item in enumerate(items, 1):
            made = converted(item, kind, quality)
            name = f"{number}-{made.name}" if made.name in names else made.name
            names.add(name)
            file.write(made, name)
    return path


def forget(visit: Visit) -> None:
    """Remove all that was made for a visitor."""
    for item in visit.items:
        shutil.rmtree(item.folder, ignore_errors=True)
