"""Sizes, passes, filters by strips; animations; tiles; transparency through the whole way."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from patchscaler.errors import PatchScalerError
from patchscaler.images import sizes
from patchscaler.images.animation import open_animation, save_animation
from patchscaler.images.planes import array_planes, finish, to_planes
from patchscaler.images.sizes import LANCZOS, TargetSize, passes, resample, resized


@pytest.mark.parametrize(
    ("target_size", "size", "label"),
    [
        (TargetSize(), (1804, 1200), "x4"),
        (TargetSize(scale=1.5), (676, 450), "x1.5"),
        (TargetSize(scale=1), (451, 300), "x1"),
        (TargetSize(width=1920), (1920, 1277), "w1920"),
        (TargetSize(height=1000), (1503, 1000), "h1000"),
        (TargetSize(width=1000, height=500), (752, 500), "1000x500"),
        (TargetSize(megapixels=12), (4247, 2825), "12mp"),
        (TargetSize(scale=0.5), (226, 150), "x0.5"),
    ],
)
def test_sizes(target_size, size, label):
    assert target_size.size(451, 300) == size and target_size.label() == label


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({"scale": 2, "width": 100}, "give one kind"),
        ({"width": 9, "megapixels": 1}, "give one kind"),
        ({"scale": 0}, "scale 0: take more than 0"),
        ({"width": -5}, "width -5"),
        ({"megapixels": float("nan")}, "take more"),
    ],
)
def test_sizes_that_cannot_be(kinds, message):
    with pytest.raises(PatchScalerError, match=message):
        TargetSize(**kinds)


@pytest.mark.parametrize(
    "target_size", [TargetSize(scale=65), TargetSize(width=1), TargetSize(megapixels=1e9)]
)
def test_sizes_out_of_reach(target_size):
    with pytest.raises(PatchScalerError, match=r"100x100 would become .* times as large"):
        target_size.size(100, 100)


def test_passes():
    assert passes((100, 50), (400, 200)) == [(400, 200)]
    assert passes((100, 50), (150, 75)) == [(150, 75)]
    assert passes((100, 50), (100, 50)) == [(100, 50)]
    assert passes((100, 50), (800, 400)) == [(200, 100), (800, 400)]
    assert passes((10, 10), (640, 640)) == [(40, 40), (160, 160), (640, 640)]
    for target in range(401, 1600, 37):  # no pass has to enlarge more than it can
        size = (100, 77)
        for made in passes(size, (target, target * 77 // 100)):
            assert all(m <= 4 * s for m, s in zip(made, size, strict=True))
            size = made


# --- filters --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(61, 45), (300, 260), (97, 64)])
def test_strips_are_the_whole(size):
    x = np.random.default_rng(0).random((2, 97, 64), dtype=np.float32)
    for method in (sizes.BICUBIC, LANCZOS):
        whole = resample(x, size, method=method)
        cuts = [0, 7, size[0] // 2, size[0]]
        strips = [resample(x, size, (a, b), method) for a, b in itertools.pairwise(cuts)]
        assert np.abs(np.concatenate(strips, 1) - whole).max() < 1e-5


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_resized_by_rows_is_resized_at_once(monkeypatch, kind):
    array = np.random.default_rng(0).integers(0, np.iinfo(kind).max + 1, (150, 80, 3)).astype(kind)
    whole = resized(array, (110, 61))
    monkeypatch.setattr(sizes, "ROWS", 16)
    assert np.abs(resized(array, (110, 61)).astype(int) - whole).max() <= (
        1 if kind is np.uint8 else 2
    )
    out = np.zeros((110, 61, 3), kind)
    assert resized(array, (110, 61), out) is out and out.any()
    flat = resized(np.full((40, 40, 1), np.iinfo(kind).max, kind), (30, 33))
    assert (flat == np.iinfo(kind).max).all()


def test_finished_strips_are_the_whole(picture):
    image = picture(24, 32).convert("RGBA")
    image.putalpha(picture(24, 32, 1).convert("L"))
    planes = array_planes(np.asarray(image))
    rgb = torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for bits in (8, 16):
        planes.bits = bits
        whole = finish(rgb, planes)
        strips = [finish(rgb[:, a:b], planes, (a, b)) for a, b in ((0, 8), (8, 41), (41, 96))]
        # rounding of the last bit
        assert np.abs(np.concatenate(strips).astype(int) - whole).max() <= (bits == 16)


# --- any size -------------------------------------------------------------------------------------


def periodic(height: int, width: int) -> np.ndarray:
    """A texture whose opposite borders meet."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [
        np.sin(2 * np.pi * (a * y / height + b * x / width) + p)
        for a, b, p in ((1, 2, 0), (3, 1, 1), (5, 4, 2))
    ]
    return (
        (np.stack([waves[0] + waves[1], waves[1] - waves[2], waves[2]], -1) * 40 + 128)
        .round()
        .astype(np.uint8)
    )


