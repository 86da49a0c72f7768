"""The patches of one or several images in batches, those with most steps first."""

import torch
from torch import Tensor

from patchscaler.patching import PatchGrid

Place = tuple[
    int, int, int, int
]  # number of the image, number of the patch in it, its row and column in latents


class Batches:
    """Longest first: batches of one length stay full. Patches without steps are left out.

    Args:
        grids: Of each image.
        steps: (M,) of each image.
        todo: (M,) bool of each image: which patches are left.
        batch_size: Patches of a batch.
    """

    def __init__(
        self, grids: list[PatchGrid], steps: list[Tensor], todo: list[Tensor], batch_size: int
    ):
        self.batch_size = batch_size
        self.places: list[Place] = [
            (number, i, row, column)
            for number, grid in enumerate(grids)
            for i, (row, column) in enumerate(grid.corners())
        ]
        all_steps, left = torch.cat(steps), torch.cat(todo)
        order = all_steps.argsort(descending=True, stable=True)
        self.order = order[(left & (all_steps > 0))[order]].tolist()

    def __len__(self) -> int:
        """Patches that are left."""
        return len(self.order)

    def next_batch(self) -> list[Place]:
        """The next at most `batch_size` patches."""
        batch, self.order = self.order[: self.batch_size], self.order[self.batch_size :]
        return [self.places[i] for i in batch]
