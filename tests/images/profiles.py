"""ICC profiles of curves and a matrix, made by hand, for tests."""

import struct

import numpy as np

ADOBE = np.array(
    [[0.60976, 0.20524, 0.14922], [0.31112, 0.62566, 0.06322], [0.01948, 0.06089, 0.74484]]
)
P3 = np.array(
    [[0.51512, 0.29198, 0.15710], [0.24119, 0.69224, 0.06657], [-0.00105, 0.04188, 0.78407]]
)


def fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(v * 65536)) for v in values)


def gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


SRGB_CURVE = (
    b"para\0\0\0\0"
    + struct.pack(">HH", 3, 0)
    + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
)
D50 = fixed(0.9642, 1, 0.8249)


def make_profile(
    matrix: np.ndarray | None, curve: bytes, extra: dict[bytes, bytes] | None = None
) -> bytes:
    """matrix: (3, 3) linear RGB -> XYZ adapted to D50, or None for grey."""
    tags = {b"wtpt": b"XYZ \0\0\0\0" + D50, b"cprt": b"text\0\0\0\0none\0"}
    tags[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78)
    if matrix is None:
        tags[b"kTRC"] = curve
    else:
        for i, color in enumerate((b"r", b"g", b"b")):
            tags[color + b"XYZ"] = b"XYZ \0\0\0\0" + fixed(*matrix[:, i])
            tags[color + b"TRC"] = curve
    tags |= extra or {}
    table, data, start = b"", b"", 132 + 12 * len(tags)
    for name, tag in tags.items():
        table += name + struct.pack(">II", start + len(data), len(tag))
        data += tag + bytes(-len(tag) % 4)
    body = struct.pack(">I", len(tags)) + table + data
    kind = b"GRAY" if matrix is None else b"RGB "
    head = struct.pack(">I4sI4s4s4s", 128 + len(body), b"test", 0x02400000, b"mntr", kind, b"XYZ ")
    return head.ljust(36, b"\0") + b"acsp".ljust(32, b"\0") + D50 + bytes(48) + body
