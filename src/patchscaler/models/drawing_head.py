"""What Patch-DiT makes of a patch, drawn once more by convolutions on pixels (`compact` only).

In the closed-form latents an edge looks different at each of the 64 places it can have in its block, so that
attention over blocks has to learn sharpness 64 times; a convolution learns it once. The head decodes what the
transformer says by the inverse transform, draws the patch anew in the layout of Real-ESRGAN's network - so that some
of its dense blocks may be the start - and encodes the drawing. It sees one patch, as the transformer does, and
simple patches never meet it.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchscaler.errors import PatchScalerError
from patchscaler.models.autoencoder import PCAAutoencoder

GROWTH = 32  # channels that each convolution of a dense block adds
SCALE = 4  # the dense blocks work at a quarter of the picture's side, where they see four times as far for their cost


class DenseBlock(nn.Module):
    """Five convolutions, each seeing all before it; the fifth is added at a fifth (ESRGAN, arXiv 1809.00219)."""

    def __init__(self, width: int):
        super().__init__()
        outs = [GROWTH] * 4 + [width]
        self.convs = nn.ModuleList([nn.Conv2d(width + GROWTH * i, o, 3, padding=1) for i, o in enumerate(outs)])

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]  # (N, W, h, w), then (N, 32, h, w) each
        for conv in list(self.convs)[:-1]:
            maps.append(F.leaky_relu(conv(torch.cat(maps, 1)), 0.2))
        return x + 0.2 * self.convs[-1](torch.cat(maps, 1))  # (N, W, h, w)


class Drawer(nn.Module):
    """Pixels of what the transformer says and of the coarse patch -> the patch drawn anew, all in [-1, 1].

    The layout of Real-ESRGAN's network (arXiv 2107.10833), whose small picture is here folded from the large one.
    """

    def __init__(self, width: int, depth: int):
        super().__init__()
        self.conv_first = nn.Conv2d(6 * SCALE**2, width, 3, padding=1)
        self.blocks = nn.ModuleList([nn.Sequential(*[DenseBlock(width) for _ in range(3)]) for _ in range(depth)])
        self.conv_body, self.conv_up1, self.conv_up2, self.conv_hr = (
            nn.Conv2d(width, width, 3, padding=1) for _ in range(4)
        )
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    def features(self, pixels: Tensor) -> Tensor:
        """(N, 6, s, s) -> (N, W, s/4, s/4), what the enlargement draws from."""
        first = self.conv_first(F.pixel_unshuffle(pixels, SCALE))  # (N, W, s/4, s/4)
        h = first
        for block in self.blocks:
            h = h + 0.2 * block(h)  # (N, W, s/4, s/4)
        return first + self.conv_body(h)  # (N, W, s/4, s/4)

    def forward(self, pixels: Tensor) -> Tensor:
        h = self.features(pixels)  # (N, W, s/4, s/4)
        h = F.leaky_relu(self.conv_up1(F.interpolate(h, scale_factor=2.0)), 0.2)  # (N, W, s/2, s/2)
        h = F.leaky_relu(self.conv_up2(F.interpolate(h, scale_factor=2.0)), 0.2)  # (N, W, s, s)
        h = F.leaky_relu(self.conv_hr(h), 0.2)  # (N, W, s, s)
        return 2 * self.conv_last(h) - 1  # (N, 3, s, s)

    @torch.no_grad()
    def load_esrgan(self, weights: dict[str, Tensor], blocks: tuple[int, ...]) -> None:
        """Start from these blocks of an ESRGAN (`body.N.rdbM.convK.weight`, ...); of the input it sees y_0 only.

        The first convolution reads the small picture in [0, 1]; here the mean of sixteen pixels in [-1, 1] is it.
        Raises PatchScalerError where the network has other sizes.
        """
        first = weights.get("conv_first.weight", torch.zeros(0))
        own = self.state_dict()
        try:
            own["conv_first.weight"].zero_()[:, 48:] = (first.float() / 32).repeat_interleave(16, 1)
            own["conv_first.bias"].copy_(weights["conv_first.bias"].float() + first.float().sum((1, 2, 3)) / 2)
            for part in ("weight", "bias"):
                for i, block in enumerate(blocks):
                    for r, k in itertools.product(range(3), range(5)):
                        source = weights[f"body.{block}.rdb{r + 1}.conv{k + 1}.{part}"]
                        own[f"blocks.{i}.{r}.convs.{k}.{part}"].copy_(source.float())
                for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"):
                    own[f"{name}.{part}"].copy_(weights[f"{name}.{part}"].float())
        except (KeyError, RuntimeError) as error:
            raise PatchScalerError(f"the ESRGAN network does not fit: {str(error).splitlines()[0]}") from error


class DrawingHead(nn.Module):
    """x_0, y_0 (N, C, V, V) -> what to add to x_0, (N, C, V, V): the drawing in place of the coarse patch."""

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
        self.drawer = Drawer(width, depth)

    @torch.no_grad()
    def connect(self, autoencoder: PCAAutoencoder) -> "DrawingHead":
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
            pixels = torch.cat(F.pixel_shuffle(blocks, self.factor).chunk(2), 1)  # (N, 6, fV, fV)
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        drawn = self.drawer(pixels)  # (N, 3, fV, fV)
        with torch.autocast(x_0.device.type, enabled=False):
            delta = F.pixel_unshuffle(drawn.float() - pixels[:, 3:], self.factor)  # (N, 3ff, V, V)
            return F.conv2d(delta, self.to_latents.float()[..., None, None])  # (N, C, V, V)
