"""`--crop`, `--onto` and `--fidelity-mask`."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchscaler.errors import PatchScalerError


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


@pytest.fixture
def mask(photo):
    """`mask(box)` -> a white mask, black in (left, top, right, bottom)."""

    def make(box: tuple[int, int, int, int], size: tuple[int, int] = (96, 64)) -> Path:
        image = Image.new("L", size, 255)
        image.paste(0, box)
        image.save(photo.with_name("mask.png"))
        return photo.with_name("mask.png")

    return make


@pytest.mark.parametrize(("scale", "size"), [(4, (128, 96)), (2, (64, 48)), (1.5, (48, 36))])
def test_a_crop_is_what_the_whole_has_there(upscale, photo, scale, size):
    assert upscale("--scale", scale, "-q", out="whole.png") == 0
    assert upscale("--scale", scale, "--crop", "24,16,32,24", "-q", out="part.png") == 0
    part = pixels(photo.with_name("part.png"))
    top, left = round(16 * scale), round(24 * scale)
    whole = pixels(photo.with_name("whole.png"))[top : top + size[1], left : left + size[0]]
    assert part.shape == (size[1], size[0], 3)
    assert np.abs(part - whole).mean() < 1


def test_a_crop_outside_of_the_image_is_refused(upscale, photo, capsys):
    assert upscale("--crop", "90,0,10,10") == 1
    assert "96x64" in capsys.readouterr().err and not photo.with_name("out.png").exists()


def test_only_the_masks_black_is_made_again(upscale, photo, mask):
    assert upscale("-q", "--seed", 1) == 0
    before, out = pixels(photo.with_name("out.png")), photo.with_name("out.png")
    black = mask((24, 16, 72, 48))
    onto = ["--onto", out, "--fidelity-mask", black, "-q", "--budget", 1]
    assert upscale(*onto, "--seed", 9, out="new.png") == 0
    assert np.array_equal(pixels(out), before)
    changed = (pixels(photo.with_name("new.png")) != before).any(-1)
    assert changed[64:192, 96:288].any() and not changed[:64].any() and not changed[192:].any()
    assert not changed[:, :96].any() and not changed[:, 288:].any()


def test_onto_writes_into_the_result_itself(command, upscale, photo, mask):
    assert upscale("-q") == 0
    before = pixels(photo.with_name("out.png"))
    out, black = photo.with_name("out.png"), mask((0, 0, 96, 64))
    assert command(photo, "--onto", out, "--fidelity-mask", black, "--seed", 3, "-q") == 0
    assert (pixels(out) != before).any()
    assert not photo.with_name("photo_x4.png").exists()


def test_onto_what_does_not_fit_is_refused(command, upscale, photo, mask, capsys):
    black = mask((24, 16, 72, 48))
    Image.new("RGB", (300, 300)).save(photo.with_name("other.png"))
    assert command(photo, "--onto", photo.with_name("other.png"), "--fidelity-mask", black) == 1
    assert "300x300" in capsys.readouterr().err
    assert upscale("-q") == 0 and upscale("-q", out="out.jpg") == 0
    assert command(photo, "--onto", photo.with_name("out.jpg"), "--fidelity-mask", black) == 1
    assert "out.jpg" in capsys.readouterr().err
    white = mask((0, 0, 0, 0))
    assert command(photo, "--onto", photo.with_name("out.png"), "--fidelity-mask", white) == 1
    assert "white" in capsys.readouterr().err
    assert command(photo, "--onto", photo.with_name("out.png")) == 1
    assert "--fidelity-mask" in capsys.readouterr().err


def test_white_of_a_mask_is_the_faithful_result(upscale, photo, mask):
    assert upscale("-q", "--fidelity", 0, out="vivid.png") == 0
    assert upscale("-q", "--fidelity", 1, out="faithful.png") == 0
    half = mask((0, 0, 48, 64))
    assert upscale("-q", "--fidelity", 0, "--fidelity-mask", half) == 0
    out = pixels(photo.with_name("out.png"))
    assert np.abs(out - pixels(photo.with_name("faithful.png")))[:, 230:].max() <= 1
    assert np.abs(out - pixels(photo.with_name("vivid.png")))[:, :150].max() <= 1


def test_a_region_of_the_api_names_what_is_wrong(tiny, picture):
    from patchscaler.apps.cli.region import upscale_region
    from patchscaler.images.planes import to_planes

    with pytest.raises(PatchScalerError, match="region"):
        upscale_region(tiny, to_planes(picture(32, 32)), (0, 0, 33, 1), {})
