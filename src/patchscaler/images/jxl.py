"""The size of a JPEG XL image from its first bytes: the plugin decodes what it opens."""

import struct
from pathlib import Path

from patchscaler.errors import PatchScalerError

CODESTREAM, CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


def jxl_size(path: Path, head: bytes) -> tuple[int, int] | None:
    """(width, height) of a JPEG XL file; None for other files. Raises PatchScalerError where it has
    no codestream.

    head: its first kilobytes.
    """
    if head.startswith(CODESTREAM):
        stream = head[:32]
    elif head.startswith(CONTAINER):
        stream = _codestream(path)
    else:
        return None
    if len(stream) < 12 or not stream.startswith(CODESTREAM):
        raise PatchScalerError(f"{path}: damaged or cut off (a JPEG XL file without an image)")
    return _size(int.from_bytes(stream[2:12], "little"))


def _codestream(path: Path) -> bytes:
    """The first bytes of the codestream: of box 'jxlc', or of the first 'jxlp' behind
    its number.
    """
    place, end = 0, path.stat().st_size
    with path.open("rb") as file:
        for _ in range(1000):  # boxes; files have ten
            if place + 8 > end:
                break
            file.seek(place)
            start = file.read(16)
            length, kind = struct.unpack(">I4s", start[:8])
            header = 16 if length == 1 else 8
            if length == 1 and len(start) == 16:
                (length,) = struct.unpack(">Q", start[8:])
            if kind in (b"jxlc", b"jxlp"):
                file.seek(place + header + (4 if kind == b"jxlp" else 0))
                return file.read(32)
            if length < header:  # 0: to the end of the file
                break
            place += length
    return b""


def _size(bits: int) -> tuple[int, int]:
    """SizeHeader of ISO/IEC 18181-1, D.2: fields from the lowest bit on."""

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    def side(small: int) -> int:
        return 8 * (1 + take(5)) if small else 1 + take((9, 13, 18, 30)[take(2)])

    small = take(1)
    height = side(small)
    if ratio := take(3):
        across, down = RATIOS[ratio]
        return height * across // down, height
    return side(small), height
