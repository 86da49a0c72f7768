"""HR images -> LR images a quarter the size: Real-ESRGAN's second-order degradation in batches
in torch.

Each step is one small function on (B, 3, H, W) in [0, 1]; `degrade` strings them together. Kernels,
noise and JPEG quality are drawn per image, resize factors per batch (a resize changes the batch's
shape), so small batches mix best. All randomness comes from one CPU generator: same seed, same
images, any device.

Ranges: `real` is Real-ESRGAN's option file, `stable` the milder one StableSR trains with, `mild`
the test set of ResShift, which the paper's LSDIR-Test follows (4.1), `bicubic` the classical one.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from patchscaler.errors import PatchScalerError
from patchscaler.training.data.jpeg import jpeg

Range = tuple[float, float]
KERNEL_SIZE = 21  # every kernel is zero-padded to this side
RESIZE_MODES = ("area", "bilinear", "bicubic")


@dataclass(frozen=True)
class Stage:
    """One round of blur, resize, noise. Sigmas of noise are in 1/255, of blur in pixels."""

    blur_probability: float
    kernel_sides: tuple[int, int]  # odd, inclusive
    kernel_kinds: tuple[float, ...]  # iso, aniso, generalised iso/aniso, plateau iso/aniso
    blur_sigma: Range
    sinc_probability: float
    resize_probabilities: tuple[float, float, float]  # up, down, keep
    resize: Range
    gaussian_probability: float
    gaussian_sigma: Range
    poisson_scale: Range
    grey_probability: float
    jpeg_quality: Range


@dataclass(frozen=True)
class Degradation:
    """Up to two stages and the close. `second` happens with `second_probability`."""

    first: Stage | None
    second: Stage | None
    second_probability: float
    final_sinc_probability: float
    final_sinc_sides: tuple[int, int]
    final_quality: Range


SIX_KINDS = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
REAL_FIRST = Stage(
    blur_probability=1,
    kernel_sides=(7, 21),
    kernel_kinds=SIX_KINDS,
    blur_sigma=(0.2, 3),
    sinc_probability=0.1,
    resize_probabilities=(0.2, 0.7, 0.1),
    resize=(0.15, 1.5),
    gaussian_probability=0.5,
    gaussian_sigma=(1, 30),
    poisson_scale=(0.05, 3),
    grey_probability=0.4,
    jpeg_quality=(30, 95),
)
REAL_SECOND = replace(
    REAL_FIRST,
    blur_probability=0.8,
    blur_sigma=(0.2, 1.5),
    resize_probabilities=(0.3, 0.4, 0.3),
    resize=(0.3, 1.2),
    gaussian_sigma=(1, 25),
    poisson_scale=(0.05, 2.5),
)
STABLE_FIRST = replace(
    REAL_FIRST,
    resize=(0.3, 1.5),
    gaussian_sigma=(1, 15),
    poisson_scale=(0.05, 2),
    jpeg_quality=(60, 95),
)
STABLE_SECOND = replace(
    REAL_SECOND,
    blur_probability=0.5,
    resize=(0.6, 1.2),
    gaussian_sigma=(1, 12),
    poisson_scale=(0.05, 1),
    jpeg_quality=(60, 95),
)
MILD = replace(
    REAL_FIRST,
    kernel_sides=(3, 13),
    kernel_kinds=(0.6, 0.4, 0, 0, 0, 0),
    blur_sigma=(0.2, 0.8),
    resize=(0.5, 1.5),
    gaussian_sigma=(1, 15),
    poisson_scale=(0.05, 0.3),
    jpeg_quality=(70, 95),
)
DEGRADATIONS: dict[str, Degradation] = {
    "bicubic": Degradation(None, None, 0, 0, (7, 21), (100, 100)),
    "mild": Degradation(MILD, None, 0, 0.2, (3, 5), (80, 100)),
    "stable": Degradation(STABLE_FIRST, STABLE_SECOND, 1, 0.8, (7, 21), (60, 100)),
    "real": Degradation(REAL_FIRST, REAL_SECOND, 1, 0.8, (7, 21), (30, 95)),
}


# --- random numbers, all from one CPU generator -------------------------------------------------


def _uniform(n: int, low: float, high: float, g: Generator) -> Tensor:
    return torch.rand(n, generator=g) * (high - low) + low


def _pick(probabilities: tuple[float, ...], g: Generator) -> int:
    return int(torch.multinomial(torch.tensor(probabilities), 1, generator=g))


def _side(sides: tuple[int, int], g: Generator) -> int:
    return sides[0] + 2 * int(torch.randint((sides[1] - sides[0]) // 2 + 1, (1,), generator=g))


# --- kernels ------------------------------------------------------------------------------------


def gaussian_kernel(
    side: int,
    sigma_x: float,
    sigma_y: float,
    angle: float,
    beta: float = 1.0,
    plateau: bool = False,
) -> Tensor:
    """(21, 21), sums to one. beta = 1 is the Gaussian, others the generalised or plateau form."""
    r = torch.arange(side, dtype=torch.float64) - side // 2
    y, x = torch.meshgrid(r, r, indexing="ij")
    c, s = math.cos(angle), math.sin(angle)
    u, v = (c * x + s * y) / sigma_x, (-s * x + c * y) / sigma_y
    d = u**2 + v**2
    kernel = 1 / (1 + d**beta) if plateau else torch.exp(-0.5 * d**beta)
    return _pad_kernel(kernel / kernel.sum())


def sinc_kernel(side: int, cutoff: float) -> Tensor:
    """(21, 21) circular low-pass with cut-off frequency in radians a pixel: the source
    of ringing.
    """
    r = torch.arange(side, dtype=torch.float64) - side // 2
    y, x = torch.meshgrid(r, r, indexing="ij")
    d = torch.sqrt(x**2 + y**2)
    kernel = cutoff * torch.special.bessel_j1(cutoff * d) / (2 * math.pi * d)
    kernel[side // 2, side // 2] = cutoff**2 / (4 * math.pi)
    return _pad_kernel(kernel / kernel.sum())


def _pad_kernel(kernel: Tensor) -> Tensor:
    return F.pad(kernel, ((KERNEL_SIZE - kernel.shape[-1]) // 2,) * 4).float()


def random_kernel(stage: Stage, g: Generator) -> Tensor:
    """One kernel of a stage's mix -> (21, 21)."""
    side = _side(stage.kernel_sides, g)
    if float(torch.rand(1, generator=g)) < stage.sinc_probability:
        low = math.pi / 3 if side < 13 else math.pi / 5
        return sinc_kernel(side, float(_uniform(1, low, math.pi, g)))
    kind = _pick(stage.kernel_kinds, g)
    isotropic, family = kind % 2 == 0, kind // 2
    sigma_x = float(_uniform(1, *stage.blur_sigma, g))
    sigma_y = sigma_x if isotropic else float(_uniform(1, *stage.blur_sigma, g))
    angle = 0.0 if isotropic else float(_uniform(1, -math.pi, math.pi, g))
    beta = 1.0
    if family:  # half of the draws below one, half above
        low, high = (0.5, 4.0) if family == 1 else (1.0, 2.0)
        below = float(torch.rand(1, generator=g)) < 0.5
        beta = float(_uniform(1, low, 1, g) if below else _uniform(1, 1, high, g))
    return gaussian_kernel(side, sigma_x, sigma_y, angle, beta, plateau=family == 2)


