"""The networks of the paper's Table 3 at their sizes, with random weights: time does not depend on
the values.

PatchScaler's `paper` preset with Stable Diffusion's autoencoder; SwinIR-GAN (x4, "M": arXiv
2108.10257) by spandrel; LDM (bsr_sr: U-Net of 113.6 M, VQ-f4) by diffusers.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from patchscaler.config import AutoencoderConfig, ModelConfig, preset
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.cost.flops import count_flops
from patchscaler.models.autoencoder import Autoencoder, DiffusersAutoencoder
from patchscaler.models.folder import build_networks
from patchscaler.pipeline import PatchScaler
from patchscaler.texture_memory import Origin, TextureMemory

LDM_STEPS = 20  # as the paper ran it


class RandomAutoencoder(DiffusersAutoencoder):
    """Stable Diffusion's AutoencoderKL (83.7 M) from its numbers instead of a file."""

    def __init__(self, config: AutoencoderConfig):
        Autoencoder.__init__(self)
        diffusers = import_diffusers()
        self.model = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=config.channels,
        )
        self.channels, self.factor = config.channels, config.factor
        self.scaling_factor = config.scaling_factor


def import_diffusers() -> Any:
    """The package. Raises PatchScalerError where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import diffusers
    except ImportError as error:
        raise PatchScalerError(
            "the paper's size needs diffusers: pip install 'patchscaler[paper]'"
        ) from error
    return diffusers


def paper_model(
    device: str,
    dtype: torch.dtype,
    config: ModelConfig | None = None,
    autoencoder: Autoencoder | None = None,
) -> PatchScaler:
    """The `paper` preset, or another, with random weights and a random texture memory
    of its size.
    """
    config = config or preset("paper")
    generator = torch.Generator().manual_seed(0)
    c, v = config.autoencoder.channels, config.groups.latent_patch_size
    # Built around a stand-in of as many channels, so that no file is looked for.
    networks = build_networks(replace(config, autoencoder=AutoencoderConfig(channels=c)))
    networks["autoencoder"] = autoencoder or RandomAutoencoder(config.autoencoder)
    # Fresh heads are zero: every place would be equally sure, and no threshold could part the
    # patches.
    nn.init.normal_(networks["grm"].confidence_head.weight, std=0.3, generator=generator)  # type: ignore[union-attr, arg-type]
    entries = config.texture.memory_size
    keys = nn.functional.normalize(
        torch.randn(entries, config.texture.widths[-1], generator=generator), dim=1
    )
    values = torch.randn(entries, c, v, v, generator=generator).half()
    memory = TextureMemory(keys, values, [Origin("random", "none")] * entries, [b""] * entries, "")
    return PatchScaler(config, networks, memory, device, dtype)


def autoencoder_flops(config: ModelConfig, size: int) -> tuple[int, int]:
    """(coarse stage, decoder) for a square LR picture of this size, counted without computing
    anything.
    """
    with torch.device("meta"):
        networks = build_networks(
            replace(config, autoencoder=AutoencoderConfig(channels=config.autoencoder.channels))
        )
        autoencoder = RandomAutoencoder(config.autoencoder).eval()
        grm = networks["grm"].eval()
        lr = torch.zeros(1, 3, size, size)
        side = config.scale * size // autoencoder.factor
        latents = torch.zeros(1, autoencoder.channels, side, side)
    return count_flops(lambda: grm(lr, autoencoder)), count_flops(
        lambda: autoencoder.decode(latents)
    )


# --- the paper's other methods --------------------------------------------------------------------


@dataclass
class Part:
    """A network that a method runs `calls` times for a picture. inputs: LR size, device -> its
    arguments.
    """

    name: str
    network: nn.Module
    calls: int
    inputs: Callable[[int, str], tuple[Tensor, ...]]

    @torch.inference_mode()
    def run(self, size: int, device: str, dtype: torch.dtype) -> None:
        with torch.autocast(device.partition(":")[0], dtype, enabled=dtype != torch.float32):
            self.network(*self.inputs(size, device))

    def flops(self, size: int) -> int:
        """Of one call, counted on `meta`. The network must be there."""
        return count_flops(lambda: self.network(*self.inputs(size, "meta")))


class _Decoder(nn.Module):
    """An autoencoder's decoder as a network of its own."""

    def __init__(self, autoencoder: nn.Module):
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents).sample  # type: ignore[operator]


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
    return [
        Part(
            "SwinIR",
            network,
            1,
            lambda size, device: (torch.zeros(1, 3, size, size, device=device),),
        )
    ]


def latent_diffusion() -> list[Part]:
    """LDM-SR: the U-Net runs on latents as large as the LR picture, beside which they are laid."""
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

    def step(size: int, device: str) -> tuple[Tensor, ...]:
        return torch.zeros(1, 6, size, size, device=device), torch.ones(
            1, dtype=torch.long, device=device
        )

    def decode(size: int, device: str) -> tuple[Tensor, ...]:
        return (torch.zeros(1, 3, size, size, device=device),)

    return [Part("U-Net", unet, LDM_STEPS, step), Part("decoder", _Decoder(vq), 1, decode)]


PAPER_METHODS: dict[str, Callable[[], list[Part]]] = {"SwinIR-GAN": swinir, "LDM": latent_diffusion}
