"""What people feed it: ranges, transparency, color labels, metadata, main images, times, names."""

import io
import struct
import threading
import warnings

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from patchscaler.errors import PatchScalerError
from patchscaler.images.animation import open_animation, rounded_times, save_animation
from patchscaler.images.formats import suffix_of
from patchscaler.images.icc import color_space
from patchscaler.images.labels import ADOBE_RGB, PRIMARIES, SRGB_CURVE, make_profile
from patchscaler.images.metadata import Metadata
from patchscaler.images.planes import to_planes
from patchscaler.images.read import load
from patchscaler.images.sizes import TargetSize
from patchscaler.images.write import check_output, save_image
from patchscaler.images.xmp import upscaled

RAMP = np.linspace(0, 1, 96, dtype=np.float32).reshape(8, 12)


def grey_of(source) -> np.ndarray:
    return (to_planes(source).rgb[0].numpy() + 1) / 2


# --- numbers and ranges ---------------------------------------------------------------------------


@pytest.mark.parametrize("top", [1.0, 1.003, 1.2])
def test_floats_a_hair_above_one_are_white(tmp_path, top):
    for source in (RAMP * top, Image.fromarray(RAMP * np.float32(top))):
        assert grey_of(source) == pytest.approx((RAMP * top).clip(0, 1), abs=1e-5)
    Image.fromarray(RAMP * np.float32(top)).save(tmp_path / "a.tif")
    assert grey_of(tmp_path / "a.tif") == pytest.approx((RAMP * top).clip(0, 1), abs=1e-5)


def test_pillows_floats_of_255():
    image = Image.fromarray((RAMP * 255).astype(np.uint8)).convert("F")
    assert grey_of(image) == pytest.approx(RAMP, abs=4e-3)


@pytest.mark.parametrize("factor", [(255, 0), (2, -1), (4, 0), (np.inf, 0), (np.nan, 0)])
def test_floats_of_another_range_are_refused(factor):
    values = np.ones((8, 12), np.float32) * factor[0] * RAMP.clip(0.01) + factor[1]
    sources = [values, np.dstack([values] * 3)]
    sources += [Image.fromarray(values)] if factor[0] != 255 else []
    for source in sources:
        with pytest.raises(PatchScalerError, match=r"0\.\.1"):
            to_planes(source)


def test_matrices_bools_and_byte_orders():
    assert to_planes(np.matrix([[0, 255], [255, 0]], np.uint8)).rgb.shape == (3, 2, 2)
    assert grey_of(np.array([[False, True]])).tolist() == [[0, 1]]
    assert to_planes(np.array([[0, 65535]], ">u2")).bits == 16
    with pytest.raises(PatchScalerError, match=r"int64.*uint8 in 0\.\.255"):
        to_planes(np.arange(6).reshape(2, 3))
    with pytest.raises(PatchScalerError, match="what is white is unknown"):
        to_planes(Image.fromarray(np.array([[0, 200]], np.int32)))


