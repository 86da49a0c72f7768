"""A trained Patch-DiT made shallower, a refiner put after it or made deeper: a start for the last
stages.
"""

import dataclasses
import re
from typing import TYPE_CHECKING

from torch import Tensor, nn

from patchscaler.config import PatchDiTConfig, RefinerConfig
from patchscaler.errors import PatchScalerError
from patchscaler.models.patch_dit import PatchDiT, TextureEncoder
from patchscaler.models.refiner import Refiner
from patchscaler.models.weights import save_module

if TYPE_CHECKING:
    from patchscaler.training.commands import ModelFolder


def grafted(
    model: "ModelFolder",
    keep: tuple[int, ...],
    esrgan: dict[str, Tensor] | None,
    refiner_blocks: tuple[int, ...],
    more: bool = False,
    bits: int | None = None,
) -> tuple[PatchDiTConfig, RefinerConfig]:
    """Write the changed networks and configuration to the model's folder -> their configurations.

    keep: Patch-DiT's blocks that stay, in order; none for all. The texture encoder keeps its first
    blocks. esrgan: the weights whose refiner_blocks become the refiner; the transformer's own
    output then starts at zero again. more: they are put behind those that the refiner has, and
    nothing is changed by it yet. bits: of a weight of the refiner on disk; None for as it was.
    Raises PatchScalerError for blocks that are not there and weights that do not fit.
    """
    old, encoder = model.patch_dit(), model.texture_encoder()
    keep = keep or tuple(range(len(old.blocks)))
    if missing := sorted(i for i in keep if not 0 <= i < len(old.blocks)):
        raise PatchScalerError(
            f"--keep {missing[0]}: Patch-DiT has the blocks 0 to {len(old.blocks) - 1}"
        )
    config = dataclasses.replace(old.config, depth=len(keep))
    refiner = _refined_by(model, esrgan, refiner_blocks, more, bits)
    size = model.config.groups.latent_patch_size
    new, shorter = (
        PatchDiT(config, model.channels, size),
        TextureEncoder(config, model.channels, size),
    )
    _take(new, old, {old_block: i for i, old_block in enumerate(keep)})
    _take(shorter, encoder, {i: i for i in range(len(shorter.blocks))})
    if refiner is not None:
        save_module(model.path("refiner"), refiner, {"network": "refiner"})
    if esrgan is not None and not more:
        nn.init.zeros_(new.out.weight)
        nn.init.zeros_(new.out.bias)
    save_module(model.path("patch_dit"), new, {"network": "patch_dit"})
    save_module(model.path("texture_encoder"), shorter, {"network": "texture_encoder"})
    refining = refiner.config if refiner is not None else model.config.refiner
    model.save_config(dataclasses.replace(model.config, patch_dit=config, refiner=refining))
    return config, refining


def _refined_by(
    model: "ModelFolder",
    esrgan: dict[str, Tensor] | None,
    blocks: tuple[int, ...],
    more: bool,
    bits: int | None,
) -> Refiner | None:
    """The new refiner; None where it stays as it is."""
    old, config = model.refiner(), model.config.refiner
    config = dataclasses.replace(config, bits=bits or config.bits)
    if esrgan is None:
        if more:
            raise PatchScalerError(
                "--more: give --esrgan, whose blocks are put behind the refiner's own"
            )
        if not bits:
            return None
        if old is None:
            raise PatchScalerError(f"--refiner-bits: {model.folder} has no refiner; give --esrgan")
        new = Refiner(config)
        new.load_state_dict(old.state_dict())
        return new
    width = len(esrgan.get("conv_first.weight", ()))
    if not width or not blocks:
        raise PatchScalerError(
            "--esrgan: give --refiner-blocks, and weights that have 'conv_first.weight'"
        )
    if model.config.autoencoder.kind != "pca":
        raise PatchScalerError("--esrgan: the refiner needs the closed-form autoencoder")
    if more and old is None:
        raise PatchScalerError(f"--more: {model.folder} has no refiner yet; leave it out")
    depth = len(blocks) + (config.depth if more else 0)
    new = Refiner(dataclasses.replace(config, width=width, depth=depth, ranges=False))
    if more and old is not None:
        new.grow_from(old, esrgan, blocks)
    else:
        new.load_esrgan(esrgan, blocks)
    return new


def _take(new: nn.Module, old: nn.Module, blocks: dict[int, int]) -> None:
    """Every weight that both have; of blocks, those that are kept, under their new numbers."""
    state = new.state_dict()
    for name, weight in old.state_dict().items():
        if found := re.match(r"blocks\.(\d+)\.", name):
            if int(found[1]) not in blocks:
                continue
            name = f"blocks.{blocks[int(found[1])]}.{name[found.end() :]}"
        if name in state and state[name].shape == weight.shape:
            state[name] = weight
    new.load_state_dict(state)
