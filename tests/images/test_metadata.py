"""What a file says besides its pixels comes out again, brought to the new size; 16 bits stay 16
bits.
"""

import struct

import numpy as np
import pytest
from PIL import ExifTags, Image, PngImagePlugin

from patchscaler.images import exif as exif_block
from patchscaler.images.metadata import Metadata, exif_for_tiff, iptc_segment
from patchscaler.images.pixels import turn_array, upright
from patchscaler.images.planes import to_planes
from patchscaler.images.read import load
from patchscaler.images.write import save_image

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
    b'xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    b'tiff:Orientation="6" exif:PixelXDimension="24" '
    b'dc:creator="Ada">'
    b"<tiff:ImageWidth>24</tiff:ImageWidth></rdf:Description></rdf:RDF></x:xmpmeta>"
)
IPTC = b"\x1c\x02\x78\0\x03cap"
WITH_EXIF = (".jpg", ".png", ".webp", ".tif", ".avif", ".heic", ".jxl")


def make_exif(turn: int = 6, order: str = "<") -> bytes:
    block = Image.Exif()
    block.endian = order
    block[ExifTags.Base.Orientation], block[ExifTags.Base.Make], block[ExifTags.Base.Artist] = (
        turn,
        "Maker",
        "Ada",
    )
    block[ExifTags.Base.XResolution] = block[ExifTags.Base.YResolution] = 300.0
    block[ExifTags.Base.ResolutionUnit] = 2
    camera = block.get_ifd(ExifTags.IFD.Exif)
    camera[ExifTags.Base.ExifImageWidth], camera[ExifTags.Base.ExifImageHeight] = 24, 16
    camera[ExifTags.Base.FNumber], camera[ExifTags.Base.MakerNote] = (
        2.8,
        b"secret bytes of the maker",
    )
    block.get_ifd(ExifTags.IFD.GPSInfo)[1] = "N"
    return block.tobytes()


@pytest.fixture
def photo(tmp_path, picture):
    """A JPEG of 24x16 that is to be turned, with everything in it."""
    path = tmp_path / "photo.jpg"
    picture(16, 24).save(
        path,
        exif=make_exif(),
        dpi=(300, 300),
        xmp=XMP,
        comment=b"hello",
        quality=95,
        extra=iptc_segment(IPTC),
    )
    return path


# --- the whole way --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [*WITH_EXIF, ".bmp", ".gif"])
def test_everything_that_a_format_holds_comes_out(photo, tmp_path, suffix):
    picture = load(photo)
    assert (picture.width, picture.height) == (16, 24)
    array = np.asarray(picture.pixels).repeat(4, 0).repeat(4, 1)
    notes = save_image(array, tmp_path / f"o{suffix}", picture.metadata)
    back = load(tmp_path / f"o{suffix}")
    assert (back.width, back.height) == (64, 96)
    if suffix != ".gif":
        # prints as large as before
        assert back.metadata.dpi == pytest.approx((1200, 1200), abs=0.1)
    if suffix not in WITH_EXIF:
        assert "holds no EXIF" in notes[0]
        return
    assert notes == []
    exif = Image.open(tmp_path / f"o{suffix}").getexif()
    assert exif.get(ExifTags.Base.Orientation, 1) == 1 and exif[ExifTags.Base.Artist] == "Ada"
    assert float(exif[ExifTags.Base.XResolution]) == 1200
    camera = exif.get_ifd(ExifTags.IFD.Exif)
    assert (camera[ExifTags.Base.ExifImageWidth], camera[ExifTags.Base.ExifImageHeight]) == (64, 96)
    assert (
        camera[ExifTags.Base.MakerNote] == b"secret bytes of the maker"
        and float(camera[ExifTags.Base.FNumber]) == 2.8
    )
    assert exif.get_ifd(ExifTags.IFD.GPSInfo)[1] == "N"
    if suffix != ".jxl":  # its plugin does not give XMP back
        assert (
            b'tiff:Orientation="1"' in back.metadata.xmp
            and b'exif:PixelXDimension="64"' in back.metadata.xmp
        )
        assert (
            b"<tiff:ImageWidth>64<" in back.metadata.xmp
            and b'dc:creator="Ada"' in back.metadata.xmp
        )
    assert back.metadata.iptc == (IPTC if suffix in (".jpg", ".tif") else None)
    assert back.metadata.comment == (b"hello" if suffix == ".jpg" else None)


def test_png_texts(tmp_path):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Title", "A cat")
    texts.add_itxt("Author", "Zoë")
    texts.add_text("parameters", "x" * 3000, zip=True)
    Image.new("L", (8, 8)).save(tmp_path / "a.png", pnginfo=texts)
    metadata = load(tmp_path / "a.png").metadata
    expected = {"Title": "A cat", "Author": "Zoë", "parameters": "x" * 3000}
    assert metadata.texts == expected
    for kind in (np.uint8, np.uint16):
        save_image(np.zeros((8, 8, 3), kind), tmp_path / "b.png", metadata)
        assert load(tmp_path / "b.png").metadata.texts == expected


