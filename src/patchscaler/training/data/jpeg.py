"""JPEG compression as a batched torch function, one quality per image.

Baseline JPEG (ITU-T T.81): YCbCr of BT.601 in full range, chroma at half resolution (4:2:0), 8x8
DCT,
the example quantisation tables of Annex K scaled by quality as libjpeg does. Entropy coding loses
nothing and is left out. `tests/test_degradation.py` holds it against a real encoder.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Annex K, tables K.1 and K.2.
LUMA_TABLE = [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
]
CHROMA_TABLE = [
    [17, 18, 24, 47, 99, 99, 99, 99],
    [18, 21, 26, 66, 99, 99, 99, 99],
    [24, 26, 56, 99, 99, 99, 99, 99],
    [47, 66, 99, 99, 99, 99, 99, 99],
] + [[99] * 8] * 4

# Rows: Y, Cb, Cr (Cb and Cr without their offset of 128).
RGB_TO_YCBCR = [
    [0.299, 0.587, 0.114],
    [-0.168736, -0.331264, 0.5],
    [0.5, -0.418688, -0.081312],
]


def dct_matrix(n: int = 8) -> Tensor:
    """The orthonormal DCT-II as an (n, n) matrix; rows are frequencies."""
    k = torch.arange(n, dtype=torch.float64)
    m = torch.cos(math.pi * (2 * k[None, :] + 1) * k[:, None] / (2 * n)) * math.sqrt(2 / n)
    m[0] /= math.sqrt(2)
    return m.float()


def quantisation_table(table: list[list[int]], quality: Tensor) -> Tensor:
    """libjpeg's scaling of a base table. quality: (B,) in 1..100 -> (B, 8, 8) integers
    in 1..255.
    """
    q = quality.float().clamp(1, 100)
    percent = torch.where(q < 50, 5000 / q, 200 - 2 * q).floor()
    base = torch.tensor(table, dtype=torch.float32, device=quality.device)
    return ((base * percent[:, None, None] + 50) / 100).floor().clamp(1, 255)


def _round(x: Tensor) -> Tensor:
    """Rounding whose gradient is one (straight-through), so that the whole function is
    differentiable.
    """
    return x + (x.round() - x).detach()


def _compress_plane(x: Tensor, table: Tensor, dct: Tensor) -> Tensor:
    """x: (B, H, W) centred on 0, sides multiples of 8; table: (B, 8, 8)."""
    b, h, w = x.shape
    blocks = x.view(b, h // 8, 8, w // 8, 8).transpose(2, 3)  # (B, H/8, W/8, 8, 8)
    table = table[:, None, None]
    coefficients = _round(dct @ blocks @ dct.T / table) * table
    return (dct.T @ coefficients @ dct).transpose(2, 3).reshape(b, h, w)


def jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """Compress and decompress. images: (B, 3, H, W) RGB in [0, 1]; quality: (B,) in 1..100 -> same
    shape.
    """
    h, w = images.shape[-2:]
    x = F.pad(images, (0, -w % 16, 0, -h % 16), mode="replicate").clamp(0, 1) * 255
    to_ycc = x.new_tensor(RGB_TO_YCBCR)
    ycc = torch.einsum("kc,bchw->bkhw", to_ycc, x)
    dct = dct_matrix().to(x)
    luma = (
        _compress_plane(ycc[:, 0] - 128, quantisation_table(LUMA_TABLE, quality).to(x), dct) + 128
    )
    table = quantisation_table(CHROMA_TABLE, quality).to(x).repeat_interleave(2, 0)
    chroma = F.avg_pool2d(ycc[:, 1:], 2)  # (B, 2, H/2, W/2)
    chroma = _compress_plane(chroma.flatten(0, 1), table, dct).view_as(chroma)
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    ycc = torch.cat([luma[:, None], chroma], 1)
    out = torch.einsum("ck,bkhw->bchw", torch.linalg.inv(to_ycc), ycc)
    return (_round(out.clamp(0, 255)) / 255)[..., :h, :w]
