"""Pictures in windows: the same as whole, whatever the windows, in memory that does not grow with
the area.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from common import COARSE_ONLY, left, read
from PIL import Image

from patchscaler.config import GRMConfig, preset
from patchscaler.diffusion.groups import patch_confidence
from patchscaler.enlarge import upscale_to_size
from patchscaler.errors import PatchScalerError
from patchscaler.models.folder import build_networks
from patchscaler.patching import make_grid
from patchscaler.pipeline import PatchScaler
from patchscaler.streaming import disk
from patchscaler.streaming.disk import JobFolder
from patchscaler.streaming.files import FileOptions, upscale_file
from patchscaler.streaming.passes import NoiseTiles, scores_by_rows
from patchscaler.streaming.windows import cut_windows, spans

# --- cutting --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case", [(100, 30, 7, 1), (101, 30, 7, 2), (5, 30, 7, 2), (64, 64, 33, 2), (1000, 33, 4, 32)]
)
def test_cores_cover_everything_once(case):
    length, core, reach, multiple = case
    found = spans(length, core, reach, multiple)
    assert [s.start for s in found] == [0, *(s.stop for s in found[:-1])] and found[
        -1
    ].stop == length
    for s in found:
        assert s.stop - s.start <= core and s.start % multiple == s.low % multiple == 0
        assert s.low == 0 or s.start - s.low >= reach
        assert s.high == length or s.high - s.stop >= reach
    assert (
        max(s.stop - s.start for s in found) - min(s.stop - s.start for s in found)
        < multiple * len(found) + multiple
    )


def test_windows_are_rows_by_columns():
    windows = cut_windows(10, 20, 10, 3)
    assert [(w.rows.start, w.columns.start) for w in windows] == [(0, 0), (0, 10)]
    with pytest.raises(PatchScalerError, match="windows of 1: take 2 or more"):
        spans(100, 1, 0, 2)


def test_scores_by_rows_are_those_of_the_whole():
    confidence = torch.rand(40, 57, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.5
    confidence[8:40, 8:40] = 0.9
    grid = make_grid(40, 57, overlap=4)
    for least in (0.0, 0.7):
        whole = patch_confidence(confidence[None], grid, least)
        assert torch.allclose(scores_by_rows(confidence.numpy(), grid, least), whole, atol=1e-6)
    assert (whole <= 0.7).any() and (whole > 0.7).any()


def test_noise_of_tiles_is_the_field(tiny, monkeypatch):
    options = tiny.options(seed=5, origin=(4, 6))
    whole = tiny.noise(options, 0, 0, 90, 150)
    tiles = NoiseTiles(tiny, options)
    monkeypatch.setattr(tiles, "KEPT", 2)
    for rows, columns in (
        (slice(0, 16), slice(0, 16)),
        (slice(56, 72), slice(120, 136)),
        (slice(63, 79), slice(1, 17)),
    ):
        assert torch.equal(tiles[:, rows, columns], whole[:, rows, columns])
    assert len(tiles.tiles) <= 3


# --- the same picture -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(9, 13), (33, 47), (64, 64), (97, 141)])
@pytest.mark.parametrize("window", [32, 46, 1000])
def test_windows_do_not_show(tiny, photo, size, window):
    source, target = photo(*size), photo(*size).with_name("out.png")
    whole = tiny.upscale(Image.open(source))
    made = upscale_file(tiny, source, target, window=window)
    assert np.array_equal(made.groups, whole.groups)
    assert np.array_equal(made.textures, whole.textures)
    assert np.abs(made.scores - whole.scores).max() < 1e-6
    difference = np.abs(read(target) - whole.array)
    # Stored in half precision, a patch moves by less than a thousandth of what it adds: rounding,
    # no seams.
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01
    assert left(source.parent) == ["in.png", "out.png"]


def test_without_context_windows_would_show(tiny, photo, monkeypatch):
    source, target = photo(97, 141), photo(97, 141).with_name("out.png")
    whole = tiny.upscale(Image.open(source), groups=COARSE_ONLY)
    monkeypatch.setattr(tiny.grm, "reach", 0)
    upscale_file(tiny, source, target, window=32, groups=COARSE_ONLY)
    difference = np.abs(read(target) - whole.array)
    assert difference.max() > 2
    # ... and nowhere but near the windows' edges, which lie at multiples of 116 and 112 output
    # pixels here.
    inner = difference[32:84, 32:80]
    assert inner.max() <= 1


@pytest.mark.parametrize(
    "options",
    [
        {"color": "none"},
        {"color": "adain"},
        {"fidelity": 0.4},
        {"fidelity": 0.4, "color": "none"},
        {"budget": 0.3},
        {"seed": 9, "prompt": False},
        {"fidelity": 1.0},
    ],
)
def test_options_work_in_windows(tiny, photo, options):
    source, target = photo(61, 83), photo(61, 83).with_name("out.png")
    whole = tiny.upscale(Image.open(source), **options)
    made = upscale_file(tiny, source, target, window=40, **options)
    assert np.abs(read(target) - whole.array).max() <= 1
    assert made.cost["evaluations"] == whole.cost["evaluations"]


def test_what_was_invented_is_the_same_with_adain(tiny, photo):
    """The coarse picture is matched by its own colours, as in memory."""
    from patchscaler.dials.report import read_maps

    source, target = photo(61, 83), photo(61, 83).with_name("out.png")
    whole = tiny.upscale(Image.open(source), color="adain", invention=True)
    upscale_file(
        tiny,
        source,
        target,
        window=40,
        color="adain",
        files=FileOptions(report=source.with_name("report")),
    )
    moments = read_maps(source.with_name("report"))[1]
    assert np.abs(whole.moments[:3]).mean() > 1  # grey levels: or this would test nothing
    assert np.abs(moments - whole.moments)[:3].max() < 0.1


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_modes_in_windows(tiny, photo, mode):
    source, target = photo(61, 45, mode), photo(61, 45, mode).with_name("out.png")
    if mode in ("LA", "RGBA"):
        image = Image.open(source)
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(source)
    whole = tiny.upscale(Image.open(source))
    upscale_file(tiny, source, target, window=32)
    assert Image.open(target).mode == whole.image.mode
    assert np.abs(read(target) - np.asarray(whole.image)).max() <= 1


def test_sixteen_bits_in_windows(tiny, tmp_path):
    pytest.importorskip("pyvips")
    from patchscaler.images.read import load_picture
    from patchscaler.images.write import save_picture

    ramp = np.linspace(20_000, 21_000, 50 * 70 * 3).reshape(50, 70, 3).astype(np.uint16)
    save_picture(ramp, tmp_path / "in.png")
    whole = tiny.upscale(load_picture(tmp_path / "in.png").planes)
    upscale_file(tiny, tmp_path / "in.png", tmp_path / "out.tif", window=32)
    made = load_picture(tmp_path / "out.tif")
    assert made.bits == 16 and whole.array.dtype == np.uint16
    # of 65535: a third of a level of 255
    assert np.abs(made.pixels.astype(int) - whole.array).max() <= 80
    notes = upscale_file(tiny, tmp_path / "in.png", tmp_path / "out.jpg", window=32).notes
    assert notes == ["JPEG holds 8 bits a channel; 16 came in"]


@pytest.mark.parametrize("scale", [0.5, 1, 1.5, 4.5])
def test_other_scales_in_windows(tiny, photo, scale):
    source, target = photo(40, 30), photo(40, 30).with_name("out.png")
    whole = upscale_to_size(tiny, Image.open(source), scale)
    upscale_file(tiny, source, target, window=32, target_size=scale)
    assert read(target).shape == whole.array.shape
    # What one pass rounds differently, the next enlarges.
    assert np.abs(read(target) - whole.array).max() <= (1 if len(whole.passes) == 1 else 3)


def test_networks_that_see_everything_have_a_bound(tiny, photo):
    # Group norms see a whole window: not the same picture, but no seam either beyond this bound.
    torch.manual_seed(0)
    from dataclasses import replace

    config = replace(preset("tiny"), grm=GRMConfig(kind="unet", width=8))
    networks = build_networks(config)
    networks["autoencoder"].load_state_dict(tiny.autoencoder.state_dict())
    torch.nn.init.normal_(networks["grm"].coarse_head.weight, std=0.02)
    scaler = PatchScaler(config, networks, None)
    source, target = photo(96, 330), photo(96, 330).with_name("out.png")
    whole = scaler.upscale(Image.open(source), groups=COARSE_ONLY).array.astype(int)
    upscale_file(scaler, source, target, window=160, groups=COARSE_ONLY)
    difference = np.abs(read(target) - whole)
    assert 0 < difference.mean() < 0.5 and difference.max() <= 8


# --- between two passes ---------------------------------------------------------------------------


class Killed(BaseException):
    """What no code catches by name."""


def killed_at(name: str, before: bool):
    """-> `os.replace` that is killed where a file of this name comes about."""
    real = os.replace

    def replace(source, target):
        here = Path(target).name == name
        if here and before:
            raise Killed
        real(source, target)
        if here:
            raise Killed

    return replace


@pytest.mark.parametrize("name", ["result0.json", "result0"])
@pytest.mark.parametrize("before", [True, False])
def test_killed_while_a_pass_is_closed(tiny, photo, monkeypatch, name, before):
    source, target = photo(20, 16), photo(20, 16).with_name("out.png")
    upscale_file(tiny, source, target, target_size=16.0, window=32)
    expected = read(target)
    target.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(disk.os, "replace", killed_at(name, before))
        with pytest.raises(Killed):
            upscale_file(tiny, source, target, target_size=16.0, window=32)
    upscale_file(tiny, source, target, target_size=16.0, window=32)
    assert expected.mean() > 50 and np.array_equal(read(target), expected)
    assert left(source.parent) == ["in.png", "out.png"]


def test_of_two_results_the_later_one_counts(tmp_path, monkeypatch):
    folder = JobFolder(tmp_path / "out.png", "k" * 64, {})
    for n in range(2):
        folder.begin(n)
        picture = folder.array("picture", (2, 3), np.uint8)
        picture[:] = n + 1
        if n:
            monkeypatch.setattr(disk.os, "replace", killed_at("result1", before=False))
            with pytest.raises(Killed):
                folder.finish(n, picture)
        else:
            folder.finish(n, picture)
    assert {"result0", "result1"} < set(left(folder.path))
    monkeypatch.undo()
    monkeypatch.setattr(Path, "glob", backwards(Path.glob))
    for _ in range(2):  # in whatever order the disk names them
        first, result = folder.finished()
        assert first == 2 and (result[:] == 2).all()
        monkeypatch.undo()


def backwards(glob):
    return lambda *a: iter(sorted(glob(*a), reverse=True))


# --- the folder -----------------------------------------------------------------------------------


def test_a_folder_is_gone_before_it_is_let_go(tmp_path, monkeypatch):
    folder, there = JobFolder(tmp_path / "out.png", "k" * 64, {}), []
    folder.array("numbers", (4,), np.uint8)
    close = folder.close
    monkeypatch.setattr(folder, "close", lambda: (there.append(left(tmp_path)), close()))
    folder.remove()
    assert there == [[]]


@pytest.mark.parametrize("step", ["mkdir", "flock"])
def test_a_folder_that_is_removed_while_another_run_waits_for_it(tmp_path, monkeypatch, step):
    """Between its making and its lock, and between the opening of the lock and the lock itself."""
    first = JobFolder(tmp_path / "out.png", "k" * 64, {})
    place, name = (Path, "mkdir") if step == "mkdir" else (disk.fcntl, "flock")
    real, runs = getattr(place, name), [first]

    def meanwhile(*arguments, **options):
        if step == "mkdir":
            real(*arguments, **options)
        if runs:
            runs.pop().remove()
        if step != "mkdir":
            real(*arguments, **options)

    monkeypatch.setattr(place, name, meanwhile)
    second = JobFolder(tmp_path / "out.png", "k" * 64, {})
    monkeypatch.undo()
    assert not runs and not second.resumed and left(second.path) == ["job.json", "lock"]
    with pytest.raises(PatchScalerError, match="another run is making this picture"):
        JobFolder(tmp_path / "out.png", "k" * 64, {})


def test_folders_that_were_made_for_it_go_with_it(tmp_path):
    (tmp_path / "there").mkdir()
    JobFolder(tmp_path / "there" / "a" / "b" / "out.png", "k" * 64, {}).remove()
    assert left(tmp_path) == ["there"] and left(tmp_path / "there") == []
    JobFolder(tmp_path / "there" / "out.png", "k" * 64, {}).remove()
    assert left(tmp_path) == ["there"]
    folder = JobFolder(tmp_path / "a" / "b" / "out.png", "k" * 64, {})
    (tmp_path / "a" / "mine").touch()
    folder.remove()
    assert left(tmp_path / "a") == ["mine"]


# --- memory ---------------------------------------------------------------------------------------

PEAK = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from PIL import Image
torch.set_num_threads(1)
from patchscaler.config import GroupConfig
from patchscaler.pipeline import PatchScaler
from patchscaler.streaming.files import upscale_file
scaler = PatchScaler.from_pretrained(sys.argv[1], device="cpu", dtype="float32")
none = GroupConfig(start_times=(0, 0, 0), num_inference_steps=(0, 0, 0))
upscale_file(scaler, sys.argv[2], sys.argv[3], memory_limit=16, groups=none, color="wavelet")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("limit", ["inf", "nan", "1e300"])
def test_limits_that_are_none(tiny, photo, limit):
    source = photo(20, 16)
    with pytest.raises(PatchScalerError, match=r"memory limit .*: give a number of MiB, as 512"):
        upscale_file(tiny, source, source.with_name("out.png"), memory_limit=float(limit))
    assert left(source.parent) == ["in.png"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_area(tiny, tmp_path):
    tiny.save_pretrained(tmp_path / "model")
    peaks = []
    for height in (256, 1280):
        Image.effect_noise((256, height), 40).convert("RGB").save(tmp_path / "in.png")
        command = [
            sys.executable,
            "-c",
            PEAK,
            tmp_path / "model",
            tmp_path / "in.png",
            tmp_path / "out.png",
        ]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout) / 1024)
    # Five times the area; the larger result alone has 16 MB of pixels, 63 MB in floats.
    assert peaks[1] - peaks[0] < 16, peaks
