"""Files -> pictures, with one clear line for each that cannot be read."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from patchscaler.errors import PatchScalerError, TooManyPixelsError
from patchscaler.images.deep import depth, full_range, import_heif, read_deep
from patchscaler.images.jxl import import_jxl, jxl_size
from patchscaler.images.metadata import Metadata, orientation, read_metadata, stored_orientation
from patchscaler.images.planes import (
    Planes,
    array_planes,
    device_to_srgb,
    fitting_profile,
    has_alpha,
    to_pil,
    to_planes,
)
from patchscaler.images.rows import Rows, rows_of, told_of

# of the input; sixteen times as many come out, and take about 6 GB on the way
MAX_PIXELS = 4_000_000
# Pillow's names
READABLE = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIF", "JXL")
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass
class Picture:
    """One picture, upright, and all that its file says of it."""

    # (h, w, 1..4) uint16 where there are more than 8 bits of colour
    pixels: Image.Image | np.ndarray | Rows
    bits: int  # 8 or 16, of the result
    metadata: Metadata
    format: str  # one of READABLE
    frames: int = 1  # of an animation or pages; this is the first
    notes: list[str] = field(default_factory=list)  # what could not be kept, a line each

    @property
    def width(self) -> int:
        return self.metadata.size[0]

    @property
    def height(self) -> int:
        return self.metadata.size[1]

    @property
    def has_alpha(self) -> bool:
        if not isinstance(self.pixels, Image.Image):
            return self.pixels.shape[2] in (2, 4)
        return has_alpha(self.pixels)

    @property
    def planes(self) -> Planes:
        """As the pipeline wants it; computed anew at each call."""
        if not isinstance(self.pixels, Image.Image):
            planes = array_planes(self.pixels[:], self.metadata.icc_profile)
        else:
            planes = to_planes(self.pixels)
        planes.bits = self.bits
        return planes


def load_picture(
    path: str | Path, max_pixels: int = MAX_PIXELS, bits: int | None = None, by_rows: bool = False
) -> Picture:
    """Read, check and turn upright. bits: 8 or 16 where the file's own depth is not wanted.
    by_rows: a large file's pixels may stay in the file (`Rows`).

    Raises PatchScalerError naming the file and the hint.
    """
    path = Path(path)
    with opened(path, max_pixels) as image:
        kind, told = image.format or "", told_of(path, image) if by_rows else image
        turn = orientation(told)
        size = (image.height, image.width) if turn >= 5 else image.size
        deep, stored = depth(image, _head(path)), stored_orientation(told)
        # a transparent colour of 16 bits is found among 16 only
        if bits == 8 and "transparency" not in image.info:
            deep = 8
        metadata, notes = read_metadata(told, size)
        frames = 1 if kind == "MPO" else getattr(image, "n_frames", 1)
        if frames > 1 and kind == "TIFF":
            notes.append(f"holds {frames} pages; only the first is enlarged")
        pixels: Image.Image | np.ndarray | Rows
        if by_rows and bits != 8 and (rows := rows_of(path, told, deep, max(turn, stored))):
            pixels = rows
        elif deep > 8:
            pixels = read_deep(path, kind, deep, has_alpha(image))
            if kind in ("PNG", "TIFF"):  # the others are turned by their decoders
                pixels = turn_array(pixels, stored)
            if pixels.shape[1::-1] != size:
                raise ValueError("two decoders disagree about its size")
            pixels = to_pil(pixels, metadata.icc_profile) if bits == 8 else pixels
        else:
            pixels = upright(_loaded(image, path), turn)
            if image.mode in ("CMYK", "LAB"):
                pixels = device_to_srgb(pixels, metadata.icc_profile)
        if image.mode in ("CMYK", "LAB"):
            notes.append(f"{image.mode} becomes RGB (sRGB)")
            metadata.icc_profile = None  # of whatever kind: the colours are sRGB's now
        metadata.icc_profile = fitting_profile(pixels, metadata.icc_profile)
        bits = bits or (16 if deep > 8 or image.mode[0] in "IF" else 8)
        return Picture(pixels, bits, metadata, "JPEG" if kind == "MPO" else kind, frames, notes)


def load_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The same as a Pillow image: 8 bits, and no more of the metadata than Pillow gives."""
    with opened(Path(path), max_pixels) as image:
        return upright(_loaded(image, path), orientation(image))