DURATIONS = [40, 80, 120, 200]


def frames(clear: bool) -> list[Image.Image]:
    out = []
    for i in range(4):
        frame = Image.new("RGBA", (40, 24), (0, 0, 0, 0) if clear else (240, 230, 200, 255))
        ImageDraw.Draw(frame).ellipse((2 + 7 * i, 4, 16 + 7 * i, 18), fill=(200, 40 * i, 60, 255))
        out.append(frame if clear else frame.convert("RGB"))
    return out


def write_moving(path, clear=True, **options):
    first, *others = frames(clear)
    first.save(
        path, save_all=True, append_images=others, duration=DURATIONS, **({"loop": 2} | options)
    )
    return path


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".avif"])
@pytest.mark.parametrize("clear", [True, False])
def test_frames_times_and_loops(tmp_path, suffix, clear):
    options = {"disposal": 2} if suffix == ".gif" else {}
    moving = open_animation(write_moving(tmp_path / f"a{suffix}", clear, **options))
    made = [finish(p.rgb, p).repeat(2, 0).repeat(2, 1) for p in moving.frames()]
    assert moving.count == len(made) == 4 and moving.durations == DURATIONS
    assert all(array.shape == (48, 80, 4 if clear else 3) for array in made)
    save_animation(made, tmp_path / f"b{suffix}", moving)
    again = open_animation(tmp_path / f"b{suffix}")
    seen = list(again.frames())
    assert again.durations == DURATIONS and again.metadata.size == (80, 48)
    assert again.loop == moving.loop
    for i, planes in enumerate(seen):  # each frame shows its own disc and no one before it
        solid = planes.alpha > 0.5 if clear else (planes.rgb[2] < 0.2)
        columns = solid.any(0).nonzero()
        assert abs(int(columns.min()) - 2 * (2 + 7 * i)) <= 3
        assert abs(int(columns.max()) - 2 * (16 + 7 * i)) <= 4


def test_bombs_of_frames(tmp_path, monkeypatch):
    source = write_moving(tmp_path / "a.gif")
    monkeypatch.setattr("patchscaler.images.animation.FRAME_PIXELS", 1000)
    with pytest.raises(PatchScalerError, match=r"4 frames of 40x24 .* --max-pixels 3840"):
        open_animation(source, max_pixels=1000)
    assert open_animation(source, max_pixels=3840).count == 4
    assert open_animation(source, max_pixels=0, max_frames=0).count == 4


def test_a_frame_that_outgrows_the_picture(tmp_path):
    source = write_moving(tmp_path / "a.gif", clear=False)
    data = bytearray(source.read_bytes())
    # an image descriptor: left, top, width, height
    second = data.index(b"\x2c", data.index(b"\x2c") + 100)
    data[second + 5 : second + 9] = b"\xff\xff\xff\xff"
    source.write_bytes(data)
    with pytest.raises(
        PatchScalerError, match=r"a\.gif: (damaged or cut off|.*more than the limit)"
    ):
        for _ in open_animation(source).frames():
            pass


def test_stills_are_no_animations(picture, tmp_path):
    picture(8, 8).save(tmp_path / "a.gif")
    picture(8, 8).save(tmp_path / "a.tif", save_all=True, append_images=[picture(8, 8, 1)])
    assert open_animation(tmp_path / "a.gif") is None and open_animation(tmp_path / "a.tif") is None


def test_palettes_of_greys_are_grey():
    image = Image.new("P", (4, 4))
    image.putpalette([i for v in range(256) for i in (v, v, v)])
    assert to_planes(image).grey
    image.putpalette([255, 0, 0] + [0] * 765)
    assert not to_planes(image).grey
