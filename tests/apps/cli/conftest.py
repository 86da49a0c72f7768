"""The command with a small random model, as a function."""

from collections.abc import Callable
from pathlib import Path

import pytest

from patchscaler.apps.cli import main

Upscale = Callable[..., int]


@pytest.fixture
def photo(tmp_path, picture) -> Path:
    """96x64 pixels, alone in its folder."""
    picture(64, 96).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def command(model_folder) -> Upscale:
    """`command(*arguments)` -> exit code of `patchscaler upscale`."""
    fixed = ["--model", str(model_folder), "--device", "cpu", "--dtype", "float32"]
    return lambda *arguments: main(["upscale", *fixed, *map(str, arguments)])


@pytest.fixture
def upscale(command, photo) -> Upscale:
    """`upscale(*options, out="out.png")` -> exit code; photo.png becomes out.png."""

    def run(*options: object, out: str = "out.png") -> int:
        return command(photo, "-o", photo.with_name(out), *options)

    return run