# --- transparency ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_level_of_every_depth(png, bits):
    values = np.array([[1, 0, 1, 0, 1, 0, 1, 1]] * 2) * (2**bits - 1)
    packed = "".join(format(v, f"0{bits}b") for v in values[0])
    row = bytes(int(packed[i : i + 8], 2) for i in range(0, len(packed), 8))
    path = png((8, 2), bits, 0, [row, row], [(b"tRNS", struct.pack(">H", 2**bits - 1))])
    for source in (path, Image.open(path)):
        assert to_planes(source).alpha.numpy().tolist() == [[0, 1, 0, 1, 0, 1, 0, 0]] * 2


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_color(png, bits):
    colors = np.array([[[1, 2, 3], [3, 2, 1]]] * 2) * (60 if bits == 8 else 15420)
    rows = [row.astype(">u2" if bits == 16 else np.uint8).tobytes() for row in colors]
    path = png((2, 2), bits, 2, rows, [(b"tRNS", struct.pack(">3H", *colors[0, 0]))])
    for source in (path, Image.open(path)):
        assert to_planes(source).alpha.numpy().tolist() == [[0, 1]] * 2


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_transparent_entries_of_a_palette(png, bits):
    row = bytes([0b01000000]) if bits == 1 else bytes([0b00010000 >> (0 if bits == 2 else 4), 0])
    row = bytes([1, 0]) if bits == 8 else row[: (2 * bits + 7) // 8]
    if bits in (1, 2, 4):
        row = bytes([{1: 0b10000000, 2: 0b01000000, 4: 0b00010000}[bits]])
    chunks = [(b"PLTE", bytes([255, 0, 0, 0, 255, 0])), (b"tRNS", bytes([100, 255]))]
    planes = to_planes(png((2, 1), bits, 3, [row], chunks))
    assert planes.alpha.numpy() == pytest.approx(np.array([[1, 100 / 255]]))


@pytest.mark.parametrize("mode", ["RGBa", "La"])
def test_premultiplied_alpha_is_divided_out(mode):
    image = Image.new(
        "RGBA" if mode == "RGBa" else "LA", (4, 4), (200,) * (3 if "R" in mode else 1) + (128,)
    )
    planes = to_planes(image.convert(mode))
    assert (planes.rgb + 1).mul(127.5).numpy() == pytest.approx(200, abs=1.5)


def test_half_transparent_frames_are_put_over_each_other(tmp_path):
    frames = [
        Image.new("RGBA", (4, 4), (255, 0, 0, 128)),
        Image.new("RGBA", (4, 4), (0, 0, 255, 128)),
    ]
    frames[0].save(
        tmp_path / "a.png", save_all=True, append_images=frames[1:], blend=1, duration=50
    )
    seen = [planes.alpha[0, 0].item() for planes in open_animation(tmp_path / "a.png").frames()]
    assert seen == pytest.approx([128 / 255, 1 - (127 / 255) ** 2], abs=3e-3)


# --- color labels ---------------------------------------------------------------------------------

GREEN = [bytes([0, 200, 0] * 4)] * 4
DISPLAY_P3 = make_profile(PRIMARIES[12], SRGB_CURVE)


def test_made_profiles_agree_with_littlecms():
    for points, curve in (
        (PRIMARIES[12], SRGB_CURVE),
        (ADOBE_RGB, (563 / 256,)),
        (PRIMARIES[9], (1.0,)),
    ):
        profile = make_profile(points, curve)
        colors = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)
        theirs = ImageCms.profileToProfile(
            Image.fromarray(colors),
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        )
        ours = color_space(profile).to_srgb(np.moveaxis(colors / 255, -1, 0)).clip(0, 1) * 255
        assert np.abs(np.moveaxis(np.asarray(theirs, float), -1, 0) - ours).max() < 1.5
    assert make_profile(PRIMARIES[1], SRGB_CURVE) is None


def test_cicp_of_a_png_becomes_a_profile(png):
    path = png((4, 4), 8, 2, GREEN, [(b"cICP", bytes([12, 13, 0, 1]))])
    image = load(path)
    assert image.metadata.icc_profile == DISPLAY_P3 and to_planes(image).wide
    assert to_planes(Image.open(path)).icc_profile == DISPLAY_P3
    assert (
        load(png((4, 4), 8, 2, GREEN, [(b"cICP", bytes([1, 13, 0, 1]))])).metadata.icc_profile
        is None
    )
    for transfer, name in ((16, "PQ"), (18, "HLG")):
        with pytest.raises(PatchScalerError, match=rf"made.png: is HDR \({name}\)"):
            to_planes(png((4, 4), 8, 2, GREEN, [(b"cICP", bytes([9, transfer, 0, 1]))]))


@pytest.mark.parametrize(
    ("pair", "expected"), [((12, 13), DISPLAY_P3), ((1, 13), None), ((9, 16), "HDR")]
)
def test_nclx_of_heic(tmp_path, pair, expected):
    heif = pytest.importorskip("pillow_heif")
    names = {"color_primaries": pair[0], "transfer_characteristics": pair[1]}
    image = heif.from_pillow(Image.new("RGB", (64, 64), (0, 200, 0)))
    image.save(str(tmp_path / "a.heic"), matrix_coefficients=1, full_range_flag=1, **names)
    if expected == "HDR":
        with pytest.raises(PatchScalerError, match="is HDR"):
            load(tmp_path / "a.heic")
    else:
        assert load(tmp_path / "a.heic").metadata.icc_profile == expected


