"""What tests of evaluation share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from golden.pictures import made
from PIL import Image


@pytest.fixture
def save() -> Callable[..., Path]:
    """`save(folder, NAME=array)` -> the folder with NAME.png in it."""

    def write(folder: Path, **images: np.ndarray) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, image in images.items():
            Image.fromarray(image).save(folder / f"{name}.png")
        return folder

    return write


@pytest.fixture
def hr(tmp_path: Path, save: Callable[..., Path]) -> Path:
    """A folder of three HR images."""
    return save(tmp_path / "hr", a=made(64, 1), b=made(67, 2), c=made(96, 3))


class Repeat:
    """Each pixel sixteen times; counts its calls."""

    name = "repeat"
    option = 1

    def __init__(self) -> None:
        self.calls = 0

    def upscale(self, lr: np.ndarray) -> np.ndarray:
        self.calls += 1
        self.cost = {"nfe": 3, "gmac": 2.0}
        return lr.repeat(4, 0).repeat(4, 1)

    def describe(self) -> dict[str, object]:
        return {"option": self.option}


@pytest.fixture
def repeat() -> Repeat:
    return Repeat()
