"""Folders and tar files of images, and the split by source image."""

import tarfile

import numpy as np
import pytest
from PIL import Image

from patchscaler.training.data.sources import is_validation, iterate_images


def test_a_corrupt_image_is_skipped_and_named(image, tmp_path):
    Image.fromarray(image(0, 32)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG broken")
    with pytest.warns(UserWarning, match=r"skipped bad\.png"):
        assert [name for name, _ in iterate_images(tmp_path)] == ["good.png"]


def test_tar_shards_are_read(image, tmp_path):
    Image.fromarray(image(0, 32)).save(tmp_path / "a.png")
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(tmp_path / "a.png", "in/a.png")
    names = [name for name, _ in iterate_images(tmp_path / "set.tar")]
    assert names == ["set.tar/in/a.png"]


def test_tiles_of_one_picture_stay_on_one_side_of_the_split():
    sides = {is_validation(f"src_abc{i // 5:03d}_{i % 5:02d}.webp", 0.3) for i in range(5)}
    assert len(sides) == 1
    share = np.mean([is_validation(f"src_{i:06x}_01.webp", 0.3) for i in range(2000)])
    assert share == pytest.approx(0.3, abs=0.04)
