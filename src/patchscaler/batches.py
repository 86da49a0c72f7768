"""The patches of one or several pictures in batches: which go together, what they are cut from,
where they go.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from patchscaler.errors import PatchScalerError
from patchscaler.jobs import Job

if TYPE_CHECKING:
    from patchscaler.pipeline import PatchScaler

MOST_MEMORY = 2**40  # MiB; no machine has as much


class Batches:
    """Longest first: batches of one length stay full. Patches of no steps come last, in batches of
    their own, for they need no prompt. n patches of a batch, V a patch's side, C channels, K
    textures a prompt.
    """

    def __init__(self, jobs: list[Job], size: int, limit: int):
        """size: V. limit: patches of a batch."""
        self.size, self.limit = size, limit
        self.places = [
            (job, i, row, column)
            for job in jobs
            for i, (row, column) in enumerate(job.grid.corners())
        ]
        self.groups, self.steps, todo = (
            torch.cat([getattr(j, name) for j in jobs]) for name in ("groups", "steps", "todo")
        )
        order = self.steps.argsort(descending=True, stable=True)
        self.order = order[todo[order]]

    def __len__(self) -> int:
        """Patches that are left."""
        return len(self.order)

    def next_batch(self) -> Tensor:
        """(n,) numbers of the next batch's patches."""
        with_steps = int((self.steps[self.order] > 0).sum())
        count = min(self.limit, with_steps or self.limit)
        batch, self.order = self.order[:count], self.order[count:]
        return batch

    def requeue(self, batch: Tensor) -> None:
        """It was too large for the memory: all later ones are half as large."""
        self.order, self.limit = torch.cat([batch, self.order]), len(batch) // 2

    def sampled(self, batch: Tensor) -> bool:
        """Have its patches any steps?"""
        return int(self.steps[batch[0]]) > 0

    def coarse(self, batch: Tensor) -> Tensor:
        """(n, C, V, V) y_0"""
        return self._cut("coarse", batch)

    def noise(self, batch: Tensor) -> Tensor:
        """(n, C, V, V)"""
        noise = self._cut("noise", batch)
        for n, (job, i, _, _) in enumerate(self.places[i] for i in batch):
            if i in job.noise_of:
                noise[n] = job.noise_of[i]
        return noise

    def _cut(self, name: str, batch: Tensor) -> Tensor:
        v = self.size
        windows = [
            (getattr(job, name), row, column)
            for job, _, row, column in (self.places[i] for i in batch)
        ]
        return torch.stack([x[:, r : r + v, c : c + v] for x, r, c in windows])

    def put(self, batch: Tensor, patches: Tensor, entries: Tensor) -> None:
        """patches: (n, C, V, V), onto the canvases. entries: (n, K) of the memory."""
        entries[self.steps[batch] == 0] = -1
        for patch, entry, (job, i, row, column) in zip(
            patches, entries, (self.places[i] for i in batch), strict=True
        ):
            job.textures[i] = entry.numpy()
            job.canvas.add(patch, row, column)


def patches_within(scaler: "PatchScaler", mebibytes: float) -> int:
    """How many patches a batch should have: an estimate of Patch-DiT's and the prompt's memory,
    from above.

    Raises PatchScalerError for a limit that is none.
    """
    if not mebibytes < MOST_MEMORY:
        raise PatchScalerError(f"memory limit {mebibytes:g}: give a number of MiB, as 512")
    c, k = scaler.config.patch_dit, scaler.config.texture.top_k
    latents = scaler.autoencoder.channels * scaler.config.groups.latent_patch_size**2
    tokens = (scaler.config.groups.latent_patch_size // c.patch_size) ** 2
    context = k * (scaler.config.groups.latent_patch_size // c.context_patch_size) ** 2
    floats = (12 + 2 * k) * latents + tokens * c.hidden_size * (8 + 3 * c.mlp_ratio)
    floats += context * (
        c.hidden_size * (8 + 2 * c.mlp_ratio) + 2 * c.depth * (c.cross_size or c.hidden_size)
    )
    return max(1, int(mebibytes * 2**20 / (4 * floats)))
