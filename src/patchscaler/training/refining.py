"""The refiner before it is trained in the chain: a large ESRGAN made small.

Whole regions at once and no patches, no textures, no transformer: twice the pictures in the same
time. First the few blocks learn what all of them said (`DistilStage`), then the drawing meets the
losses of the last stage (`RefiningStage`). Both begin from the coarse picture, as the refiner does
where Patch-DiT says nothing.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from patchscaler.models.refiner import Refiner
from patchscaler.models.weights import save_module
from patchscaler.training.data.coarse import CoarseShards
from patchscaler.training.loop import Batch, mean_psnr
from patchscaler.training.picture_loss import PictureLoss, target


def _as_input(coarse: Tensor) -> Tensor:
    """The coarse picture (N, 3, s, s) as both of the refiner's pictures: no transformer has spoken
    yet.
    """
    # (N, 6, s, s)
    return torch.cat([coarse, coarse], 1).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def coarse_regions(
    shards: CoarseShards, count: int, side: int, device: str, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """What the refiner reads of so many regions, four at a time: pixels (N, 6, s, s), small (N, 3,
    s/4, s/4).
    """
    rng, factor = (
        np.random.default_rng(seed),
        shards.coarse[0].shape[2] // shards.confidence[0].shape[2],
    )
    for start in range(0, count, 4):
        regions = shards.draw(min(4, count - start), side, factor, rng, evenly=True)
        coarse, _ = shards.read(regions, side, factor)  # (N, 3, s, s)
        yield _as_input(coarse.to(device)), shards.small(regions, side, factor).to(device)


def _frozen(teacher: Refiner, device: str) -> Refiner:
    return teacher.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]


class DistilTrainer(nn.Module):
    """Error of the features against the large network's, relative to how much those vary within a
    picture.

    Weighed by how the first enlargement reads them: what it does not see need not be right.
    """

    reads: Tensor

    def __init__(self, refiner: Refiner):
        super().__init__()
        self.refiner = refiner
        for conv in (refiner.conv_up1, refiner.conv_up2, refiner.conv_hr, refiner.conv_last):
            conv.requires_grad_(False)
        # After enlarging by repetition a 3x3 convolution is one of 2x2 for each of four phases, its
        # taps summed.
        weight, gram = refiner.conv_up1.weight.detach().float(), torch.zeros(1)
        for rows in ((slice(0, 1), slice(1, 3)), (slice(0, 2), slice(2, 3))):
            for columns in ((slice(0, 1), slice(1, 3)), (slice(0, 2), slice(2, 3))):
                for r in rows:
                    for c in columns:
                        tap = weight[:, :, r, c].sum((2, 3))  # (W, W)
                        gram = gram + tap.T @ tap
        values, vectors = torch.linalg.eigh(gram)
        # (W, W)
        self.register_buffer(
            "reads", (vectors * values.clamp_min(0).sqrt()) @ vectors.T, persistent=False
        )

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        # (N, W, s/4, s/4)
        features = self.refiner.features(_as_input(batch["coarse"]), batch["small"]).float()
        wanted = batch["features"]
        spread = wanted - wanted.mean((2, 3), keepdim=True)
        error, scale = (
            F.conv2d(x, self.reads[..., None, None]).square().mean()
            for x in (features - wanted, spread)
        )
        loss = error / scale
        return loss, {"error": float(loss.detach())}


class _RefinerStage:
    """What both stages hold: the refiner and its pairs. side: of the regions, in latents."""

    def __init__(
        self,
        refiner: Refiner,
        shards: CoarseShards,
        validation: CoarseShards,
        batch_size: int,
        side: int,
        device: str,
    ):
        self.shards, self.validation, self.device = shards, validation, device
        self.batch_size, self.side = batch_size, side
        self.factor = shards.coarse[0].shape[2] // shards.confidence[0].shape[2]
        self.refiner = refiner.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def save(self, model: nn.Module, folder: Path) -> None:
        save_module(folder / "refiner.safetensors", self.refiner, {"network": "refiner"})


class DistilStage(_RefinerStage):
    """teacher: the whole network as a refiner, which sees the small picture."""

    def __init__(
        self,
        refiner: Refiner,
        teacher: Refiner,
        shards: CoarseShards,
        validation: CoarseShards,
        *,
        batch_size: int = 4,
        side: int = 32,
        device: str = "cpu",
    ):
        super().__init__(refiner, shards, validation, batch_size, side, device)
        self.teacher = _frozen(teacher, device)
        self.trainables: dict[str, nn.Module] = {"refiner": DistilTrainer(self.refiner).to(device)}

    @torch.no_grad()
    def _draw(self, shards: CoarseShards, count: int, rng: np.random.Generator) -> Batch:
        regions = shards.draw(count, self.side, self.factor, rng, evenly=True)
        coarse, _ = shards.read(regions, self.side, self.factor)  # (N, 3, s, s)
        small = shards.small(regions, self.side, self.factor).to(self.device)  # (N, 3, s/4, s/4)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16):
            # (N, W, s/4, s/4)
            features = self.teacher.features(_as_input(coarse.to(self.device)), small)
        return {"coarse": coarse.to(self.device), "small": small, "features": features.float()}

    def batch(self, rng: np.random.Generator, generator: Generator) -> Batch:
        return self._draw(self.shards, self.batch_size, rng)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        rng = np.random.default_rng(0)
        return {
            "error": float(
                np.mean([model(self._draw(self.validation, 4, rng))[1]["error"] for _ in range(8)])
            )
        }

    def pictures(self, model: nn.Module) -> list[list[Tensor]]:
        return []


class RefiningTrainer(nn.Module):
    """Drawing of the coarse picture -> losses."""

    def __init__(self, refiner: Refiner, loss: PictureLoss):
        super().__init__()
        self.refiner, self.loss = refiner, loss

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        return self.loss(
            self.refiner(_as_input(batch["coarse_pixels"]), batch["small"]).float(), batch
        )


class RefiningStage(_RefinerStage):
    """weights: of the losses (`PictureLoss`). teacher: draws what the taught share aims at; None
    for kept pictures.
    """

    def __init__(
        self,
        refiner: Refiner,
        shards: CoarseShards,
        validation: CoarseShards,
        teacher: Refiner | None = None,
        *,
        batch_size: int = 3,
        side: int = 24,
        weights: dict[str, float] | None = None,
        device: str = "cpu",
    ):
        super().__init__(refiner, shards, validation, batch_size, side, device)
        self.teacher = _frozen(teacher, device) if teacher else None
        self.loss = PictureLoss(weights or {}, device)
        trainer = RefiningTrainer(self.refiner, self.loss)
        self.trainables: dict[str, nn.Module] = {"refiner": trainer} | self.loss.discriminators()

    @torch.no_grad()
    def batch(self, rng: np.random.Generator, generator: Generator) -> Batch:
        regions = self.shards.draw(self.batch_size, self.side, self.factor, rng, evenly=True)
        share, teach = self.loss.weights["teacher"], self._teach if self.teacher else None
        return target(self.shards, regions, self.side, self.factor, share, rng, self.device, teach)

    def _teach(self, coarse: Tensor, small: Tensor) -> Tensor:
        """(N, 3, s, s), (N, 3, s/4, s/4) -> (N, 3, s, s): other damage and other crops
        each time.
        """
        assert self.teacher is not None
        with torch.autocast(torch.device(self.device).type, torch.bfloat16):
            return self.teacher(_as_input(coarse), small).float().clamp(-1, 1)

    def _held_out(self, count: int, rng: np.random.Generator) -> list[Tensor]:
        """Coarse, truth and small pictures of regions that are not trained on."""
        return [
            x.to(self.device) for x in self.validation.regions(count, self.side, self.factor, rng)
        ]

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """PSNR and LPIPS of drawings and of the coarse pictures."""
        rng, out = np.random.default_rng(0), dict[str, list[float]]()
        for _ in range(8):
            coarse, hr, small = self._held_out(8, rng)
            for name, picture in (
                ("refined", model.refiner(_as_input(coarse), small).float()),  # type: ignore[operator]
                ("coarse", coarse),
            ):
                out.setdefault(f"psnr_{name}", []).append(mean_psnr(picture, hr))
                for measure, network in (("lpips", self.loss.lpips), ("vgg", self.loss.vgg)):
                    if network:
                        out.setdefault(f"{measure}_{name}", []).append(
                            float(network(picture, hr).mean())
                        )
        return {k: float(np.mean(v)) for k, v in out.items()}

    @torch.no_grad()
    def pictures(self, model: nn.Module) -> list[list[Tensor]]:
        """Coarse, drawn, truth."""
        coarse, hr, small = self._held_out(6, np.random.default_rng(0))
        refined = model.refiner(_as_input(coarse), small).float()  # type: ignore[operator]
        return [list(row) for row in zip(coarse.cpu(), refined.cpu(), hr.cpu(), strict=True)]
