"""One field of Gaussian noise over the whole canvas, from a counter-based generator.

A value depends on (seed, channel, row, column) of the latents and on nothing else: overlapping
patches, crops, batches, devices and resumed runs all see the same field.
"""

import numpy as np
import torch
from torch import Tensor

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014): a bijection of 64-bit integers that
    avalanches.
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def noise_field(
    seed: int,
    channels: int,
    top: int,
    left: int,
    height: int,
    width: int,
    period: tuple[int, int] | None = None,
) -> Tensor:
    """(channels, height, width) float32 N(0, 1): the window at (top, left) of the canvas of this
    seed.

    Rows and columns may be negative or as large as 2^31. With a period (rows, columns) the field
    repeats. The result lies on the CPU, the same for every device.
    """
    with np.errstate(over="ignore"):
        key = _mix(np.array([seed % 2**64], np.uint64) + GOLDEN)
        row_numbers, column_numbers = (
            np.arange(a, a + n, dtype=np.int64) for a, n in ((top, height), (left, width))
        )
        if period:
            row_numbers, column_numbers = row_numbers % period[0], column_numbers % period[1]
        rows, columns = (
            row_numbers.astype(np.uint64)[:, None],
            column_numbers.astype(np.uint64)[None, :],
        )
        place = _mix(_mix(key ^ rows) + columns * GOLDEN)  # (height, width)
        counter = place[None] + np.arange(channels, dtype=np.uint64)[:, None, None] * GOLDEN
        bits = _mix(counter)  # (channels, height, width)
    # Box-Muller from the two halves of the bits; the first is never zero.
    u = ((bits >> np.uint64(32)).astype(np.float64) + 0.5) * 2.0**-32
    v = (bits & np.uint64(0xFFFFFFFF)).astype(np.float64) * 2.0**-32
    return torch.from_numpy((np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)).astype(np.float32))


class NoiseField:
    """The field of one image, made where it is read; tiles are kept as long as neighbors are likely
    to read them.

    Args:
        seed: Of the field.
        channels: Of the latents.
        origin: (row, column) of the image in the field, in latents.
        period: (rows, columns) after which the field repeats, for tileable textures.
    """

    SIDE, KEPT = 64, 48

    def __init__(
        self,
        seed: int,
        channels: int,
        origin: tuple[int, int] = (0, 0),
        period: tuple[int, int] | None = None,
    ):
        self.seed, self.channels, self.origin, self.period = seed, channels, origin, period
        self.tiles: dict[tuple[int, int], Tensor] = {}

    def _tile(self, y: int, x: int) -> Tensor:
        tile = self.tiles.pop((y, x), None)
        if tile is None:
            s, (top, left) = self.SIDE, self.origin
            tile = noise_field(
                self.seed, self.channels, top + y * s, left + x * s, s, s, self.period
            )
            if len(self.tiles) >= self.KEPT:
                self.tiles.pop(
                    next(iter(self.tiles))
                )  # the one that was not read for the longest time
        self.tiles[y, x] = tile
        return tile

    def window(self, row: int, column: int, height: int, width: int) -> Tensor:
        """(channels, height, width) from latent (row, column) of the image on."""
        s = self.SIDE
        ys = range(row // s, (row + height - 1) // s + 1)
        xs = range(column // s, (column + width - 1) // s + 1)
        block = torch.cat([torch.cat([self._tile(y, x) for x in xs], -1) for y in ys], -2)
        top, left = row - ys[0] * s, column - xs[0] * s
        return block[:, top : top + height, left : left + width]
