"""Floating-point operations, a multiplication and an addition counted as two, by torch's own
counter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_flop_count

from patchscaler.config import GROUP_NAMES
from patchscaler.pipeline import PatchScaler
from patchscaler.refining import refine_tile


def count_flops(function: Callable[[], Any]) -> int:
    """Of all convolutions, matrix products and attentions that `function` runs; element-wise work
    is left out.
    """
    with (
        torch.inference_mode(),
        FlopCounterMode(display=False, custom_mapping=_PROCESSOR) as counter,
    ):
        function()
    return int(counter.get_total_flops())


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _bytes(
    given: Any, scale: float, zero: int, weight: Any, *_: Any, out_shape: Any, **__: Any
) -> int:
    return conv_flop_count(given, weight, out_shape)


# torch counts attention on GPUs but leaves out what only processors have, and would call its cost
# zero.
_PROCESSOR: dict[Any, Any] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention
}
if hasattr(torch.ops.onednn, "qconv_pointwise"):
    _PROCESSOR[torch.ops.onednn.qconv_pointwise] = _bytes


@dataclass(frozen=True)
class NetworkFlops:
    """Of each network: per picture of one size, or per patch of V x V latents."""

    coarse: int  # per picture: GRM, and the encoder where it runs
    decode: int  # per picture
    prompt: int  # per patch that is sampled: classifier, texture encoder, keys and values
    evaluation: int  # per patch and step: Patch-DiT
    refining: int = 0  # per latent that is drawn

    def of_picture(self, cost: dict[str, Any]) -> dict[str, int]:
        """By stage, from `Result.cost`: patches of groups without evaluations need no prompt."""
        sampled = sum(cost["patches"][name] for name in GROUP_NAMES if cost["evaluations"][name])
        stages = {
            "coarse": self.coarse,
            "prompt": self.prompt * sampled,
            "sampling": self.evaluation * cost["evaluations_total"],
        }
        if self.refining:
            stages["refining"] = self.refining * cost["latents_refined"]
        stages["decode"] = self.decode
        return stages | {"total": sum(stages.values())}


@torch.inference_mode()
def network_flops(model: PatchScaler, height: int, width: int, prompt: bool = True) -> NetworkFlops:
    """For LR pictures of (height, width), sides that need no padding. prompt: as in `upscale`."""
    lr = torch.zeros(1, 3, height, width, device=model.device)
    latents: list[Tensor] = []
    with model.autocast():
        coarse = count_flops(lambda: latents.append(model.grm(lr, model.autoencoder)[0]))
    decode = count_flops(lambda: model.autoencoder.decode(latents[0].float()))
    v = model.config.groups.latent_patch_size
    patch = torch.zeros(1, model.autoencoder.channels, v, v, device=model.device)  # (1, C, V, V)
    t = torch.ones(1, dtype=torch.long, device=model.device)
    found: list[Any] = [None]
    texture = 0
    if prompt and model.memory:
        texture = count_flops(lambda: found.append(model.texture_prompt(patch)[0]))
        # The search is a product of the query with every key: counted with the rest.
    with model.autocast():
        evaluation = count_flops(lambda: model.patch_dit(patch, t, patch, found[-1]))
    refining = 0
    if model.refiner:
        side = 32
        part = torch.zeros(model.autoencoder.channels, side, side, device=model.device)
        small = torch.zeros(3, side * model.step, side * model.step, device=model.device)
        refining = count_flops(lambda: refine_tile(model, part, part, small)) // side**2
    return NetworkFlops(coarse, decode, texture, evaluation, refining)
