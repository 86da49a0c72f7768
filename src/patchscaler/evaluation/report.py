"""Evaluations of the same pictures -> a table for the terminal, JSON, CSV.

HTML is in `html_report.py`.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from patchscaler.evaluation.html_report import write_html
from patchscaler.evaluation.run import Evaluation, plain
from patchscaler.evaluation.summary import common_means, metrics_of, notes
from patchscaler.images.write import replacing

__all__ = ["FORMAT", "terminal_table", "to_json", "write_csv", "write_html", "write_json"]

FORMAT = "patchscaler-evaluation-1"


# --- the terminal ---------------------------------------------------------------------------------


def terminal_table(evaluations: Sequence[Evaluation]) -> str:
    """Methods by metrics, then what the figures mean, what is missing and what failed."""
    metrics, (means, counts) = metrics_of(evaluations), common_means(evaluations)
    shown = [m for m in metrics if counts[m.name]]
    head = ["method", "n", *(f"{m.name} {m.arrow}" for m in shown), "s/picture"]
    rows = []
    for evaluation, mean in zip(evaluations, means, strict=True):
        seconds = evaluation.seconds
        cells = [f"{mean[m.name]:.{m.digits}f}" if m.name in mean else "-" for m in shown]
        rows.append(
            [
                evaluation.method,
                str(len(evaluation.rows)),
                *cells,
                "-" if seconds is None else f"{seconds:.2f}",
            ]
        )
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        first, rest = (
            row[0].ljust(widths[0]),
            (c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
        )
        return "  ".join([first, *rest]).rstrip()

    out = [line(head), *(line(row) for row in rows), ""]
    out += notes(evaluations)
    return "\n".join(out)


# --- files ----------------------------------------------------------------------------------------


def to_json(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Plain values: everything that is needed to repeat it. An infinite score is the text "inf"."""
    out = []
    for evaluation in evaluations:
        metrics = [
            {
                "name": m.name,
                "higher_is_better": m.higher_is_better,
                "best": m.best,
                "needs_reference": m.needs_reference,
                "protocol": m.protocol,
                "crop_border": m.crop_border,
                "weights": m.weights,
            }
            for m in evaluation.metrics
        ]
        rows = []
        for row in evaluation.rows:
            rows.append(asdict(row) | {"scores": {k: plain(v) for k, v in row.scores.items()}})
        out.append(
            {
                "method": evaluation.method,
                "description": evaluation.description,
                "data": evaluation.data,
                "metrics": metrics,
                "means": {k: plain(v) for k, v in evaluation.means.items()},
                "counts": evaluation.counts,
                "seconds_median": evaluation.seconds,
                "rows": rows,
                "unavailable": evaluation.unavailable,
                "failures": [asdict(f) for f in evaluation.failures],
                "environment": evaluation.environment,
            }
        )
    means, counts = common_means(evaluations)
    common = {
        "counts": counts,
        "means": {
            e.method: {k: plain(v) for k, v in m.items()}
            for e, m in zip(evaluations, means, strict=True)
        },
    }
    return {"format": FORMAT, "common": common, "evaluations": out}


def write_json(evaluations: Sequence[Evaluation], file: str | Path) -> None:
    """Raises PatchScalerError where it cannot be written."""
    with replacing(Path(file)) as temporary:
        text = json.dumps(to_json(evaluations), indent=1, default=str, allow_nan=False)
        temporary.write_text(text + "\n", "utf-8")


def write_csv(evaluations: Sequence[Evaluation], file: str | Path) -> None:
    """A line a method and picture; lines that start with # say how it was made (pandas:
    comment="#").
    """
    metrics = metrics_of(evaluations)
    stream = io.StringIO()
    for note in notes(evaluations):
        stream.write(f"# {note}\n")
    for evaluation in evaluations:
        stream.write(
            f"# {evaluation.method}: "
            f"{json.dumps(evaluation.description, sort_keys=True, default=str)}\n"
        )
        stream.write(
            f"# environment: {json.dumps(evaluation.environment, sort_keys=True, default=str)}\n"
        )
    writer = csv.writer(stream, lineterminator="\n")
    hashes = ["input_hash", "original_hash", "result_hash"]
    writer.writerow(
        ["method", "picture", "width", "height", "seconds", *(m.name for m in metrics), *hashes]
    )
    for evaluation in evaluations:
        for row in evaluation.rows:
            scores = [row.scores.get(m.name, "") for m in metrics]
            seconds = "" if row.seconds is None else row.seconds
            writer.writerow(
                [
                    evaluation.method,
                    row.name,
                    *row.size,
                    seconds,
                    *scores,
                    *(getattr(row, h) for h in hashes),
                ]
            )
    with replacing(Path(file)) as temporary:
        temporary.write_text(stream.getvalue(), "utf-8")
