"""A comparison -> one table of quality and cost for the terminal, JSON, CSV, and HTML with crops in
a row.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from patchscaler.evaluation import html_report, report
from patchscaler.evaluation.compare import Comparison, MethodCost
from patchscaler.evaluation.cost.report import table
from patchscaler.evaluation.crops import Crop, choose_crops
from patchscaler.evaluation.metric import Metric
from patchscaler.evaluation.pairs import Pair
from patchscaler.evaluation.run import plain
from patchscaler.evaluation.summary import common_means, metrics_of, notes
from patchscaler.images.write import replacing

FORMAT = "patchscaler-comparison-1"
COSTS = ("s/picture", "warm-up s", "MP/s", "peak MiB", "GPU MiB", "evaluations")
MEANING = (
    "s/picture: median wall time, warm-up apart; MP/s: of output; peak MiB: of a process of its "
    "own that loads the "
    "method and enlarges the largest picture; evaluations: of the diffusion network, mean of a "
    "picture"
)


def _cost_cells(cost: MethodCost) -> list[str]:
    def number(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    return [
        number(cost.seconds, 3),
        number(cost.warm_up, 3),
        number(cost.megapixels_per_second, 3),
        number(cost.peak_mib, 0),
        number(cost.cuda_mib, 0),
        number(cost.evaluations, 1),
    ]


def side_by_side(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Head and rows: quality first, then cost; columns that nobody has anything in are left out."""
    metrics, (means, counts) = (
        metrics_of(comparison.evaluations),
        common_means(comparison.evaluations),
    )
    shown = [m for m in metrics if counts[m.name]]
    head = ["method", "n", *(f"{m.name} {m.arrow}" for m in shown), *COSTS]
    rows = []
    for evaluation, mean in zip(comparison.evaluations, means, strict=True):
        scores = [f"{mean[m.name]:.{m.digits}f}" if m.name in mean else "-" for m in shown]
        cost = _cost_cells(comparison.costs[evaluation.method])
        rows.append([evaluation.method, str(len(evaluation.rows)), *scores, *cost])
    kept = [i for i in range(len(head)) if i < 2 or any(row[i] != "-" for row in rows)]
    return [head[i] for i in kept], [[row[i] for i in kept] for row in rows]


def all_notes(comparison: Comparison) -> list[str]:
    """What the figures mean, what is missing, what failed."""
    out = [line for line in notes(comparison.evaluations) if not line.startswith("s/picture")] + [
        MEANING
    ]
    out += [f"unavailable: {name}: {reason}" for name, reason in comparison.unavailable.items()]
    for name, cost in comparison.costs.items():
        if cost.memory_failure:
            out.append(f"failed: {name}: peak memory: {cost.memory_failure}")
    return out


def terminal(comparison: Comparison) -> str:
    """The table, then a line for everything one has to know."""
    return "\n".join([*table(*side_by_side(comparison)), "", *all_notes(comparison)])


def to_json(comparison: Comparison) -> dict[str, Any]:
    """What `evaluate` says of each method, and its cost."""
    return report.to_json(comparison.evaluations) | {
        "format": FORMAT,
        "costs": {name: asdict(cost) for name, cost in comparison.costs.items()},
        "unavailable_methods": comparison.unavailable,
    }


def write_json(comparison: Comparison, file: str | Path) -> None:
    """Raises PatchScalerError where it cannot be written."""
    write_json_file(file, to_json(comparison))


def write_json_file(file: str | Path, record: dict[str, Any]) -> None:
    """Raises PatchScalerError where it cannot be written."""
    with replacing(Path(file)) as temporary:
        text = json.dumps(record, indent=1, default=str, allow_nan=False)
        temporary.write_text(text + "\n", "utf-8")


def write_csv(comparison: Comparison, file: str | Path) -> None:
    """A line a method, full precision; lines that start with # say how it was made (pandas:
    comment="#").
    """
    head, rows = csv_table(comparison, metrics_of(comparison.evaluations))
    write_csv_file(file, [*all_notes(comparison), *descriptions(comparison)], head, rows)


def csv_table(
    comparison: Comparison, metrics: Sequence[Metric]
) -> tuple[list[str], list[list[Any]]]:
    """Head and rows; a score that there is not is an empty cell."""
    means, _ = common_means(comparison.evaluations)
    costs = [name for name in asdict(MethodCost()) if name != "memory_failure"]
    rows = []
    for evaluation, mean in zip(comparison.evaluations, means, strict=True):
        scores = [plain(mean[m.name]) if m.name in mean else "" for m in metrics]
        cost = asdict(comparison.costs[evaluation.method])
        values = ["" if cost[name] is None else cost[name] for name in costs]
        rows.append([evaluation.method, len(evaluation.rows), *scores, *values])
    return ["method", "pictures", *(m.name for m in metrics), *costs], rows


def descriptions(comparison: Comparison) -> list[str]:
    """What each method says of itself, in full."""
    return [
        f"{e.method}: {json.dumps(e.description, sort_keys=True, default=str)}"
        for e in comparison.evaluations
    ]


def write_csv_file(
    file: str | Path, lines: Sequence[str], head: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """lines: what stands above as comments. Raises PatchScalerError where it cannot be written."""
    stream = io.StringIO()
    for line in lines:
        stream.write(f"# {line}\n")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([head, *rows])
    with replacing(Path(file)) as temporary:
        temporary.write_text(stream.getvalue(), "utf-8")


def write_html(
    comparison: Comparison,
    pairs: Sequence[Pair],
    file: str | Path,
    *,
    title: str = "Comparison",
    worst_by: str | None = None,
) -> None:
    """Quality and cost in one table; per picture, the same two crops of every method, each in a
    row.
    """
    html_report.write_html(
        comparison.evaluations,
        pairs,
        file,
        title=title,
        worst_by=worst_by,
        crops=crops_of(comparison),
        summary=html_report.plain_table(*side_by_side(comparison)),
        lines=all_notes(comparison),
    )


def crops_of(comparison: Comparison) -> html_report.Choose:
    """The two crops of a picture, chosen by the methods' results alone."""
    names = {evaluation.method for evaluation in comparison.evaluations}

    def crops(name: str, pictures: html_report.Labelled) -> list[Crop]:
        return choose_crops(name, [p for label, p in pictures if label in names], html_report.CROP)

    return crops
