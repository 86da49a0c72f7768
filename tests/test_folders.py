"""A folder of pictures: what is found, what is done once, what fails alone, and what everybody is
told.
"""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchscaler.apps.cli import main
from patchscaler.errors import PatchScalerError
from patchscaler.folders import STATUS, Status, batches, find_pictures
from patchscaler.pipeline import PatchScaler


@pytest.fixture(scope="module")
def model(tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny.save_pretrained(folder, half=False)
    return folder


@pytest.fixture
def source(tmp_path, picture) -> Path:
    """Three pictures, one of them below, one file that is none, one that is broken, one that is
    hidden.
    """
    folder = tmp_path / "in"
    (folder / "sub dir").mkdir(parents=True)
    picture(40, 56, 0).save(folder / "a.png")
    picture(33, 47, 1).convert("L").save(folder / "-ü b.png")
    picture(64, 64, 2).save(folder / "sub dir" / "a.jpg", quality=95)
    (folder / "notes.txt").write_text("not a picture")
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:300])
    picture(32, 32, 3).save(folder / ".hidden.png")
    return folder


@pytest.fixture
def upscale(model, source, capsys):
    """`upscale(*options)` -> exit code, what was said as JSON; results go to out."""

    def run(*options: object) -> tuple[int, dict]:
        fixed = [
            "upscale",
            source,
            "-o",
            source.parent / "out",
            "--model",
            model,
            "--dtype",
            "float32",
            "--json",
        ]
        code = main([str(a) for a in (*fixed, *options)])
        return code, json.loads(capsys.readouterr().out)

    return run


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# --- finding --------------------------------------------------------------------------------------


def test_pictures_are_found_by_name(source):
    found = find_pictures(source, recursive=True)
    assert [p.relative_to(source).as_posix() for p in found.pictures] == [
        "-ü b.png",
        "a.png",
        "broken.png",
        "sub dir/a.jpg",
    ]
    assert [(p.name, reason) for p, reason in found.passed_over] == [
        ("notes.txt", "not named like a picture")
    ]
    flat = find_pictures(source, recursive=False)
    assert len(flat.pictures) == 3 and ("sub dir", "a folder; --recursive goes into it") in [
        (p.name, reason) for p, reason in flat.passed_over
    ]


def test_links_out_of_the_folder_and_in_circles(source, tmp_path, picture):
    picture(32, 32).save(tmp_path / "elsewhere.png")
    (source / "out.png").symlink_to(tmp_path / "elsewhere.png")
    (source / "in.png").symlink_to(source / "a.png")
    (source / "sub dir" / "loop").symlink_to(source)
    (source / "gone.png").symlink_to(source / "nothing.png")
    os.mkfifo(source / "pipe.png")
    found = find_pictures(source, recursive=True)
    assert "in.png" in [p.name for p in found.pictures] and len(found.pictures) == 5
    reasons = {p.name: reason for p, reason in found.passed_over}
    assert (
        reasons["out.png"] == "a link that leads out of the folder"
        and reasons["loop"] == "a link to a folder"
    )
    assert reasons["gone.png"] == reasons["pipe.png"] == "not a file"


def test_results_inside_are_no_pictures_to_enlarge(source):
    (source / "out").mkdir()
    Image.new("RGB", (8, 8)).save(source / "out" / "x.png")
    assert "x.png" not in [p.name for p in find_pictures(source, True, source / "out").pictures]


def test_lots_keep_their_limits():
    sizes = [400, 500, 200, 900, 5000, 1, 1, 1]
    found = list(batches(((s, s) for s in sizes), pixels=1000, count=2))
    assert found == [[400, 500], [200], [900], [5000], [1, 1], [1]]


# --- the whole ------------------------------------------------------------------------------------


def test_what_lies_beside_a_picture_counts_as_not_done(upscale, source):
    first = upscale("-q")[1]
    again, report = upscale("-q")[1], upscale("-q", "--report", source.parent / "rep")[1]
    assert (
        first["done"]
        and len(again["done_before"]) == len(first["done"])
        and not report["done_before"]
    )
    assert (source.parent / "rep" / "a.png" / "run.json").exists()


def test_a_folder(upscale, source, model):
    code, said = upscale("--recursive")
    out = source.parent / "out"
    assert code == 1
    assert names(out) == ["-ü b_x4.png", ".patchscaler.jsonl", "a_x4.png", "sub dir/a_x4.jpg"]
    assert [Path(d["target"]).name for d in said["done"]] == ["-ü b_x4.png", "a_x4.png", "a_x4.jpg"]
    assert [Path(f["source"]).name for f in said["failed"]] == ["broken.png"]
    assert "damaged or cut off" in said["failed"][0]["error"]
    assert [Path(f["source"]).name for f in said["passed_over"]] == ["notes.txt"]
    # As each by itself, whatever shares its batches.
    scaler = PatchScaler.from_pretrained(model, device="cpu", dtype="float32")
    for name in ("a.png", "-ü b.png"):
        alone = np.asarray(scaler.upscale(Image.open(source / name)).image).astype(int)
        assert np.abs(np.asarray(Image.open(out / f"{name[:-4]}_x4.png")) - alone).max() <= 1


