"""What encoding and decoding alone costs: originals -> latents -> pictures, with nothing in
between.

No sampler can be better than this, and what a decoder does badly here (seams of its blocks, shifted
colours, errors of latents made larger) no sampler can fix.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.fidelity import psnr
from patchscaler.evaluation.pairs import Pair
from patchscaler.images.planes import array_planes, reflect_pad
from patchscaler.models.autoencoder import Autoencoder

NOISE_PSNR = 26.0  # dB of noise in latents, decoded alone: about what a sampler errs by
FLAT = 2.0  # grey levels: a block of the original that deviates less from its mean is flat
SIDE, RUNS = 512, 5  # of the picture that is timed


@dataclass
class RoundTrip:
    """Of each picture, in the order of `names`; edges are of all together."""

    names: list[str] = field(default_factory=list)
    # dB, R, G, B of 8 bits, decoded against original
    psnr: list[float] = field(default_factory=list)
    # of the mean colour, the channel it is largest in, grey levels
    shifts: list[float] = field(default_factory=list)
    # dB, decoded noisy latents against decoded latents
    noise_psnr: list[float] = field(default_factory=list)
    noisy_psnr: list[float] = field(default_factory=list)  # dB, the same against the original
    # Sums and counts of gradients: (original, decoded) x (whole, flat) x (borders, elsewhere) x
    # (sum, count)
    edges: np.ndarray = field(default_factory=lambda: np.zeros((2, 2, 2, 2)))
    flat_blocks: int = 0
    blocks: int = 0
    block: int = 0  # pixels a side
    seconds: float = 0.0  # encoding and decoding SIDE x SIDE pixels, median
    where: str = ""  # device and threads of the seconds

    def edge_ratio(self, decoded: bool, flat: bool) -> float:
        """Mean gradient at the borders of blocks over that elsewhere: 1 where blocks cannot be
        seen. NaN for none.
        """
        (border, n), (inside, m) = self.edges[int(decoded), int(flat)]
        return float(border / n / (inside / m)) if n and m and inside else float("nan")


@torch.inference_mode()
def round_trip(
    autoencoder: Autoencoder, pairs: Sequence[Pair], *, seed: int = 0, device: str = "cpu"
) -> RoundTrip:
    """Every original there and back. seed: of the noise.

    Raises PatchScalerError where a pair has no original.
    """
    found = RoundTrip(block=autoencoder.factor)
    for pair in pairs:
        hr = pair.hr
        if hr is None:
            raise PatchScalerError(f"{pair.name}: has no original to encode; give --hr")
        height, width = hr.shape[:2]
        padded = [-(-side // found.block) * found.block for side in (height, width)]
        # (1, C, h, w)
        latents = autoencoder.encode(reflect_pad(array_planes(hr).rgb, *padded)[None].to(device))
        # (1, 3, H, W), with the padding, which the noise is as large with
        clean = autoencoder.decode(latents)
        noisy = autoencoder.decode(latents + noise_of(autoencoder, latents, seed))
        decoded, noisy_bytes = (to_bytes(x)[:height, :width] for x in (clean, noisy))
        found.names.append(pair.name)
        found.psnr.append(psnr(decoded, hr, "rgb"))
        found.shifts.append(float(np.abs(decoded.mean((0, 1)) - hr.mean((0, 1))).max()))
        found.noise_psnr.append(_tensor_psnr(noisy - clean))
        found.noisy_psnr.append(psnr(noisy_bytes, hr, "rgb"))
        flat = flat_blocks(hr, found.block)
        found.flat_blocks, found.blocks = (
            found.flat_blocks + int(flat.sum()),
            found.blocks + flat.size,
        )
        for i, picture in enumerate((hr, decoded)):
            found.edges[i, 0] += edge_sums(picture, found.block)
            found.edges[i, 1] += edge_sums(picture, found.block, flat)
    found.seconds = seconds_of(autoencoder, device)
    found.where = f"{device}, {torch.get_num_threads()} threads"
    return found


def to_bytes(images: Tensor) -> np.ndarray:
    """(1, 3, H, W) in [-1, 1] -> (H, W, 3) uint8."""
    return ((images[0] + 1) * 127.5).round().clamp(0, 255).byte().movedim(0, -1).cpu().numpy()


# --- noise ----------------------------------------------------------------------------------------


def noise_of(autoencoder: Autoencoder, latents: Tensor, seed: int = 0) -> Tensor:
    """White noise in latents, as large as makes decode(noise) - decode(0) an error of NOISE_PSNR.

    latents: (1, C, h, w), whose shape it has. Raises PatchScalerError where no noise is large
    enough.
    """
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)
    still = autoencoder.decode(torch.zeros_like(latents))
    scale = 1.0
    # one is enough for a linear decoder; others are nearly linear for small noise
    for _ in range(50):
        # dB it is too quiet
        apart = NOISE_PSNR - _tensor_psnr(autoencoder.decode(scale * noise) - still)
        if not np.isfinite(apart):
            break
        if abs(apart) < 1e-3:
            return scale * noise
        scale *= 10 ** (-apart / 20)
    raise PatchScalerError(
        f"no noise in latents is {NOISE_PSNR:g} dB decoded: is this autoencoder trained?"
    )


def _tensor_psnr(error: Tensor) -> float:
    """Of an error in pixels of -1..1, not clamped."""
    mean = float(error.double().square().mean())
    return float("inf") if mean == 0 else float(10 * np.log10(4 / mean))


# --- edges of blocks ------------------------------------------------------------------------------


def flat_blocks(picture: np.ndarray, block: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (H // block, W // block) bool: blocks whose standard deviation is below
    FLAT grey levels.

    The deviation is from the block's own mean colour, its root mean square over pixels and
    channels.
    """
    h, w = picture.shape[0] // block, picture.shape[1] // block
    blocks = picture[: h * block, : w * block].astype(np.float64).reshape(h, block, w, block, 3)
    return np.sqrt(blocks.var((1, 3)).mean(-1)) < FLAT


