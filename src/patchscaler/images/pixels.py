"""Pillow images and arrays of any kind -> levels and alpha whose range is known."""

import io
from contextlib import suppress
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from patchscaler.errors import PatchScalerError
from patchscaler.images.icc import profile_kind

# Floats a hair outside of 0..1 (sharpening overshoots) are clipped; beyond, the range is another.
LOWEST, HIGHEST = -0.25, 1.5
BRIGHT = 16  # from here on, floats of Pillow's mode F are taken for 0..255, its own convention
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
KEPT = (
    "icc_profile",
    "transparency",
    "gamma",
    "chromaticity",
    "srgb",
)  # of an image's info: what its numbers mean


# --- ranges ---------------------------------------------------------------------------------------


def unit_floats(values: np.ndarray, name: str) -> np.ndarray:
    """Check floats of 0..1, and clip what lies a hair outside.

    Raises:
        PatchScalerError: NaN, infinite, or of another range.
    """
    if not np.isfinite(values).all():
        raise PatchScalerError(
            f"{name}: contains NaN or infinite values. Hint: give floats in 0..1"
        )
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if low < LOWEST or high > HIGHEST:
        raise PatchScalerError(
            f"{name}: floats from {low:.4g} to {high:.4g}, the legal range is 0..1. "
            "Hint: divide 0..255 by 255; for -1..1 take (x + 1) / 2"
        )
    return np.asarray(values, np.float32).clip(0, 1)


def unit_array(array: np.ndarray, name: str = "array") -> tuple[np.ndarray, int]:
    """(H, W[, 1..4]) of integers or floats -> (H, W, 1..4) float32 in 0..1, and 8 or 16 bits.

    Raises:
        PatchScalerError: Another shape, type or range.
    """
    array = np.asarray(array)  # np.matrix keeps two dimensions otherwise, whatever is asked of it
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4) or 0 in array.shape:
        raise PatchScalerError(
            f"{name} of shape {array.shape}. Hint: give (H, W) or (H, W, C) with 1 to 4 channels"
        )
    if array.dtype == bool:
        return array.astype(np.float32), 8
    if array.dtype.kind == "u" and array.itemsize in (1, 2):
        top = 8 * array.itemsize
        return array.astype(np.float32) / (2**top - 1), top
    if not np.issubdtype(array.dtype, np.floating):
        raise PatchScalerError(
            f"{name} of {array.dtype}: its range is unknown. "
            "Hint: give uint8 in 0..255, uint16 in 0..65535 or floats in 0..1"
        )
    return unit_floats(array, name), 8


def float_levels(image: Image.Image) -> np.ndarray:
    """Mode F, of 0..1 or 0..255 -> (h, w, 1) float32 in 0..1."""
    values = np.asarray(image, np.float64)
    top = float(values.max(initial=0))
    if np.isfinite(values).all() and BRIGHT <= top < 255 * HIGHEST:
        values = values / 255
    return unit_floats(values, "image of mode F")[..., None]


