"""Pictures -> files: what a format can hold is checked before any work, and nothing half-written is
left.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin, features

from patchscaler.errors import PatchScalerError
from patchscaler.images.deep import import_heif, vips_errors
from patchscaler.images.deep_writing import save_deep
from patchscaler.images.exif import without_orientation
from patchscaler.images.icc import is_srgb
from patchscaler.images.jxl import import_jxl
from patchscaler.images.metadata import Metadata, exif_within, iptc_segment
from patchscaler.images.planes import (
    array_planes,
    eight_bits,
    fitting_profile,
    has_alpha,
    to_palette,
    to_pil,
    without_profile,
)
from patchscaler.images.read import Picture

FORMATS = {
    ".png": "PNG",
    ".apng": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".avif": "AVIF",
    ".heic": "HEIF",
    ".heif": "HEIF",
    ".jxl": "JXL",
}
FORMAT_SIDES = {
    "JPEG": 65_535,
    "WEBP": 16_383,
    "GIF": 65_535,
    "AVIF": 65_536,
    "HEIF": 16_384,
    "BMP": 2**31 - 1,
}
NO_ALPHA = ("JPEG", "BMP")
DEEP = ("PNG", "TIFF", "AVIF", "HEIF")  # can hold more than 8 bits a channel: 16, 16, 12, 12
NO_PROFILE = ("BMP", "GIF", "JXL")  # the last for its plugin's sake
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")
QUALITY = {"JPEG": 95, "WEBP": 95, "AVIF": 90, "HEIF": 90, "JXL": 95}
LOSSLESS = ("WEBP", "JXL", "PNG", "TIFF", "BMP")
MARKER = 65_533  # bytes of a JPEG segment


# --- before any work ------------------------------------------------------------------------------


def check_output(path: str | Path, source: str | Path | None = None) -> Path:
    """Before any work is done: can `path` be written? Raises PatchScalerError."""
    check_suffix(Path(path))
    return check_place(path, source)


def check_place(path: str | Path, source: str | Path | None = None) -> Path:
    """The same of files that are no pictures."""
    path = Path(path)
    if len(os.fsencode(path.name)) > 255:
        raise PatchScalerError(f"{path}: the name is too long; name another with -o")
    if (
        source is not None
        and path.exists()
        and Path(source).exists()
        and os.path.samefile(path, source)
    ):
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
        raise PatchScalerError(
            f"{path}: cannot write there; choose a folder you may write to with -o"
        )
    return path


def format_of(path: str | Path) -> str:
    """Pillow's name of the format that `path`'s suffix means.

    Raises PatchScalerError for an unknown one.
    """
    check_suffix(Path(path))
    return FORMATS[Path(path).suffix.lower()]


def check_suffix(path: Path) -> None:
    """Raises PatchScalerError where this program, as it is installed, cannot write such files."""
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise PatchScalerError(
            f"{path}: cannot write '{path.suffix}' files; use one of {', '.join(FORMATS)}"
        )
    if kind == "AVIF" and not features.check("avif"):
        raise PatchScalerError(f"{path}: AVIF needs Pillow 11.3 or newer: pip install -U pillow")
    if kind == "HEIF":
        import_heif(f"{path}: HEIC").register_heif_opener(thumbnails=False)
    if kind == "JXL":
        import_jxl(f"{path}: JPEG XL")


def check_alpha(path: str | Path, image: Image.Image | bool) -> None:
    """Raises PatchScalerError where the output's format has no transparency and the picture (or
    `True`) has.
    """
    transparent = image if isinstance(image, bool) else has_alpha(image)
    if format_of(path) in NO_ALPHA and transparent:
        raise PatchScalerError(
            f"{path}: this format has no transparency, the picture has; use .png or .webp"
        )


def check_side(path: str | Path, width: int, height: int) -> None:
    """Raises PatchScalerError where the output's format is unknown or cannot hold its size."""
    limit = FORMAT_SIDES.get(format_of(path))
    if limit and max(width, height) > limit:
        raise PatchScalerError(
            f"{path}: {width}x{height} is more than the {limit} pixels a side of this format; "
            "use PNG"
        )


