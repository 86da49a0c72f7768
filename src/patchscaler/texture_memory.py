"""Reference Texture Memory (3.3): keys, values and where each came from.

A value is kept as a small compressed image, 3 to 5 kB instead of the 64 kB of its latents, and
encoded when the memory is loaded. Keys are kept, so that loading runs no classifier.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from patchscaler.errors import PatchScalerError
from patchscaler.models.autoencoder import Autoencoder
from patchscaler.models.texture import TextureClassifier
from patchscaler.models.weights import load_tensors, save_tensors


@dataclass(frozen=True)
class Origin:
    """Where an entry came from and on what terms."""

    source: str  # file name
    licence: str
    author: str = ""


class TextureMemory:
    """M entries: keys (M, D) of unit length, values (M, C, V, V) latents, one Origin each."""

    def __init__(
        self,
        keys: Tensor,
        values: Tensor,
        origins: list[Origin],
        pictures: list[bytes],
        key_model: str,
    ):
        self.keys, self.values = keys, values
        self.origins, self.pictures, self.key_model = origins, pictures, key_model

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str) -> "TextureMemory":
        self.keys, self.values = self.keys.to(device), self.values.to(device)
        return self

    def search(self, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """Normalised inner products: (N, D) -> scores (N, K) descending, indices (N, K).

        Ties: lower index first.
        """
        if top_k > len(self):
            raise PatchScalerError(
                f"top-{top_k} of a texture memory of {len(self)}. "
                "Hint: take a smaller K, or build more"
            )
        scores = queries.float() @ self.keys.T.float()  # (N, M)
        order = torch.sort(scores, dim=1, descending=True, stable=True)
        return order.values[:, :top_k], order.indices[:, :top_k]

    def lookup(self, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
        """-> values (N, K, C, V, V), scores (N, K), indices (N, K)."""
        scores, indices = self.search(queries, top_k)
        return self.values[indices].to(queries.dtype), scores, indices

    def digest(self) -> str:
        """SHA-256 of keys and images."""
        digest = hashlib.sha256(self.keys.cpu().float().numpy().tobytes())
        for picture in self.pictures:
            digest.update(picture)
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        blob = b"".join(self.pictures)
        tensors = {
            "keys": self.keys.cpu().half(),
            "pictures": torch.from_numpy(np.frombuffer(blob, np.uint8).copy()),
            "lengths": torch.tensor([len(p) for p in self.pictures], dtype=torch.int32),
        }
        # Origins repeat: a table of the different ones and an index for each entry.
        table = sorted(set(self.origins), key=lambda o: o.source)
        number = {o: i for i, o in enumerate(table)}
        tensors["origins"] = torch.tensor([number[o] for o in self.origins], dtype=torch.int32)
        rows = [[o.source, o.licence, o.author] for o in table]
        save_tensors(path, tensors, {"key_model": self.key_model, "origins": json.dumps(rows)})

    @classmethod
    @torch.no_grad()
    def load(
        cls, path: str | Path, autoencoder: Autoencoder, key_model: str = ""
    ) -> "TextureMemory":
        """Read and encode. key_model: hash of the classifier in use; a memory made by another is
        refused.
        """
        tensors, metadata = load_tensors(path)
        if missing := {"keys", "pictures", "lengths", "origins"} - set(tensors):
            raise PatchScalerError(
                f"{path}: not a texture memory ({', '.join(sorted(missing))} missing)"
            )
        if key_model and metadata.get("key_model") != key_model:
            raise PatchScalerError(
                f"{path}: its keys were made by another texture classifier. "
                "Hint: build it again with 'patchscaler memory build'"
            )
        blob = tensors["pictures"].numpy().tobytes()
        ends = tensors["lengths"].long().cumsum(0).tolist()
        pictures = [blob[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        rows = [Origin(*row) for row in json.loads(metadata["origins"])]
        try:
            values = encode_crops((decode_image(p) for p in pictures), autoencoder)
        except OSError as error:
            raise PatchScalerError(
                f"{path}: a stored image is damaged. Hint: download or build it again"
            ) from error
        origins = [rows[i] for i in tensors["origins"].tolist()]
        return cls(tensors["keys"].float(), values.half(), origins, pictures, metadata["key_model"])


def decode_image(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def encode_image(crop: np.ndarray, quality: int = 88) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(crop).save(buffer, "WEBP", quality=quality, method=6)
    return buffer.getvalue()


@torch.no_grad()
def encode_crops(crops: Iterable[np.ndarray], autoencoder: Autoencoder, batch: int = 64) -> Tensor:
    """(P, P, 3) uint8 each -> latents (n, C, V, V) on the CPU."""
    tensor = next(chain(autoencoder.buffers(), autoencoder.parameters()), None)
    device = "cpu" if tensor is None else tensor.device
    out: list[Tensor] = []
    block: list[np.ndarray] = []

    def flush() -> None:
        x = torch.from_numpy(np.stack(block)).movedim(-1, 1).to(device).float() / 127.5 - 1
        out.append(autoencoder.encode(x).cpu())
        block.clear()

    for crop in crops:
        block.append(crop)
        if len(block) == batch:
            flush()
    if block:
        flush()
    return torch.cat(out)


def farthest_point_sampling(points: Tensor, count: int) -> Tensor:
    """Choose a spread-out subset (PointNet++, arXiv 1706.02413); starts at 0, so deterministic.

    Each step takes the point farthest from all taken: one product of (N, D) with a vector.

    Args:
        points: (N, D).
        count: At most N.

    Returns:
        (count,) indices, all different.
    """
    if count > len(points):
        raise PatchScalerError(f"{count} of {len(points)} points: take at most all")
    points = points.float()
    squares = points.square().sum(1)  # (N,)
    chosen = torch.zeros(count, dtype=torch.long)
    distance = torch.full((len(points),), float("inf"))
    last = 0
    for i in range(count):
        chosen[i] = last
        # |p - q|^2 = |p|^2 - 2 p.q + |q|^2
        torch.minimum(distance, squares - 2 * (points @ points[last]) + squares[last], out=distance)
        distance[last] = -float("inf")
        last = int(distance.argmax())
    return chosen


def random_crops(
    images: Iterable[tuple[str, np.ndarray]], side: int, per_image: int, rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    """Draw up to `per_image` (name, (side, side, 3)) crops of each image.

    Flat ones are drawn again, three times at most: farthest point sampling would pick them first.
    """
    for name, image in images:
        h, w = image.shape[:2]
        found = 0
        for _ in range(4 * per_image if min(h, w) >= side else 0):
            y, x = rng.integers(h - side + 1), rng.integers(w - side + 1)
            crop = image[y : y + side, x : x + side]
            if sharpness(crop) >= 4:
                yield name, crop.copy()  # a view would keep the whole image in memory
                found += 1
            if found == per_image:
                break


def sharpness(crop: np.ndarray) -> float:
    """Mean absolute difference of neighbouring grey values, 0..255."""
    grey = crop.astype(np.float32).mean(-1)
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())


@torch.no_grad()
def build_memory(
    crops: list[np.ndarray],
    origins: list[Origin],
    autoencoder: Autoencoder,
    classifier: TextureClassifier,
    size: int,
    key_model: str,
    quality: int = 88,
) -> TextureMemory:
    """Build a memory of exactly `size` spread-out entries from candidates (P, P, 3) uint8.

    The images are compressed first and encoded from there, so that a memory loaded is the one
    built.

    Raises:
        PatchScalerError: There are fewer candidates.
    """
    if len(crops) < size:
        raise PatchScalerError(
            f"{size} textures asked for, and {len(crops)} crops with enough texture found. "
            "Hint: give more, sharper or larger images, or a smaller --size"
        )
    device = next(classifier.parameters()).device

    def keys_of(latents: Tensor) -> Tensor:
        return torch.cat([classifier.keys(z.to(device)).cpu() for z in latents.split(512)])

    blocks = (encode_crops(crops[i : i + 512], autoencoder) for i in range(0, len(crops), 512))
    keys = torch.cat([keys_of(latents) for latents in blocks])
    chosen = farthest_point_sampling(keys, size).tolist()
    pictures = [encode_image(crops[i], quality) for i in chosen]
    values = encode_crops((decode_image(p) for p in pictures), autoencoder)
    return TextureMemory(
        keys_of(values).half().float(),
        values.half(),
        [origins[i] for i in chosen],
        pictures,
        key_model,
    )