def test_gamma_and_chromaticities_of_a_png(png):
    linear = load(png((4, 4), 8, 2, GREEN, [(b"gAMA", struct.pack(">I", 100_000))]))
    seen = (to_planes(linear).rgb[1, 0, 0].item() + 1) / 2
    assert seen == pytest.approx(1.055 * (200 / 255) ** (1 / 2.4) - 0.055, abs=2e-3)
    assert (
        load(png((4, 4), 8, 2, GREEN, [(b"gAMA", struct.pack(">I", 45_455))])).metadata.icc_profile
        is None
    )
    points = [round(v * 100_000) for v in PRIMARIES[12]]
    wide = load(png((4, 4), 8, 2, GREEN, [(b"cHRM", struct.pack(">8I", *points))]))
    assert to_planes(wide).wide


@pytest.mark.parametrize("suffix", ["jpg", "webp", "tif"])
def test_adobe_rgb_by_exif(tmp_path, suffix):
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ColorSpace] = 2
    Image.new("RGB", (16, 16), (0, 200, 0)).save(tmp_path / f"a.{suffix}", exif=exif.tobytes())
    assert load(tmp_path / f"a.{suffix}").metadata.icc_profile == make_profile(
        ADOBE_RGB, (563 / 256,)
    )


# --- metadata -------------------------------------------------------------------------------------


def packet(attributes: str, inside: str = "") -> bytes:
    rdf = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{rdf}"><rdf:Description '
        f'rdf:about="" {attributes}>{inside}</rdf:Description></rdf:RDF></x:xmpmeta>'
    ).encode()


@pytest.mark.parametrize(
    ("attributes", "note"),
    [
        (
            'xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:MotionPhoto="1" '
            'GCamera:MicroVideoOffset="1230"',
            "not kept: motion photo",
        ),
        (
            'xmlns:h="http://ns.adobe.com/hdr-gain-map/1.0/" h:Version="1.0"',
            "not kept: gain map",
        ),
    ],
)
def test_pointers_to_what_is_gone_go_too(tmp_path, attributes, note):
    xmp = packet(attributes + ' xmlns:dc="http://purl.org/dc/elements/1.1/" dc:creator="Ada"')
    Image.new("RGB", (16, 16)).save(tmp_path / "a.jpg", xmp=xmp)
    image = load(tmp_path / "a.jpg")
    assert note in image.notes
    save_image(np.zeros((64, 64, 3), np.uint8), tmp_path / "b.jpg", image.metadata)
    written = Image.open(tmp_path / "b.jpg").info["xmp"]
    assert b"Ada" in written and b"1230" not in written and b"Version" not in written


def test_extended_xmp_is_joined_or_its_pointer_removed(tmp_path):
    note = 'xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="%s"' % ("A" * 32)
    more = packet('xmlns:dc="http://purl.org/dc/elements/1.1/" dc:creator="Ada"')
    for extension, kept in ((more, True), (b"<x>EXT..", False)):
        head = (
            b"http://ns.adobe.com/xmp/extension/\0"
            + b"A" * 32
            + struct.pack(">II", len(extension), 0)
        )
        body = head + extension
        segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
        Image.new("RGB", (16, 16)).save(tmp_path / "a.jpg", xmp=packet(note), extra=segment)
        image = load(tmp_path / "a.jpg")
        assert b"HasExtendedXMP" not in image.metadata.xmp
        assert (b"Ada" in image.metadata.xmp) == kept
        assert ("its extended XMP data was left out" in image.notes) != kept