def check_room(path: str | Path, width: int, height: int) -> None:
    """Before any work: raises PatchScalerError where the disk is too full for what such a picture
    takes at least.
    """
    place = Path(path).resolve().parent
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    # a smooth photograph as a JPEG
    least = int(width * height * (3 if format_of(path) == "BMP" else 0.1))
    if least > free:
        raise PatchScalerError(
            f"{place}: {free / 1e6:.1f} MB of disk are free, and {width}x{height} pixels take "
            f"{least / 1e6:.1f} MB or "
            "more; free some, or write to another disk with -o"
        )


def check_quality(path: str | Path, quality: int | None, lossless: bool) -> None:
    """Raises PatchScalerError for a quality out of range, or lossless where the format is not."""
    if quality is not None and not 0 < quality <= 100:
        raise PatchScalerError(f"quality {quality}: take 1 to 100")
    if lossless and format_of(path) not in LOSSLESS:
        raise PatchScalerError(
            f"{path}: this format is not lossless here; use .png, .webp, .tif or .jxl"
        )


def fit_picture(picture: Picture, kind: str) -> None:
    """Bring what is to be enlarged to what the output's format holds: bits, and colours where it
    has no profile.
    """
    if picture.bits == 16 and kind not in DEEP:
        picture.notes.append(f"{kind} holds 8 bits a channel; {picture.bits} came in")
        picture.bits = 8
    profile = picture.metadata.icc_profile
    if kind in NO_PROFILE and profile and not is_srgb(profile):
        array = without_profile(picture.planes)
        picture.pixels = picture.pixels if array is None else array
        picture.notes.append(_on_colors(kind, array is not None))
    if kind in NO_PROFILE:
        picture.metadata.icc_profile = None


def _on_colors(kind: str, converted: bool) -> str:
    what = "become sRGB's" if converted else "may look different"
    return f"{kind} is written without colour profile: colours {what}"


# --- writing --------------------------------------------------------------------------------------


def save_image(image: Image.Image, path: str | Path, quality: int | None = None) -> None:
    """A Pillow image of 8 bits, with its colour profile."""
    metadata = Metadata(image.size, icc_profile=image.info.get("icc_profile"))
    check_alpha(path, image)
    image = eight_bits(image)
    mode = ("LA" if image.mode in ("LA", "La") else "RGBA") if has_alpha(image) else image.mode
    image = image.convert(mode if mode in ("L", "LA", "RGB", "RGBA") else "RGB")
    save_picture(np.asarray(image), path, metadata, quality)


def save_picture(
    array: np.ndarray,
    path: str | Path,
    metadata: Metadata | None = None,
    quality: int | None = None,
    lossless: bool = False,
) -> list[str]:
    """(h, w[, 1..4]) uint8 or uint16 -> a file in the format of `path`'s suffix, all or nothing.

    metadata: of a picture of any size; it is brought to this one. quality: 1 to 100 (QUALITY by
    default). Returns a line for each thing that the format could not hold. Raises PatchScalerError.
    """
    path = Path(path)
    array = array[..., None] if array.ndim == 2 else array
    height, width, channels = array.shape
    kind = format_of(path)
    check_side(path, width, height)
    check_alpha(path, channels in (2, 4))
    check_quality(path, quality, lossless)
    notes: list[str] = []
    data = metadata or Metadata((width, height))
    if kind in NO_PROFILE:
        if (profile := fitting_profile(array, data.icc_profile)) and not is_srgb(profile):
            converted = without_profile(array_planes(array, profile))
            array = array if converted is None else converted
            notes.append(_on_colors(kind, converted is not None))
        data = replace(data, icc_profile=None)
    data = fitting(data, kind, notes).enlarged(width, height)
    if array.dtype == np.uint16 and kind not in DEEP:
        notes.append(f"{kind} holds 8 bits a channel; 16 came in")
        array = np.asarray(to_pil(array))
        array = array[..., None] if array.ndim == 2 else array
    with replacing(path) as temporary, vips_errors(path):
        # which Pillow, for one, cannot read
        if kind == "TIFF" and array.dtype == np.uint16 and channels == 2:
            array = np.concatenate([array[..., :1]] * 3 + [array[..., 1:]], -1)
        options = save_options(kind, array.shape, data, quality, lossless)
        if array.dtype == np.uint16 or kind == "TIFF":
            save_deep(array, temporary, kind, data, options)
        else:
            image = to_palette(to_pil(array)) if kind == "GIF" else to_pil(array)
            with temporary.open("wb") as file:
                image.save(file, kind, **options)
    return notes


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends well; otherwise it is
    removed.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise PatchScalerError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


