"""Pictures in and out: files <-> Pillow <-> planes in [-1, 1]; alpha, grey and palettes come out right."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from patchscaler.errors import PatchScalerError

MAX_PIXELS = 4_000_000  # of the input; sixteen times as many come out, and take about 6 GB on the way
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
FORMAT_SIDES = {"JPEG": 65_535, "WEBP": 16_383}


@dataclass
class Planes:
    """A picture as the pipeline wants it: rgb (3, H, W) in [-1, 1]; alpha (H, W) in [0, 1] or None."""

    rgb: Tensor
    alpha: Tensor | None = None
    grey: bool = False
    icc_profile: bytes | None = None  # the colours' meaning goes with them


# --- files ----------------------------------------------------------------------------------------


def load_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read, check and turn upright. Raises PatchScalerError naming the file and the mend."""
    path = Path(path)
    if not path.exists():
        raise PatchScalerError(f"{path}: no such file")
    if path.is_dir():
        raise PatchScalerError(f"{path}: is a folder; name the pictures in it")
    # Pillow's own limit has no override by file; ours is checked before anything is decoded.
    pillow_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        if path.stat().st_size == 0:
            raise PatchScalerError(f"{path}: the file is empty")
        with Image.open(path) as image:
            check_pixels(image.width, image.height, max_pixels, str(path))
            image.load()
            return ImageOps.exif_transpose(image)
    except PatchScalerError:
        raise
    except UnidentifiedImageError as error:
        raise PatchScalerError(f"{path}: not a picture in a format that can be read") from error
    except PermissionError as error:
        raise PatchScalerError(f"{path}: no permission to read it") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise PatchScalerError(f"{path}: damaged or cut off ({error})") from error
    finally:
        Image.MAX_IMAGE_PIXELS = pillow_limit


def check_pixels(width: int, height: int, max_pixels: int, name: str) -> None:
    """Raises PatchScalerError where a picture has more pixels than allowed."""
    if max_pixels and width * height > max_pixels:
        raise PatchScalerError(
            f"{name}: {width}x{height} is more than the limit of {max_pixels / 1e6:g} megapixels; "
            f"allow it with --max-pixels {width * height} (max_pixels in Python) if memory suffices"
        )


def check_output(path: str | Path, source: str | Path | None = None) -> Path:
    """Before any work is done: can `path` be written? Raises PatchScalerError."""
    path = Path(path)
    check_suffix(path)
    if source is not None and path.exists() and Path(source).exists() and os.path.samefile(path, source):
        raise PatchScalerError(f"{path}: output and input are the same file; name another with -o")
    if path.is_dir():
        raise PatchScalerError(f"{path}: is a folder, not a file to write")
    return check_writable(path)


def check_writable(path: Path) -> Path:
    """Raises PatchScalerError where a file of this name cannot be made."""
    parent = path.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK) or path.is_dir():
        raise PatchScalerError(f"{path}: cannot write there; choose a folder you may write to with -o")
    return path


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def check_alpha(path: str | Path, image: Image.Image) -> None:
    """Raises PatchScalerError where the output's format has no transparency and the picture has."""
    if FORMATS[Path(path).suffix.lower()] in ("JPEG", "BMP") and has_alpha(image):
        raise PatchScalerError(f"{path}: this format has no transparency, the picture has; use .png or .webp")


def check_suffix(path: Path) -> None:
    if path.suffix.lower() not in FORMATS:
        raise PatchScalerError(f"{path}: cannot write '{path.suffix}' files; use one of {', '.join(FORMATS)}")


def check_side(path: str | Path, width: int, height: int) -> None:
    """Raises PatchScalerError where the output's format is unknown or cannot hold its size."""
    check_suffix(Path(path))
    limit = FORMAT_SIDES.get(FORMATS[Path(path).suffix.lower()])
    if limit and max(width, height) > limit:
        raise PatchScalerError(
            f"{path}: {width}x{height} is more than the {limit} pixels a side of this format; use PNG"
        )


def save_image(image: Image.Image, path: str | Path, quality: int = 95) -> None:
    """Write to a temporary file beside `path` and rename: nothing half-written is left."""
    path = Path(path)
    check_side(path, image.width, image.height)
    kind = FORMATS[path.suffix.lower()]
    check_alpha(path, image)
    options: dict[str, Any] = {"quality": quality} if kind in ("JPEG", "WEBP") else {}
    if profile := image.info.get("icc_profile"):
        options["icc_profile"] = profile
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
        with os.fdopen(handle, "wb") as file:
            image.save(file, kind, **options)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise PatchScalerError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


# --- Pillow, arrays, tensors -> planes and back ---------------------------------------------------


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
