"""What each format holds, what a file is by its first bytes, and plugins."""

import struct
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from PIL import Image, features

from patchscaler.errors import PatchScalerError

EXTRA = "Hint: pip install 'patchscaler[formats]'"


@dataclass(frozen=True)
class Format:
    """What files of a format can hold when they are written here."""

    suffixes: tuple[str, ...]  # the first is the default
    alpha: bool = True
    bits: int = 8  # at most, a channel
    profile: bool = True
    exif: bool = True
    moving: bool = False
    lossless: bool = False
    quality: int | None = None  # by default; None where there is no such choice
    side: int = 2**31 - 1  # pixels at most


# By Pillow's names
FORMATS = {
    "PNG": Format((".png", ".apng"), bits=16, moving=True, lossless=True),
    "JPEG": Format(
        (".jpg", ".jpeg", ".jpe", ".jfif", ".jif"), alpha=False, quality=95, side=65_535
    ),
    "WEBP": Format((".webp",), moving=True, lossless=True, quality=95, side=16_383),
    "TIFF": Format((".tif", ".tiff"), bits=16, lossless=True),
    "BMP": Format((".bmp", ".dib"), alpha=False, profile=False, exif=False, lossless=True),
    "GIF": Format((".gif",), profile=False, exif=False, moving=True, side=65_535),
    "AVIF": Format((".avif", ".avifs"), bits=12, moving=True, quality=90, side=65_536),
    "HEIF": Format((".heic", ".heif", ".hif"), bits=12, quality=90, side=16_384),
    # its plugin writes no profile
    "JXL": Format((".jxl",), profile=False, lossless=True, quality=95),
}
READABLE = (*FORMATS, "MPO")
SUFFIXES = {suffix: kind for kind, held in FORMATS.items() for suffix in held.suffixes}
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
READ = "JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, HEIC and JPEG XL can be read"
# What people name like images: bytes, where they stand, what the file is.
OTHERS = (
    (b"%PDF", 0, "a PDF document"),
    (b"%!PS", 0, "a PostScript file"),
    (b"8BPS", 0, "a Photoshop document"),
    (b"\0\0\0\x0cjP  ", 0, "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", 0, "a JPEG 2000 image"),
    (b"\x76\x2f\x31\x01", 0, "an OpenEXR image"),
    (b"#?RADIANCE", 0, "a Radiance HDR image"),
    (b"\0\0\1\0", 0, "a Windows icon"),
    (b"DDS ", 0, "a DirectDraw surface"),
    (b"gimp xcf", 0, "a GIMP document"),
    (b"FUJIFILMCCD-RAW", 0, "a camera raw file (RAF)"),
    (b"IIRO", 0, "a camera raw file (ORF)"),
    (b"IIU\0", 0, "a camera raw file (RW2)"),
    (b"CR\2", 8, "a camera raw file (CR2)"),
    (b"ftypcrx", 4, "a camera raw file (CR3)"),
    (b"ftyp", 4, "a video or another file of the MP4 family"),
    (b"\x1a\x45\xdf\xa3", 0, "a Matroska or WebM video"),
    (b"AVI ", 8, "an AVI video"),
    (b"PK\3\4", 0, "a ZIP archive, or a document in one"),
    (b"\x1f\x8b", 0, "a gzip archive"),
    (b"Rar!", 0, "a RAR archive"),
    (b"MZ", 0, "a Windows program"),
    (b"\x7fELF", 0, "a program"),
)
FRAMES = {
    0xC3: "a lossless JPEG",
    0xF7: "a JPEG-LS image",
    **dict.fromkeys(range(0xC9, 0xD0), "an arithmetic-coded JPEG"),
}
RAW_COMPRESSIONS = {
    33003: "JPEG 2000",
    33004: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    50002: "JPEG XL",
    52546: "JPEG XL",
}


# --- outputs --------------------------------------------------------------------------------------


