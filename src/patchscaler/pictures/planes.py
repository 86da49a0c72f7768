"""Pillow, arrays and tensors <-> planes in [-1, 1]; alpha, grey and palettes come out right."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from patchscaler.errors import PatchScalerError


@dataclass
class Planes:
    """A picture as the pipeline wants it: rgb (3, H, W) in [-1, 1]; alpha (H, W) in [0, 1] or None."""

    rgb: Tensor
    alpha: Tensor | None = None
    grey: bool = False
    icc_profile: bytes | None = None  # the colours' meaning goes with them


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def to_planes(image: Image.Image | np.ndarray | Tensor) -> Planes:
    """PIL image of any mode; array (H, W), (H, W, 1|3|4) uint8 or float 0..1; tensor (3, H, W) in [0, 1]."""
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise PatchScalerError(f"tensor of shape {tuple(image.shape)}: give (3, H, W) in [0, 1]")
        if not image.is_floating_point():
            raise PatchScalerError(f"tensor of {image.dtype}: give floats in [0, 1]")
        if image.isnan().any():
            raise PatchScalerError("the tensor holds numbers that are none (NaN)")
        return Planes(image.float().clamp(0, 1) * 2 - 1)
    if isinstance(image, np.ndarray):
        return _array_planes(image)
    if not isinstance(image, Image.Image):
        raise PatchScalerError(f"{type(image).__name__} is not a picture: give a PIL image, an array or a tensor")
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits and more: to 8 by range, not by clipping
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0
        if image.mode == "F":  # floats say nothing of their range: 0..1, 0..255 or 0..65535
            top = next((t for t in (1.0, 255.0) if float(values.max(initial=0)) <= t), top)
        return _array_planes((values / top).clip(0, 1).astype(np.float32))
    transparent = has_alpha(image)
    grey = image.mode in ("1", "L", "LA", "La")
    mode = ("LA" if grey else "RGBA") if transparent else ("L" if grey else "RGB")
    planes = _array_planes(np.asarray(image.convert(mode)))
    if image.mode in ("L", "LA", "P", "PA", "RGB", "RGBA"):  # a profile of other colours would no longer fit
        planes.icc_profile = image.info.get("icc_profile")
    return planes


def _array_planes(array: np.ndarray) -> Planes:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4) or 0 in array.shape:
        raise PatchScalerError(f"array of shape {array.shape}: give (H, W), (H, W, 3) or (H, W, 4)")
    if array.dtype == np.uint8:
        array = array.astype(np.float32) / 255
    elif not np.issubdtype(array.dtype, np.floating):
        raise PatchScalerError(f"array of {array.dtype}: give uint8 in 0..255 or floats in 0..1")
    elif np.isnan(array).any():
        raise PatchScalerError("the array holds numbers that are none (NaN)")
    x = torch.from_numpy(np.array(array, np.float32)).movedim(-1, 0).clamp(0, 1)  # (1..4, H, W)
    grey, alpha = len(x) < 3, x[-1] if len(x) in (2, 4) else None
    rgb = x[:1].expand(3, -1, -1) if grey else x[:3]
    if alpha is not None:
        rgb = bleed(rgb, alpha)
    return Planes(rgb * 2 - 1, alpha, grey)


def bleed(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Give invisible pixels the colour of the visible ones around them, so that no fringe is made from them.

    rgb: (3, H, W); alpha: (H, W) in [0, 1]. From coarse to fine: means over ever smaller squares.
    """
    weight = alpha[None, None]
    colour, seen = (rgb[None] * weight), weight
    h, w = alpha.shape
    out = colour.sum((2, 3), keepdim=True) / seen.sum().clamp_min(1e-6)
    out = out.expand(1, 3, h, w)
    side = 1 << max(0, (max(h, w) - 1).bit_length() - 1)
    while side >= 1:
        mean = F.avg_pool2d(torch.cat([colour, seen], 1), side, ceil_mode=True, count_include_pad=False)
        mean = F.interpolate(mean, scale_factor=side, mode="nearest")[..., :h, :w]
        share = mean[:, 3:]
        out = torch.where(share > 1e-3, mean[:, :3] / share.clamp_min(1e-3), out)
        side //= 2
    return out[0].clamp(0, 1)


def from_planes(rgb: Tensor, source: Planes, scale: int) -> Image.Image:
    """(3, sH, sW) in [-1, 1] -> L, LA, RGB or RGBA as the source was; alpha enlarged by bicubic."""
    x = ((rgb.float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu()
    channels = [x.float().mean(0).round().byte()[None] if source.grey else x]
    if source.alpha is not None:
        a = F.interpolate(source.alpha[None, None], scale_factor=scale, mode="bicubic", align_corners=False)
        channels.append((a[0].clamp(0, 1) * 255).round().byte())
    array = torch.cat(channels).movedim(0, -1).numpy()
    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    if source.icc_profile:
        image.info["icc_profile"] = source.icc_profile
    return image


def reflect_pad(x: Tensor, height: int, width: int) -> Tensor:
    """(..., h, w) -> (..., height, width), mirrored at the right and lower edge as often as it takes."""

    def index(old: int, new: int) -> Tensor:
        i = torch.arange(new) % max(1, 2 * old - 2)
        return torch.where(i < old, i, 2 * old - 2 - i)

    h, w = x.shape[-2:]
    return x[..., index(h, height)[:, None], index(w, width)[None, :]]
