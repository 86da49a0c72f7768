"""Images -> files: what a format holds is checked before any work; nothing half-written is left."""

import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from patchscaler.errors import PatchScalerError
from patchscaler.images.encode import BY_ROWS, MAX_IN_MEMORY, encode, write_pyramid
from patchscaler.images.exif import without_orientation
from patchscaler.images.formats import FORMATS, format_of, import_vips
from patchscaler.images.icc import is_srgb
from patchscaler.images.metadata import Metadata, exif_within, iptc_segment
from patchscaler.images.pixels import fitting_profile, has_alpha, to_pil
from patchscaler.images.planes import array_planes, eight_bits, to_planes, without_profile
from patchscaler.images.read import LoadedImage

MARKER = 65_533  # bytes of a JPEG segment


# --- before any work ------------------------------------------------------------------------------


def check_output(path: str | Path, source: str | Path | None = None) -> Path:
    """Before any work is done: can `path` be written? Raises PatchScalerError."""
    format_of(path)
    return check_place(path, source)


def check_place(path: str | Path, source: str | Path | None = None) -> Path:
    """The same of files that are no images."""
    path = Path(path)
    if len(os.fsencode(path.name)) > 255:
        raise PatchScalerError(f"{path}: the name is too long. Hint: name another with -o")
    if (
        source is not None
        and path.exists()
        and Path(source).exists()
        and os.path.samefile(path, source)
    ):
        raise PatchScalerError(
            f"{path}: output and input are the same file. Hint: name another with -o"
        )
    if path.is_dir():
        raise PatchScalerError(f"{path}: is a folder, not a file to write")
    return check_writable(path)


def check_writable(path: Path) -> Path:
    """Raises PatchScalerError where a file of this name cannot be made."""
    parent = path.parent
    while not parent.exists():
        parent = parent.parent
    protected = path.exists() and not os.access(path, os.W_OK)
    if protected and parent.is_dir():
        raise PatchScalerError(f"{path}: is write-protected. Hint: name another with -o")
    if not parent.is_dir() or not os.access(parent, os.W_OK) or path.is_dir():
        raise PatchScalerError(
            f"{path}: cannot write there. Hint: choose a folder you may write to with -o"
        )
    return path


def check_alpha(path: str | Path, image: Image.Image | bool) -> None:
    """Raises PatchScalerError where the image (or `True`) is transparent and the format is not."""
    transparent = image if isinstance(image, bool) else has_alpha(image)
    if transparent and not FORMATS[format_of(path)].alpha:
        raise PatchScalerError(
            f"{path}: this format has no transparency, the image has. Hint: use .png or .webp"
        )


def check_side(path: str | Path, width: int, height: int) -> None:
    """Raises PatchScalerError where the output's format is unknown or cannot hold its size."""
    limit = FORMATS[format_of(path)].side
    if max(width, height) > limit:
        raise PatchScalerError(
            f"{path}: {width}x{height} is more than the {limit} pixels a side of this format. "
            "Hint: use PNG"
        )


def check_large(path: str | Path, nbytes: int, pyramid: bool = False) -> None:
    """Raises PatchScalerError where so many bytes of pixels cannot be written in this format."""
    kind = format_of(path)
    if pyramid and kind != "TIFF":
        raise PatchScalerError(f"{path}: is not .tif. Hint: pyramids are written as TIFF")
    if pyramid or (nbytes > MAX_IN_MEMORY and kind in ("PNG", "JPEG")):
        import_vips(f"{path}: a pyramid" if pyramid else f"{path}: {nbytes / 1e9:.1f} GB of pixels")
    elif kind not in BY_ROWS and nbytes > MAX_IN_MEMORY:
        raise PatchScalerError(
            f"{path}: {kind} needs all of {nbytes / 1e9:.1f} GB of pixels in memory at once. "
            "Hint: use .png, .tif or .jpg"
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
            "more. Hint: free some, or write to another disk with -o"
        )


def check_quality(path: str | Path, quality: int | None, lossless: bool) -> None:
    """Raises PatchScalerError for a quality out of range, or lossless where the format is not."""
    if quality is not None and not 0 < quality <= 100:
        raise PatchScalerError(f"quality {quality}: take 1 to 100")
    if lossless and not FORMATS[format_of(path)].lossless:
        raise PatchScalerError(
            f"{path}: this format is not lossless here. Hint: use .png, .webp, .tif or .jxl"
        )


def fit_image(image: LoadedImage, kind: str) -> None:
    """Bring what is to be upscaled to what the output's format holds: bits and profile."""
    if image.bits > FORMATS[kind].bits:
        image.notes.append(
            f"{kind} holds {FORMATS[kind].bits} bits a channel; {image.bits} came in"
        )
        image.bits = 8 if FORMATS[kind].bits == 8 else image.bits
    if FORMATS[kind].profile:
        return
    profile = image.metadata.icc_profile
    if profile and not is_srgb(profile):
        array = without_profile(to_planes(image))
        image.pixels = image.pixels if array is None else array
        image.notes.append(_on_colors(kind, array is not None))
        image.metadata = image.metadata.upscaled(*image.metadata.size, srgb=array is not None)
    image.metadata.icc_profile = None


