"""Pillow, arrays and tensors <-> planes in [-1, 1]; alpha, grey, palettes and colour spaces come
out right.
"""

import io
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms
from torch import Tensor

from patchscaler.errors import PatchScalerError
from patchscaler.images.deep import full_range
from patchscaler.images.icc import ColorSpace, color_space, is_srgb, profile_kind
from patchscaler.images.sizes import resample


@dataclass
class Planes:
    """A picture as the pipeline wants it, and what it takes to give the result back as the picture
    was.
    """

    rgb: Tensor  # (3, H, W) sRGB in [-1, 1]; of grey pictures three times the same
    alpha: Tensor | None = None  # (H, W) in [0, 1]
    grey: bool = False
    bits: int = 8  # 8 or 16, of the result
    icc_profile: bytes | None = None  # of the colours as they were, and will be again
    # (3, H, W), in the profile's colours: what is lost on their way to sRGB and back
    excess: Tensor | None = None


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def to_planes(image: Image.Image | np.ndarray | Tensor | Planes) -> Planes:
    """PIL image of any mode; array (H, W), (H, W, 1..4) uint8, uint16 or float 0..1; tensor (3, H,
    W) in [0, 1].

    Planes are passed on. Raises PatchScalerError for anything else.
    """
    if isinstance(image, Planes):
        return image
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise PatchScalerError(
                f"tensor of shape {tuple(image.shape)}: give (3, H, W) in [0, 1]"
            )
        if not image.is_floating_point():
            raise PatchScalerError(f"tensor of {image.dtype}: give floats in [0, 1]")
        if image.isnan().any():
            raise PatchScalerError("the tensor holds numbers that are none (NaN)")
        return Planes(image.float().clamp(0, 1) * 2 - 1)
    if isinstance(image, np.ndarray):
        return array_planes(image)
    if not isinstance(image, Image.Image):
        raise PatchScalerError(
            f"{type(image).__name__} is not a picture: give a PIL image, an array or a tensor"
        )
    return _pil_planes(image)


def _pil_planes(image: Image.Image) -> Planes:
    profile = fitting_profile(image, image.info.get("icc_profile"))
    if image.mode.startswith("I"):
        return array_planes(_grey_levels(image), profile)
    if image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        # floats say nothing of their range: 0..1, 0..255 or 0..65535
        top = next((t for t in (1.0, 255.0) if float(values.max(initial=0)) <= t), 65535.0)
        return replace(array_planes((values / top).clip(0, 1).astype(np.float32), profile), bits=16)
    if image.mode in ("CMYK", "LAB"):
        image = device_to_srgb(image, image.info.get("icc_profile"))
    grey = _is_grey(image, profile)
    mode = ("LA" if grey else "RGBA") if has_alpha(image) else ("L" if grey else "RGB")
    return array_planes(np.asarray(image.convert(mode)), profile)


def _grey_levels(image: Image.Image) -> np.ndarray:
    """Modes I, I;16, I;16B -> (h, w, 1) uint16, or (h, w, 2) where a level is told to be
    transparent.
    """
    levels = np.asarray(full_range(image, "the picture")).astype(np.uint16)[..., None]
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return levels
    return np.concatenate([levels, np.where(levels == clear, 0, 65535).astype(np.uint16)], -1)


def _is_grey(image: Image.Image, profile: bytes | None) -> bool:
    return (
        image.mode in ("1", "L", "LA", "La", "F")
        or image.mode[0] == "I"
        or (not profile and _grey_palette(image))
    )


def fitting_profile(pixels: Any, profile: bytes | None) -> bytes | None:
    """The profile, where it is one of these pixels' colors: grey or RGB. pixels: an image, or
    shaped (h, w, 1..4).
    """
    if not profile or (isinstance(pixels, Image.Image) and pixels.mode in ("CMYK", "LAB", "HSV")):
        return None
    grey = _is_grey(pixels, profile) if isinstance(pixels, Image.Image) else pixels.shape[2] < 3
    return profile if profile_kind(profile) == ("GRAY" if grey else "RGB") else None


def device_to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """CMYK or Lab -> RGB in sRGB of 8 bits, by its profile, or by Pillow's rule of thumb where that
    is of no use.
    """
    converted = _by_littlecms(image, profile or b"") or image.convert("RGB")
    converted.info.pop("icc_profile", None)
    return converted


