"""What a picture file says besides its pixels, and how the enlarged one says it: EXIF, XMP, ICC,
IPTC, dpi, texts.
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

MAX_BLOCK = 16_000_000  # bytes of one kind of metadata; no camera writes a tenth of it
IPTC = 0x0404  # of Photoshop's image resources
# Of a TIFF's own directory, what is about the picture and not about how it is stored.
DESCRIPTIVE = {
    269,
    270,
    271,
    272,
    285,
    305,
    306,
    315,
    316,
    18246,
    18249,
    33432,
    *range(40091, 40096),
}
NAMESPACE = "urn:patchscaler:provenance:"


@dataclass
class Metadata:
    """As it stands for an upright picture of `size` (width, height)."""

    size: tuple[int, int]
    exif: bytes | None = None  # without the prefix 'Exif\0\0'
    xmp: bytes | None = None
    icc_profile: bytes | None = None
    iptc: bytes | None = None
    dpi: tuple[float, float] | None = None
    comment: bytes | None = None  # of JPEG and GIF
    texts: dict[str, str] = field(default_factory=dict)  # PNG's text chunks
    # nothing in `xmp` came with the picture: formats without it may go without a word
    own_xmp: bool = False

    def enlarged(self, width: int, height: int) -> "Metadata":
        """The same of a picture of another size: dimensions and dpi follow, so that it prints as
        large as before.
        """
        ratios = (width / self.size[0], height / self.size[1])
        dpi = self.dpi and (self.dpi[0] * ratios[0], self.dpi[1] * ratios[1])
        exif = self.exif and exif_block.enlarged(self.exif, (width, height), ratios)
        xmp = self.xmp and _xmp_enlarged(self.xmp, width, height)
        return replace(self, size=(width, height), dpi=dpi, exif=exif, xmp=xmp)

    def with_provenance(self, facts: dict[str, str]) -> "Metadata":
        """`facts` (program, model, seed...) as properties of an XMP packet, beside those that are
        there.
        """
        names = " ".join(f"ps:{name}={quoteattr(value)}" for name, value in facts.items())
        entry = f'<rdf:Description rdf:about="" xmlns:ps="{NAMESPACE}" {names}/>'.encode()
        end = b"</rdf:RDF>"
        if self.xmp and end in self.xmp:
            head, tail = self.xmp.rsplit(end, 1)
            return replace(self, xmp=head + entry + end + tail)
        if self.xmp:  # in UTF-16, or with another prefix: better kept as it is
            return self
        packet = (
            b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta '
            b'xmlns:x="adobe:ns:meta/">'
            b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        )
        return replace(
            self, xmp=packet + entry + end + b'</x:xmpmeta><?xpacket end="w"?>', own_xmp=True
        )


def read_metadata(image: Image.Image, size: tuple[int, int]) -> tuple[Metadata, list[str]]:
    """-> what an opened file says, for its upright `size`; a line for each part that is damaged and
    left out.
    """
    notes: list[str] = []
    info = image.info
    data = Metadata(
        size,
        dpi=_dpi(info),
        icc_profile=_bytes(info.get("icc_profile")),
        xmp=_bytes(info.get("xmp")),
    )
    data.iptc, data.comment = _iptc(image), _bytes(info.get("comment"))
    texts = getattr(image, "text", None) if image.format == "PNG" else None
    for name, text in (texts or {}).items():
        if (
            name != "XML:com.adobe.xmp"
            and not name.startswith("Raw profile type")
            and isinstance(text, str)
        ):
            data.texts[name] = str(text)
    try:
        data.exif = _exif(image)
        if data.exif:
            data.exif = exif_block.enlarged(data.exif, size, (1, 1))
            data.dpi = data.dpi or _finite(exif_block.Block(data.exif).density())
    except Exception:  # Pillow's reader raises anything on damaged blocks
        data.exif = None
        notes.append("its EXIF data is damaged and was left out")
    if data.xmp:
        data.xmp = _xmp_enlarged(data.xmp, *size)
    for name in ("exif", "xmp", "icc_profile", "iptc", "comment"):
        if len(getattr(data, name) or b"") > MAX_BLOCK:
            setattr(data, name, None)
            notes.append(f"its {name} is larger than {MAX_BLOCK // 10**6} MB and was left out")
    return data, notes


def orientation(image: Image.Image) -> int:
    """How the loaded picture is to be turned (EXIF's 1 to 8); 1 where nothing or
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


def _dpi(info: dict[Any, Any]) -> tuple[float, float] | None:
    return _finite(info.get("dpi"))


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


def _xmp_enlarged(xmp: bytes, width: int, height: int) -> bytes:
    """Orientation and dimensions in an XMP packet, where it names them as attributes or
    elements.
    """
    new = {b"tiff:Orientation": 1, b"tiff:ImageWidth": width, b"tiff:ImageLength": height}
    new |= {b"exif:PixelXDimension": width, b"exif:PixelYDimension": height}
    for name, number in new.items():
        value = str(number).encode()
        xmp = re.sub(name + rb"(\s*=\s*[\"'])\d+([\"'])", name + rb"\g<1>" + value + rb"\g<2>", xmp)
        xmp = re.sub(name + rb">\s*\d+\s*<", name + b">" + value + b"<", xmp)
    return xmp
