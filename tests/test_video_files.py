"""Videos and the command: what is refused before any work, folders, the cost told, and how much it
flickers.
"""

import json
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from clips import frames_of, make_clip
from common import left
from PIL import Image

from patchscaler.apps.cli import main
from patchscaler.apps.video import job
from patchscaler.apps.video.clip import look_through
from patchscaler.apps.video.job import VideoOptions, upscale_video
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.flicker import between, clips, measure_flicker


@pytest.fixture
def upscale(model_folder, capsys):
    """`upscale(*arguments)` -> exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        fixed = ["--model", model_folder, "--dtype", "float32", "--device", "cpu"]
        code = main([str(a) for a in ("upscale", *arguments, *fixed)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def damaged(folder: Path, kind: str) -> Path:
    """A file that is named like a video, and is none, or not all of one."""
    path = folder / "bad.mkv"
    if kind in ("half", "most", "head"):
        whole = make_clip(folder / "whole.mkv", count=50, audio=("aac",)).read_bytes()
        (folder / "whole.mkv").unlink()
        path.write_bytes(
            whole[: {"half": len(whole) // 2, "most": len(whole) * 8 // 10, "head": 200}[kind]]
        )
    elif kind == "index":  # MP4's lies at the end
        whole = make_clip(folder / "whole.mp4").read_bytes()
        (folder / "whole.mp4").unlink()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "picture":
        Image.new("RGB", (64, 64)).save(path, "PNG")
    elif kind == "playlist":
        other = make_clip(folder / "other.mp4")
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{other}\n#EXT-X-ENDLIST\n")
    elif kind == "list":
        other = make_clip(folder / "other.mp4")
        path.write_text(f"ffconcat version 1.0\nfile {other.name}\n")
    elif kind == "sound":
        make_clip(folder / "all.mkv", audio=("aac",))
        import av

        with av.open(str(folder / "all.mkv")) as source, av.open(str(path), "w") as out:
            stream = out.add_stream_from_template(source.streams.audio[0])
            for packet in source.demux(audio=0):
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)
        (folder / "all.mkv").unlink()
    else:
        path.write_bytes({"empty": b"", "noise": np.random.default_rng(0).bytes(5000)}[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("half", "cut off after 1|cut off after 0"),
        ("most", "damaged or cut off after 1"),
        ("head", "no |not a video"),
        ("index", "not a video that can be read"),
        ("picture", "not a video that can be read"),
        ("playlist", "not a video that can be read"),
        ("list", "not a video that can be read"),
        ("sound", "there is no video in it"),
        ("empty", "not a video that can be read"),
        ("noise", "not a video"),
    ],
)
def test_what_is_no_whole_video_is_refused_in_one_line(upscale, tmp_path, kind, reason):
    import re

    path = damaged(tmp_path, kind)
    before = left(tmp_path)
    code, _, said = upscale(path, "-o", tmp_path / "out.mp4")
    assert (
        code == 1
        and said.count("\n") == 1
        and said.startswith(f"patchscaler: {path}: ")
        and re.search(reason, said)
    )
    assert left(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("-o", "out.gif"), "cannot write videos as '.gif'; use one of .mp4"),
        (("--codec", "vp8"), "choose one of h264, h265"),
        (("-o", "out.webm", "--codec", "h264"), "h264 goes into .mp4, .m4v, .mov, .mkv"),
        (("--crf", "99"), "h264 takes 0 (best) to 51"),
        (("-o", "out.mkv", "--codec", "ffv1", "--crf", "3"), "ffv1 takes none"),
        (("--budget", "20s"), "a budget in seconds is for one picture"),
        (("--report", "r"), "videos go with none of --report"),
        (("--quality", "90"), "a video takes --crf N"),
        (("--max-frames", "3"), "has more frames than the limit of 3"),
        (("--max-pixels", "100"), "64x48 is more than the limit"),
        (("-o", "in.mp4"), "output and input are the same file"),
        (("-o", "in.mp4/out.mp4"), "cannot write there"),
        (("--format", "mkv", "--videos"), "--videos is for a folder"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    upscale, tmp_path, monkeypatch, arguments, reason
):
    monkeypatch.chdir(tmp_path)
    make_clip(Path("in.mp4"))
    code, _, said = upscale("in.mp4", *arguments)
    assert code == 1 and reason in said and said.count("\n") == 1 and left(tmp_path) == ["in.mp4"]


def test_frames_that_change_their_size(tmp_path):
    """As recordings of broadcasts do: refused, with the number of the frame."""
    path = tmp_path / "in.ts"
    with path.open("wb") as file:
        for size in ((64, 48), (96, 64)):
            file.write(
                make_clip(
                    tmp_path / "part.ts",
                    codec="mpeg2video",
                    time_base=Fraction(1, 25),
                    size=size,
                    count=8,
                ).read_bytes()
            )
    with pytest.raises(PatchScalerError, match="is 96x64, those before it 64x48"):
        look_through(path)


def test_without_av_there_is_one_clear_line(upscale, tmp_path, monkeypatch):
    source = make_clip(tmp_path / "in.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    code, _, said = upscale(source)
    assert code == 1 and said.strip().endswith(
        "needs the package av: pip install 'patchscaler[video]'"
    )


def test_a_full_disk_and_too_little_memory(tiny, tmp_path, monkeypatch):
    source = make_clip(tmp_path / "in.mp4")
    monkeypatch.setattr(job, "in_memory_bytes", lambda *size: 1 << 50)
    with pytest.raises(PatchScalerError, match="a frame of 64x48 takes about"):
        upscale_video(tiny, source, tmp_path / "out.mp4")
    monkeypatch.undo()
    monkeypatch.setattr(job, "COMPRESSED", 1e12)
    with pytest.raises(PatchScalerError, match="are free"):
        upscale_video(tiny, source, tmp_path / "out.mp4")
    assert left(tmp_path) == ["in.mp4"]


def test_a_file_that_changes_under_our_feet(tiny, tmp_path):
    source = make_clip(tmp_path / "in.mp4")
    clip = look_through(source)
    make_clip(source, count=4)
    with pytest.raises(PatchScalerError, match="4 frames where there were 6"):
        upscale_video(tiny, clip, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_the_cost_is_told(upscale, tmp_path):
    source = make_clip(tmp_path / "in.mp4", count=5)
    code, said, _ = upscale(source, "--dry-run")
    assert code == 0 and left(tmp_path) == ["in.mp4"]
    lines = said.splitlines()
    assert "5 frames, 0.20 s, 25 a second, 64x48 -> 256x192 as h264 (crf 18)" in lines[0]
    code, said, _ = upscale(source)
    assert code == 0 and "5 frames, 64x48 -> 256x192, h264" in said
    told, spent = lines[2].split(" in all")[0].split()[-1], said.split(" network")[0].split()[-1]
    assert abs(int(told) / int(spent) - 1) < 0.2


def test_names_formats_and_codecs(upscale, tmp_path):
    source = make_clip(tmp_path / "-ü in.avi", codec="mpeg4", time_base=Fraction(1, 25))
    assert upscale("-q", tmp_path / "-ü in.avi")[0] == 0
    assert upscale("-q", source, "--format", "mkv", "--codec", "av1", "--scale", "2")[0] == 0
    assert left(tmp_path) == ["-ü in.avi", "-ü in_x2.mkv", "-ü in_x4.mp4"]
    assert frames_of(tmp_path / "-ü in_x2.mkv")[1][3] in ("libdav1d", "av1")


def test_folders_take_videos_when_they_are_told_to(upscale, tmp_path, picture):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    picture(32, 40).save(source / "a.png")
    make_clip(source / "b.mp4")
    (source / "c.mp4").write_bytes(b"no video")
    code, said, _ = upscale(source, "-o", out, "--json")
    assert code == 0 and [Path(p["source"]).name for p in json.loads(said)["passed_over"]] == [
        "b.mp4",
        "c.mp4",
    ]
    code, said, _ = upscale(source, "-o", out, "--json", "--videos", "--codec", "h265")
    about = json.loads(said)
    assert code == 1 and [Path(d["target"]).name for d in about["done"]] == ["a_x4.png", "b_x4.mp4"]
    assert [Path(f["source"]).name for f in about["failed"]] == ["c.mp4"]
    code, said, _ = upscale(source, "-o", out, "--json", "--videos", "--codec", "h265")
    assert len(json.loads(said)["done_before"]) == 2


# --- flicker --------------------------------------------------------------------------------------


def test_flicker_of_clips_that_are_known(picture):
    image = picture(140, 160)
    made = {name: (frames, pan) for name, frames, pan in clips(image, 32, 3)}
    assert list(made) == ["still", "still, grain", "pan"] and made["pan"][1] == 1
    wide = [np.asarray(image).astype(float)[:128, n : n + 128] for n in range(3)]
    assert between(wide, 1) == 0 and between(wide, 0) > 1
    with pytest.raises(PatchScalerError, match="131x128 are needed"):
        list(clips(picture(64, 64), 32, 3))


def test_one_noise_for_all_frames_keeps_still_scenes_still(tiny, picture):
    rows = {
        (row.clip, row.method): row
        for row in measure_flicker(tiny, picture(140, 160), side=32, frames=2)
    }
    assert (
        rows["still", "patchscaler"].difference
        == 0
        < rows["still", "noise anew each frame"].difference
    )
    assert rows["pan", "bicubic"].over_bicubic == 0 and rows["pan", "patchscaler"].along > 0
    grain = rows["still, grain", "patchscaler"]
    assert grain.over_bicubic == pytest.approx(
        grain.difference - rows["still, grain", "bicubic"].difference
    )
    with pytest.raises(PatchScalerError, match="take 2 or more"):
        measure_flicker(tiny, picture(140, 160), frames=1)


def test_lossless_and_crf_are_what_they_say(tiny, tmp_path):
    source = make_clip(tmp_path / "in.mp4")
    sizes = []
    for crf in (10, 40):
        upscale_video(tiny, source, tmp_path / "out.mp4", video=VideoOptions(crf=crf))
        sizes.append((tmp_path / "out.mp4").stat().st_size)
    assert sizes[0] > 2 * sizes[1]