def edge_sums(picture: np.ndarray, block: int, flat: np.ndarray | None = None) -> np.ndarray:
    """Absolute differences of neighbouring pixels, mean of R, G, B: (borders of blocks, elsewhere)
    x (sum, count).

    picture: (H, W, 3) uint8. flat: of `flat_blocks`; both pixels then have to be in one.
    """
    out = np.zeros((2, 2))
    x = picture.astype(np.float64)
    inside = np.ones(x.shape[:2], bool)
    if flat is not None:
        inside[:] = False
        whole = flat.repeat(block, 0).repeat(block, 1)
        inside[: whole.shape[0], : whole.shape[1]] = whole
    for axis in (0, 1):
        gradient = np.moveaxis(np.abs(np.diff(x, axis=axis)).mean(2), axis, 0)  # (n - 1, m)
        seen = np.moveaxis(inside, axis, 0)
        both = seen[1:] & seen[:-1]
        at_border = (np.arange(len(gradient)) + 1) % block == 0
        for i, rows in enumerate((at_border, ~at_border)):
            out[i] += gradient[rows][both[rows]].sum(), both[rows].sum()
    return out


# --- cost and words -------------------------------------------------------------------------------


def seconds_of(autoencoder: Autoencoder, device: str = "cpu") -> float:
    """Median wall time of encoding and decoding one picture of SIDE x SIDE pixels,
    after a warm-up.
    """
    picture = (
        torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(device) * 2 - 1
    )
    times = []
    for _ in range(RUNS + 1):
        began = time.perf_counter()
        autoencoder.decode(autoencoder.encode(picture)).cpu()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def round_trip_lines(found: RoundTrip) -> list[str]:
    """For people."""
    worst = int(np.argmin(found.psnr))
    moved = int(np.argmax(found.shifts))
    loss = (NOISE_PSNR - np.array(found.noise_psnr)).round(2) + 0.0  # no -0.00
    most = int(loss.argmax())
    share = found.flat_blocks / max(1, found.blocks)
    return [
        f"{len(found.names)} pictures, encoded and decoded, 8 bits, against themselves",
        f"PSNR of RGB: mean {np.mean(found.psnr):.2f} dB, worst {found.psnr[worst]:.2f} dB "
        f"({found.names[worst]})",
        f"gradient at the borders of {found.block}-pixel blocks over that elsewhere: "
        f"{_edge_text(found, False)}",
        f"the same in flat areas ({share:.1%} of the blocks deviate by less than {FLAT:g} grey "
        "levels): "
        f"{_edge_text(found, True)}",
        f"largest shift of a picture's mean colour: {found.shifts[moved]:.3f} grey levels "
        f"({found.names[moved]})",
        f"loss by noise in latents that is {NOISE_PSNR:g} dB decoded alone: mean "
        f"{loss.mean():.2f} dB, most "
        f"{loss[most]:.2f} dB ({found.names[most]}); the noisy pictures are "
        f"{np.mean(found.noisy_psnr):.2f} dB "
        "from the originals",
        f"{SIDE}x{SIDE} encoded and decoded in {found.seconds:.3f} s (median of {RUNS}; "
        f"{found.where})",
    ]


def _edge_text(found: RoundTrip, flat: bool) -> str:
    original, decoded = found.edge_ratio(False, flat), found.edge_ratio(True, flat)
    if not np.isfinite(original) or not np.isfinite(decoded) or original == 0:
        return "not to be had, there are no such gradients"
    return f"{decoded / original:.3f} of the original's ({decoded:.3f}, original {original:.3f})"
