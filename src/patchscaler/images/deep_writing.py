"""TIFF, and files of 16 bits a channel: PNG and TIFF by rows (Pillow has no 16-bit colours), AVIF,
HEIC by libraries.

PNG and TIFF are written from any array, one on disk (np.memmap) too, some rows at a time.
"""

import io
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from patchscaler.images.deep import import_heif, import_vips
from patchscaler.images.metadata import Metadata, exif_for_tiff

STRIP = 1 << 22  # bytes of pixels handled at a time
BIG = 3_900_000_000  # bytes above which a TIFF needs offsets of 64 bits (BigTIFF)


def save_deep(
    array: np.ndarray, path: Path, kind: str, data: Metadata, options: dict[str, Any]
) -> None:
    """(h, w, 1..4) uint16. options: what Pillow's writer of this format would be told."""
    if kind == "PNG":
        write_png(array, path, options)
    elif kind == "TIFF":
        write_tiff(array, path, data)
    elif kind == "AVIF":
        _save_avif(array, path, data, options["quality"])
    else:
        _save_heif(array, path, options)


def strips(array: np.ndarray) -> Iterator[np.ndarray]:
    rows = max(1, STRIP // (array[0].nbytes))
    for top in range(0, len(array), rows):
        yield np.ascontiguousarray(array[top : top + rows])


def write_png(array: np.ndarray, path: Path, options: dict[str, Any]) -> None:
    """PNG (ISO/IEC 15948) of 8 or 16 bits; every row by filter 1, the difference to its left
    neighbour.
    """
    height, width, channels = array.shape
    pixel = array.itemsize * channels  # bytes
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8 * array.itemsize, color, 0, 0, 0)
    packer = zlib.compressobj(6)
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _metadata_chunks(options))
        for strip in strips(array):
            rows = (
                strip.astype(array.dtype.newbyteorder(">")).view(np.uint8).reshape(len(strip), -1)
            )
            filtered = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
            filtered[:, 0] = 1
            filtered[:, 1 : 1 + pixel] = rows[:, :pixel]
            filtered[:, 1 + pixel :] = rows[:, pixel:] - rows[:, :-pixel]
            if packed := packer.compress(filtered.tobytes()):
                file.write(_chunk(b"IDAT", packed))
        file.write(_chunk(b"IDAT", packer.flush()) + _chunk(b"IEND", b""))


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _metadata_chunks(options: dict[str, Any]) -> bytes:
    """The chunks that Pillow writes for these options, of a picture of one pixel."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG", **options)
    data, chunks, place = buffer.getvalue(), b"", 8
    while place < len(data):
        (size,) = struct.unpack_from(">I", data, place)
        if data[place + 4 : place + 8] not in (b"IHDR", b"IDAT", b"IEND"):
            chunks += data[place : place + 12 + size]
        place += 12 + size
    return chunks


def write_tiff(array: np.ndarray, path: Path, data: Metadata) -> None:
    """TIFF 6.0 of 8 or 16 bits: strips, deflate, differences to the left neighbour.

    Little-endian.
    """
    height, width, channels = array.shape
    rows = max(1, STRIP // array[0].nbytes)
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
            258: (8 * array.itemsize,) * channels,
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


def _save_avif(array: np.ndarray, path: Path, data: Metadata, quality: int) -> None:
    """12 bits, the most that AVIF holds."""
    vips = import_vips("AVIF of more than 8 bits")
    image = vips.Image.new_from_array(array)
    image = image.copy(interpretation="rgb16" if array.shape[2] > 2 else "grey16")
    blocks = {"icc-profile-data": data.icc_profile, "xmp-data": data.xmp}
    blocks["exif-data"] = b"Exif\0\0" + data.exif if data.exif else None
    for name, block in blocks.items():
        if block:
            image.set_type(vips.GValue.blob_type, name, block)
    sampling = "off" if quality >= 90 else "on"
    image.heifsave(str(path), compression="av1", bitdepth=12, Q=quality, subsample_mode=sampling)


def _save_heif(array: np.ndarray, path: Path, options: dict[str, Any]) -> None:
    """12 bits, the most that HEIC holds."""
    heif = import_heif("HEIC")
    mode = {1: "L;16", 2: "LA;16", 3: "RGB;16", 4: "RGBA;16"}[array.shape[2]]
    heif.options.SAVE_HDR_TO_12_BIT = True
    with path.open("wb") as file:
        heif.encode(
            mode, array.shape[1::-1], np.ascontiguousarray(array).tobytes(), file, **options
        )
