"""JPEG of any size in the memory of one strip, with Pillow's encoder.

Each strip of rows is encoded by itself. Between two strips stands a restart marker, behind which a
decoder predicts nothing from what came before, so what two calls of one encoder wrote reads as one
picture (ITU-T T.81, B.2.4.4 and E.1.4). The pixels are the same as those of the picture encoded at
once.
"""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np

from patchscaler.images.planes import to_pil

STRIP = 1 << 24  # bytes of pixels encoded at a time
BLOCKS = 65_535  # between two restart markers, at most
FRAME, SCAN, INTERVAL, RESTART = 0xC0, 0xDA, 0xDD, 0xD0  # markers: SOF0, SOS, DRI, RST0


def write_jpeg(array: Any, path: Path, options: dict[str, Any]) -> None:
    """array: (h, w, 1 or 3), read by rows, so that it may lie on disk. options: as Pillow takes
    them.
    """
    height, width, channels = array.shape
    # pixels of its side
    block = 8 if channels == 1 or options.get("subsampling") == "4:4:4" else 16
    across = -(-width // block)
    # rows of blocks in a strip
    down = max(1, min(BLOCKS // across, STRIP // (width * channels * block)))
    plain: dict[str, Any] = {
        name: options[name] for name in ("quality", "subsampling") if name in options
    }
    with path.open("wb") as file:
        for n, top in enumerate(range(0, height, down * block)):
            strip = np.ascontiguousarray(array[top : top + down * block])
            head, scan = _parts(_encoded(strip, plain if n else options))
            if n == 0:
                file.write(_whole_head(head, height, down * across))
            else:
                file.write(bytes([0xFF, RESTART + (n - 1) % 8]))
            file.write(scan)
        file.write(b"\xff\xd9")


def _encoded(strip: np.ndarray, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    to_pil(strip).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _segments(jpeg: bytes) -> Any:
    """(marker, its place, the place behind its segment), up to the scan's header."""
    place, marker = 2, 0
    while marker != SCAN:
        marker, size = jpeg[place + 1], struct.unpack_from(">H", jpeg, place + 2)[0]
        yield marker, place, place + 2 + size
        place += 2 + size


def _parts(jpeg: bytes) -> tuple[bytes, bytes]:
    """-> all up to and with the scan's header, and the scan without the end of the picture."""
    *_, (_, _, behind) = _segments(jpeg)
    return jpeg[:behind], jpeg[behind:-2]


def _whole_head(head: bytes, height: int, interval: int) -> bytes:
    """The first strip's, with the height of the picture, and how many blocks lie between restart
    markers.
    """
    places = {marker: place for marker, place, _ in _segments(head)}
    at, scan = places[FRAME] + 5, places[SCAN]
    sized = head[:at] + struct.pack(">H", height) + head[at + 2 : scan]
    return sized + struct.pack(">BBHH", 0xFF, INTERVAL, 4, interval) + head[scan:]
