"""ICC profiles of curves and a matrix <-> sRGB in floats: cameras, phones, screens, grey scanners.

Pillow's ImageCms computes in 8 bits, too coarse for 16-bit pictures and blind outside of sRGB. What
stands in such a profile (ICC.1:2010, 8.3 and 10.5, 10.15) is three curves and nine numbers.
Profiles of tables (scanners, printers) are not taken apart: the picture's numbers then go through
as they are, and the profile with them.
"""

import struct
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

STEPS = 65536  # of a sampled curve

# Linear sRGB -> XYZ as ICC profiles hold it, adapted to D50 (the columns of every sRGB profile).
SRGB_TO_XYZ = np.array(
    [
        [0.4360747, 0.3850649, 0.1430804],
        [0.2225045, 0.7168786, 0.0606169],
        [0.0139322, 0.0971045, 0.7141733],
    ]
)


@dataclass(frozen=True, eq=False)
class ColorSpace:
    """curves: one a channel, (STEPS,) linear light at even steps of the encoded value, rising from
    0 to 1.

    matrix: (3, 3) linear values -> linear sRGB, or None for grey.
    """

    curves: tuple[np.ndarray, ...]
    matrix: np.ndarray | None

    @property
    def wide(self) -> bool:
        """Whether it holds colors outside of sRGB."""
        if self.matrix is None:
            return False
        low, high = self.matrix.clip(max=0).sum(1), self.matrix.clip(min=0).sum(1)
        return bool(low.min() < -1e-3 or high.max() > 1 + 1e-3)

    def to_srgb(self, x: np.ndarray) -> np.ndarray:
        """(c, h, w) encoded in [0, 1] -> (c, h, w) sRGB; colors that sRGB lacks lie outside of [0,
        1].
        """
        steps = np.linspace(0, 1, STEPS)
        linear = np.stack([np.interp(x[i], steps, curve) for i, curve in enumerate(self.curves)])
        if self.matrix is not None:
            linear = np.einsum("ij,jhw->ihw", self.matrix, linear)
        return srgb_encode(linear).astype(np.float32)

    def from_srgb(self, x: np.ndarray) -> np.ndarray:
        """The inverse, clipped to what the space holds."""
        linear = srgb_decode(x.astype(np.float64))
        if self.matrix is not None:
            linear = np.einsum("ij,jhw->ihw", np.linalg.inv(self.matrix), linear)
        steps = np.linspace(0, 1, STEPS)
        return np.stack(
            [np.interp(linear[i], curve, steps) for i, curve in enumerate(self.curves)]
        ).astype(np.float32)


def srgb_decode(x: np.ndarray) -> np.ndarray:
    """Encoded -> linear light (IEC 61966-2-1), odd about zero so that colors outside of sRGB keep
    their sign.
    """
    a = np.abs(x)
    return np.sign(x) * np.where(a <= 0.04045, a / 12.92, ((a + 0.055) / 1.055) ** 2.4)


def srgb_encode(x: np.ndarray) -> np.ndarray:
    a = np.abs(x)
    return np.sign(x) * np.where(
        a <= 0.0031308, a * 12.92, 1.055 * np.maximum(a, 1e-9) ** (1 / 2.4) - 0.055
    )


@lru_cache(maxsize=8)
def color_space(profile: bytes) -> ColorSpace | None:
    """None where the values are sRGB's already, or where the profile is damaged or of
    another kind.
    """
    space = _taken_apart(profile)
    return None if space is None or _same_as_srgb(space) else space


def is_srgb(profile: bytes) -> bool:
    """False, too, where the profile cannot be taken apart."""
    space = _taken_apart(profile)
    return space is not None and _same_as_srgb(space)


def _same_as_srgb(space: ColorSpace) -> bool:
    srgb = srgb_decode(np.linspace(0, 1, STEPS))
    same_curve = all(np.abs(srgb_encode(c) - srgb_encode(srgb)).max() < 0.002 for c in space.curves)
    return same_curve and (
        space.matrix is None or bool(np.abs(space.matrix - np.eye(3)).max() < 0.002)
    )


