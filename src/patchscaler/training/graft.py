"""A trained Patch-DiT made shallower, and a trunk put into its head: a start for the last stage, not a model yet."""

import dataclasses
import re
from typing import TYPE_CHECKING

from torch import Tensor, nn

from patchscaler.checkpoints import save_module
from patchscaler.config import PatchDiTConfig
from patchscaler.errors import PatchScalerError
from patchscaler.models.patch_dit import PatchDiT, TextureEncoder

if TYPE_CHECKING:
    from patchscaler.training.commands import ModelFolder


def grafted(
    model: "ModelFolder", keep: tuple[int, ...], trunk: dict[str, Tensor] | None, trunk_blocks: tuple[int, ...]
) -> PatchDiTConfig:
    """Write the changed networks and configuration to the model's folder -> the configuration.

    keep: Patch-DiT's blocks that stay, in order; none for all. The texture encoder keeps its first blocks. trunk: an
    ESRGAN's weights, whose trunk_blocks begin the head's; it joins the head at zero, so the function stays as it was.
    Raises PatchScalerError for blocks that are not there and weights that do not fit.
    """
    old, encoder = model.patch_dit(), model.texture_encoder()
    keep = keep or tuple(range(len(old.blocks)))
    if missing := sorted(i for i in keep if not 0 <= i < len(old.blocks)):
        raise PatchScalerError(f"--keep {missing[0]}: Patch-DiT has the blocks 0 to {len(old.blocks) - 1}")
    config = dataclasses.replace(old.config, depth=len(keep))
    if trunk is not None:
        if old.head is None or not trunk_blocks:
            raise PatchScalerError("--trunk: give --trunk-blocks, and a model whose configuration has a head_width")
        config = dataclasses.replace(config, head_trunk=len(trunk_blocks))
    size = model.config.groups.latent_patch_size
    new, shorter = PatchDiT(config, model.channels, size), TextureEncoder(config, model.channels, size)
    if trunk is not None and new.head is not None and new.head.trunk is not None:
        new.head.trunk.load_esrgan(trunk, trunk_blocks)
    _take(new, old, {old_block: i for i, old_block in enumerate(keep)})
    _take(shorter, encoder, {i: i for i in range(len(shorter.blocks))})
    save_module(model.path("patch_dit"), new, {"network": "patch_dit"})
    save_module(model.path("texture_encoder"), shorter, {"network": "texture_encoder"})
    model.save_config(dataclasses.replace(model.config, patch_dit=config))
    return config


def _take(new: nn.Module, old: nn.Module, blocks: dict[int, int]) -> None:
    """Every weight that both have; of blocks, those that are kept, under their new numbers."""
    state = new.state_dict()
    for name, weight in old.state_dict().items():
        if found := re.match(r"blocks\.(\d+)\.", name):
            if int(found[1]) not in blocks:
                continue
            name = f"blocks.{blocks[int(found[1])]}.{name[found.end() :]}"
        if name in state:
            state[name] = weight
    new.load_state_dict(state)
