"""Which files of a folder are images, and which are done."""

import os
from pathlib import Path

import pytest
from PIL import Image

from patchscaler.errors import PatchScalerError
from patchscaler.folders import RECORD, Record, find_images, settings_key


@pytest.fixture
def folder(tmp_path) -> Path:
    found = tmp_path / "in"
    (found / "sub").mkdir(parents=True)
    for name in ("a.png", "b.JPG", ".hidden.png", "sub/c.jfif"):
        Image.new("RGB", (8, 8)).save(found / name, "PNG")
    (found / "notes.txt").write_text("hello")
    return found


def test_images_are_found_by_name(folder):
    found = find_images(folder, recursive=True)
    assert [path.relative_to(folder).as_posix() for path in found.images] == [
        "a.png",
        "b.JPG",
        "sub/c.jfif",
    ]
    assert [path.name for path, _ in found.passed_over] == ["notes.txt"]
    flat = find_images(folder)
    assert len(flat.images) == 2 and "sub" in [path.name for path, _ in flat.passed_over]
    more = find_images(folder, also=lambda path: path.suffix == ".txt")
    assert len(more.images) == 3


def test_links_out_of_the_folder_and_in_circles_are_passed_over(folder, tmp_path):
    (tmp_path / "elsewhere.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "out.png").symlink_to(tmp_path / "elsewhere.png")
    (folder / "in.png").symlink_to(folder / "a.png")
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "gone.png").symlink_to(folder / "nothing.png")
    os.mkfifo(folder / "pipe.png")
    found = find_images(folder, recursive=True)
    assert "in.png" in [path.name for path in found.images] and len(found.images) == 4
    passed = {path.name for path, _ in found.passed_over}
    assert passed == {"out.png", "loop", "gone.png", "pipe.png", "notes.txt"}


def test_results_inside_are_no_inputs(folder):
    assert len(find_images(folder, True, folder / "sub").images) == 2


@pytest.fixture
def files(tmp_path) -> tuple[Path, Path]:
    (tmp_path / "a.png").write_bytes(b"1")
    (tmp_path / "out.png").write_bytes(b"2")
    return tmp_path / "a.png", tmp_path / "out.png"


def test_the_record_knows_what_is_done_by_which_settings(tmp_path, files):
    with Record(tmp_path, tmp_path, "key") as record:
        assert not record.is_done(*files)
        record.add(*files)
    with Record(tmp_path, tmp_path, "key") as record:
        assert record.is_done(*files)
        files[0].write_bytes(b"another")
        assert not record.is_done(*files) and record.is_own(*files)
    with Record(tmp_path, tmp_path, "other") as record:
        assert not record.is_done(*files) and not record.is_own(*files)


def test_a_torn_line_is_an_image_to_make_again(tmp_path, files):
    with Record(tmp_path, tmp_path, "key") as record:
        record.add(*files)
    line = (tmp_path / RECORD).read_text()
    (tmp_path / RECORD).write_text(line[: len(line) // 2])
    with Record(tmp_path, tmp_path, "key") as record:
        assert not record.is_done(*files)
        record.add(*files)
    with Record(tmp_path, tmp_path, "key") as record:
        assert record.is_done(*files)
    (tmp_path / RECORD).write_bytes(b"\xff\xfe[]\n")
    with Record(tmp_path, tmp_path, "key") as record:
        assert not record.entries


def test_one_run_a_folder(tmp_path):
    before = sorted(tmp_path.iterdir())
    with (
        Record(tmp_path, tmp_path, "key"),
        pytest.raises(PatchScalerError, match="another run"),
        Record(tmp_path, tmp_path, "key"),
    ):
        pass
    with Record(tmp_path, tmp_path, "key"):
        assert sorted(tmp_path.iterdir()) == before  # nothing hidden is made


def test_settings_that_decide_make_another_key(tiny, tmp_path):
    model = tiny.model
    key = settings_key(model, {"seed": 0})
    assert key == settings_key(model, {"seed": 0}) != settings_key(model, {"seed": 1})
    assert key != settings_key(model, {"seed": 0}, "png")
    mask = tmp_path / "mask.png"
    found = set()
    for content in (b"1", b"2"):
        mask.write_bytes(content)
        found.add(settings_key(model, {"mask": mask}))
    assert len(found) == 2
