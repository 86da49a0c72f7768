"""Image <-> latents. Frozen; owns scale and channels, so that no other code multiplies by .18215.

`PCAAutoencoder` is ours and ships: principal components of 8x8 RGB blocks, in closed form. The
basis is orthonormal, hence an error in unscaled latents is the same error in pixels, and a block
sees nothing but itself, hence cutting a picture into windows changes nothing.
`DiffusersAutoencoder` wraps Stable Diffusion's.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchscaler.config import AutoencoderConfig
from patchscaler.errors import PatchScalerError
from patchscaler.models.hub import is_offline


class Autoencoder(nn.Module, ABC):
    """Interface. `channels`, `factor`: a (B, 3, H, W) picture has (B, channels, H/factor, W/factor)
    latents.

    reach: latents on either side that a window has to read more to be decoded; where `exact`, its
    core is then what the whole gives.
    """

    channels: int
    factor: int
    reach: int
    exact: bool

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1], sides multiples of `factor` -> (B, C, H/f, W/f), about unit
        variance.
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, h*f, w*f), about [-1, 1], not clamped."""


class PCAAutoencoder(Autoencoder):
    """Principal components of f x f RGB blocks, scaled towards unit variance, with a learned
    correction.
    """

    basis: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.channels, self.factor = config.channels, config.factor
        self.scale_power = config.scale_power
        d = 3 * self.factor**2
        # (C, d), rows orthonormal
        self.register_buffer("basis", torch.eye(d)[: self.channels].clone())
        self.register_buffer("mean", torch.zeros(d))  # (d,)
        # (C,) of the components over the fit
        self.register_buffer("std", torch.ones(self.channels))
        width = config.correction_channels
        self.correction = DecoderCorrection(width) if width else None
        self.reach, self.exact = int(width > 0), True

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> "PCAAutoencoder":
        """Closed form: eigenvectors of the covariance of blocks. batches: (B, 3, H, W)
        in [-1, 1].
        """
        d = 3 * self.factor**2
        count, total, products = 0, torch.zeros(d).double(), torch.zeros(d, d).double()
        for images in batches:
            # (n, d)
            x = F.pixel_unshuffle(images, self.factor).movedim(1, -1).reshape(-1, d).double()
            count, total, products = count + len(x), total + x.sum(0), products + x.T @ x
        if count < d:
            raise PatchScalerError(
                f"{count} blocks are too few to fit {d} components: give more pictures"
            )
        mean = total / count
        values, vectors = torch.linalg.eigh(products / count - mean[:, None] * mean)  # ascending
        order = values.argsort(descending=True)[: self.channels]
        basis = vectors[:, order].T
        # same picture, same signs
        signs = basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()
        self.basis.copy_(basis * signs)
        self.mean.copy_(mean)
        self.std.copy_(values[order].clamp_min(1e-12).sqrt())
        return self

    def encode(self, images: Tensor) -> Tensor:
        blocks = F.pixel_unshuffle(images.float(), self.factor)  # (B, 3ff, h, w)
        weight = self.basis / self.std[:, None] ** self.scale_power  # (C, 3ff)
        # half precision would show as banding
        with torch.autocast(images.device.type, enabled=False):
            return F.conv2d(blocks, weight[..., None, None], -(weight @ self.mean))  # (B, C, h, w)

    def decode_linear(self, latents: Tensor) -> Tensor:
        """The inverse transform alone, without the correction."""
        weight = (self.basis * self.std[:, None] ** self.scale_power).T  # (3ff, C)
        with torch.autocast(latents.device.type, enabled=False):
            blocks = F.conv2d(latents.float(), weight[..., None, None], self.mean)  # (B, 3ff, h, w)
        return F.pixel_shuffle(blocks, self.factor)  # (B, 3, H, W)

    def decode(self, latents: Tensor) -> Tensor:
        images = self.decode_linear(latents)  # (B, 3, H, W)
        return images if self.correction is None else self.correction(images)


