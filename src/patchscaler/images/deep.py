"""More than 8 bits a channel.

Pillow holds them in grey only: colors are read by libvips (or pillow-heif).
"""

import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from patchscaler.errors import PatchScalerError
from patchscaler.images.formats import import_heif, import_vips
from patchscaler.images.icc import profile_kind
from patchscaler.images.pixels import has_alpha, tiff_tag


def bit_depth(image: Image.Image, head: bytes) -> int:
    """Bits a channel of an opened file that Pillow would cut to 8; 8 where it keeps them all.

    Args:
        head: The file's first kilobytes.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return 8  # grey: Pillow's own
    if image.format == "PNG":
        return 16 if len(head) > 24 and head[24] == 16 else 8  # IHDR is the first chunk
    if image.format == "TIFF":
        return int(max(tiff_tag(image, 258, 8)))
    if image.format == "AVIF":
        # pixel information box: version and flags, channels, bits of each
        place = head.find(b"pixi")
        return head[place + 9] if 0 <= place < len(head) - 9 else 8
    if image.format == "HEIF":
        return int(image.info.get("bit_depth", 8))
    return 8


def read_deep(path: Path, image: Image.Image, bits: int) -> np.ndarray:
    """The opened image as (h, w, 1..4) uint16, full range, as stored: turning it is the caller's.

    Raises:
        Exception: Whatever the decoder raises.
    """
    data = path.read_bytes()
    what = f"{path}: {bits} bits a channel"
    if image.format == "HEIF":
        heif = import_heif(what).open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
        array = np.asarray(heif)
        return array[..., None] if array.ndim == 2 else array
    try:
        vips = import_vips(what)
    except PatchScalerError as error:
        raise PatchScalerError(f"{error}; or take 8 of them with --bits 8") from error
    options: dict[str, Any] = {"page": image.tell()} if image.format == "TIFF" else {}
    # 'truncated' would do for PNG, but give what a TIFF lacks as black.
    found = vips.Image.new_from_buffer(data, "", access="sequential", fail_on="error", **options)
    if found.format not in ("uchar", "ushort"):
        raise PatchScalerError(
            f"{path}: holds numbers of kind '{found.format}'. "
            "Hint: save it with 8 or 16 bits a channel"
        )
    array = _cmyk_to_srgb(found) if found.interpretation == "cmyk" else found.numpy()
    array = array[..., None] if array.ndim == 2 else array
    if not has_alpha(image):  # samples of no meaning may stand behind the colors
        array = array[..., : 1 if array.shape[2] < 3 else 3]
    if array.dtype == np.uint8:
        return array.astype(np.uint16) * 257
    # libvips moves 10 bits up without filling the lower ones: white would be 65472
    if image.format == "AVIF":
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
