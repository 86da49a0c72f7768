"""Random regions of shards whose coarse images are cached (`training/coarse.py`)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from patchscaler.errors import PatchScalerError
from patchscaler.training.data.shards import PairShards, oriented, to_unit


@dataclass(frozen=True)
class Region:
    """A square of a tile: which, and how it is turned (`oriented`). Corner in latents."""

    shard: int
    tile: int
    variant: int
    top: int
    left: int
    way: int


class CoarseShards(PairShards):
    """Random (coarse, HR) regions, all places alike."""

    def __init__(self, folder: str | Path, text: bool = False):
        super().__init__(folder, text)
        files = sorted(Path(folder).glob("*_coarse.npy"))
        if len(files) != len(self.hr):
            raise PatchScalerError(
                f"{folder}: coarse images are missing. "
                "Hint: make them with 'patchscaler train coarse'"
            )
        self.coarse = [np.load(f, mmap_mode="r") for f in files]

    def draw(self, batch: int, latents: int, factor: int, rng: np.random.Generator) -> list[Region]:
        """Draw regions of `latents` latents of `factor` pixels, evenly over tiles and places."""
        drawn = []
        for pick in rng.integers(len(self.index), size=batch):
            s, i = self.index[pick]
            spare = self.coarse[s].shape[2] // factor - latents
            if spare < 0:
                raise PatchScalerError(
                    f"regions of {latents} latents: the tiles of these shards have "
                    f"{spare + latents}. Hint: make shards with a larger --tile"
                )
            k, way = int(rng.integers(self.coarse[s].shape[1])), int(rng.integers(8))
            y, x = (int(v) for v in rng.integers(spare + 1, size=2))
            drawn.append(Region(s, i, k, y, x, way))
        return drawn

    def read(self, regions: list[Region], latents: int, factor: int) -> tuple[Tensor, Tensor]:
        """-> coarse, hr of these regions: (B, 3, s, s) in [-1, 1] each, s = latents * factor."""
        side = latents * factor
        coarse = [_cut(self.coarse[r.shard][r.tile, r.variant], r, factor, side) for r in regions]
        hr = [_cut(self.hr[r.shard][r.tile], r, factor, side) for r in regions]
        return to_unit(np.stack(coarse)), to_unit(np.stack(hr))


def _cut(image: np.ndarray, region: Region, factor: int, side: int) -> np.ndarray:
    """(T, T, 3) of the region's tile -> (3, side, side)."""
    top, left = region.top * factor, region.left * factor
    return oriented(image[top : top + side, left : left + side], region.way)
