"""Standard input and output as pipes, and streams that are closed, full or missing."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from patchscaler.apps.cli.streams import Surviving


@pytest.fixture
def shell(model_folder, tmp_path):
    """`shell(line)` -> the finished process; $P upscales with a small model."""

    def run(line: str, **options) -> subprocess.CompletedProcess[bytes]:
        python = f"{sys.executable} -m patchscaler upscale"
        fixed = f"--model {model_folder} --device cpu --dtype float32"
        script = f'P() {{ {python} "$@" {fixed}; }}\n{line}'
        return subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, capture_output=True, timeout=300, **options
        )

    return run


def test_standard_input_to_standard_output(shell, photo):
    done = shell("P - -o - --format webp --quality lossless < photo.png")
    assert done.returncode == 0, done.stderr
    image = Image.open(io.BytesIO(done.stdout))
    assert image.format == "WEBP" and image.size == (384, 256)
    assert b"-: 96x64 -> 384x256" in done.stderr
    assert os.listdir(photo.parent) == ["photo.png"]


def test_the_format_of_standard_output_is_that_of_the_input(shell, photo):
    done = shell("P photo.png -o - -q")
    assert Image.open(io.BytesIO(done.stdout)).format == "PNG" and not done.stderr


def test_standard_output_that_takes_no_more_is_an_error(shell, photo):
    done = shell("P photo.png -o - -q > /dev/full")
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1


def test_what_is_no_image_is_named(shell, photo):
    done = shell("echo hello | P - -o out.png")
    assert done.returncode == 1 and done.stderr.startswith(b"patchscaler: -: ")
    assert os.listdir(photo.parent) == ["photo.png"]


@pytest.mark.parametrize(
    "streams", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-", "> /dev/full", "2> /dev/full"]
)
def test_streams_that_are_closed_or_full_change_nothing(shell, photo, streams):
    assert shell(f"P photo.png -o out.png {streams}").returncode == 0
    assert Image.open(photo.with_name("out.png")).size == (384, 256)


@pytest.mark.parametrize("inputs", ["in", "in/*.png"])
def test_a_reader_that_leaves_stops_no_image(shell, photo, inputs):
    (photo.parent / "in").mkdir()
    for name in "abc":
        Image.open(photo).crop((0, 0, 32, 32)).save(photo.parent / "in" / f"{name}.png")
    done = shell(f"(P {inputs} -o out; echo $? > code) | head -1")
    assert photo.with_name("code").read_text() == "0\n" and not done.stderr
    assert len(list((photo.parent / "out").glob("*.png"))) == 3


def test_no_streams_at_all(photo, model_folder):
    """As under pythonw."""
    out = photo.with_name("out.png")
    arguments = ["upscale", str(photo), "-o", str(out), "--model", str(model_folder)]
    code = (
        "import sys; sys.stdin = sys.stdout = sys.stderr = None\n"
        f"from patchscaler.apps.cli import main; sys.exit(main({arguments}))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0
    assert out.exists()


def test_a_stream_that_fails_is_written_no_more():
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    stream = Surviving(Full())
    assert stream.write("a") == 1 and stream.lost
    stream.flush()


def test_lines_of_json(command, photo, capsys):
    (photo.parent / "bad.png").write_text("hello")
    out = photo.parent / "out"
    assert command(photo, photo.with_name("bad.png"), "-o", out, "--json") == 1
    said = capsys.readouterr()
    events = [json.loads(line) for line in said.out.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "error" and kinds[-1] == "summary" and "progress" in kinds
    [done] = [event for event in events if event["event"] == "done"]
    assert done["input"] == str(photo) and done["output"] == str(out / "photo_x4.png")
    assert done["input_size"] == [96, 64] and done["output_size"] == [384, 256]
    assert set(done["groups"]) == {"simple", "medium", "hard"}
    assert 0 < done["gmac"] <= done["gmac_uniform"] and done["seconds"]["total"] > 0
    assert done["warnings"] == [] and Path(events[0]["input"]).name == "bad.png"
    progress = [event for event in events if event["event"] == "progress"]
    assert all(event["done"] <= event["total"] and "eta" in event for event in progress)
