"""The denoiser of `compact`: Real-ESRGAN's trunk, which reads the diffused coarse image and its
timestep.

    denoise(y_tau, tau, LR image) -> x_0

The trunk is the RRDB network of ESRGAN (arXiv 1809.00219) with the weights of Real-ESRGAN x4plus
(arXiv 2107.10833, BSD-3-Clause). y_tau of Eq. 7 enters beside the LR image and before the last
convolutions; tau scales every block. Both start without effect: at its start the network is x4plus
at every tau. An early exit, a few blocks of its own behind the first ones of the trunk, gives
nearly the same image for less than half of the work.

Letters: N images, W channels of the trunk, h, w LR pixels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchscaler.config import DenoiserConfig
from patchscaler.errors import PatchScalerError

SCALE = 4
TIME_CHANNELS = 64
# beside the blocks: scale and shift of the first convolution, scales of both upsampling ones
MODULATED_ENDS = 4


def conv3x3(inputs: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


def zeroed(conv: nn.Conv2d) -> nn.Conv2d:
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


class DenseBlock(nn.Module):
    """Five convolutions, each reading all before it; the fifth is added at a fifth (ESRGAN)."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        outputs = [growth] * 4 + [width]
        self.convs = nn.ModuleList([conv3x3(width + growth * i, n) for i, n in enumerate(outputs)])

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]  # (N, W, h, w), then (N, growth, h, w) each
        for conv in list(self.convs)[:-1]:
            maps.append(F.leaky_relu(conv(torch.cat(maps, 1)), 0.2))
        return x + 0.2 * self.convs[-1](torch.cat(maps, 1))  # (N, W, h, w)


