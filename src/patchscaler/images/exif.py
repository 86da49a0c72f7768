"""EXIF after upscaling: a few numbers are changed in place, every other byte stays.

Own code, for libraries (Pillow, libexif in libvips) write the block anew and so move what makers'
notes point at. The layout is TIFF's (EXIF 2.32, 4.5).
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass

IMAGE_WIDTH, IMAGE_LENGTH, ORIENTATION = 256, 257, 274
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
EXIF_IFD, INTEROP_IFD = 34665, 40965
PIXEL_X, PIXEL_Y, COLOR_SPACE = 40962, 40963, 40961
RELATED_WIDTH, RELATED_LENGTH = 4097, 4098
REMOVED = (0x9214, 0xA214)  # SubjectArea, SubjectLocation: places in the old image
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

    def directories(self) -> list[int]:
        """The first, that of the camera's numbers, and that of interoperability."""
        found = [self.first]
        for tag in (EXIF_IFD, INTEROP_IFD):
            found += [e.value for e in self.entries(found[-1]) if e.tag == tag][:1]
        return found

    def remove(self, directory: int, tag: int) -> None:
        """The entries behind it move up, what they point at stays."""
        for entry in list(self.entries(directory)):
            if entry.tag == tag:
                (count,) = self._get("H", directory)
                end = directory + 2 + 12 * count + 4
                self.data[entry.place : end] = self.data[entry.place + 12 : end] + bytes(12)
                self._put("H", directory, count - 1)
                return

    def drop_thumbnail(self) -> None:
        (count,) = self._get("H", self.first)
        self._put("I", self.first + 2 + 12 * count, 0)


def upscaled(
    exif: bytes, size: tuple[int, int], ratios: tuple[float, float], srgb: bool = False
) -> bytes:
    """EXIF of the upright image of `size` (width, height), without thumbnail and subject area.

    Args:
        ratios: By which the density grows.
        srgb: Whether the colors became sRGB's.

    Raises:
        ValueError, struct.error: The block is damaged.
    """
    block = Block(exif)
    numbers = {
        ORIENTATION: 1,
        **dict.fromkeys((IMAGE_WIDTH, PIXEL_X, RELATED_WIDTH), size[0]),
        **dict.fromkeys((IMAGE_LENGTH, PIXEL_Y, RELATED_LENGTH), size[1]),
    }
    if srgb:
        numbers[COLOR_SPACE] = 1
    for directory in block.directories():
        for tag in REMOVED:
            block.remove(directory, tag)
        for entry in block.entries(directory):
            if entry.tag in numbers:
                block.set_integer(entry, numbers[entry.tag])
    block.scale_density(ratios)
    block.drop_thumbnail()
    return bytes(block.data)


def without_orientation(exif: bytes) -> bytes:
    """The same without that tag."""
    block = Block(exif)
    block.remove(block.first, ORIENTATION)
    return bytes(block.data)
