"""XMP of the upscaled image: what described the old pixels follows the new ones or is removed."""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from xml.dom import minidom

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
TIFF, EXIF = "http://ns.adobe.com/tiff/1.0/", "http://ns.adobe.com/exif/1.0/"
PANORAMA = "http://ns.google.com/photos/1.0/panorama/"
DIMENSIONS = "http://ns.adobe.com/xap/1.0/sType/Dimensions#"
# Pointers to blocks that are not copied, and maps of the old pixels: namespace -> what is lost.
STALE = {
    "http://ns.google.com/photos/1.0/camera/": "motion photo",
    "http://ns.google.com/photos/1.0/container/": "motion photo or gain map",
    "http://ns.google.com/photos/1.0/container/item/": "motion photo or gain map",
    "http://ns.google.com/photos/1.0/depthmap/": "depth map",
    "http://ns.google.com/photos/1.0/image/": "second image",
    "http://ns.google.com/photos/1.0/audio/": "sound",
    "http://ns.google.com/photos/dd/1.0/device/": "depth map",
    "http://ns.google.com/photos/dd/1.0/container/": "depth map",
    "http://ns.xiaomi.com/photos/1.0/camera/": "motion photo",
    "http://ns.oplus.com/photos/1.0/camera/": "motion photo",
    "http://ns.adobe.com/hdr-gain-map/1.0/": "gain map",
    "http://ns.apple.com/HDRGainMap/1.0/": "gain map",
    "http://ns.apple.com/pixeldatainfo/1.0/": "depth map",
    "http://ns.apple.com/depthData/1.0/": "depth map",
    "http://ns.adobe.com/xmp/note/": "",  # HasExtendedXMP: a packet of another block
}
THUMBNAILS = ("http://ns.adobe.com/xap/1.0/", "Thumbnails")
# Rectangles about the image, in shares of its sides: true as long as it is not turned.
REGIONS = {
    ("http://www.metadataworkinggroup.com/schemas/regions/", "Regions"),
    ("http://ns.microsoft.com/photo/1.2/", "RegionInfo"),
    ("http://ns.apple.com/faceinfo/1.0/", "Regions"),
    ("http://iptc.org/std/Iptc4xmpExt/2008-02-29/", "ImageRegion"),
}
IN_PIXELS = {  # of the panorama's namespace, all that has the word in its name follows that side
    "Width": 0,
    "Left": 0,
    "Height": 1,
    "Top": 1,
}


def upscaled(
    xmp: bytes, size: tuple[int, int], ratios: tuple[float, float], turned: bool = False
) -> tuple[bytes | None, list[str]]:
    """The packet of the upright image of `size`, `ratios` times as large as the one it described.

    Args:
        turned: Whether the image was turned since.

    Returns:
        The packet, None where it cannot be read; and notes on what was left out.
    """
    try:
        document = minidom.parseString(xmp.strip(b"\0 \r\n\t"))
    except Exception:  # expat raises several kinds, and minidom more
        return None, ["its XMP data is damaged and was left out"]
    lost: set[str] = set()
    for node in list(_properties(document.documentElement)):
        name = (node.namespaceURI, node.localName)
        if name[0] in STALE:
            lost.add(STALE[name[0]])
            _remove(node)
        elif name == THUMBNAILS:
            _remove(node)
        elif name in REGIONS and turned:
            lost.add("regions (of faces)")
            _remove(node)
        else:
            _resize(node, size, ratios)
    notes = [f"not kept: {what}" for what in sorted(lost - {""})]
    text = "".join(child.toxml() for child in document.childNodes)
    return text.encode(), notes


def _properties(element: Any) -> Iterator[Any]:
    """Attributes and elements, depth first, of what may itself be removed meanwhile."""
    yield from list((element.attributes or {}).values())
    for child in list(element.childNodes):
        if child.nodeType == child.ELEMENT_NODE:
            yield child
            if child.parentNode is not None:
                yield from _properties(child)


