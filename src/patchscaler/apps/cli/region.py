"""A region of an image alone, and regions of a result made again."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from patchscaler.errors import PatchScalerError
from patchscaler.images.planes import Planes, to_planes
from patchscaler.images.sizes import TargetSize
from patchscaler.pipeline import Output, PatchScaler
from patchscaler.progress import Callback

CONTEXT = 64  # pixels of the input around a region, a multiple of every stride of patches
FEATHER = 8  # pixels of the result over which what is made again fades into what was there

Box = tuple[int, int, int, int]  # x, y, width, height


def upscale_region(
    pipeline: PatchScaler,
    planes: Planes,
    box: Box,
    options: Mapping[str, Any],
    callback: Callback | None = None,
) -> Output:
    """Upscale a region as it is in the whole result: with what lies around it, and its noise.

    Args:
        pipeline: The model.
        planes: The whole image.
        box: In pixels of the image.
        options: Of `PatchScaler.__call__`, for the whole image.
        callback: Of progress.

    Returns:
        An output whose array is the region's.

    Raises:
        PatchScalerError: The box is not in the image.
    """
    x, y, w, h = box
    height, width = planes.rgb.shape[-2:]
    if x < 0 or y < 0 or w < 1 or h < 1 or x + w > width or y + h > height:
        raise PatchScalerError(
            f"region {x},{y},{w},{h}: the image has {width}x{height} pixels. Hint: stay within it"
        )
    given = dict(options)
    target = TargetSize.of(given.pop("scale", None), given.pop("size", None)).size(width, height)
    top, left = _before(y), _before(x)
    bottom, right = min(height, y + h + CONTEXT), min(width, x + w + CONTEXT)
    rows, columns = slice(top, bottom), slice(left, right)
    mask = given.pop("fidelity_mask", None)
    if mask is not None:
        given["fidelity_mask"] = _cut_mask(to_planes(mask), rows, columns, (height, width))
    ratio = target[0] / width
    output: Output = pipeline(
        _cut(planes, rows, columns), scale=ratio, origin=(top, left), callback=callback, **given
    )
    there = [round(side * ratio) for side in (y - top, x - left)]
    size = [round((y + h) * ratio) - round(y * ratio), round((x + w) * ratio) - round(x * ratio)]
    (down, over), (tall, wide) = there, size
    array = output.array[down : down + max(1, tall), over : over + max(1, wide)]
    return replace(output, array=np.ascontiguousarray(array))


def upscale_onto(
    pipeline: PatchScaler,
    planes: Planes,
    result: np.ndarray,
    mask: Planes,
    options: Mapping[str, Any],
    callback: Callback | None = None,
) -> Output:
    """Make the regions of a result again that are not white in a mask.

    Args:
        pipeline: The model.
        planes: The image that `result` was made of.
        result: (H, W, 1..4) uint8 or uint16.
        mask: Grey, of any size: black is made again, white keeps every value of `result`.
        options: Of `PatchScaler.__call__`; the size is that of `result`.
        callback: Of progress.

    Raises:
        PatchScalerError: The three do not fit, or nothing is to be made.
    """
    (height, width), (tall, wide) = planes.rgb.shape[-2:], result.shape[:2]
    ratio = wide / width
    if abs(tall - height * ratio) > 1 + ratio / 2:
        raise PatchScalerError(
            f"a result of {wide}x{tall} is not of this input of {width}x{height}. "
            "Hint: give --onto what was made of INPUT"
        )
    weight = _weight(mask, (tall, wide))  # of what is new
    found = weight.nonzero()
    if not len(found):
        raise PatchScalerError("the mask is white. Hint: paint black what is to be made again")
    (top, left), (bottom, right) = found.amin(0).tolist(), (found.amax(0) + 1).tolist()
    y, x = int(top / ratio), int(left / ratio)
    h = min(height, int(np.ceil(bottom / ratio))) - y
    w = min(width, int(np.ceil(right / ratio))) - x
    bits = 16 if result.dtype == np.uint16 else 8
    given = {k: v for k, v in options.items() if k not in ("scale", "size", "fidelity_mask")}
    given["scale"] = ratio
    output = upscale_region(pipeline, replace(planes, bits=bits), (x, y, w, h), given, callback)
    new = output.array
    down, over = round(y * ratio), round(x * ratio)
    rows, columns = slice(down, down + new.shape[0]), slice(over, over + new.shape[1])
    old = result[rows, columns]
    new = new[: old.shape[0], : old.shape[1]]
    if new.shape[2] != old.shape[2]:
        raise PatchScalerError(
            f"the result has {old.shape[2]} channels, the input makes {new.shape[2]}. "
            "Hint: give --onto what was made of INPUT"
        )
    share = weight[rows, columns, None].numpy()
    blended = np.rint(old + share * (new.astype(np.float32) - old)).astype(result.dtype)
    array = result.copy()
    array[rows, columns] = np.where(share > 0, blended, old)
    return replace(output, array=array)


def _before(start: int) -> int:
    """Where what is read begins: CONTEXT before, at a place where patches of the whole begin."""
    return max(0, start - CONTEXT) // CONTEXT * CONTEXT


def _cut(planes: Planes, rows: slice, columns: slice) -> Planes:
    alpha = None if planes.alpha is None else planes.alpha[rows, columns]
    excess = None if planes.excess is None else planes.excess[:, rows, columns]
    return replace(planes, rgb=planes.rgb[:, rows, columns], alpha=alpha, excess=excess)


def _cut_mask(mask: Planes, rows: slice, columns: slice, size: tuple[int, int]) -> Planes:
    """Of a mask of any size, the part that lies over these rows and columns of an image (h, w)."""
    grey = F.interpolate(mask.rgb[None], size=size, mode="bilinear", antialias=True)[0]
    return _cut(Planes(grey, grey=True), rows, columns)


def _weight(mask: Planes, size: tuple[int, int]) -> Tensor:
    """(H, W) in 0..1: 0 wherever the mask is white, rising to 1 - mask within FEATHER pixels."""
    black = (1 - mask.rgb.mean(0)[None, None]) / 2  # (1, 1, h, w) in 0..1
    whole = F.interpolate(black, size=size, mode="nearest-exact")
    if black.shape[-2] > size[0]:  # the whitest of what a pixel covers
        whole = -F.adaptive_max_pool2d(-black, size)
    whole = torch.where(whole < 1 / 255, 0.0, whole)
    total, inner = torch.zeros_like(whole), F.pad(whole, [FEATHER] * 4, mode="replicate")
    for _ in range(FEATHER):
        inner = -F.max_pool2d(-inner, 3, stride=1)
        margin = (inner.shape[-1] - size[1]) // 2
        total += F.pad(inner, [-margin] * 4) / FEATHER
    return torch.minimum(total, whole)[0, 0]
