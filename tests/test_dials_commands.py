"""The dials, windows and reports of `patchscaler upscale`, as people type them."""

import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from patchscaler.apps.cli import main
from patchscaler.config import GROUP_NAMES
from patchscaler.dials.record import (
    read_provenance,
)
from patchscaler.dials.report import read_report
from patchscaler.dials.saved import find_saved, redo_file
from patchscaler.images.read import load_picture
from patchscaler.models.weights import file_hash
from patchscaler.pipeline import PatchScaler


@pytest.fixture(scope="module")
def scaler(model_folder) -> PatchScaler:
    return PatchScaler.from_pretrained(model_folder, device="cpu", dtype="float32")


@pytest.fixture
def photo(tmp_path, picture) -> Path:
    picture(64, 96).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def upscale(model_folder, photo):
    """`upscale(*options)` -> exit code; the output is out.png."""

    def run(*options: object, out: str = "out.png") -> int:
        fixed = [
            "upscale",
            photo,
            "-o",
            photo.parent / out,
            "--model",
            model_folder,
            "--device",
            "cpu",
            "--dtype",
            "float32",
        ]
        return main([str(a) for a in (*fixed, *options)])

    return run


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


@pytest.mark.parametrize("window", ["0", "40"])
def test_report_by_command(upscale, photo, window):
    assert upscale("--report", photo.parent / "rep", "--window", window, "-q") == 0
    record = read_report(photo.parent / "rep")
    assert record["input"] == {
        "name": "photo.png",
        "sha256": file_hash(photo),
        "width": 96,
        "height": 64,
    }
    assert record["output"]["sha256"] == file_hash(photo.with_name("out.png"))
    assert record["output"]["width"] == 384 and sum(record["cost"]["patches"].values()) == 15
    facts = read_provenance(load_picture(photo.with_name("out.png")).metadata.xmp)
    assert facts["Weights"] == record["model"]["id"] and facts["Input"] == file_hash(photo)
    assert json.loads(facts["Options"]) == record["options"]


def test_no_provenance_by_command(upscale, photo):
    assert upscale("--no-provenance", "-q") == 0
    assert load_picture(photo.with_name("out.png")).metadata.xmp is None


def test_windows_by_command(upscale, photo, capsys):
    assert upscale("-q") == 0 and upscale("--window", 40, out="w.png") == 0
    assert np.abs(pixels(photo.with_name("out.png")) - pixels(photo.with_name("w.png"))).max() <= 1
    assert "384x256, patches" in (said := capsys.readouterr().out) and "windows" in said


@pytest.mark.parametrize("window", ["0", "40"])
@pytest.mark.parametrize("out", ["out.png", "a/b/out.png"])
def test_dry_run_by_command(upscale, photo, capsys, window, out):
    assert upscale("--dry-run", "--window", window, out=out) == 0
    said = capsys.readouterr().out
    assert "output 384x256" in said and "patch-steps in all" in said and "here (restoring" in said
    assert [p.name for p in photo.parent.iterdir()] == ["photo.png"]


def test_dials_by_command(upscale, photo, capsys):
    assert (
        upscale("--budget", "0", "-q", out="none.png") == 0
        and upscale("--fidelity", "1", "-q", out="one.png") == 0
    )
    assert (
        np.abs(pixels(photo.with_name("none.png")) - pixels(photo.with_name("one.png"))).max() <= 1
    )
    assert upscale("--budget", "best") == 0
    assert "0 simple, 0 medium, 15 hard" in capsys.readouterr().out