def _loaded(image: Image.Image, path: str | Path) -> Image.Image:
    """Decoded; whole numbers in their full range, which turned copies no longer tell."""
    image.load()
    return full_range(image, str(path)) if image.mode.startswith("I") else image


@contextmanager
def opened(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """A file opened by its content, whatever its name says, its size checked before anything is
    decoded.

    Whatever a decoder raises inside of the block ends as a PatchScalerError.
    """
    if not path.exists():
        raise PatchScalerError(f"{path}: no such file")
    if path.is_dir():
        raise PatchScalerError(f"{path}: is a folder; name the pictures in it")
    if not path.is_file():
        raise PatchScalerError(f"{path}: is neither a file nor a folder")
    try:
        if path.stat().st_size == 0:
            raise PatchScalerError(f"{path}: the file is empty")
        _plugins(path, max_pixels)
        with (
            pillow_limit(0),
            Image.open(path, formats=[n for n in READABLE if n in Image.OPEN]) as image,
        ):
            check_pixels(image.width, image.height, max_pixels, str(path))
            with pillow_limit(max_pixels), _quiet(image.format == "TIFF"):
                yield image
    except PatchScalerError:
        raise
    except UnidentifiedImageError as error:
        raise PatchScalerError(f"{path}: not a picture in a format that can be read") from error
    except PermissionError as error:
        raise PatchScalerError(f"{path}: no permission to read it") from error
    except FileNotFoundError as error:
        raise PatchScalerError(f"{path}: vanished while it was read") from error
    except MemoryError as error:
        raise PatchScalerError(f"{path}: not enough memory to read it") from error
    except Exception as error:
        # decoders raise OSError, SyntaxError, ValueError, struct.error and more
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PatchScalerError(f"{path}: damaged or cut off ({reason[:200]})") from error


@contextmanager
def pillow_limit(max_pixels: int) -> Iterator[None]:
    """Pillow's own limit, 0 for none: what it checks behind the header, such as frames larger than
    the picture.
    """
    before = Image.MAX_IMAGE_PIXELS
    # it refuses from twice as many on
    Image.MAX_IMAGE_PIXELS = max_pixels // 2 + 1 if max_pixels else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata, too: what is left out is noted
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


@contextmanager
def _quiet(wanted: bool) -> Iterator[None]:
    """Standard error away, past Python: libtiff writes a line of its own about each
    damaged strip.
    """
    if not wanted:
        yield
        return
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(65536)


def _plugins(path: Path, max_pixels: int) -> None:
    """Register the readers that do not come with Pillow, when a file of theirs is met."""
    Image.init()
    head = _head(path)
    if (size := jxl_size(path, head)) is not None:
        check_pixels(*size, max_pixels, str(path))  # its reader decodes all of it at once
        import_jxl(f"{path}: a JPEG XL picture")
    brands = head[8:12] + head[16:64]
    if head[4:8] == b"ftyp" and any(
        b in brands for b in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
    ):
        import_heif(f"{path}: a HEIC picture").register_heif_opener(thumbnails=False)


def upright(image: Image.Image, turn: int) -> Image.Image:
    """`turn`: EXIF's orientation. The info stays, without the tag."""
    turned = image.transpose(TURNS[turn]) if turn in TURNS else image.copy()
    with suppress(Exception):  # Pillow would turn it once more where it finds the tag
        turned.getexif().pop(274, None)
    return turned


def turn_array(array: np.ndarray, turn: int) -> np.ndarray:
    """(h, w, c) the same way."""
    if turn >= 5:
        array = array.transpose(1, 0, 2)  # 5
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
    return np.flip(array, flips.get(turn, ()))


def check_pixels(width: int, height: int, max_pixels: int, name: str) -> None:
    """Raises TooManyPixelsError where a picture has more pixels than allowed."""
    if max_pixels and width * height > max_pixels:
        raise TooManyPixelsError(
            f"{name}: {width}x{height} is more than the limit of {max_pixels / 1e6:g} megapixels; "
            f"allow it with --max-pixels {width * height} (max_pixels in Python) if memory "
            "suffices",
            width,
            height,
            max_pixels,
        )
