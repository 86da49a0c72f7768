"""A bounded fuzz run over each reader: damaged bytes end as a picture or as one clear line, and
never as a crash.
"""

import io
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from patchscaler.errors import PatchScalerError
from patchscaler.images.animation import open_animation
from patchscaler.images.metadata import Metadata
from patchscaler.images.planes import to_planes
from patchscaler.images.read import load
from patchscaler.images.write import save_image

EXAMPLES = 150
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (9, 13, 4)).astype(np.uint8)


def exif() -> bytes:
    block = Image.Exif()
    block[274], block[271], block[282], block[283], block[296] = 6, "Maker", 72.0, 72.0, 2
    block.get_ifd(0x8769)[0xA002] = 13
    return block.tobytes()


def metadata() -> Metadata:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return Metadata(
        (13, 9),
        exif().removeprefix(b"Exif\0\0"),
        b"<x:xmpmeta/>",
        profile,
        b"\x1c\x02\x78\0\x03cap",
        (72, 72),
    )


def written(suffix: str, folder: Path, channels: int = 3, kind: type = np.uint8) -> bytes:
    array = PIXELS[..., :channels].astype(kind) * (257 if kind is np.uint16 else 1)
    path = folder / f"seed{suffix}"
    save_image(array, path, metadata())
    return path.read_bytes()


def by_pillow(kind: str, mode: str = "RGB", **options: object) -> bytes:
    image = Image.fromarray(PIXELS).convert("RGB" if mode == "P" else mode)
    image = image.quantize(16) if mode == "P" else image
    if kind == "PNG":
        texts = PngImagePlugin.PngInfo()
        texts.add_text("Title", "words " * 20, zip=True)
        options["pnginfo"] = texts
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def moving(kind: str) -> bytes:
    frames = [Image.fromarray(PIXELS[:, :, [i, 1, 2]]) for i in (0, 3, 2)]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, kind, save_all=True, append_images=frames[1:], duration=[40, 80, 120], loop=0
    )
    return buffer.getvalue()


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> dict[str, list[bytes]]:
    folder = tmp_path_factory.mktemp("seeds")
    return {
        "jpeg": [
            written(".jpg", folder),
            by_pillow("JPEG", "CMYK"),
            by_pillow("JPEG", progressive=True, exif=exif()),
        ],
        "png": [written(".png", folder, 4), by_pillow("PNG", "P", transparency=0), moving("PNG")],
        "png16": [written(".png", folder, c, np.uint16) for c in (1, 2, 3, 4)],
        "webp": [written(".webp", folder, 4), by_pillow("WEBP", lossless=True), moving("WEBP")],
        "tiff": [
            written(".tif", folder, 4),
            by_pillow("TIFF", compression="tiff_lzw"),
            by_pillow("TIFF", "CMYK"),
        ],
        "tiff16": [written(".tif", folder, c, np.uint16) for c in (1, 2, 3, 4)],
        "bmp": [written(".bmp", folder), by_pillow("BMP", "P")],
        "gif": [written(".gif", folder, 4), moving("GIF")],
        "avif": [
            written(".avif", folder, 4),
            written(".avif", folder, 3, np.uint16),
            moving("AVIF"),
        ],
        "heic": [written(".heic", folder, 4), written(".heic", folder, 3, np.uint16)],
        "jxl": [written(".jxl", folder, 4)],
    }


FORMATS = ("jpeg", "png", "png16", "webp", "tiff", "tiff16", "bmp", "gif", "avif", "heic", "jxl")
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(("set", "set", "set", "cut", "drop", "twice", "big")),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 255),
        st.integers(1, 40),
    ),
    min_size=1,
    max_size=6,
)


def spoil(data: bytes, changes: list[tuple[str, float, int, int]]) -> bytes:
    """Bytes set, ends cut off, pieces left out or doubled, numbers made huge."""
    out = bytearray(data)
    for what, place, value, length in changes:
        at = int(place * len(out)) if out else 0
        if what == "set" and out:
            out[at] = value
        elif what == "cut":
            del out[at:]
        elif what == "drop":
            del out[at : at + length]
        elif what == "twice":
            out[at:at] = out[at : at + length]
        elif what == "big":
            out[at : at + 4] = b"\xff\xff\xff\xff" if value & 1 else b"\x7f\xff\xff\xff"
    return bytes(out)


def mend_checks(data: bytes) -> bytes:
    """A PNG whose chunks have right checksums again, so that what is in them gets read."""
    out, place = bytearray(data), 8
    while place + 12 <= len(out):
        end = place + 8 + int.from_bytes(out[place : place + 4], "big")
        if end + 4 > len(out):
            break
        out[end : end + 4] = zlib.crc32(out[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(out)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_spoilt_files_end_in_a_picture_or_in_one_line(kind, seeds, tmp_path, tmp_path_factory):
    path, out = tmp_path / "spoilt.bin", tmp_path_factory.mktemp("out")

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 3), CHANGES)
    def check(number: int, changes: list[tuple[str, float, int, int]]) -> None:
        before = spoil(seeds[kind][number % len(seeds[kind])], changes)
        path.write_bytes(before := mend_checks(before) if kind.startswith("png") else before)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                picture = load(path, max_pixels=100_000)
                planes = to_planes(picture)
                assert planes.rgb.isfinite().all() and planes.rgb.abs().max() <= 1
                assert planes.rgb.shape[-2:] == (picture.height, picture.width)
                for suffix in (".jpg", ".tif", ".png"):  # what was read can be written
                    save_image(PIXELS[..., :3], out / f"o{suffix}", picture.metadata)
                if animation := open_animation(path, max_pixels=100_000):
                    for frame in animation.frames():
                        assert frame.rgb.isfinite().all()
        except PatchScalerError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
        assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]

    check()
