"""Large picture files: what is checked and told before the first step, resume after a kill, nothing
left behind.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from common import left, read
from PIL import Image, ImageCms

from patchscaler.apps.cli import main
from patchscaler.errors import PatchScalerError
from patchscaler.images.large_writing import check_large, save_large
from patchscaler.images.metadata import Metadata
from patchscaler.images.write import save_picture
from patchscaler.streaming import cost, files
from patchscaler.streaming.disk import DiskArray, JobFolder
from patchscaler.streaming.files import FileOptions, upscale_file

# --- files ----------------------------------------------------------------------------------------


def on_disk(folder: Path, array: np.ndarray) -> DiskArray:
    stored = DiskArray(folder / "pixels", array.shape, array.dtype)
    stored[:] = array
    return stored


@pytest.mark.parametrize(
    ("suffix", "channels"),
    [
        (".png", 1),
        (".png", 3),
        (".png", 4),
        (".tif", 1),
        (".tif", 2),
        (".tif", 3),
        (".tif", 4),
        (".webp", 4),
        (".bmp", 3),
    ],
)
def test_files_from_disk_hold_the_pixels(tmp_path, suffix, channels):
    array = np.random.default_rng(0).integers(1, 256, (37, 53, channels), dtype=np.uint8)
    metadata = Metadata((53, 37), xmp=b"<x:xmpmeta/>", dpi=(300, 300))
    save_large(
        on_disk(tmp_path, array), tmp_path / f"o{suffix}", metadata, lossless=suffix == ".webp"
    )
    found = np.asarray(Image.open(tmp_path / f"o{suffix}"))
    assert np.array_equal(found.reshape(array.shape), array)
    assert left(tmp_path) == [f"o{suffix}", "pixels"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [95, 80])  # colours at full and at half of the sides
def test_jpegs_by_strips_are_the_jpeg_made_at_once(
    tmp_path, picture, monkeypatch, channels, quality
):
    from patchscaler.images import jpeg_writing

    array = np.asarray(picture(333, 521))[..., :channels]
    data = Metadata((521, 333), xmp=b"<x:xmpmeta/>", dpi=(300, 300), comment=b"hm")
    data = replace(
        data, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    )
    save_picture(array, tmp_path / "whole.jpg", data, quality)
    # one row of blocks: 21 or more strips, so the eight marks recur
    monkeypatch.setattr(jpeg_writing, "STRIP", 1)
    save_large(on_disk(tmp_path, array), tmp_path / "strips.jpg", data, quality)
    whole, strips = (Image.open(tmp_path / f"{name}.jpg") for name in ("whole", "strips"))
    for key in ("xmp", "dpi", "comment", "icc_profile"):
        assert strips.info[key] == whole.info[key]
    assert np.array_equal(np.asarray(strips), np.asarray(whole))
    marks = re.findall(rb"\xff([\xd0-\xd7])", (tmp_path / "strips.jpg").read_bytes())
    assert [m[0] - 0xD0 for m in marks[-10:]] == [n % 8 for n in range(len(marks) - 10, len(marks))]


def test_jpegs_of_more_than_a_strip(tmp_path):
    array = np.broadcast_to(
        np.arange(3000, dtype=np.uint16).astype(np.uint8)[:, None, None], (3000, 2500, 3)
    )
    save_large(on_disk(tmp_path, array), tmp_path / "o.jpg", quality=95)
    found = np.asarray(Image.open(tmp_path / "o.jpg")).astype(int)
    assert (
        found.shape == array.shape
        and np.abs(found - array).max() <= 40
        and np.abs(found - array).mean() < 2
    )


def test_pyramids(tmp_path, picture):
    pytest.importorskip("pyvips")
    array = np.asarray(picture(300, 520))
    save_large(
        on_disk(tmp_path, array),
        tmp_path / "p.tif",
        Metadata((520, 300), dpi=(300, 300)),
        pyramid=True,
    )
    pyramid = Image.open(tmp_path / "p.tif")
    assert np.array_equal(np.asarray(pyramid), array)
    assert (
        pyramid.tag_v2[322] == 256
        and pyramid.n_frames == 3
        and pyramid.info["dpi"] == pytest.approx((300, 300))
    )
    pyramid.seek(1)
    assert pyramid.size == (260, 150)


def test_a_full_disk_under_a_pyramid(tmp_path, picture):
    """In a process of its own: the limit on the size of files stays with it."""
    pytest.importorskip("pyvips")
    code = """
