"""Windows of a large picture: each answers for its core and reads as much around it as its network
can see.
"""

import itertools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from patchscaler.errors import PatchScalerError

# latents over which windows are faded into each other, where their networks see a whole window at
# once
FADE = 8


@dataclass(frozen=True)
class Span:
    """One side of a window: the core [start, stop), read as [low, high)."""

    start: int
    stop: int
    low: int
    high: int

    def extended(self, by: int) -> "Span":
        """A core that reaches `by` further into what was read, to be faded into the next one."""
        return replace(self, stop=min(self.stop + by, self.high))

    @property
    def core(self) -> slice:
        """The core within what was read."""
        return slice(self.start - self.low, self.stop - self.low)


@dataclass(frozen=True)
class Window:
    """Rows and columns."""

    rows: Span
    columns: Span


@dataclass(frozen=True)
class Sizes:
    """Of windows, so that each pass keeps to its memory. In latents."""

    restore: int  # side of a core
    rows: int  # of a finished strip
    columns: int  # of a window within the strip


def spans(length: int, core: int, reach: int, multiple: int = 1) -> list[Span]:
    """0..length in equal cores of at most `core`, each with `reach` more on both sides, less at the
    ends.

    All edges but the last are multiples of `multiple`. Raises PatchScalerError for cores of
    nothing.
    """
    if core < multiple:
        raise PatchScalerError(f"windows of {core}: take {multiple} or more")
    count = -(-length // (core // multiple * multiple))
    size = -(-length // (count * multiple)) * multiple
    reach = -(-reach // multiple) * multiple
    starts = range(0, length, size)
    return [
        Span(s, min(s + size, length), max(0, s - reach), min(s + size + reach, length))
        for s in starts
    ]


def cut_windows(height: int, width: int, core: int, reach: int, multiple: int = 1) -> list[Window]:
    """Square cores of at most `core`, row by row."""
    sides = (spans(side, core, reach, multiple) for side in (height, width))
    return [Window(rows, columns) for rows, columns in itertools.product(*sides)]


def faded(stored: Tensor, own: Tensor, above: int, left: int) -> Tensor:
    """(c, n, m) both -> `own`, over its first `above` rows and `left` columns faded in from
    `stored`.

    For networks that see a whole window at once, whose windows never quite agree.
    """
    weight = own.new_ones(own.shape[1:])
    for axis, length in ((0, min(above, own.shape[1])), (1, min(left, own.shape[2]))):
        ramp = (torch.arange(length) + 0.5) / max(1, length)
        weight.narrow(axis, 0, length).mul_(ramp[:, None] if axis == 0 else ramp)
    return stored + weight * (own - stored)
