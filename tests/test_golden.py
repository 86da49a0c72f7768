"""What the shipped weights make of a crop of the cat, kept as an image."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchscaler.pipeline import PatchScaler

ROOT = Path(__file__).parents[1]
LEVELS = 2  # that float32 may differ by, of processors and versions of torch


@pytest.fixture(scope="module")
def shipped() -> PatchScaler:
    return PatchScaler.from_pretrained(device="cpu", dtype="float32", engine="torch")


@pytest.mark.parametrize(
    ("name", "options"),
    [("default", {}), ("hard", {"budget": 1.0}), ("coarse", {"fidelity": 1.0})],
)
def test_the_shipped_weights_give_the_stored_image(shipped, name, options):
    crop = Image.open(ROOT / "examples" / "cat.jpg").convert("RGB").crop((190, 80, 230, 120))
    image = shipped(crop, **options).array.astype(int)
    stored = np.asarray(Image.open(ROOT / "tests" / "golden" / f"cat_{name}.png")).astype(int)
    assert np.abs(image - stored).max() <= LEVELS


def test_batches_tiles_and_threads_give_the_shipped_image(shipped):
    import torch

    crop = Image.open(ROOT / "examples" / "cat.jpg").convert("RGB").crop((150, 60, 214, 108))
    whole, threads = shipped(crop).array.astype(int), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = shipped(crop).array
    finally:
        torch.set_num_threads(threads)
    tiled = shipped(crop, tile=32, memory_limit=64).array
    batch = shipped([crop, crop])[1].array
    assert max(np.abs(whole - other).max() for other in (two, tiled, batch)) <= 1
