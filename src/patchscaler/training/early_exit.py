"""Stage `early-exit`: distil what the whole trunk of the denoiser makes of an image into its exit.

The trunk stays as it is. The exit's features are compared with the trunk's as the first upsampling
convolution reads them: what it does not see need not be right; then, at `image_weight`, the
upsampled images.
"""

import argparse
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from patchscaler.errors import PatchScalerError
from patchscaler.models.denoiser import RRDBDenoiser
from patchscaler.models.ncnn_weights import read_esrgan, x4plus_file
from patchscaler.models.perceptual import LPIPS
from patchscaler.models.weights import save_module
from patchscaler.training.data.shards import PairShards
from patchscaler.training.folder import ModelFolder, read_foreign
from patchscaler.training.loop import Batch, LoopConfig, mean_psnr, train


class EarlyExitTrainer(nn.Module):
    """Batch -> loss of the exit. Only the exit has gradients."""

    reads: Tensor

    def __init__(self, denoiser: RRDBDenoiser, image_weight: float):
        super().__init__()
        if denoiser.exit is None:
            raise PatchScalerError(
                "this denoiser has no early exit. Hint: give exit_depth and exit_blocks"
            )
        self.denoiser, self.image_weight = denoiser, image_weight
        denoiser.requires_grad_(False)
        denoiser.exit.requires_grad_(True)
        self.lpips = LPIPS() if image_weight else None
        self.register_buffer("reads", reading_matrix(denoiser.conv_up1.weight), persistent=False)

    def state_dict(self, *args: object, **kwargs: object) -> dict[str, Tensor]:  # type: ignore[override]
        """The exit alone: the rest is not trained."""
        assert self.denoiser.exit is not None
        return dict(self.denoiser.exit.state_dict())

    def load_state_dict(self, state: dict[str, Tensor], *args: object, **kwargs: object) -> object:  # type: ignore[override]
        assert self.denoiser.exit is not None
        return self.denoiser.exit.load_state_dict(state)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        net, lr = self.denoiser, batch["lr"]  # (N, 3, s, s)
        blank = lr.new_zeros(len(lr), 3, 4 * lr.shape[2], 4 * lr.shape[3])
        with torch.no_grad():
            m = net.modulation(torch.zeros(len(lr), dtype=torch.long))
            first = net.first_features(blank, lr, m)
            h = net.run_blocks(first, m, 0, net.config.exit_depth)
            whole = net.last_features(first, h, m)  # (N, W, s, s)
        features = net.exit_features(first, h)
        spread = whole - whole.mean((2, 3), keepdim=True)
        error, scale = (
            F.conv2d(x, self.reads[..., None, None]).square().mean()
            for x in (features - whole, spread)
        )
        loss = error / scale
        numbers = {"error": float(loss.detach())}
        if self.lpips is not None:
            with torch.no_grad():
                target = net.upsample(whole, blank, m)
            image = net.upsample(features, blank, m)
            l1, lpips = (image - target).abs().mean(), self.lpips(image, target).mean()
            loss = loss + self.image_weight * (10 * l1 + lpips)
            numbers |= {"l1": float(l1.detach()), "lpips": float(lpips.detach())}
        return loss, numbers


def reading_matrix(weight: Tensor) -> Tensor:
    """How strongly a 3x3 convolution behind a nearest x2 upsampling reads its inputs: (W, W),
    symmetric root.

    After the upsampling the convolution is one of 2x2 for each of four phases, its taps summed.
    """
    gram = torch.zeros(weight.shape[1], weight.shape[1])
    for rows in ((slice(0, 1), slice(1, 3)), (slice(0, 2), slice(2, 3))):
        for columns in ((slice(0, 1), slice(1, 3)), (slice(0, 2), slice(2, 3))):
            for r in rows:
                for c in columns:
                    tap = weight.detach().float()[:, :, r, c].sum((2, 3))  # (W, W)
                    gram = gram + tap.T @ tap
    values, vectors = torch.linalg.eigh(gram)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


class EarlyExitStage:
    """Train the early exit of a denoiser on LR images.

    Args:
        image_weight: Of the upsampled images' distance beside the features'; 0 leaves them out,
            which is a third cheaper.
    """

    def __init__(
        self,
        denoiser: RRDBDenoiser,
        pairs: PairShards,
        validation: PairShards,
        *,
        batch_size: int = 4,
        lr_size: int = 48,
        image_weight: float = 0.0,
        device: str = "cpu",
    ):
        self.pairs, self.validation, self.device = pairs, validation, device
        self.batch_size, self.lr_size = batch_size, lr_size
        denoiser.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trainables: dict[str, nn.Module] = {
            "exit": EarlyExitTrainer(denoiser, image_weight).to(device)
        }

    def batch(self, rng: np.random.Generator, generator: Generator) -> Batch:
        lr, _ = self.pairs.sample(self.batch_size, self.lr_size, rng)
        return {"lr": lr.to(self.device, memory_format=torch.channels_last)}

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """How near the exit's images are to the trunk's: PSNR in dB."""
        net, out = cast(RRDBDenoiser, model.denoiser), list[float]()
        for exits, whole in self._held_out(net):
            out.append(mean_psnr(exits, whole))
        return {"psnr_to_whole": float(np.mean(out))}

    @torch.no_grad()
    def samples(self, model: nn.Module) -> list[list[Tensor]]:
        """The early exit beside the whole trunk."""
        net = cast(RRDBDenoiser, model.denoiser)
        return [[early[0], whole[0]] for early, whole in self._held_out(net)]

    def _held_out(self, net: RRDBDenoiser) -> list[tuple[Tensor, Tensor]]:
        rng, found = np.random.default_rng(0), []
        for _ in range(6):
            lr, _ = self.validation.sample(1, 48, rng)
            lr, tau = lr.to(self.device), torch.zeros(1, dtype=torch.long)
            blank = lr.new_zeros(1, 3, 192, 192)
            found.append((net(blank, tau, lr, early=True), net(blank, tau, lr)))
        return found

    def save(self, model: nn.Module, folder: Path) -> None:
        net = cast(RRDBDenoiser, model.denoiser)
        save_module(folder / "denoiser.safetensors", net, {"network": "denoiser"})


def run(args: argparse.Namespace) -> None:
    model = ModelFolder.from_args(args)
    network = model.denoiser(needed=False)
    if not model.path("denoiser").exists():
        start = tuple(int(block) for block in args.exit_from.split(","))
        if len(start) != model.config.denoiser.exit_blocks:
            raise PatchScalerError(
                f"--exit-from {args.exit_from}: {len(start)} blocks, and the early exit has "
                f"{model.config.denoiser.exit_blocks}"
            )
        network.load_esrgan(_read(args.esrgan), start)
    stage = EarlyExitStage(
        network,
        PairShards(args.shards),
        PairShards(args.validation),
        batch_size=args.batch_size,
        lr_size=args.lr_size,
        image_weight=args.image_weight,
        device=model.device,
    )
    print(train(stage, LoopConfig.from_args(args, model.folder, "early-exit"), model.folder))


def _read(esrgan: str | None) -> dict[str, Tensor]:
    """The trunk's weights: safetensors, ncnn's .param, or x4plus of the installed package."""
    if esrgan and not esrgan.endswith(".param"):
        return read_foreign(esrgan)
    return read_esrgan(esrgan or x4plus_file())