import resource, signal, sys
import numpy as np
from pathlib import Path
from patchscaler.images.large_writing import save_large
from patchscaler.streaming.disk import DiskArray
folder = Path(sys.argv[1])
stored = DiskArray(folder / "pixels", (600, 600, 3), np.dtype(np.uint8))
stored[:] = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    save_large(stored, folder / "p.tif", pyramid=True)
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert f"PatchScalerError {tmp_path / 'p.tif'}: cannot be written (" in done.stdout, done.stderr
    assert left(tmp_path) == ["pixels"]


def test_formats_that_cannot_hold_it(tmp_path):
    with pytest.raises(PatchScalerError, match=r"pyramids are written as \.tif"):
        check_large(tmp_path / "a.png", 1, pyramid=True)
    with pytest.raises(
        PatchScalerError, match=r"WEBP wants all of 3.0 GB of pixels in memory at once"
    ):
        check_large(tmp_path / "a.webp", 3_000_000_000)
    for name in ("a.png", "a.tif", "a.jpg"):
        check_large(tmp_path / name, 3_000_000_000)


# --- checks before the first step -----------------------------------------------------------------


def never(*_: object) -> None:
    raise AssertionError("a step was taken")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("out.webp", {"target_size": 60.0}, "more than the 16383 pixels a side"),
        ("out.xyz", {}, "cannot write '.xyz' files"),
        ("in.png", {}, "output and input are the same file"),
        ("out.png", {"window": 1}, "window 1: take 2 pixels or more"),
        ("out.png", {"max_pixels": 5}, "more than the limit"),
        ("out.png", {"files": FileOptions(quality=200)}, "quality 200"),
        ("out.png", {"files": FileOptions(pyramid=True)}, "pyramids are written as .tif"),
        ("out.png", {"fidelity": 2.0}, "fidelity 2: take 0"),
        ("out.png", {"budget": "much"}, "budget much: give a share"),
    ],
)
def test_what_cannot_be_is_said_first(tiny, photo, monkeypatch, name, options, message):
    source = photo(300, 20)
    monkeypatch.setattr(tiny.grm, "forward", never)
    with pytest.raises(PatchScalerError, match=message):
        upscale_file(tiny, source, source.with_name(name), **options)
    assert left(source.parent) == ["in.png"]


def test_a_full_disk_is_said_first(tiny, photo, monkeypatch):
    source = photo(40, 40)
    monkeypatch.setattr(tiny.grm, "forward", never)
    usage = type("Usage", (), {"total": 10**9, "free": 20_100_000})
    monkeypatch.setattr(cost.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        PatchScalerError, match="of disk, 0 MB are free; free some, or write to another disk"
    ):
        upscale_file(tiny, source, source.with_name("out.png"))
    assert left(source.parent) == ["in.png"]


def test_too_little_memory_is_said_first(tiny, photo, monkeypatch):
    source = photo(40, 40)
    monkeypatch.setattr(tiny.grm, "forward", never)
    monkeypatch.setattr(cost, "free_memory", lambda: 100_000_000)
    with pytest.raises(
        PatchScalerError,
        match=r"takes about 1.5 GB of memory and 100 MB are free; lower --memory-limit",
    ):
        upscale_file(tiny, source, source.with_name("out.png"))
    assert left(source.parent) == ["in.png"]


def test_a_disk_that_fills_up_while_space_is_reserved(tiny, photo, monkeypatch):
    source = photo(40, 40)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        PatchScalerError, match=r"no room for .* intermediate data .No space left on device"
    ):
        upscale_file(tiny, source, source.with_name("out.png"))
    assert left(source.parent) == ["in.png"]


def test_windows_follow_the_memory_limit(tiny):
    sizes = [cost.window_sizes(tiny, 5000, None, limit) for limit in (64, 256, 1024)]
    assert [s.restore for s in sizes] == sorted(s.restore for s in sizes) and sizes[
        0
    ].restore < sizes[2].restore
    wide = cost.window_sizes(tiny, 100_000, None, 64)
    assert wide.rows < sizes[0].rows  # a strip goes across the whole picture: the wider, the lower


