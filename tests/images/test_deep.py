"""Files of more than 8 bits a channel, made by hand: what their tags say of inks, white, spare
samples and clear.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin
from profiles import ADOBE, gamma, make_profile

from patchscaler.errors import PatchScalerError
from patchscaler.images import rows
from patchscaler.images.planes import to_planes
from patchscaler.images.read import LoadedImage, load, load_image
from patchscaler.images.rows import Rows
from patchscaler.images.write import save_image

pyvips = pytest.importorskip("pyvips")

GREY_WHITE_IS_ZERO, GREY, RGB, CMYK = 0, 1, 2, 5  # tag 262


def tiff(
    path: Path,
    array: np.ndarray,
    photometric: int,
    bits: int = 0,
    extra: tuple[int, ...] = (),
    profile: bytes = b"",
) -> Path:
    """(h, w, c) -> one strip, not packed. bits: 12, or those of the array; extra: meanings of
    samples behind.
    """
    h, w, c = array.shape
    ifd = TiffImagePlugin.ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    kind = {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    tags = {
        256: w,
        257: h,
        258: (bits or 8 * array.itemsize,) * c,
        259: 1,
        262: photometric,
        273: 0,
        277: c,
        278: h,
    }
    data = twelve_bits(array) if bits == 12 else array.tobytes()
    tags |= {279: len(data), 284: 1, 339: (kind,) * c}
    tags |= {338: extra} if extra else {}
    tags |= {34675: profile} if profile else {}
    for tag, value in tags.items():
        ifd[tag] = value
    ifd.tagtype[273] = 4
    with path.open("wb") as file:
        ifd.save(file)
        file.write(data)
    return path


def twelve_bits(array: np.ndarray) -> bytes:
    """Rows of 12 bits, each padded to whole bytes."""
    rows = ["".join(f"{value:012b}" for value in row.ravel()) for row in array]
    return b"".join(
        int(row.ljust(-len(row) // 8 * -8, "0"), 2).to_bytes(-(-len(row) // 8), "big")
        for row in rows
    )


def flat(*values: int, kind: type = np.uint16) -> np.ndarray:
    """(4, 6, c) of one colour."""
    return np.tile(np.array(values, kind), (4, 6, 1))


def grey_of(picture: LoadedImage) -> np.ndarray:
    """(h, w) in 0..65535, of a picture that is grey."""
    planes = to_planes(picture)
    assert planes.grey and planes.bits == picture.bits
    return ((planes.rgb[0].double() + 1) * 32767.5).numpy()


def color_of(picture: LoadedImage) -> list[float]:
    """Of the first pixel, in 0..255."""
    return ((to_planes(picture).rgb[:, 0, 0].double() + 1) * 127.5).tolist()


# --- CMYK -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ink", "expected"),
    [
        ((65535, 0, 0, 0), (0, 255, 255)),
        ((0, 0, 0, 65535), (0, 0, 0)),
        ((0, 0, 0, 0), (255, 255, 255)),
        ((0, 32768, 65535, 16384), (191.25, 95.6, 0)),
    ],
)
def test_cmyk_of_sixteen_bits(tmp_path, ink, expected):
    picture = load(tiff(tmp_path / "a.tif", flat(*ink), CMYK))
    assert (
        picture.bits == 16
        and not picture.has_alpha
        and picture.notes == ["CMYK becomes RGB (sRGB)"]
    )
    assert color_of(picture) == pytest.approx(expected, abs=0.05)
    assert color_of(load(tmp_path / "a.tif", bits=8)) == pytest.approx(expected, abs=1.5)


def test_cmyk_of_sixteen_bits_by_its_profile(tmp_path):
    profile = bytes(pyvips.Operation.call("profile_load", "cmyk"))
    inks = np.random.default_rng(0).integers(0, 256, (30, 40, 4)).astype(np.uint8)
    picture = load(tiff(tmp_path / "a.tif", inks.astype(np.uint16) * 257, CMYK, profile=profile))
    theirs = ImageCms.profileToProfile(
        Image.fromarray(inks, "CMYK"),
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        outputMode="RGB",
    )
    ours = ((to_planes(picture).rgb + 1) * 127.5).movedim(0, -1).numpy()
    assert picture.metadata.icc_profile is None
    assert np.abs(ours - np.asarray(theirs, float)).max() < 0.6  # it rounds to 8 bits
    assert len(np.unique(picture.pixels)) > 256


@pytest.mark.parametrize("bits", [None, 8])
def test_cmyk_with_a_profile_of_another_kind(tmp_path, bits):
    profile = make_profile(ADOBE, gamma(2.2))
    picture = load(tiff(tmp_path / "a.tif", flat(65535, 0, 0, 0), CMYK, profile=profile), bits=bits)
    assert picture.metadata.icc_profile is None and color_of(picture) == pytest.approx(
        (0, 255, 255), abs=0.05
    )


# --- samples behind the colours -------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("extra", [0, 1, 2])
def test_samples_behind_the_colours_are_what_the_file_says(tmp_path, kind, extra):
    """0: of no meaning; 1: transparency, multiplied in; 2: not multiplied."""
    top = np.iinfo(kind).max
    picture = load(
        tiff(
            tmp_path / "a.tif",
            flat(top // 2, top // 4, 0, top // 2, kind=kind),
            RGB,
            extra=(extra,),
        )
    )
    planes, color = to_planes(picture), (255, 127.5, 0) if extra == 1 else (127.5, 63.75, 0)
    assert picture.has_alpha == (extra > 0) and picture.bits == 8 * np.dtype(kind).itemsize
    assert color_of(picture) == pytest.approx(color, abs=1.5)
    if extra:
        assert planes.alpha.unique().tolist() == pytest.approx([0.5], abs=0.003)
    else:
        assert planes.alpha is None


# --- grey -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [None, 8])
def test_grey_whose_zero_is_white(tmp_path, bits):
    values = np.array([[0, 60000, 65535]], np.uint16)
    picture = load(tiff(tmp_path / "a.tif", values[..., None], GREY_WHITE_IS_ZERO), bits=bits)
    assert picture.bits == (bits or 16)
    assert grey_of(picture)[0] == pytest.approx([65535, 5535, 0], abs=0.01)
    assert np.asarray(load_image(tmp_path / "a.tif")).tolist() == [[65535, 5535, 0]]


def test_grey_of_twelve_bits(tmp_path):
    values = np.array([[0, 1000, 4095]], np.uint16)
    path = tiff(tmp_path / "a.tif", values[..., None], GREY, bits=12)
    expected = [0, round(1000 * 65535 / 4095), 65535]
    assert grey_of(load(path))[0] == pytest.approx(expected, abs=0.01)
    with Image.open(path) as image:  # as a program may give it
        assert (to_planes(image).rgb[0, 0] + 1).div(2).tolist() == pytest.approx(
            [v / 65535 for v in expected], abs=1e-6
        )
    assert np.asarray(load_image(path)).tolist() == [expected]


def test_grey_of_sixteen_bits_with_a_sign(tmp_path):
    path = tiff(tmp_path / "a.tif", np.array([[[0], [1], [32767]]], np.int16), GREY)
    assert grey_of(load(path))[0] == pytest.approx([0, 2, 65535], abs=0.01)


@pytest.mark.parametrize("kind", [np.uint32, np.int32])
def test_grey_of_thirty_two_bits_within_sixteen(tmp_path, kind):
    path = tiff(tmp_path / "a.tif", np.array([[[0], [1000], [65535]]], kind), GREY)
    assert grey_of(load(path))[0] == pytest.approx([0, 1000, 65535], abs=0.01)


@pytest.mark.parametrize(
    ("value", "kind"), [(2**31, np.uint32), (65536, np.int32), (-1, np.int32), (-1, np.int16)]
)
def test_numbers_whose_white_is_not_told(tmp_path, value, kind):
    path = tiff(tmp_path / "a.tif", flat(value, kind=kind), GREY)
    for read in (load, load_image):
        with pytest.raises(PatchScalerError, match=r"a\.tif: whole numbers from .* 0\.\.65535$"):
            read(path)


def test_images_whose_white_is_not_told():
    with pytest.raises(PatchScalerError, match="image: whole numbers from 0 to 70000"):
        to_planes(Image.fromarray(np.array([[70_000]], np.int32)))
    with pytest.raises(PatchScalerError, match="array of shape"):
        to_planes(Image.new("I", (0, 3)))


# --- one transparent colour -----------------------------------------------------------------------


def png16(path: Path, array: np.ndarray, clear: tuple[int, ...], turn: int = 1) -> Path:
    """(h, w, 1 or 3) uint16, with a transparent colour, turned as EXIF has it."""
    exif = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 274, 3, 1, turn, 0, 0)
    header = struct.pack(
        ">IIBBBBB", array.shape[1], array.shape[0], 16, 0 if array.shape[2] == 1 else 2, 0, 0, 0
    )
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    chunks = {b"IHDR": header, b"tRNS": struct.pack(f">{len(clear)}H", *clear), b"eXIf": exif}
    chunks |= {b"IDAT": zlib.compress(lines), b"IEND": b""}
    out = [
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d))
        for n, d in chunks.items()
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(out))
    return path


@pytest.mark.parametrize("bits", [None, 8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_colour_of_sixteen_bits(tmp_path, channels, bits):
    """The one beside it differs in its lower byte, and stays."""
    array = np.full((4, 6, channels), 40_000, np.uint16)
    array[1, 2], array[1, 3] = 1000, 1001
    picture = load(png16(tmp_path / "a.png", array, (1000,) * channels), bits=bits)
    planes = to_planes(picture)
    assert picture.has_alpha and picture.bits == (bits or 16) and planes.grey == (channels == 1)
    clear = np.zeros((4, 6), bool)
    clear[1, 2] = True
    assert np.array_equal(planes.alpha.numpy(), np.where(clear, 0, 1))
    assert color_of(picture) == pytest.approx(
        [40_000 / 257] * 3, abs=0.01 if bits != 8 or channels == 1 else 0.5
    )


def test_a_transparent_grey_is_turned_with_its_picture(tmp_path):
    array = np.full((4, 6, 1), 40_000, np.uint16)
    array[0, 0] = 1000
    # a quarter turn clockwise
    picture = load(png16(tmp_path / "a.png", array, (1000,), turn=6))
    assert to_planes(picture).alpha.shape == (6, 4)
    assert to_planes(picture).alpha[0, 3] == 0 and to_planes(picture).alpha.sum() == 23


# --- cut off --------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
@pytest.mark.parametrize("packed", [False, True])
def test_sixteen_bits_cut_short(tmp_path, share, packed, capfd, monkeypatch):
    """libvips gives what is missing of a TIFF as black unless it is told to mind."""
    noise, path = (
        np.random.default_rng(0).integers(0, 65536, (64, 64, 3)).astype(np.uint16),
        tmp_path / "a.tif",
    )
    if packed:
        save_image(noise, path)
    else:
        tiff(path, noise, RGB)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(PatchScalerError, match=r"a\.tif: damaged or cut off"):
        load(path)
    monkeypatch.setattr(rows, "ABOVE", 0)
    picture = load(path, by_rows=True)
    assert isinstance(picture.pixels, Rows)
    with pytest.raises(PatchScalerError, match=r"a\.tif: damaged or cut off"):
        picture.pixels[0:64]
