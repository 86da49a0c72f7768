"""Colors: profiles to sRGB and back, wide gamuts, no shift against the input, ramps without steps
or seams.
"""

import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from profiles import ADOBE, D50, P3, SRGB_CURVE, fixed, gamma, make_profile

from patchscaler.images.color import LEVELS, REACH, low_band, match_color
from patchscaler.images.icc import color_space, profile_kind
from patchscaler.images.metadata import Metadata
from patchscaler.images.planes import array_planes, finish, to_planes
from patchscaler.images.read import load
from patchscaler.images.write import fit_image, fitting, save_image

ADOBE_RGB, DISPLAY_P3 = make_profile(ADOBE, gamma(563 / 256)), make_profile(P3, SRGB_CURVE)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(shape: tuple[int, ...], kind: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(kind).max + 1, shape).astype(kind)


# --- profiles -------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [ADOBE_RGB, DISPLAY_P3], ids=["Adobe RGB", "Display P3"])
def test_numbers_agree_with_littlecms(profile):
    colors = noise((40, 40, 3))
    ours = color_space(profile).to_srgb(np.moveaxis(colors / 255, -1, 0)).clip(0, 1) * 255
    theirs = ImageCms.profileToProfile(
        Image.fromarray(colors),
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
    )
    # it rounds to 8 bits
    assert np.abs(np.moveaxis(np.asarray(theirs, float), -1, 0) - ours).max() < 1


