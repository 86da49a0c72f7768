"""What the fused latents say, drawn once more by convolutions on pixels (`compact` only).

In the closed-form latents an edge looks different at each of the 64 places it can have in its
block, so that attention over blocks has to learn sharpness 64 times; a convolution learns it once.
The refiner sees the fused picture as it decodes, the coarse one, and the small one, of which the
coarse has lost something; it has the layout of Real-ESRGAN's network, so that some of its dense
blocks may be the start. `refining.py` says where it is used.
"""

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchscaler.config import RefinerConfig
from patchscaler.errors import PatchScalerError

GROWTH = 32  # channels that each convolution of a dense block adds
# the dense blocks work at a quarter of the picture's side, where they see four times as far for
# their cost
SCALE = 4
BAND = 32  # rows of features that are enlarged at once: what lies between fits a processor's cache
REACH = 2  # rows of features beside a band that the enlargement sees


class DenseBlock(nn.Module):
    """Five convolutions, each seeing all before it; the fifth is added at a fifth (ESRGAN, arXiv
    1809.00219).
    """

    def __init__(self, width: int):
        super().__init__()
        outs = [GROWTH] * 4 + [width]
        self.convs = nn.ModuleList(
            [nn.Conv2d(width + GROWTH * i, o, 3, padding=1) for i, o in enumerate(outs)]
        )

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]  # (N, W, h, w), then (N, 32, h, w) each
        for conv in list(self.convs)[:-1]:
            maps.append(F.leaky_relu(conv(torch.cat(maps, 1)), 0.2))
        return x + 0.2 * self.convs[-1](torch.cat(maps, 1))  # (N, W, h, w)