# --- what it costs --------------------------------------------------------------------------------


def test_dry_run_counts_exactly_and_leaves_nothing(tiny, photo):
    source, target = photo(97, 141), photo(97, 141).with_name("out.png")
    told = upscale_file(tiny, source, target, window=40, dry_run=True).estimate
    assert left(source.parent) == ["in.png"]
    made = upscale_file(tiny, source, target, window=40)
    assert told.patches == made.cost["patches"] and told.evaluations == made.cost["evaluations"]
    assert (
        told.total == made.cost["evaluations_total"]
        and told.size == (564, 388)
        and told.windows == 12
    )
    assert set(told.seconds) == {"restoring", "sampling", "decoding"} and all(
        s > 0 for s in told.seconds.values()
    )
    text = "\n".join(told.lines())
    assert (
        f"{told.total} patch-steps in all" in text
        and "564x388, 12 windows" in text
        and "here" in text
    )


def test_progress_reaches_the_end_of_every_stage(tiny, photo):
    source, seen = photo(97, 141), {}
    upscale_file(
        tiny,
        source,
        source.with_name("out.png"),
        window=40,
        watch=lambda *a: seen.setdefault(a[0], []).append(a[1:]),
    )
    assert list(seen) == ["windows restored", "patch-steps", "strips decoded", "file written"]
    assert all(seen[stage][0][0] == 0 for stage in list(seen)[1:])  # told when it begins
    for calls in seen.values():
        assert calls[-1][0] == calls[-1][1] and [d for d, _ in calls] == sorted(d for d, _ in calls)


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (89, "89 s"), (600, "10 min"), (7260, "2 h 1 min")]
)
def test_durations(seconds, text):
    assert cost.duration(seconds) == text


# --- killed and resumed ---------------------------------------------------------------------------


class Killed(BaseException):
    """What no code catches by name."""


@pytest.mark.parametrize(
    "stage", ["windows restored", "patch-steps", "strips decoded", "file written"]
)
def test_resume_goes_on_where_it_was(tiny, photo, monkeypatch, stage):
    source, target = photo(97, 141), photo(97, 141).with_name("out.png")
    expected = tiny.upscale(Image.open(source)).array
    options = {"window": 40, "max_patches": 4}

    def stop(name: str, done: int, total: int) -> None:
        if name == stage and done >= total / 2 - 1:
            raise Killed

    with pytest.raises(Killed):
        upscale_file(tiny, source, target, watch=stop, **options)
    assert len(left(source.parent)) == 2 and not target.exists()
    seen: dict[str, list[int]] = {}
    upscale_file(
        tiny, source, target, watch=lambda n, d, t: seen.setdefault(n, []).append(d), **options
    )
    assert np.abs(read(target) - expected).max() <= 1
    assert left(source.parent) == ["in.png", "out.png"]
    stages = ["windows restored", "patch-steps", "strips decoded", "file written"]
    before, after = stages[: stages.index(stage)], stages[stages.index(stage) + 1 :]
    assert not set(before) & set(seen)  # nothing is done twice
    assert set(after) <= set(seen)
    if stage in ("windows restored", "patch-steps"):
        assert seen[stage][0] > 1


def test_resume_between_passes(tiny, photo):
    source, target = photo(20, 16), photo(20, 16).with_name("out.png")
    upscale_file(tiny, source, target, target_size=8.0, window=32)
    expected, count = read(target), [0]
    target.unlink()

    def stop(name: str, done: int, total: int) -> None:
        count[0] += name == "windows restored" and done == total
        if count[0] == 2:
            raise Killed

    with pytest.raises(Killed):
        upscale_file(tiny, source, target, target_size=8.0, window=32, watch=stop)
    seen: list[str] = []
    upscale_file(
        tiny, source, target, target_size=8.0, window=32, watch=lambda n, d, t: seen.append(n)
    )
    assert np.array_equal(read(target), expected) and "windows restored" not in seen


