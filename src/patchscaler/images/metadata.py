"""What an image file says besides its pixels, and how the upscaled one says it: EXIF, XMP, ICC,
IPTC, density, texts.
"""

import math
import re
import struct
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from xml.sax.saxutils import quoteattr

from PIL import ExifTags, Image, TiffImagePlugin

from patchscaler.images import exif as exif_block
from patchscaler.images import xmp as xmp_packet

MAX_BLOCK = 16_000_000  # bytes of one kind of metadata; no camera writes a tenth of it
MAX_XMP = 2_000_000  # bytes: a tree of them takes twenty times as much
IPTC = 0x0404  # of Photoshop's image resources
# Of a TIFF's own directory, what is about the image and not about how it is stored.
DESCRIPTIVE = {269, 270, 271, 272, 285, 305, 306, 315, 316, 18246, 18249, 33432}
DESCRIPTIVE |= set(range(40091, 40096))
NAMESPACE = "urn:patchscaler:provenance:"
SCREEN = 72.0  # dpi that stand for none where only the pixels' aspect is known


@dataclass
class Metadata:
    """As it stands for an upright image of `size` (width, height)."""

    size: tuple[int, int]
    exif: bytes | None = None  # without the prefix 'Exif\0\0'
    xmp: bytes | None = None
    icc_profile: bytes | None = None
    iptc: bytes | None = None
    dpi: tuple[float, float] | None = None
    comment: bytes | None = None  # of JPEG and GIF
    texts: dict[str, str] = field(default_factory=dict)  # PNG's text chunks
    # nothing in `xmp` came with the image: formats without it may go without a word
    own_xmp: bool = False

    def upscaled(self, width: int, height: int, srgb: bool = False) -> "Metadata":
        """The same of an image of another size, which prints as large as before.

        Args:
            srgb: Whether the colors became sRGB's on the way.
        """
        ratios = (width / self.size[0], height / self.size[1])
        dpi = self.dpi and (self.dpi[0] * ratios[0], self.dpi[1] * ratios[1])
        exif = self.exif and exif_block.upscaled(self.exif, (width, height), ratios, srgb)
        xmp = self.xmp and xmp_packet.upscaled(self.xmp, (width, height), ratios)[0]
        return replace(self, size=(width, height), dpi=dpi, exif=exif, xmp=xmp)

    def with_provenance(self, facts: dict[str, str]) -> "Metadata":
        """`facts` (program, model, seed...) as properties of the XMP, beside what is there."""
        names = " ".join(f"ps:{name}={quoteattr(value)}" for name, value in facts.items())
        entry = f'<rdf:Description rdf:about="" xmlns:ps="{NAMESPACE}" {names}/>'.encode()
        end = b"</rdf:RDF>"
        if self.xmp and end in self.xmp:
            head, tail = self.xmp.rsplit(end, 1)
            return replace(self, xmp=head + entry + end + tail)
        if self.xmp:  # with another prefix, or empty: better kept as it is
            return self
        packet = (
            b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta '
            b'xmlns:x="adobe:ns:meta/">'
            b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        )
        xmp = packet + entry + end + b'</x:xmpmeta><?xpacket end="w"?>'
        return replace(self, xmp=xmp, own_xmp=True)

    def with_density_in_exif(self) -> "Metadata":
        """For formats that have no other place for it."""
        if self.exif or not self.dpi:
            return self
        block = Image.Exif()
        block[ExifTags.Base.XResolution], block[ExifTags.Base.YResolution] = self.dpi
        block[ExifTags.Base.ResolutionUnit] = 2
        return replace(self, exif=block.tobytes().removeprefix(b"Exif\0\0"))