def format_of(path: str | Path) -> str:
    """Pillow's name of the format that a suffix means.

    Raises:
        PatchScalerError: An unknown one, or one that this installation cannot write.
    """
    path = Path(path)
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise PatchScalerError(
            f"{path}: cannot write '{path.suffix}' files. Hint: use one of {', '.join(SUFFIXES)}"
        )
    if kind == "AVIF" and not features.check("avif"):
        raise PatchScalerError(
            f"{path}: AVIF needs Pillow 11.3 or newer. Hint: pip install -U pillow"
        )
    if kind == "HEIF":
        import_heif(f"{path}: HEIC")
    if kind == "JXL":
        import_jxl(f"{path}: JPEG XL")
    return kind


def suffix_of(kind: str, source: str | Path = "") -> str:
    """The source's own suffix where it means this format, else the usual one."""
    own = Path(source).suffix
    return own if SUFFIXES.get(own.lower()) == kind else FORMATS[kind].suffixes[0]


# --- inputs ---------------------------------------------------------------------------------------


def head_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(65536)


def description(head: bytes) -> str:
    """What a file is that cannot be read: 'is a PDF document, not an image'."""
    for magic, place, name in OTHERS:
        if head[place : place + len(magic)] == magic:
            return f"is {name}"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "is a web page, not an image"
    if text.startswith((b"<svg", b"<?xml")) and b"<svg" in text:
        return "is an SVG drawing"
    if text and b"\0" not in head and all(b >= 9 for b in text[:512]):
        return "is a text, not an image"
    return "is not an image of a known kind"


def reason_of(head: bytes, image: Image.Image | None = None) -> str | None:
    """Why a file of a known format cannot be read: a 12-bit JPEG, JPEG 2000 in a TIFF."""
    tags = getattr(image, "tag_v2", {})
    if head[:2] == b"\xff\xd8":
        return _jpeg_kind(head)
    if 50706 in tags:
        return "is a camera raw file (DNG)"
    if tags.get(259) in RAW_COMPRESSIONS:
        return f"is {RAW_COMPRESSIONS[tags[259]]} in a TIFF"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") and image is None:
        return "is a TIFF of a kind that cannot be read (such as colors in floats, or of 32 bits)"
    return None


def _jpeg_kind(head: bytes) -> str | None:
    place = 2
    while place + 5 < len(head) and head[place] == 0xFF:
        marker, (size,) = head[place + 1], struct.unpack_from(">H", head, place + 2)
        if marker in FRAMES:
            return f"is {FRAMES[marker]}"
        if marker in (0xC0, 0xC1, 0xC2):
            bits = head[place + 4]
            return None if bits == 8 else f"is a {bits}-bit JPEG"
        place += 2 + size
    return None


def is_heic(head: bytes) -> bool:
    brands = head[8:12] + head[16:64]
    return head[4:8] == b"ftyp" and any(brand in brands for brand in HEIC_BRANDS)


# --- plugins --------------------------------------------------------------------------------------


def import_vips(what: str) -> ModuleType:
    """pyvips, or a PatchScalerError that says what needs it."""
    try:
        import pyvips
    except (ImportError, OSError) as error:  # OSError: the binding is there, the library is not
        raise PatchScalerError(f"{what} needs pyvips. {EXTRA}") from error
    return pyvips


def import_heif(what: str) -> ModuleType:
    """pillow_heif, registered with Pillow, or a PatchScalerError that says what needs it."""
    try:
        import pillow_heif
    except ImportError as error:
        raise PatchScalerError(f"{what} needs pillow-heif. {EXTRA}") from error
    if "HEIF" not in Image.OPEN:
        pillow_heif.register_heif_opener()
    return pillow_heif


def import_jxl(what: str) -> None:
    """Raises PatchScalerError, saying what needs the plugin, where it is not installed."""
    try:
        import pillow_jxl  # noqa: F401  it registers itself
    except ImportError as error:
        raise PatchScalerError(f"{what} needs pillow-jxl-plugin. {EXTRA}") from error
