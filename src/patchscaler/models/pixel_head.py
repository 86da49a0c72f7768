"""Convolutions on pixels at the end of Patch-DiT (`compact` only).

In the closed-form latents an edge looks different at each of the 64 places it can have in its block, so that
attention over blocks has to learn sharpening 64 times; a convolution learns it once. The head decodes what
the transformer says by the inverse transform, corrects it, and encodes the correction. It sees one patch, as
the transformer does, and simple patches never meet it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchscaler.models.autoencoder import PCAAutoencoder
from patchscaler.models.grm import ResBlock

FOLD = 2  # pixels of a square of this side are channels: a quarter of the cost, and 64 channels run fast


class PixelHead(nn.Module):
    """x_0, y_0 (N, C, V, V) -> what to add to x_0, (N, C, V, V). Starts at zero."""

    to_pixels: Tensor
    to_latents: Tensor
    mean: Tensor

    def __init__(self, width: int, depth: int, channels: int, factor: int = 8):
        super().__init__()
        d = 3 * factor**2
        self.factor = factor
        # The autoencoder's own maps, kept with the head so that Patch-DiT stays one network.
        self.register_buffer("to_pixels", torch.eye(d)[:, :channels].clone())  # (3ff, C)
        self.register_buffer("to_latents", torch.eye(d)[:channels].clone())  # (C, 3ff)
        self.register_buffer("mean", torch.zeros(d))
        self.conv_in = nn.Conv2d(6 * FOLD**2, width, 3, padding=1)
        self.blocks = nn.Sequential(*[ResBlock(width, width, norm=False) for _ in range(depth)])
        self.conv_out = nn.Conv2d(width, 3 * FOLD**2, 3, padding=1)
        nn.init.kaiming_normal_(self.conv_in.weight)
        nn.init.zeros_(self.conv_in.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    @torch.no_grad()
    def connect(self, autoencoder: PCAAutoencoder) -> "PixelHead":
        """Take the autoencoder's basis."""
        scale = autoencoder.std[:, None] ** autoencoder.scale_power
        self.to_pixels.copy_((autoencoder.basis * scale).T)
        self.to_latents.copy_(autoencoder.basis / scale)
        self.mean.copy_(autoencoder.mean)
        return self

    def forward(self, x_0: Tensor, coarse: Tensor) -> Tensor:
        with torch.autocast(x_0.device.type, enabled=False):
            both = torch.cat([x_0, coarse]).float()  # (2N, C, V, V)
            blocks = F.conv2d(both, self.to_pixels.float()[..., None, None], self.mean.float())  # (2N, 3ff, V, V)
            pixels = F.pixel_unshuffle(F.pixel_shuffle(blocks, self.factor), FOLD)  # (2N, 12, fV/2, fV/2)
            pixels = torch.cat(pixels.chunk(2), 1).contiguous(memory_format=torch.channels_last)  # (N, 24, ...)
        h = self.blocks(self.conv_in(pixels))  # (N, W, fV/2, fV/2)
        delta = F.pixel_shuffle(self.conv_out(h), FOLD)  # (N, 3, fV, fV)
        with torch.autocast(x_0.device.type, enabled=False):
            blocks = F.pixel_unshuffle(delta.float(), self.factor)  # (N, 3ff, V, V)
            return F.conv2d(blocks, self.to_latents.float()[..., None, None])  # (N, C, V, V)
