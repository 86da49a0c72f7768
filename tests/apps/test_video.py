"""Videos: what is kept of them, and what a killed run continues with."""

import itertools
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import frames_of, make_clip, seconds_of, sounds_of

from patchscaler.apps import video
from patchscaler.apps.video import VideoOutput, probe_video, upscale_video
from patchscaler.apps.video.clip import read_frames
from patchscaler.errors import PatchScalerError
from patchscaler.progress import Progress


@pytest.fixture(autouse=True)
def short_segments(monkeypatch):
    monkeypatch.setattr(video, "SEGMENT", 4)
    monkeypatch.setattr(video, "BATCH_FRAMES", (2, 1))


def rgb(path: Path) -> np.ndarray:
    """(n, h, w, 3) signed, of all frames."""
    return np.stack(list(read_frames(probe_video(path)))).astype(int)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def stop_after(count: int):
    """A callback that interrupts behind this number of frames."""

    def callback(progress: Progress) -> None:
        if progress.done == count:
            raise KeyboardInterrupt

    return callback


# --- frames ---------------------------------------------------------------------------------------


def test_every_frame_is_what_the_pipeline_makes_of_it(tiny, tmp_path):
    source = make_clip(tmp_path / "in.mp4")
    output = upscale_video(tiny, source, tmp_path / "out.mkv", codec="ffv1")
    assert (output.size, output.frames, output.resumed) == ((256, 192), 6, 0) and output.nfe > 0
    for frame, found in zip(
        read_frames(probe_video(source)), rgb(tmp_path / "out.mkv"), strict=True
    ):
        difference = np.abs(tiny(frame).array.astype(int) - found) / 257
        # grey levels: 8 bits of YUV
        assert difference.mean() < 0.8 and np.percentile(difference, 99) < 2.5


def test_a_still_scene_stays_still(tiny, tmp_path):
    source = make_clip(tmp_path / "in.mkv", codec="ffv1", pix_fmt="yuv444p", still=True)
    upscale_video(tiny, source, tmp_path / "out.mkv", codec="ffv1")
    found = rgb(tmp_path / "out.mkv")
    assert len(found) == 6 and (found == found[0]).all() and found[0].std() > 1000


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("out.mp4", {"scale": 1.53}, (98, 72)),  # 98x73, of which H.264 holds even rows
        ("out.mkv", {"size": "59x", "codec": "ffv1"}, (59, 44)),
        ("out.mov", {"size": "x43", "codec": "prores"}, (56, 43)),  # 57x43
    ],
)
def test_any_size(tiny, tmp_path, name, options, size):
    source = make_clip(tmp_path / "in.mp4")
    output = upscale_video(tiny, source, tmp_path / name, **options)
    frame = frames_of(tmp_path / name)[0][0]
    assert output.size == (frame.width, frame.height) == size
    assert len(output.warnings) == (size != (59, 44))


def test_progress_counts_frames(tiny, tmp_path):
    found: list[Progress] = []
    source = make_clip(tmp_path / "in.mp4")
    upscale_video(tiny, source, tmp_path / "out.mp4", callback=found.append)
    assert [(p.stage, p.done, p.total) for p in found] == [("frames", n, 6) for n in range(1, 7)]
    assert found[-1].eta == 0 and all(p.eta >= 0 for p in found)


# --- time and sound -------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_rates_and_all_sounds_are_kept(tiny, tmp_path, suffix):
    times, target = [0, 40, 80, 200, 240, 300, 301, 400, 1000], tmp_path / f"out.{suffix}"
    source = make_clip(
        tmp_path / "in.mkv", times=times, time_base=Fraction(1, 1000), audio=("aac", "libopus")
    )
    output = upscale_video(tiny, source, target)
    assert output.warnings == [] and seconds_of(target) == [t / 1000 for t in times]
    for before, after in zip(sounds_of(source), sounds_of(target), strict=True):
        assert before[:2] == after[:2]  # codec and language
        assert [data for _, data in before[2]] == [data for _, data in after[2]]
        assert np.allclose([t for t, _ in before[2]], [t for t, _ in after[2]], atol=0.002)


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_times_of_decoding_grow_over_segments(tiny, tmp_path, codec):
    """With frames that are coded out of order, and intervals that differ."""
    times = [n * 512 for n in range(6)] + [3072 + n * 2048 for n in range(6)]
    source, target = make_clip(tmp_path / "in.mp4", times=times), tmp_path / "out.mp4"
    upscale_video(tiny, source, target, codec=codec)
    with av.open(str(target)) as container:
        packets = [(p.dts, p.pts) for p in container.demux(video=0) if p.size]
    assert all(b > a for (a, _), (b, _) in itertools.pairwise(packets))
    assert [pts for _, pts in packets] != sorted(pts for _, pts in packets)
    assert seconds_of(target) == [t / 12800 for t in times]