def _taken_apart(profile: bytes) -> ColorSpace | None:
    try:
        tags = _tags(profile)
        if any(name in tags for name in ("A2B0", "A2B1", "D2B0")):
            return None
        kind = profile_kind(profile)
        if kind == "GRAY":
            curves: tuple[np.ndarray, ...] = (_curve(tags["kTRC"]),)
            matrix = None
        elif kind == "RGB":
            curves = tuple(_curve(tags[f"{c}TRC"]) for c in "rgb")
            # (3, 3) linear RGB -> XYZ
            columns = np.stack([_xyz(tags[f"{c}XYZ"]) for c in "rgb"], 1)
            matrix = np.linalg.solve(SRGB_TO_XYZ, columns)
            if abs(np.linalg.det(matrix)) < 1e-3 or np.abs(matrix).max() > 20:
                return None
        else:
            return None
    except (KeyError, ValueError, struct.error, IndexError, ArithmeticError, np.linalg.LinAlgError):
        return None
    return ColorSpace(curves, matrix)


def profile_kind(profile: bytes) -> str:
    """'RGB', 'GRAY', 'CMYK', 'Lab'..., or '' where these bytes are no profile."""
    if len(profile) < 132 or profile[36:40] != b"acsp":
        return ""
    return profile[16:20].decode("latin-1").strip()


def _tags(profile: bytes) -> dict[str, memoryview]:
    (count,) = struct.unpack_from(">I", profile, 128)
    if count > 200:
        raise ValueError("more tags than any profile has")
    tags, view = {}, memoryview(profile)  # a view: many tags may claim the same megabytes
    for i in range(count):
        name, offset, size = struct.unpack_from(">4sII", profile, 132 + 12 * i)
        tags[name.decode("latin-1")] = view[offset : offset + size]
    return tags


def _xyz(tag: memoryview) -> np.ndarray:
    if tag[:4] != b"XYZ ":
        raise ValueError("not an XYZ tag")
    return np.array(struct.unpack_from(">3i", tag, 8)) / 65536


def _curve(tag: memoryview) -> np.ndarray:
    """'curv' or 'para' -> (STEPS,) values of the curve at even steps; it must rise from 0 to 1."""
    x = np.linspace(0, 1, STEPS)
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if count == 0:
            y = x
        elif count == 1:
            y = x ** (struct.unpack_from(">H", tag, 12)[0] / 256)
        else:
            table = np.frombuffer(tag, ">u2", count, 12) / 65535
            y = np.interp(x, np.linspace(0, 1, count), table)
    elif tag[:4] == b"para":
        with np.errstate(all="ignore"):  # what is not finite is refused below, without numpy's word
            y = _parametric(tag, x)
    else:
        raise ValueError("not a curve")
    if not np.isfinite(y).all() or (np.diff(y) < 0).any() or y[0] > 0.01 or abs(y[-1] - 1) > 0.01:
        raise ValueError("a curve that cannot be inverted")
    return y


def _parametric(tag: memoryview, x: np.ndarray) -> np.ndarray:
    """The five functions of ICC.1:2010, table 65."""
    (kind,) = struct.unpack_from(">H", tag, 8)
    if kind > 4:
        raise ValueError("unknown function")
    count = (1, 3, 4, 5, 7)[kind]
    g, a, b, c, d, e, f = [v / 65536 for v in struct.unpack_from(f">{count}i", tag, 12)] + [0.0] * (
        7 - count
    )
    if kind == 0:
        return x**g
    power = np.maximum(a * x + b, 0) ** g
    if kind == 1:
        return np.where(x >= -b / a, power, 0)
    if kind == 2:
        return np.where(x >= -b / a, power + c, c)
    if kind == 3:
        return np.where(x >= d, power, c * x)
    return np.where(x >= d, power + e, c * x + f)
