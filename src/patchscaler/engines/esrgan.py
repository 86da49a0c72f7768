"""The trunk of the RRDB denoiser as a safetensors file that ESRGAN loaders (spandrel) read."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from patchscaler.models.denoiser import RRDBDenoiser

ESRGAN = "esrgan.safetensors"


def export_esrgan(denoiser: RRDBDenoiser, file: str | Path) -> float:
    """Write the denoiser's trunk at tau 0 under the names of Real-ESRGAN, as safetensors.

    ESRGAN has no input for y_tau and no modulation: `conv_y`, `conv_y_hr` and the modulation of the
    blocks are left out. Those of the first and of the upsampling convolutions go into the weights.

    Args:
        denoiser: Network of `denoiser.safetensors`.
        file: Where to, ending on .safetensors.

    Returns:
        The largest number that is left out: 0 where the file computes exactly what the denoiser
        does at tau 0.
    """
    weights = {k: v.detach().float().cpu() for k, v in denoiser.state_dict().items()}
    device = denoiser.conv_last.weight.device
    with torch.inference_mode():
        m = denoiser.modulation(torch.zeros(1, dtype=torch.long, device=device))
    m = m[:, 0, :, 0, 0].float().cpu()  # (depth + 4, W)
    scale, shift, *up = m[-4:]
    factors = {"conv_first": 1 + scale, "conv_up1": 1 + up[0], "conv_up2": 1 + up[1]}
    made: dict[str, Tensor] = {}
    for name in ("conv_first", "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"):
        factor = factors.get(name, torch.ones(len(weights[f"{name}.bias"])))
        made[f"{name}.weight"] = weights[f"{name}.weight"] * factor[:, None, None, None]
        made[f"{name}.bias"] = weights[f"{name}.bias"] * factor
    made["conv_first.bias"] += shift
    for block in range(denoiser.config.depth):
        for dense in range(3):
            for conv in range(5):
                for part in ("weight", "bias"):
                    own = weights[f"blocks.{block}.dense.{dense}.convs.{conv}.{part}"]
                    made[f"body.{block}.rdb{dense + 1}.conv{conv + 1}.{part}"] = own
    save_file({name: tensor.contiguous() for name, tensor in made.items()}, file)
    # a leaky ReLU carries positive factors only
    negative = [(1 + u).clamp(max=0).abs().max() for u in up]
    inputs = [weights["conv_y.weight"].abs().max(), weights["conv_y_hr.weight"].abs().max()]
    return float(max(m[:-4].abs().max(), *negative, *inputs))
