"""What numbers mean without an ICC profile: CICP, gAMA and cHRM, EXIF.

Each becomes an ICC profile of a matrix and a curve, so that all that follows knows one kind of
label. Own code, for Pillow has no call of LittleCMS that makes such profiles.
"""

import struct
from contextlib import suppress
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from patchscaler.errors import PatchScalerError

D50 = np.array([0.9642, 1.0, 0.8249])
D65 = (0.3127, 0.3290)
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
Chromaticities = tuple[float, ...]  # x, y of white, red, green, blue
# ITU-T H.273, table 2
PRIMARIES: dict[int, Chromaticities] = {
    1: (*D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06),
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
ADOBE_RGB = (*D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
BT709_CURVE = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
# ITU-T H.273, table 3: parameters of ICC's parametric curves; of one number: gamma
TRANSFERS = {
    **dict.fromkeys((1, 6, 14, 15), BT709_CURVE),
    4: (2.2,),
    5: (2.8,),
    8: (1.0,),
    13: SRGB_CURVE,
}
HDR = {16: "PQ", 18: "HLG"}
UNKNOWN = 2  # of both


def label_of(image: Image.Image) -> bytes | None:
    """An ICC profile of what an opened image without one says; None for sRGB and for nothing.

    Raises:
        PatchScalerError: An HDR transfer function, or one that is not known here.
    """
    grey = image.mode in ("1", "L", "LA", "F") or image.mode[0] == "I"
    info = image.info
    cicp = info.get("cicp") or _nclx(info.get("nclx_profile"))
    if cicp and cicp[:2] != (UNKNOWN, UNKNOWN):
        return _of_cicp(cicp[0], cicp[1], grey)
    if "srgb" in info and image.format == "PNG":
        return None
    if gamma := info.get("gamma"):
        white_first = info.get("chromaticity")
        curve = SRGB_CURVE if abs(gamma - 0.45455) < 0.002 else (1 / gamma,)
        return make_profile(white_first or PRIMARIES[1], curve, grey)
    if white_first := info.get("chromaticity"):
        return make_profile(white_first, SRGB_CURVE, grey)
    if _adobe_by_exif(image):
        return make_profile(ADOBE_RGB, (563 / 256,), grey)
    return None


def check_profile(profile: bytes | None) -> None:
    """Raises PatchScalerError for a profile of HDR (its `cicp` tag names PQ or HLG)."""
    place = (profile or b"").find(b"cicp", 132)
    while profile and place >= 0:
        with suppress(struct.error):  # in the table of tags: where the tag lies
            (offset,) = struct.unpack_from(">I", profile, place + 4)
            if profile[offset : offset + 4] == b"cicp" and offset + 10 <= len(profile):
                _of_cicp(profile[offset + 8], profile[offset + 9], False)
                return
        place = profile.find(b"cicp", place + 4)


def _of_cicp(primaries: int, transfer: int, grey: bool) -> bytes | None:
    if transfer in HDR:
        raise PatchScalerError(
            f"is HDR ({HDR[transfer]}), which the networks do not know. "
            "Hint: convert it to SDR (tone mapping) first"
        )
    curve = TRANSFERS.get(13 if transfer == UNKNOWN else transfer)
    points = PRIMARIES.get(1 if primaries == UNKNOWN else primaries)
    if curve is None or points is None:
        raise PatchScalerError(
            f"its colors (CICP primaries {primaries}, transfer {transfer}) are not known. "
            "Hint: convert it to sRGB or Display P3 first"
        )
    return make_profile(points, curve, grey)


def _nclx(profile: Any) -> tuple[int, int] | None:
    if not isinstance(profile, dict):
        return None
    names = ("color_primaries", "transfer_characteristics")
    first, second = (int(profile.get(n, UNKNOWN)) for n in names)
    return first, second


def _adobe_by_exif(image: Image.Image) -> bool:
    """Cameras write 2, or "uncalibrated" and the index R03 (DCF 2.0)."""
    with suppress(Exception):  # Pillow's reader raises anything on damaged blocks
        exif = image.getexif()
        space = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace)
        index = exif.get_ifd(ExifTags.IFD.Interop).get(1) if space == 65535 else None
        return space == 2 or index in ("R03", b"R03", "R03\0")
    return False


def make_profile(
    points: Chromaticities, curve: tuple[float, ...], grey: bool = False
) -> bytes | None:
    """An ICC profile (ICC.1:2010) of primaries and a parametric curve; None where that is sRGB.

    Raises:
        ValueError: Primaries that span nothing.
    """
    if curve == SRGB_CURVE and (grey or np.allclose(points, PRIMARIES[1], atol=2e-3)):
        return None
    kind = {1: 0, 5: 3}[len(curve)]
    tone = b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + _fixed(*curve)
    text = b"PatchScaler\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text\0\0\0\0CC0\0",
        b"wtpt": b"XYZ \0\0\0\0" + _fixed(*D50),
    }
    if grey:
        tags[b"kTRC"] = tone
    else:
        for column, color in zip(_to_xyz(points).T, (b"r", b"g", b"b"), strict=True):
            tags[color + b"XYZ"] = b"XYZ \0\0\0\0" + _fixed(*column)
            tags[color + b"TRC"] = tone
    table, data, start = b"", b"", 132 + 12 * len(tags)
    for name, tag in tags.items():
        table += name + struct.pack(">II", start + len(data), len(tag))
        data += tag + bytes(-len(tag) % 4)
    body = struct.pack(">I", len(tags)) + table + data
    space = b"GRAY" if grey else b"RGB "
    head = struct.pack(
        ">I4sI4s4s4s", 128 + len(body), b"\0" * 4, 0x02400000, b"mntr", space, b"XYZ "
    )
    head = head.ljust(36, b"\0") + b"acsp".ljust(32, b"\0") + _fixed(*D50)
    return head.ljust(128, b"\0") + body


def _to_xyz(points: Chromaticities) -> np.ndarray:
    """(3, 3) linear RGB -> XYZ adapted to D50 by Bradford."""
    xyz = np.array(
        [[x / y, 1, (1 - x - y) / y] for x, y in zip(points[::2], points[1::2], strict=True)]
    ).T
    white, colors = xyz[:, 0], xyz[:, 1:]
    matrix = colors * np.linalg.solve(colors, white)
    cones = BRADFORD @ D50 / (BRADFORD @ white)
    return np.linalg.inv(BRADFORD) @ np.diag(cones) @ BRADFORD @ matrix


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(v * 65536)) for v in values)