class RRDB(nn.Module):
    """Residual in residual dense block: three dense blocks; `forward` gives what is added to the
    input.
    """

    def __init__(self, width: int, growth: int):
        super().__init__()
        self.dense = nn.Sequential(*[DenseBlock(width, growth) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        return 0.2 * self.dense(x)  # (N, W, h, w)


class TimeModulation(nn.Module):
    """Timesteps -> a vector for every block and end, zero at the start of training."""

    def __init__(self, width: int, vectors: int, num_train_timesteps: int = 1000):
        super().__init__()
        self.vectors, self.num_train_timesteps = vectors, num_train_timesteps
        self.linear1 = nn.Linear(TIME_CHANNELS, 2 * TIME_CHANNELS)
        self.linear2 = nn.Linear(2 * TIME_CHANNELS, vectors * width)
        nn.init.zeros_(self.linear2.weight)
        nn.init.zeros_(self.linear2.bias)

    def forward(self, tau: Tensor) -> Tensor:
        """(N,) integers -> (vectors, N, W, 1, 1)."""
        phase = tau.float()[:, None] / self.num_train_timesteps * math.pi
        phase = phase * torch.arange(TIME_CHANNELS // 2, device=tau.device)  # (N, 32)
        embedding = torch.cat([phase.cos(), phase.sin()], 1)  # (N, 64)
        vectors = self.linear2(F.silu(self.linear1(embedding)))
        return vectors.view(len(tau), self.vectors, -1, 1, 1).movedim(0, 1)


class EarlyExit(nn.Module):
    """Features after the trunk's first blocks -> what its last convolution would add to the first
    features.
    """

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        blocks = range(config.exit_blocks)
        self.blocks = nn.ModuleList([RRDB(config.width, config.growth) for _ in blocks])
        self.conv_body = conv3x3(config.width, config.width)

    def forward(self, h: Tensor) -> Tensor:
        for block in self.blocks:
            h = h + block(h)
        return self.conv_body(h)  # (N, W, h, w)


class RRDBDenoiser(nn.Module):
    """See the head of this file. All images are in [-1, 1]."""

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        if not 0 <= config.exit_depth < max(1, config.depth):
            raise PatchScalerError(
                f"exit_depth {config.exit_depth}: take 0 (none) to {config.depth - 1}"
            )
        self.config = config
        width = config.width
        self.conv_first = conv3x3(3, width)
        self.conv_y = zeroed(conv3x3(3 * SCALE**2, width, bias=False))
        self.conv_y_hr = zeroed(conv3x3(3, width, bias=False))
        self.modulation = TimeModulation(width, config.depth + MODULATED_ENDS)
        self.blocks = nn.ModuleList([RRDB(width, config.growth) for _ in range(config.depth)])
        self.conv_body, self.conv_up1, self.conv_up2, self.conv_hr = (
            conv3x3(width, width) for _ in range(4)
        )
        self.conv_last = conv3x3(width, 3)
        self.exit = EarlyExit(config) if config.exit_depth else None

    @property
    def storage_bits(self) -> int:
        """Of a weight on disk, for `save_module`."""
        return self.config.bits

    def forward(self, y_tau: Tensor, tau: Tensor, lr: Tensor, early: bool = False) -> Tensor:
        """Denoise in one evaluation.

        Args:
            y_tau: (N, 3, 4h, 4w), the coarse image diffused to tau.
            tau: (N,) timesteps in 0..1000.
            lr: (N, 3, h, w).
            early: leave at the early exit.

        Returns:
            (N, 3, 4h, 4w), about [-1, 1].
        """
        m = self.modulation(tau)
        first = self.first_features(y_tau, lr, m)
        h = self.run_blocks(first, m, 0, self.config.exit_depth)
        features = self.exit_features(first, h) if early else self.last_features(first, h, m)
        return self.upsample(features, y_tau, m)

    def first_features(self, y_tau: Tensor, lr: Tensor, m: Tensor) -> Tensor:
        """-> (N, W, h, w)"""
        scale, shift = m[-4], m[-3]
        # x4plus reads [0, 1], and zeros around the image mean black to it
        first = self.conv_first((lr + 1) / 2)
        return first * (1 + scale) + shift + self.conv_y(F.pixel_unshuffle(y_tau, SCALE))

    def run_blocks(self, h: Tensor, m: Tensor, start: int, stop: int) -> Tensor:
        """(N, W, h, w) through the trunk's blocks start..stop-1."""
        for i in range(start, stop):
            h = h + self.blocks[i](h) * (1 + m[i])
        return h

    def last_features(self, first: Tensor, h: Tensor, m: Tensor) -> Tensor:
        """Features after `exit_depth` blocks -> those that are upsampled, (N, W, h, w)."""
        return first + self.conv_body(
            self.run_blocks(h, m, self.config.exit_depth, self.config.depth)
        )

    def exit_features(self, first: Tensor, h: Tensor) -> Tensor:
        """The same by the early exit."""
        if self.exit is None:
            raise PatchScalerError("this denoiser has no early exit")
        return first + self.exit(h)

    def upsample(self, features: Tensor, y_tau: Tensor, m: Tensor) -> Tensor:
        """(N, W, h, w) -> (N, 3, 4h, 4w)"""
        h = F.leaky_relu(self.conv_up1(F.interpolate(features, scale_factor=2.0)), 0.2) * (
            1 + m[-2]
        )
        h = F.leaky_relu(self.conv_up2(F.interpolate(h, scale_factor=2.0)), 0.2) * (1 + m[-1])
        h = F.leaky_relu(self.conv_hr(h + self.conv_y_hr(y_tau)), 0.2)  # (N, W, 4h, 4w)
        return 2 * self.conv_last(h) - 1

    def macs(self, early: bool = False) -> float:
        """Multiply-adds of an evaluation, a LR pixel."""
        w, g, c = self.config.width, self.config.growth, self.config
        dense = sum((w + g * i) * g for i in range(4)) + (w + 4 * g) * w
        blocks = c.exit_depth + c.exit_blocks if early else c.depth
        ends = w * (3 + 3 * SCALE**2) + w * w  # first convolutions, body
        ends += 4 * w * w + SCALE**2 * (2 * w * w + 3 * w + 3 * w)  # upsampling, last convolutions
        return 9.0 * (3 * dense * blocks + ends)

    @torch.no_grad()
    def load_esrgan(self, weights: dict[str, Tensor], exit_from: tuple[int, ...] = ()) -> None:
        """Start from an ESRGAN of the same size; its blocks `exit_from` are where the early exit's
        start.

        Args:
            weights: names as Real-ESRGAN has them (`conv_first.weight`, `body.0.rdb1.conv1.weight`,
            ...).

        Raises:
            PatchScalerError: The network has another size.
        """
        own: dict[str, Tensor] = {}
        try:
            for name in ("conv_first", "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"):
                own |= {f"{name}.{part}": weights[f"{name}.{part}"] for part in ("weight", "bias")}
            places = [(f"blocks.{i}", i) for i in range(self.config.depth)]
            if self.exit is not None:
                places += [(f"exit.blocks.{i}", block) for i, block in enumerate(exit_from)]
                own |= {
                    f"exit.conv_body.{part}": weights[f"conv_body.{part}"]
                    for part in ("weight", "bias")
                }
            for place, block in places:
                for dense in range(3):
                    for conv in range(5):
                        for part in ("weight", "bias"):
                            source = weights[f"body.{block}.rdb{dense + 1}.conv{conv + 1}.{part}"]
                            own[f"{place}.dense.{dense}.convs.{conv}.{part}"] = source
            state = self.state_dict()
            for name, tensor in own.items():
                state[name].copy_(tensor.float())
        except (KeyError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise PatchScalerError(f"the ESRGAN does not fit the denoiser: {reason}") from error
