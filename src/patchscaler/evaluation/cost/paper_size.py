"""Table 3: the time of the paper's sizes, 256 -> 1024 and 512 -> 2048, on the device that is here.

No trained weights are needed. What the paper does not give is assumed and said in the output: of
the patches only "50 % have a confidence of .70 to 1.0" is known (B.1), so they are taken as spread
evenly over that range.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from patchscaler.config import GROUP_NAMES, GroupConfig
from patchscaler.diffusion.groups import patch_confidence, thresholds_for
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.cost.flops import NetworkFlops, network_flops
from patchscaler.evaluation.cost.measure import measure_picture
from patchscaler.evaluation.cost.paper_networks import (
    PAPER_METHODS,
    Part,
    autoencoder_flops,
    paper_model,
)
from patchscaler.evaluation.cost.pictures import synthetic_photo
from patchscaler.evaluation.cost.timing import matmul_peak, measure
from patchscaler.images.planes import to_planes
from patchscaler.patching import make_grid
from patchscaler.pipeline import PatchScaler

# The paper's Table 3: seconds on one A100; PatchScaler's second figure is on two.
PAPER_SECONDS: dict[int, dict[str, float]] = {
    256: {
        "SwinIR-GAN": 0.30,
        "LDM": 5.14,
        "StableSR": 7.27,
        "ResShift": 1.44,
        "DiffBIR": 19.43,
        "PASD": 6.06,
        "PatchScaler": 1.29,
        "PatchScaler, two devices": 0.88,
    },
    512: {
        "SwinIR-GAN": 1.55,
        "LDM": 25.82,
        "StableSR": 35.22,
        "ResShift": 14.89,
        "DiffBIR": 78.12,
        "PASD": 59.03,
        "PatchScaler": 3.41,
        "PatchScaler, two devices": 2.26,
    },
}
ABOVE_70 = 0.5  # share of the patches whose confidence is .70 or more (B.1, Figure 5)


def paper_shares(thresholds: tuple[float, float] = (0.95, 0.75)) -> tuple[float, float]:
    """Shares of simple and of simple + medium patches, the half above .70 spread evenly up to 1."""
    simple, easy = (ABOVE_70 * (1 - t) / (1 - 0.70) for t in thresholds)
    if not 0.70 <= thresholds[1] <= thresholds[0] <= 1:
        raise PatchScalerError("the paper says nothing of confidences below .70")
    return simple, easy


def assumptions(shares: tuple[float, float]) -> list[str]:
    """What stands in for the paper's, in words, for every output."""
    groups = (shares[0], shares[1] - shares[0], 1 - shares[1])
    parts = ", ".join(
        f"{name} {share:.1%}" for name, share in zip(GROUP_NAMES, groups, strict=True)
    )
    return [
        "random weights: times do not depend on their values, pictures would be noise",
        f"groups {parts}: .5 of the patches above confidence .70 (the paper's B.1), spread "
        "evenly up to 1 (ours)",
        "autoencoder: Stable Diffusion's KL-f8; Patch-DiT: DiT-B; 8, 14 and 20 steps; overlap 8; "
        "K = 4 textures",
    ]


@torch.inference_mode()
def groups_with_shares(
    model: PatchScaler, picture: np.ndarray, shares: tuple[float, float]
) -> GroupConfig:
    """Thresholds on this model's confidence of this picture that part its patches by
    these shares.
    """
    lr = to_planes(picture).rgb[None].to(model.device)  # (1, 3, h, w)
    with model.autocast():
        _, confidence = model.grm(lr, model.autoencoder)
    groups = model.config.groups
    height, width = confidence.shape[-2:]
    grid = make_grid(height, width, groups.latent_patch_size, groups.overlap)
    scores = patch_confidence(confidence[0].float(), grid).cpu()
    if not scores.isfinite().all():
        raise PatchScalerError(
            f"random weights overflow in {model.dtype}: take --dtype bfloat16 or float32"
        )
    return replace(groups, thresholds=thresholds_for(scores, shares))


@dataclass
class PaperRow:
    """One method at one size."""

    size: int
    method: str
    seconds: float
    how: str  # "measured", or from what it was extrapolated
    flops: int
    paper_seconds: float | None  # on an A100
    stages: dict[str, float] = field(default_factory=dict)
    patches: dict[str, int] = field(default_factory=dict)
    evaluations: dict[str, int] = field(default_factory=dict)
    share_of_peak: float = 0.0


def paper_rows(
    sizes: Sequence[int],
    device: str,
    dtype: torch.dtype,
    runs: int,
    extrapolate_from: int = 0,
    batch: int = 4,
) -> tuple[list[PaperRow], dict[str, str], float]:
    """-> rows, the methods that are unavailable with reason and hint, FLOP/s of the device's matmul
    peak.

    extrapolate_from: an LR side at which each network is run once per batch, its seconds then
    multiplied by the ratio of FLOPs and the exact number of calls; 0 measures everything in full.
    batch: patches of such a run.
    """
    peak = matmul_peak(device, dtype)
    rows: list[PaperRow] = []
    unavailable: dict[str, str] = {}
    model = paper_model(device, dtype)
    for size in sizes:
        row = (
            _extrapolate_ours(model, size, runs, extrapolate_from, batch)
            if extrapolate_from
            else _measure_ours(model, size, runs)
        )
        rows.append(row)
    del model
    for name, build in PAPER_METHODS.items():
        try:
            parts = build()
        except PatchScalerError as error:
            unavailable[name] = str(error)
            continue
        rows += _time_parts(name, parts, sizes, device, dtype, runs, extrapolate_from)
    peak = max(peak, matmul_peak(device, dtype))
    for row in rows:
        row.share_of_peak = row.flops / row.seconds / peak
    return sorted(rows, key=lambda r: r.size), unavailable, peak


