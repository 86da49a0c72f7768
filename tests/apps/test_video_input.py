"""Videos that are refused before any work, each with one line."""

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import make_clip
from PIL import Image

from patchscaler.apps.video import make_plan, probe_video, upscale_video
from patchscaler.errors import PatchScalerError


def damaged(folder: Path, kind: str) -> Path:
    """A file that is named like a video, and is none, or not all of one."""
    path, whole = folder / "bad.mkv", folder / "whole.mkv"
    if kind in ("half", "most", "head"):
        data = make_clip(whole, count=50, audio=("aac",)).read_bytes()
        share = {"half": len(data) // 2, "most": len(data) * 8 // 10, "head": 200}
        path.write_bytes(data[: share[kind]])
    elif kind == "index":  # MP4's lies at the end
        data = make_clip(folder / "whole.mp4").read_bytes()
        path.write_bytes(data[: len(data) // 2])
    elif kind == "image":
        Image.new("RGB", (64, 64)).save(path, "PNG")
    elif kind == "playlist":
        other = make_clip(folder / "other.mp4")
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{other}\n#EXT-X-ENDLIST\n")
    elif kind == "list":
        other = make_clip(folder / "other.mp4")
        path.write_text(f"ffconcat version 1.0\nfile {other.name}\n")
    elif kind == "sound":
        make_clip(whole, audio=("aac",))
        with av.open(str(whole)) as source, av.open(str(path), "w") as out:
            stream = out.add_stream_from_template(source.streams.audio[0])
            for packet in source.demux(audio=0):
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)
    else:
        path.write_bytes({"empty": b"", "noise": np.random.default_rng(0).bytes(5000)}[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("half", "cut off after [01]"),
        ("most", "cut off after 1"),
        ("head", "no |not a readable video"),
        ("index", "not a readable video"),
        ("image", "not a readable video"),
        ("playlist", "not a readable video"),
        ("list", "not a readable video"),
        ("sound", "no video stream"),
        ("empty", "not a readable video"),
        ("noise", "not a readable video"),
    ],
)
def test_what_is_no_whole_video_is_refused(tmp_path, kind, reason):
    path = damaged(tmp_path, kind)
    with pytest.raises(PatchScalerError, match=reason) as caught:
        probe_video(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.mp4"):
        with pytest.raises(PatchScalerError, match=r"is a folder|no such file"):
            probe_video(path)


def test_limits_of_pixels_and_frames(tmp_path):
    source = make_clip(tmp_path / "in.mp4")
    for limits in ({"max_pixels": 100}, {"max_frames": 5}):
        with pytest.raises(PatchScalerError, match=r"in\.mp4: "):
            probe_video(source, **limits)
    assert probe_video(source, max_pixels=64 * 48, max_frames=6).count == 6


def test_frames_that_change_their_size_are_refused(tmp_path):
    """As recordings of broadcasts have them."""
    path = tmp_path / "in.ts"
    with path.open("wb") as file:
        for size in ((64, 48), (96, 64)):
            part = tmp_path / "part.ts"
            make_clip(part, codec="mpeg2video", time_base=Fraction(1, 25), size=size, count=8)
            file.write(part.read_bytes())
    with pytest.raises(PatchScalerError, match="is 96x64, those before it 64x48"):
        probe_video(path)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("in.mp4", {}, "same file"),
        ("out.gif", {}, "cannot be written as '.gif'"),
        ("out.mp4", {"codec": "vp8"}, "choose one of h264, h265"),
        ("out.webm", {"codec": "h264"}, "h264 goes into .mp4"),
        ("out.mp4", {"crf": 99}, "crf 99: h264 takes 0"),
        ("out.mkv", {"codec": "ffv1", "crf": 3}, "crf 3: ffv1 takes no such number"),
        ("out.mp4", {"budget": 3.0}, "budget"),
        ("out.mp4", {"fidelity": -1.0}, "fidelity"),
        ("in.mp4/out.mp4", {}, "cannot write there"),
    ],
)
def test_options_that_do_not_fit_are_refused(tiny, tmp_path, name, options, reason):
    source = make_clip(tmp_path / "in.mp4")
    with pytest.raises(PatchScalerError, match=reason):
        upscale_video(tiny, source, tmp_path / name, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.parametrize(
    ("name", "size", "codec"),
    [
        ("a.mp4", (640, 480), "h264"),
        ("a.mp4", (8000, 400), "h265"),
        ("a.mkv", (640, 480), "h264"),
        ("a.webm", (640, 480), "av1"),
    ],
)
def test_the_default_codec_is_one_that_players_play(tmp_path, name, size, codec):
    clip = probe_video(make_clip(tmp_path / "in.mp4"))
    assert make_plan(clip, tmp_path / name, size).codec == codec


def test_quality_changes_the_size_of_the_file(tiny, tmp_path):
    source, sizes = make_clip(tmp_path / "in.mp4"), []
    for crf in (10, 40):
        upscale_video(tiny, source, tmp_path / "out.mp4", crf=crf)
        sizes.append((tmp_path / "out.mp4").stat().st_size)
    assert sizes[0] > 2 * sizes[1]


def test_missing_timestamps_become_even(tmp_path):
    source = make_clip(tmp_path / "in.avi", codec="mpeg4", time_base=Fraction(1, 25))
    clip = probe_video(source)
    steps = np.diff([time * clip.time_base for time in clip.times])
    assert set(steps) == {Fraction(1, 25)}


def test_a_file_that_changes_during_the_work_is_noticed(tiny, tmp_path):
    source = make_clip(tmp_path / "in.mp4")
    clip = probe_video(source)
    make_clip(source, count=4)
    with pytest.raises(PatchScalerError, match="4 frames in place of 6"):
        upscale_video(tiny, clip, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    source = make_clip(tmp_path / "in.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(PatchScalerError, match=r"pip install 'patchscaler\[video\]'"):
        probe_video(source)
