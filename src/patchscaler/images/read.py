"""Image files -> pixels and metadata, upright, with one clear line for each that cannot be read."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from patchscaler.errors import PatchScalerError, TooManyPixelsError
from patchscaler.images.deep import bit_depth, read_deep
from patchscaler.images.formats import (
    READ,
    READABLE,
    description,
    head_of,
    import_heif,
    import_jxl,
    is_heic,
    reason_of,
)
from patchscaler.images.jxl import jxl_size
from patchscaler.images.labels import check_profile, label_of
from patchscaler.images.metadata import Metadata, orientation, read_metadata, stored_orientation
from patchscaler.images.pixels import (
    device_to_srgb,
    fit_transparency,
    fitting_profile,
    full_range,
    has_alpha,
    tiff_tag,
    to_pil,
    turn_array,
    upright,
)
from patchscaler.images.rows import Rows, png_chunks, png_without_pixels, rows_of

MAX_PIXELS = 500_000_000  # of the input; 0: no limit
CICP, NCLX = b"cICP", b"colrnclx"


@dataclass
class LoadedImage:
    """An image file's pixels, upright, and all that it says of them."""

    # (h, w, 1..4) uint16 where there are more than 8 bits of color
    pixels: Image.Image | np.ndarray | Rows
    bits: int  # 8 or 16, of the result
    metadata: Metadata
    format: str  # one of formats.FORMATS
    notes: list[str] = field(default_factory=list)  # what is not kept, a line each

    @property
    def width(self) -> int:
        return self.metadata.size[0]

    @property
    def height(self) -> int:
        return self.metadata.size[1]

    @property
    def has_alpha(self) -> bool:
        if isinstance(self.pixels, Image.Image):
            return has_alpha(self.pixels)
        return self.pixels.shape[2] in (2, 4)


def load(
    path: str | Path, max_pixels: int = MAX_PIXELS, bits: int | None = None, by_rows: bool = False
) -> LoadedImage:
    """Read the main image of a file, checked and upright.

    Args:
        path: Its content decides the format, not its name.
        max_pixels: 0 for no limit.
        bits: 8 or 16 in place of the file's own depth.
        by_rows: Whether a large file's pixels may stay in the file (`Rows`).

    Raises:
        PatchScalerError: Names the file and what is wrong with it.
    """
    path = checked(path)
    with opened(path, max_pixels) as image:
        kind, notes = image.format or "", _main_image(image)
        check_pixels(image.width, image.height, max_pixels, str(path))  # of this page
        large = png_without_pixels(path, image) if by_rows else None
        if large:
            large.info["cicp"] = image.info.get("cicp")
        turn, stored = orientation(large or image), stored_orientation(large or image)
        size = (image.height, image.width) if turn >= 5 else image.size
        depth = bit_depth(image, head_of(path))
        if bits == 8 and "transparency" not in image.info:  # a level of 16 bits is found in 16
            depth = 8
        rows = None
        if by_rows and bits != 8:
            rows = rows_of(path, large or image, depth, max(turn, stored))
        label = None
        if not image.info.get("icc_profile"):
            label = label_of(large or image)
        if rows is None:
            image.load()  # before the metadata, for some stand behind the pixels
        metadata, more = read_metadata(large if rows is not None and large else image, size)
        metadata.icc_profile = metadata.icc_profile or label
        check_profile(metadata.icc_profile)
        pixels: Image.Image | np.ndarray | Rows
        if rows is not None:
            pixels = rows
        elif depth > 8:
            pixels = read_deep(path, image, depth)
            if kind in ("PNG", "TIFF"):  # the others are turned by their decoders
                pixels = turn_array(pixels, stored)
            if pixels.shape[1::-1] != size:
                raise ValueError("two decoders disagree about its size")
            pixels = to_pil(pixels, metadata.icc_profile) if bits == 8 else pixels
        else:
            whole = full_range(image, str(path)) if image.mode.startswith("I") else image
            pixels = upright(whole, turn)
            if image.mode in ("CMYK", "LAB"):
                pixels = device_to_srgb(pixels, metadata.icc_profile)
        if image.mode in ("CMYK", "LAB"):
            more.append(f"{image.mode} becomes RGB (sRGB)")
            metadata.icc_profile = None
        metadata.icc_profile = fitting_profile(pixels, metadata.icc_profile)
        if isinstance(pixels, Image.Image):
            pixels.info = {k: v for k, v in pixels.info.items() if k == "transparency"}
            if metadata.icc_profile:
                pixels.info["icc_profile"] = metadata.icc_profile
        bits = bits or (16 if depth > 8 or image.mode[0] in "IF" else 8)
        return LoadedImage(pixels, bits, metadata, "JPEG" if kind == "MPO" else kind, notes + more)


def load_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The same as a Pillow image of 8 bits a color, without the metadata."""
    pixels = load(path, max_pixels, bits=8).pixels
    if not isinstance(pixels, Image.Image):
        raise TypeError("8 bits are read as an image")
    return pixels


def checked(path: str | Path) -> Path:
    """Raises PatchScalerError for what is not a file with something in it."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/+\S", str(path)) and not Path(path).exists():
        raise PatchScalerError(f"{path}: is a URL. Hint: download the image and name its file")
    path = Path(path)
    if not path.exists():
        raise PatchScalerError(f"{path}: no such file")
    if path.is_dir():
        raise PatchScalerError(f"{path}: is a folder. Hint: name an image in it")
    if not path.is_file():
        raise PatchScalerError(f"{path}: is neither a file nor a folder")
    return path