def full_range(image: Image.Image, name: str) -> Image.Image:
    """Pillow's whole numbers (modes I, I;16, I;16B) -> 16 bits, black 0 and white 65535.

    Pillow leaves 12 bits in the lower ones, and grey whose zero is white as it is: a TIFF's tags
    tell, as long as `image` is what was opened.

    Raises:
        PatchScalerError: Nothing tells what is white.
    """
    bits, signed = tiff_tag(image, 258, 16)[0], tiff_tag(image, 339, 1)[0] == 2
    white = 2 ** (bits - signed) - 1 if bits <= 16 else 65535
    inverted = tiff_tag(image, 262, 1)[0] == 0
    if image.mode != "I" and white == 65535 and not inverted:
        return image
    values = np.asarray(image)
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    unknown = image.mode == "I" and white == 65535 and 1 < high <= 255
    if low < 0 or high > 65535 or unknown:
        raise PatchScalerError(
            f"{name}: whole numbers from {low} to {high}, and what is white is unknown. "
            "Hint: give 8 bits in 0..255 or 16 bits in 0..65535"
        )
    levels = (values.astype(np.uint32) * 65535 + white // 2) // white
    out = Image.fromarray((65535 - levels if inverted else levels).astype(np.uint16))
    out.info = dict(image.info)
    return out


def tiff_tag(image: Image.Image, tag: int, default: int) -> tuple[Any, ...]:
    """A tag's values in an opened TIFF; (default,) where it is missing, and of other images."""
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return value if isinstance(value, tuple) else (value,)


# --- alpha and grey -------------------------------------------------------------------------------


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def fit_transparency(image: Image.Image) -> None:
    """Bring a PNG's transparent level to the range of the pixels as Pillow decodes them.

    Pillow widens grey of 2 and 4 bits, and narrows colors of 16, but not the level. To be called
    before `load`, for only the decoder's name tells the bits.
    """
    level = image.info.get("transparency")
    tiles = getattr(image, "tile", None)
    raw = str(tiles[0][3]) if tiles and image.format == "PNG" else ""
    if isinstance(level, int) and image.mode == "L" and ";2" in raw:
        image.info["transparency"] = (level & 3) * 85
    elif isinstance(level, int) and image.mode == "L" and ";4" in raw:
        image.info["transparency"] = (level & 15) * 17
    elif isinstance(level, tuple) and ";16" in raw:
        image.info["transparency"] = tuple(v >> 8 for v in level)


def is_grey(image: Image.Image, profile: bytes | None) -> bool:
    """Also of a palette of greys, whose profile would be one of colors."""
    return (
        image.mode in ("1", "L", "LA", "La", "F")
        or image.mode[0] == "I"
        or (not profile and _grey_palette(image))
    )


def _grey_palette(image: Image.Image) -> bool:
    if image.mode != "P":
        return False
    used = [i for i, count in enumerate(image.histogram()) if count]
    palette = np.array(image.getpalette("RGB") or [0], np.uint8)
    palette = np.resize(palette, (len(palette) // 3, 3))
    seen = palette[[i for i in used if i < len(palette)]]
    return bool((seen == seen[:, :1]).all())


def fitting_profile(pixels: Any, profile: bytes | None) -> bytes | None:
    """The profile, if it describes these pixels: an image, or shaped (h, w, 1..4)."""
    if not profile or (isinstance(pixels, Image.Image) and pixels.mode in ("CMYK", "LAB", "HSV")):
        return None
    grey = is_grey(pixels, profile) if isinstance(pixels, Image.Image) else pixels.shape[2] < 3
    return profile if profile_kind(profile) == ("GRAY" if grey else "RGB") else None


# --- conversions ----------------------------------------------------------------------------------


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """A turned copy (`orientation` is EXIF's), whose info holds only what its numbers mean."""
    method = TRANSPOSES.get(orientation)
    turned = image.copy() if method is None else image.transpose(method)
    turned.info = {name: image.info[name] for name in KEPT if name in image.info}
    turned._exif = None  # Pillow looks there again
    return turned


def turn_array(array: np.ndarray, orientation: int) -> np.ndarray:
    """(h, w, c) the same way."""
    if orientation >= 5:
        array = array.transpose(1, 0, 2)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
    return np.flip(array, flips.get(orientation, ()))


def device_to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """CMYK or Lab -> RGB in sRGB of 8 bits, by its profile, or by Pillow's own rule."""
    converted = by_littlecms(image, profile or b"") or image.convert("RGB")
    converted.info.pop("icc_profile", None)
    return converted


def by_littlecms(image: Image.Image, profile: bytes) -> Image.Image | None:
    """In the profile's colors -> RGB in sRGB of 8 bits; None where LittleCMS refuses it."""
    with suppress(ImageCms.PyCMSError, OSError, ValueError):
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
    return None


def to_pil(array: np.ndarray, icc_profile: bytes | None = None) -> Image.Image:
    """(h, w, 1..4) uint8 or uint16 -> L, LA, RGB or RGBA of 8 bits."""
    if array.dtype == np.uint16:
        array = ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    if icc_profile:
        image.info["icc_profile"] = icc_profile
    return image


def to_palette(image: Image.Image) -> Image.Image:
    """L, LA, RGB or RGBA -> 255 colors chosen for this image, and one that is clear, for GIF."""
    colors = image.convert("RGB").quantize(255, Image.Quantize.MEDIANCUT)
    if image.mode not in ("LA", "RGBA"):
        return colors
    clear = np.asarray(image.getchannel("A")) < 128
    out = Image.fromarray(np.where(clear, 255, np.asarray(colors)).astype(np.uint8)).copy()
    palette = (colors.getpalette() or [])[:765]
    out.putpalette(palette + [0] * (768 - len(palette)))
    out.info["transparency"] = 255
    return out
