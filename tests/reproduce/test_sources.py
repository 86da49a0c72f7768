"""Where an experiment's images come from."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from patchscaler.errors import PatchScalerError
from patchscaler.reproduce.sources import choose_lsdir_test, lsdir_test, open_source
from patchscaler.training.data import collections
from patchscaler.training.data.collections import COLLECTIONS, open_collection


def test_a_folder_is_lr_or_hr_images(small_pictures):
    small = open_source(str(small_pictures))
    assert [p.name for p in small.pairs] == ["a", "b"] and not small.has_originals
    large = open_source(str(small_pictures), originals=True, limit=1, seed=5)
    pair = large.pairs[0]
    assert (pair.name, pair.degradation, pair.seed) == ("a", "mild", 5) and pair.lr.shape == (
        16,
        16,
        3,
    )
    assert large.described["used"] == 1 and large.described["degradation"] == "mild"


def test_what_is_no_source_is_one_line(small_pictures, tmp_path):
    with pytest.raises(
        PatchScalerError, match=r"unknown data set 'set5': choose from lsdir, .*, or give a folder"
    ):
        open_source(f"set5={small_pictures}")
    with pytest.raises(PatchScalerError, match="no such folder"):
        open_source(str(tmp_path / "nowhere"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"no")
    with pytest.raises(PatchScalerError, match="no image can be used"):
        open_source(str(tmp_path / "bad"))


@pytest.fixture
def lsdir(tmp_path, monkeypatch, picture):
    """LSDIR in miniature: two validation pictures, four training ones, the last validation one too
    small.
    """
    release = COLLECTIONS["lsdir"]
    counts = {"val": 2, "test": 1, "train": 4}
    parts = {p: dataclasses.replace(s, count=counts[p]) for p, s in release.parts.items()}
    monkeypatch.setitem(collections.COLLECTIONS, "lsdir", dataclasses.replace(release, parts=parts))
    for name, side in [("val1/HR/val/0000001", 520), ("val1/HR/val/0000002", 300)]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(side, 530).save(tmp_path / f"{name}.png")
    for i in range(1, 5):
        (tmp_path / "train/0001000").mkdir(parents=True, exist_ok=True)
        picture(512, 512, i).save(tmp_path / f"train/0001000/{i:07d}.png")
    return tmp_path


def test_lsdir_test_is_validation_and_training_pictures_chosen_by_name(lsdir):
    collection = open_collection("lsdir", lsdir)
    names = [name for name, _ in choose_lsdir_test(collection, 4)]
    assert names[2:] == ["val_0000001", "val_0000002"] and all(
        n.startswith("train_") for n in names[:2]
    )
    assert names == [name for name, _ in choose_lsdir_test(collection, 4)]
    assert len(choose_lsdir_test(collection, 2)) == 2 and len(choose_lsdir_test(collection)) == 6
    more = {name for name, _ in choose_lsdir_test(collection, 5)}
    assert set(names) < more  # a larger choice holds the smaller


def test_lsdir_test_crops_the_centre_and_degrades_by_name(lsdir, tmp_path):
    collection = open_collection("lsdir", lsdir)
    pairs, failed = lsdir_test(collection, tmp_path / "crops")
    assert [str(f) for f in failed] == [
        "val_0000002: 0000002.png is 530x300: smaller than the crop of 512"
    ]
    pair = next(p for p in pairs if p.name == "val_0000001")
    whole = np.asarray(Image.open(lsdir / "val1/HR/val/0000001.png"))
    assert np.array_equal(pair.hr, whole[4:516, 9:521])
    assert pair.lr.shape == (128, 128, 3)
    alone = next(
        p
        for p in open_source(f"lsdir={lsdir}", out=tmp_path, limit=5).pairs
        if p.name == "val_0000001"
    )
    assert np.array_equal(alone.lr, pair.lr)  # whatever else is in the set