@pytest.mark.parametrize("report", [True, False])
def test_redo_by_command(upscale, photo, report, capsys):
    """From the report, or from what the picture says of itself."""
    more = ["--report", photo.parent / "rep"] if report else []
    assert upscale("--seed", 3, "--fidelity", 0.1, *more, "-q") == 0
    before = pixels(photo.with_name("out.png"))
    assert upscale("--redo", "8,8,10,10", "--group", "simple", "--redo", "70,40,9,9", *more) == 0
    assert "8,8,10,10, 70,40,9,9 made again" in capsys.readouterr().out
    after = pixels(photo.with_name("out.png"))
    changed = (before != after).any(-1)
    assert changed.any() and not changed[:, 192:224].all()
    # The boxes' patches are 0 to 48 of both sides, and from column 48 and row 16 on.
    assert not changed[: 4 * 16, 4 * 48 :].any() and not changed[4 * 48 :, : 4 * 48].any()
    facts = read_provenance(load_picture(photo.with_name("out.png")).metadata.xmp)
    assert [c["box"] for c in json.loads(facts["Options"])["changes"]] == [
        [8, 8, 10, 10],
        [70, 40, 9, 9],
    ]
    assert facts["Seed"] == "3"
    if report:
        record = read_report(photo.parent / "rep")
        groups = record["patches"]["groups"]
        assert record["cost"]["patches"] == {n: groups.count(g) for g, n in enumerate(GROUP_NAMES)}
        assert record["output"]["sha256"] == file_hash(photo.with_name("out.png"))
    # And once more: the picture goes on telling what it is.
    assert upscale("--redo", "0,0,64,64", "--redo-seed", 8, *more, "-q") == 0
    assert (pixels(photo.with_name("out.png")) != after).any()


def test_redo_keeps_the_depth_of_the_run(upscale, photo):
    """Sixteen bits in, eight out: the box is made again in eight."""
    deep = np.linspace(0, 65535, 64 * 96).reshape(64, 96).astype(np.uint16)
    Image.fromarray(deep).save(photo)
    boxes = ("--redo", "8,8,10,10", "--group", "hard")
    # no earlier run: boxes of a new one
    assert upscale("--bits", 8, *boxes, "-q", out="whole.png") == 0
    assert upscale("--bits", 8, "-q") == 0 and upscale(*boxes, "-q") == 0
    assert load_picture(photo.with_name("out.png")).bits == 8
    assert (
        np.abs(pixels(photo.with_name("out.png")) - pixels(photo.with_name("whole.png"))).max() <= 1
    )


def test_redo_of_a_picture_above_the_limit_of_memory(upscale, photo, monkeypatch):
    assert upscale("-q") == 0
    kept = PatchScaler.options.__kwdefaults__ | {"max_pixels": 100}
    monkeypatch.setattr(PatchScaler.options, "__kwdefaults__", kept)
    assert upscale("--redo", "8,8,10,10", "--group", "hard", "-q") == 0


def test_windows_cannot_save_difficulty(upscale, photo, capsys):
    assert upscale("--window", 40, "--save-difficulty") == 1
    assert (
        "--save-difficulty and --save-coarse are not to be had; take --report"
        in capsys.readouterr().err
    )
    assert [p.name for p in photo.parent.iterdir()] == ["photo.png"]


def test_dry_run_of_a_size_that_takes_two_passes(upscale, capsys):
    assert upscale("--dry-run", "--width", 768) == 0
    told = capsys.readouterr()
    assert "768x512" in told.out
    bound = re.search(
        r"that was pass 1 of 2; pass 2: (\d+) patches, (\d+) patch-steps at most",
        told.err + told.out,
    )
    # the hard group of this model takes two steps
    assert bound and int(bound[2]) == 2 * int(bound[1])
    assert upscale("--width", 768, "--budget", "best") == 0
    made = re.search(r"(\d+) simple, (\d+) medium, (\d+) hard", capsys.readouterr().out)
    assert made and sum(map(int, made.groups())) == int(bound[1])  # of the last pass


def test_a_dry_run_makes_nothing_again(upscale, photo, capsys):
    assert upscale("-q") == 0
    before = file_hash(photo.with_name("out.png"))
    assert upscale("--redo", "0,0,40,40", "--redo-seed", 9, "--group", "hard", "--dry-run") == 1
    assert (
        "--redo changes an output that is there, --dry-run writes nothing"
        in capsys.readouterr().err
    )
    assert file_hash(photo.with_name("out.png")) == before


