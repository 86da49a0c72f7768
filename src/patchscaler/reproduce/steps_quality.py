"""Quality against steps: every medium and hard patch in N steps. An experiment of ours, the paper
has none like it.

Table 4 changes start times and steps of groups together; here nothing but the number of steps
changes, so the rows of one set tell what a further step brings, and what it costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from patchscaler.config import GroupConfig
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.compare import Comparison, compare_methods
from patchscaler.evaluation.comparison_report import MEANING
from patchscaler.evaluation.methods import PatchScalerMethod
from patchscaler.evaluation.metric import Metric
from patchscaler.evaluation.run import resolve_metrics
from patchscaler.evaluation.sets import PictureSet
from patchscaler.evaluation.sets_report import shared_notes
from patchscaler.evaluation.summary import common_means, method_line
from patchscaler.images.write import save_image
from patchscaler.pipeline import PatchScaler
from patchscaler.reproduce.quality import Measuring
from patchscaler.reproduce.report import Report, Row
from patchscaler.sampling_options import group_settings

METRICS = ("lpips-alex", "dists", "psnr-y")
SHIPPED = "as shipped"


@dataclass(frozen=True)
class Setting:
    """One row of each set. steps: of medium and hard patches alike; None where the model's own two
    differ.
    """

    name: str
    steps: int | None
    groups: GroupConfig
    shipped: bool


def settings_of(stored: GroupConfig, counts: Sequence[int]) -> list[Setting]:
    """Every count once, smallest first, and the model's own steps, as a row of their own where the
    groups differ.

    Simple patches keep what the model gives them. Raises PatchScalerError for more steps than there
    are times.
    """
    simple, medium, hard = stored.num_inference_steps
    wanted = sorted({*counts, medium} if medium == hard else set(counts))
    found = []
    for n in wanted:
        groups = group_settings(steps=f"{simple},{n},{n}")(stored)
        found.append(Setting(f"steps {n}", n, groups, groups == stored))
    if medium != hard:
        found.append(
            Setting("steps " + "/".join(map(str, stored.num_inference_steps)), None, stored, True)
        )
    return found


def steps_quality(
    model: PatchScaler,
    sets: Sequence[PictureSet],
    counts: Sequence[int],
    measuring: Measuring,
    seed: int = 0,
) -> Report:
    """A row a set and number of steps, and the plot.

    Records lie in OUT/steps, and a run goes on where it stopped.
    """
    figure_class()  # before hours of measuring, not after them
    found, missing = resolve_metrics(measuring.metrics or METRICS, device=measuring.device)
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        raise PatchScalerError(f"none of the metrics is to be had: {reasons}")
    settings = settings_of(model.config.groups, counts)
    methods = [PatchScalerMethod(model, s.name, groups=s.groups, seed=seed) for s in settings]
    comparisons = compare_methods(
        methods,
        sets,
        found,
        measuring.out / "steps",
        missing=missing,
        progress=lambda method, done, total, name: measuring.say(
            f"{method}: {done}/{total} {name}"
        ),
    )
    columns = {f"{m.name} {m.arrow}": m.digits for m in found} | {"evaluations": 1, "seconds": 3}
    report = Report(
        "steps", "Quality against steps of medium and hard patches (ours, not the paper's)", columns
    )
    for comparison, pictures in zip(comparisons, sets, strict=True):
        report.rows += _rows(comparison, pictures, settings, found)
        report.failures += [f"{pictures.title}: {failure}" for failure in comparison.failures]
        data = comparison.evaluations[0].data
        report.data.append({"set": pictures.name, "degradation": pictures.degradation} | data)
    # one model: the first line says which
    others = {method_line(e) for e in comparisons[0].evaluations[1:]}
    report.protocol = [
        line
        for line in shared_notes(comparisons, sets)
        if line not in others and line != MEANING and "failed: " not in line
    ]
    report.protocol.append(
        "seconds: median wall time of a picture; evaluations: of the diffusion network, mean of a "
        "picture"
    )
    if model.refiner is not None and 0 in [s.steps for s in settings]:
        report.protocol.append(
            "steps 0: patches that take no step are not drawn either, so the way from 0 to 1 is "
            "the "
            "step's and the refiner's together"
        )
    report.details = {
        "settings": [{"name": s.name, "shipped": s.shipped} | vars(s.groups) for s in settings]
    }
    file = measuring.out / "steps.png"
    save_image(plot(report.rows, [pictures.title for pictures in sets], settings, found), file)
    report.figures.append(str(file))
    return report


def _rows(
    comparison: Comparison,
    pictures: PictureSet,
    settings: Sequence[Setting],
    metrics: Sequence[Metric],
) -> list[Row]:
    rows = []
    means, _ = common_means(comparison.evaluations)  # over the pictures that every row has
    for setting, mean in zip(settings, means, strict=True):
        cost = comparison.costs[setting.name]
        here = {f"{m.name} {m.arrow}": mean[m.name] for m in metrics if m.name in mean}
        here |= {"evaluations": cost.evaluations} if cost.evaluations is not None else {}
        here |= {"seconds": cost.seconds} if cost.seconds is not None else {}
        rows.append(
            Row(f"{pictures.title}: {setting.name}", {}, here, SHIPPED if setting.shipped else "")
        )
    return rows


# --- the plot -------------------------------------------------------------------------------------


def figure_class() -> tuple[Any, Any]:
    """matplotlib's Figure and its canvas. Raises PatchScalerError where it is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PatchScalerError(
            "the plot needs matplotlib: pip install 'patchscaler[plots]'"
        ) from error
    return Figure, FigureCanvasAgg


def plot(
    rows: Sequence[Row],
    titles: Sequence[str],
    settings: Sequence[Setting],
    metrics: Sequence[Metric],
) -> Any:
    """A panel a metric, a line a set; the model's own steps are a star, or a dashed line where its
    groups differ.

    rows: set by set, in the order of `settings`. -> PIL image.
    """
    figure_of, canvas_of = figure_class()
    figure = figure_of(figsize=(4 * len(metrics), 3.6), dpi=100, layout="constrained")
    counted = [s for s in settings if s.steps is not None]
    places = range(len(counted))  # evenly: 0 has no place on a logarithmic axis
    for axes, metric in zip(
        figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True
    ):
        column = f"{metric.name} {metric.arrow}"
        for i, title in enumerate(titles):
            own = rows[i * len(settings) : (i + 1) * len(settings)]
            values = [row.here.get(column, np.nan) for row in own]
            axes.plot(
                places, values[: len(counted)], marker="o", markersize=4, color=f"C{i}", label=title
            )
            for place, (setting, value) in enumerate(zip(settings, values, strict=True)):
                label = SHIPPED if i == 0 else None
                if setting.shipped and setting.steps is not None:
                    axes.plot(
                        [place],
                        [value],
                        marker="*",
                        markersize=14,
                        color=f"C{i}",
                        linestyle="",
                        label=label,
                    )
                elif setting.shipped:
                    axes.axhline(value, color=f"C{i}", linestyle="--", linewidth=1, label=label)
        axes.set(title=column, xlabel="steps of medium and hard patches")
        axes.set_xticks(places, [str(s.steps) for s in counted])
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    canvas = canvas_of(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
