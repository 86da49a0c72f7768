"""Pixels -> encoders: Pillow's, or libvips' for 16-bit colors and for pixels on disk.

libvips reads those as they come, in memory that does not grow with them.
"""

import io
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from patchscaler.images.formats import import_heif, import_vips
from patchscaler.images.metadata import Metadata, exif_for_tiff
from patchscaler.images.pixels import to_palette, to_pil

STRIP = 1 << 22  # bytes of pixels handled at a time
BIG = 3_900_000_000  # bytes above which a TIFF needs offsets of 64 bits (BigTIFF)
PNG_HEADER = 33  # bytes of the signature and the first chunk
BY_ROWS = ("PNG", "TIFF", "JPEG")
# Bytes of pixels that Pillow gets at once; fixed, so that no file depends on how pixels were made.
MAX_IN_MEMORY = 400_000_000


def encode(array: Any, path: Path, kind: str, data: Metadata, options: dict[str, Any]) -> None:
    """(h, w, 1..4) uint8 or uint16, in memory or on disk -> a file.

    Args:
        options: As Pillow's writer of this format takes them.
    """
    deep, large = array.dtype == np.uint16, array.nbytes > MAX_IN_MEMORY
    if kind == "TIFF":
        write_tiff(array, path, data)
    elif deep and kind == "HEIF":
        _write_heif(np.asarray(array[:]), path, options)
    elif deep and kind == "AVIF":
        _write_avif(np.asarray(array[:]), path, data, options["quality"])
    elif deep and array.shape[2] == 1 and not large:
        with path.open("wb") as file:
            Image.fromarray(array[:][..., 0]).save(file, kind, **options)
    elif deep or (large and kind in BY_ROWS):
        _write_by_vips(array, path, kind, options)
    else:
        image = to_pil(array[:])
        with path.open("wb") as file:
            (to_palette(image) if kind == "GIF" else image).save(file, kind, **options)


def _vips_image(array: Any) -> Any:
    """A file that holds the pixels and nothing else (`DiskArray`) is read as it is needed."""
    vips = import_vips("writing 16-bit colors or large images")
    height, width, channels = array.shape
    deep = array.dtype == np.uint16
    if isinstance(array, np.ndarray):
        image = vips.Image.new_from_array(np.ascontiguousarray(array))
    else:
        form = "ushort" if deep else "uchar"
        image = vips.Image.rawload(str(array.path), width, height, channels, format=form)
    kinds = ("grey16", "rgb16") if deep else ("b-w", "srgb")
    return image.copy(interpretation=kinds[channels > 2])


def _write_by_vips(array: Any, path: Path, kind: str, options: dict[str, Any]) -> None:
    """PNG or JPEG: the pixels by libvips, the metadata in front of them as Pillow writes it.

    libvips would write the EXIF block anew, and a density where there is none.
    """
    vips, image = import_vips("writing large images"), _vips_image(array)
    buffer = io.BytesIO()
    Image.new("L" if array.shape[2] < 3 else "RGB", (1, 1)).save(buffer, kind, **options)
    own, begin = buffer.getvalue(), PNG_HEADER if kind == "PNG" else 2
    place_of = _pixels if kind == "PNG" else _tables
    front = own[begin : place_of(own)]
    with path.open("wb") as file:
        waiting: bytes | None = b""  # what came before the place for the metadata was seen

        def write(part: Any) -> int:
            nonlocal waiting
            if waiting is None:
                return file.write(part)
            waiting += bytes(part)
            if (place := place_of(waiting)) >= 0:
                file.write(waiting[:begin] + front + waiting[place:])
                waiting = None
            return len(part)

        target = vips.TargetCustom()
        target.on_write(write)
        if kind == "PNG":
            image.pngsave_target(target, keep="none", compression=6, filter="sub")
        else:
            sampling = "off" if options.get("subsampling") == "4:4:4" else "on"
            quality = options["quality"]
            image.jpegsave_target(target, keep="none", Q=quality, subsample_mode=sampling)


def _pixels(png: bytes) -> int:
    """Where the first chunk of pixels lies; -1 beyond these bytes."""
    return max(-1, png.find(b"IDAT", PNG_HEADER) - 4)


def _tables(jpeg: bytes) -> int:
    """Where the first segment lies that holds no metadata; -1 beyond these bytes."""
    place = 2
    while place + 4 <= len(jpeg):
        if jpeg[place + 1] not in (*range(0xE0, 0xF0), 0xFE):
            return place
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    return -1