def test_a_tiff_without_density_stays_without(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.tif")
    metadata = load(tmp_path / "a.tif").metadata
    assert metadata.dpi is None
    save_image(np.zeros((32, 32, 3), np.uint8), tmp_path / "b.tif", metadata.upscaled(32, 32))
    with Image.open(tmp_path / "b.tif") as image:
        assert 282 not in image.tag_v2


def test_tiffs_own_directory(tmp_path):
    Image.new("RGB", (8, 8)).save(
        tmp_path / "a.tif",
        tiffinfo={270: "What it shows", 306: "2024:01:02 03:04:05"},
        dpi=(600, 600),
    )
    metadata = load(tmp_path / "a.tif").metadata
    assert metadata.dpi == (600, 600)
    save_image(np.zeros((32, 32, 3), np.uint8), tmp_path / "b.tif", metadata)
    with Image.open(tmp_path / "b.tif") as image:
        assert image.tag_v2[270] == "What it shows" and image.tag_v2[306] == "2024:01:02 03:04:05"
        assert image.tag_v2[282] == 2400 and image.size == (32, 32) and image.tag_v2[259] == 8


def test_provenance_joins_what_is_there():
    facts = {"Software": 'PatchScaler "1"', "Seed": "7"}
    alone = Metadata((8, 8)).with_provenance(facts)
    assert alone.own_xmp and b'ps:Seed="7"' in alone.xmp and b"PatchScaler" in alone.xmp
    both = Metadata((8, 8), xmp=XMP).with_provenance(facts)
    assert not both.own_xmp and b'dc:creator="Ada"' in both.xmp and b'ps:Seed="7"' in both.xmp
    from xml.etree import ElementTree

    ElementTree.fromstring(alone.xmp.decode().split("?>", 1)[1].rsplit("<?", 1)[0])


# --- orientation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_every_orientation(tmp_path, turn, suffix):
    # Four corners of four colours, stored as a camera that was held like this would.
    quarters = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
    upright_picture = quarters.repeat(16, 0).repeat(24, 1)
    inverse = {6: 8, 8: 6}.get(turn, turn)
    stored = np.ascontiguousarray(turn_array(upright_picture, inverse))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    options = {"quality": 95, "subsampling": 0} if suffix == ".jpg" else {}
    Image.fromarray(stored).save(tmp_path / f"a{suffix}", exif=exif.tobytes(), **options)
    picture = load(tmp_path / f"a{suffix}")
    found = np.asarray(picture.pixels).astype(int)
    assert found.shape == upright_picture.shape
    assert np.abs(found - upright_picture)[[2, 2, -3, -3], [2, -3, 2, -3]].max() < 40
    assert (picture.width, picture.height) == (48, 32)
    if turn > 1 and suffix != ".tif":
        assert Image.Exif.get(_loaded(picture.metadata.exif), ExifTags.Base.Orientation) == 1


def _loaded(data: bytes) -> Image.Exif:
    block = Image.Exif()
    block.load(data)
    return block


@pytest.mark.parametrize("turn", range(1, 9))
def test_arrays_turn_as_pillow_images_do(turn):
    array = np.random.default_rng(0).integers(0, 255, (5, 7, 3)).astype(np.uint8)
    assert np.array_equal(
        turn_array(array, turn), np.asarray(upright(Image.fromarray(array), turn))
    )


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_turned_too(tmp_path, suffix):
    array = np.random.default_rng(0).integers(0, 65536, (6, 9, 3)).astype(np.uint16)
    save_image(
        array, tmp_path / f"a{suffix}", Metadata((9, 6), make_exif().removeprefix(b"Exif\0\0"))
    )
    data = bytearray((tmp_path / f"a{suffix}").read_bytes())
    plain = load(tmp_path / f"a{suffix}")
    assert np.array_equal(plain.pixels, array)  # the tag was reset when it was written
    if suffix == ".png":  # put it back
        start = data.index(b"eXIf")
        block = exif_block.Block(bytes(data[start + 4 :]))
        entry = next(e for e in block.entries(block.first) if e.tag == exif_block.ORIENTATION)
        data[start + 4 + entry.place + 8] = 6
        end = start + 4 + struct.unpack(">I", data[start - 4 : start])[0]
        import zlib

        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[start:end]))
        (tmp_path / "b.png").write_bytes(data)
        turned = load(tmp_path / "b.png")
        assert np.array_equal(turned.pixels, np.rot90(array, -1)) and (
            turned.width,
            turned.height,
        ) == (6, 9)


