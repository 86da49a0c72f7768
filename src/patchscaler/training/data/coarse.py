"""Coarse pictures beside the shards: what a frozen GRM makes of each degradation, computed once.

`NNNN_coarse.npy` (n, K', T, T, 3) uint8 and `NNNN_confidence.npy` (n, K', T/8, T/8) float16, for
the first K' degradations of each tile. Kept as pictures, so that crops can still be flipped and
transposed.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from patchscaler.errors import PatchScalerError
from patchscaler.models.autoencoder import Autoencoder, PCAAutoencoder
from patchscaler.models.grm import GRM
from patchscaler.training.data.captions import open_tokens
from patchscaler.training.data.shards import PairShards, oriented, to_unit


@torch.inference_mode()
def write_coarse(
    folder: str | Path,
    grm: GRM,
    autoencoder: Autoencoder,
    variants: int,
    device: str = "cpu",
    bf16: bool = True,
) -> int:
    """Write what is missing -> number of shards written."""
    written = 0
    for lr_file in sorted(Path(folder).glob("*_lr.npy")):
        stem = str(lr_file).removesuffix("_lr.npy")
        if Path(f"{stem}_coarse.npy").exists():
            continue
        lr = np.load(lr_file, mmap_mode="r")[:, :variants]  # (n, K', t, t, 3)
        n, k, t = lr.shape[:3]
        coarse = np.empty((n, k, 4 * t, 4 * t, 3), np.uint8)
        confidence: np.ndarray | None = None
        for i in range(0, n, 8):
            x = to_unit(lr[i : i + 8].reshape(-1, t, t, 3).transpose(0, 3, 1, 2))
            x = x.to(device, memory_format=torch.channels_last)
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
                y_0, c = grm(x, autoencoder)
            # The closed-form inverse gives the coarse latents back; a trained correction would
            # change them.
            decode = (
                autoencoder.decode_linear
                if isinstance(autoencoder, PCAAutoencoder)
                else autoencoder.decode
            )
            image = decode(y_0.float()).clamp(-1, 1)
            block = ((image + 1) * 127.5).round().byte().cpu().movedim(1, -1).numpy()
            coarse[i : i + 8] = block.reshape(-1, k, 4 * t, 4 * t, 3)
            if confidence is None:
                confidence = np.empty((n, k, *c.shape[-2:]), np.float16)
            confidence[i : i + 8] = c[:, 0].float().cpu().numpy().reshape(-1, k, *c.shape[-2:])
        assert confidence is not None
        for name, array in (("confidence", confidence), ("coarse", coarse)):
            np.save(f"{stem}_{name}.tmp.npy", array)
            os.replace(f"{stem}_{name}.tmp.npy", f"{stem}_{name}.npy")
        written += 1
    return written


def write_teacher(
    folder: str | Path, upscale: Callable[[np.ndarray], np.ndarray], variants: int, shards: int
) -> int:
    """`NNNN_teacher.npy` (n, K', T, T, 3): what another method makes of the first degradations, of
    so many shards.

    upscale: (h, w, 3) uint8 -> (4h, 4w, 3) uint8. shards: 0 for all. -> number of shards written.
    """
    written = 0
    files = sorted(Path(folder).glob("*_lr.npy"))
    for lr_file in files[: shards or len(files)]:
        target = str(lr_file).replace("_lr.npy", "_teacher.npy")
        if Path(target).exists():
            continue
        lr = np.load(lr_file, mmap_mode="r")[:, :variants]  # (n, K', t, t, 3)
        pictures = np.stack([np.stack([upscale(np.array(x)) for x in tile]) for tile in lr])
        np.save(target.replace(".npy", ".tmp.npy"), pictures)
        os.replace(target.replace(".npy", ".tmp.npy"), target)
        written += 1
    return written


@dataclass(frozen=True)
class Region:
    """A square of a tile: which, and how it is turned (`oriented`). Corner in latents."""

    shard: int
    tile: int
    variant: int
    top: int
    left: int
    way: int


def _cut(picture: np.ndarray, region: Region, factor: int, side: int) -> np.ndarray:
    """(T, T, 3) of the region's tile -> (3, side, side)."""
    top, left = region.top * factor, region.left * factor
    return oriented(picture[top : top + side, left : left + side], region.way)


class CoarseShards(PairShards):
    """Random (coarse, HR) regions of shards that have coarse pictures.

    teacher: what another method made of the first degradations, where it was asked
    (`write_teacher`). text: True if the tokens of captions are wanted too (`captions.py`).
    """

    def __init__(self, folder: str | Path, text: bool = False):
        super().__init__(folder)
        files = sorted(Path(folder).glob("*_coarse.npy"))
        if len(files) != len(self.hr):
            raise PatchScalerError(
                f"{folder}: coarse pictures are missing; make them with 'patchscaler train coarse'"
            )
        self.coarse = [np.load(f, mmap_mode="r") for f in files]
        self.confidence = [
            np.load(str(f).replace("_coarse", "_confidence"), mmap_mode="r") for f in files
        ]
        means = np.concatenate(
            [np.asarray(c[:, 0], np.float32).mean((1, 2)) for c in self.confidence]
        )
        # confidence above which a region counts as simple
        self.easy = float(np.quantile(means, 0.75))
        names = [Path(str(f).replace("_coarse", "_teacher")) for f in files]
        self.teacher = [np.load(f, mmap_mode="r") if f.exists() else None for f in names]
        self.text = open_tokens(folder, len(files)) if text else []

    def regions(
        self, batch: int, latents: int, factor: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """-> coarse, hr: (B, 3, s, s), small: (B, 3, s / 4, s / 4), in [-1, 1]; s = latents *
        factor, flipped alike.
        """
        drawn = self.draw(batch, latents, factor, rng)
        return *self.read(drawn, latents, factor), self.small(drawn, latents, factor)

    def taught(self, regions: list[Region], latents: int, factor: int) -> Tensor:
        """The teacher's pictures of these regions, (B, 3, s, s), and the truth where there are
        none.
        """
        side, out = latents * factor, []
        for r in regions:
            teacher = self.teacher[r.shard]
            picture = self.hr[r.shard][r.tile]
            if teacher is not None and r.variant < teacher.shape[1]:
                picture = teacher[r.tile, r.variant]
            out.append(_cut(picture, r, factor, side))
        return to_unit(np.stack(out))

    def draw(
        self, batch: int, latents: int, factor: int, rng: np.random.Generator, evenly: bool = False
    ) -> list[Region]:
        """Random regions. The easiest quarter is taken a quarter as often, but for `evenly`: simple
        patches never meet Patch-DiT, while the refiner sees nearly all, and clean pictures have no
        others.
        """
        drawn: list[Region] = []
        while len(drawn) < batch:
            s, i = self.index[rng.integers(len(self.index))]
            k = int(rng.integers(self.coarse[s].shape[1]))
            spare = self.coarse[s].shape[2] // factor - latents
            if spare < 0:
                raise PatchScalerError(
                    f"regions of {latents} latents: the tiles of these shards have "
                    f"{spare + latents}"
                )
            y, x = (int(v) for v in rng.integers(spare + 1, size=2))
            sure = self.confidence[s][i, k, y : y + latents, x : x + latents].mean()
            if not evenly and sure > self.easy and rng.random() < 0.75:
                continue
            drawn.append(Region(s, i, k, y, x, int(rng.integers(8))))
        return drawn

    def read(self, regions: list[Region], latents: int, factor: int) -> tuple[Tensor, Tensor]:
        """-> coarse, hr of these regions."""
        side = latents * factor
        coarse = [_cut(self.coarse[r.shard][r.tile, r.variant], r, factor, side) for r in regions]
        hr = [_cut(self.hr[r.shard][r.tile], r, factor, side) for r in regions]
        return to_unit(np.stack(coarse)), to_unit(np.stack(hr))

    def small(self, regions: list[Region], latents: int, factor: int) -> Tensor:
        """The LR pictures of these regions, (B, 3, s / 4, s / 4)."""
        step, side = factor // 4, latents * factor // 4
        return to_unit(
            np.stack([_cut(self.lr[r.shard][r.tile, r.variant], r, step, side) for r in regions])
        )

    def tokens(self, regions: list[Region]) -> Tensor:
        """The captions of these regions' tiles -> (B, L, W)."""
        return torch.from_numpy(np.stack([self.text[r.shard][r.tile] for r in regions])).float()
