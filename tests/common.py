"""What tests of files share."""

from pathlib import Path

import numpy as np
from PIL import Image

from patchscaler.config import GroupConfig

COARSE_ONLY = GroupConfig(start_times=(0, 0, 0), num_inference_steps=(0, 0, 0))


def read(path: Path) -> np.ndarray:
    """A picture's numbers, signed so that differences do not wrap."""
    return np.asarray(Image.open(path)).astype(int)


def left(folder: Path) -> list[str]:
    """Names of what lies in a folder."""
    return sorted(p.name for p in folder.iterdir())


def save(folder: Path, **pictures: np.ndarray) -> Path:
    """NAME=array -> NAME.png in the folder, made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / f"{name}.png")
    return folder


class CountingMethod:
    """An upscaler that repeats pixels, and what sizes it was given."""

    name = "mine"

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def upscale(self, lr: np.ndarray) -> np.ndarray:
        self.calls.append(lr.shape)
        return lr.repeat(4, 0).repeat(4, 1)

    def describe(self) -> dict[str, str]:
        return {}
