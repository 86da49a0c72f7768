"""Pairs on disk: tiles, degradations, crops, resume."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from torch import nn

from patchscaler.errors import PatchScalerError
from patchscaler.training.data.shards import (
    PairShards,
    ShardConfig,
    _tiles,
    oriented,
    parse_mix,
    write_shards,
)
from patchscaler.training.data.sources import iterate_images

# --- data -----------------------------------------------------------------------------------------


def test_shards_resume_and_refuse_other_settings(data, tmp_path):
    config_ = ShardConfig(
        str(data / "train"), variants=1, mix=(("bicubic", 1.0),), shard_size=2, reduced=0.0
    )
    n = write_shards(tmp_path / "s", config_)
    assert n == len(PairShards(tmp_path / "s"))
    first = (tmp_path / "s" / "0000_lr.npy").read_bytes()
    (tmp_path / "s" / "0000_hr.npy").unlink()
    assert write_shards(tmp_path / "s", config_) == 2
    assert (tmp_path / "s" / "0000_lr.npy").read_bytes() == first
    with pytest.raises(PatchScalerError, match="other settings"):
        write_shards(tmp_path / "s", dataclasses.replace(config_, seed=9))


def test_pairs_are_aligned(data, tmp_path):
    config_ = ShardConfig(str(data / "train"), variants=1, mix=(("bicubic", 1.0),), reduced=0.0)
    write_shards(tmp_path / "s", config_)
    lr, hr = PairShards(tmp_path / "s").sample(8, 16, np.random.default_rng(0))
    assert lr.shape == (8, 3, 16, 16) and hr.shape == (8, 3, 64, 64)
    small = nn.functional.interpolate(hr, scale_factor=0.25, mode="bicubic", antialias=True)
    # the border of a crop sees other pixels
    inner = (slice(None), slice(None), slice(4, 12), slice(4, 12))
    assert float((small[inner] - lr[inner]).abs().mean()) < 0.01


def test_a_share_of_the_images_is_used_smaller_too(image, tmp_path):
    for i in range(8):
        Image.fromarray(image(i, 200)).save(tmp_path / f"set_{i:06x}_01.png")

    def tiles(**changes) -> list[np.ndarray]:
        return list(_tiles(ShardConfig(str(tmp_path), tile=64, **changes), validation=False))

    plain, some, all_ = tiles(reduced=0.0), tiles(reduced=0.5), tiles(reduced=1.0)
    assert len(plain) == 8 * 9  # a grid over 200 pixels
    assert len(plain) < len(some) < len(all_) <= 2 * len(plain)
    assert len(all_) - len(plain) >= 8  # at least one tile of each
    assert [t.tobytes() for t in some] == [t.tobytes() for t in tiles(reduced=0.5)]  # seeded
    assert {t.tobytes() for t in plain} <= {t.tobytes() for t in all_}
    # A picture of one tile has no smaller one.
    assert (
        len(list(_tiles(ShardConfig(str(tmp_path), tile=200, reduced=1.0), validation=False))) == 8
    )


@pytest.mark.parametrize(
    ("mix", "message"), [("fog:1", "unknown degradation 'fog'"), ("mild:x", "is no number")]
)
def test_bad_mixes(mix, message):
    with pytest.raises(PatchScalerError, match=message):
        parse_mix(mix)


def test_missing_data_is_named(tmp_path):
    with pytest.raises(PatchScalerError, match="no shards here"):
        PairShards(tmp_path)
    with pytest.raises(PatchScalerError, match="holds no images"):
        list(iterate_images(tmp_path))
    with pytest.raises(PatchScalerError, match="no such folder"):
        list(iterate_images(tmp_path / "nowhere"))


def test_the_eight_orientations_differ_and_keep_the_pixels():
    array = np.arange(27).reshape(3, 3, 3)
    ways = {oriented(array, way).tobytes() for way in range(8)}
    assert len(ways) == 8
    assert all(sorted(oriented(array, way).ravel()) == list(range(27)) for way in range(8))
    assert np.array_equal(oriented(array, 4)[0], array[..., 0].T)
