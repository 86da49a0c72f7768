"""A page that is served on this machine, and its jobs without a page."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from patchscaler.apps.web.jobs import Limits, Studio
from patchscaler.pipeline import PatchScaler


@pytest.fixture
def studio(tiny: PatchScaler, tmp_path: Path) -> Studio:
    folder = tmp_path / "made"
    folder.mkdir()
    return Studio(tiny, Limits(), folder)


@pytest.fixture
def image_file(picture: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """`image_file("a.png", height, width)` -> the path of a new file."""

    def make(name: str = "in.png", height: int = 40, width: int = 64, **options: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        picture(height, width).save(path, **options)
        return path

    return make


@pytest.fixture(scope="module")
def address(tiny: PatchScaler) -> Iterator[str]:
    pytest.importorskip("gradio")
    from patchscaler.apps.web.server import launched

    with launched(tiny, Limits(file_bytes=300_000)) as where:
        yield where