def test_sound_that_has_no_room_is_refused_before_the_work(tiny, tmp_path):
    source = make_clip(tmp_path / "in.mp4", audio=("aac",))
    with pytest.raises(PatchScalerError, match=r"out\.webm: cannot hold its sound \(aac\)"):
        upscale_video(tiny, source, tmp_path / "out.webm")
    assert names(tmp_path) == ["in.mp4"]
    upscale_video(tiny, source, tmp_path / "out.webm", audio=False)
    assert sounds_of(tmp_path / "out.webm") == []


def test_metadata_is_kept_and_the_program_noted(tiny, tmp_path):
    source = make_clip(tmp_path / "in.mp4", metadata={"title": "Ein Tag", "artist": "we"})
    for provenance in (True, False):
        upscale_video(tiny, source, tmp_path / "out.mp4", provenance=provenance)
        with av.open(str(tmp_path / "out.mp4")) as container:
            kept = container.metadata
        assert (kept["title"], kept["artist"]) == ("Ein Tag", "we")
        assert ("PatchScaler" in kept.get("comment", "")) == provenance


# --- colors, depth, orientation -------------------------------------------------------------------


def test_ten_bits_stay_ten_bits(tiny, tmp_path):
    options = {"x265-params": "log-level=error"}
    source = make_clip(tmp_path / "in.mp4", codec="libx265", pix_fmt="yuv420p10le", options=options)
    for bits, codec, pix_fmt in ((None, "hevc", "yuv420p10le"), (8, "h264", "yuv420p")):
        upscale_video(tiny, source, tmp_path / "out.mp4", bits=bits)
        frames, about = frames_of(tmp_path / "out.mp4")
        assert (about[3], frames[0].format.name) == (codec, pix_fmt)


@pytest.mark.parametrize(
    ("colors", "kept"), [((2, 1, 1, 1), (2, 1)), ((1, 5, 5, 6), (1, 5)), (None, (1, 6))]
)
def test_range_and_matrix_are_kept(tiny, tmp_path, colors, kept):
    """The mean color would show a wrong one. Small and untagged is BT.601, and tagged so."""
    source = make_clip(tmp_path / "in.mp4", colors=colors)
    upscale_video(tiny, source, tmp_path / "out.mp4", crf=1)
    frame = frames_of(tmp_path / "out.mp4")[0][0]
    assert (int(frame.color_range), int(frame.colorspace)) == kept
    means = [rgb(path).mean((0, 1, 2)) / 257 for path in (source, tmp_path / "out.mp4")]
    assert np.abs(means[0] - means[1]).max() < 1.6


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused(tmp_path, transfer, name):
    source = make_clip(
        tmp_path / "in.mp4",
        codec="libx265",
        pix_fmt="yuv420p10le",
        colors=(1, 9, 9, transfer),
        options={"x265-params": "log-level=error"},
    )
    with pytest.raises(PatchScalerError, match=rf"in\.mp4: is in HDR \({name}\).* Hint: "):
        probe_video(source)


