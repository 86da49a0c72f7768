"""Large files read from top to bottom: the pixels that the whole picture has."""

import numpy as np
import pytest
from PIL import Image
from PIL.ImageCms import ImageCmsProfile, createProfile
from PIL.PngImagePlugin import PngImageFile, PngInfo

from patchscaler.errors import PatchScalerError
from patchscaler.images import rows as module
from patchscaler.images.read import load
from patchscaler.images.rows import Rows
from patchscaler.images.write import save_image

pyvips = pytest.importorskip("pyvips")


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    monkeypatch.setattr(module, "ABOVE", 0)


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (300, 40, 4), np.uint8)


@pytest.mark.parametrize(
    ("name", "mode", "tolerance"),
    [
        ("a.png", "RGB", 0),
        ("a.png", "L", 0),
        ("a.png", "RGBA", 0),
        ("a.tif", "RGB", 0),
        ("a.jpg", "RGB", 2),
        ("a.jpg", "L", 2),
    ],
)
def test_rows_are_those_of_the_whole(tmp_path, noise, name, mode, tolerance):
    whole = Image.fromarray(noise, "RGBA").convert(mode)
    save_image(whole, tmp_path / name)
    picture = load(tmp_path / name, by_rows=True)
    assert isinstance(picture.pixels, Rows) and picture.pixels.dtype == np.uint8
    kept = np.asarray(Image.open(tmp_path / name)).reshape(300, 40, -1).astype(int)
    assert picture.pixels.shape == kept.shape and picture.has_alpha == (mode == "RGBA")
    # Once down in strips, one left out; and back to the top.
    for top, bottom in ((0, 1), (0, 128), (200, 300), (10, 20)):
        assert np.abs(picture.pixels[top:bottom].astype(int) - kept[top:bottom]).max() <= tolerance


def test_sixteen_bits_stay(tmp_path):
    deep = np.random.default_rng(1).integers(0, 65536, (64, 48, 3), np.uint16)
    pyvips.Image.new_from_array(deep).copy(interpretation="rgb16").write_to_file(
        str(tmp_path / "deep.png")
    )
    picture = load(tmp_path / "deep.png", by_rows=True)
    assert isinstance(picture.pixels, Rows) and picture.bits == 16
    assert np.array_equal(picture.pixels[:], deep)


@pytest.mark.parametrize("case", ["turned", "palette", "CMYK", "transparent colour", "small"])
def test_what_wants_the_whole_picture_is_read_whole(tmp_path, noise, case, monkeypatch):
    image, path = Image.fromarray(noise, "RGBA").convert("RGB"), tmp_path / "a.png"
    if case == "turned":
        image.save(
            path,
            exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00",
        )
    elif case == "palette":
        image.quantize(16).save(path)
    elif case == "CMYK":
        path = tmp_path / "a.jpg"
        image.convert("CMYK").save(path)
    elif case == "transparent colour":
        image.save(path, transparency=(1, 2, 3))
    else:
        monkeypatch.setattr(module, "ABOVE", 300 * 40)
        image.save(path)
    assert not isinstance(load(path, by_rows=True).pixels, Rows)


def test_a_png_tells_of_itself_without_its_pixels(tmp_path, noise, monkeypatch):
    """Metadata before and behind the pixels."""
    info = PngInfo()
    info.add_text("Title", "before")
    info.add(b"tEXt", b"Author\0behind", after_idat=True)
    exif = Image.Exif()
    exif[0x010E] = "a description"
    profile = ImageCmsProfile(createProfile("sRGB")).tobytes()
    image = Image.fromarray(noise, "RGBA").convert("RGB")
    image.save(tmp_path / "a.png", pnginfo=info, exif=exif, dpi=(300, 300), icc_profile=profile)
    whole = load(tmp_path / "a.png").metadata
    monkeypatch.setattr(
        PngImageFile, "load_prepare", _not_of(image.size, PngImageFile.load_prepare)
    )
    found = load(tmp_path / "a.png", by_rows=True).metadata
    assert found == whole
    assert (
        found.texts == {"Title": "before", "Author": "behind"}
        and found.exif
        and found.size == (40, 300)
    )


def _not_of(size, load):
    def prepare(image):
        assert image.size != size, "all pixels were decoded"
        return load(image)

    return prepare


def test_a_file_cut_short(tmp_path, noise):
    Image.fromarray(noise, "RGBA").save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    picture = load(tmp_path / "a.png", by_rows=True)
    assert isinstance(picture.pixels, Rows)
    with pytest.raises(PatchScalerError, match=r"a\.png: damaged or cut off"):
        picture.pixels[0:300]