def _paper_seconds(size: int, method: str) -> float | None:
    return PAPER_SECONDS.get(size, {}).get(method)


def _flops_at(model: PatchScaler, size: int, probe: int) -> NetworkFlops:
    """Networks on patches are counted on the device, those on pictures without computing, at the
    full size.
    """
    counted = network_flops(model, probe, probe)
    coarse, decode = autoencoder_flops(model.config, size)
    return replace(counted, coarse=coarse, decode=decode)


def _measure_ours(model: PatchScaler, size: int, runs: int) -> PaperRow:
    picture = synthetic_photo(size)
    groups = groups_with_shares(model, picture, paper_shares())
    measured = measure_picture(model, picture, runs, groups)
    flops = _flops_at(model, size, probe=32).of_picture(measured.cost)["total"]
    return PaperRow(
        size,
        "PatchScaler",
        measured.seconds.median,
        "measured",
        flops,
        _paper_seconds(size, "PatchScaler"),
        measured.stages,
        measured.patches,
        measured.evaluations,
    )


def _extrapolate_ours(model: PatchScaler, size: int, runs: int, probe: int, batch: int) -> PaperRow:
    """Each stage once at the probe's size or for one batch of patches, times what the full size has
    of it.
    """
    config, v = model.config.groups, model.config.groups.latent_patch_size
    side = model.config.scale * size // model.autoencoder.factor
    count = len(make_grid(side, side, v, config.overlap))
    simple, easy = (round(share * count) for share in paper_shares())
    patches = dict(zip(GROUP_NAMES, (simple, easy - simple, count - easy), strict=True))
    steps = dict(zip(GROUP_NAMES, config.num_inference_steps, strict=True))
    evaluations = {name: patches[name] * steps[name] for name in GROUP_NAMES}
    total = sum(evaluations.values())
    cost = {"patches": patches, "evaluations": evaluations, "evaluations_total": total}
    small, full = network_flops(model, probe, probe), _flops_at(model, size, probe)
    stage_seconds = _stage_seconds(model, runs, probe, batch)
    sampled = sum(patches[name] for name in GROUP_NAMES if steps[name])
    stages = {
        "coarse": stage_seconds["coarse"] * full.coarse / small.coarse,
        "prompt": stage_seconds["prompt"] / batch * sampled,
        "sampling": stage_seconds["sampling"] / batch * total,
        "decode": stage_seconds["decode"] * full.decode / small.decode,
    }
    how = (
        f"extrapolated: networks on pictures from {probe}->{4 * probe} by FLOPs, networks on "
        "patches from "
        f"batches of {batch} by their number"
    )
    return PaperRow(
        size,
        "PatchScaler",
        sum(stages.values()),
        how,
        full.of_picture(cost)["total"],
        _paper_seconds(size, "PatchScaler"),
        stages,
        patches,
        evaluations,
    )


@torch.inference_mode()
def _stage_seconds(model: PatchScaler, runs: int, probe: int, batch: int) -> dict[str, float]:
    """Medians: coarse and decode of a (probe, probe) picture, prompt and one evaluation of a batch
    of patches.
    """
    v, device = model.config.groups.latent_patch_size, model.device
    lr = to_planes(synthetic_photo(probe)).rgb[None].to(device)  # (1, 3, h, w)

    def coarse() -> Any:
        with model.autocast():
            return model.grm(lr, model.autoencoder)[0].float()

    latents = coarse()  # (1, C, H, W)
    y_0 = torch.zeros(batch, model.autoencoder.channels, v, v, device=device)  # (N, C, V, V)
    t = torch.full((batch,), 400, device=device)
    prompt = model.texture_prompt(y_0)[0]

    def evaluate() -> Any:
        with model.autocast():
            return model.patch_dit(y_0, t, y_0, prompt)

    functions = {
        "coarse": coarse,
        "prompt": lambda: model.texture_prompt(y_0),
        "sampling": evaluate,
        "decode": lambda: model.autoencoder.decode(latents),
    }
    return {name: measure(function, runs, device).median for name, function in functions.items()}


def _time_parts(
    name: str,
    parts: list[Part],
    sizes: Sequence[int],
    device: str,
    dtype: torch.dtype,
    runs: int,
    probe: int,
) -> list[PaperRow]:
    """Another method's networks: in full, or once at the probe's size."""
    seconds: dict[tuple[str, int], float] = {}  # of all calls
    for part in parts:
        part.network.to(device)
        for size in [probe] if probe else sizes:
            calls = 1 if probe else part.calls

            def run(part: Part = part, size: int = size, calls: int = calls) -> None:
                for _ in range(calls):
                    part.run(size, device, dtype)

            seconds[part.name, size] = measure(run, runs, device).median
        part.network.to("meta")  # now it is only counted
    rows = []
    for size in sizes:
        flops = {part.name: part.flops(size) * part.calls for part in parts}
        stages = {
            part.name: seconds[part.name, probe] * flops[part.name] / part.flops(probe)
            if probe
            else seconds[part.name, size]
            for part in parts
        }
        how = f"extrapolated from {probe}->{4 * probe} by FLOPs" if probe else "measured"
        total = sum(flops.values())
        rows.append(
            PaperRow(
                size, name, sum(stages.values()), how, total, _paper_seconds(size, name), stages
            )
        )
    return rows