def strips(array: Any) -> Iterator[np.ndarray]:
    rows = max(1, STRIP // (array.nbytes // array.shape[0]))
    for top in range(0, array.shape[0], rows):
        yield np.ascontiguousarray(array[top : top + rows])


def write_tiff(array: Any, path: Path, data: Metadata) -> None:
    """TIFF 6.0 of 8 or 16 bits: strips, deflate, differences to the left neighbor, little-endian.

    Own code, for Pillow writes no 16-bit colors, and libvips no EXIF; the directory is Pillow's.
    """
    height, width, channels = array.shape
    rows = max(1, STRIP // (array.nbytes // height))
    sizes = []
    # the directory comes first and names the sizes
    with tempfile.TemporaryFile(dir=path.parent) as packed:
        for strip in strips(array):
            differences = strip.copy()
            differences[:, 1:] -= strip[:, :-1]
            block = zlib.compress(differences.astype(array.dtype.newbyteorder("<")).tobytes(), 6)
            sizes.append(packed.write(block))
        big = sum(sizes) > BIG
        ifd = exif_for_tiff(data, big)
        tags = {
            256: width,
            257: height,
            258: (8 * array.dtype.itemsize,) * channels,
            259: 8,
            262: 1 if channels < 3 else 2,
            273: tuple(int(x) for x in np.cumsum([0, *sizes[:-1]])),
            277: channels,
            278: rows,
            279: tuple(sizes),
            284: 1,
            317: 2,
            339: (1,) * channels,
        }
        for tag, value in tags.items():
            ifd[tag] = value
        for tag in (273, 279):
            ifd.tagtype[tag] = 16 if big else 4
        if channels in (2, 4):
            ifd[338] = 2  # transparency not multiplied in
        if data.icc_profile:
            ifd[34675] = data.icc_profile
        if data.dpi:
            ifd[296], ifd[282], ifd[283] = 2, data.dpi[0], data.dpi[1]
        with path.open("wb") as file:
            ifd.save(file)
            packed.seek(0)
            _copy(packed, file)


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    while block := source.read(STRIP):
        target.write(block)


def write_pyramid(array: Any, path: Path, data: Metadata) -> None:
    """A tiled TIFF that holds smaller copies of itself, by libvips, which writes no EXIF."""
    vips, image = import_vips("a pyramid"), _vips_image(array)
    blocks = {"icc-profile-data": data.icc_profile, "xmp-data": data.xmp, "iptc-data": data.iptc}
    _set_blocks(vips, image, blocks)
    across, down = data.dpi or (72.0, 72.0)
    # libvips counts in pixels a millimeter
    image.copy(xres=across / 25.4, yres=down / 25.4).tiffsave(
        str(path),
        tile=True,
        tile_width=256,
        tile_height=256,
        pyramid=True,
        subifd=False,
        compression="deflate",
        predictor="horizontal",
        bigtiff=array.nbytes > 2e9,
    )


def _set_blocks(vips: Any, image: Any, blocks: dict[str, bytes | None]) -> None:
    for name, block in blocks.items():
        if block:
            image.set_type(vips.GValue.blob_type, name, block)


def _write_avif(array: np.ndarray, path: Path, data: Metadata, quality: int) -> None:
    """12 bits, the most that AVIF holds."""
    vips, image = import_vips("AVIF of more than 8 bits"), _vips_image(array)
    exif = b"Exif\0\0" + data.exif if data.exif else None
    blocks = {"icc-profile-data": data.icc_profile, "xmp-data": data.xmp, "exif-data": exif}
    _set_blocks(vips, image, blocks)
    sampling = "off" if quality >= 90 else "on"
    image.heifsave(str(path), compression="av1", bitdepth=12, Q=quality, subsample_mode=sampling)


def _write_heif(array: np.ndarray, path: Path, options: dict[str, Any]) -> None:
    """12 bits, the most that HEIC holds."""
    heif = import_heif("HEIC")
    mode = {1: "L;16", 2: "LA;16", 3: "RGB;16", 4: "RGBA;16"}[array.shape[2]]
    pixels = np.ascontiguousarray(array).tobytes()
    with path.open("wb") as file:
        heif.encode(mode, array.shape[1::-1], pixels, file, bit_depth=12, **options)