def test_another_command_does_not_take_up_the_work(tiny, photo):
    source, target = photo(97, 141), photo(97, 141).with_name("out.png")

    def stop(name: str, done: int, total: int) -> None:
        if name == "patch-steps":
            raise KeyboardInterrupt

    with pytest.raises(
        KeyboardInterrupt,
        match=r"interrupted, .* patches are done; the same command goes on from there",
    ):
        upscale_file(tiny, source, target, window=40, watch=stop)
    made = upscale_file(tiny, source, target, window=40, seed=1)
    assert np.abs(read(target) - tiny.upscale(Image.open(source), seed=1).array).max() <= 1
    assert "an unfinished picture of other options lies in" in made.notes[0]
    assert len(left(source.parent)) == 3


def test_interrupted_before_anything_is_done_leaves_nothing(tiny, photo, monkeypatch):
    source = photo(40, 40)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "restore_windows", stop)
    with pytest.raises(KeyboardInterrupt):
        upscale_file(tiny, source, source.with_name("out.png"))
    assert left(source.parent) == ["in.png"]


def test_a_dry_run_that_is_terminated_leaves_nothing(tiny, photo, monkeypatch):
    source = photo(141, 97)

    def terminated(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)

    monkeypatch.setattr("patchscaler.streaming.files.assign_once", terminated)
    tiny.save_pretrained(source.parent / "model")
    before = sorted(source.parent.iterdir())
    assert (
        main(
            [
                "upscale",
                str(source),
                "--window",
                "40",
                "--dry-run",
                "--model",
                str(source.parent / "model"),
            ]
        )
        == 130
    )
    assert sorted(source.parent.iterdir()) == before


def test_intermediate_data_that_vanishes_is_an_error_like_others(tiny, photo):
    source = photo(97, 141)

    def clean_up(name: str, done: int, total: int) -> None:
        if name == "patch-steps":
            for file in source.parent.glob(".out.png*/coarse"):
                file.unlink()

    with pytest.raises(FileNotFoundError, match="coarse"):
        upscale_file(
            tiny, source, source.with_name("out.png"), window=40, max_patches=4, watch=clean_up
        )


def test_two_runs_at_once(tmp_path):
    first = JobFolder(tmp_path / "out.png", "k" * 64, {})
    with pytest.raises(PatchScalerError, match="another run is making this picture"):
        JobFolder(tmp_path / "out.png", "k" * 64, {})
    first.close()
    second = JobFolder(tmp_path / "out.png", "k" * 64, {})
    assert second.resumed
    second.remove()
    assert left(tmp_path) == []


def test_work_is_recorded_after_it_is_written(tmp_path):
    folder = JobFolder(tmp_path / "o[1].png", "k" * 64, {"a": 1}, every=0)
    array, done = folder.array("numbers", (4, 3), np.float32), folder.progress("rows", 4)
    array[1] = 5
    done[1] = True
    folder.record()
    folder.close()
    again = JobFolder(tmp_path / "o[1].png", "k" * 64, {})
    assert again.progress("rows", 4).tolist() == [False, True, False, False]
    assert again.array("numbers", (4, 3), np.float32)[1].tolist() == [5, 5, 5]
    assert JobFolder.others(tmp_path / "o[1].png", "x" * 64) == [again.path]
    assert json.loads((again.path / "job.json").read_text()) == {"a": 1}


SCRIPT = """
import sys
import time
from dataclasses import replace
from pathlib import Path
from patchscaler.pipeline import PatchScaler
from patchscaler.streaming.files import upscale_file
from patchscaler.streaming import disk
import torch
torch.set_num_threads(1)
scaler = PatchScaler.from_pretrained(sys.argv[1], device="cpu", dtype="float32")
def watch(stage, done, total):
    print(stage, done, total, flush=True)
upscale_file(scaler, sys.argv[2], sys.argv[3], window=40, max_patches=2, watch=watch)
"""


def test_killed_for_good_and_resumed_by_the_same_command(tiny, photo, tmp_path_factory):
    source, model = photo(97, 141), tmp_path_factory.mktemp("model")
    target = source.with_name("out.png")
    tiny.save_pretrained(model, half=False)
    command = [sys.executable, "-c", SCRIPT, str(model), str(source), str(target)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    for line in process.stdout:
        if line.startswith("patch-steps") and int(line.split()[1]) > 10:
            process.send_signal(signal.SIGKILL)
            break
    process.wait(60)
    assert not target.exists() and len(left(source.parent)) == 2
    again = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert np.abs(read(target) - tiny.upscale(Image.open(source)).array).max() <= 1
    assert left(source.parent) == ["in.png", "out.png"]