class DecoderCorrection(nn.Module):
    """A small residual network on decoded pictures, against block edges and sampler noise.

    It works on 2x2 pixels folded into channels, a quarter of the cost, and starts as the identity.
    A pixel depends on those at most 7 away.
    """

    def __init__(self, width: int):
        super().__init__()
        self.conv_in = nn.Conv2d(12, width, 3, padding=1)
        self.conv_mid = nn.Conv2d(width, width, 3, padding=1)
        self.conv_out = nn.Conv2d(width, 12, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        h = F.pixel_unshuffle(images, 2)  # (B, 12, H/2, W/2)
        h = F.gelu(self.conv_in(h))  # (B, width, H/2, W/2)
        h = F.gelu(self.conv_mid(h))  # (B, width, H/2, W/2)
        return images + F.pixel_shuffle(self.conv_out(h), 2)  # (B, 3, H, W)


class PixelUnshuffleAutoencoder(Autoencoder):
    """Blocks of f x f pixels as channels: exact, and noise in latents is noise in pixels."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.channels, self.factor = config.channels, config.factor
        self.reach, self.exact = 0, True
        if self.channels != 3 * self.factor**2:
            raise PatchScalerError(
                f"autoencoder: {self.channels} channels for blocks of {self.factor}x{self.factor}: "
                f"take {3 * self.factor**2}"
            )

    def encode(self, images: Tensor) -> Tensor:
        return F.pixel_unshuffle(images.float(), self.factor)  # (B, 3ff, h, w)

    def decode(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(latents.float(), self.factor)  # (B, 3, H, W)


class DiffusersAutoencoder(Autoencoder):
    """Stable Diffusion's AutoencoderKL, from a hub id at a pinned commit or a
    folder.

    source: a folder in place of what the configuration names. offline: read the hub's local cache
    only.
    """

    def __init__(
        self, config: AutoencoderConfig, source: str | Path | None = None, offline: bool = False
    ):
        super().__init__()
        name, revision = (
            (str(source), None) if source else (config.model_id, config.revision or None)
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from diffusers import AutoencoderKL
        except ImportError as error:
            raise PatchScalerError(
                f"the '{config.kind}' autoencoder needs diffusers: pip install 'patchscaler[paper]'"
            ) from error
        try:
            self.model = AutoencoderKL.from_pretrained(
                name, revision=revision, local_files_only=offline or is_offline()
            )
        except Exception as error:  # hub, network, file and format errors have no common base class
            raise PatchScalerError(
                f"autoencoder '{name}' cannot be loaded ({type(error).__name__}): "
                "give the path of a local copy with --autoencoder, or go online once"
            ) from error
        self.channels, self.factor = config.channels, config.factor
        self.scaling_factor = config.scaling_factor
        self.reach, self.exact = 24, False  # group norms and an attention see a whole window
        found = int(self.model.config.latent_channels)
        if found != self.channels:
            raise PatchScalerError(f"'{name}' has {found} latent channels, not {self.channels}")
        self.requires_grad_(False).eval()

    def encode(self, images: Tensor) -> Tensor:
        out = self.model.encode(images)
        latents = out.latent_dist.mode()
        return latents * self.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        return self.model.decode(latents / self.scaling_factor).sample


def build_autoencoder(
    config: AutoencoderConfig, source: str | Path | None = None, offline: bool = False
) -> Autoencoder:
    """source, offline: as in `DiffusersAutoencoder`.

    Raises PatchScalerError: unknown kind, missing extra or model.
    """
    if config.kind == "pca":
        return PCAAutoencoder(config)
    if config.kind == "pixel_unshuffle":
        return PixelUnshuffleAutoencoder(config)
    if config.kind == "kl":
        return DiffusersAutoencoder(config, source, offline)
    raise PatchScalerError(
        f"unknown autoencoder '{config.kind}': choose pixel_unshuffle, pca or kl"
    )
