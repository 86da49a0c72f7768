"""Sizes, passes, filters by strips; animations; tiles; transparency through the whole way."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from patchscaler.apps.cli import main
from patchscaler.enlarge import tile_margin, unwrap, upscale_to_size, wrap_pad
from patchscaler.errors import PatchScalerError
from patchscaler.images import sizes
from patchscaler.images.animation import open_animation, save_animation
from patchscaler.images.planes import array_planes, finish, to_planes
from patchscaler.images.sizes import LANCZOS, TargetSize, passes, resample, resized
from patchscaler.pipeline import PatchScaler


@pytest.fixture(scope="module")
def model(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny.save_pretrained(folder)
    return str(folder)


# --- what is wanted -------------------------------------------------------------------------------


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


@pytest.mark.parametrize("scale", [1, 1.5, 3, 4, 5])
def test_any_scale(tiny, picture, scale):
    image = picture(24, 32)
    made = upscale_to_size(tiny, image, scale)
    assert made.image.size == (round(32 * scale), round(24 * scale))
    assert len(made.passes) == (2 if scale > 4 else 1)
    assert np.abs(made.array.mean((0, 1)) - np.asarray(image).mean((0, 1))).max() < 3
    if scale == 4:
        assert np.array_equal(made.array, tiny.upscale(image).array)


def test_repeated_passes_keep_alpha_grey_and_depth(tiny):
    grey = np.random.default_rng(0).integers(0, 65536, (24, 24, 2)).astype(np.uint16)
    made = upscale_to_size(tiny, grey, 6)
    assert made.array.shape == (144, 144, 2) and made.array.dtype == np.uint16
    with pytest.raises(PatchScalerError, match="more than the limit"):
        upscale_to_size(tiny, grey, 6, max_pixels=500)


@pytest.mark.parametrize(
    ("options", "name", "size"),
    [
        (["--scale", "1.5"], "a_x1.5.png", (60, 36)),
        (["--width", "100"], "a_w100.png", (100, 60)),
        (["--megapixels", ".01", "--format", "webp"], "a_0.01mp.webp", (129, 77)),
        (
            ["--scale", "1", "--suffix=-clean", "--format", "jpeg", "--quality", "50"],
            "a-clean.jpg",
            (40, 24),
        ),
        (["--height", "48", "--width", "1000", "--format", "tif"], "a_1000x48.tif", (80, 48)),
    ],
)
def test_by_the_command(model, picture, tmp_path, options, name, size):
    picture(24, 40).save(tmp_path / "a.png")
    assert main(["upscale", str(tmp_path / "a.png"), "--model", model, "-q", *options]) == 0
    assert Image.open(tmp_path / name).size == size
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["a.png", name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scale", "2", "--width", "9"], "give one kind of size"),
        (["--scale", "0"], "take more than 0"),
        (["--format", "psd"], "cannot write '.psd'"),
        (["--suffix", "../x"], "a piece of a file's name"),
        (["--tileable", "--report", "r"], "--tileable goes with none of"),
        (["--scale", "100"], "times as large"),
        (["--lossless", "--format", "jpg"], "not lossless"),
        (["--format", "jpg", "-o", "x.png"], "leave --format out"),
        (["--max-frames", "-1"], "--max-frames takes"),
    ],
)
def test_options_that_cannot_be(model, picture, tmp_path, options, message, capsys):
    picture(24, 40).save(tmp_path / "a.png")
    assert main(["upscale", str(tmp_path / "a.png"), "--model", model, *options]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


# --- tiles ----------------------------------------------------------------------------------------


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


def test_wrap_pad_and_unwrap():
    x = torch.arange(12.0).reshape(3, 4)
    padded = wrap_pad(x, 5)
    assert padded.shape == (13, 14) and torch.equal(padded[5:8, 5:9], x) and padded[4, 5] == x[2, 0]
    wave = (
        np.sin(np.arange(-20, 60) * 2 * np.pi / 40)[:, None, None] * 100
        + np.linspace(0, 8, 80)[:, None, None]
    )
    core = unwrap(wave.round().astype(np.int64), 0, 20, 40, 8)
    assert abs(core[0] - core[-1]) <= 17 and np.abs(np.diff(core[:, 0, 0])).max() <= 17


@pytest.mark.parametrize("size", [(32, 48), (45, 33)], ids=["whole strides", "odd sides"])
def test_borders_of_tiles_meet(tiny, size):
    tile = periodic(*size)
    made = upscale_to_size(tiny, tile, tileable=True).array.astype(int)
    assert made.shape == (4 * size[0], 4 * size[1], 3)

    def seam(array):
        return max(np.abs(np.take(array, 0, a) - np.take(array, -1, a)).mean() for a in (0, 1))

    def steps(array):  # of neighbours that meet where latents do, as those across the border
        return max(np.abs(np.diff(array, axis=a)).mean((1 - a, 2)).max() for a in (0, 1))

    assert seam(made) <= steps(made) * 1.05


def test_a_shifted_tile_is_the_result_shifted(tiny):
    tile, stride = periodic(64, 64), 16  # the patches' stride: the grid falls on itself
    made = upscale_to_size(tiny, tile, tileable=True, fidelity=1.0).array.astype(int)
    moved = upscale_to_size(
        tiny, np.roll(tile, (stride, 2 * stride), (0, 1)), tileable=True, fidelity=1.0
    ).array.astype(int)
    assert np.abs(np.roll(made, (4 * stride, 8 * stride), (0, 1)) - moved).max() <= 1
    assert tile_margin(tiny) % stride == 0


def test_tiles_of_other_sizes_and_by_the_command(tiny, model, tmp_path):
    made = upscale_to_size(tiny, periodic(32, 32), 1.5, tileable=True)
    assert made.array.shape == (48, 48, 3)
    Image.fromarray(periodic(32, 32)).save(tmp_path / "t.png")
    assert main(["upscale", str(tmp_path / "t.png"), "--model", model, "--tileable", "-q"]) == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "t_x4.png")).shape, (128, 128, 3))


# --- transparency ---------------------------------------------------------------------------------


def test_a_logo_has_no_fringe():
    """Shipped weights: a white disc on clear black, seen on black and on white, without grey or
    dark rims.
    """
    disc = Image.new("L", (256, 256))
    ImageDraw.Draw(disc).ellipse((32, 32, 224, 224), fill=255)
    alpha = np.asarray(disc.resize((64, 64), Image.Resampling.LANCZOS))
    # black where nothing is seen
    logo = np.where(alpha[..., None] > 0, 255, 0).astype(np.uint8).repeat(3, -1)
    made = PatchScaler.from_pretrained().upscale(np.dstack([logo, alpha]), prompt=False).array
    on_white = made[..., :3] / 255 * (made[..., 3:] / 255) + (1 - made[..., 3:] / 255)
    assert on_white.min() > 0.97  # white on white: any dark rim would show
    on_black = made[..., :3] / 255 * (made[..., 3:] / 255)
    truth = np.asarray(disc) / 255
    assert np.abs(on_black.mean(-1) - truth).mean() < 0.015
    assert not made[8, 8, 3] and made[128, 128, 3] == 255


# --- animations -----------------------------------------------------------------------------------

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
def test_frames_times_and_loops(tiny, tmp_path, suffix, clear):
    source = write_moving(
        tmp_path / f"a{suffix}", clear, **({"disposal": 2} if suffix == ".gif" else {})
    )
    moving = open_animation(source)
    made = [upscale_to_size(tiny, planes, 2).array for planes in moving.frames()]
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
        assert (
            abs(int(columns.min()) - 2 * (2 + 7 * i)) <= 3
            and abs(int(columns.max()) - 2 * (16 + 7 * i)) <= 4
        )


def test_one_noise_for_all_frames(tiny, picture, tmp_path):
    still = picture(32, 32)
    still.save(
        tmp_path / "a.png",
        save_all=True,
        append_images=[still.rotate(0), picture(32, 32, 1), still],
    )
    moving = open_animation(tmp_path / "a.png")
    made = [tiny.upscale(planes).array for planes in moving.frames()]
    assert np.array_equal(made[0], made[-1])


def test_animations_by_the_command(model, tmp_path, capsys):
    source = write_moving(tmp_path / "a.gif")
    run = ["upscale", str(source), "--model", model]
    assert main([*run, "--scale", "2"]) == 0
    assert "4 frames, 40x24 -> 80x48" in capsys.readouterr().out
    assert open_animation(tmp_path / "a_x2.gif").count == 4
    assert main([*run, "-q", "--format", "webp"]) == 0
    assert open_animation(tmp_path / "a_x4.webp").count == 4
    before = sorted(tmp_path.iterdir())
    for options, message in (
        (["-o", str(tmp_path / "b.jpg")], "no transparency"),
        (["--report", "r"], "animations go with none of"),
        (
            ["--max-frames", "3"],
            "4 frames are more than the limit of 3; allow them with --max-frames 4",
        ),
        (["-o", str(tmp_path / "b.tif")], "this format cannot; use .gif"),
        (["--dry-run"], "animations go with"),
    ):
        assert main([*run, *options]) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


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


def test_a_still_gif_becomes_a_png_and_pages_are_told(model, picture, tmp_path, capsys):
    picture(16, 16).save(tmp_path / "a.gif")
    assert main(["upscale", str(tmp_path / "a.gif"), "--model", model, "-q"]) == 0
    assert Image.open(tmp_path / "a_x4.png").mode == "RGB"
    picture(16, 16).save(tmp_path / "b.tif", save_all=True, append_images=[picture(16, 16, 1)])
    assert main(["upscale", str(tmp_path / "b.tif"), "--model", model, "-q"]) == 0
    assert "holds 2 pages; only the first is enlarged" in capsys.readouterr().err


def test_palettes_of_greys_are_grey():
    image = Image.new("P", (4, 4))
    image.putpalette([i for v in range(256) for i in (v, v, v)])
    assert to_planes(image).grey
    image.putpalette([255, 0, 0] + [0] * 765)
    assert not to_planes(image).grey


def test_progress_counts_all_passes(tiny, picture):
    """Two passes, of 16x16 and of 24x24 pixels: the first is 256 parts of 832."""
    seen: list[tuple[int, int]] = []
    upscale_to_size(
        tiny,
        picture(16, 16),
        6.0,
        budget="best",
        progress=lambda done, total: seen.append((done, total)),
    )
    shares = [done / total for done, total in seen]
    assert shares == sorted(shares) and shares[-1] == 1
    assert any(abs(share - 256 / 832) < 0.03 for share in shares)
