"""The networks of the paper's Table 3 at their sizes, with random weights: time does not depend on
the values.

PatchScaler's `paper` preset with Stable Diffusion's autoencoder; SwinIR-GAN (x4, "M": arXiv
2108.10257) by spandrel; LDM (bsr_sr: U-Net of 113.6 M, VQ-f4) by diffusers.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from patchscaler.config import GROUP_NAMES, AutoencoderConfig, GroupConfig, ModelConfig, preset
from patchscaler.diffusion.groups import thresholds_for
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.cost.flops import count_flops
from patchscaler.model import Model
from patchscaler.model_folder import build_networks
from patchscaler.models.autoencoder import Autoencoder, DiffusersAutoencoder
from patchscaler.reproduce.chain import restore
from patchscaler.reproduce.paper import ABOVE_70, DEFAULT_THRESHOLDS
from patchscaler.texture_memory import Origin, TextureMemory

LDM_STEPS = 20  # as the paper ran it


class RandomAutoencoder(DiffusersAutoencoder):
    """Stable Diffusion's AutoencoderKL (83.7 M) from its numbers instead of a file."""

    def __init__(self, config: AutoencoderConfig):
        Autoencoder.__init__(self)
        self.model = import_diffusers().AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=config.channels,
        )
        self.channels, self.factor = config.channels, config.factor
        self.scaling_factor = config.scaling_factor
        self.reach, self.exact = 24, False  # as DiffusersAutoencoder


def import_diffusers() -> Any:
    """The package. Raises PatchScalerError where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import diffusers
    except ImportError as error:
        raise PatchScalerError(
            "the paper's size needs diffusers. Hint: pip install 'patchscaler[paper]'"
        ) from error
    return diffusers


def paper_model(
    device: str,
    dtype: torch.dtype,
    config: ModelConfig | None = None,
    autoencoder: Autoencoder | None = None,
) -> Model:
    """The `paper` preset, or another, with random weights and texture memory."""
    config = config or preset("paper")
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)  # both workers of the two-device run build the same
    c, v = config.autoencoder.channels, config.groups.latent_patch_size
    # Built around a stand-in of as many channels, so that no file is looked for.
    networks = build_networks(replace(config, autoencoder=AutoencoderConfig(channels=c)))
    networks["autoencoder"] = autoencoder or RandomAutoencoder(config.autoencoder)
    # Fresh heads are zero: every place would be equally sure, and no threshold could part the
    # patches.
    head: Any = networks["grm"].confidence_head
    nn.init.normal_(head.weight, std=0.3, generator=generator)
    entries = config.texture.memory_size
    keys = torch.randn(entries, config.texture.widths[-1], generator=generator)
    values = torch.randn(entries, c, v, v, generator=generator).half()
    origins = [Origin("random", "none")] * entries
    keys = nn.functional.normalize(keys, dim=1)
    memory = TextureMemory(keys, values, origins, [b""] * entries, "")
    return Model(config, networks, memory, device, dtype)


# --- groups ---------------------------------------------------------------------------------------


def paper_shares(thresholds: tuple[float, float] = DEFAULT_THRESHOLDS) -> tuple[float, float]:
    """Shares of simple and of simple + medium patches, the half above .70 spread evenly up to 1."""
    simple, easy = (ABOVE_70 * (1 - t) / (1 - 0.70) for t in thresholds)
    return simple, easy


def assumptions(shares: tuple[float, float]) -> list[str]:
    """What stands in for the paper's, in words, for every output."""
    groups = (shares[0], shares[1] - shares[0], 1 - shares[1])
    parts = ", ".join(
        f"{name} {share:.1%}" for name, share in zip(GROUP_NAMES, groups, strict=True)
    )
    return [
        "random weights: times do not depend on their values, images would be noise",
        f"groups {parts}: .5 of the patches above confidence .70 (the paper's B.1), spread "
        "evenly up to 1 (ours)",
        "autoencoder: Stable Diffusion's KL-f8; Patch-DiT: DiT-B; 8, 14 and 20 steps; overlap 8; "
        "K = 4 textures",
    ]


def groups_with_shares(model: Model, lr: np.ndarray, shares: tuple[float, float]) -> GroupConfig:
    """Thresholds on this model's confidence of this image that part its patches by these shares."""
    groups = replace(model.config.groups, least_confidence=0.0)
    scores = restore(model, lr, groups).scores
    if not scores.isfinite().all():
        raise PatchScalerError(
            f"random weights overflow in {model.dtype}. Hint: take --dtype bfloat16 or float32"
        )
    return replace(groups, thresholds=thresholds_for(scores, shares))


# --- the paper's other methods --------------------------------------------------------------------


@dataclass
class Part:
    """A network that a method runs `calls` times for an image. shape: of its input, by LR side."""

    name: str
    network: nn.Module
    calls: int
    shape: Callable[[int], tuple[int, ...]]
    timestep: bool = False

    @torch.inference_mode()
    def run(self, size: int, device: str, dtype: torch.dtype) -> None:
        with torch.autocast(device.partition(":")[0], dtype, enabled=dtype != torch.float32):
            for _ in range(self.calls):
                self.network(*self._inputs(size, device))

    def flops(self, size: int) -> int:
        """Of all calls, counted on `meta`. The network must be there."""
        return self.calls * count_flops(lambda: self.network(*self._inputs(size, "meta")))

    def _inputs(self, size: int, device: str) -> tuple[Tensor, ...]:
        x = torch.zeros(self.shape(size), device=device)
        return (x, torch.ones(1, dtype=torch.long, device=device)) if self.timestep else (x,)


class _Decoder(nn.Module):
    """An autoencoder's decoder as a network of its own."""

    def __init__(self, autoencoder: Any):
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents).sample


def swinir() -> list[Part]:
    """SwinIR-GAN's generator, 11.7 M."""
    from patchscaler.evaluation.peers.spandrel_models import import_spandrel

    import_spandrel()
    warnings.filterwarnings("ignore", "torch.meshgrid")  # SwinIR's own call
    from spandrel.architectures.SwinIR import SwinIR

    network = SwinIR(
        img_size=64,
        window_size=8,
        depths=[6] * 6,
        embed_dim=180,
        num_heads=[6] * 6,
        mlp_ratio=2,
        upscale=4,
        upsampler="nearest+conv",
        img_range=1.0,
    ).eval()
    return [Part("SwinIR", network, 1, lambda size: (1, 3, size, size))]


def latent_diffusion() -> list[Part]:
    """LDM-SR: the U-Net runs on latents as large as the LR image, beside which they are laid."""
    diffusers = import_diffusers()
    unet = diffusers.UNet2DModel(
        in_channels=6,
        out_channels=3,
        block_out_channels=(160, 320, 320, 640),
        layers_per_block=2,
        attention_head_dim=32,
        down_block_types=("DownBlock2D",) * 3 + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * 3,
    ).eval()
    vq = diffusers.VQModel(
        block_out_channels=(128, 256, 512),
        layers_per_block=2,
        latent_channels=3,
        num_vq_embeddings=8192,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
    ).eval()
    return [
        Part("U-Net", unet, LDM_STEPS, lambda size: (1, 6, size, size), timestep=True),
        Part("decoder", _Decoder(vq), 1, lambda size: (1, 3, size, size)),
    ]


PAPER_METHODS: dict[str, Callable[[], list[Part]]] = {"SwinIR-GAN": swinir, "LDM": latent_diffusion}
