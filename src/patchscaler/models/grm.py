"""Global Restoration Module (3.1, A.1): the degraded picture -> coarse latents and how sure they
are.

Two networks behind one call. `UNetGRM` is the paper's: a U-Net over the latents of the
bicubic-enlarged picture. `PixelGRM` does the same job on the pixels of the LR picture, a sixteenth
as many, and its enlarged picture is then encoded. Both end in two branches: coarse result and
confidence.
"""

from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchscaler.config import GRMConfig
from patchscaler.errors import PatchScalerError
from patchscaler.models.autoencoder import Autoencoder


class ResBlock(nn.Module):
    """x + two 3x3 convolutions, the second started at a tenth so that a deep stack begins near the
    identity.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: bool):
        super().__init__()
        self.norm1 = nn.GroupNorm(min(32, in_channels // 4), in_channels) if norm else nn.Identity()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = (
            nn.GroupNorm(min(32, out_channels // 4), out_channels) if norm else nn.Identity()
        )
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        nn.init.kaiming_normal_(self.conv1.weight)
        nn.init.kaiming_normal_(self.conv2.weight)
        self.conv2.weight.data.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        # Norms, where there are, come first with SiLU (the U-Net); without, GELU sits between
        # (EDSR).
        if isinstance(self.norm1, nn.Identity):
            return self.skip(x) + self.conv2(F.gelu(self.conv1(x)))
        h = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


def bounded_confidence(logits: Tensor, floor: float) -> Tensor:
    """Logits -> [floor, 1]: Eq. 2 needs C <= 1, and log C of Eq. 1 needs C > 0 (docs/paper_map.md,
    row 2).
    """
    return floor + (1 - floor) * torch.sigmoid(logits)


class GRM(nn.Module, ABC):
    """Interface: `forward(lr, autoencoder)`, so that both kinds serve the same pipeline.

    A large picture is restored in windows (`streaming/windows.py`) that start at multiples of
    `multiple` and read `reach` LR pixels more on every side. Where `exact`, the windows' cores are
    then what the whole gives.
    """

    reach: int
    multiple: int
    exact: bool

    @abstractmethod
    def forward(self, lr: Tensor, autoencoder: Autoencoder) -> tuple[Tensor, Tensor]:
        """lr: (B, 3, h, w) in [-1, 1], even sides >= 32 -> y_0 (B, C, 4h/f, 4w/f), confidence (B,
        1, ...).
        """

    def macs(self, height: int, width: int) -> float:
        """Multiply-adds for an LR image, about: a convolution's weights once a place of
        its output.
        """
        return conv_macs(self) * height * width


def conv_macs(module: nn.Module) -> float:
    """Weights of all convolutions: multiply-adds a place, where all work at one resolution."""
    return float(sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Conv2d)))


class UNetGRM(GRM):
    """The paper's GRM: five scales (downsampled four times), two residual blocks each, skips, two
    heads.
    """

    def __init__(self, config: GRMConfig, latent_channels: int):
        super().__init__()
        self.floor = config.confidence_floor
        widths = [config.width * m for m in config.channel_mults]
        self.conv_in = nn.Conv2d(latent_channels, widths[0], 3, padding=1)
        self.down_blocks, self.downsamplers = nn.ModuleList(), nn.ModuleList()
        self.up_blocks, self.upsamplers = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            blocks = [ResBlock(width, width, norm=True) for _ in range(config.num_res_blocks)]
            self.down_blocks.append(nn.Sequential(*blocks))
            if i + 1 < len(widths):
                self.downsamplers.append(nn.Conv2d(width, widths[i + 1], 3, stride=2, padding=1))
        for i in reversed(range(len(widths) - 1)):
            self.upsamplers.append(nn.Conv2d(widths[i + 1], widths[i], 3, padding=1))
            blocks = [ResBlock(2 * widths[i], widths[i], norm=True)]
            blocks += [
                ResBlock(widths[i], widths[i], norm=True) for _ in range(config.num_res_blocks - 1)
            ]
            self.up_blocks.append(nn.Sequential(*blocks))
        self.coarse_head = nn.Conv2d(widths[0], latent_channels, 3, padding=1)
        self.confidence_head = nn.Conv2d(widths[0], 1, 3, padding=1)
        for head in (self.coarse_head, self.confidence_head):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]
        self.size_multiple = 2 ** (len(widths) - 1)  # latents, so 128 pixels with five scales
        # Group norms see a whole window: more context brings its statistics nearer to the
        # picture's.
        # LR pixels at f8
        self.multiple, self.reach, self.exact = 2 * self.size_multiple, 128, False

    def forward(self, lr: Tensor, autoencoder: Autoencoder) -> tuple[Tensor, Tensor]:
        enlarged = F.interpolate(lr, scale_factor=4, mode="bicubic", align_corners=False)
        y_lr = autoencoder.encode(enlarged.clamp(-1, 1))  # (B, C, H, W)
        return self.restore(y_lr)

    def restore(self, y_lr: Tensor) -> tuple[Tensor, Tensor]:
        """y_lr: (B, C, H, W) latents of any size >= 16 -> y_0 of the same shape, confidence (B, 1,
        H, W).
        """
        height, width = y_lr.shape[-2:]
        m = self.size_multiple
        x = F.pad(y_lr, (0, -width % m, 0, -height % m), mode="reflect")
        h = self.conv_in(x)  # (B, W0, H, W)
        skips = []
        for i, blocks in enumerate(self.down_blocks):
            h = blocks(h)  # (B, Wi, H/2^i, W/2^i)
            if i < len(self.downsamplers):
                skips.append(h)
                h = self.downsamplers[i](h)  # (B, Wi+1, H/2^(i+1), W/2^(i+1))
        for upsample, blocks in zip(self.upsamplers, self.up_blocks, strict=True):
            h = upsample(F.interpolate(h, scale_factor=2, mode="nearest"))
            h = blocks(torch.cat([h, skips.pop()], 1))  # (B, Wi, H/2^i, W/2^i)
        h = F.silu(h)[..., :height, :width]  # (B, W0, H, W)
        coarse = y_lr + self.coarse_head(h)  # (B, C, H, W)
        return coarse, bounded_confidence(self.confidence_head(h), self.floor)  # (B, 1, H, W)


class PixelGRM(GRM):
    """A plain stack and residual blocks on the LR picture, pixel-shuffle x4 on top of nearest
    neighbours.

    The plain stack has the shape of Real-ESRGAN's compact networks, so that it can start from one
    of them (`load_compact`); the residual blocks start as the identity.

    `forward` puts `border` mirrored pixels around the picture, where the convolutions would see
    zeros: the border of a slow ramp is then off by .2 grey levels and not by 2, and 12 Kodak
    pictures are as good there as before.
    """

    border = 4

    def __init__(self, config: GRMConfig, latent_channels: int):
        super().__init__()
        width = config.width
        self.floor, self.storage_bits = config.confidence_floor, config.bits
        stem: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.PReLU(width)]
        for _ in range(config.num_plain_convs):
            stem += [nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)]
        self.stem = nn.Sequential(*stem)
        self.blocks = nn.Sequential(
            *[ResBlock(width, width, norm=False) for _ in range(config.num_res_blocks)]
        )
        self.conv_out = nn.Conv2d(width, 48, 3, padding=1)
        self.confidence_in = nn.Conv2d(width, width, 4, stride=2, padding=1)
        self.confidence_head = nn.Conv2d(width, 1, 3, padding=1)
        # A pixel a convolution, two a block; then the confidence of two pixels reads three more on
        # either side.
        reach = 1 + config.num_plain_convs + 2 * config.num_res_blocks + 3
        self.multiple, self.reach, self.exact = 2, reach + reach % 2, True
        for layer in (*self.stem, self.confidence_in):
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
        zero = [self.conv_out, self.confidence_head]
        zero += [block.conv2 for block in self.blocks if isinstance(block, ResBlock)]
        for conv in zero:
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def load_compact(self, weights: dict[str, Tensor]) -> None:
        """Start from a Real-ESRGAN compact network (`body.N.weight`, ...) of this width
        and depth.
        """
        last = max(int(name.split(".")[1]) for name in weights)
        if last != len(self.stem):
            raise PatchScalerError(
                f"the compact network has {last // 2} layers, the stem {len(self.stem) // 2}"
            )
        body = {n.removeprefix("body."): w.float() for n, w in weights.items()}
        try:
            self.stem.load_state_dict(
                {n: w for n, w in body.items() if int(n.split(".")[0]) < last}
            )
            self.conv_out.load_state_dict({k: body[f"{last}.{k}"] for k in ("weight", "bias")})
        except (RuntimeError, KeyError) as error:
            raise PatchScalerError(
                f"the compact network does not fit: {str(error).splitlines()[-1].strip()}"
            ) from error

    def restore(self, lr: Tensor) -> tuple[Tensor, Tensor]:
        """lr: (B, 3, h, w) in [-1, 1], even sides -> coarse picture (B, 3, 4h, 4w), confidence (B,
        1, h/2, w/2).
        """
        x = (lr + 1) / 2  # (B, 3, h, w) in [0, 1]
        features = self.blocks(self.stem(x))  # (B, W, h, w)
        detail = F.pixel_shuffle(self.conv_out(features), 4)  # (B, 3, 4h, 4w)
        # (B, 3, 4h, 4w)
        image = 2 * (F.interpolate(x, scale_factor=4, mode="nearest") + detail) - 1
        # The head reads, and does not shape, the features: fidelity first.
        c = F.gelu(self.confidence_in(features.detach()))  # (B, W, h/2, w/2)
        return image, bounded_confidence(self.confidence_head(c), self.floor)

    def forward(self, lr: Tensor, autoencoder: Autoencoder) -> tuple[Tensor, Tensor]:
        if autoencoder.factor != 8:
            raise PatchScalerError(
                "the 'pixels' GRM gives confidence at 1/8 of the output: use an f8 autoencoder"
            )
        p = self.border
        image, confidence = self.restore(mirror_pad(lr, p))
        image = image[..., 4 * p : -4 * p, 4 * p : -4 * p]  # (B, 3, 4h, 4w)
        return autoencoder.encode(image), confidence[..., p // 2 : -p // 2, p // 2 : -p // 2]


def mirror_pad(x: Tensor, border: int) -> Tensor:
    """(..., h, w) -> (..., h + 2 border, w + 2 border), the edge's own pixels first (numpy's
    'symmetric').
    """
    rows, columns = (
        torch.from_numpy(np.pad(np.arange(n), border, mode="symmetric")) for n in x.shape[-2:]
    )
    return x[..., rows[:, None], columns]


def build_grm(config: GRMConfig, latent_channels: int) -> GRM:
    """Raises PatchScalerError for an unknown kind."""
    kinds: dict[str, type[UNetGRM] | type[PixelGRM]] = {"unet": UNetGRM, "pixels": PixelGRM}
    if config.kind not in kinds:
        raise PatchScalerError(f"unknown GRM '{config.kind}': choose one of {', '.join(kinds)}")
    return kinds[config.kind](config, latent_channels)


def grm_loss(
    coarse: Tensor,
    target: Tensor,
    confidence: Tensor,
    lam: float = 0.1,
    eta: float = 0.1,
    squared: bool = False,
) -> tuple[Tensor, Tensor]:
    """Eq. 1 -> (fidelity term, confidence term); the objective is their sum.

    coarse, target: (B, C, H, W); confidence: (B, 1, H, W). e^2 is the *mean* over channels of the
    squared error. Minimising C e^2 - eta log C gives C = eta / e^2, held at 1 by the head. The
    paper squares the L1 norm; the mean is taken here, `squared` gives the letter (of the mean). The
    error is detached in the confidence term: the map measures, the fidelity term restores.
    """
    l1 = (coarse - target).abs().mean()
    e2 = (coarse - target).square().mean(1, keepdim=True).detach()  # (B, 1, H, W)
    c = confidence.float()
    return (l1.square() if squared else l1), lam * (c * e2 - eta * c.log()).mean()
