"""Boxes of the small picture that are to be made in another way than the rest."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from patchscaler.config import GROUP_NAMES
from patchscaler.errors import PatchScalerError
from patchscaler.patching import PatchGrid

FARTHEST = 2**31  # pixels; no picture is as wide


@dataclass(frozen=True)
class Change:
    """Patches that touch `box` get another group, another seed, or both."""

    box: tuple[int, int, int, int]  # x, y, width, height in pixels of the small picture
    group: int | None = None  # 0 simple, 1 medium, 2 hard
    seed: int | None = None


def make_change(
    box: Sequence[int], group: str | int | None = None, seed: int | None = None
) -> Change:
    """group: a name of `GROUP_NAMES` or its number. Raises PatchScalerError for what cannot be."""
    name = ",".join(map(str, box))
    whole = len(box) == 4 and all(isinstance(number, Integral) for number in box)
    if not whole or min(box[:2]) < 0 or min(box[2:]) < 1 or max(box) > FARTHEST:
        raise PatchScalerError(f"box {name}: give x,y,width,height in pixels of the input")
    if group is None and seed is None:
        raise PatchScalerError(f"box {name}: say what is to change, a group or a seed")
    if not isinstance(seed, Integral | None):
        raise PatchScalerError(f"seed {seed}: give a whole number")
    number = GROUP_NAMES.index(group) if group in GROUP_NAMES else group
    if number not in (None, 0, 1, 2):
        raise PatchScalerError(f"unknown group '{group}': choose one of {', '.join(GROUP_NAMES)}")
    x, y, width, height = map(int, box)
    return Change((x, y, width, height), None if number is None else int(number), seed)


def patches_in(
    box: tuple[int, int, int, int], grid: PatchGrid, step: int, size: tuple[int, int]
) -> np.ndarray:
    """Indices of the patches that share a pixel with the box. step: pixels a latent; size: (h, w)
    of the picture.
    """
    x, y, width, height = box
    if x >= size[1] or y >= size[0]:
        raise PatchScalerError(
            f"box {x},{y},{width},{height} lies outside of the {size[1]}x{size[0]} picture"
        )

    def touching(starts: tuple[int, ...], low: int, length: int) -> np.ndarray:
        first = np.array(starts) * step
        return np.flatnonzero((first < low + length) & (first + grid.size * step > low))

    rows, columns = touching(grid.rows, y, height), touching(grid.columns, x, width)
    return (rows[:, None] * len(grid.columns) + columns[None, :]).ravel()


def last_seeds(
    changes: Sequence[Change], grid: PatchGrid, step: int, size: tuple[int, int]
) -> dict[int, int]:
    """Patch -> the last seed that a box gave it."""
    seeds: dict[int, int] = {}
    for change in changes:
        if change.seed is not None:
            seeds |= dict.fromkeys(patches_in(change.box, grid, step, size).tolist(), change.seed)
    return seeds


def in_force(
    changes: Sequence[Change], grid: PatchGrid, step: int, size: tuple[int, int]
) -> list[Change]:
    """Changes in their order, without those that later ones undo wholly.

    A patch keeps the last group and the last seed that it was given.
    """
    found = []
    grouped, seeded = np.zeros(len(grid), bool), np.zeros(len(grid), bool)
    for change in reversed(changes):
        touched, seen = patches_in(change.box, grid, step, size), False
        for wish, known in ((change.group, grouped), (change.seed, seeded)):
            if wish is not None:
                seen = seen or not known[touched].all()
                known[touched] = True
        if seen:
            found.append(change)
    return found[::-1]
