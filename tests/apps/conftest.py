"""What tests of videos share."""

from pathlib import Path

import pytest
from clips import make_clip


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """An MP4 of six frames of 64x48, alone in its folder."""
    return make_clip(tmp_path / "in.mp4")
