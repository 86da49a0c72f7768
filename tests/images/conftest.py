"""What the tests of images share: a PNG made chunk by chunk."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.fixture
def png(tmp_path: Path) -> Callable[..., Path]:
    """`png(size, depth, color, rows, before, after)`: chunks before and after the pixels."""

    def write(size, depth, color, rows, before=(), after=()) -> Path:
        header = struct.pack(">IIBBBBB", *size, depth, color, 0, 0, 0)
        pixels = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
        chunks = [(b"IHDR", header), *before, (b"IDAT", pixels), *after, (b"IEND", b"")]
        path = tmp_path / "made.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks))
        return path

    return write