# --- the steps ----------------------------------------------------------------------------------


def blur(images: Tensor, kernels: Tensor) -> Tensor:
    """Each image with its own kernel, borders reflected. images: (B, 3, H, W); kernels: (B, k,
    k).
    """
    h, w = images.shape[-2:]
    r = kernels.shape[-1] // 2
    mode = "reflect" if min(h, w) > r else "replicate"
    x = F.pad(images, (r, r, r, r), mode=mode)
    size = x.shape[-2:]
    spectrum = torch.fft.rfft2(x) * torch.fft.rfft2(kernels.to(x), s=size)[:, None]
    return torch.fft.irfft2(spectrum, s=size)[..., 2 * r :, 2 * r :]


def resize(images: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """To (h, w), antialiased. mode: area, bilinear or bicubic."""
    if images.shape[-2:] == size:
        return images
    if mode == "area":
        return F.interpolate(images, size=size, mode="area")
    return F.interpolate(images, size=size, mode=mode, align_corners=False, antialias=True)


def _random_resize(images: Tensor, base: tuple[int, int], stage: Stage, g: Generator) -> Tensor:
    """By a random factor of `base`, the HR size in the first stage and the LR size in
    the second.
    """
    way = _pick(stage.resize_probabilities, g)
    low, high = ((1.0, stage.resize[1]), (stage.resize[0], 1.0), (1.0, 1.0))[way]
    s = float(_uniform(1, low, high, g))
    mode = RESIZE_MODES[int(torch.randint(3, (1,), generator=g))]
    return resize(images, (max(8, round(base[0] * s)), max(8, round(base[1] * s))), mode)


def add_gaussian_noise(images: Tensor, sigma: Tensor, grey: Tensor, g: Generator) -> Tensor:
    """sigma: (B,) in [0, 1] units; grey: (B,) bool, one noise for all three channels."""
    b, _, h, w = images.shape
    noise = torch.randn(b, 3, h, w, generator=g)
    noise = torch.where(grey[:, None, None, None], noise[:, :1], noise)
    return images + (noise * sigma[:, None, None, None]).to(images)


def add_poisson_noise(images: Tensor, scale: Tensor, grey: Tensor, g: Generator) -> Tensor:
    """Shot noise with as many levels as the image has values; scale: (B,)."""
    x = (images.clamp(0, 1) * 255).round().cpu() / 255
    luma = x.mul(torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    out = []
    for image, y, is_grey in zip(x, luma, grey.tolist(), strict=True):
        source = (y * 255).round() / 255 if is_grey else image
        levels = 2.0 ** math.ceil(math.log2(max(2, len(source.unique()))))
        out.append(
            (torch.poisson(source * levels, generator=g) / levels - source).expand(3, -1, -1)
        )
    return images + (torch.stack(out) * scale[:, None, None, None]).to(images)


def _random_noise(images: Tensor, stage: Stage, g: Generator) -> Tensor:
    b = len(images)
    grey = torch.rand(b, generator=g) < stage.grey_probability
    if float(torch.rand(1, generator=g)) < stage.gaussian_probability:
        sigma = _uniform(b, *stage.gaussian_sigma, g) / 255
        return add_gaussian_noise(images, sigma, grey, g).clamp(0, 1)
    return add_poisson_noise(images, _uniform(b, *stage.poisson_scale, g), grey, g).clamp(0, 1)


def _random_jpeg(images: Tensor, quality: Range, g: Generator) -> Tensor:
    return jpeg(images, _uniform(len(images), *quality, g).round().to(images.device))


def _blur_and_resize(images: Tensor, base: tuple[int, int], stage: Stage, g: Generator) -> Tensor:
    if float(torch.rand(1, generator=g)) < stage.blur_probability:
        images = blur(images, torch.stack([random_kernel(stage, g) for _ in images])).clamp(0, 1)
    return _random_noise(_random_resize(images, base, stage, g), stage, g)


def degrade(images: Tensor, kind: str, generator: Generator, scale: int = 4) -> Tensor:
    """(B, 3, H, W) RGB in [0, 1], sides multiples of `scale` -> (B, 3, H/scale, W/scale), rounded
    to 8 bit.

    kind: a name of DEGRADATIONS. generator: a CPU generator; the only source of randomness.
    Raises PatchScalerError for an unknown kind.
    """
    if kind not in DEGRADATIONS:
        raise PatchScalerError(
            f"unknown degradation '{kind}': choose one of {', '.join(DEGRADATIONS)}"
        )
    d, g = DEGRADATIONS[kind], generator
    hr_size = (images.shape[-2], images.shape[-1])
    lr_size = (hr_size[0] // scale, hr_size[1] // scale)
    x = images
    if d.first is None:
        return (resize(x, lr_size, "bicubic").clamp(0, 1) * 255).round() / 255
    x = _random_jpeg(_blur_and_resize(x, hr_size, d.first, g), d.first.jpeg_quality, g)
    if d.second is not None and float(torch.rand(1, generator=g)) < d.second_probability:
        x = _blur_and_resize(x, lr_size, d.second, g)
    sinc = float(torch.rand(1, generator=g)) < d.final_sinc_probability
    kernels = torch.stack(
        [
            sinc_kernel(_side(d.final_sinc_sides, g), float(_uniform(1, math.pi / 3, math.pi, g)))
            for _ in x
        ]
    )
    mode = RESIZE_MODES[int(torch.randint(3, (1,), generator=g))]

    def shrink(x: Tensor) -> Tensor:
        x = resize(x, lr_size, mode)
        return (blur(x, kernels) if sinc else x).clamp(0, 1)

    if float(torch.rand(1, generator=g)) < 0.5:
        x = _random_jpeg(shrink(x), d.final_quality, g)
    else:
        x = shrink(_random_jpeg(x, d.final_quality, g))
    return (x.clamp(0, 1) * 255).round() / 255
