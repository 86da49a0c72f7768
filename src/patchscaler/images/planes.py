"""Images of any kind <-> planes in [-1, 1]: alpha, grey, depth and color spaces survive."""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from patchscaler.errors import PatchScalerError
from patchscaler.images.formats import head_of
from patchscaler.images.icc import ColorSpace, color_space, is_srgb
from patchscaler.images.labels import check_profile, label_of
from patchscaler.images.metadata import orientation
from patchscaler.images.pixels import (
    by_littlecms,
    device_to_srgb,
    fit_transparency,
    fitting_profile,
    float_levels,
    full_range,
    has_alpha,
    is_grey,
    unit_array,
    unit_floats,
    upright,
)
from patchscaler.images.pixels import (
    to_pil as to_pil,
)
from patchscaler.images.read import LoadedImage, find_cicp, load
from patchscaler.images.sizes import resample


@dataclass
class Planes:
    """An image as the networks take it, and what it takes to give the result back as it was."""

    rgb: Tensor  # (3, H, W) sRGB in [-1, 1]; of grey images three times the same
    alpha: Tensor | None = None  # (H, W) in [0, 1]
    grey: bool = False
    bits: int = 8  # 8 or 16, of the result
    icc_profile: bytes | None = None  # of the colors as they were, and will be again
    # (3, H, W), in the profile's colors: what is lost on their way to sRGB and back
    excess: Tensor | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.rgb.shape[-1], self.rgb.shape[-2]

    @property
    def wide(self) -> bool:
        """Whether the profile holds colors outside of sRGB, so that there can be an `excess`."""
        space = color_space(self.icc_profile or b"")
        return space is not None and space.wide


Source = Image.Image | np.ndarray | Tensor | Planes | LoadedImage | str | Path


def to_planes(image: Source) -> Planes:
    """Convert whatever holds an image.

    Args:
        image: A PIL image of any mode; (H, W[, 1..4]) uint8, uint16 or float 0..1; a float tensor
            (3, H, W) in 0..1; a file's path; `Planes` are passed on. Files and PIL images come out
            upright.

    Raises:
        PatchScalerError: Anything else, and numbers of another range.
    """
    if isinstance(image, Planes):
        return image
    if isinstance(image, str | Path):
        image = load(image)
    if isinstance(image, LoadedImage):
        return _loaded_planes(image)
    if isinstance(image, Tensor):
        return _tensor_planes(image)
    if isinstance(image, np.ndarray):
        return array_planes(image)
    if isinstance(image, Image.Image):
        return _pil_planes(image)
    raise PatchScalerError(
        f"{type(image).__name__} is not an image. "
        "Hint: give a PIL image, an array, a tensor or a path"
    )


def _loaded_planes(image: LoadedImage) -> Planes:
    if isinstance(image.pixels, Image.Image):
        planes = _pil_planes(image.pixels)
    else:
        planes = array_planes(image.pixels[:], image.metadata.icc_profile)
    return replace(planes, bits=image.bits)


def _tensor_planes(image: Tensor) -> Planes:
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise PatchScalerError(
            f"tensor of shape {tuple(image.shape)}. Hint: give (3, H, W) in 0..1"
        )
    if not image.is_floating_point():
        raise PatchScalerError(f"tensor of {image.dtype}. Hint: give floats in 0..1")
    values = unit_floats(image.detach().float().cpu().numpy(), "tensor")
    return Planes(torch.from_numpy(values) * 2 - 1)


def _pil_planes(image: Image.Image) -> Planes:
    fit_transparency(image)
    path = Path(getattr(image, "filename", "") or ".")
    if image.format in ("PNG", "AVIF") and path.is_file():
        with suppress(OSError):
            find_cicp(image, path, head_of(path))
    turn = orientation(image)
    grey_levels = image.mode == "F" or image.mode.startswith("I")
    try:
        label = image.info.get("icc_profile") or label_of(image)
        check_profile(label)
    except PatchScalerError as error:
        raise PatchScalerError(f"image: {error}") from error
    image.load()
    if image.mode.startswith("I"):
        image = full_range(image, "image")  # before it is turned: a copy has no tags
    if turn > 1:
        image = upright(image, turn)
    profile = fitting_profile(image, label)
    if grey_levels:
        array = float_levels(image) if image.mode == "F" else _grey_levels(image)
        return replace(array_planes(array, profile), bits=16)
    if image.mode in ("CMYK", "LAB"):
        image = device_to_srgb(image, image.info.get("icc_profile"))
    grey = is_grey(image, profile)
    mode = ("LA" if grey else "RGBA") if has_alpha(image) else ("L" if grey else "RGB")
    return array_planes(np.asarray(image.convert(mode)), profile)


def _grey_levels(image: Image.Image) -> np.ndarray:
    """16 bits -> (h, w, 1) uint16, or (h, w, 2) with a transparent level."""
    levels = np.asarray(image).astype(np.uint16)[..., None]
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return levels
    return np.concatenate([levels, np.where(levels == clear, 0, 65535).astype(np.uint16)], -1)


def array_planes(array: np.ndarray, icc_profile: bytes | None = None) -> Planes:
    """(H, W[, 1..4]) uint8, uint16 or float 0..1, in the profile's colors (sRGB without one).

    Raises:
        PatchScalerError: Another shape, type or range.
    """
    values, bits = unit_array(array)
    x = np.ascontiguousarray(np.moveaxis(values, -1, 0))  # (1..4, H, W)
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
    """(c, H, W) in [0, 1] -> the same in sRGB, and what that lacks of colors outside of it.

    The lack is taken, and later given back, in the profile's own numbers: there a slight error of a
    saturated color stays slight, whereas numbers of sRGB below zero would multiply it.
    """
    wide = space.to_srgb(x)
    clipped = wide.clip(0, 1)
    if not space.wide or np.abs(wide - clipped).max() <= 1e-4:
        return clipped, None
    return clipped, torch.from_numpy(x - space.from_srgb(clipped))


def bleed(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Give invisible pixels the color of the visible ones around them, so that no fringe is made
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
    """(3, n, W) sRGB in [-1, 1], rows [top, bottom) of the upscaled image -> (n, W, 1..4) uint8
    or uint16.

    size: (H, W) of the whole upscaled image, where `rgb` is a strip of another height than its
    scale tells. Grey, transparency, depth and colors as `planes` had them; strips put together are
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
    converted = by_littlecms(to_pil(array[..., :colors]), profile)
    if converted is None:
        return None
    levels = np.asarray(converted).astype(array.dtype)[..., :colors] * (
        257 if array.dtype == np.uint16 else 1
    )
    return np.concatenate([levels, array[..., colors:]], -1)


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
