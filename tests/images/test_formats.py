"""`docs/formats.md` is true line by line; large results are written by rows."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchscaler.errors import PatchScalerError
from patchscaler.images import encode
from patchscaler.images.animation import open_animation
from patchscaler.images.formats import FORMATS
from patchscaler.images.labels import PRIMARIES, SRGB_CURVE, make_profile
from patchscaler.images.metadata import Metadata
from patchscaler.images.read import load
from patchscaler.images.write import check_alpha, check_large, save_image

TEXT = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
ROWS = [
    [c.strip() for c in line.split("|")[1:-1]] for line in TEXT.splitlines() if line[:2] == "| "
]
NAMES, TABLE = ROWS[0], {row[0]: dict(zip(ROWS[0], row, strict=True)) for row in ROWS[1:]}
NOISE = np.random.default_rng(0).integers(0, 65536, (32, 48, 3)).astype(np.uint16)
EXIF = Image.Exif()
EXIF[315] = "Ada"
PROFILE = make_profile(PRIMARIES[12], SRGB_CURVE)


def everything(size: tuple[int, int] = (48, 32)) -> Metadata:
    block = EXIF.tobytes().removeprefix(b"Exif\0\0")
    data = Metadata(size, exif=block, icc_profile=PROFILE).with_provenance({"Seed": "7"})
    return data


def test_the_table_has_every_format():
    assert list(TABLE) == list(FORMATS)


@pytest.mark.parametrize("kind", TABLE)
def test_the_table_is_true(tmp_path, kind, picture):
    row, held = TABLE[kind], FORMATS[kind]
    assert tuple(row["suffixes"].split()) == held.suffixes and int(row["bits"]) == held.bits
    path = tmp_path / f"a{held.suffixes[0]}"
    save_image(NOISE, path, everything())
    back = load(path)
    assert back.format == kind and (back.bits == 16) == (held.bits > 8)
    assert (back.metadata.exif is not None and b"Ada" in back.metadata.exif) == (
        row["EXIF"] == "yes"
    )
    assert (b'Seed="7"' in (back.metadata.xmp or b"")) == (row["XMP"] == "yes")
    assert (back.metadata.icc_profile == PROFILE) == (row["ICC"] == "yes")
    save_image(NOISE.astype(np.uint8), path, Metadata((48, 32), dpi=(300, 300)))
    assert (load(path).metadata.dpi is not None) == (row["density"] != "no")
    if row["transparency"] == "no":
        with pytest.raises(PatchScalerError, match="no transparency"):
            check_alpha(path, True)
    else:
        clear = np.dstack([NOISE.astype(np.uint8), np.zeros((32, 48), np.uint8)])
        save_image(clear, path)
        assert load(path).has_alpha
    assert held.moving == (row["moves"] == "yes")
    if held.moving:
        frames = [picture(8, 8, seed) for seed in range(3)]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
        assert open_animation(path).count == 3
    assert held.lossless == (row["lossless"] == "yes")
    if held.lossless:
        small = NOISE.astype(np.uint8)
        save_image(small, path, lossless=True)
        assert np.array_equal(np.asarray(load(path).pixels), small)


class OnDisk:
    """As the tiles' results lie: (h, w, c) in a file of its own."""

    def __init__(self, path: Path, array: np.ndarray):
        self.path, self.array = path, array
        self.shape, self.dtype, self.ndim, self.nbytes = array.shape, array.dtype, 3, array.nbytes
        path.write_bytes(array.tobytes())

    def __getitem__(self, key):
        return self.array[key]


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_results_on_disk_are_written_by_rows(tmp_path, monkeypatch, suffix, bits, channels):
    if suffix == "jpg" and (bits == 16 or channels == 4):
        pytest.skip("not in JPEG")
    array = np.dstack([NOISE, NOISE])[..., :channels].astype(np.uint16 if bits == 16 else np.uint8)
    data = everything() if channels > 1 else Metadata((48, 32), exif=everything().exif)
    save_image(array, tmp_path / f"a.{suffix}", data)
    monkeypatch.setattr(encode, "MAX_IN_MEMORY", 0)
    monkeypatch.setattr("patchscaler.images.write.MAX_IN_MEMORY", 0)
    save_image(OnDisk(tmp_path / "pixels", array), tmp_path / f"b.{suffix}", data)
    first, second = load(tmp_path / f"a.{suffix}"), load(tmp_path / f"b.{suffix}")
    difference = np.asarray(first.pixels).astype(int) - np.asarray(second.pixels)
    assert np.abs(difference).max() <= (12 if suffix == "jpg" else 0)
    assert first.metadata == second.metadata and b"Ada" in second.metadata.exif
    with pytest.raises(PatchScalerError, match=r"use \.png, \.tif or \.jpg"):
        check_large(tmp_path / "a.webp", 1)


def test_a_pyramid(tmp_path):
    array = np.repeat(np.repeat(NOISE, 20, 0), 20, 1)
    save_image(
        OnDisk(tmp_path / "pixels", array), tmp_path / "a.tif", everything((48, 32)), pyramid=True
    )
    back = load(tmp_path / "a.tif")
    assert np.array_equal(back.pixels, array) and back.metadata.icc_profile == PROFILE
    with Image.open(tmp_path / "a.tif") as image:
        assert image.n_frames > 1
    assert back.notes == []  # reduced pages are no pages
