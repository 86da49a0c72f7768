"""What the tests of training share: small images, and shards made from them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchscaler.apps.cli import main
from patchscaler.training.data.shards import ShardConfig, write_shards


def made_up(seed: int, side: int = 256) -> np.ndarray:
    """(side, side, 3) uint8: smooth colors with noise on them."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (side // 8, side // 8, 3), dtype=np.uint8)
    smooth = Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth, np.int16) + rng.integers(-20, 20, (side, side, 3))
    return noisy.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def image():
    """`image(seed, side=256)` -> (side, side, 3) uint8."""
    return made_up


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `train` and `textures` of images; `shards` and `validation` made from them."""
    root = tmp_path_factory.mktemp("data")
    (root / "train").mkdir()
    for i in range(6):
        Image.fromarray(made_up(i)).save(root / "train" / f"set_{i:06x}_01.png")
    for label in ("brick", "grass"):
        (root / "textures" / label).mkdir(parents=True)
        for i in range(4):
            tile = Image.fromarray(made_up(10 + i + 5 * (label == "grass"), 160))
            tile.save(root / "textures" / label / f"t_{i:06x}_01.png")
    mix = (("mild", 1.0), ("bicubic", 1.0))
    config = ShardConfig(str(root / "train"), variants=2, mix=mix, reduced=0.0)
    for name in ("shards", "validation"):
        write_shards(root / name, config)
    return root


@pytest.fixture(scope="session")
def command():
    """`command("train", "grm", ...)`: run it, and expect success."""

    def run(*args: object) -> None:
        assert main([str(a) for a in args]) == 0

    return run
