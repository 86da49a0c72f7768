"""Figure 1a: one simple, one medium and one hard patch after 1 ... N steps of unified sampling.

The paper's point is that a simple patch is as good as finished after a few steps. The number under
each picture is how far it still is from the last one, in grey levels.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from patchscaler.config import GROUP_NAMES
from patchscaler.diffusion.samplers import sample
from patchscaler.diffusion.schedule import group_timesteps
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.pairs import Failure
from patchscaler.models.patch_dit import Prompt
from patchscaler.pipeline import PatchScaler
from patchscaler.reproduce.chain import Restored, patch_pictures, refine_patches, restore
from patchscaler.reproduce.figures import FRAMES, WEIGHTS, draw, finished
from patchscaler.reproduce.pictures import Source
from patchscaler.reproduce.report import Report, Row
from patchscaler.reproduce.sheet import Cell, sheet

SHOWN = 8  # pictures of a row at most


@dataclass(frozen=True)
class Trajectory:
    """Patches on their way: pixels after each shown step."""

    steps: list[int]  # which steps are shown, from 1
    pictures: list[list[Image.Image]]  # by patch, by step
    distance: Tensor  # (n, steps shown) mean absolute difference to the last, in grey levels


def figure1a(
    model: PatchScaler,
    source: Source,
    out: Path,
    *,
    start: int = 1000,
    steps: int = 20,
    seed: int = 0,
) -> Report:
    """The paper's unified sampling (start 1000, 20 steps), then this model's own start in 1, 2, 4
    and 8 steps.
    """
    if not 1 <= steps <= start <= model.diffusion.num_train_timesteps:
        raise PatchScalerError(
            f"{steps} steps from time {start}: take 1 to {start}, and a time of 1 to 1000"
        )
    shown = sorted({round(1 + i * (steps - 1) / max(1, SHOWN - 1)) for i in range(SHOWN)})
    own = own_start(model)
    totals = [n for n in (1, 2, 4, 8) if n <= own]
    columns = {f"{i}": 2 for i in sorted({*shown, *totals})}
    report = Report(
        "figure1a", "Figure 1a: distance to the last step, in grey levels, by steps done", columns
    )
    rows, labels, failures = [], [], list(source.failures)
    for pair in source.pairs:
        try:
            restored = restore(model, pair.lr, seed=seed)
        except PatchScalerError as error:
            failures.append(Failure(pair.name, str(error)))
            continue
        index = easiest_middle_hardest(restored.scores)
        ways = [
            (
                f"of {steps} from t {start}",
                after_each_step(model, restored, index, start, steps, shown),
            )
        ]
        if own:
            ways.append(
                (f"in all from t {own}", after_each_total(model, restored, index, own, totals))
            )
        coarse = patch_pictures(model, restored.coarse[index])
        for i, place in enumerate(index.tolist()):
            group = int(restored.groups[place])
            for says, way in ways:
                row = [Cell(coarse[i], f"coarse, C {restored.scores[place]:.2f}", FRAMES[group])]
                row += [
                    Cell(p, f"{n}: {d:.2f}")
                    for p, n, d in zip(
                        way.pictures[i], way.steps, way.distance[i].tolist(), strict=True
                    )
                ]
                rows.append(row)
                labels.append(f"{pair.name} {GROUP_NAMES[group]}, {says}")
                here = {f"{n}": d for n, d in zip(way.steps, way.distance[i].tolist(), strict=True)}
                report.rows.append(Row(labels[-1], {}, here))
    if not rows:
        raise PatchScalerError(f"{source.name}: no patch could be drawn ({failures[0]})")
    report.differs = [
        WEIGHTS,
        "The paper's figure gives no numbers; distances to the last step are ours.",
        "The first kind of row is the paper's unified sampling run literally. This model was "
        "trained for "
        f"{_own_settings(model)}, so the second kind samples from its own start, with more steps "
        "each time.",
    ]
    report.figures.append(draw(sheet(rows, labels, largest=128), out / "figure1a.png"))
    return finished(report, source, failures)


def easiest_middle_hardest(scores: Tensor) -> Tensor:
    """(M,) confidences -> three patches (fewer where there are fewer), the surest first."""
    order = scores.argsort(descending=True, stable=True)
    return torch.stack([order[0], order[len(order) // 2], order[-1]]).unique_consecutive()


@torch.inference_mode()
def after_each_step(
    model: PatchScaler, restored: Restored, index: Tensor, start: int, steps: int, shown: list[int]
) -> Trajectory:
    """The network's x_0 after each of `shown` steps of one run, decoded; the last one is the
    result.
    """
    clean: list[Tensor] = []  # x_0 of each step, (n, C, V, V)
    y_0 = restored.coarse[index]
    denoise = model.denoiser(y_0, _prompt(model, y_0))
    every = torch.arange(len(y_0))

    def recorded(x_t: Tensor, t: Tensor) -> Tensor:
        clean.append(denoise(x_t, t, every))
        return clean[-1]

    times = torch.full((len(y_0),), start, device=y_0.device)
    x_t = model.diffusion.start_from_coarse(y_0, times, restored.noise[index])
    sample(recorded, x_t, group_timesteps(start, steps), model.diffusion, restored.config.sampler)
    return _trajectory(
        model, shown, [refine_patches(model, restored, index, clean[i - 1]) for i in shown]
    )


@torch.inference_mode()
def after_each_total(
    model: PatchScaler, restored: Restored, index: Tensor, start: int, totals: list[int]
) -> Trajectory:
    """The results of runs of 1, 2, 4 ... steps in all."""
    results = [after_each_step(model, restored, index, start, n, [n]) for n in totals]
    # (n, H, W, 3) each
    pixels = [torch.stack([_tensor(p[0]) for p in r.pictures]) for r in results]
    distance = torch.stack([(x - pixels[-1]).abs().mean((1, 2, 3)) for x in pixels], 1)
    return Trajectory(
        totals, [[r.pictures[i][0] for r in results] for i in range(len(index))], distance
    )


def own_start(model: PatchScaler) -> int:
    """Where this model's hard patches start; 0 where nothing is sampled."""
    groups = model.config.groups
    return groups.start_times[2] if groups.num_inference_steps[2] else 0


def _own_settings(model: PatchScaler) -> str:
    groups = model.config.groups
    return f"T {groups.start_times} and N {groups.num_inference_steps}"


def _prompt(model: PatchScaler, y_0: Tensor) -> Prompt | None:
    return model.texture_prompt(y_0)[0] if model.memory else None


def _trajectory(model: PatchScaler, shown: list[int], latents: list[Tensor]) -> Trajectory:
    pictures = [patch_pictures(model, x) for x in latents]  # by step, by patch
    pixels = [torch.stack([_tensor(p) for p in step]) for step in pictures]
    # (n, steps)
    distance = torch.stack([(x - pixels[-1]).abs().mean((1, 2, 3)) for x in pixels], 1)
    return Trajectory(shown, [list(p) for p in zip(*pictures, strict=True)], distance)


def _tensor(picture: Image.Image) -> Tensor:
    """(H, W, 3) float, 0..255."""
    return (
        torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        .reshape(*picture.size[::-1], 3)
        .float()
    )
