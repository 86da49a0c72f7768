"""Texture classifier (3.3): what comes before its linear layer is the key of the texture memory."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchscaler.config import TextureConfig
from patchscaler.errors import PatchScalerError

# (in, out, side) of AlexNet's convolutions; the first has stride 4, a pooling comes after two.
ALEXNET = ((3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3))
IMAGE_SHIFT, IMAGE_SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class LatentFeatures(nn.Sequential):
    """The paper's: a stack of convolutions over latents, and the mean of the last."""

    def __init__(self, widths: tuple[int, ...], channels: int):
        layers: list[nn.Module] = []
        for i, width in enumerate(widths):
            layers += [nn.Conv2d(channels, width, 3, stride=1 if i == 0 else 2, padding=1)]
            layers += [nn.GroupNorm(4, width), nn.GELU()]
            channels = width
        super().__init__(*layers)
        self.size = channels

    def forward(self, latents: Tensor) -> Tensor:
        return super().forward(latents).mean((2, 3))  # (N, D)


class PixelFeatures(nn.Module):
    """AlexNet's convolutions on the pixels of unshuffled latents: mean and deviation of each map,
    then a linear projection that keeps textures together (`training/classifier.py`).
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, size: int, channels: int):
        super().__init__()
        self.factor = round((channels / 3) ** 0.5)
        if 3 * self.factor**2 != channels:
            raise PatchScalerError(
                f"texture classifier on pixels: {channels} channels are no unshuffled pixels. "
                "Hint: take an autoencoder of the kind pixel_unshuffle"
            )
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, k, 4 if k == 11 else 1, 2 if k == 11 else k // 2) for i, o, k in ALEXNET
        )
        self.project = nn.Linear(2 * sum(out for _, out, _ in ALEXNET), size)
        self.size = size
        self.register_buffer("shift", torch.tensor(IMAGE_SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(IMAGE_SCALE)[:, None, None], persistent=False)

    def statistics(self, latents: Tensor) -> Tensor:
        """(N, 3ff, V, V) -> square roots of means and deviations (N, 2304)."""
        x = (F.pixel_shuffle(latents, self.factor) - self.shift) / self.scale  # (N, 3, fV, fV)
        found = []
        for i, conv in enumerate(self.convs):
            x = F.relu(conv(F.max_pool2d(x, 3, 2) if i in (1, 2) else x))
            found += [x.mean((2, 3)), x.std((2, 3))]  # (N, out) each
        return torch.cat(found, 1).sqrt()

    def forward(self, latents: Tensor) -> Tensor:
        return self.project(self.statistics(latents))  # (N, D)


class TextureClassifier(nn.Module):
    """Features of a patch of latents and a linear head."""

    def __init__(self, config: TextureConfig, channels: int):
        super().__init__()
        classes = max(1, len(config.classes))
        self.body: LatentFeatures | PixelFeatures
        if config.kind == "latents":
            self.body = LatentFeatures(config.widths, channels)
        elif config.kind == "pixels":
            self.body = PixelFeatures(max(1, classes - 1), channels)
        else:
            raise PatchScalerError(
                f"unknown texture classifier '{config.kind}': choose latents or pixels"
            )
        self.head = nn.Linear(self.body.size, classes)

    @property
    def storage_bits(self) -> int:
        """Of a weight on disk, for `save_module`."""
        return 8 if isinstance(self.body, PixelFeatures) else 16

    def keys(self, latents: Tensor) -> Tensor:
        """(N, C, V, V) -> unit vectors (N, D): an inner product is the similarity of 3.3."""
        return F.normalize(self.body(latents), dim=-1)

    def forward(self, latents: Tensor) -> Tensor:
        """(N, C, V, V) -> logits (N, classes)."""
        return self.head(self.body(latents))