def _remove(node: Any) -> None:
    if node.nodeType == node.ATTRIBUTE_NODE:
        node.ownerElement.removeAttributeNode(node)
    else:
        node.parentNode.removeChild(node).parentNode = None


def _resize(node: Any, size: tuple[int, int], ratios: tuple[float, float]) -> None:
    space, name = node.namespaceURI, node.localName
    if space == TIFF and name == "Orientation":
        _set(node, 1)
    elif (space, name) in ((TIFF, "ImageWidth"), (EXIF, "PixelXDimension")):
        _set(node, size[0])
    elif (space, name) in ((TIFF, "ImageLength"), (EXIF, "PixelYDimension")):
        _set(node, size[1])
    elif space == DIMENSIONS and name in ("w", "h") and _within_regions(node):
        _set(node, size[name == "h"])
    elif space == PANORAMA and "Pixels" in (name or ""):
        axis = next((axis for word, axis in IN_PIXELS.items() if word in name), 0)
        with suppress(ValueError):
            _set(node, round(float(_get(node)) * ratios[axis]))
    elif (space, name) in ((EXIF, "SubjectArea"), (EXIF, "SubjectLocation")):
        _remove(node)


def _within_regions(node: Any) -> bool:
    parent = node.ownerElement if node.nodeType == node.ATTRIBUTE_NODE else node.parentNode
    while parent is not None:
        if (parent.namespaceURI, getattr(parent, "localName", None)) in REGIONS:
            return True
        parent = parent.parentNode
    return False


def _get(node: Any) -> str:
    if node.nodeType == node.ATTRIBUTE_NODE:
        return str(node.value)
    return "".join(c.data for c in node.childNodes if c.nodeType == c.TEXT_NODE)


def _set(node: Any, value: int) -> None:
    if node.nodeType == node.ATTRIBUTE_NODE:
        node.value = str(value)
        return
    for child in list(node.childNodes):
        node.removeChild(child)
    node.appendChild(node.ownerDocument.createTextNode(str(value)))


def merged(xmp: bytes, extension: bytes) -> bytes | None:
    """The packet with the descriptions of its extension; None where either cannot be read."""
    try:
        document, more = (
            minidom.parseString(xmp.strip(b"\0 \r\n\t")),
            minidom.parseString(extension),
        )
        target = document.getElementsByTagNameNS(RDF, "RDF")[0]
        for source in more.getElementsByTagNameNS(RDF, "Description"):
            parent: Any = source.parentNode
            if parent.localName == "RDF":
                root: Any = more.documentElement
                for prefix, uri in root.attributes.items():
                    if prefix.startswith("xmlns:") and not source.hasAttribute(prefix):
                        source.setAttribute(prefix, uri)
                target.appendChild(document.importNode(source, True))
        return "".join(child.toxml() for child in document.childNodes).encode()
    except Exception:  # expat raises several kinds, and minidom more
        return None


EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"
LIMIT = 60_000  # bytes of a packet that still fits into one segment of a JPEG


def with_extension(xmp: bytes, segments: list[bytes]) -> tuple[bytes, str | None]:
    """A JPEG's packet with what its further segments hold; where that is long, only a note."""
    wanted = re.search(rb"HasExtendedXMP[^0-9A-Fa-f]{1,4}([0-9A-Fa-f]{32})", xmp)
    if wanted is None:
        return xmp, None
    parts = {}
    for segment in segments:
        body = segment.removeprefix(EXTENSION)
        if len(body) < len(segment) and body[:32].lower() == wanted[1].lower():
            parts[int.from_bytes(body[36:40], "big")] = body[40:]
    extension = b"".join(parts[place] for place in sorted(parts))
    both = merged(xmp, extension) if 0 < len(xmp) + len(extension) < LIMIT else None
    return (both, None) if both else (xmp, "its extended XMP data was left out")
