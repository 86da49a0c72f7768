"""What a decoded picture is worth in the last stages: L1, LPIPS by two networks, an adversary, no
weave, no grid.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchscaler.models.perceptual import LPIPS
from patchscaler.training.data.coarse import CoarseShards, Region
from patchscaler.training.loop import Batch
from patchscaler.training.losses import PatchDiscriminator, fixed_pattern, low_band, uneven_steps

# Of the losses; by their gradients on the picture LPIPS is 50 times as strong as L1 at equal
# weights.
WEIGHTS = {
    "l1": 3.0,
    "lpips": 1.0,
    "vgg": 0.0,
    "gan": 0.15,
    "pattern": 20.0,
    "grid": 0.0,
    "teacher": 0.0,
}


def target(
    shards: CoarseShards,
    regions: list[Region],
    side: int,
    factor: int,
    teacher: float,
    rng: np.random.Generator,
    device: str,
    teach: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Batch:
    """What the pictures of these regions, `side` latents wide, are held against: the batch of
    `PictureLoss`.

    teacher: share of the batches that aim at a teacher's pictures in place of the truth: at what
    teach makes of coarse (B, 3, S, S) and small (B, 3, S/4, S/4), or at those kept beside the
    shards.
    """
    coarse, hr = (x.to(device) for x in shards.read(regions, side, factor))
    small = shards.small(regions, side, factor).to(device)
    batch: Batch = {"coarse_pixels": coarse, "small": small, "hr": hr, "aim": hr}
    batch["offset"] = tuple(rng.integers(8, size=2))
    batch["window"] = tuple(rng.integers(hr.shape[-1] // 2 + 1, size=2))
    if rng.random() < teacher:
        taught = teach(coarse, small) if teach else shards.taught(regions, side, factor).to(device)
        # Its shifts of colour are half of its distance to the coarse picture, and inference takes
        # such back.
        batch["aim"] = taught + low_band(coarse - taught)
    return batch


class PictureLoss:
    """Not a module: what it holds is frozen, and no part of a checkpoint's network.

    Of the batch: `hr` the truth, `coarse_pixels`, `aim` what the picture should be, each (B, 3, S,
    S) in [-1, 1]; `offset` and `window`, where LPIPS begins and VGG looks: all of `target`.
    """

    def __init__(self, weights: dict[str, float], device: str):
        self.weights = WEIGHTS | weights
        last = torch.channels_last
        self.lpips = LPIPS().to(device) if self.weights["lpips"] else None
        self.vgg = LPIPS("vgg").to(device, memory_format=last) if self.weights["vgg"] else None  # type: ignore[call-overload]
        self.discriminator = (
            PatchDiscriminator().to(device, memory_format=last) if self.weights["gan"] else None  # type: ignore[call-overload]
        )
        self.made: dict[str, Tensor] = {}  # the last pictures, for the discriminator's turn

    def __call__(self, image: Tensor, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        w, hr, coarse, aim = self.weights, batch["hr"], batch["coarse_pixels"], batch["aim"]
        nothing = image.new_zeros(())
        l1 = (image - aim).abs().mean()
        # AlexNet strides by four: a random offset keeps its gradient from drawing a grid on the
        # latents' one.
        dy, dx = batch["offset"]
        perceptual = (
            self.lpips(image[..., dy:, dx:], aim[..., dy:, dx:]).mean() if self.lpips else nothing
        )
        # VGG costs as much as everything else: a random quarter of the region.
        (y, x), side = batch["window"], image.shape[-1] // 2
        quarter = (..., slice(y, y + side), slice(x, x + side))
        deep = self.vgg(image[quarter], aim[quarter]).mean() if self.vgg else nothing
        adversarial = nothing
        if self.discriminator:
            self.discriminator.requires_grad_(False)  # its own turn comes
            adversarial = -self.discriminator(image, coarse).float().mean()
            self.discriminator.requires_grad_(True)
        terms = {
            "l1": l1,
            "lpips": perceptual,
            "vgg": deep,
            "gan": adversarial,
            "pattern": fixed_pattern(image - coarse, hr - coarse),
            "grid": uneven_steps(image, aim),
        }
        self.made["image"] = image.detach()
        loss = torch.stack([w[k] * v for k, v in terms.items()]).sum()
        return loss, {k: float(v.detach()) for k, v in terms.items()}

    def discriminators(self) -> dict[str, nn.Module]:
        """What is trained beside the generator: the discriminator, where it counts."""
        return (
            {"discriminator": DiscriminatorTrainer(self.discriminator, self.made)}
            if self.discriminator
            else {}
        )


class DiscriminatorTrainer(nn.Module):
    """Hinge loss on the pictures the generator has just made."""

    def __init__(self, discriminator: PatchDiscriminator, made: dict[str, Tensor]):
        super().__init__()
        self.discriminator = discriminator
        self.made = made

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        real = self.discriminator(batch["hr"], batch["coarse_pixels"]).float()
        fake = self.discriminator(self.made["image"], batch["coarse_pixels"]).float()
        loss = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        return loss, {
            "hinge": float(loss.detach()),
            "gap": float((real.mean() - fake.mean()).detach()),
        }
