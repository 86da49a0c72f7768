"""Large files decoded from top to bottom by libvips, never whole in memory."""

import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, PngImagePlugin

from patchscaler.errors import PatchScalerError
from patchscaler.images.formats import import_vips

ABOVE = 25_000_000  # pixels; smaller files are decoded whole, by Pillow, as everywhere else
BANDS = {"L": 1, "RGB": 3, "RGBA": 4}
PIXELS = (b"IDAT", b"acTL", b"fcTL", b"fdAT")  # chunks
KINDS = {"uchar": np.uint8, "ushort": np.uint16}


class Rows:
    """(h, w, 1..4) uint8 or uint16 that reads like an array by `rows[top:bottom]`; fast where that
    goes downwards.
    """

    def __init__(self, path: Path, image: Any):
        self.path, self._image, self._next = path, image, 0
        self.shape = (image.height, image.width, image.bands)
        self.dtype, self.ndim = np.dtype(KINDS[image.format]), 3

    def __getitem__(self, key: slice) -> np.ndarray:
        """(bottom - top, w, c). Raises PatchScalerError where the file is damaged or gone."""
        vips = import_vips(str(self.path))
        top, bottom, _ = key.indices(self.shape[0])
        try:
            if top < self._next:  # libvips reads a file once; go back by opening it again
                self._image = _open(self.path)
            self._next = bottom
            rows = self._image.crop(0, top, self.shape[1], bottom - top).numpy()
        except vips.Error as error:
            reason = " ".join(str(error).split())[:200]
            raise PatchScalerError(f"{self.path}: damaged or cut off ({reason})") from error
        return rows.reshape(bottom - top, *self.shape[1:])


def rows_of(path: Path, image: Image.Image, deep: int, turn: int) -> Rows | None:
    """Open a large file's pixels, or None.

    None for small files, for what only a whole image can be converted from (turned ones, palettes,
    CMYK, transparency by color), and without pyvips.

    Args:
        image: Opened, or what `png_without_pixels` gave.
        deep: Its bits a channel.
        turn: How EXIF says it is turned.
    """
    plain = image.mode in BANDS and "transparency" not in image.info and turn in (0, 1)
    if image.format == "TIFF":  # transparency and inverted grey have many forms
        plain = plain and image.mode == "RGB" and image.tell() == 0
    if (
        not plain
        or image.format not in ("PNG", "JPEG", "TIFF")
        or image.width * image.height <= ABOVE
    ):
        return None
    try:
        vips = import_vips(str(path))
        found = _open(path)
    except (PatchScalerError, OSError):
        return None
    except vips.Error:  # what is wrong with it, Pillow will say
        return None
    wanted = (image.width, image.height, BANDS[image.mode], "uchar" if deep == 8 else "ushort")
    return (
        Rows(path, found)
        if (found.width, found.height, found.bands, found.format) == wanted
        else None
    )


def png_without_pixels(path: Path, image: Image.Image) -> Image.Image | None:
    """Of a large PNG, an image that says the same without a pixel to decode; None of others.

    A PNG may speak of itself behind its pixels, so that Pillow decodes all of them to hear it.
    """
    if image.format != "PNG" or image.width * image.height <= ABOVE:
        return None
    twin = io.BytesIO()
    twin.write(b"\x89PNG\r\n\x1a\n")
    with path.open("rb") as file:
        for kind, data in png_chunks(file):
            if kind == b"IHDR":  # one pixel of the same kind
                data = b"\0\0\0\1\0\0\0\1" + data[8:12] + b"\0"
            if kind not in PIXELS:
                _write_chunk(twin, kind, data)
    # 9 bytes hold a pixel of any depth, with its filter
    _write_chunk(twin, b"IDAT", zlib.compress(bytes(9)))
    _write_chunk(twin, b"IEND", b"")
    twin.seek(0)
    found = PngImagePlugin.PngImageFile(twin)
    found.load()
    found._size = image.size
    return found


def png_chunks(file: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """(name, data) of each chunk of a PNG up to its end; b"" for pixels, which are skipped."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind == b"IEND":
            return
        if kind in PIXELS:
            file.seek(length + 4, io.SEEK_CUR)
            yield kind, b""
            continue
        if length > PngImagePlugin.MAX_TEXT_MEMORY:
            raise OSError(f"a chunk of {length} bytes")
        yield kind, file.read(length)
        file.seek(4, io.SEEK_CUR)


def _write_chunk(file: io.BytesIO, kind: bytes, data: bytes) -> None:
    check = zlib.crc32(kind + data).to_bytes(4, "big")
    file.write(len(data).to_bytes(4, "big") + kind + data + check)


def _open(path: Path) -> Any:
    vips = import_vips(str(path))
    return vips.Image.new_from_file(str(path.resolve()), access="sequential", fail_on="error")