def _on_colors(kind: str, converted: bool) -> str:
    what = "become sRGB's" if converted else "may look different"
    return f"{kind} is written without color profile: colors {what}"


# --- writing --------------------------------------------------------------------------------------


def save_image(
    image: Any,
    path: str | Path,
    metadata: Metadata | None = None,
    quality: int | None = None,
    lossless: bool = False,
    pyramid: bool = False,
) -> list[str]:
    """Write a file in the format of `path`'s suffix, all or nothing.

    Args:
        image: (h, w[, 1..4]) uint8 or uint16, in memory or a file of its own (`DiskArray`); or a
            PIL image, written with 8 bits.
        metadata: Of an image of any size; it is brought to this one. By default a PIL image's
            profile.
        quality: 1 to 100; the format's own by default.
        pyramid: A tiled TIFF that holds smaller copies of itself.

    Returns:
        A line for each thing that the format could not hold.

    Raises:
        PatchScalerError: The format cannot hold the image, or the file cannot be written.
    """
    path = Path(path)
    if isinstance(image, Image.Image):
        metadata = metadata or Metadata(image.size, icc_profile=image.info.get("icc_profile"))
        image = _pil_array(image)
    array = image[..., None] if image.ndim == 2 else image
    height, width, channels = array.shape
    kind = format_of(path)
    check_side(path, width, height)
    check_alpha(path, channels in (2, 4))
    check_quality(path, quality, lossless)
    check_large(path, array.nbytes, pyramid)
    notes: list[str] = []
    data, srgb = metadata or Metadata((width, height)), False
    if not FORMATS[kind].profile:
        if (profile := fitting_profile(array, data.icc_profile)) and not is_srgb(profile):
            converted = without_profile(array_planes(array[:], profile))
            srgb = converted is not None
            array = array if converted is None else converted
            notes.append(_on_colors(kind, srgb))
        data = replace(data, icc_profile=None)
    data = fitting(data, kind, notes).upscaled(width, height, srgb)
    if array.dtype == np.uint16 and FORMATS[kind].bits == 8:
        notes.append(f"{kind} holds 8 bits a channel; 16 came in")
        array = np.asarray(to_pil(array[:]))
        array = array[..., None] if array.ndim == 2 else array
    if kind == "TIFF" and array.dtype == np.uint16 and channels == 2:
        # which Pillow, for one, cannot read
        array = np.concatenate([array[..., :1]] * 3 + [array[..., 1:]], -1)
    with replacing(path) as temporary, _vips_errors(path):
        if pyramid:
            write_pyramid(array, temporary, data)
        else:
            options = save_options(kind, array.shape, data, quality, lossless)
            encode(array, temporary, kind, data, options)
    return notes


def _pil_array(image: Image.Image) -> np.ndarray:
    image = eight_bits(image)
    mode = ("LA" if image.mode in ("LA", "La") else "RGBA") if has_alpha(image) else image.mode
    return np.asarray(image.convert(mode if mode in ("L", "LA", "RGB", "RGBA") else "RGB"))


@contextmanager
def _vips_errors(path: Path) -> Iterator[None]:
    """What libvips raises (a full disk, say) as a PatchScalerError that names the file."""
    try:
        yield
    except Exception as error:
        vips = sys.modules.get("pyvips")  # nothing of libvips' comes from a process without it
        if vips is None or not isinstance(error, vips.Error):
            raise
        # libvips says it thrice, and names temporary files
        found = re.search(r"system error: (.+)", str(error))
        reason = found[1] if found else " ".join(str(error).split())[:200]
        raise PatchScalerError(f"{path}: cannot be written ({reason})") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`: takes its place when the block ends well, else is removed."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # with the process's own mask of permissions, which cannot be read without changing it
        name = path.with_name(f".{secrets.token_hex(6)}{path.suffix}")
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        temporary = name
        yield temporary
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
    """Quality and metadata, as Pillow's writer of this format (but TIFF's) takes them."""
    options: dict[str, Any] = {}
    if kind in ("WEBP", "AVIF", "HEIF", "JXL"):
        data = data.with_density_in_exif()
    if default := FORMATS[kind].quality:
        options["quality"] = quality = quality or default
        if kind in ("JPEG", "AVIF", "HEIF") and quality >= 90 and shape[2] > 2:
            # colors as sharp as light
            options |= {"chroma": 444} if kind == "HEIF" else {"subsampling": "4:4:4"}
    if lossless and kind in ("WEBP", "JXL"):
        options["lossless"] = True
    if data.icc_profile and FORMATS[kind].profile:
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
    # of frames; stills have none left
    if not FORMATS[kind].profile and data.icc_profile and not is_srgb(data.icc_profile):
        notes.append(_on_colors(kind, False))
    if kind in ("BMP", "GIF") and (data.exif or (data.xmp and not data.own_xmp)):
        notes.append(f"{kind} holds no EXIF and XMP: they were left out")
    return data
