"""EXIF after enlarging: a few numbers are changed in place, every other byte stays, makers' notes
included.

Rewriting the whole block, as libraries do, moves what makers' notes point at. The layout is TIFF's
(EXIF 2.32, 4.5).
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass

ORIENTATION, IMAGE_WIDTH, IMAGE_LENGTH, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = (
    274,
    256,
    257,
    282,
    283,
    296,
)
EXIF_IFD, PIXEL_X, PIXEL_Y = 34665, 40962, 40963
SHORT, LONG, RATIONAL = 3, 4, 5


@dataclass(frozen=True)
class Entry:
    tag: int
    kind: int
    place: int  # of the twelve bytes
    value: int  # the number itself, or where a longer value lies


class Block:
    """An EXIF block without its 'Exif\\0\\0' prefix.

    Raises ValueError or struct.error where it is damaged.
    """

    def __init__(self, data: bytes):
        self.data = bytearray(data)
        order = {b"II": "<", b"MM": ">"}.get(data[:2])
        if order is None:
            raise ValueError("not an EXIF block")
        self.order = order
        if self._get("H", 2) != (42,):
            raise ValueError("not an EXIF block")
        (self.first,) = self._get("I", 4)

    def _get(self, form: str, place: int) -> tuple[int, ...]:
        return struct.unpack_from(self.order + form, self.data, place)

    def _put(self, form: str, place: int, *values: int) -> None:
        struct.pack_into(self.order + form, self.data, place, *values)

    def entries(self, directory: int) -> Iterator[Entry]:
        (count,) = self._get("H", directory)
        for place in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind = self._get("HH", place)
            yield Entry(tag, kind, place, self._get("H" if kind == SHORT else "I", place + 8)[0])

    def set_integer(self, entry: Entry, value: int) -> None:
        if entry.kind == SHORT and value <= 65535:
            self._put("HH", entry.place + 8, value, 0)
        elif entry.kind in (SHORT, LONG):
            self._put("HII", entry.place + 2, LONG, 1, value)

    def density(self) -> tuple[float, float] | None:
        """Pixels an inch."""
        found = {e.tag: e for e in self.entries(self.first)}
        if X_RESOLUTION not in found or Y_RESOLUTION not in found:
            return None
        x, y = (self._rational(found[tag]) for tag in (X_RESOLUTION, Y_RESOLUTION))
        unit = found[RESOLUTION_UNIT].value if RESOLUTION_UNIT in found else 2
        return None if unit not in (2, 3) else (x, y) if unit == 2 else (x * 2.54, y * 2.54)

    def _rational(self, entry: Entry) -> float:
        if entry.kind != RATIONAL:
            return math.nan
        numerator, denominator = self._get("II", entry.value)
        return numerator / denominator if denominator else math.nan

    def scale_density(self, ratios: tuple[float, float]) -> None:
        done = set()
        for entry in self.entries(self.first):
            if (
                entry.tag in (X_RESOLUTION, Y_RESOLUTION)
                and entry.kind == RATIONAL
                and entry.value not in done
            ):
                done.add(entry.value)  # both may point at one number
                value = self._rational(entry) * ratios[entry.tag == Y_RESOLUTION]
                if 0 < value < 2**32:
                    denominator = 1000 if value * 1000 < 2**32 else 1
                    self._put("II", entry.value, round(value * denominator), denominator)

    def drop_thumbnail(self) -> None:
        (count,) = self._get("H", self.first)
        self._put("I", self.first + 2 + 12 * count, 0)


def enlarged(exif: bytes, size: tuple[int, int], ratios: tuple[float, float]) -> bytes:
    """EXIF of the upright picture of `size` (width, height), its density times `ratios`, without a
    thumbnail.

    Raises ValueError or struct.error where the block is damaged.
    """
    block = Block(exif)
    for directory in (
        block.first,
        *(e.value for e in block.entries(block.first) if e.tag == EXIF_IFD),
    ):
        for entry in block.entries(directory):
            if entry.tag == ORIENTATION:
                block.set_integer(entry, 1)
            elif entry.tag in (IMAGE_WIDTH, PIXEL_X):
                block.set_integer(entry, size[0])
            elif entry.tag in (IMAGE_LENGTH, PIXEL_Y):
                block.set_integer(entry, size[1])
    block.scale_density(ratios)
    block.drop_thumbnail()
    return bytes(block.data)


def without_orientation(exif: bytes) -> bytes:
    """The same without that tag: the entries behind it move up, what they point at stays."""
    block = Block(exif)
    for entry in block.entries(block.first):
        if entry.tag == ORIENTATION:
            (count,) = block._get("H", block.first)
            end = block.first + 2 + 12 * count + 4
            block.data[entry.place : end] = block.data[entry.place + 12 : end] + bytes(12)
            block._put("H", block.first, count - 1)
            break
    return bytes(block.data)
