"""Figure 1a: patches on their way through the steps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from patchscaler.config import GROUP_NAMES
from patchscaler.diffusion.groups import HARD
from patchscaler.diffusion.schedule import group_timesteps
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.pairs import Failure
from patchscaler.model import Model
from patchscaler.pipeline import PatchScaler
from patchscaler.reproduce.chain import Restored, patch_images, restore
from patchscaler.reproduce.figures import FRAMES, draw, each, finished
from patchscaler.reproduce.report import WEIGHTS, Report, Row
from patchscaler.reproduce.sheet import Cell, sheet
from patchscaler.reproduce.sources import Source

SHOWN = 8  # images of a row at most


@dataclass(frozen=True)
class Trajectory:
    """Patches after each shown step."""

    steps: Sequence[int]  # from 1
    images: list[list[Image.Image]]  # by step, by patch
    distance: np.ndarray  # (steps, n) mean absolute difference to the last, in levels


def figure1a(
    pipeline: PatchScaler,
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
    model = pipeline.model
    if not 1 <= steps <= start <= model.diffusion.num_train_timesteps:
        raise PatchScalerError(
            f"{steps} steps from timestep {start}: take 1 to {start}, and a start of 1 to 1000"
        )
    shown = sorted({round(1 + i * (steps - 1) / max(1, SHOWN - 1)) for i in range(SHOWN)})
    groups = model.config.groups
    own = groups.start_times[HARD] if groups.num_inference_steps[HARD] else 0
    totals = [n for n in (1, 2, 4, 8) if n <= own]
    columns = {f"{i}": 2 for i in sorted({*shown, *totals})}
    title = "Figure 1a: distance to the last step, in levels, by steps done"
    report = Report("figure1a", title, columns)
    rows, failures = [], list[Failure]()
    for pair, restored in each(source, lambda lr: restore(model, lr, seed=seed), failures):
        index = easiest_middle_hardest(restored.scores)
        ways = {
            f"of {steps} from t {start}": after_steps(model, restored, index, start, steps, shown)
        }
        if totals:
            ways[f"in all from t {own}"] = after_totals(model, restored, index, own, totals)
        coarse = patch_images(model, restored.coarse[index])
        for i, place in enumerate(index.tolist()):
            group = int(restored.groups[place])
            for name, way in ways.items():
                here = {
                    f"{n}": float(d) for n, d in zip(way.steps, way.distance[:, i], strict=True)
                }
                row = [Cell(coarse[i], f"coarse, C {restored.scores[place]:.2f}", FRAMES[group])]
                row += [
                    Cell(images[i], f"{n}: {here[f'{n}']:.2f}")
                    for images, n in zip(way.images, way.steps, strict=True)
                ]
                rows.append(row)
                report.rows.append(Row(f"{pair.name} {GROUP_NAMES[group]}, {name}", {}, here))
    report.differs = [
        WEIGHTS,
        "The paper's figure gives no numbers; distances to the last step are ours.",
        "The first kind of row is the paper's unified sampling run literally. This model was "
        f"trained for T {groups.start_times} and N {groups.num_inference_steps}, so the second "
        "kind samples from its own start, with more steps each time.",
    ]
    labels = [row.label for row in report.rows]
    report.figures.append(draw(sheet(rows, labels, largest=128), out / "figure1a.png"))
    return finished(report, source, failures)


def easiest_middle_hardest(scores: Tensor) -> Tensor:
    """(M,) confidences -> three patches (fewer where there are fewer), the surest first."""
    order = scores.argsort(descending=True, stable=True)
    return torch.stack([order[0], order[len(order) // 2], order[-1]]).unique_consecutive()


def after_steps(
    model: Model,
    restored: Restored,
    index: Tensor,
    start: int,
    steps: int,
    shown: Sequence[int],
) -> Trajectory:
    """x_0 after each of `shown` steps of one run; the last one is the result."""
    function = region_steps if model.denoiser is not None else patch_steps
    clean = function(model, restored, index, start, steps, shown)
    return trajectory(shown, [patch_images(model, x_0) for x_0 in clean])


def after_totals(
    model: Model, restored: Restored, index: Tensor, start: int, totals: Sequence[int]
) -> Trajectory:
    """The results of runs of 1, 2, 4 ... steps in all."""
    runs = [after_steps(model, restored, index, start, n, [n]) for n in totals]
    return trajectory(totals, [run.images[0] for run in runs])


def trajectory(steps: Sequence[int], images: list[list[Image.Image]]) -> Trajectory:
    pixels = np.stack([[np.asarray(x, float) for x in step] for step in images])
    return Trajectory(steps, images, np.abs(pixels - pixels[-1]).mean((2, 3, 4)))


@torch.inference_mode()
def patch_steps(
    model: Model, restored: Restored, index: Tensor, start: int, steps: int, shown: Sequence[int]
) -> list[Tensor]:
    """Patch-DiT: its output at each step of one run -> x_0 (n, C, V, V) each, by a hook."""
    clean: list[Tensor] = []

    def keep(network: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x_t, t, y_0 = inputs[:3]
        clean.append(model.diffusion.to_x_0(output.float(), x_t, t, y_0))

    groups = model.config.groups
    config = replace(groups, start_times=(start,) * 3, num_inference_steps=(steps,) * 3)
    hook = model.patch_dit.register_forward_hook(keep)
    try:
        hard = torch.full((len(index),), HARD)
        coarse, noise = restored.coarse[index], restored.noise[index]
        model.denoise_patches(coarse, noise, hard, config, prompt=model.top_k > 0)
    finally:
        hook.remove()
    return [clean[n - 1] for n in shown]


@torch.inference_mode()
def region_steps(
    model: Model, restored: Restored, index: Tensor, start: int, steps: int, shown: Sequence[int]
) -> list[Tensor]:
    """The RRDB denoiser on each patch as a region of its own: runs that stop after n steps."""
    v, s = restored.grid.size, model.step
    corners, timesteps = restored.grid.corners(), group_timesteps(start, steps)
    out = []
    for n in shown:
        x_0 = []
        for i in index.tolist():
            y, x = (s * side for side in corners[i])
            lr = restored.lr[:, y : y + s * v, x : x + s * v]
            stop = [*timesteps[:n], 0]
            x_0.append(model.denoise_region(restored.coarse[i], restored.noise[i], lr, stop, False))
        out.append(torch.stack(x_0))
    return out
