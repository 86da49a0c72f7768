"""`patchscaler upscale` of single images: names, options, reports, what it refuses."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def failing(command, photo, capsys):
    """`failing(*arguments)` -> the one line on standard error; nothing is written."""

    def run(*arguments: object) -> str:
        before = left(photo.parent)
        assert command(*arguments) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        assert left(photo.parent) == before
        return error

    return run


# --- names ----------------------------------------------------------------------------------------


def test_the_default_name_lies_beside_the_input(command, photo, capsys):
    assert command(photo) == 0
    assert Image.open(photo.with_name("photo_x4.png")).size == (384, 256)
    assert capsys.readouterr().out.startswith(f"{photo.with_name('photo_x4.png')}: 96x64 -> ")


@pytest.mark.parametrize(
    ("options", "name", "size"),
    [
        (["--scale", "2"], "photo_x2.png", (192, 128)),
        (["--size", "48x"], "photo_w48.png", (48, 32)),
        (["--size", "x128"], "photo_h128.png", (192, 128)),
        (["--size", "90x90"], "photo_90x90.png", (90, 60)),
        (["--size", ".024576mp"], "photo_0.024576mp.png", (192, 128)),
        (["--suffix=-big"], "photo-big.png", (384, 256)),
        (["--format", "webp"], "photo_x4.webp", (384, 256)),
    ],
)
def test_names_tell_the_size(command, photo, options, name, size):
    assert command(photo, *options, "-q") == 0
    assert Image.open(photo.with_name(name)).size == size


@pytest.mark.parametrize(
    ("named", "kind", "mode", "result"),
    [
        ("a.jpg", "PNG", "RGBA", "a_x4.png"),
        ("a.jfif", "JPEG", "RGB", "a_x4.jfif"),
        ("a.jpe", "JPEG", "RGB", "a_x4.jpe"),
        ("a", "PNG", "RGB", "a_x4.png"),
        ("a.png", "JPEG", "RGB", "a_x4.jpg"),
        ("a.gif", "GIF", "P", "a_x4.png"),
    ],
)
def test_the_content_decides_the_format(command, photo, named, kind, mode, result):
    source = photo.with_name(named)
    Image.open(photo).crop((0, 0, 32, 32)).convert(mode).save(source, kind)
    assert command(source, "-q") == 0
    assert Image.open(source.with_name(result)).size == (128, 128)


def test_an_input_is_never_an_output(command, photo):
    first = photo.with_name("photo_x4.png")
    shutil.copy(photo, first)
    before = first.read_bytes()
    assert command(photo, first, "-q") == 0
    assert first.read_bytes() == before
    expected = ["photo.png", "photo_png_x4.png", "photo_x4.png", "photo_x4_x4.png"]
    assert left(photo.parent) == expected


def test_a_camera_pair_has_two_outputs(command, photo):
    Image.open(photo).save(photo.with_suffix(".jpg"))
    out = photo.with_name("out")
    pair = (photo, photo.with_suffix(".jpg"))
    assert command(*pair, "-o", out, "-q") == 0
    assert left(out) == ["photo_x4.jpg", "photo_x4.png"]
    assert command(*pair, "-o", out, "--format", "webp", "-q") == 0
    assert left(out)[:2] == ["photo_jpg_x4.webp", "photo_png_x4.webp"]


def test_two_inputs_of_one_name_fail_alone(command, photo, capsys):
    twin = photo.parent / "sub" / "photo.png"
    twin.parent.mkdir()
    shutil.copy(photo, twin)
    out = photo.with_name("out")
    assert command(photo, twin, "-o", out) == 1
    assert f"{twin}: another input is written to" in capsys.readouterr().err
    assert len(left(out)) == 1


def test_a_bad_input_does_not_stop_the_others(command, photo, capsys):
    photo.with_name("bad.png").write_bytes(b"not an image")
    Image.open(photo).save(photo.with_name("second.jpg"))
    inputs = [photo, photo.with_name("bad.png"), photo.with_name("second.jpg")]
    out = photo.with_name("out")
    assert command(*inputs, "-o", out) == 1
    assert left(out) == ["photo_x4.png", "second_x4.jpg"]
    said = capsys.readouterr()
    assert "bad.png: " in said.err and "2 upscaled, 1 failed" in said.out


# --- what is refused, before any work -------------------------------------------------------------


def test_inputs_that_cannot_be_read(failing, photo):
    folder = photo.parent
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("hello")
    (folder / "cut.png").write_bytes(photo.read_bytes()[:-200])
    for name in ("missing.png", "empty.png", "text.png", "cut.png"):
        assert f"{folder / name}: " in failing(folder / name)
    assert f"{photo}: " in failing(photo, "--max-pixels", 100)


def test_outputs_that_cannot_be_written(failing, photo):
    folder = photo.parent
    assert "input" in failing(photo, "-o", photo)
    assert ".xyz" in failing(photo, "-o", folder / "o.xyz")
    assert "o.png" in failing(photo, "-o", photo / "o.png")
    assert "leave --format out" in failing(photo, "-o", folder / "o.png", "--format", "jpg")
    Image.new("RGBA", (32, 32), (255, 0, 0, 128)).save(folder / "glass.png")
    assert "o.jpg" in failing(folder / "glass.png", "-o", folder / "o.jpg")


def test_a_write_protected_output_is_kept(upscale, photo, monkeypatch, capsys):
    out = photo.with_name("out.png")
    out.write_bytes(b"kept")
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != out and allowed(path, mode))
    assert upscale() == 1
    assert "out.png: is write-protected" in capsys.readouterr().err and out.read_bytes() == b"kept"


def test_names_of_reports_are_checked_too(failing, photo):
    folder = photo.parent
    assert "coarse.png" in failing(photo, "-o", folder / "coarse.png", "--report", folder)
    assert "photo.png" in failing(photo, "-o", folder / "o.png", "--report", photo)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--scale", "2", "--size", "12mp"], "--size"),
        (["--size", "12z"], "12z"),
        (["--device", "tpu"], "tpu"),
        (["--dtype", "int3"], "int3"),
        (["--engine", "steam"], "steam"),
        (["--steps", "1,2"], "--steps"),
        (["--thresholds", "a,b"], "--thresholds"),
        (["--shares", "0,0", "--thresholds", "1,1"], "--shares"),
        (["--overlap", "16"], "overlap"),
        (["--memory", "no.safetensors"], "no.safetensors"),
        (["--fidelity-mask", "no.png"], "no.png"),
        (["--suffix", "a/b"], "--suffix"),
        (["--recursive"], "--recursive"),
        (["--onto", "out.png"], "--fidelity-mask"),
        (["--format", "xyz"], "xyz"),
    ],
)
def test_options_that_cannot_be(failing, photo, options, named):
    assert named in failing(photo, *options)


# --- options --------------------------------------------------------------------------------------


def test_the_seed_decides(upscale, photo):
    for name, seed in (("a.png", 1), ("b.png", 1), ("c.png", 2)):
        assert upscale("-q", "--budget", 1, "--seed", seed, out=name) == 0
    first, again, other = (pixels(photo.with_name(name)) for name in ("a.png", "b.png", "c.png"))
    assert np.array_equal(first, again) and (first != other).any()


def test_the_budget_decides_the_groups(upscale, capsys):
    assert upscale("--budget", 0) == 0
    assert " 0 medium, 0 hard" in capsys.readouterr().out
    assert upscale("--budget", 1) == 0
    assert " 0 simple, 0 medium, 15 hard" in capsys.readouterr().out


def test_group_sampling_is_for_experts(upscale, capsys):
    sampling = ["--thresholds", "1,1", "--steps", "1,2,3", "--start-times", "100,200,300"]
    assert upscale(*sampling) == 0
    assert " 0 simple, 0 medium, 15 hard" in capsys.readouterr().out
    assert upscale("--shares", "1,1") == 0
    assert " 15 simple, 0 medium, 0 hard" in capsys.readouterr().out


@pytest.mark.parametrize("tile", [0, 64])
def test_a_report_has_maps_and_numbers(upscale, photo, tile):
    rep = photo.with_name("rep")
    assert upscale("--report", rep, "--tile", tile, "-q") == 0
    expected = ["coarse.png", "confidence.png", "deviation.png", "groups.png", "run.json"]
    assert left(rep) == expected
    record = json.loads((rep / "run.json").read_text())
    assert record["output_size"] == [384, 256] and sum(record["patches"].values()) == 15
    assert len(record["scores"]) == 15 and record["gmac"] <= record["gmac_uniform"]
    assert Image.open(rep / "coarse.png").size == (384, 256)


def test_tiles_do_not_show(upscale, photo):
    assert upscale("-q") == 0 and upscale("--tile", 64, "-q", out="tiles.png") == 0
    difference = np.abs(pixels(photo.with_name("out.png")) - pixels(photo.with_name("tiles.png")))
    assert difference.max() <= 1


def test_a_dry_run_writes_nothing(upscale, photo, capsys):
    assert upscale("--dry-run", "--scale", 8) == 0
    said = capsys.readouterr().out
    assert "96x64 -> 768x512" in said and "1 images, 0.01 -> 0.39 megapixels" in said
    assert left(photo.parent) == ["photo.png"]


def test_quiet_prints_nothing(upscale, capsys):
    assert upscale("-q") == 0
    said = capsys.readouterr()
    assert said.out == said.err == ""


def test_colors_and_bits_are_those_of_the_input(command, photo):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.open(photo).save(photo, icc_profile=profile)
    assert command(photo, "-q") == 0
    assert Image.open(photo.with_name("photo_x4.png")).info["icc_profile"] == profile
    deep = np.linspace(0, 65535, 64 * 96).reshape(64, 96).astype(np.uint16)
    Image.fromarray(deep).save(photo)
    assert command(photo, "-q") == 0
    assert Image.open(photo.with_name("photo_x4.png")).mode == "I;16"
    assert command(photo, "-q", "--bits", 8) == 0
    assert Image.open(photo.with_name("photo_x4.png")).mode == "L"


def test_an_animation_keeps_its_frames(command, photo, picture, capsys):
    frames = [picture(32, 40, seed) for seed in range(3)]
    moving = photo.with_name("moving.gif")
    frames[0].save(moving, save_all=True, append_images=frames[1:], duration=40)
    assert command(moving) == 0
    with Image.open(photo.with_name("moving_x4.gif")) as image:
        assert image.size == (160, 128) and image.n_frames == 3
