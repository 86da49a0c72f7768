"""Videos: what is kept of them, that a killed run goes on as if nothing had been, and what is
refused.
"""

import itertools
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from clips import frames_of, make_clip, seconds_of, sounds_of
from common import left

from patchscaler.apps.cli import main
from patchscaler.apps.video import job
from patchscaler.apps.video.clip import Colors, look_through
from patchscaler.apps.video.frames import pack, read_frames, to_frame, unpack
from patchscaler.apps.video.job import VideoOptions, upscale_video
from patchscaler.enlarge import upscale_to_size
from patchscaler.errors import PatchScalerError
from patchscaler.images.sizes import TargetSize
from patchscaler.streaming.disk import JobFolder

LOSSLESS = VideoOptions(codec="ffv1")


@pytest.fixture(autouse=True)
def short_segments(monkeypatch):
    monkeypatch.setattr(job, "SEGMENT", 4)


def rgb(path: Path) -> np.ndarray:
    """(n, h, w, 3) signed, of all frames."""
    clip = look_through(path)
    return np.stack(list(read_frames(clip, range(clip.count)))).astype(int)


@pytest.fixture
def upscale(model_folder):
    """`upscale(*arguments)` -> exit code."""

    def run(*arguments: object) -> int:
        fixed = ["--model", model_folder, "--dtype", "float32", "--device", "cpu"]
        return main([str(a) for a in ("upscale", *arguments, *fixed)])

    return run


# --- what is kept ---------------------------------------------------------------------------------


def test_every_frame_is_what_the_pipeline_makes_of_it(tiny, tmp_path):
    source = make_clip(tmp_path / "in.mp4")
    made = upscale_video(tiny, source, tmp_path / "out.mkv", video=LOSSLESS)
    assert (made.size, made.frames, made.made_now, made.codec) == ((256, 192), 6, 6, "ffv1")
    clip, out = look_through(source), rgb(tmp_path / "out.mkv")
    for array, result in zip(read_frames(clip, range(clip.count)), out, strict=True):
        difference = np.abs(upscale_to_size(tiny, array).array.astype(int) - result) / 257
        # grey levels: 8 bits of YUV
        assert difference.mean() < 0.8 and np.percentile(difference, 99) < 2.5


def test_a_still_scene_stands_still(tiny, tmp_path):
    source = make_clip(tmp_path / "in.mkv", codec="ffv1", pix_fmt="yuv444p", still=True)
    upscale_video(tiny, source, tmp_path / "out.mkv", video=LOSSLESS)
    out = rgb(tmp_path / "out.mkv")
    assert len(out) == 6 and (out == out[0]).all() and out[0].std() > 1000


@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov"])
def test_times_of_a_variable_rate_and_all_sounds(tiny, tmp_path, ending):
    times = [0, 40, 80, 200, 240, 300, 301, 400, 1000]
    source = make_clip(
        tmp_path / "in.mkv", times=times, time_base=Fraction(1, 1000), audio=("aac", "libopus")
    )
    made = upscale_video(tiny, source, tmp_path / f"out.{ending}")
    changed = [
        "its opus audio has no room in this format and became aac in stereo; .mkv would keep it"
    ]
    assert made.notes == (changed if ending == "mov" else []) and seconds_of(
        tmp_path / f"out.{ending}"
    ) == [t / 1000 for t in times]
    for before, after in zip(sounds_of(source), sounds_of(tmp_path / f"out.{ending}"), strict=True):
        assert before[1] == after[1] or ending == "mov"  # which knows fewer languages
        if ending == "mov" and before[0] == "opus":
            assert after[0] == "aac" and abs(len(after[2]) / len(before[2]) - 1) < 0.2
            continue
        assert before[0] == after[0]
        assert [data for _, data in before[2]] == [data for _, data in after[2]]
        assert np.allclose([t for t, _ in before[2]], [t for t, _ in after[2]], atol=0.002)


