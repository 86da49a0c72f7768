"""Stage `grm`: the coarse image and its confidence (Eq. 1)."""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from patchscaler.errors import PatchScalerError
from patchscaler.models.autoencoder import Autoencoder
from patchscaler.models.grm import GRM, PixelGRM, grm_loss
from patchscaler.models.weights import save_module
from patchscaler.training.calibrate import PATCH, STRIDE, patch_errors, rank_correlation
from patchscaler.training.data.shards import PairShards
from patchscaler.training.folder import ModelFolder, read_foreign
from patchscaler.training.loop import Batch, LoopConfig, mean_psnr, train

ETA_OF_MEDIAN = 1.25  # eta of the median squared error of patches: C then has its median near .70


class GRMTrainer(nn.Module):
    """The GRM with Eq. 1 as its forward; the PixelGRM's L1 is taken on pixels.

    Args:
        eta: None: 1.25 of the running median of the patches' squared error, kept in a buffer.
    """

    running_eta: Tensor

    def __init__(
        self, grm: GRM, autoencoder: Autoencoder, lam: float, eta: float | None, squared: bool
    ):
        super().__init__()
        self.grm, self.lam, self.eta, self.squared = grm, lam, eta, squared
        self.register_buffer("running_eta", torch.tensor(0.0))
        self._autoencoder = [autoencoder]  # in a list: frozen, and no part of the state

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        lr, hr, autoencoder = batch["lr"], batch["hr"], self._autoencoder[0]
        pixels = isinstance(self.grm, PixelGRM)
        if isinstance(self.grm, PixelGRM):
            image, confidence = self.grm.restore(lr)  # (B, 3, 4h, 4w), (B, 1, h/2, w/2)
            image = image.float()
            on_pixels = (image - hr).abs().mean()
            coarse = autoencoder.encode(image.detach())
        else:
            coarse, confidence = self.grm(lr, autoencoder)
            on_pixels = torch.zeros(())
        with torch.no_grad(), torch.autocast(lr.device.type, enabled=False):
            target = autoencoder.encode(hr)
        eta = self._eta(coarse.float(), target)
        l1, certainty = grm_loss(coarse.float(), target, confidence, self.lam, eta, self.squared)
        loss = (on_pixels if pixels else l1) + certainty
        logs = {
            "l1_pixels": float(on_pixels.detach()),
            "l1_latents": float(l1.detach()),
            "confidence": float(certainty.detach()),
            "mean_c": float(confidence.detach().float().mean()),
        }
        return loss, logs if self.eta is not None else logs | {"eta": eta}

    @torch.no_grad()
    def _eta(self, coarse: Tensor, target: Tensor) -> float:
        if self.eta is not None:
            return self.eta
        e2 = (coarse - target).square().mean(1, keepdim=True)
        size = min(PATCH, *e2.shape[-2:])
        now = ETA_OF_MEDIAN * F.avg_pool2d(e2, size, STRIDE).median()
        if self.training:
            self.running_eta.lerp_(now, 0.01 if self.running_eta > 0 else 1.0)
        return float(self.running_eta)


class GRMStage:
    """Train a GRM on degraded pairs."""

    def __init__(
        self,
        grm: GRM,
        autoencoder: Autoencoder,
        shards: PairShards,
        validation: PairShards,
        *,
        batch_size: int = 16,
        lr_size: int = 32,
        lam: float = 0.1,
        eta: float | None = None,
        squared: bool = False,
        device: str = "cpu",
    ):
        self.autoencoder = autoencoder.to(device).requires_grad_(False).eval()
        trainer = GRMTrainer(grm, self.autoencoder, lam, eta, squared)
        trainer.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trainables: dict[str, nn.Module] = {"grm": trainer}
        self.shards, self.validation = shards, validation
        self.batch_size, self.lr_size, self.device = batch_size, lr_size, device

    def batch(self, rng: np.random.Generator, generator: Generator) -> Batch:
        lr, hr = self.shards.sample(self.batch_size, self.lr_size, rng)
        return {
            "lr": lr.to(self.device, memory_format=torch.channels_last),
            "hr": hr.to(self.device),
        }

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """PSNR of bicubic and coarse images, median error, rank correlation of confidence and
        small error.
        """
        assert isinstance(model, GRMTrainer)
        psnr, base = [], []
        for lr, hr in self.validation.pairs(8):
            lr, hr = lr.to(self.device), hr.to(self.device)
            psnr.append(mean_psnr(self.autoencoder.decode(model.grm(lr, self.autoencoder)[0]), hr))
            base.append(mean_psnr(F.interpolate(lr, scale_factor=4, mode="bicubic"), hr))
        confidence, error = patch_errors(model.grm, self.autoencoder, self.validation, self.device)
        return {
            "psnr": float(np.mean(psnr)),
            "psnr_bicubic": float(np.mean(base)),
            "median_error": float(error.median()),
            "median_confidence": float(confidence.median()),
            "rank_correlation": rank_correlation(confidence, -error),
        }

    @torch.no_grad()
    def samples(self, model: nn.Module) -> list[list[Tensor]]:
        """Bicubic, coarse, confidence, ground truth."""
        assert isinstance(model, GRMTrainer)
        rows = []
        for lr, hr in zip(*next(self.validation.pairs(4)), strict=True):
            coarse, confidence = model.grm(lr[None].to(self.device), self.autoencoder)
            bicubic = F.interpolate(lr[None], scale_factor=4, mode="bicubic")[0]
            map_ = F.interpolate(confidence, size=hr.shape[-2:], mode="nearest")[0]
            rows.append(
                [bicubic, self.autoencoder.decode(coarse)[0], 2 * map_.expand(3, -1, -1) - 1, hr]
            )
        return rows

    def save(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, GRMTrainer)
        save_module(folder / "grm.safetensors", model.grm, {"network": "grm"})


def run(args: argparse.Namespace) -> None:
    model = ModelFolder.from_args(args)
    network = model.grm(needed=args.head_only)
    if args.init:
        if not isinstance(network, PixelGRM):
            raise PatchScalerError(
                "--init: a Real-ESRGAN compact network fits the 'pixels' GRM only. Hint: leave it "
                "out"
            )
        network.load_compact(read_foreign(args.init))
    if args.squared and isinstance(network, PixelGRM):
        raise PatchScalerError(
            "--squared: the 'pixels' GRM has its L1 on pixels, not on latents. Hint: leave it out"
        )
    if args.head_only:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.startswith("confidence"))
    stage = GRMStage(
        network,
        model.autoencoder(),
        PairShards(args.shards),
        PairShards(args.validation),
        batch_size=args.batch_size,
        lr_size=args.lr_size,
        lam=args.lam,
        eta=args.eta,
        squared=args.squared,
        device=model.device,
    )
    name = "confidence" if args.head_only else "grm"
    print(train(stage, LoopConfig.from_args(args, model.folder, name), model.folder))
