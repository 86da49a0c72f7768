"""More than 8 bits a channel.

Pillow holds them in grey only: colours are read by libvips (or pillow-heif).
"""

import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from patchscaler.errors import PatchScalerError
from patchscaler.images.icc import profile_kind


def import_vips(what: str) -> ModuleType:
    """pyvips, or a PatchScalerError that says what needs it."""
    try:
        import pyvips
    except (ImportError, OSError) as error:  # OSError: the binding is there, the library is not
        raise PatchScalerError(
            f"{what} needs pyvips: pip install 'patchscaler[formats]'"
        ) from error
    return pyvips


@contextmanager
def vips_errors(path: Path) -> Iterator[None]:
    """What libvips raises while `path` is written (a full disk, say) ends as a PatchScalerError
    that names it.
    """
    try:
        yield
    except Exception as error:
        vips = sys.modules.get("pyvips")  # nothing of libvips' comes from a process without it
        if vips is None or not isinstance(error, vips.Error):
            raise
        # libvips says it thrice, and names temporary files
        told = re.search(r"system error: (.+)", str(error))
        reason = told[1] if told else " ".join(str(error).split())[:200]
        raise PatchScalerError(f"{path}: cannot be written ({reason})") from error


def import_heif(what: str) -> ModuleType:
    try:
        import pillow_heif
    except ImportError as error:
        raise PatchScalerError(
            f"{what} needs pillow-heif: pip install 'patchscaler[formats]'"
        ) from error
    return pillow_heif


def depth(image: Image.Image, head: bytes) -> int:
    """Bits a channel of an opened, not yet decoded file; head: its first kilobytes. 8 where Pillow
    keeps them all.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return 8  # grey: Pillow's own
    if image.format == "PNG":
        # of the IHDR chunk, the first of every PNG
        return 16 if len(head) > 24 and head[24] == 16 else 8
    if image.format == "TIFF":
        return max(_tag(image, 258, 8))
    if image.format == "AVIF":
        # pixel information box: version and flags, channels, bits of each
        place = head.find(b"pixi")
        return head[place + 9] if 0 <= place < len(head) - 9 else 8
    if image.format == "HEIF":
        return int(image.info.get("bit_depth", 8))
    return 8


def _tag(image: Image.Image, tag: int, default: int) -> tuple[Any, ...]:
    """Of an opened TIFF; (default,) where it is missing, and of other pictures."""
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return value if isinstance(value, tuple) else (value,)


def full_range(image: Image.Image, name: str) -> Image.Image:
    """Pillow's whole numbers as decoded (modes I, I;16, I;16B) -> of 16 bits, black 0 and white
    65535.

    Pillow leaves 12 bits in the lower ones and grey whose zero is white as it is: a TIFF's tags say
    so, as long as `image` is what was opened. Raises PatchScalerError where numbers do not tell
    what is white.
    """
    bits, signed = _tag(image, 258, 16)[0], _tag(image, 339, 1)[0] == 2
    white = 2 ** (bits - signed) - 1 if bits <= 16 else 65535
    inverted = _tag(image, 262, 1)[0] == 0
    if image.mode != "I" and white == 65535 and not inverted:
        return image
    values = np.asarray(image)
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise PatchScalerError(
            f"{name}: holds numbers below 0 or above 65535, and what is white is not told; "
            "save it with 8 or 16 bits a channel"
        )
    levels = (values.astype(np.uint32) * 65535 + white // 2) // white
    out = Image.fromarray((65535 - levels if inverted else levels).astype(np.uint16))
    out.info = dict(image.info)
    return out


def read_deep(path: Path, kind: str, bits: int, alpha: bool) -> np.ndarray:
    """(h, w, 1..4) uint16, full range, as stored (orientation is the caller's). alpha: whether one
    is told of.

    Raises what the decoder raises.
    """
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
    # 'truncated' would do for PNG, but give what a TIFF lacks as black.
    image = vips.Image.new_from_buffer(data, "", access="sequential", fail_on="error")
    if image.format not in ("uchar", "ushort"):
        raise PatchScalerError(
            f"{path}: holds numbers of kind '{image.format}'; save it with 8 or 16 bits a channel"
        )
    array = _cmyk_to_srgb(image) if image.interpretation == "cmyk" else image.numpy()
    array = array[..., None] if array.ndim == 2 else array
    if not alpha:  # samples of no meaning may stand behind the colours
        array = array[..., : 1 if array.shape[2] < 3 else 3]
    if array.dtype == np.uint8:
        return array.astype(np.uint16) * 257
    # libvips moves 10 bits up without filling the lower ones: white would be 65472
    if kind == "AVIF":
        return np.rint((array >> (16 - bits)) * (65535 / (2**bits - 1))).astype(np.uint16)
    return array


def _cmyk_to_srgb(image: Any) -> np.ndarray:
    """(h, w, 3) uint16 by its profile, or by the rule of thumb that Pillow has where that is of no
    use.
    """
    vips = import_vips("CMYK of 16 bits")
    profile = image.get("icc-profile-data") if image.get_typeof("icc-profile-data") else b""
    if profile_kind(profile) == "CMYK":
        with suppress(vips.Error):
            return image.icc_transform("srgb", embedded=True, intent="perceptual", depth=16).numpy()
    paper = 1 - image.numpy()[..., :4] / np.float32(65535)
    return np.rint(paper[..., :3] * paper[..., 3:] * 65535).astype(np.uint16)