def test_frames_that_are_coded_out_of_order(tiny, tmp_path):
    """B-frames over the borders of segments, whose intervals differ: times of decoding must grow
    all the same.
    """
    times = [n * 512 for n in range(6)] + [3072 + n * 2048 for n in range(6)]
    source, target = make_clip(tmp_path / "in.mp4", times=times), tmp_path / "out.mp4"
    upscale_video(tiny, source, target, video=VideoOptions(codec="h265"))
    with av.open(str(target)) as container:
        packets = [(p.dts, p.pts) for p in container.demux(video=0) if p.size]
    assert all(b > a for (a, _), (b, _) in itertools.pairwise(packets))
    # or this would test nothing
    assert [pts for _, pts in packets] != sorted(pts for _, pts in packets)
    assert seconds_of(target) == [t / 12800 for t in times]


def test_sound_that_has_no_room_is_coded_anew(tiny, tmp_path):
    source = make_clip(tmp_path / "in.mp4", audio=("aac",))
    made = upscale_video(tiny, source, tmp_path / "out.webm")
    [(codec, _, packets)] = sounds_of(tmp_path / "out.webm")
    assert codec == "opus" and len(packets) > 8 and made.codec == "vp9"
    assert made.notes == [
        "its aac audio has no room in this format and became opus in stereo; .mkv would keep it"
    ]
    upscale_video(tiny, source, tmp_path / "mute.mp4", video=VideoOptions(audio=False))
    assert sounds_of(tmp_path / "mute.mp4") == []


def test_ten_bits_colours_and_aspect(tiny, tmp_path):
    colors = (1, 9, 9, 16)  # limited BT.2020 PQ
    source = make_clip(
        tmp_path / "in.mp4",
        codec="libx265",
        pix_fmt="yuv420p10le",
        colors=colors,
        sar=Fraction(3, 2),
        options={"x265-params": "log-level=error"},
    )
    made = upscale_video(tiny, source, tmp_path / "out.mp4")
    frames, (sar, primaries, transfer, codec) = frames_of(tmp_path / "out.mp4")
    assert made.codec == "h265" and codec == "hevc" and frames[0].format.name == "yuv420p10le"
    assert (int(frames[0].color_range), int(frames[0].colorspace), primaries, transfer) == colors
    assert sar == Fraction(3, 2)
    upscale_video(tiny, source, tmp_path / "eight.mp4", video=VideoOptions(bits=8))
    assert frames_of(tmp_path / "eight.mp4")[0][0].format.name == "yuv420p"
    noted = upscale_video(
        tiny, source, tmp_path / "noted.mkv", video=VideoOptions(codec="vp9")
    ).notes
    assert noted == [
        "vp9 holds 8 bits a channel here; 10 came in",
        "its pixels are 3:2, which vp9 in .mkv cannot say: they become square",
    ]
    assert frames_of(tmp_path / "noted.mkv")[0][0].width == 384


@pytest.mark.parametrize(
    ("colors", "kept"), [((2, 1, 1, 1), (2, 1)), ((1, 5, 5, 6), (1, 5)), (None, (1, 6))]
)
def test_ranges_and_matrices_go_through(tiny, tmp_path, colors, kept):
    """The mean colour shows a wrong matrix or range.

    Small and untagged means BT.601; the result says so.
    """
    source = make_clip(tmp_path / "in.mp4", colors=colors)
    upscale_video(tiny, source, tmp_path / "out.mp4", video=VideoOptions(crf=1))
    frame = frames_of(tmp_path / "out.mp4")[0][0]
    assert (int(frame.color_range), int(frame.colorspace)) == kept
    means = [rgb(path).mean((0, 1, 2)) / 257 for path in (source, tmp_path / "out.mp4")]
    assert np.abs(means[0] - means[1]).max() < 1.6