def _by_littlecms(image: Image.Image, profile: bytes) -> Image.Image | None:
    """In the profile's colours -> RGB in sRGB of 8 bits, by LittleCMS; None where the profile is of
    no use.
    """
    with suppress(ImageCms.PyCMSError, OSError, ValueError):
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(
            image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    return None


def _grey_palette(image: Image.Image) -> bool:
    """Is this a palette picture without a colour in use?"""
    if image.mode != "P":
        return False
    used = [i for i, count in enumerate(image.histogram()) if count]
    palette = image.getpalette("RGB") or []
    return all(
        palette[3 * i] == palette[3 * i + 1] == palette[3 * i + 2]
        for i in used
        if 3 * i + 2 < len(palette)
    )


def array_planes(array: np.ndarray, icc_profile: bytes | None = None) -> Planes:
    """(H, W[, 1..4]) uint8, uint16 or floats in 0..1, in the colours of `icc_profile` (sRGB without
    one).
    """
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4) or 0 in array.shape:
        raise PatchScalerError(f"array of shape {array.shape}: give (H, W), (H, W, 3) or (H, W, 4)")
    bits = 16 if array.dtype == np.uint16 else 8
    if array.dtype in (np.uint8, np.uint16):
        array = array.astype(np.float32) / np.iinfo(array.dtype).max
    elif not np.issubdtype(array.dtype, np.floating):
        raise PatchScalerError(
            f"array of {array.dtype}: give uint8 in 0..255, uint16 in 0..65535 or floats in 0..1"
        )
    elif np.isnan(array).any():
        raise PatchScalerError("the array holds numbers that are none (NaN)")
    # (1..4, H, W)
    x = np.ascontiguousarray(np.moveaxis(np.asarray(array, np.float32), -1, 0)).clip(0, 1)
    grey = len(x) < 3
    alpha = torch.from_numpy(x[-1]) if len(x) in (2, 4) else None
    colors, excess = x[: 1 if grey else 3], None
    if space := color_space(icc_profile or b""):
        colors, excess = _into_srgb(colors, space)
    rgb = torch.from_numpy(colors).expand(3, -1, -1)
    if alpha is not None:
        rgb = bleed(rgb, alpha)
    return Planes(rgb * 2 - 1, alpha, grey, bits, icc_profile, excess)


def _into_srgb(x: np.ndarray, space: ColorSpace) -> tuple[np.ndarray, Tensor | None]:
    """(c, H, W) in [0, 1] -> the same in sRGB; and what that lacks of colours outside of sRGB,
    where there are any.

    The lack is taken, and later given back, in the profile's own numbers: there a slight error of a
    saturated colour stays slight, whereas numbers of sRGB below zero would multiply it.
    """
    wide = space.to_srgb(x)
    clipped = wide.clip(0, 1)
    if np.abs(wide - clipped).max() <= 1e-4:
        return clipped, None
    return clipped, torch.from_numpy(x - space.from_srgb(clipped))


