"""Each network as a function of tensors alone, which is what ONNX can say, with example inputs and
moving axes.

The modules are the pipeline's own: what these classes add is only which method is meant, and the
prompt as two tensors. Letters as in `models.patch_dit`; B pictures, K textures of a prompt, E
blocks of Patch-DiT.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from patchscaler.models.grm import UNetGRM
from patchscaler.models.patch_dit import PatchDiT, Prompt

if TYPE_CHECKING:
    from patchscaler.pipeline import PatchScaler


@dataclass(frozen=True)
class Exported:
    """A graph. axes: for each input, its moving axes and their names. example(n): inputs of another
    size for each n.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    axes: tuple[dict[int, str], ...]
    example: Callable[[int], tuple[Tensor, ...]]


class Method(nn.Module):
    """One method of a module as its forward."""

    def __init__(self, module: nn.Module, name: str):
        super().__init__()
        self.module, self.name = module, name

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return getattr(self.module, self.name)(x)


class TexturePrompt(nn.Module):
    """Texture encoder, and Patch-DiT's keys and values of what it says: run once a patch, not once
    a step.
    """

    def __init__(self, encoder: nn.Module, patch_dit: PatchDiT):
        super().__init__()
        self.encoder, self.patch_dit = encoder, patch_dit

    def forward(self, textures: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """(N, K, C, V, V), (N, K) -> keys, values, (E, N, heads, M, d) each."""
        return stacked(self.patch_dit.prepare(self.encoder(textures, scores)))


class TextPrompt(nn.Module):
    """The same from a caption's tokens."""

    def __init__(self, projection: nn.Module, patch_dit: PatchDiT):
        super().__init__()
        self.projection, self.patch_dit = projection, patch_dit

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(N, L, W) -> keys, values, (E, N, heads, L, d) each."""
        return stacked(self.patch_dit.prepare(self.projection(tokens)))


class WithPrompt(nn.Module):
    def __init__(self, patch_dit: PatchDiT):
        super().__init__()
        self.patch_dit = patch_dit

    def forward(
        self, x_t: Tensor, t: Tensor, coarse: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        return self.patch_dit(x_t, t, coarse, unstacked(keys, values))


class WithoutPrompt(nn.Module):
    def __init__(self, patch_dit: PatchDiT):
        super().__init__()
        self.patch_dit = patch_dit

    def forward(self, x_t: Tensor, t: Tensor, coarse: Tensor) -> Tensor:
        return self.patch_dit(x_t, t, coarse, None)


def stacked(prompt: Prompt) -> tuple[Tensor, Tensor]:
    """-> keys, values, (E, N, heads, M, d) each."""
    keys, values = zip(*prompt.keys_values, strict=True)
    return torch.stack(keys), torch.stack(values)


def unstacked(keys: Tensor, values: Tensor) -> Prompt:
    return Prompt(list(zip(keys.unbind(0), values.unbind(0), strict=True)))


def exported_networks(scaler: "PatchScaler") -> dict[str, Exported]:
    """Name -> graph, of every network of a model."""
    config, networks = scaler.config, scaler.networks
    c, f, v = (
        scaler.autoencoder.channels,
        scaler.autoencoder.factor,
        config.groups.latent_patch_size,
    )
    dit, k = scaler.patch_dit, max(1, config.texture.top_k)
    heads, blocks = config.patch_dit.num_heads, config.patch_dit.depth
    inner = (config.patch_dit.cross_size or config.patch_dit.hidden_size) // heads
    picture, n = {0: "pictures", 2: "height", 3: "width"}, {0: "patches"}
    unet = isinstance(scaler.grm, UNetGRM)
    # U-Net: whole squares of its coarsest scale, so that no padding has to be worked out within the
    # graph.
    side = scaler.grm.size_multiple if isinstance(scaler.grm, UNetGRM) else 2
    found = {
        "encoder": Exported(
            Method(scaler.autoencoder, "encode"),
            ("images",),
            ("latents",),
            (picture,),
            lambda i: (torch.rand(1 + i, 3, f * (2 + i), f * (3 + i)) * 2 - 1,),
        ),
        "decoder": Exported(
            Method(scaler.autoencoder, "decode"),
            ("latents",),
            ("images",),
            (picture,),
            lambda i: (torch.randn(1 + i, c, 2 + i, 3 + i),),
        ),
        "grm": Exported(
            Method(scaler.grm, "restore"),
            ("latents" if unet else "images",),
            ("coarse_latents" if unet else "coarse_images", "confidence"),
            (picture,),
            lambda i: (
                torch.rand(1 + i, c if unet else 3, side * (16 + i), side * (17 + i)) * 2 - 1,
            ),
        ),
        "classifier": Exported(
            Method(scaler.classifier, "keys"),
            ("latents",),
            ("keys",),
            (n,),
            lambda i: (torch.randn(2 + i, c, v, v),),
        ),
    }
    if "text_projection" in networks:
        found["prompt"] = Exported(
            TextPrompt(networks["text_projection"], dit),
            ("tokens",),
            ("keys", "values"),
            ({0: "patches", 1: "tokens"},),
            lambda i: (torch.randn(2 + i, 5 + i, config.text_width),),
        )
    else:
        found["prompt"] = Exported(
            TexturePrompt(scaler.texture_encoder, dit),
            ("textures", "scores"),
            ("keys", "values"),
            ({0: "patches", 1: "textures"}, {0: "patches", 1: "textures"}),
            lambda i: (torch.randn(2 + i, k + i, c, v, v), torch.rand(2 + i, k + i)),
        )
    kv = {1: "patches", 3: "tokens"}

    def noisy(i: int) -> tuple[Tensor, Tensor, Tensor]:
        return torch.randn(2 + i, c, v, v), torch.arange(400, 402 + i), torch.randn(2 + i, c, v, v)

    found["patch_dit"] = Exported(
        WithPrompt(dit),
        ("x_t", "t", "coarse", "keys", "values"),
        ("prediction",),
        (n, n, n, kv, kv),
        lambda i: (*noisy(i), *(torch.randn(blocks, 2 + i, heads, 8 + i, inner) for _ in range(2))),
    )
    found["patch_dit_without_prompt"] = Exported(
        WithoutPrompt(dit), ("x_t", "t", "coarse"), ("prediction",), (n, n, n), noisy
    )
    if scaler.refiner:
        s = scaler.step
        found["refiner"] = Exported(
            scaler.refiner,
            ("pixels", "small"),
            ("pictures",),
            (picture, picture),
            lambda i: (
                torch.rand(1 + i, 6, f * (8 + i), f * (9 + i)) * 2 - 1,
                torch.rand(1 + i, 3, s * (8 + i), s * (9 + i)) * 2 - 1,
            ),
        )
    return found