def test_turned_clips_become_upright(tiny, tmp_path):
    plain = make_clip(tmp_path / "plain.mp4")
    if not hasattr(av.open(str(plain)).streams.video[0], "set_display_rotation"):
        pytest.skip("this av cannot write turned clips")
    frames = rgb(plain)
    for turn in (90, 180, 270):
        source = make_clip(tmp_path / f"{turn}.mp4", turn=turn, sar=Fraction(4, 3))
        clip = look_through(source)
        assert (clip.width, clip.height) == ((64, 48) if turn == 180 else (48, 64))
        assert clip.sar == (Fraction(4, 3) if turn == 180 else Fraction(3, 4))
        assert (rgb(source) == np.rot90(frames, turn // 90, (1, 2))).all()
    upscale_video(tiny, tmp_path / "90.mp4", tmp_path / "out.mp4")
    frame = frames_of(tmp_path / "out.mp4")[0][0]
    assert (frame.width, frame.height, frame.rotation) == (192, 256, 0)


def test_fields_become_frames(tmp_path):
    """Even and odd rows are moments apart, so that neighbours differ; afterwards they are of one
    moment.
    """
    source = make_clip(tmp_path / "in.mp4", count=8, fields=True, options={"x264-params": "tff=1"})
    clip = look_through(source)
    assert clip.interlaced and clip.count == 8

    def combed(frames: np.ndarray) -> float:
        return float(np.abs(frames[:, 1:-1] - (frames[:, :-2] + frames[:, 2:]) / 2).mean())

    out = rgb(source)
    clip.interlaced = False
    raw = np.stack(list(read_frames(clip, range(clip.count)))).astype(int)
    assert out.shape == (8, 48, 64, 3) and combed(out) < combed(raw) / 4


def test_odd_sizes_metadata_and_any_scale(tiny, tmp_path):
    source = make_clip(tmp_path / "in.mp4", metadata={"title": "Ein Tag", "artist": "we"})
    made = upscale_video(tiny, source, tmp_path / "out.mp4", target_size=1.53)  # 98x73
    assert made.size == (98, 72) and made.notes == [
        "98x73 becomes 98x72: h264 has no room for an odd row or column"
    ]
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.metadata["title"] == "Ein Tag" and container.metadata["artist"] == "we"
        assert (
            "PatchScaler" in container.metadata["comment"]
            and "Seed 0" in container.metadata["comment"]
        )
    upscale_video(tiny, source, tmp_path / "bare.mp4", video=VideoOptions(provenance=False))
    with av.open(str(tmp_path / "bare.mp4")) as container:
        assert "comment" not in container.metadata


def test_odd_sizes_stay_where_colours_have_room_for_them(tiny, tmp_path):
    source, wide = make_clip(tmp_path / "in.mp4"), TargetSize(width=59)
    # 59x44
    made = upscale_video(tiny, source, tmp_path / "out.mkv", target_size=wide, video=LOSSLESS)
    assert made.size == (59, 44) and made.notes == []
    made = upscale_video(
        tiny,
        source,
        tmp_path / "tall.mov",
        target_size=TargetSize(height=43),
        video=VideoOptions("prores"),
    )
    assert made.size == (56, 43) and made.notes == [
        "57x43 becomes 56x43: prores has no room for an odd row or column"
    ]
    assert frames_of(tmp_path / "tall.mov")[0][0].height == 43
    clip, out = look_through(source), rgb(tmp_path / "out.mkv")
    for array, result in zip(read_frames(clip, range(clip.count)), out, strict=True):
        difference = np.abs(upscale_to_size(tiny, array, wide).array.astype(int) - result) / 257
        assert difference.mean() < 0.8


def test_packed_frames_come_back():
    rng = np.random.default_rng(0)
    array = rng.integers(0, 65536, (46, 70, 3)).astype(np.uint16)
    for name in ("yuv420p", "yuv420p10le", "yuv422p10le", "yuv444p", "yuv444p10le"):
        numbers = pack(to_frame(array, name, Colors(1, 1, 2, 2)))
        assert (pack(unpack(numbers, 70, 46, name)) == numbers).all() and numbers.std() > 10


# --- killed and stopped ---------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 3, 4, 6, 9])
def test_a_stopped_run_goes_on_and_gives_the_same_file(tiny, tmp_path, stop):
    source = make_clip(tmp_path / "in.mp4", count=9, audio=("aac",))

    def watch(stage: str, done: int, total: int) -> None:
        if stage == "frames" and done == stop:
            raise KeyboardInterrupt

    upscale_video(tiny, source, tmp_path / "whole.mp4")
    target = tmp_path / "out.mp4"
    with pytest.raises(
        KeyboardInterrupt, match=f"{stop} of 9 frames are done; the same command goes on"
    ):
        upscale_video(tiny, source, target, watch=watch)
    assert not target.exists() and len(left(tmp_path)) == 3
    made = upscale_video(tiny, source, target)
    assert made.made_now == 9 - stop and left(tmp_path) == ["in.mp4", "out.mp4", "whole.mp4"]
    assert target.read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_a_killed_command_goes_on(upscale, model_folder, tmp_path, capsys):
    source, target = make_clip(tmp_path / "in.mp4", count=24, size=(64, 64)), tmp_path / "out.mp4"
    command = [
        sys.executable,
        "-m",
        "patchscaler",
        "upscale",
        source,
        "-o",
        target,
        "--model",
        model_folder,
        "--dtype",
        "float32",
        "--device",
        "cpu",
    ]
    # As many threads as here: sums of floats depend on how they are split.
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([str(a) for a in command], stdout=subprocess.PIPE, env=environment)
    for _ in range(600):
        if list(tmp_path.glob(".out.mp4*/frame*3.npy")) or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not target.exists()
    assert upscale(source, "-o", target) == 0
    said = capsys.readouterr().out
    assert "24 frames (" in said and "by an earlier run), 64x64 -> 256x256, h264" in said
    assert upscale(source, "-o", tmp_path / "whole.mp4") == 0 and left(tmp_path) == [
        "in.mp4",
        "out.mp4",
        "whole.mp4",
    ]
    assert target.read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_other_options_begin_anew_and_say_so(tiny, tmp_path):
    source, target = make_clip(tmp_path / "in.mp4"), tmp_path / "out.mp4"

    def stop(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upscale_video(tiny, source, target, watch=stop)
    made = upscale_video(tiny, source, target, seed=1)
    assert made.made_now == 6 and "an unfinished video of other options lies in" in made.notes[0]


def test_sizes_that_become_the_same_are_not_the_same_work(tiny, tmp_path):
    source, target = make_clip(tmp_path / "in.mp4"), tmp_path / "out.mp4"

    def stop(stage: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upscale_video(tiny, source, target, target_size=TargetSize(width=59), watch=stop)
    made = upscale_video(tiny, source, target, target_size=TargetSize(width=58))
    assert (
        made.size == (58, 44)
        and made.made_now == 6
        and "of other options lies in" in made.notes[-1]
    )
    upscale_video(tiny, source, tmp_path / "whole.mp4", target_size=TargetSize(width=58))
    assert target.read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_two_runs_of_one_video_and_one_that_stops_before_the_first_frame(
    tiny, tmp_path, monkeypatch
):
    source, target = make_clip(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    keys = []
    monkeypatch.setattr(JobFolder, "__init__", _remembered(keys, JobFolder.__init__))

    def watch(stage: str, done: int, total: int) -> None:
        with pytest.raises(PatchScalerError, match="another run is making"):
            JobFolder(target, keys[0], {})

    upscale_video(tiny, source, target, watch=watch)
    monkeypatch.setattr(job, "read_frames", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        upscale_video(tiny, source, tmp_path / "other.mp4")
    assert left(tmp_path) == ["in.mp4", "out.mp4"]


def _remembered(keys, original):
    def init(self, target, key, about, every=10.0):
        keys.append(key)
        original(self, target, key, about, every)

    return init


def _interrupted(*arguments, **options):
    raise KeyboardInterrupt
