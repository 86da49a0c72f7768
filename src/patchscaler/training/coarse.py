"""Stage `coarse`: what the frozen GRM makes of each degradation, kept as images beside the shards.

`NNNN_coarse.npy` (n, K', T, T, 3) uint8, for the first K' degradations of each tile. Images, so
that crops can still be flipped and transposed. Stable Diffusion's autoencoder loses something on
this way; `train diffusion --whole-images` restores at hand and needs no such files.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import torch

from patchscaler.models.autoencoder import Autoencoder, PCAAutoencoder
from patchscaler.models.grm import GRM
from patchscaler.training.data.shards import to_unit
from patchscaler.training.folder import ModelFolder


@torch.inference_mode()
def write_coarse(
    folder: str | Path,
    grm: GRM,
    autoencoder: Autoencoder,
    variants: int,
    device: str = "cpu",
    bf16: bool = True,
) -> int:
    """Write what is missing -> number of shards written."""
    written = 0
    # The inverse in closed form gives the coarse latents back; a trained correction changes them.
    decode = (
        autoencoder.decode_linear if isinstance(autoencoder, PCAAutoencoder) else autoencoder.decode
    )
    for lr_file in sorted(Path(folder).glob("*_lr.npy")):
        stem = str(lr_file).removesuffix("_lr.npy")
        if Path(f"{stem}_coarse.npy").exists():
            continue
        lr = np.load(lr_file, mmap_mode="r")[:, :variants]  # (n, K', t, t, 3)
        n, k, t = lr.shape[:3]
        coarse = np.empty((n, k, 4 * t, 4 * t, 3), np.uint8)
        for i in range(0, n, 8):
            x = to_unit(lr[i : i + 8].reshape(-1, t, t, 3).transpose(0, 3, 1, 2))
            x = x.to(device, memory_format=torch.channels_last)
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
                y_0, _ = grm(x, autoencoder)
            image = decode(y_0.float()).clamp(-1, 1)  # (B, 3, T, T)
            block = ((image + 1) * 127.5).round().byte().cpu().movedim(1, -1).numpy()
            coarse[i : i + 8] = block.reshape(-1, k, 4 * t, 4 * t, 3)
        np.save(f"{stem}_coarse.tmp.npy", coarse)
        os.replace(f"{stem}_coarse.tmp.npy", f"{stem}_coarse.npy")
        written += 1
    return written


def run(args: argparse.Namespace) -> None:
    model = ModelFolder.from_args(args)
    grm = model.grm().to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    written = write_coarse(
        args.shards, grm, model.autoencoder(), args.variants, model.device, args.bf16
    )
    print(f"{args.shards}: coarse images of {written} shards written")