def test_patches_of_many_pictures_share_batches(upscale, source, monkeypatch):
    seen, real = [], PatchScaler.upscale_many
    monkeypatch.setattr(
        PatchScaler, "upscale_many", lambda self, p, **o: seen.append(len(p)) or real(self, p, **o)
    )
    upscale("--recursive")
    assert seen == [3]
    seen.clear()
    upscale("--recursive", "--again", "--scale", 2)  # what is reduced behind is made alone
    assert seen == [1, 1, 1]


def test_what_is_done_is_done_once(upscale, source, monkeypatch):
    (source / "broken.png").unlink()
    assert upscale()[0] == 0
    out = source.parent / "out"
    before = {
        name: (out / name).stat().st_mtime_ns for name in names(out) if name.endswith("x4.png")
    }
    code, said = upscale()
    assert code == 0 and not said["done"] and len(said["done_before"]) == 2
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    # Other options, another content, a result that is gone: made again; the rest is not.
    assert len(upscale("--seed", 5)[1]["done"]) == 2
    assert len(upscale("--seed", 5)[1]["done"]) == 0
    Image.new("RGB", (20, 20)).save(source / "a.png")
    assert [Path(d["source"]).name for d in upscale("--seed", 5)[1]["done"]] == ["a.png"]
    (out / "-ü b_x4.png").unlink()
    assert [Path(d["source"]).name for d in upscale("--seed", 5)[1]["done"]] == ["-ü b.png"]
    # What computes, too: the last bits hang on it.
    assert len(upscale("--seed", 5, "--dtype", "bfloat16")[1]["done"]) == 2
    assert len(upscale("--seed", 5, "--again")[1]["done"]) == 2


def test_interrupted_and_gone_on(upscale, source, monkeypatch):
    import patchscaler.apps.cli.upscale as command

    (source / "broken.png").unlink()
    real, calls = command.write, []

    def stop(*arguments: object) -> None:
        calls.append(arguments[3])
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(command, "write", stop)
    code, said = upscale("--recursive")
    assert code == 130 and said["interrupted"] and len(said["done"]) == 1
    # the picture at hand was dropped
    assert names(source.parent / "out") == ["-ü b_x4.png", ".patchscaler.jsonl"]
    monkeypatch.setattr(command, "write", real)
    code, said = upscale("--recursive")
    assert code == 0 and len(said["done_before"]) == 1 and len(said["done"]) == 2


def test_no_memory_for_all_is_memory_for_each(upscale, source, monkeypatch):
    real = PatchScaler.upscale_many

    def tight(self, images, **options):
        if len(images) > 1:
            raise PatchScalerError("not enough memory for this picture")
        return real(self, images, **options)

    monkeypatch.setattr(PatchScaler, "upscale_many", tight)
    (source / "broken.png").unlink()
    code, said = upscale("--recursive")
    assert code == 0 and len(said["done"]) == 3