@pytest.mark.parametrize("profile", [ADOBE_RGB, DISPLAY_P3], ids=["Adobe RGB", "Display P3"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_there_and_back_no_colour_moves(profile, kind):
    """Saturated ones too, which sRGB does not hold: as few of 65535 as a rounded table costs."""
    colors = noise((64, 48, 3), kind)
    planes = array_planes(colors, profile)
    assert planes.excess is not None and planes.rgb.abs().max() <= 1
    back = finish(planes.rgb, planes)
    assert np.abs(back.astype(int) - colors).max() <= (0 if kind is np.uint8 else 16)


def test_a_profile_that_says_srgb_changes_nothing():
    assert color_space(SRGB) is None and profile_kind(SRGB) == "RGB"
    colors = noise((8, 8, 3))
    assert torch.equal(array_planes(colors, SRGB).rgb, array_planes(colors).rgb)
    assert array_planes(colors, SRGB).icc_profile == SRGB


def test_the_model_sees_the_colours_that_a_person_sees():
    # Adobe RGB's grey 128 is lighter than sRGB's 128 would be: its curve is 2.2 throughout.
    planes = array_planes(np.full((2, 2, 3), 64, np.uint8), ADOBE_RGB)
    expected = 1.055 * ((64 / 255) ** (563 / 256)) ** (1 / 2.4) - 0.055
    assert (planes.rgb + 1).div(2).numpy() == pytest.approx(expected, abs=2e-3)


def test_grey_profiles():
    profile = make_profile(None, gamma(1.8))
    assert profile_kind(profile) == "GRAY"
    grey = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16, 1)
    planes = array_planes(grey, profile)
    # gamma 1.8 is lighter than sRGB
    assert planes.grey and planes.rgb[0, 8, 0] > grey[8, 0, 0] / 32767.5 - 1
    assert np.abs(finish(planes.rgb, planes).astype(int) - grey).max() <= 16


def test_curves_of_all_kinds():
    x = np.linspace(0, 1, 65536)
    # about x squared
    table = b"curv\0\0\0\0" + struct.pack(">I5H", 5, 0, 4096, 16384, 36864, 65535)
    space = color_space(make_profile(ADOBE, table))
    assert space.curves[0][32768] == pytest.approx(0.25, abs=1e-3)
    # no entry: linear
    assert color_space(make_profile(ADOBE, b"curv" + bytes(8))).curves[0] == pytest.approx(x)
    kinds = {
        0: ((2.0,), x**2),
        1: ((2.0, 1.1, -0.1), np.maximum(1.1 * x - 0.1, 0) ** 2),
        2: ((2.0, 0.95, 0.05, 0.0), (0.95 * x + 0.05) ** 2),
        4: ((2.0, 1.0, 0.0, 0.1, 0.1, 0.0, 0.0), np.where(x >= 0.1, x**2, 0.1 * x)),
    }
    for kind, (numbers, expected) in kinds.items():
        curve = b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + fixed(*numbers)
        assert color_space(make_profile(ADOBE, curve)).curves[1] == pytest.approx(
            expected, abs=1e-4
        )


HOSTILE = {
    "empty": b"",
    "cut": ADOBE_RGB[:200],
    "no tags": ADOBE_RGB[:128] + struct.pack(">I", 0),
    "a million tags": ADOBE_RGB[:128] + struct.pack(">I", 2**20) + ADOBE_RGB[132:],
    "far offsets": ADOBE_RGB[:132]
    + b"".join(ADOBE_RGB[p : p + 4] + b"\xff" * 8 for p in range(132, 132 + 12 * 9, 12)),
    "falling curve": make_profile(ADOBE, b"curv\0\0\0\0" + struct.pack(">I3H", 3, 65535, 9, 0)),
    "huge curve": make_profile(ADOBE, b"curv\0\0\0\0" + struct.pack(">I", 2**31)),
    "flat": make_profile(np.zeros((3, 3)), gamma(2.2)),
    "gamma 0": make_profile(ADOBE, gamma(0)),
    "tables": make_profile(ADOBE, gamma(2.2), {b"A2B0": b"mft2" + bytes(64)}),
    "other function": make_profile(ADOBE, b"para\0\0\0\0" + struct.pack(">HH", 9, 0)),
    "slope 0, kind 1": make_profile(
        ADOBE, b"para\0\0\0\0" + struct.pack(">HH", 1, 0) + fixed(2.2, 0, 0.5)
    ),
    "slope 0, kind 2": make_profile(
        ADOBE, b"para\0\0\0\0" + struct.pack(">HH", 2, 0) + fixed(2.2, 0, 0.5, 0.1)
    ),
    "gamma -1": make_profile(ADOBE, b"para\0\0\0\0" + struct.pack(">HH", 0, 0) + fixed(-1)),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", HOSTILE)
def test_profiles_that_cannot_be_used_leave_the_numbers_as_they_are(name):
    assert color_space(HOSTILE[name]) is None
    colors = noise((8, 9, 3))
    planes = array_planes(colors, HOSTILE[name])
    assert np.array_equal(finish(planes.rgb, planes), colors)


def test_white_point():
    assert color_space(DISPLAY_P3).to_srgb(np.ones((3, 1, 1))).ravel() == pytest.approx(
        [1, 1, 1], abs=2e-3
    )
    assert len(D50) == 12


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp", ".avif", ".heic"])
def test_profiles_go_through_files(tmp_path, suffix):
    colors = np.zeros((16, 16, 3), np.uint8)
    colors[..., 1] = 255  # a green that sRGB does not hold
    save_image(colors, tmp_path / f"a{suffix}", Metadata((16, 16), icc_profile=DISPLAY_P3))
    picture = load(tmp_path / f"a{suffix}")
    assert picture.metadata.icc_profile == DISPLAY_P3
    planes = to_planes(picture)
    assert planes.excess is not None
    assert np.abs(finish(planes.rgb, planes).astype(int) - colors).max() <= (
        0 if suffix in (".png", ".tif") else 6
    )


def test_formats_without_profile_get_srgb(tmp_path):
    save_image(
        np.full((8, 8, 3), 64, np.uint8),
        tmp_path / "a.png",
        Metadata((8, 8), icc_profile=ADOBE_RGB),
    )
    picture = load(tmp_path / "a.png")
    fit_image(picture, "JXL")
    assert picture.metadata.icc_profile is None and "without color profile" in picture.notes[0]
    assert np.asarray(picture.pixels)[0, 0].tolist() == [62, 62, 62]


def table_profile() -> bytes:
    """Of tables (lut8Type): sRGB's corners with red and green exchanged, as CIE Lab of D50."""
    corners = np.zeros((2, 2, 2, 3), np.uint8)  # of linear colours, the last the fastest
    for r, g, b in np.ndindex(2, 2, 2):
        lab = LAB[g, r, b]
        corners[r, g, b] = round(lab[0] * 2.55), lab[1] + 128, lab[2] + 128
    ramps = bytes(range(256)) * 3
    table = (
        b"mft1\0\0\0\0"
        + bytes((3, 3, 2, 0))
        + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
        + ramps
        + corners.tobytes()
        + ramps
    )
    profile = make_profile(ADOBE, gamma(2.2), {b"A2B0": table})
    return profile[:20] + b"Lab " + profile[24:]


LAB = {
    (0, 0, 0): (0, 0, 0),
    (1, 0, 0): (54.3, 81, 70),
    (0, 1, 0): (87.8, -79, 81),
    (0, 0, 1): (29.6, 68, -112),
    (1, 1, 0): (97.6, -16, 93),
    (1, 0, 1): (60.2, 94, -60),
    (0, 1, 1): (90.7, -51, -15),
    (1, 1, 1): (100, 0, 0),
}


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JXL"])
@pytest.mark.parametrize("deep", [np.uint8, np.uint16])
def test_a_profile_of_tables_is_not_lost_without_a_word(tmp_path, kind, deep):
    red = np.full((8, 8, 3), [np.iinfo(deep).max, 0, 0], deep)
    save_image(red, tmp_path / "a.png", Metadata((8, 8), icc_profile=table_profile()))
    picture = load(tmp_path / "a.png")
    fit_image(picture, kind)
    assert (
        picture.metadata.icc_profile is None
        and to_planes(picture).icc_profile is None
        and picture.bits == 8
    )
    assert picture.notes[-1] == f"{kind} is written without color profile: colors become sRGB's"
    assert (to_planes(picture).rgb[:, 0, 0] + 1).mul(127.5).tolist() == pytest.approx(
        [0, 255, 0], abs=12
    )


def test_transparency_goes_around_tables(tmp_path):
    colors = np.full((8, 8, 4), [255, 0, 0, 100], np.uint8)
    notes = save_image(
        colors, tmp_path / "a.jxl", Metadata((8, 8), icc_profile=table_profile()), lossless=True
    )
    assert notes == ["JXL is written without color profile: colors become sRGB's"]
    back = load(tmp_path / "a.jxl")
    assert np.abs(np.asarray(back.pixels)[0, 0].astype(int) - [0, 255, 0, 100]).max() <= 12
    assert np.asarray(back.pixels)[0, 0, 3] == 100


@pytest.mark.parametrize("suffix", [".bmp", ".jxl"])
def test_whatever_is_saved_without_profile_is_in_srgb(tmp_path, suffix):
    """Saved by itself, too, and not only where it was fitted before it was enlarged."""
    grey = np.full((8, 8, 3), 64, np.uint8)
    path = tmp_path / f"a{suffix}"
    notes = save_image(grey, path, Metadata((8, 8), icc_profile=ADOBE_RGB), lossless=True)
    assert notes == [f"{suffix[1:].upper()} is written without color profile: colors become sRGB's"]
    assert np.asarray(load(path).pixels)[0, 0].tolist() == [62, 62, 62]
    assert save_image(grey, path, Metadata((8, 8), icc_profile=SRGB), lossless=True) == []
    # not its own
    assert (
        save_image(grey, path, Metadata((8, 8), icc_profile=make_profile(None, gamma(1.8)))) == []
    )


def test_a_damaged_profile_is_told_where_it_is_lost(tmp_path):
    colors = noise((8, 8, 3))
    broken = Metadata((8, 8), icc_profile=HOSTILE["tables"])
    save_image(colors, tmp_path / "a.png", broken)
    picture = load(tmp_path / "a.png")
    fit_image(picture, "BMP")
    assert picture.notes == ["BMP is written without color profile: colors may look different"]
    assert np.array_equal(np.asarray(picture.pixels), colors)
    assert save_image(colors, tmp_path / "a.bmp", broken) == picture.notes


def test_frames_without_their_profile_are_told_of():
    notes: list[str] = []
    fitting(Metadata((8, 8), icc_profile=DISPLAY_P3), "GIF", notes)
    fitting(Metadata((8, 8), icc_profile=SRGB), "GIF", notes)
    fitting(Metadata((8, 8), icc_profile=DISPLAY_P3), "WEBP", notes)
    assert notes == ["GIF is written without color profile: colors may look different"]


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "a.jpg", quality=95)
    picture = load(tmp_path / "a.jpg")
    assert "CMYK becomes RGB" in picture.notes[0] and picture.metadata.icc_profile is None
    r, g, b = (to_planes(picture).rgb[:, 4, 4] + 1).div(2).tolist()
    assert r < 0.1 and g > 0.7 and b > 0.8  # cyan, not inverted


@pytest.fixture
def shifted(picture) -> tuple[torch.Tensor, torch.Tensor]:
    """A x4 result that is 0.1 too red and has a lighter half; its input."""
    reference = to_planes(picture(24, 32)).rgb
    enlarged = torch.nn.functional.interpolate(reference[None], scale_factor=4, mode="bicubic")[0]
    detail = torch.randn(enlarged.shape, generator=torch.Generator().manual_seed(0)) * 0.02
    result = enlarged + detail
    result[0] += 0.1
    result[:, :, 64:] += 0.05
    return result, reference


def test_wavelet_puts_the_low_band_back_and_keeps_detail(shifted):
    result, reference = shifted
    matched = match_color(result, reference, "wavelet")
    enlarged = torch.nn.functional.interpolate(reference[None], scale_factor=4, mode="bicubic")[0]
    assert (low_band(matched) - low_band(enlarged)).abs().max() < (
        low_band(result) - low_band(enlarged)
    ).abs().max() / 5
    assert (matched.mean((1, 2)) - reference.mean((1, 2))).abs().max() < 1e-3
    high = lambda x: x - low_band(x)  # noqa: E731
    assert (high(matched) - high(result)).std() < 0.02


def test_low_band_by_hand():
    assert LEVELS == 6 and REACH == 63
    impulse = torch.zeros(1, 151, 151)
    impulse[0, 75, 75] = 1
    out = low_band(impulse)[0]
    assert out.sum() == pytest.approx(1, abs=1e-5)
    seen = out.nonzero()
    # what windows have to read around them
    assert seen.min() == 75 - REACH and seen.max() == 75 + REACH
    assert torch.equal(low_band(torch.ones(3, 7, 5)), torch.ones(3, 7, 5))