def save_options(
    kind: str, shape: tuple[int, ...], data: Metadata, quality: int | None, lossless: bool
) -> dict[str, Any]:
    """What Pillow's writer of this format (but TIFF's) is told of quality and metadata, the latter
    of this size.
    """
    options: dict[str, Any] = {}
    if kind in QUALITY:
        options["quality"] = quality = quality or QUALITY[kind]
        if kind in ("JPEG", "AVIF", "HEIF") and quality >= 90 and shape[2] > 2:
            # colours as sharp as light
            options |= {"chroma": 444} if kind == "HEIF" else {"subsampling": "4:4:4"}
    if lossless and kind in ("WEBP", "JXL"):
        options["lossless"] = True
    if data.icc_profile and kind not in NO_PROFILE:
        options["icc_profile"] = data.icc_profile
    if data.dpi and kind in ("JPEG", "PNG", "BMP"):
        options["dpi"] = data.dpi
    if data.exif and kind == "AVIF":  # Pillow rewrites a block that says how it is turned
        options["exif"] = b"Exif\0\0" + without_orientation(data.exif)
    elif data.exif and kind not in ("BMP", "GIF"):
        options["exif"] = data.exif if kind in ("HEIF", "JXL") else b"Exif\0\0" + data.exif
    if data.xmp and kind in ("JPEG", "WEBP", "AVIF", "HEIF", "JXL"):
        options["xmp"] = data.xmp
    if data.comment and kind in ("JPEG", "GIF"):
        options["comment"] = data.comment
    if kind == "JPEG" and data.iptc and (segment := iptc_segment(data.iptc)):
        options["extra"] = segment
    if kind == "JXL":
        options |= {"use_container": True, "lossless_jpeg": False}
    if kind == "PNG":
        options["pnginfo"] = _png_texts(data)
    return options


def _png_texts(data: Metadata) -> PngImagePlugin.PngInfo:
    texts = PngImagePlugin.PngInfo()
    for name, text in data.texts.items():
        texts.add_itxt(name, text, zip=len(text) > 1000)
    if data.xmp:
        texts.add_itxt("XML:com.adobe.xmp", data.xmp.decode("utf-8", "replace"))
    return texts


def fitting(data: Metadata, kind: str, notes: list[str]) -> Metadata:
    """Leave out what would make a writer fail, and say so."""
    if kind == "JPEG":
        if data.exif and len(data.exif) + 6 > MARKER:
            data = replace(data, exif=exif_within(data.exif, MARKER - 6))
            notes.append(
                "its EXIF data is too long for JPEG: "
                + ("the maker's note" if data.exif else "it")
                + " was left out"
            )
        if data.xmp and len(data.xmp) + 29 > MARKER:
            data = replace(data, xmp=None)
            notes.append("its XMP data is too long for JPEG and was left out")
        # two bytes; the factor leaves room for enlarging
        if data.dpi and max(data.dpi) * 64 > 65535:
            data = replace(data, dpi=None)
        if data.comment and len(data.comment) > MARKER:
            data = replace(data, comment=None)
    # of frames; pictures have none left
    if kind in NO_PROFILE and data.icc_profile and not is_srgb(data.icc_profile):
        notes.append(_on_colors(kind, False))
    if kind in ("BMP", "GIF") and (data.exif or (data.xmp and not data.own_xmp)):
        notes.append(f"{kind} holds no EXIF and XMP: they were left out")
    return data
