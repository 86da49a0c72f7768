"""More than 8 bits a channel. Pillow holds them in grey only: colours are read by libvips (or pillow-heif)."""

import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from patchscaler.errors import PatchScalerError


def import_vips(what: str) -> ModuleType:
    """pyvips, or a PatchScalerError that says what needs it."""
    try:
        import pyvips
    except (ImportError, OSError) as error:  # OSError: the binding is there, the library is not
        raise PatchScalerError(f"{what} needs pyvips: pip install 'patchscaler[formats]'") from error
    return pyvips


@contextmanager
def vips_errors(path: Path) -> Iterator[None]:
    """What libvips raises while `path` is written (a full disk, say) ends as a PatchScalerError that names it."""
    try:
        yield
    except Exception as error:
        vips = sys.modules.get("pyvips")  # nothing of libvips' comes from a process without it
        if vips is None or not isinstance(error, vips.Error):
            raise
        told = re.search(r"system error: (.+)", str(error))  # libvips says it thrice, and names temporary files
        reason = told[1] if told else " ".join(str(error).split())[:200]
        raise PatchScalerError(f"{path}: cannot be written ({reason})") from error


def import_heif(what: str) -> ModuleType:
    try:
        import pillow_heif
    except ImportError as error:
        raise PatchScalerError(f"{what} needs pillow-heif: pip install 'patchscaler[formats]'") from error
    return pillow_heif


def depth(image: Image.Image, head: bytes) -> int:
    """Bits a channel of an opened, not yet decoded file; head: its first kilobytes. 8 where Pillow keeps them all."""
    if image.mode == "F" or image.mode.startswith("I"):
        return 8  # grey: Pillow's own
    if image.format == "PNG":
        return 16 if len(head) > 24 and head[24] == 16 else 8  # of the IHDR chunk, the first of every PNG
    if image.format == "TIFF":
        bits = image.tag_v2.get(258, (8,))  # type: ignore[attr-defined]
        return max(bits if isinstance(bits, tuple) else (bits,))
    if image.format == "AVIF":
        place = head.find(b"pixi")  # pixel information box: version and flags, channels, bits of each
        return head[place + 9] if 0 <= place < len(head) - 9 else 8
    if image.format == "HEIF":
        return int(image.info.get("bit_depth", 8))
    return 8


def read_deep(path: Path, kind: str, bits: int) -> np.ndarray:
    """(h, w, 1..4) uint16, full range, as stored (orientation is the caller's). Raises what the decoder raises."""
    data = path.read_bytes()
    what = f"{path}: {bits} bits a channel"
    if kind == "HEIF":
        heif = import_heif(what).open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
        array = np.asarray(heif)
        return array[..., None] if array.ndim == 2 else array
    try:
        vips = import_vips(what)
    except PatchScalerError as error:
        raise PatchScalerError(f"{error}; or take 8 of them with --bits 8") from error
    image = vips.Image.new_from_buffer(data, "", access="sequential", fail_on="truncated")
    if image.format not in ("uchar", "ushort"):
        raise PatchScalerError(f"{path}: holds numbers of kind '{image.format}'; save it with 8 or 16 bits a channel")
    array = image.numpy()
    array = array[..., None] if array.ndim == 2 else array
    if array.dtype == np.uint8:
        return array.astype(np.uint16) * 257
    if kind == "AVIF":  # libvips moves 10 bits up without filling the lower ones: white would be 65472
        return np.rint((array >> (16 - bits)) * (65535 / (2**bits - 1))).astype(np.uint16)
    return array
