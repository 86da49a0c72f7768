"""A picture in memory -> any size: passes of x4, reduced behind each; textures that tile stay
tileable.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from patchscaler.images.planes import Planes, array_planes, to_pil, to_planes
from patchscaler.images.read import MAX_PIXELS, check_pixels
from patchscaler.images.sizes import TargetSize, passes, resized
from patchscaler.jobs import Picture, Progress, Result, check_passes
from patchscaler.refining import CONTEXT

if TYPE_CHECKING:
    from patchscaler.pipeline import PatchScaler

SEAM = 8  # pixels of the input on either side of a tile's border over which its two sides are faded


@dataclass
class Upscaled:
    """The picture in the size that was wanted, and how each pass came about (at x4, before it was
    reduced).
    """

    array: np.ndarray  # (h, w, 1..4) uint8 or uint16
    passes: list[Result]
    icc_profile: bytes | None = None

    @property
    def image(self) -> Image.Image:
        """The array as a Pillow image of 8 bits."""
        return to_pil(self.array, self.icc_profile)


def upscale_to_size(
    scaler: "PatchScaler",
    image: Picture,
    target_size: TargetSize | float = 4.0,
    *,
    tileable: bool = False,
    **options: Any,
) -> Upscaled:
    """target_size: a scale or a `TargetSize`. tileable: opposite borders of the picture meet.
    options: of `PatchScaler.upscale`.

    Raises PatchScalerError.
    """
    planes = to_planes(image)
    height, width = planes.rgb.shape[-2:]
    check_pixels(width, height, options.pop("max_pixels", MAX_PIXELS), "the picture")
    # the limit is for what comes in, not for what lies between passes or around tiles
    options["max_pixels"] = 0
    target_size = (
        target_size if isinstance(target_size, TargetSize) else TargetSize(scale=target_size)
    )
    sizes = passes((width, height), target_size.size(width, height), scaler.config.scale)
    check_passes(len(sizes), scaler.options(**options))
    results: list[Result] = []
    array = np.empty(0)
    report = options.pop("progress", None)
    areas = [w * h for w, h in [(width, height), *sizes[:-1]]]
    for number, size in enumerate(sizes):
        if results:
            planes = array_planes(array, planes.icc_profile)
        options["progress"] = over_passes(report, areas, number) if report else None
        result = (
            _one_tile(scaler, planes, options) if tileable else scaler.upscale(planes, **options)
        )
        results.append(result)
        array = result.array
        if array.shape[1::-1] != size:
            array = _resized_tile(array, size) if tileable else resized(array, size[::-1])
    return Upscaled(array, results, planes.icc_profile)


def over_passes(progress: Progress, areas: Sequence[int], number: int) -> Progress:
    """One pass's patch-steps -> those of all passes, the others' taken to be as dense. areas: of
    the passes' inputs.
    """
    before, whole, own = sum(areas[:number]), sum(areas), areas[number]

    def report(done: int, total: int) -> None:
        progress(round((before * total + own * done) / own), round(whole * total / own))

    return report


# --- tiles ----------------------------------------------------------------------------------------


def tile_margin(scaler: "PatchScaler") -> int:
    """Pixels of the input around a tile that its output depends on, a multiple of the patches'
    stride.

    But for the cuts between the refiner's tiles, which do not repeat with the texture; the seam's
    fade hides them.
    """
    groups, step = scaler.config.groups, scaler.step
    stride = (groups.latent_patch_size - groups.overlap) * step
    refined = CONTEXT if scaler.refiner else 0
    reach = (
        scaler.grm.reach
        + (scaler.autoencoder.reach + groups.latent_patch_size + refined) * step
        + SEAM
    )
    return -(-reach // stride) * stride


def _one_tile(scaler: "PatchScaler", planes: Planes, options: dict[str, Any]) -> Result:
    """One pass over a tile that is surrounded by itself, with noise that repeats as it does."""
    h, w = planes.rgb.shape[-2:]
    margin, scale = tile_margin(scaler), scaler.config.scale
    around = replace(
        planes,
        rgb=wrap_pad(planes.rgb, margin),
        alpha=None if planes.alpha is None else wrap_pad(planes.alpha, margin),
        excess=None if planes.excess is None else wrap_pad(planes.excess, margin),
    )
    options = options | {"origin": (-margin, -margin), "period": (h, w)}
    result = scaler.upscale(around, **options)
    array = result.array
    for axis, length in ((0, h), (1, w)):
        array = unwrap(array, axis, margin * scale, length * scale, SEAM * scale)
    return replace(result, array=array)


def wrap_pad(x: Tensor, margin: int) -> Tensor:
    """(..., h, w) -> (..., h + 2 margin, w + 2 margin), the picture going on from the
    other side.
    """
    h, w = x.shape[-2:]
    rows, columns = (torch.arange(-margin, n + margin) % n for n in (h, w))
    return x[..., rows[:, None], columns]


def unwrap(array: np.ndarray, axis: int, margin: int, length: int, seam: int) -> np.ndarray:
    """The middle `length` of an axis, near its ends faded into what lies around the other, half and
    half there.
    """
    a = np.moveaxis(array, axis, 0)
    core = a[margin : margin + length].copy()
    seam = min(seam, length // 2)
    weight = (0.5 + (np.arange(seam) + 0.5) / (2 * seam)).reshape(-1, 1, 1)
    if seam:
        after, before = a[margin + length : margin + length + seam], a[margin - seam : margin]
        core[:seam] = np.rint(weight * core[:seam] + (1 - weight) * after).astype(a.dtype)
        core[-seam:] = np.rint(weight[::-1] * core[-seam:] + (1 - weight[::-1]) * before).astype(
            a.dtype
        )
    return np.moveaxis(core, 0, axis)


def _resized_tile(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """As `resized`, but the filter reads across the borders."""
    width, height = size
    tiled = np.tile(array, (3, 3, 1))
    return resized(tiled, (3 * height, 3 * width))[height : 2 * height, width : 2 * width]
