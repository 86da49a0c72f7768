"""What `patchscaler upscale` does with videos."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from patchscaler.apps.cli import video
from patchscaler.apps.video import probe_video
from patchscaler.errors import PatchScalerError


def arguments(*inputs: object, **changes: Any) -> argparse.Namespace:
    """Of the command, by default what it has without options."""
    values: dict[str, Any] = {"inputs": list(map(str, inputs)), "output": None, "json": False}
    values |= dict.fromkeys(["scale", "size", "suffix", "format", "bits", "codec", "crf"])
    values |= dict.fromkeys(["max_pixels", "max_frames", "quality", "report", "crop", "onto"])
    values |= dict.fromkeys(["videos", "no_audio", "no_provenance", "quiet", "tileable"], False)
    return argparse.Namespace(**(values | {"fidelity_mask": None} | changes))


@pytest.mark.parametrize(
    ("inputs", "changes"),
    [
        (["a.png"], {"codec": "h264"}),
        (["a.png"], {"crf": 0}),
        (["a.png"], {"no_audio": True}),
        (["a.mp4"], {"videos": True}),
        (["a.mp4"], {"quality": 90}),
        (["a.mp4"], {"tileable": True}),
        (["a.mp4"], {"report": "DIR"}),
    ],
)
def test_options_without_effect_are_refused(inputs, changes):
    with pytest.raises(PatchScalerError):
        video.check_options(arguments(*inputs, **changes))


def test_options_with_effect_are_taken(tmp_path):
    video.check_options(arguments("a.mp4", codec="h264", crf=0, no_audio=True))
    video.check_options(arguments("a.png", "b.MKV", crf=0))
    video.check_options(arguments(tmp_path, videos=True, codec="h264"))
    video.check_options(arguments("a.png", quality=90, tileable=True))


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("a.mp4", {}, "a_x4.mp4"),
        ("a.MOV", {"scale": 2.0}, "a_x2.mov"),
        ("a.avi", {}, "a_x4.mkv"),
        ("a.mp4", {"format": "webm", "suffix": ""}, "a.webm"),
        ("a.mp4", {"size": "x1080"}, "a_h1080.mp4"),
    ],
)
def test_outputs_are_named_like_their_inputs(name, changes, expected):
    assert video.name_of(Path(name), Path("out"), arguments(**changes)) == Path("out") / expected


def test_a_dry_run_describes_the_output_and_writes_nothing(clip, tmp_path):
    target = tmp_path / "out.mp4"
    text = video.describe(clip, target, arguments(clip, scale=1.5))
    assert text == f"{target}: 6 frames, 25/s, 64x48 -> 96x72, h264"
    assert not target.exists()


def test_a_video_and_a_line_about_it(tiny, clip, tmp_path, capsys):
    target = tmp_path / "out.mkv"
    options = {"seed": 3, "tileable": False, "fidelity_mask": None, "max_pixels": 10**6}
    video.upscale(tiny, clip, target, options, arguments(clip, scale=2.0, codec="ffv1"))
    out = capsys.readouterr().out
    assert out.startswith(f"{target}: 6 frames, 128x96, ffv1, ") and out.count("\n") == 1
    assert (probe_video(target).width, probe_video(target).height) == (128, 96)


def test_a_video_in_lines_of_json(tiny, clip, tmp_path, capsys):
    target = tmp_path / "out.mp4"
    video.upscale(tiny, clip, target, {}, arguments(clip, json=True))
    *_, done = map(json.loads, capsys.readouterr().out.splitlines())
    assert (done["event"], done["frames"], done["output_size"]) == ("done", 6, [256, 192])
