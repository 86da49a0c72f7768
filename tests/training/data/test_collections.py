"""Data sets in miniature: recognised by their names wherever they lie, counted,
measured, hashed.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchscaler.apps.cli import main
from patchscaler.errors import PatchScalerError
from patchscaler.training.data import collections
from patchscaler.training.data.collections import (
    COLLECTIONS,
    dtd_split,
    list_hash,
    open_collection,
)
from patchscaler.training.data.textures import LabelledTextures


def write(root: Path, name: str, width: int = 16, height: int = 12) -> Path:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(file)
    return file


@pytest.fixture
def small(monkeypatch):
    """`small(name, part=count, ...)`: the same release with other counts."""

    def change(name: str, **counts: int) -> None:
        release = COLLECTIONS[name]
        parts = {
            p: dataclasses.replace(s, count=counts.get(p, s.count))
            for p, s in release.parts.items()
        }
        monkeypatch.setitem(
            collections.COLLECTIONS, name, dataclasses.replace(release, parts=parts, hash="")
        )

    return change


def realsr(root: Path) -> None:
    for camera in ("Canon", "Nikon"):
        for i in (3, 12):
            write(root, f"RealSR(V3)/{camera}/Test/4/{camera}_{i:03d}_LR4.png", 10, 8)
            write(root, f"RealSR(V3)/{camera}/Test/4/{camera}_{i:03d}_HR.png", 40, 32)
            write(root, f"RealSR(V3)/{camera}/Test/2/{camera}_{i:03d}_LR2.png", 20, 16)
            write(root, f"RealSR(V3)/{camera}/Train/4/{camera}_{i:03d}_HR.png", 40, 32)


def test_realsr_gives_its_test_pairs_in_order(tmp_path, small):
    realsr(tmp_path)
    small("realsr", canon_lr=2, canon_hr=2, nikon_lr=2, nikon_hr=2)
    found = open_collection("realsr", tmp_path)
    names = [(lr.name, hr.name) for lr, hr in found.pairs]
    assert names[0] == ("Canon_003_LR4.png", "Canon_003_HR.png") and len(names) == 4
    assert names[3] == ("Nikon_012_LR4.png", "Nikon_012_HR.png")
    assert found.describe()["as published"] and not found.problems


def test_a_wrong_count_is_one_line_with_both_numbers(tmp_path):
    realsr(tmp_path)
    with pytest.raises(
        PatchScalerError,
        match=r"expected 50 images of 'canon_lr', found 2\).*csjcai.*--unchecked",
    ):
        open_collection("realsr", tmp_path)
    found = open_collection("realsr", tmp_path, unchecked=True)
    assert len(found.pairs) == 4 and len(found.problems) == 4
    assert found.describe()["as published"] is False


def test_versions_1_and_2_of_realsr_are_refused_by_size(tmp_path, small):
    small("realsr", canon_lr=1, canon_hr=1, nikon_lr=1, nikon_hr=1)
    for camera in ("Canon", "Nikon"):
        write(tmp_path, f"{camera}/Test/4/{camera}_001_LR4.png", 40, 32)
        write(tmp_path, f"{camera}/Test/4/{camera}_001_HR.png", 40, 32)
    with pytest.raises(
        PatchScalerError, match=r"expected 160x128 of Canon_001_HR\.png, found 40x32"
    ):
        open_collection("realsr", tmp_path)


def test_a_missing_original_is_named(tmp_path, small):
    small("realsr", canon_lr=2, canon_hr=2, nikon_lr=0, nikon_hr=0)
    for name in ("Canon_001_LR4", "Canon_002_LR4", "Canon_001_HR", "Canon_003_HR"):
        write(tmp_path, f"Canon/Test/4/{name}.png", *((10, 8) if "LR4" in name else (40, 32)))
    with pytest.raises(
        PatchScalerError,
        match=r"expected an original of Canon_002_LR4\.png, found Canon_003_HR\.png",
    ):
        open_collection("realsr", tmp_path)
    (tmp_path / "Canon/Test/4/Canon_003_HR.png").unlink()
    found = open_collection("realsr", tmp_path, unchecked=True)
    assert [lr.name for lr, _ in found.pairs] == ["Canon_001_LR4.png"]


def test_lsdir_is_found_from_the_top_and_from_inside(tmp_path, small):
    small("lsdir", val=2, train=3)
    for i in (1, 2):
        write(tmp_path, f"LSDIR/val1/HR/val/{i:07d}.png")
        write(tmp_path, f"LSDIR/val1/X4/val/{i:07d}x4.png", 4, 3)
    for i in (1, 2, 1001):
        write(tmp_path, f"LSDIR/train/{-(-i // 1000) * 1000:07d}/{i:07d}.png")
        write(tmp_path, f"LSDIR/train/{-(-i // 1000) * 1000:07d}/{i:07d}x2.png")
    whole = open_collection("lsdir", tmp_path)
    assert {part: len(files) for part, files in whole.parts.items()} == {
        "val": 2,
        "test": 0,
        "train": 3,
    }
    inside = open_collection("lsdir", tmp_path / "LSDIR" / "val1" / "HR" / "val")
    assert inside.hash == list_hash({f"val/{i:07d}.png": (16, 12) for i in (1, 2)})
    assert inside.hash != whole.hash


def test_the_hash_follows_names_and_sizes_only(tmp_path, small):
    small("realset65", lr=2)
    for folder in ("a", "b"):
        write(tmp_path, f"{folder}/x.png", 10, 8)
        write(tmp_path, f"{folder}/y.jpg", 9, 7)
    first, second = (open_collection("realset65", tmp_path / f).hash for f in ("a", "b"))
    assert first == second == list_hash({"lr/y.jpg": (9, 7), "lr/x.png": (10, 8)})
    write(tmp_path, "b/x.png", 10, 9)
    assert open_collection("realset65", tmp_path / "b").hash != first


def test_names_that_must_be_there_are_missed(tmp_path, small):
    small("realset80", lr=6)
    names = COLLECTIONS["realset80"].contains
    for name in names:
        write(tmp_path, name)
    assert not open_collection("realset80", tmp_path).problems
    (tmp_path / names[2]).rename(tmp_path / "other.jpg")
    with pytest.raises(PatchScalerError, match=f"expected {names[2]} among the images"):
        open_collection("realset80", tmp_path)


def test_ost_is_found_by_its_seven_classes(tmp_path, small):
    small("ost", train=3, test=1)
    for name in ("animal/a", "building/b", "sky/a"):
        write(tmp_path, f"OutdoorSceneTrain_v2/{name}.png")
    write(tmp_path, "OutdoorSceneTrain_v2/office/c.png")
    write(tmp_path, "OutdoorSceneTest300/OST_001.png")
    found = open_collection("ost", tmp_path)
    assert {part: len(files) for part, files in found.parts.items()} == {"train": 3, "test": 1}


def test_manga109_is_counted_in_pages_and_volumes(tmp_path, monkeypatch):
    release = COLLECTIONS["manga109"]
    pages = dataclasses.replace(release.parts["pages"], count=(4, 5), folders=2)
    small = dataclasses.replace(release, parts={"pages": pages})
    monkeypatch.setitem(collections.COLLECTIONS, "manga109", small)
    for name in ("ARMS/000", "ARMS/001", "YumeNoKayoiji/000", "YumeNoKayoiji/001"):
        write(tmp_path, f"Manga109_released_2021_12_30/images/{name}.jpg")
    assert len(open_collection("manga109", tmp_path).files()) == 4
    write(tmp_path, "Manga109_released_2021_12_30/images/Third/000.jpg")
    with pytest.raises(PatchScalerError, match="expected 2 folders of 'pages', found 3"):
        open_collection("manga109", tmp_path)


# --- DTD's splits ---------------------------------------------------------------------------------


@pytest.fixture
def labels(tmp_path, monkeypatch):
    """DTD in miniature: two images a part, split 1 alone."""
    monkeypatch.setattr(collections, "DTD_PART_SIZE", 2)
    (tmp_path / "labels").mkdir()
    for i, part in enumerate(("train", "val", "test")):
        names = [f"{c}/{c}_{i + 1:04d}.jpg" for c in ("banded", "knitted")]
        for name in names:
            write(tmp_path, f"images/{name}", 160, 160)
        (tmp_path / "labels" / f"{part}1.txt").write_text("\n".join(names) + "\n")
    return tmp_path


def test_a_split_is_three_disjoint_parts(labels):
    split = dtd_split(labels, 1)
    assert split["test"] == {"banded/banded_0003.jpg", "knitted/knitted_0003.jpg"}
    assert len(set.union(*split.values())) == 6
    (labels / "labels" / "test1.txt").write_text("banded/banded_0001.jpg knitted/knitted_0003.jpg")
    with pytest.raises(PatchScalerError, match="disjoint"):
        dtd_split(labels, 1)


@pytest.mark.parametrize(("number", "message"), [(0, "take 1 to 10"), (2, "labels/train2.txt")])
def test_splits_that_are_not_there(labels, number, message):
    with pytest.raises(PatchScalerError, match=message):
        dtd_split(labels, number)


def test_a_split_holds_out_its_own_test_part(labels):
    textures = LabelledTextures(labels, dtd_split=1)
    assert textures.classes == ("banded", "knitted")
    assert len(textures.train) == 4 and len(textures.validation) == 2


def test_another_set_of_65_pictures_is_not_realset65(tmp_path):
    for i in range(65):
        write(tmp_path, f"{i}.png", 8, 8)
    with pytest.raises(
        PatchScalerError, match="expected the list of names and sizes 3786fa15dc336117, found"
    ):
        open_collection("realset65", tmp_path)


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        (
            "drealsr-crops",
            {"DrealSRVal_crop128/test_LR/a.png": (128, 120)},
            "expected 128x128 of a.png, found 128x120",
        ),
        (
            "div2k",
            {"DIV2K_train_HR/0001.png": (200, 100)},
            "expected a longer side of 2040 of 0001.png",
        ),
        (
            "dtd",
            {"dtd/images/banded/banded_0002.jpg": (64, 64)},
            "expected sides of 200 to 800 of banded_0002.jpg",
        ),
    ],
)
def test_wrong_sizes_are_named(tmp_path, name, files, message):
    for file, size in files.items():
        write(tmp_path, file, *size)
    assert any(
        message in problem for problem in open_collection(name, tmp_path, unchecked=True).problems
    )


def test_dtd_takes_pictures_of_their_class_alone(tmp_path, small):
    small("dtd", images=2)
    for name in ("banded/banded_0001.jpg", "knitted/knitted_0007.jpg", "knitted/banded_0001.jpg"):
        write(tmp_path, f"dtd/images/{name}", 300, 300)
    assert len(open_collection("dtd", tmp_path).files()) == 2


def test_what_cannot_be_is_one_line(tmp_path):
    with pytest.raises(PatchScalerError, match="unknown data set 'set5': choose from lsdir"):
        open_collection("set5", tmp_path)
    with pytest.raises(PatchScalerError, match="no such folder; LSDIR comes from https"):
        open_collection("lsdir", tmp_path / "nowhere")
    with pytest.raises(PatchScalerError, match="holds no image of DIV2K"):
        open_collection("div2k", tmp_path, unchecked=True)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(PatchScalerError, match=r"broken\.png: damaged or not an image"):
        open_collection("realset80", tmp_path, unchecked=True)


def test_the_command_knows_every_release():
    from patchscaler.apps.cli.data import NAMES

    assert set(NAMES) == set(COLLECTIONS)


def test_the_command_says_what_it_found(tmp_path, small, capsys):
    realsr(tmp_path)
    assert main(["data", "realsr", str(tmp_path)]) == 1
    assert "expected 50 images of 'canon_lr', found 2" in capsys.readouterr().err
    assert main(["data", "realsr", str(tmp_path), "--unchecked"]) == 0
    out = capsys.readouterr().out
    assert "canon_lr 2" in out and "differs: expected 50 images of 'canon_lr', found 2" in out
    small("realsr", canon_lr=2, canon_hr=2, nikon_lr=2, nikon_hr=2)
    assert main(["data", "realsr", str(tmp_path)]) == 0
    assert f"hash {open_collection('realsr', tmp_path).hash}" in capsys.readouterr().out
