"""Texture classifier on latents (3.3): what comes before its linear layer is the key of the texture
memory.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from patchscaler.config import TextureConfig


class TextureClassifier(nn.Module):
    """Convolutions over a patch of latents, mean pool, linear head."""

    def __init__(self, config: TextureConfig, channels: int):
        super().__init__()
        layers: list[nn.Module] = []
        for i, width in enumerate(config.widths):
            layers += [nn.Conv2d(channels, width, 3, stride=1 if i == 0 else 2, padding=1)]
            layers += [nn.GroupNorm(4, width), nn.GELU()]
            channels = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(channels, max(1, len(config.classes)))

    def keys(self, latents: Tensor) -> Tensor:
        """(N, C, V, V) -> unit vectors (N, D), so that an inner product is the
        similarity of 3.3.
        """
        return F.normalize(self._features(latents), dim=-1)

    def _features(self, latents: Tensor) -> Tensor:
        return self.body(latents).mean((2, 3))  # (N, D)

    def forward(self, latents: Tensor) -> Tensor:
        """(N, C, V, V) -> logits (N, classes)."""
        return self.head(self._features(latents))
