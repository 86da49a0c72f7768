"""Pictures on disk: reading with clear errors, writing all or nothing."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from patchscaler.errors import PatchScalerError, TooManyPixelsError
from patchscaler.images.formats import SUFFIXES as FORMATS
from patchscaler.images.read import check_pixels, load_image
from patchscaler.images.write import check_output, check_room, check_side, save_image

LOSSY = [s for s, kind in FORMATS.items() if kind in ("JPEG", "WEBP", "AVIF", "HEIF", "JXL", "GIF")]

# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_is_written_and_read(picture, tmp_path, suffix):
    image, path = picture(24, 32), tmp_path / f"a{suffix}"
    save_image(image, path)
    back = load_image(path)
    assert back.size == (32, 24) and back.mode == ("P" if suffix == ".gif" else "RGB")
    back = back.convert("RGB")
    error = np.abs(np.asarray(back, float) - np.asarray(image)).mean()
    assert error < (8 if suffix == ".gif" else 5) if suffix in LOSSY else error == 0


def test_missing(tmp_path):
    with pytest.raises(PatchScalerError, match=r"none\.png: no such file"):
        load_image(tmp_path / "none.png")


def test_folder(tmp_path):
    with pytest.raises(PatchScalerError, match="is a folder"):
        load_image(tmp_path)


def test_empty(tmp_path):
    path = tmp_path / "a.png"
    path.touch()
    with pytest.raises(PatchScalerError, match=r"a\.png: the file is empty"):
        load_image(path)


@pytest.mark.parametrize("data", [b"hello, world", b"\x89PNG\r\n\x1a\n", bytes(range(256))])
def test_no_picture(tmp_path, data):
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(PatchScalerError, match=r"a\.png: (is |damaged)"):
        load_image(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_cut_short(picture, tmp_path, suffix, share):
    path = tmp_path / f"a{suffix}"
    save_image(picture(64, 64), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(PatchScalerError, match=rf"a\{suffix}: (damaged or cut off|is )"):
        load_image(path)


def test_more_pixels_than_allowed(picture, tmp_path):
    path = tmp_path / "a.png"
    save_image(picture(10, 20), path)
    assert load_image(path, max_pixels=200).size == (20, 10)
    assert load_image(path, max_pixels=0).size == (20, 10)  # no limit
    with pytest.raises(PatchScalerError, match=r"20x10 is more than .* --max-pixels 200"):
        load_image(path, max_pixels=199)


def test_decompression_bomb(picture, tmp_path, monkeypatch):
    # Our limit counts, with its override; Pillow's, which has none by file, is set aside and comes
    # back.
    path = tmp_path / "a.png"
    save_image(picture(10, 20), path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(
        PatchScalerError, match=r"20x10 is more than the limit of 0\.0001 megapixels"
    ):
        load_image(path, max_pixels=100)
    assert load_image(path, max_pixels=200).size == (20, 10)
    assert Image.MAX_IMAGE_PIXELS == 50


def test_limit_is_checked_before_decoding(tmp_path):
    # A header that promises more than any memory holds, and nothing behind it.
    path = tmp_path / "a.bmp"
    Image.new("RGB", (1, 1)).save(path)
    data = bytearray(path.read_bytes())
    data[18:26] = (100_000).to_bytes(4, "little") + (10_000).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(
        TooManyPixelsError, match="100000x10000 is more than the limit of 500 megapixels"
    ) as caught:
        load_image(path)
    assert (caught.value.width, caught.value.height, caught.value.limit) == (
        100_000,
        10_000,
        500_000_000,
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(picture, tmp_path, orientation):
    image, path = picture(16, 24), tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    array = np.asarray(image)
    # What EXIF says of row 0 and column 0 of the stored picture.
    upright = {
        1: array,
        2: array[:, ::-1],
        3: array[::-1, ::-1],
        4: array[::-1],
        5: array.transpose(1, 0, 2),
        6: np.rot90(array, -1),
        7: array[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(array),
    }[orientation]
    assert np.array_equal(np.asarray(load_image(path)), upright)


def test_check_pixels():
    check_pixels(4000, 4000, 16_000_000, "a")
    with pytest.raises(
        PatchScalerError, match="a: 4001x4000 is more than the limit of 16 megapixels"
    ):
        check_pixels(4001, 4000, 16_000_000, "a")


# --- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_transparency_is_kept(picture, tmp_path, suffix, mode):
    image = picture(8, 8).convert(mode)
    image.putalpha(100)
    save_image(image, tmp_path / f"a{suffix}")
    assert np.array_equal(np.asarray(load_image(tmp_path / f"a{suffix}")), np.asarray(image))


def test_sixteen_bits_of_grey_are_scaled_not_cut_off(tmp_path):
    image = Image.fromarray(np.array([[0, 1000, 30_000, 65_535]] * 2, np.uint16))
    save_image(image, tmp_path / "a.png")
    assert np.asarray(load_image(tmp_path / "a.png")).tolist() == [[0, 4, 117, 255]] * 2
    image.info["transparency"] = 1000
    save_image(image, tmp_path / "b.webp")
    assert (
        np.asarray(load_image(tmp_path / "b.webp").getchannel("A")).tolist()
        == [[255, 0, 255, 255]] * 2
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".bmp"])
def test_transparency_into_a_format_without(picture, tmp_path, suffix, mode):
    with pytest.raises(PatchScalerError, match="no transparency"):
        save_image(picture(8, 8).convert(mode), tmp_path / f"a{suffix}")
    assert not list(tmp_path.iterdir())


def test_folders_are_made(picture, tmp_path):
    path = check_output(tmp_path / "new" / "newer" / "a.png")
    save_image(picture(8, 8), path)
    assert path.is_file() and [p.name for p in path.parent.iterdir()] == ["a.png"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(picture, tmp_path, monkeypatch, error):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def half(self, file, *args, **kwargs):
        file.write(b"half of a picture")
        raise error

    monkeypatch.setattr(Image.Image, "save", half)
    expected = PatchScalerError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="disk full" if isinstance(error, OSError) else None):
        save_image(picture(8, 8), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_quality_matters(picture, tmp_path):
    for suffix in (".jpg", ".webp"):
        save_image(picture(64, 64), tmp_path / f"low{suffix}", quality=20)
        save_image(picture(64, 64), tmp_path / f"high{suffix}", quality=95)
        assert (tmp_path / f"low{suffix}").stat().st_size < (
            tmp_path / f"high{suffix}"
        ).stat().st_size / 2


@pytest.mark.parametrize("name", ["a.psd", "a", "a.png.txt"])
def test_unknown_suffix(tmp_path, name):
    with pytest.raises(PatchScalerError, match=r"cannot write .* use one of \.png"):
        check_output(tmp_path / name)


def test_unknown_suffix_while_writing(picture, tmp_path):
    with pytest.raises(PatchScalerError):
        save_image(picture(8, 8), tmp_path / "a.psd")


def test_suffix_in_capitals(picture, tmp_path):
    save_image(picture(8, 8), check_output(tmp_path / "A.PNG"))
    assert (tmp_path / "A.PNG").read_bytes()[:4] == b"\x89PNG"


def test_output_equals_input(picture, tmp_path):
    path = tmp_path / "a.png"
    save_image(picture(8, 8), path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.png").symlink_to(path)
    for other in (path, tmp_path / "sub" / ".." / "a.png", tmp_path / "link.png"):
        with pytest.raises(PatchScalerError, match="same file"):
            check_output(other, path)
    assert check_output(tmp_path / "b.png", path) == tmp_path / "b.png"


def test_output_exists_and_input_does_not(picture, tmp_path):
    save_image(picture(8, 8), tmp_path / "a.png")
    assert check_output(tmp_path / "a.png", tmp_path / "none.png") == tmp_path / "a.png"


def test_output_is_a_folder(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(PatchScalerError, match="is a folder"):
        check_output(tmp_path / "a.png")


@pytest.mark.parametrize("below", ["x.png", "deep/er/x.png"])
def test_output_below_a_file(picture, tmp_path, below):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(PatchScalerError, match="cannot write there"):
        check_output(tmp_path / "file" / below)
    with pytest.raises(PatchScalerError, match="cannot be written"):
        save_image(picture(8, 8), tmp_path / "file" / below)


def test_sides_a_format_cannot_hold():
    check_side("a.webp", 16_383, 10)
    check_side("a.png", 100_000, 10)
    with pytest.raises(PatchScalerError, match="10x16384 is more than the 16383 pixels a side"):
        check_side("a.webp", 10, 16_384)
    with pytest.raises(PatchScalerError, match="65535 pixels a side"):
        check_side("a.JPG", 65_536, 10)


def test_webp_that_is_too_wide_is_not_written(tmp_path):
    with pytest.raises(PatchScalerError):
        save_image(Image.new("L", (16_384, 1)), tmp_path / "a.webp")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_before_any_work(tmp_path, monkeypatch):
    usage = SimpleNamespace(total=10**9, used=10**9, free=50_000)
    monkeypatch.setattr("patchscaler.images.write.shutil.disk_usage", lambda place: usage)
    check_room(tmp_path / "not" / "yet" / "small.jpg", 700, 700)
    with pytest.raises(
        PatchScalerError, match=r"0\.1 MB of disk are free, and 800x800 pixels take 0\.1 MB or more"
    ):
        check_room(tmp_path / "large.jpg", 800, 800)
    with pytest.raises(PatchScalerError, match=r"take 0\.5 MB or more. Hint: free some"):
        check_room(tmp_path / "raw.bmp", 400, 400)
