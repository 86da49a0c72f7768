"""Stage 1, the coarse picture: autoencoder in closed form, then the GRM with its confidence (Eq.
1).
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from patchscaler.config import ModelConfig
from patchscaler.models.autoencoder import Autoencoder, PCAAutoencoder
from patchscaler.models.grm import GRM, PixelGRM, UNetGRM, grm_loss
from patchscaler.models.weights import save_module
from patchscaler.training.data.shards import PairShards
from patchscaler.training.loop import Batch, mean_psnr


def fit_autoencoder(
    config: ModelConfig, shards: PairShards, pictures: int = 2000
) -> PCAAutoencoder:
    """The closed-form autoencoder of the training tiles; deterministic."""
    autoencoder = PCAAutoencoder(config.autoencoder)
    rng = np.random.default_rng(0)
    side = min(shards.lr[0].shape[2], 32)
    return autoencoder.fit(shards.sample(16, side, rng)[1] for _ in range(max(1, pictures // 16)))


class GRMTrainer(nn.Module):
    """GRM with Eq. 1 as its forward; the PixelGRM's L1 is taken on pixels."""

    def __init__(self, grm: GRM, autoencoder: Autoencoder, lam: float, eta: float, squared: bool):
        super().__init__()
        self.grm = grm
        self.lam, self.eta, self.squared = lam, eta, squared
        self._autoencoder = [autoencoder]  # in a list: frozen, and no part of the state

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        lr, hr, autoencoder = batch["lr"], batch["hr"], self._autoencoder[0]
        if isinstance(self.grm, PixelGRM):
            image, confidence = self.grm.restore(lr)  # (B, 3, 4h, 4w), (B, 1, h/2, w/2)
            image = image.float()
            fidelity = (image - hr).abs().mean()
            coarse = autoencoder.encode(image.detach())
        else:
            coarse, confidence = self.grm(lr, autoencoder)
            fidelity = torch.zeros(())
        with torch.no_grad(), torch.autocast(lr.device.type, enabled=False):
            target = autoencoder.encode(hr)
        l1, sure = grm_loss(coarse.float(), target, confidence, self.lam, self.eta, self.squared)
        loss = (fidelity if isinstance(self.grm, PixelGRM) else l1) + sure
        logs = {
            "l1_pixels": fidelity,
            "l1_latents": l1,
            "confidence": sure,
            "mean_c": confidence.float().mean(),
        }
        return loss, {k: float(v.detach()) for k, v in logs.items()}


class GRMStage:
    """Trains a GRM on degraded pairs."""

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
        eta: float = 0.1,
        squared: bool = False,
        device: str = "cpu",
    ):
        self.autoencoder = autoencoder.to(device).requires_grad_(False).eval()
        self.trainer = GRMTrainer(grm, self.autoencoder, lam, eta, squared)
        self.trainer = self.trainer.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trainables: dict[str, nn.Module] = {"grm": self.trainer}
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
        """PSNR of bicubic and coarse pictures, median error, rank correlation of confidence and
        error.
        """
        assert isinstance(model, GRMTrainer)
        psnr, base = [], []
        for lr, hr in self.validation.pairs(8):
            lr, hr = lr.to(self.device), hr.to(self.device)
            psnr.append(mean_psnr(self.autoencoder.decode(model.grm(lr, self.autoencoder)[0]), hr))
            base.append(mean_psnr(F.interpolate(lr, scale_factor=4, mode="bicubic"), hr))
        sure, error = patch_errors(model.grm, self.autoencoder, self.validation, self.device)
        return {
            "psnr": float(np.mean(psnr)),
            "psnr_bicubic": float(np.mean(base)),
            "median_error": float(error.median()),
            "rank_correlation": rank_correlation(sure, -error),
        }

    @torch.no_grad()
    def pictures(self, model: nn.Module) -> list[list[Tensor]]:
        """Bicubic, coarse, confidence, truth."""
        assert isinstance(model, GRMTrainer)
        rows = []
        for lr, hr in zip(*next(self.validation.pairs(4)), strict=True):
            coarse, confidence = model.grm(lr[None].to(self.device), self.autoencoder)
            enlarged = F.interpolate(lr[None], scale_factor=4, mode="bicubic")[0]
            sure = F.interpolate(confidence, size=hr.shape[-2:], mode="nearest")[0].expand(
                3, -1, -1
            )
            rows.append([enlarged, self.autoencoder.decode(coarse)[0], 2 * sure - 1, hr])
        return rows

    def save(self, model: nn.Module, folder: Path) -> None:
        grm = model.grm
        assert isinstance(grm, PixelGRM | UNetGRM)
        save_module(folder / "grm.safetensors", grm, {"network": "grm"})


@torch.no_grad()
def patch_errors(
    grm: GRM, autoencoder: Autoencoder, shards: PairShards, device: str
) -> tuple[Tensor, Tensor]:
    """Mean confidence and mean squared latent error of every patch (16 latents, stride 8): (M,),
    (M,).
    """
    errors, sures = [], []
    for lr, hr in shards.pairs(8):
        coarse, confidence = grm(lr.to(device), autoencoder)
        e2 = (coarse - autoencoder.encode(hr.to(device))).square().mean(1, keepdim=True)
        errors.append(F.avg_pool2d(e2, 16, 8).flatten())
        sures.append(F.avg_pool2d(confidence, 16, 8).flatten())
    return torch.cat(sures).cpu(), torch.cat(errors).cpu()


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's: Pearson's correlation of ranks (ties by position)."""
    ranks = torch.stack([x.argsort().argsort().float() for x in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])
