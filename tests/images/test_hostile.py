"""Files that lie, bite or vanish: one clear line each, nothing lost, nothing left behind."""

import os
import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from patchscaler.errors import PatchScalerError
from patchscaler.images.formats import SUFFIXES as FORMATS
from patchscaler.images.jxl import jxl_size
from patchscaler.images.metadata import MAX_BLOCK
from patchscaler.images.read import load
from patchscaler.images.write import save_image


def fails(path, match: str) -> None:
    before = path.read_bytes()
    with pytest.raises(PatchScalerError, match=match) as caught:
        load(path)
    assert str(caught.value).count("\n") == 0 and len(str(caught.value)) < 500
    assert path.read_bytes() == before


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(*chunks: bytes, size: tuple[int, int] = (8, 8)) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0))
    rows = zlib.compress(bytes((size[0] + 1) * min(size[1], 100)))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(chunks)
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


# --- cut, mislabelled -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "suffix", [s for s in FORMATS if s not in (".apng", ".jpeg", ".tiff", ".heif")]
)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_every_format_cut_short(picture, tmp_path, suffix, share, capfd):
    path = tmp_path / f"a{suffix}"
    save_image(np.asarray(picture(64, 64)), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    fails(path, r"a\.\w+: (damaged or cut off|is )")
    printed = capfd.readouterr()
    assert not printed.out and (suffix == ".tif" or not printed.err)  # libtiff writes a line


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF"])
def test_the_content_counts_and_not_the_name(picture, tmp_path, kind):
    path = tmp_path / "a.bmp"
    picture(16, 16).save(path, kind)
    assert load(path).format == kind


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".heic", ".jxl", ".tif"])
@pytest.mark.parametrize(
    "data",
    [
        b"GIF",
        b"MZ" + bytes(500),
        b"%PDF-1.4\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"<svg/>",
    ],
)
def test_other_files_of_these_names(tmp_path, suffix, data):
    (tmp_path / f"a{suffix}").write_bytes(data)
    fails(tmp_path / f"a{suffix}", "is (a|an|not) ")


# --- bombs ----------------------------------------------------------------------------------------


def test_bombs_of_pixels(tmp_path):
    (tmp_path / "a.png").write_bytes(png(size=(100_000, 100_000)))
    fails(tmp_path / "a.png", "100000x100000 is more than the limit of 500 megapixels")


def test_bombs_in_jpeg_xl_are_seen_before_they_are_decoded(tmp_path):
    # SizeHeader: not small; height and width by 30 bits; no ratio
    bits = 0 | 3 << 1 | (100_000 - 1) << 3 | 0 << 33 | 3 << 36 | (200_000 - 1) << 38
    stream = b"\xff\x0a" + bits.to_bytes(10, "little") + bytes(40)
    (tmp_path / "a.jxl").write_bytes(stream)
    fails(tmp_path / "a.jxl", "200000x100000 is more than the limit")
    boxes = b"\0\0\0\x0cJXL \r\n\x87\n" + struct.pack(">I4s", 20, b"ftyp") + bytes(12)
    (tmp_path / "b.jxl").write_bytes(
        boxes + struct.pack(">I4sQ", 1, b"jxlp", 80) + bytes(4) + stream
    )
    fails(tmp_path / "b.jxl", "200000x100000 is more than the limit")
    (tmp_path / "c.jxl").write_bytes(boxes + struct.pack(">I4s", 8, b"none") * 5000)
    fails(tmp_path / "c.jxl", "without an image")
    (tmp_path / "d.jxl").write_bytes(boxes + struct.pack(">I4s", 3, b"jxlc"))
    fails(tmp_path / "d.jxl", "damaged or cut off")


@pytest.mark.parametrize("size", [(13, 9), (64, 48), (160, 90), (300, 200), (1000, 24), (256, 256)])
def test_sizes_of_jpeg_xl(tmp_path, size):
    save_image(np.zeros((size[1], size[0], 3), np.uint8), tmp_path / "a.jxl")
    assert jxl_size(tmp_path / "a.jxl", (tmp_path / "a.jxl").read_bytes()[:64]) == size


def test_bombs_of_text(tmp_path):
    bomb = zlib.compress(bytes(100_000_000), 9)
    (tmp_path / "a.png").write_bytes(png(chunk(b"zTXt", b"Comment\0\0" + bomb)))
    fails(tmp_path / "a.png", "damaged or cut off")
    (tmp_path / "b.png").write_bytes(png(chunk(b"iCCP", b"profile\0\0" + bomb)))
    fails(tmp_path / "b.png", "damaged or cut off")


def test_metadata_larger_than_any_camera_writes(tmp_path):
    path = tmp_path / "a.webp"
    Image.new("RGB", (8, 8)).save(path, xmp=b"<x/>" + bytes(MAX_BLOCK))
    picture = load(path)
    assert picture.metadata.xmp is None and picture.notes == [
        "its XMP is larger than 2 MB and was left out"
    ]


def test_hostile_numbers(tmp_path):
    for value in (struct.pack(">IIB", 2**31, 1, 1), struct.pack(">IIB", 0, 0, 1)):
        (tmp_path / "a.png").write_bytes(png(chunk(b"pHYs", value)))
        dpi = load(tmp_path / "a.png").metadata.dpi
        assert dpi is None or all(1 <= v < 1e6 for v in dpi)
        save_image(
            np.zeros((32, 32, 1), np.uint8),
            tmp_path / "o.jpg",
            load(tmp_path / "a.png").metadata,
        )


def test_floats_in_colour_are_refused_with_the_mend(tmp_path):
    pyvips = pytest.importorskip("pyvips")
    image = pyvips.Image.new_from_array(np.zeros((8, 8, 3), np.float32)).copy(
        interpretation="scrgb"
    )
    image.tiffsave(str(tmp_path / "a.tif"))
    fails(tmp_path / "a.tif", "is a TIFF of a kind that cannot be read|save it with 8 or 16 bits")


# --- names, links, folders ------------------------------------------------------------------------


def test_sixteen_bits_under_names_that_libraries_read_as_options(tmp_path):
    save_image(np.full((8, 8, 3), 999, np.uint16), tmp_path / "a[page=3].png")
    assert load(tmp_path / "a[page=3].png").pixels[0, 0, 0] == 999
    save_image(np.full((8, 8, 3), 999, np.uint16), tmp_path / "b[x=1].avif")
    assert load(tmp_path / "b[x=1].avif").bits == 16


def test_neither_file_nor_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(PatchScalerError, match="neither a file nor a folder"):
        load(tmp_path / "pipe.png")


def test_libvips_on_a_full_disk_ends_in_one_line(tmp_path):
    pytest.importorskip("pyvips")
    path, noise = (
        tmp_path / "a.avif",
        np.random.default_rng(0).integers(0, 65536, (64, 64, 3), np.uint16),
    )
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # as a full disk does it: no file takes more
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(PatchScalerError) as caught:
            save_image(noise, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value) == f"{path}: cannot be written (File too large)"
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