@pytest.mark.parametrize("option", [("--redo", "8,8,9,9", "--group", "hard"), ("--budget", "20s")])
@pytest.mark.parametrize("window", ["0", "40"])
def test_what_is_said_of_one_enlargement_is_refused_for_two(upscale, photo, option, window, capsys):
    assert upscale("--scale", 8, "--window", window, *option) == 1
    assert "for one enlargement, and this size takes 2" in capsys.readouterr().err
    assert [p.name for p in photo.parent.iterdir()] == ["photo.png"]


def test_what_tiles_or_moves_keeps_the_limit_of_memory(upscale, photo, monkeypatch, capsys):
    monkeypatch.setattr("patchscaler.images.read.MAX_PIXELS", 6143)
    assert upscale("--tileable") == 1 and "96x64 is more than the limit" in capsys.readouterr().err
    assert upscale("-q") == 0  # others can be made in windows


def test_redo_without_an_earlier_run_is_a_run_with_boxes(upscale, photo, scaler, capsys):
    assert upscale("--redo", "0,0,96,64", "--group", "hard") == 0
    assert "0 simple, 0 medium, 15 hard" in capsys.readouterr().out


def test_redo_refuses_what_does_not_fit(upscale, photo, picture, scaler, capsys):
    box = ["--redo", "0,0,9,9", "--group", "hard"]
    assert upscale("-q", out="out.jpg") == 0 and upscale(*box, out="out.jpg") == 1
    assert "its format keeps pixels only about" in capsys.readouterr().err
    assert upscale("-q") == 0
    before = photo.with_name("out.png").read_bytes()
    picture(64, 96, 5).save(photo)
    assert upscale(*box) == 1
    assert "the earlier run was of another picture" in capsys.readouterr().err
    assert photo.with_name("out.png").read_bytes() == before
    found = find_saved(None, photo.with_name("out.png"))
    assert found is not None and found.record is None
    assert redo_file(scaler, photo, photo.with_name("nothing.png"), []) is None


def test_redo_refuses_the_report_of_another_output(upscale, photo, capsys):
    report, box = ["--report", photo.parent / "rep"], ["--redo", "0,0,9,9", "--redo-seed", 5]
    assert (
        upscale("--seed", 3, *report, "-q") == 0 and upscale("--seed", 4, "-q", out="four.png") == 0
    )
    before = {
        p: p.read_bytes() for p in (photo.with_name("four.png"), photo.parent / "rep" / "run.json")
    }
    assert upscale(*box, *report, out="four.png") == 1
    error = capsys.readouterr().err
    assert (
        "four.png: is not the file that" in error
        and "leave --report out" in error
        and error.count("\n") == 1
    )
    assert {p: p.read_bytes() for p in before} == before
    assert upscale(*box, "-q", out="four.png") == 0  # from what it says of itself
    assert read_provenance(load_picture(photo.with_name("four.png")).metadata.xmp)["Seed"] == "4"
    assert upscale(*box, *report, "-q") == 0


def test_reports_of_one_name_are_refused(photo, model_folder, picture, capsys):
    for name in ("c1", "c2"):
        (photo.parent / name).mkdir()
        picture(32, 32).save(photo.parent / name / "p.png")
    twins, report = [photo.parent / name / "p.png" for name in ("c1", "c2")], photo.parent / "rep"
    command = ["upscale", *twins, "--report", report, "--model", model_folder]
    assert main([str(a) for a in command]) == 1
    error = capsys.readouterr().err
    assert f"{twins[1]}: --report would put it into {report / 'p.png'}, as {twins[0]}" in error
    assert error.count("\n") == 1 and not report.exists()
    assert [[p.name for p in twin.parent.iterdir()] for twin in twins] == [["p.png"], ["p.png"]]


