"""Degraded pairs on disk: made once, read as memory maps, so that the loader costs nothing.

A shard is two files, `NNNN_hr.npy` (n, T, T, 3) and `NNNN_lr.npy` (n, K, T/4, T/4, 3), uint8: n
tiles of T pixels with K degradations each. `meta.json` beside them says how they were made. A
tile's degradations depend on seed and shard alone, so that an interrupted run goes on where it
stopped.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from patchscaler.errors import PatchScalerError
from patchscaler.training.data.degradation import DEGRADATIONS, degrade
from patchscaler.training.data.sources import is_validation, iterate_images


@dataclass(frozen=True)
class ShardConfig:
    images: str
    tile: int = 256
    variants: int = 4
    mix: tuple[tuple[str, float], ...] = (
        ("real", 0.4),
        ("stable", 0.1),
        ("mild", 0.35),
        ("bicubic", 0.15),
    )
    seed: int = 0
    shard_size: int = 200
    exclude: str = ""  # comma-separated prefixes of file names
    reduced: float = 0.3  # share of images also used at a random smaller scale
    held_out: float = 0.03  # share of source images kept for validation, by name


def parse_mix(text: str) -> tuple[tuple[str, float], ...]:
    """'real:.4,mild:.6' -> pairs.

    Raises PatchScalerError for unknown kinds or numbers that are none.
    """
    mix = []
    for part in text.split(","):
        kind, _, share = part.partition(":")
        if kind not in DEGRADATIONS:
            raise PatchScalerError(
                f"unknown degradation '{kind}': choose from {', '.join(DEGRADATIONS)}"
            )
        try:
            mix.append((kind, float(share or 1)))
        except ValueError as error:
            raise PatchScalerError(
                f"share '{share}' of degradation '{kind}' is no number"
            ) from error
    return tuple(mix)


def _tiles(config: ShardConfig, validation: bool) -> Iterator[np.ndarray]:
    """(T, T, 3) uint8: a grid over each image, and a share of the images once more at a smaller
    scale.
    """
    rng = np.random.default_rng(config.seed)
    t = config.tile
    for name, image in iterate_images(config.images, config.exclude):
        reduce = rng.random() < config.reduced
        factor, low = rng.random(), t / min(image.shape[:2])
        if is_validation(name, config.held_out) != validation or min(image.shape[:2]) < t:
            continue
        yield from _grid(image, t)
        if reduce and not validation and low < 1:
            size = [max(t, round(s * (low + (1 - low) * factor))) for s in image.shape[1::-1]]
            yield from _grid(
                np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)), t
            )


def _grid(image: np.ndarray, t: int) -> Iterator[np.ndarray]:
    for y in range(0, image.shape[0] - t + 1, t):
        for x in range(0, image.shape[1] - t + 1, t):
            yield image[y : y + t, x : x + t]


def _write_shard(job: tuple[Path, int, np.ndarray, ShardConfig, str]) -> int:
    """Degrade the tiles of one shard in batches of four, on the device asked for; write both files
    atomically.
    """
    folder, index, tiles, config, device = job
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + index)
    kinds = [kind for kind, _ in config.mix]
    weights = torch.tensor([share for _, share in config.mix])
    lr = np.empty((len(tiles), config.variants, config.tile // 4, config.tile // 4, 3), np.uint8)
    for start in range(0, len(tiles), 4):
        hr = torch.from_numpy(tiles[start : start + 4]).to(device).movedim(-1, 1).float() / 255
        for k in range(config.variants):
            kind = kinds[int(torch.multinomial(weights, 1, generator=generator))]
            low = (degrade(hr, kind, generator) * 255).round().byte()
            lr[start : start + 4, k] = low.movedim(1, -1).cpu().numpy()
    for suffix, array in (("lr", lr), ("hr", tiles)):
        temporary = folder / f".{index:04d}_{suffix}.tmp.npy"
        np.save(temporary, array)
        os.replace(temporary, folder / f"{index:04d}_{suffix}.npy")
    return len(tiles)


def write_shards(
    folder: str | Path,
    config: ShardConfig,
    *,
    validation: bool = False,
    workers: int = 1,
    device: str = "cpu",
) -> int:
    """Write what is missing of the shards of `config` to `folder` -> number of tiles
    written now.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    meta = folder / "meta.json"
    text = json.dumps(asdict(config) | {"validation": validation}, indent=1)
    if meta.exists() and json.loads(meta.read_text()) != json.loads(text):
        raise PatchScalerError(
            f"{folder}: holds shards made with other settings. Hint: name another folder"
        )
    meta.write_text(text)

    def jobs() -> Iterator[tuple[Path, int, np.ndarray, ShardConfig, str]]:
        block: list[np.ndarray] = []
        index = 0
        for tile in _tiles(config, validation):
            block.append(tile)
            if len(block) == config.shard_size:
                if not (folder / f"{index:04d}_hr.npy").exists():
                    yield folder, index, np.stack(block), config, device
                block, index = [], index + 1
        if block and not (folder / f"{index:04d}_hr.npy").exists():
            yield folder, index, np.stack(block), config, device

    if workers <= 1:
        return sum(map(_write_shard, jobs()))
    with get_context("spawn").Pool(workers, torch.set_num_threads, (1,)) as pool:
        return sum(pool.imap_unordered(_write_shard, jobs()))


