"""Flicker of videos that are enlarged frame by frame, on clips made from one picture.

A clip's flicker is the mean absolute difference of neighbouring frames, less that of the same clip
enlarged by bicubic interpolation, which invents nothing that could flicker. Where the picture pans
by whole pixels of the result, frames are also laid on each other: what then differs is flicker and
no movement.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from patchscaler.errors import PatchScalerError

if TYPE_CHECKING:
    from patchscaler.pipeline import PatchScaler

GRAIN = 2.0  # grey levels, standard deviation: a camera's in good light

Method = Callable[[Image.Image, int], np.ndarray]  # (small frame, its number) -> (h, w, 3) uint8


@dataclass(frozen=True)
class Flicker:
    """Of one clip and one method, in grey levels of 255."""

    clip: str
    method: str
    difference: float  # of neighbouring frames
    over_bicubic: float
    along: float  # of frames laid on each other along the movement
    along_over_bicubic: float

    def line(self) -> str:
        return (
            f"{self.clip:<14}{self.method:<28}{self.difference:>11.3f}{self.over_bicubic:>+14.3f}"
            f"{self.along:>15.3f}{self.along_over_bicubic:>+14.3f}"
        )


HEAD = (
    f"{'clip':<14}{'method':<28}{'difference':>11}{'over bicubic':>14}"
    f"{'along movement':>15}{'over bicubic':>14}"
)


def clips(
    image: Image.Image, side: int, frames: int, scale: int = 4
) -> Iterator[tuple[str, list[Image.Image], int]]:
    """-> (name, small frames of `side` pixels, pixels of the result that it pans a frame).

    still: one picture again and again; grain: the same with fresh noise in each; pan: one pixel of
    the result, a quarter of the input's, to the right a frame. Raises PatchScalerError for a
    picture that is too small.
    """
    wide = side * scale
    if image.width < wide + frames or image.height < wide:
        raise PatchScalerError(
            f"the picture is {image.width}x{image.height}; {wide + frames}x{wide} are needed"
        )
    left, top = (image.width - wide - frames) // 2, (image.height - wide) // 2
    views = [image.crop((left + n, top, left + n + wide, top + wide)) for n in range(frames)]
    small = [view.resize((side, side), Image.Resampling.BICUBIC) for view in views]
    rng, first = np.random.default_rng(0), np.asarray(small[0]).astype(np.float32)
    noisy = [first + rng.normal(scale=GRAIN, size=first.shape) for _ in range(frames)]
    yield "still", [small[0]] * frames, 0
    yield (
        "still, grain",
        [Image.fromarray(np.rint(x.clip(0, 255)).astype(np.uint8)) for x in noisy],
        0,
    )
    yield "pan", small, 1


def methods(scaler: "PatchScaler", options: dict[str, Any]) -> dict[str, Method]:
    """Bicubic first: the others are told over it."""
    scale = scaler.config.scale

    def bicubic(frame: Image.Image, number: int) -> np.ndarray:
        size = (frame.width * scale, frame.height * scale)
        return np.asarray(frame.resize(size, Image.Resampling.BICUBIC))

    def fixed(frame: Image.Image, number: int) -> np.ndarray:
        return scaler.upscale(frame, **options).array

    def fresh(frame: Image.Image, number: int) -> np.ndarray:
        return scaler.upscale(frame, **(options | {"seed": 1000 + number})).array

    def coarse(frame: Image.Image, number: int) -> np.ndarray:
        return scaler.upscale(frame, **(options | {"fidelity": 1.0})).array

    return {
        "bicubic": bicubic,
        "patchscaler": fixed,
        "noise anew each frame": fresh,
        "nothing invented": coarse,
    }


def measure_flicker(
    scaler: "PatchScaler", image: Image.Image, side: int = 64, frames: int = 6, **options: Any
) -> list[Flicker]:
    """All methods on all clips. side: of the small frames. options: of `PatchScaler.upscale`."""
    if frames < 2:
        raise PatchScalerError(f"{frames} frames do not flicker: take 2 or more")
    found = []
    for name, small, pan in clips(image.convert("RGB"), side, frames, scaler.config.scale):
        reference = (0.0, 0.0)
        for method, enlarge in methods(scaler, options).items():
            large = [enlarge(frame, n).astype(np.float32) for n, frame in enumerate(small)]
            values = between(large, 0), between(large, pan)
            reference = values if method == "bicubic" else reference
            over = values[0] - reference[0], values[1] - reference[1]
            found.append(Flicker(name, method, values[0], over[0], values[1], over[1]))
    return found


def between(frames: list[np.ndarray], pan: int) -> float:
    """Mean absolute difference of neighbours, the later one moved `pan` pixels to the right."""
    width = frames[0].shape[1] - pan
    pairs = itertools.pairwise(frames)
    return float(np.mean([np.abs(b[:, :width] - a[:, pan:]).mean() for a, b in pairs]))
