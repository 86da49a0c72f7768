"""`patchscaler upscale DIR -o OUT`: what is done once, what is skipped, what fails alone."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchscaler import batch
from patchscaler.folders import RECORD, Record
from patchscaler.pipeline import PatchScaler


@pytest.fixture
def source(tmp_path, picture) -> Path:
    """Three images, one of them below; one file that is none, one that is broken, one hidden."""
    folder = tmp_path / "in"
    (folder / "sub dir").mkdir(parents=True)
    picture(40, 56, 0).save(folder / "a.png")
    picture(33, 47, 1).convert("L").save(folder / "-ü b.png")
    picture(64, 64, 2).save(folder / "sub dir" / "a.jpg", quality=95)
    (folder / "notes.txt").write_text("not an image")
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:300])
    picture(32, 32, 3).save(folder / ".hidden.png")
    return folder


@pytest.fixture
def upscale(command, source, capsys):
    """`upscale(*options)` -> exit code, events of JSON by kind."""

    def run(*options: object) -> tuple[int, dict[str, list[dict]]]:
        code = command(source, "-o", source.parent / "out", "--json", *options)
        events: dict[str, list[dict]] = {}
        for line in capsys.readouterr().out.splitlines():
            event = json.loads(line)
            events.setdefault(event.pop("event"), []).append(event)
        return code, events

    return run


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def done(events: dict[str, list[dict]]) -> list[str]:
    return sorted(Path(event["input"]).name for event in events.get("done", []))


def test_a_folder(upscale, source, model_folder):
    code, events = upscale("--recursive")
    out = source.parent / "out"
    assert code == 1
    assert names(out) == ["-ü b_x4.png", RECORD, "a_x4.png", "sub dir/a_x4.jpg"]
    assert done(events) == ["-ü b.png", "a.jpg", "a.png"]
    assert [Path(event["input"]).name for event in events["error"]] == ["broken.png"]
    assert [Path(event["input"]).name for event in events["passed_over"]] == ["notes.txt"]
    summary = {"done": 3, "done_before": 0, "skipped": 0, "passed_over": 1, "failed": 1}
    assert events["summary"] == [summary | {"interrupted": False}]
    # as each by itself, whatever shares its batches
    pipeline = PatchScaler.from_pretrained(model_folder, device="cpu", dtype="float32")
    for name in ("a.png", "-ü b.png"):
        alone = pipeline(source / name).array.astype(int).squeeze()
        made = np.asarray(Image.open(out / f"{name[:-4]}_x4.png"))
        assert np.abs(made - alone).max() <= 1


def test_lines_for_people(command, source, capsys):
    assert command(source, "-o", source.parent / "out") == 1
    said = capsys.readouterr()
    assert "a_x4.png: 56x40 -> 224x160" in said.out
    assert said.out.splitlines()[-1] == "2 upscaled, 2 passed over, 1 failed"
    assert "notes.txt: passed over" in said.err and "broken.png: " in said.err


def test_quiet_prints_errors_alone(command, source, capsys):
    assert command(source, "-o", source.parent / "out", "-q") == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "broken.png" in said.err


def test_each_line_has_the_seconds_of_its_image(upscale):
    seconds = [event["seconds"] for event in upscale()[1]["done"]]
    for stages in seconds:
        total = stages.pop("total")
        assert {"read", "restore", "denoise", "decode", "write"} <= set(stages)
        assert total == pytest.approx(sum(stages.values()))


def test_what_is_done_is_done_once(upscale, source):
    (source / "broken.png").unlink()
    assert upscale()[0] == 0
    out = source.parent / "out"
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    code, events = upscale()
    assert code == 0 and not done(events)
    assert {event["reason"] for event in events["skipped"]} == {"done before"}
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_source_that_changed_and_a_result_that_is_gone_are_made_again(upscale, source, picture):
    upscale()
    picture(20, 20, 7).save(source / "a.png")
    assert done(upscale()[1]) == ["a.png"]
    (source.parent / "out" / "-ü b_x4.png").unlink()
    assert done(upscale()[1]) == ["-ü b.png"]


def test_results_of_other_settings_are_kept_without_overwrite(upscale, source):
    upscale()
    result = source.parent / "out" / "a_x4.png"
    before = result.read_bytes()
    _code, events = upscale("--fidelity", 1)
    assert not done(events) and len(events["skipped"]) == 2 and result.read_bytes() == before
    assert all("--overwrite" in event["reason"] for event in events["skipped"])
    assert len(done(upscale("--fidelity", 1, "--overwrite")[1])) == 2
    assert result.read_bytes() != before
    assert {event["reason"] for event in upscale("--fidelity", 1)[1]["skipped"]} == {"done before"}


def test_patches_of_small_images_share_batches(upscale, monkeypatch):
    seen, real = [], batch.upscale_batch

    def counting(model, images, options, callback=None):
        seen.append(len(images))
        return real(model, images, options, callback)

    monkeypatch.setattr(batch, "upscale_batch", counting)
    upscale("--recursive")
    assert seen == [3]


def test_a_kill_in_a_batch_loses_nothing_that_is_written(upscale, source, monkeypatch):
    (source / "broken.png").unlink()
    real, calls = batch.save_output, []

    def stop(*arguments: object, **options: object):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(batch, "save_output", stop)
    code, events = upscale("--recursive")
    out = source.parent / "out"
    assert code == 130 and len(done(events)) == 1 and events["summary"][0]["interrupted"]
    assert len(names(out)) == 2  # the record, and one image; nothing hidden
    monkeypatch.setattr(batch, "save_output", real)
    code, events = upscale("--recursive")
    assert code == 0 and len(events["skipped"]) == 1 and len(done(events)) == 2
    assert not [name for name in os.listdir(out) if name.startswith(".") and name != RECORD]


def test_an_image_that_cannot_be_written_fails_alone(upscale, source, monkeypatch):
    real = batch.save_output

    def fail(output, picture, target, **options):
        if Path(target).name == "a_x4.png":
            raise OSError(28, "No space left on device")
        return real(output, picture, target, **options)

    monkeypatch.setattr(batch, "save_output", fail)
    code, events = upscale("--recursive")
    assert code == 1 and len(done(events)) == 2
    assert sorted(Path(e["input"]).name for e in events["error"]) == ["a.png", "broken.png"]
    monkeypatch.setattr(batch, "save_output", real)
    assert done(upscale("--recursive")[1]) == ["a.png"]


def test_numbers_that_are_none_fail_alone(upscale, source):
    values = np.full((16, 16), 0.5, np.float32)
    values[3, 3] = np.nan
    Image.fromarray(values).save(source / "nan.tif")
    code, events = upscale()
    assert code == 1 and len(done(events)) == 2
    assert sorted(Path(e["input"]).name for e in events["error"]) == ["broken.png", "nan.tif"]


def test_two_runs_into_one_folder_are_told_apart(command, source, capsys):
    with Record(source.parent / "out", source, "key"):
        assert command(source, "-o", source.parent / "out") == 1
    assert "another run is writing there" in capsys.readouterr().err
    assert not (source.parent / "out").exists()


def test_a_camera_pair_in_one_format_ends_with_0(command, tmp_path, picture):
    folder = tmp_path / "pair"
    folder.mkdir()
    for name in ("a.jpg", "a.png"):
        picture(32, 32).save(folder / name)
    assert command(folder, "-o", tmp_path / "out", "--format", "webp", "-q") == 0
    assert names(tmp_path / "out") == [RECORD, "a_jpg_x4.webp", "a_png_x4.webp"]


def test_a_dry_run_has_a_total(command, source, capsys):
    (source / "broken.png").unlink()
    assert command(source, "-o", source.parent / "out", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "2 images, 0.00 -> 0.06 megapixels" in lines[-1] and len(lines) == 3
    assert not (source.parent / "out").exists()


def test_reports_have_a_folder_each(upscale, source):
    rep = source.parent / "rep"
    upscale("--recursive", "--report", rep)
    found = sorted(str(path.parent.relative_to(rep)) for path in rep.rglob("run.json"))
    assert found == ["-ü b.png", "a.png", "sub dir/a.jpg"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["{in}"], "-o OUT"),
        (["{in}", "{in}/a.png", "-o", "{out}"], "one folder alone"),
        (["{in}", "-o", "{in}"], "is the input folder"),
        (["{in}", "-o", "{in}/a.png"], "is a file"),
        (["{in}", "-o", "{in}/a.png/out"], "{in}/a.png/out"),
        (["{in}", "-o", "{out}", "--crop", "0,0,9,9"], "--crop"),
        (["{in}", "-o", "-"], "-o -"),
    ],
)
def test_folders_that_cannot_be(command, source, capsys, arguments, named):
    before = names(source.parent)
    places = {"in": source, "out": source.parent / "out"}
    assert command(*(a.format_map(places) for a in arguments)) == 1
    error = capsys.readouterr().err
    assert named.format_map(places) in error and error.count("\n") == 1
    assert names(source.parent) == before


def test_an_empty_folder_is_fine(command, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    assert command(tmp_path / "in", "-o", tmp_path / "out") == 0
    assert "0 upscaled" in capsys.readouterr().out