class PairShards:
    """Random crops of degraded pairs, flipped and transposed.

    Args:
        text: Whether the tokens of captions are needed, too (`training/captions.py`).
    """

    def __init__(self, folder: str | Path, text: bool = False):
        files = sorted(Path(folder).glob("*_hr.npy"))
        if not files:
            raise PatchScalerError(
                f"{folder}: no shards here. Hint: make them with 'patchscaler train shards'"
            )
        self.hr = [np.load(f, mmap_mode="r") for f in files]
        self.lr = [np.load(str(f).replace("_hr.npy", "_lr.npy"), mmap_mode="r") for f in files]
        self.index = [(s, i) for s, shard in enumerate(self.hr) for i in range(len(shard))]
        self.text = _open_tokens(Path(folder), len(files)) if text else []

    def __len__(self) -> int:
        return len(self.index)

    def sample(self, batch: int, lr_size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """-> lr (B, 3, s, s), hr (B, 3, 4s, 4s) in [-1, 1]."""
        lrs, hrs = [], []
        for pick in rng.integers(len(self.index), size=batch):
            s, i = self.index[pick]
            k = rng.integers(self.lr[s].shape[1])
            # even offsets: the latents' grid of 8 pixels is 2 pixels of the LR image
            y, x = 2 * rng.integers((self.lr[s].shape[2] - lr_size) // 2 + 1, size=2)
            lr = self.lr[s][i, k, y : y + lr_size, x : x + lr_size]
            hr = self.hr[s][i, 4 * y : 4 * (y + lr_size), 4 * x : 4 * (x + lr_size)]
            way = int(rng.integers(8))
            lrs.append(oriented(lr, way))
            hrs.append(oriented(hr, way))
        return to_unit(np.stack(lrs)), to_unit(np.stack(hrs))

    def tiles(
        self, batch: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
        """Whole tiles: lr (B, 3, T/4, T/4), hr (B, 3, T, T) in [-1, 1], and (shard, tile) of each.

        Each comes with one of its degradations, in one of the eight orientations.
        """
        places = [self.index[i] for i in rng.integers(len(self.index), size=batch)]
        lrs, hrs = [], []
        for s, i in places:
            k, way = rng.integers(self.lr[s].shape[1]), int(rng.integers(8))
            lrs.append(oriented(self.lr[s][i, k], way))
            hrs.append(oriented(self.hr[s][i], way))
        return to_unit(np.stack(lrs)), to_unit(np.stack(hrs)), places

    def tokens(self, places: list[tuple[int, int]]) -> Tensor:
        """The captions of these (shard, tile), encoded: (B, L, W)."""
        return torch.from_numpy(np.stack([self.text[s][i] for s, i in places])).float()

    def pairs(self, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every tile once, with its first degradation, in order: for validation."""
        for shard_hr, shard_lr in zip(self.hr, self.lr, strict=True):
            for start in range(0, len(shard_hr), batch):
                lr = shard_lr[start : start + batch, 0].transpose(0, 3, 1, 2)
                hr = shard_hr[start : start + batch].transpose(0, 3, 1, 2)
                yield to_unit(lr), to_unit(hr)


def _open_tokens(folder: Path, shards: int) -> list[np.ndarray]:
    """Open the tokens of every shard, (n, L, W) float16 each."""
    files = sorted(folder.glob("*_text.npy"))
    if len(files) != shards:
        raise PatchScalerError(
            f"{folder}: captions are missing. Hint: make them with 'patchscaler train captions'"
        )
    return [np.load(file, mmap_mode="r") for file in files]


def oriented(image: np.ndarray, way: int) -> np.ndarray:
    """(H, W, 3) -> (3, H, W) in one of the eight orientations, way in 0..7; a view."""
    image = image[::-1] if way & 1 else image
    image = image[:, ::-1] if way & 2 else image
    return image.transpose(2, 1, 0) if way & 4 else image.transpose(2, 0, 1)


def to_unit(array: np.ndarray) -> Tensor:
    """uint8 0..255 -> float32 [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(array)).float().div_(127.5).sub_(1)
