"""Pictures -> files: what a format can hold is checked before any work, and nothing half-written is left."""

import os
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from patchscaler.errors import PatchScalerError
from patchscaler.pictures.planes import has_alpha

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
FORMAT_SIDES = {"JPEG": 65_535, "WEBP": 16_383}


def check_output(path: str | Path, source: str | Path | None = None) -> Path:
    """Before any work is done: can `path` be written? Raises PatchScalerError."""
    path = Path(path)
    check_suffix(path)
    if source is not None and path.exists() and Path(source).exists() and os.path.samefile(path, source):
        raise PatchScalerError(f"{path}: output and input are the same file; name another with -o")
    if path.is_dir():
        raise PatchScalerError(f"{path}: is a folder, not a file to write")
    return check_writable(path)


def check_writable(path: Path) -> Path:
    """Raises PatchScalerError where a file of this name cannot be made."""
    parent = path.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK) or path.is_dir():
        raise PatchScalerError(f"{path}: cannot write there; choose a folder you may write to with -o")
    return path


def check_alpha(path: str | Path, image: Image.Image) -> None:
    """Raises PatchScalerError where the output's format has no transparency and the picture has."""
    if FORMATS[Path(path).suffix.lower()] in ("JPEG", "BMP") and has_alpha(image):
        raise PatchScalerError(f"{path}: this format has no transparency, the picture has; use .png or .webp")


def check_suffix(path: Path) -> None:
    if path.suffix.lower() not in FORMATS:
        raise PatchScalerError(f"{path}: cannot write '{path.suffix}' files; use one of {', '.join(FORMATS)}")


def check_side(path: str | Path, width: int, height: int) -> None:
    """Raises PatchScalerError where the output's format is unknown or cannot hold its size."""
    check_suffix(Path(path))
    limit = FORMAT_SIDES.get(FORMATS[Path(path).suffix.lower()])
    if limit and max(width, height) > limit:
        raise PatchScalerError(
            f"{path}: {width}x{height} is more than the {limit} pixels a side of this format; use PNG"
        )


def save_image(image: Image.Image, path: str | Path, quality: int = 95) -> None:
    """Write to a temporary file beside `path` and rename: nothing half-written is left."""
    path = Path(path)
    check_side(path, image.width, image.height)
    kind = FORMATS[path.suffix.lower()]
    check_alpha(path, image)
    options: dict[str, Any] = {"quality": quality} if kind in ("JPEG", "WEBP") else {}
    if profile := image.info.get("icc_profile"):
        options["icc_profile"] = profile
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
        with os.fdopen(handle, "wb") as file:
            image.save(file, kind, **options)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise PatchScalerError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