# --- the block, byte by byte ----------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
def test_only_what_must_change_changes(order):
    exif = make_exif(order=order).removeprefix(b"Exif\0\0")
    new = exif_block.upscaled(exif, (96, 64), (4, 4))
    assert len(new) == len(exif)
    # orientation, two sides, two densities
    assert sum(a != b for a, b in zip(exif, new, strict=True)) < 24
    assert exif_block.Block(new).density() == (1200, 1200)
    wide = exif_block.upscaled(exif, (96_000, 64), (4, 4))  # more than two bytes hold
    assert _loaded(wide).get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] == 96_000


def test_thumbnails_of_the_small_picture_go():
    block = bytearray(make_exif().removeprefix(b"Exif\0\0"))
    (count,) = struct.unpack_from("<H", block, 8)
    struct.pack_into("<I", block, 10 + 12 * count, len(block))
    block += struct.pack("<H", 0) + bytes(4)
    assert struct.unpack_from(
        "<I", exif_block.upscaled(bytes(block), (8, 8), (1, 1)), 10 + 12 * count
    ) == (0,)


def test_without_orientation():
    exif = make_exif().removeprefix(b"Exif\0\0")
    shorter = exif_block.without_orientation(exif)
    loaded = _loaded(shorter)
    assert ExifTags.Base.Orientation not in loaded and loaded[ExifTags.Base.Artist] == "Ada"
    assert (
        loaded.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] == b"secret bytes of the maker"
    )
    assert exif_block.without_orientation(shorter) == shorter


@pytest.mark.parametrize(
    "data", [b"", b"II", b"XX*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"]
)
def test_damaged_blocks_are_left_out_with_a_word(tmp_path, data):
    with pytest.raises((ValueError, struct.error)):
        exif_block.upscaled(data, (8, 8), (1, 1))
    if data:
        Image.new("RGB", (8, 8)).save(tmp_path / "a.webp", exif=b"Exif\0\0" + data)
        picture = load(tmp_path / "a.webp")
        assert picture.metadata.exif is None and picture.notes == [
            "its EXIF data is damaged and was left out"
        ]


def test_too_long_for_a_jpeg(tmp_path):
    block = Image.Exif()
    block[ExifTags.Base.Artist] = "Ada"
    block.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] = bytes(70_000)
    metadata = Metadata((8, 8), block.tobytes().removeprefix(b"Exif\0\0"), b"<x>" + b" " * 70_000)
    notes = save_image(np.zeros((8, 8, 3), np.uint8), tmp_path / "a.jpg", metadata)
    assert "the maker's note was left out" in notes[0] and "XMP data is too long" in notes[1]
    assert load(tmp_path / "a.jpg").metadata.exif is not None
    assert iptc_segment(bytes(70_000)) == b""


def test_big_tiff_directories():
    ifd = exif_for_tiff(Metadata((8, 8), make_exif().removeprefix(b"Exif\0\0")), big=True)
    ifd[256] = 8
    assert ifd.tobytes()[:8] == struct.pack("<Q", len(ifd))


# --- depth ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_through_files(tmp_path, channels, suffix):
    array = np.random.default_rng(0).integers(0, 65536, (37, 23, channels)).astype(np.uint16)
    assert save_image(array, tmp_path / f"a{suffix}") == []
    picture = load(tmp_path / f"a{suffix}")
    if suffix == ".tif" and channels == 2:
        array = array[..., [0, 0, 0, 1]]
    assert picture.bits == 16 and np.array_equal(np.atleast_3d(np.asarray(picture.pixels)), array)
    half = load(tmp_path / f"a{suffix}", bits=8)
    assert half.bits == 8 and to_planes(half).bits == 8


@pytest.mark.parametrize("suffix", [".avif", ".heic"])
def test_twelve_bits_of_sixteen(tmp_path, suffix):
    ramp = np.linspace(0, 65535, 512).astype(np.uint16)[None, :, None].repeat(16, 0).repeat(3, 2)
    save_image(ramp, tmp_path / f"a{suffix}", quality=100)
    picture = load(tmp_path / f"a{suffix}")
    # 8 bits would have 256
    assert picture.bits == 16 and len(np.unique(picture.pixels[8, :, 1])) > 400
    assert np.abs(picture.pixels.astype(int) - ramp).max() < 700 and picture.pixels.max() > 65000


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp", ".gif", ".jxl"])
def test_formats_of_eight_bits_say_so(tmp_path, suffix):
    notes = save_image(np.full((8, 8, 3), 32896, np.uint16), tmp_path / f"a{suffix}")
    assert any("holds 8 bits a channel; 16 came in" in note for note in notes)
    assert (
        abs(
            int(
                np.asarray(to_planes(load(tmp_path / f"a{suffix}")).rgb.mul(127.5).add(127.5))[
                    0, 4, 4
                ]
            )
            - 128
        )
        <= 2
    )