def test_one_bad_picture_never_stops_the_rest(upscale, source, monkeypatch):
    import patchscaler.apps.cli.upscale as command

    real = command.write

    def fail(*arguments):
        if arguments[3].name == "a.png":
            raise OSError(28, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(command, "write", fail)
    code, said = upscale("--recursive")
    assert code == 1 and len(said["done"]) == 2
    assert sorted(Path(f["source"]).name for f in said["failed"]) == ["a.png", "broken.png"]
    monkeypatch.setattr(command, "write", real)
    assert [Path(d["source"]).name for d in upscale("--recursive")[1]["done"]] == ["a.png"]


def test_large_pictures_go_through_windows(upscale, source, monkeypatch):
    from patchscaler.streaming import cost

    monkeypatch.setattr(cost, "IN_MEMORY", 2000)  # a.png has 2240 pixels, b 1551
    assert len(upscale()[1]["done"]) == 2
    plain = np.asarray(Image.open(source.parent / "out" / "a_x4.png")).astype(int)
    monkeypatch.setattr(cost, "IN_MEMORY", 10**6)
    upscale("--again")
    assert np.abs(np.asarray(Image.open(source.parent / "out" / "a_x4.png")) - plain).max() <= 1


def test_numbers_that_are_none_fail_alone(upscale, source):
    values = np.full((16, 16), 0.5, np.float32)
    values[3, 3] = np.nan
    Image.fromarray(values).save(source / "nan.tif")
    code, said = upscale()
    assert code == 1 and len(said["done"]) == 2
    assert [e["error"] for e in said["failed"] if e["source"].endswith("nan.tif")] == [
        "the array holds numbers that are none (NaN)"
    ]


def test_what_goes_by_itself_is_read_in_its_turn(upscale, source, monkeypatch):
    from patchscaler.apps.cli import upscale as command
    from patchscaler.images.read import Picture

    made, alive = command.upscale_one, []

    def counting(*args: object) -> None:
        gc.collect()
        alive.append(sum(type(thing) is Picture for thing in gc.get_objects()))
        made(*args)

    monkeypatch.setattr(command, "upscale_one", counting)
    upscale("--report", source.parent / "rep")
    assert alive == [1, 1]


def test_names_that_no_terminal_shows(model, tmp_path, picture):
    source = tmp_path / "in"
    source.mkdir()
    for name in (b"caf\xe9.png", b"n.png"):
        try:
            picture(16, 16).save(source / os.fsdecode(name), "PNG")
        except OSError:
            pytest.skip("names are Unicode here")
    command = [
        sys.executable,
        "-m",
        "patchscaler",
        "upscale",
        source,
        "-o",
        tmp_path / "out",
        "--model",
        model,
    ]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"}, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert b"caf\\udce9_x4.png" in done.stdout and b"n_x4.png" in done.stdout


def test_reports_of_a_folder(upscale, source):
    upscale("--recursive", "--report", source.parent / "rep")
    found = [
        str(p.parent.relative_to(source.parent / "rep"))
        for p in (source.parent / "rep").rglob("run.json")
    ]
    assert sorted(found) == ["-ü b.png", "a.png", "sub dir/a.jpg"]


def test_dry_run_of_a_folder_writes_nothing(model, source, capsys):
    (source / "broken.png").unlink()
    out = source.parent / "out"
    assert main(["upscale", str(source), "-o", str(out), "--model", str(model), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.count("patch-steps in all") == 2 and not out.exists()


def test_people_are_told(model, source, capsys):
    code = main(["upscale", str(source), "-o", str(source.parent / "out"), "--model", str(model)])
    said = capsys.readouterr()
    assert code == 1
    assert "2 enlarged, 0 done before, 2 passed over, 1 failed" in said.err
    assert f"  {source / 'broken.png'}: damaged or cut off" in said.err
    assert "notes.txt: passed over, not named like a picture" in said.err
    assert "a_x4.png: 56x40 -> 224x160" in said.out


# --- the status -----------------------------------------------------------------------------------


def test_a_torn_line_is_a_picture_to_make_again(tmp_path):
    (tmp_path / "a.png").write_bytes(b"1")
    (tmp_path / "out.png").write_bytes(b"2")
    status = Status(tmp_path, "key")
    status.add(tmp_path / "a.png", "a.png", tmp_path / "out.png")
    assert Status(tmp_path, "key").is_done(tmp_path / "a.png", "a.png")
    assert not Status(tmp_path, "other").is_done(tmp_path / "a.png", "a.png")
    line = (tmp_path / STATUS).read_text()
    (tmp_path / STATUS).write_text(line[: len(line) // 2])
    torn = Status(tmp_path, "key")
    assert not torn.is_done(tmp_path / "a.png", "a.png")
    torn.add(tmp_path / "a.png", "a.png", tmp_path / "out.png")
    # not one line with the torn one
    assert Status(tmp_path, "key").is_done(tmp_path / "a.png", "a.png")
    (tmp_path / STATUS).write_bytes(b"\xff\xfe[]\n")
    assert not Status(tmp_path, "key").entries


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{in}"], "is a folder; say where its pictures go with -o OUT"),
        (["{in}", "{in}/a.png", "-o", "{out}"], "give one folder alone, or pictures"),
        (["{in}", "-o", "{in}"], "that is where the pictures come from"),
        (["{in}", "-o", "{in}/a.png"], "is a file; a folder of pictures goes to a folder"),
        (
            ["{in}", "-o", "{out}", "--redo", "0,0,9,9", "--group", "hard"],
            "--redo is for one picture",
        ),
        (["{in}/a.png", "--recursive"], "are for a folder of pictures"),
        (["{in}/a.png", "--json"], "are for a folder of pictures"),
        (["{in}", "-o", "{in}/a.png/out"], "cannot write there"),
    ],
)
def test_folders_that_cannot_be(model, source, capsys, arguments, message):
    before = names(source.parent)
    filled = [a.format_map({"in": source, "out": source.parent / "out"}) for a in arguments]
    assert main(["upscale", *filled, "--model", str(model)]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert names(source.parent) == before


def test_an_empty_folder(model, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    assert (
        main(["upscale", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(model)])
        == 0
    )
    assert "0 enlarged, 0 done before" in capsys.readouterr().out