def test_regions_follow_the_image_or_go():
    regions = packet(
        'xmlns:r="http://www.metadataworkinggroup.com/schemas/regions/"',
        '<r:Regions rdf:parseType="Resource"><r:AppliedToDimensions '
        'xmlns:d="http://ns.adobe.com/xap/1.0/sType/Dimensions#" d:w="10" d:h="20" d:unit="pixel"/>'
        "</r:Regions>",
    )
    kept, notes = upscaled(regions, (40, 80), (4, 4))
    assert b'd:w="40"' in kept and b'd:h="80"' in kept and notes == []
    turned, notes = upscaled(regions, (80, 40), (4, 4), turned=True)
    assert b"Regions" not in turned and notes == ["not kept: regions (of faces)"]


def test_subject_area_and_thumbnail_go(tmp_path):
    exif = Image.Exif()
    camera = exif.get_ifd(ExifTags.IFD.Exif)
    camera[0x9214], camera[ExifTags.Base.FNumber] = (5, 5, 2, 2), 2.8
    Image.new("RGB", (16, 16)).save(tmp_path / "a.jpg", exif=exif)
    save_image(
        np.zeros((64, 64, 3), np.uint8), tmp_path / "b.jpg", load(tmp_path / "a.jpg").metadata
    )
    written = Image.open(tmp_path / "b.jpg").getexif().get_ifd(ExifTags.IFD.Exif)
    assert 0x9214 not in written and float(written[ExifTags.Base.FNumber]) == 2.8


def test_a_png_speaks_behind_its_pixels(png):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Artist] = 6, "Ada"
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0" + packet('xmlns:a="urn:a" a:b="c"')
    after = [(b"eXIf", exif.tobytes()[6:]), (b"iTXt", xmp), (b"tEXt", b"Title\0A cat")]
    path = png((4, 2), 8, 2, [bytes(12)] * 2, after=after)
    image = load(path)
    assert (image.width, image.height) == (2, 4) and image.metadata.texts == {"Title": "A cat"}
    assert b"Ada" in image.metadata.exif and b'a:b="c"' in image.metadata.xmp
    assert to_planes(Image.open(path)).size == (2, 4)


def test_resolution_and_aspect_survive(tmp_path, png):
    wide = png((4, 4), 8, 2, GREEN, [(b"pHYs", struct.pack(">IIB", 2, 1, 0))])
    data = load(wide).metadata
    for suffix in ("png", "jpg", "tif", "webp", "avif"):
        save_image(np.zeros((16, 16, 3), np.uint8), tmp_path / f"b.{suffix}", data)
        across, down = load(tmp_path / f"b.{suffix}").metadata.dpi
        assert across / down == pytest.approx(2, rel=1e-2)


# --- main images, times, names --------------------------------------------------------------------


def test_the_main_image_of_a_tiff(tmp_path, picture):
    small, large, other = picture(8, 8), picture(32, 48), picture(16, 16)
    pages = {"save_all": True, "append_images": [large, other], "tiffinfo": {254: 0}}
    small.save(tmp_path / "a.tif", **pages)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    entry = struct.pack("<HHI", 254, 4, 1)
    place = data.index(entry)
    data[place + 8] = 1  # a reduced image
    (tmp_path / "a.tif").write_bytes(data)
    image = load(tmp_path / "a.tif")
    assert image.width == 48 and image.notes == ["holds 2 pages; only the first is upscaled"]


@pytest.mark.parametrize("rate", [60, 24, 29.97])
def test_animations_last_as_long_as_before(tmp_path, rate, picture):
    frames = [np.asarray(picture(8, 8, seed)) for seed in range(12)]
    pictures = [Image.fromarray(f) for f in frames]
    pictures[0].save(
        tmp_path / "a.png", save_all=True, append_images=pictures[1:], duration=1000 / rate
    )
    moving = open_animation(tmp_path / "a.png")
    list(moving.frames())
    assert moving.durations == pytest.approx([1000 / rate] * 12, rel=1e-3)
    for suffix in ("png", "webp", "avif"):
        save_animation(frames, tmp_path / f"b.{suffix}", moving)
        again = open_animation(tmp_path / f"b.{suffix}")
        list(again.frames())
        assert sum(again.durations) == pytest.approx(12_000 / rate, abs=1000 / rate / 2)