def test_a_large_png_is_not_decoded_to_hear_how_it_is_turned(upscale, photo, monkeypatch):
    """Which it may tell behind its pixels."""
    data, turned = photo.read_bytes(), Image.Exif()
    turned[0x0112] = 6
    exif = b"eXIf" + turned.tobytes().removeprefix(b"Exif\0\0")
    chunk = (len(exif) - 4).to_bytes(4, "big") + exif + zlib.crc32(exif).to_bytes(4, "big")
    photo.write_bytes(data[:-12] + chunk + data[-12:])  # the last chunk takes 12 bytes
    decoded, found, load = [], [], PngImageFile.load_prepare
    monkeypatch.setattr("patchscaler.images.rows.ABOVE", 1000)
    monkeypatch.setattr(
        PngImageFile, "load_prepare", lambda image: (decoded.append(image.size), load(image))
    )
    monkeypatch.setattr(
        "patchscaler.images.write.check_side", lambda target, *size: found.append(size)
    )
    monkeypatch.setattr("patchscaler.apps.cli.cluster.load", _stop)
    with pytest.raises(Stopped):
        upscale("--window", 40)
    assert found == [(256, 384)] and decoded == [(1, 1)]


class Stopped(BaseException):
    """Raised where a test has seen enough."""


def _stop(*_: object) -> None:
    raise Stopped


@pytest.fixture
def moving(photo, picture) -> Path:
    frames = [picture(32, 40, seed) for seed in range(3)]
    frames[0].save(
        photo.with_name("moving.gif"), save_all=True, append_images=frames[1:], duration=40
    )
    return photo.with_name("moving.gif")


def test_animations_keep_to_the_limit_of_memory(moving, model_folder, monkeypatch):
    limits, options = [], PatchScaler.options
    monkeypatch.setattr(
        PatchScaler,
        "options",
        lambda *a, **k: (limits.append(k.get("memory_limit")), options(*a, **k))[1],
    )
    command = [
        "upscale",
        moving,
        "--memory-limit",
        77,
        "--no-provenance",
        "-q",
        "--model",
        model_folder,
    ]
    assert main([str(a) for a in command]) == 0
    assert set(limits) == {77}


@pytest.mark.parametrize("budget", ["20s", "2m"])
def test_animations_take_no_budget_in_seconds(moving, model_folder, capsys, budget):
    assert main(["upscale", str(moving), "--budget", budget, "--model", str(model_folder)]) == 1
    error = capsys.readouterr().err
    assert (
        "--budget in seconds is for one picture; give a share, or fast" in error
        and error.count("\n") == 1
    )
    assert sorted(p.name for p in moving.parent.iterdir()) == ["moving.gif", "photo.png"]


def test_redo_after_seconds_needs_the_report(upscale, photo, capsys):
    assert upscale("--budget", "50s", "-q") == 0
    assert upscale("--redo", "0,0,9,9", "--group", "hard") == 1
    assert (
        "made with a budget in seconds; to redo it, its --report is needed"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "lots"], "budget lots: give a share"),
        (["--fidelity", "2"], "fidelity 2: take 0"),
        (["--budget", ".5", "--shares", "0,0"], "leave --shares and --thresholds out"),
        (["--group", "hard"], "name it with --redo X,Y,W,H"),
        (["--redo", "1,2,3"], "--redo 1,2,3: give 4 numbers"),
        (["--redo", "0,0,9,9"], "say what is to change"),
        (["--redo", "900,0,9,9", "--group", "hard"], "lies outside of"),
        (["--window", "-3"], "--window -3: give auto, 0"),
        (["--window", "big"], "--window big: give auto"),
        (["--pyramid"], "pyramids are written as .tif"),
        (["--memory-limit", "inf"], "memory limit inf: give a number of MiB"),
        (["--cluster", "auto", "--budget", "2m"], "--budget in seconds is of one machine"),
        (["--cluster", "auto", "--budget", "20s"], "--budget in seconds is of one machine"),
    ],
)
def test_options_that_cannot_be(upscale, photo, capsys, options, message):
    assert upscale(*options) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert [p.name for p in photo.parent.iterdir()] == ["photo.png"]