def bleed(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Give invisible pixels the colour of the visible ones around them, so that no fringe is made
    from them.

    rgb: (3, H, W); alpha: (H, W) in [0, 1]. From coarse to fine: means over ever smaller squares.
    """
    weight = alpha[None, None]
    color, seen = (rgb[None] * weight), weight
    h, w = alpha.shape
    out = color.sum((2, 3), keepdim=True) / seen.sum().clamp_min(1e-6)
    out = out.expand(1, 3, h, w)
    side = 1 << max(0, (max(h, w) - 1).bit_length() - 1)
    while side >= 1:
        mean = F.avg_pool2d(
            torch.cat([color, seen], 1), side, ceil_mode=True, count_include_pad=False
        )
        mean = F.interpolate(mean, scale_factor=side, mode="nearest")[..., :h, :w]
        share = mean[:, 3:]
        out = torch.where(share > 1e-3, mean[:, :3] / share.clamp_min(1e-3), out)
        side //= 2
    return out[0].clamp(0, 1)


def finish(
    rgb: Tensor,
    planes: Planes,
    rows: tuple[int, int] | None = None,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """(3, n, W) sRGB in [-1, 1], rows [top, bottom) of the enlarged picture -> (n, W, 1..4) uint8
    or uint16.

    size: (H, W) of the whole enlarged picture, where `rgb` is a strip of another height than its
    scale tells. Grey, transparency, depth and colours as `planes` had them; strips put together are
    the whole.
    """
    n, width = rgb.shape[-2:]
    height = n if rows is None else round(planes.rgb.shape[-2] * width / planes.rgb.shape[-1])
    size = size or (height, width)
    rows = rows or (0, n)
    x = (rgb.float().cpu().clamp(-1, 1).numpy() + 1) / 2
    if planes.grey:
        x = x.mean(0, keepdims=True)
    if space := color_space(planes.icc_profile or b""):
        x = space.from_srgb(x)
        if planes.excess is not None:
            x = x + resample(planes.excess.numpy(), size, rows)
    if planes.alpha is not None:
        x = np.concatenate([x, resample(planes.alpha.numpy()[None], size, rows)])
    top, kind = (65535, np.uint16) if planes.bits == 16 else (255, np.uint8)
    levels = np.rint(x.clip(0, 1) * top).astype(kind)
    return np.ascontiguousarray(np.moveaxis(levels, 0, -1))


def without_profile(planes: Planes) -> np.ndarray | None:
    """(h, w, 1..4) uint8 or uint16 in sRGB; by a profile of tables in 8 bits.

    None where the profile is of no use.
    """
    profile = planes.icc_profile or b""
    array = finish(planes.rgb, replace(planes, icc_profile=None, excess=None))
    if not profile or color_space(profile) or is_srgb(profile):
        return array
    # the numbers as they came: tables are not taken apart on the way to planes
    colors = 1 if planes.grey else 3
    converted = _by_littlecms(to_pil(array[..., :colors]), profile)
    if converted is None:
        return None
    levels = np.asarray(converted).astype(array.dtype)[..., :colors] * (
        257 if array.dtype == np.uint16 else 1
    )
    return np.concatenate([levels, array[..., colors:]], -1)


def to_pil(array: np.ndarray, icc_profile: bytes | None = None) -> Image.Image:
    """(h, w, 1..4) uint8 or uint16 -> L, LA, RGB or RGBA of 8 bits."""
    if array.dtype == np.uint16:
        array = ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    if icc_profile:
        image.info["icc_profile"] = icc_profile
    return image


def to_palette(image: Image.Image) -> Image.Image:
    """L, LA, RGB or RGBA -> 255 colours chosen for this picture, and one for what is clear, as GIF
    has it.
    """
    colors = image.convert("RGB").quantize(255, Image.Quantize.MEDIANCUT)
    if image.mode not in ("LA", "RGBA"):
        return colors
    indices = np.where(np.asarray(image.getchannel("A")) < 128, 255, np.asarray(colors)).astype(
        np.uint8
    )
    out = Image.fromarray(indices).copy()
    palette = (colors.getpalette() or [])[:765]
    out.putpalette(palette + [0] * (768 - len(palette)))
    out.info["transparency"] = 255
    return out


def reflect_pad(x: Tensor, height: int, width: int) -> Tensor:
    """(..., h, w) -> (..., height, width), mirrored at the right and lower edge as often as it
    takes.
    """
    h, w = x.shape[-2:]
    return x[..., reflect_index(h, height)[:, None], reflect_index(w, width)[None, :]]


def reflect_index(old: int, new: int) -> Tensor:
    """(new,): which of `old` rows stands at each place of the mirrored picture."""
    i = torch.arange(new) % max(1, 2 * old - 2)
    return torch.where(i < old, i, 2 * old - 2 - i)


def eight_bits(pixels: Image.Image) -> Image.Image:
    """Greys of more bits in eight: Pillow would cut them off at 255, and make nearly all of them
    white.
    """
    if pixels.mode[0] not in "IF":
        return pixels
    values, profile = np.asarray(pixels), fitting_profile(pixels, pixels.info.get("icc_profile"))
    if values.dtype.kind == "u" and not has_alpha(
        pixels
    ):  # by itself: of a large result, planes of floats would take gigabytes
        return to_pil(values.astype(np.uint16, copy=False)[..., None], profile)
    planes = to_planes(pixels)
    planes.bits = 8
    return to_pil(finish(planes.rgb, planes), planes.icc_profile)