def read_metadata(image: Image.Image, size: tuple[int, int]) -> tuple[Metadata, list[str]]:
    """What a file says, wherever it says it, for its upright `size`.

    Args:
        image: Opened; of a PNG decoded too, for it may speak of itself behind its pixels.

    Returns:
        The metadata, and a line for each part that is damaged or not kept.
    """
    notes: list[str] = []
    info = image.info
    turned = stored_orientation(image) > 1
    quarter = stored_orientation(image) >= 5  # across and down change places
    data = Metadata(size, dpi=_dpi(image), icc_profile=_bytes(info.get("icc_profile")))
    data.iptc, data.comment = _iptc(image), _bytes(info.get("comment"))
    data.texts = _texts(image)
    try:
        data.exif = _exif(image)
        if data.exif:
            data.exif = exif_block.upscaled(data.exif, size, (1, 1))
            if density := _finite(exif_block.Block(data.exif).density()):
                x, y = density
                if quarter and x != y:
                    data.exif = exif_block.upscaled(data.exif, size, (y / x, x / y))
                data.dpi = data.dpi or density
    except Exception:  # Pillow's reader raises anything on damaged blocks
        data.exif = None
        notes.append("its EXIF data is damaged and was left out")
    data.dpi = data.dpi or _aspect(info)
    if quarter and data.dpi:
        data.dpi = data.dpi[::-1]
    for name in ("exif", "icc_profile", "iptc", "comment"):
        if len(getattr(data, name) or b"") > MAX_BLOCK:
            setattr(data, name, None)
            notes.append(f"its {name} is larger than {MAX_BLOCK // 10**6} MB and was left out")
    if xmp := _bytes(info.get("xmp") or info.get("XML:com.adobe.xmp")):
        data.xmp, more = _xmp(image, xmp, size, turned)
        notes += more
    return data, notes


def _xmp(
    image: Image.Image, xmp: bytes, size: tuple[int, int], turned: bool
) -> tuple[bytes | None, list[str]]:
    if len(xmp) > MAX_XMP:
        return None, [f"its XMP is larger than {MAX_XMP // 10**6} MB and was left out"]
    segments = [data for name, data in getattr(image, "applist", []) if name == "APP1"]
    xmp, note = xmp_packet.with_extension(xmp, segments)
    packet, notes = xmp_packet.upscaled(xmp, size, (1, 1), turned)
    return packet, [note, *notes] if note else notes


def _texts(image: Image.Image) -> dict[str, str]:
    texts = getattr(image, "text", None) if image.format == "PNG" else None
    return {
        name: str(text)
        for name, text in (texts or {}).items()
        if name != "XML:com.adobe.xmp"
        and not name.startswith("Raw profile type")
        and isinstance(text, str)
    }


def orientation(image: Image.Image) -> int:
    """How the loaded image is to be turned (EXIF's 1 to 8); 1 where nothing or
    nonsense is said.
    """
    # Pillow turns TIFFs, and their size, itself
    return 1 if image.format == "TIFF" else stored_orientation(image)