def test_pixels_become_square(tiny, tmp_path):
    source = make_clip(tmp_path / "in.mp4", sar=Fraction(3, 2))
    output = upscale_video(tiny, source, tmp_path / "out.mp4", scale=2)
    assert output.size == (192, 96) and output.warnings == ["pixels of 3:2 become square"]
    assert frames_of(tmp_path / "out.mp4")[1][0] in (None, 0, 1)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_rotated_clips_become_upright(tmp_path, turn):
    frames = rgb(make_clip(tmp_path / "plain.mp4"))
    source = make_clip(tmp_path / "in.mp4", turn=turn, sar=Fraction(4, 3))
    clip = probe_video(source)
    assert (clip.width, clip.height) == ((85, 48) if turn == 180 else (36, 64))
    assert (rgb(source) == np.rot90(frames, turn // 90, (1, 2))).all()


def test_mirrored_clips_become_upright(tmp_path):
    frames = rgb(make_clip(tmp_path / "plain.mp4"))
    for flip, expected in (("h", frames[:, :, ::-1]), ("v", frames[:, ::-1])):
        source = make_clip(tmp_path / f"{flip}.mp4", flip=flip)
        assert (rgb(source) == expected).all()


def test_the_output_needs_no_rotation(tiny, tmp_path):
    source = make_clip(tmp_path / "in.mp4", turn=90)
    upscale_video(tiny, source, tmp_path / "out.mp4")
    frame = frames_of(tmp_path / "out.mp4")[0][0]
    assert (frame.width, frame.height, frame.rotation) == (192, 256, 0)


def test_interlaced_frames_become_progressive(tmp_path):
    """Even and odd rows are moments apart; afterwards they are of one moment."""
    source = make_clip(tmp_path / "in.mp4", count=8, fields=True, options={"x264-params": "tff=1"})
    clip = probe_video(source)
    assert clip.interlaced and clip.count == 8

    def combing(frames: np.ndarray) -> float:
        return float(np.abs(frames[:, 1:-1] - (frames[:, :-2] + frames[:, 2:]) / 2).mean())

    found = rgb(source)
    clip.interlaced = False
    raw = np.stack(list(read_frames(clip))).astype(int)
    assert found.shape == (8, 48, 64, 3) and combing(found) < combing(raw) / 4


# --- killed and stopped ---------------------------------------------------------------------------


@pytest.mark.parametrize(("stop", "kept"), [(5, 4), (8, 4), (9, 8)])
def test_a_stopped_run_continues_behind_its_last_segment(tiny, tmp_path, stop, kept):
    source = make_clip(tmp_path / "in.mp4", count=9, audio=("aac",))
    whole, target = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    upscale_video(tiny, source, whole)
    with pytest.raises(KeyboardInterrupt, match=f"{kept} of 9 frames are done"):
        upscale_video(tiny, source, target, callback=stop_after(stop))
    assert not target.exists() and len(names(tmp_path)) == 3
    output = upscale_video(tiny, source, target)
    assert output.resumed == kept and names(tmp_path) == ["in.mp4", "out.mp4", "whole.mp4"]
    assert target.read_bytes() == whole.read_bytes()


def test_a_run_that_stops_before_its_first_segment_leaves_nothing(tiny, tmp_path):
    source = make_clip(tmp_path / "in.mp4")
    with pytest.raises(KeyboardInterrupt):
        upscale_video(tiny, source, tmp_path / "out.mp4", callback=stop_after(3))
    assert names(tmp_path) == ["in.mp4"]


def test_other_options_do_not_continue_an_earlier_run(tiny, tmp_path):
    source, target = make_clip(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    with pytest.raises(KeyboardInterrupt):
        upscale_video(tiny, source, target, size="59x", callback=stop_after(5))
    output = upscale_video(tiny, source, target, size="58x")
    assert isinstance(output, VideoOutput) and (output.resumed, output.size) == (0, (58, 44))


def test_two_runs_of_one_video_are_refused(tiny, tmp_path, monkeypatch):
    source, target = make_clip(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    refused = []

    def callback(progress: Progress) -> None:
        if progress.done == 1:
            with pytest.raises(PatchScalerError, match=re.escape(str(target))) as caught:
                upscale_video(tiny, source, target)
            refused.append(caught)

    upscale_video(tiny, source, target, callback=callback)
    assert len(refused) == 1 and not list(tmp_path.glob(".*"))