@contextmanager
def opened(path: str | Path, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open a file by its content, its size checked before anything is decoded.

    Raises:
        PatchScalerError: Also for whatever a decoder raises inside of the block.
    """
    path, head, image = checked(path), b"", None
    try:
        head = head_of(path)
        if not head:
            raise PatchScalerError(f"{path}: the file is empty")
        _plugins(path, head, max_pixels)
        with path.open("rb") as file:
            image = _identified(file, path, head)
            check_pixels(image.width, image.height, max_pixels, str(path))
            fit_transparency(image)
            if (reason := reason_of(head, image)) is not None:
                raise PatchScalerError(f"{path}: {reason}. Hint: {READ}")
            find_cicp(image, path, head)
            try:
                yield image
            finally:
                image.close()
    except PatchScalerError as error:
        if str(error).startswith("is ") or str(error).startswith(
            "its "
        ):  # from below, without the name
            raise PatchScalerError(f"{path}: {error}") from error
        raise
    except PermissionError as error:
        raise PatchScalerError(f"{path}: no permission to read it") from error
    except FileNotFoundError as error:
        raise PatchScalerError(f"{path}: vanished while it was read") from error
    except MemoryError as error:
        raise PatchScalerError(f"{path}: not enough memory to read it") from error
    except Exception as error:
        # decoders raise OSError, SyntaxError, ValueError, struct.error and more
        if (known := reason_of(head, image)) is not None:
            raise PatchScalerError(f"{path}: {known}. Hint: {READ}") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PatchScalerError(f"{path}: damaged or cut off ({reason[:200]})") from error


def _identified(file: Any, path: Path, head: bytes) -> Image.Image:
    """As `Image.open`, but without its limit of pixels, which is the whole process's."""
    Image.init()
    failures = []
    for name in READABLE:
        if name not in Image.OPEN or name == "MPO":  # which the JPEG reader finds itself
            continue
        factory, accept = Image.OPEN[name]
        accepted = accept(head[:16]) if accept else True
        if not accepted or isinstance(accepted, str):
            continue
        file.seek(0)
        try:
            image = factory(file, str(path))
        except (
            SyntaxError,
            IndexError,
            TypeError,
            KeyError,
            EOFError,
            ValueError,
            OSError,
        ) as error:
            failures.append(error)
            continue
        return image
    if (reason := reason_of(head)) is not None:
        raise PatchScalerError(f"{path}: {reason}. Hint: {READ}")
    if failures:
        raise failures[0]
    raise PatchScalerError(f"{path}: {description(head)}. Hint: {READ}")


def _plugins(path: Path, head: bytes, max_pixels: int) -> None:
    """Register the readers that do not come with Pillow, when a file of theirs is met."""
    if (size := jxl_size(path, head)) is not None:
        check_pixels(*size, max_pixels, str(path))  # its reader decodes all of it at once
        import_jxl(f"{path}: a JPEG XL image")
    if is_heic(head):
        import_heif(f"{path}: a HEIC image")


def find_cicp(image: Image.Image, path: Path, head: bytes) -> None:
    """Add to an opened image's info what its file says by CICP, for Pillow does not tell."""
    if image.format == "PNG":
        with path.open("rb") as file:
            for kind, data in png_chunks(file):
                if kind == CICP and len(data) == 4:
                    image.info["cicp"] = tuple(data)
                if kind == b"IDAT":
                    break
    if image.format == "AVIF" and (place := head.find(NCLX)) >= 0:
        numbers = head[place + len(NCLX) :][:4]
        pair = int.from_bytes(numbers[:2], "big"), int.from_bytes(numbers[2:], "big")
        image.info["cicp"] = pair


def _main_image(image: Image.Image) -> list[str]:
    """Go to the image that a file is about; a line on those beside it."""
    count = int(getattr(image, "n_frames", 1))
    if image.format == "TIFF":
        kinds = []
        for number in range(min(count, 1000)):
            image.seek(number)
            kinds.append(tiff_tag(image, 254, 0)[0])
        full = [number for number, kind in enumerate(kinds) if not int(kind) & 5]
        image.seek(full[0] if full else 0)
        if not full and 330 in getattr(image, "tag_v2", {}):
            raise PatchScalerError(
                f"is a camera raw file, of which only a preview can be read. Hint: {READ}"
            )
        pages = max(len(full), 1)
        return [f"holds {pages} pages; only the first is upscaled"] if pages > 1 else []
    if count > 1 and image.format in ("MPO", "HEIF"):
        return [f"holds {count} images; only the main one is upscaled"]
    return []


def check_pixels(width: int, height: int, max_pixels: int, name: str) -> None:
    """Raises TooManyPixelsError where an image has more pixels than allowed."""
    if max_pixels and width * height > max_pixels:
        raise TooManyPixelsError(
            f"{name}: {width}x{height} is more than the limit of {max_pixels / 1e6:g} megapixels. "
            f"Hint: allow it with --max-pixels {width * height} (max_pixels in Python) if memory "
            "suffices",
            width,
            height,
            max_pixels,
        )