def stored_orientation(image: Image.Image) -> int:
    """The same of the pixels as the file has them."""
    try:
        value = image.getexif().get(exif_block.ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _bytes(value: Any) -> bytes | None:
    value = value.encode("utf-8", "replace") if isinstance(value, str) else value
    return bytes(value) or None if isinstance(value, bytes | bytearray) else None


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    # of a JPEG without its own, Pillow reads EXIF's, or makes one up
    made_up = image.format in ("JPEG", "MPO") and image.info.get("jfif_unit") not in (1, 2)
    return None if made_up else _finite(image.info.get("dpi"))


def _aspect(info: dict[Any, Any]) -> tuple[float, float] | None:
    """Where only the pixels' aspect is given: a density of that ratio."""
    unitless = info.get("jfif_density") if info.get("jfif_unit") == 0 else info.get("aspect")
    try:
        across, down = unitless or (1, 1)
        if across == down or min(across, down) <= 0:
            return None
        return _finite((SCREEN * across / min(across, down), SCREEN * down / min(across, down)))
    except (TypeError, ValueError):
        return None


def _finite(dpi: Any) -> tuple[float, float] | None:
    try:
        x, y = (float(v) for v in dpi)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    # (1, 1) is what Pillow makes of a TIFF that says nothing
    return (x, y) if all(math.isfinite(v) and 1 < v < 1e6 for v in (x, y)) else None


def _exif(image: Image.Image) -> bytes | None:
    raw = image.info.get("exif")
    if image.format != "TIFF" and isinstance(raw, bytes) and raw:
        return re.sub(rb"^(Exif\0\0){1,2}", b"", raw) or None
    exif = image.getexif()  # a TIFF's own directory, or an old PNG's hexadecimal text
    if not len(exif):
        return None
    data = descriptive(exif).tobytes().removeprefix(b"Exif\0\0")
    return data if len(data) > 14 else None


def descriptive(exif: Image.Exif) -> Image.Exif:
    """What of a TIFF directory may go into another file."""
    kept = Image.Exif()
    for tag in exif:
        if tag in DESCRIPTIVE or tag == exif_block.ORIENTATION:
            kept[tag] = exif[tag]
    for directory in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if values := exif.get_ifd(directory):
            kept.get_ifd(directory).update(values)
    return kept


def exif_within(exif: bytes, limit: int) -> bytes | None:
    """Without the maker's note; None where that does not bring it under `limit` bytes."""
    try:
        block = Image.Exif()
        block.load(exif)
        block.get_ifd(ExifTags.IFD.Exif).pop(ExifTags.Base.MakerNote, None)
        shorter = block.tobytes().removeprefix(b"Exif\0\0")
    except Exception:
        return None
    return shorter if len(shorter) <= limit else None


def exif_for_tiff(data: Metadata, big: bool = False) -> TiffImagePlugin.ImageFileDirectory_v2:
    """A TIFF directory that holds what EXIF, XMP and IPTC say, and nothing of how pixels are
    stored.
    """
    ifd = TiffImagePlugin.ImageFileDirectory_v2(
        b"II+\0\x08\0\0\0\0\0\0\0\0\0\0\0" if big else b"II*\0\0\0\0\0"
    )
    if data.exif:
        with suppress(Exception):  # Pillow's reader raises anything where a block is damaged
            _add_exif(ifd, data.exif)
    for tag, value in ((700, data.xmp), (TiffImagePlugin.IPTC_NAA_CHUNK, data.iptc)):
        if value:
            ifd.tagtype[tag] = 1
            ifd[tag] = value
    return ifd


def _add_exif(ifd: TiffImagePlugin.ImageFileDirectory_v2, exif: bytes) -> None:
    block = Image.Exif()
    block.load(exif)
    kept = descriptive(block)
    for tag in kept:
        value = kept[tag]
        # Pillow reads UTF-8 as Latin-1, and writes ASCII
        if isinstance(value, str) and not value.isascii():
            ifd.tagtype[tag], value = 2, value.encode("latin-1", "replace")
        if _writable(tag, value):
            ifd[tag] = value
    for directory in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        values = {
            tag: v for tag, v in kept.get_ifd(directory).items() if _writable(tag, v, directory)
        }
        if values:
            ifd[directory] = values


def _writable(tag: int, value: object, group: int | None = None) -> bool:
    """Damaged blocks hold values that no writer takes."""
    trial = TiffImagePlugin.ImageFileDirectory_v2(group=group)
    try:
        trial[tag] = value
        trial.tobytes()
    except Exception:
        return False
    return True


def _iptc(image: Image.Image) -> bytes | None:
    resources = image.info.get("photoshop")
    if isinstance(resources, dict):
        return _bytes(resources.get(IPTC))
    tags = getattr(image, "tag_v2", None)
    return _bytes(tags.get(TiffImagePlugin.IPTC_NAA_CHUNK)) if tags is not None else None


def iptc_segment(iptc: bytes) -> bytes:
    """A JPEG's APP13 segment, or b'' where it is too long for one."""
    resource = b"8BIM" + struct.pack(">HHI", IPTC, 0, len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
    payload = b"Photoshop 3.0\0" + resource
    return (
        b"\xff\xed" + struct.pack(">H", len(payload) + 2) + payload
        if len(payload) <= 65533
        else b""
    )