class Refiner(nn.Module):
    """What Patch-DiT says, the coarse picture and the small one -> the picture drawn anew, all in
    [-1, 1].

    The layout of Real-ESRGAN's network (arXiv 2107.10833), which reads the small picture alone; the
    large ones are folded beside it.
    """

    ranges_dense: Tensor
    ranges_ends: Tensor

    def __init__(self, config: RefinerConfig):
        super().__init__()
        self.config = config
        width, depth = config.width, config.depth
        self.conv_first = nn.Conv2d(6 * SCALE**2 + 3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            [nn.Sequential(*[DenseBlock(width) for _ in range(3)]) for _ in range(depth)]
        )
        self.conv_body, self.conv_up1, self.conv_up2, self.conv_hr = (
            nn.Conv2d(width, width, 3, padding=1) for _ in range(4)
        )
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)
        # what each channel before a convolution reaches: `quantized.py` reads them
        if config.ranges:
            self.register_buffer("ranges_dense", torch.zeros(3 * depth * (width + 4 * GROWTH)))
            self.register_buffer("ranges_ends", torch.zeros(5 * width))

    @property
    def storage_bits(self) -> int:
        """Of a weight on disk, for `save_module`."""
        return self.config.bits

    def features(self, pixels: Tensor, small: Tensor) -> Tensor:
        """(N, 6, s, s), (N, 3, s/4, s/4) -> (N, W, s/4, s/4), what the enlargement draws from."""
        # (N, W, s/4, s/4)
        first = self.conv_first(torch.cat([F.pixel_unshuffle(pixels, SCALE), small], 1))
        h = first
        for block in self.blocks:
            h = h + 0.2 * block(h)  # (N, W, s/4, s/4)
        return first + self.conv_body(h)  # (N, W, s/4, s/4)

    def enlarge(self, h: Tensor) -> Tensor:
        """(N, W, s/4, s/4) -> (N, 3, s, s)"""
        h = F.leaky_relu(self.conv_up1(F.interpolate(h, scale_factor=2.0)), 0.2)  # (N, W, s/2, s/2)
        h = F.leaky_relu(self.conv_up2(F.interpolate(h, scale_factor=2.0)), 0.2)  # (N, W, s, s)
        h = F.leaky_relu(self.conv_hr(h), 0.2)  # (N, W, s, s)
        return 2 * self.conv_last(h) - 1  # (N, 3, s, s)

    def forward(self, pixels: Tensor, small: Tensor) -> Tensor:
        """(N, 6, s, s), (N, 3, s/4, s/4) -> (N, 3, s, s)"""
        return self.enlarge(self.features(pixels, small))

    def refine(self, pixels: Tensor, small: Tensor) -> Tensor:
        """The same, enlarged band by band: for pictures, in less memory."""
        return enlarged_in_bands(self.features(pixels, small), self.enlarge)  # (N, 3, s, s)

    @torch.no_grad()
    def load_esrgan(self, weights: dict[str, Tensor], blocks: tuple[int, ...]) -> None:
        """Start from these blocks of an ESRGAN (`body.N.rdbM.convK.weight`, ...), which sees the
        small picture only.

        The first convolution reads it in [0, 1]; here it is in [-1, 1].
        Raises PatchScalerError where the network has other sizes.
        """
        first = weights.get("conv_first.weight", torch.zeros(0))
        own = self.state_dict()
        try:
            own["conv_first.weight"].zero_()[:, -3:] = first.float() / 2
            own["conv_first.bias"].copy_(
                weights["conv_first.bias"].float() + first.float().sum((1, 2, 3)) / 2
            )
            for part in ("weight", "bias"):
                for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"):
                    own[f"{name}.{part}"].copy_(weights[f"{name}.{part}"].float())
            for i, block in enumerate(blocks):
                self._take_block(weights, block, i)
        except (KeyError, RuntimeError) as error:
            raise PatchScalerError(
                f"the ESRGAN network does not fit: {str(error).splitlines()[0]}"
            ) from error

    @torch.no_grad()
    def grow_from(
        self, smaller: "Refiner", weights: dict[str, Tensor], blocks: tuple[int, ...]
    ) -> None:
        """Draw as a smaller refiner does, and have these blocks of an ESRGAN behind its own, silent
        at first.

        The last convolutions of their dense blocks are zero. Raises PatchScalerError where the
        network has other sizes.
        """
        own, depth = self.state_dict(), len(smaller.blocks)
        try:
            for name, weight in smaller.state_dict().items():
                if not name.startswith("ranges"):
                    own[name].copy_(weight)
            for i, block in enumerate(blocks, depth):
                self._take_block(weights, block, i)
        except (KeyError, RuntimeError) as error:
            raise PatchScalerError(
                f"the ESRGAN network does not fit: {str(error).splitlines()[0]}"
            ) from error
        for dense in (m for m in self.blocks[depth:].modules() if isinstance(m, DenseBlock)):
            for zero in dense.convs[-1].parameters():
                nn.init.zeros_(zero)
        own["conv_body.weight"] /= 1.2 ** len(blocks)  # a silent block passes h on as 1.2 h

    def _take_block(self, weights: dict[str, Tensor], block: int, place: int) -> None:
        own = self.state_dict()
        for r, k, part in itertools.product(range(3), range(5), ("weight", "bias")):
            source = weights[f"body.{block}.rdb{r + 1}.conv{k + 1}.{part}"]
            own[f"blocks.{place}.{r}.convs.{k}.{part}"].copy_(source.float())


def enlarged_in_bands(h: Tensor, enlarge: Callable[[Tensor], Tensor]) -> Tensor:
    """Features (N, W, s/4, s/4) -> (N, 3, s, s)"""
    rows, bands = h.shape[2], []
    for top in range(0, rows, BAND):
        low, bottom = max(0, top - REACH), min(rows, top + BAND)
        band = enlarge(h[:, :, low : bottom + REACH])
        bands.append(band[:, :, SCALE * (top - low) : SCALE * (bottom - low)])
    return torch.cat(bands, 2)  # (N, 3, s, s)