def test_times_of_gif():
    assert rounded_times([1000 / 24] * 3, "GIF") == [40, 40, 40] or sum(
        rounded_times([1000 / 24] * 3, "GIF")
    ) == pytest.approx(125, abs=10)
    assert (
        min(rounded_times([1000 / 60] * 6, "GIF")) == 20
    )  # players show less for a tenth of a second
    assert rounded_times([10, 30], "GIF") == [10, 30]
    assert rounded_times([1000 / 60] * 3, "WEBP") == [17, 16, 17]


def test_the_content_names_the_output():
    assert suffix_of("JPEG", "a.jfif") == ".jfif" and suffix_of("JPEG", "photo") == ".jpg"
    assert suffix_of("JPEG", "a.mpo") == ".jpg" and suffix_of("HEIF", "A.HIF") == ".HIF"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"%PDF-1.7", "is a PDF document"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b'<?xml version="1.0"?><svg>', "is an SVG drawing"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "is a JPEG 2000 image"),
        (b"\0\0\0\x18ftypmp42" + bytes(20), "is a video"),
        (b"8BPS\0\1", "is a Photoshop document"),
    ],
)
def test_errors_say_what_a_file_is(tmp_path, data, what):
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(PatchScalerError, match=rf"a\.jpg: {what}.*JPEG, PNG.* can be read"):
        load(tmp_path / "a.jpg")


def test_jpegs_that_are_not_and_urls(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.jpg")
    data = bytearray((tmp_path / "a.jpg").read_bytes())
    data[data.index(b"\xff\xc0") + 4] = 12
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(PatchScalerError, match="is a 12-bit JPEG"):
        load(tmp_path / "a.jpg")
    with pytest.raises(PatchScalerError, match="is a URL"):
        load("https://example.org/a.jpg")


def test_a_write_protected_output_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"old")
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path / "a.png")
    with pytest.raises(PatchScalerError, match="is write-protected"):
        check_output(tmp_path / "a.png")


def test_threads_and_pillows_own_limits(tmp_path, picture):
    picture(64, 64).save(tmp_path / "a.png")
    limit, filters, seen = Image.MAX_IMAGE_PIXELS, list(warnings.filters), []
    threads = [
        threading.Thread(target=lambda: seen.append(load(tmp_path / "a.png"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8 and limit == Image.MAX_IMAGE_PIXELS and warnings.filters == filters


def test_phone_photos_come_out_upright(tmp_path, picture):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture(16, 24).save(tmp_path / "a.jpg", exif=exif)
    for source in (tmp_path / "a.jpg", str(tmp_path / "a.jpg"), Image.open(tmp_path / "a.jpg")):
        assert to_planes(source).size == (16, 24)
    upright = load(tmp_path / "a.jpg").pixels
    assert to_planes(upright.crop((0, 0, 16, 8))).size == (16, 8)


# --- sizes ----------------------------------------------------------------------------------------


def test_sizes_as_texts():
    sizes = {"3000x": (3000, 2000), "x1000": (1500, 1000), "900x900": (900, 600), "2": (600, 400)}
    for text, expected in sizes.items():
        assert TargetSize.parse(text).size(300, 200) == expected
    assert TargetSize.parse("12MP").size(300, 200) == (4243, 2828)
    for text in ("4x4x", "x", "big", "-3", "1e3", "3000 x"):
        with pytest.raises(PatchScalerError, match="is not a size"):
            TargetSize.parse(text)
    assert TargetSize.of() == TargetSize(scale=4) and TargetSize.of(None, "2") == TargetSize(
        scale=2
    )
    with pytest.raises(PatchScalerError, match="both given"):
        TargetSize.of(2, "3000x")
    for scale in (0, -1, 65, float("nan"), "2", True):
        with pytest.raises(PatchScalerError, match="scale"):
            TargetSize.of(scale)
    assert Metadata((8, 8)).upscaled(16, 16).size == (16, 16)
