"""Comparisons -> a table for the terminal, JSON, CSV, and one HTML file with crops.

One method is a comparison of one.
"""

import base64
import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.crops import choose_crops
from patchscaler.evaluation.metric import Measure
from patchscaler.evaluation.pairs import Pair, read_image
from patchscaler.evaluation.records import plain
from patchscaler.evaluation.run import Comparison, Evaluation, Row, common_means, metrics_of
from patchscaler.evaluation.tables import number, table
from patchscaler.images.write import replacing

FORMAT = "patchscaler-evaluation-2"
COSTS = {"s/image": 2, "NFE": 1, "GMAC": 1}
TEMPLATE = Path(__file__).parent / "data" / "report.html.j2"
SHOWN = 30  # images with crops; all are in the tables
# what "worst" goes by
FIRST = ("lpips-alex", "lpips-vgg", "dists", "psnr-y", "ssim-y", "niqe")

Table = tuple[list[str], list[list[str]]]


def costs_of(evaluation: Evaluation) -> dict[str, float | None]:
    """Median seconds of an image, mean network evaluations and multiply-adds."""
    costs = [evaluation.seconds, evaluation.mean_cost("nfe"), evaluation.mean_cost("gmac")]
    return dict(zip(COSTS, costs, strict=True))


def summary(comparison: Comparison) -> Table:
    """Head and rows: quality first, then cost; columns without any value are left out."""
    evaluations = comparison.evaluations
    means, counts = common_means(evaluations)
    shown = [m for m in metrics_of(evaluations) if counts[m.name]]
    head = ["method", "n", *(m.title for m in shown), *COSTS]
    rows = []
    for e, mean in zip(evaluations, means, strict=True):
        costs = costs_of(e)
        cells = [m.text(mean.get(m.name)) for m in shown]
        cells += [number(costs[name], digits) for name, digits in COSTS.items()]
        rows.append([e.method, str(len(e.rows)), *cells])
    kept = [i for i in range(len(head)) if i < 2 or any(row[i] != "-" for row in rows)]
    return [head[i] for i in kept], [[row[i] for i in kept] for row in rows]


def terminal(comparisons: Sequence[Comparison]) -> str:
    """A table for each set, then how it was measured, what is missing and what failed."""
    lines: list[str] = []
    for comparison in comparisons:
        if len(comparisons) > 1:
            lines.append(comparison.images.title)
        lines += [*table(*summary(comparison)), ""]
    return "\n".join([*lines, *notes(comparisons)])


def notes(comparisons: Sequence[Comparison]) -> list[str]:
    """Protocols, methods, data, machine, what is unavailable, what failed: a line each."""
    evaluations = [e for c in comparisons for e in c.evaluations]
    out = [f"{m.name}: {m.protocol}" for m in metrics_of(evaluations)]
    out.append(
        "s/image: median wall time in this run, not a benchmark; NFE, GMAC: mean of an image"
    )
    out += dict.fromkeys(f"{e.method}: {', '.join(_said(e.description))}" for e in evaluations)
    for comparison in comparisons:
        first, means = comparison.evaluations[0], common_means(comparison.evaluations)
        out.append(f"data: {comparison.images.title}: {_said_text(first.data)}")
        most = max(len(e.rows) for e in comparison.evaluations)
        for name, count in means[1].items():
            if count < most:
                text = f"mean over {count} of {most} images, those all methods have"
                out.append(f"{comparison.images.title}: {name}: {text}")
    out.append(f"with: {_said_text(evaluations[0].environment)}")
    reasons = {n: r for e in evaluations for n, r in e.unavailable.items()}
    reasons |= {n: r for c in comparisons for n, r in c.unavailable.items()}
    out += [f"unavailable: {name}: {reason}" for name, reason in reasons.items()]
    return out + [f"failed: {text}" for text in failures(comparisons)]


def failures(comparisons: Sequence[Comparison]) -> list[str]:
    """Of all sets and methods; what failed for all methods of a set is named once."""
    out = []
    for comparison in comparisons:
        of = f"{comparison.images.title}: " if len(comparisons) > 1 else ""
        shared = set.intersection(*({str(f) for f in e.failures} for e in comparison.evaluations))
        out += [of + text for text in sorted(shared)]
        for e in comparison.evaluations:
            out += [f"{of}{e.method}: {f}" for f in e.failures if str(f) not in shared]
    return out


def _said(description: dict[str, Any]) -> list[str]:
    """Hashes shortened, long lists left to the JSON."""
    out = []
    for key, value in description.items():
        if isinstance(value, dict):
            out += _said(value)
        elif value is None or value == "" or (isinstance(value, list | tuple) and len(value) > 3):
            continue
        else:
            text = "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            is_hash = len(text) == 64 and all(c in "0123456789abcdef" for c in text)
            out.append(f"{key} {text[:16] if is_hash else text}")
    return out


def _said_text(description: dict[str, Any]) -> str:
    return ", ".join(_said(description))


# --- files ----------------------------------------------------------------------------------------


def to_json(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Plain values: everything that is needed to repeat it. An infinite score is the text "inf"."""
    return {
        "format": FORMAT,
        "sets": [
            {
                "name": c.images.name,
                "degradation": c.images.degradation,
                "unavailable_methods": c.unavailable,
                "evaluations": _evaluations(c),
            }
            for c in comparisons
        ],
    }


def _evaluations(comparison: Comparison) -> list[dict[str, Any]]:
    out = []
    means, counts = common_means(comparison.evaluations)
    for e, mean in zip(comparison.evaluations, means, strict=True):
        rows = [asdict(r) | {"scores": {k: plain(v) for k, v in r.scores.items()}} for r in e.rows]
        own = {name: plain(value) for name, value in mean.items()}
        metrics = [{k: v for k, v in vars(m).items() if not callable(v)} for m in e.metrics]
        record = {k: v for k, v in vars(e).items() if k not in ("rows", "metrics", "failures")}
        record |= {"metrics": metrics, "means": own, "counts": counts, "costs": costs_of(e)}
        out.append(record | {"rows": rows, "failures": [asdict(f) for f in e.failures]})
    return out


def write_json(comparisons: Sequence[Comparison], file: str | Path) -> None:
    """Raises PatchScalerError where it cannot be written."""
    text = json.dumps(to_json(comparisons), indent=1, default=str, allow_nan=False)
    write_text(file, text + "\n")


def write_csv(comparisons: Sequence[Comparison], file: str | Path) -> None:
    """A line a set, method and image; lines that start with # say how it was made."""
    evaluations = [e for c in comparisons for e in c.evaluations]
    metrics = [m.name for m in metrics_of(evaluations)]
    stream = io.StringIO()
    stream.writelines(f"# {note}\n" for note in notes(comparisons))
    writer = csv.writer(stream, lineterminator="\n")
    hashes = ["input_hash", "reference_hash", "result_hash"]
    head = ["set", "method", "image", "width", "height", "seconds", *metrics, *hashes]
    writer.writerow(head)
    for comparison in comparisons:
        for e in comparison.evaluations:
            for row in e.rows:
                scores = [row.scores.get(name, "") for name in metrics]
                seconds = "" if row.seconds is None else row.seconds
                start = [comparison.images.title, e.method, row.name, *row.size, seconds]
                writer.writerow([*start, *scores, *(getattr(row, h) for h in hashes)])
    write_text(file, stream.getvalue())


def write_text(file: str | Path, text: str) -> None:
    """Raises PatchScalerError where it cannot be written; nothing half-written is left."""
    with replacing(Path(file)) as temporary:
        temporary.write_text(text, "utf-8")


# --- HTML -----------------------------------------------------------------------------------------


def write_html(
    comparisons: Sequence[Comparison], file: str | Path, title: str, worst_by: str | None = None
) -> None:
    """Write tables, crops of each image, and all scores, in one file without scripts.

    Args:
        comparisons: Of `compare`.
        file: Where to write.
        title: Of the page.
        worst_by: The metric that orders images; by default the first there is of FIRST.

    Raises:
        PatchScalerError: jinja2 is missing, the metric is unknown, or the file cannot be written.
    """
    try:
        import jinja2
    except ImportError as error:
        raise PatchScalerError(
            "the page needs jinja2. Hint: pip install 'patchscaler[evaluate]'"
        ) from error
    sets = []
    for comparison in comparisons:
        names, by = ordered(comparison, worst_by)
        cards = [_card(comparison, name) for name in names[:SHOWN]]
        scores = [_scores(e) for e in comparison.evaluations]
        title_of = comparison.images.title
        means = summary(comparison)
        sets.append({"title": title_of, "means": means, "by": by, "cards": cards, "scores": scores})
    repeat = [
        (e.method, json.dumps(e.description | e.environment, indent=1, default=str))
        for e in comparisons[0].evaluations
    ]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text("utf-8"))
    page = template.render(title=title, sets=sets, notes=notes(comparisons), repeat=repeat)
    write_text(file, page)


def ordered(comparison: Comparison, worst_by: str | None = None) -> tuple[list[str], str]:
    """Names of images, the worst of the first method first, and what that goes by.

    Images the metric has no score for come last. Raises PatchScalerError for an unknown metric.
    """
    first = comparison.evaluations[0]
    known = {m.name: m for m in first.metrics if any(m.name in r.scores for r in first.rows)}
    if worst_by is not None and worst_by not in known:
        raise PatchScalerError(f"'{worst_by}' is not among the metrics: {', '.join(known)}")
    names = list(dict.fromkeys(r.name for e in comparison.evaluations for r in e.rows))
    by = worst_by or next((n for n in (*FIRST, *known) if n in known), None)
    if by is None:
        return names, ""
    scores = {r.name: r.scores[by] for r in first.rows if by in r.scores}
    names.sort(key=lambda n: -known[by].badness(scores[n]) if n in scores else np.inf)
    return names, f"the worst of {first.method} first, by {by}"


def _scores(evaluation: Evaluation) -> tuple[str, Table]:
    metrics = [m for m in evaluation.metrics if m.name not in evaluation.set_scores]
    rows = [[r.name, *_cells(metrics, r)] for r in evaluation.rows]
    return evaluation.method, (["image", *(m.title for m in metrics)], rows)


def _cells(metrics: Iterable[Measure], row: Row) -> list[str]:
    return [m.text(row.scores.get(m.name)) for m in metrics]


def _card(comparison: Comparison, name: str) -> dict[str, Any]:
    """One image: scores of each method, and the same crops of everything there is."""
    found = [(e, row) for e in comparison.evaluations for row in e.rows if row.name == name]
    metrics = [
        m for m in metrics_of(comparison.evaluations) if any(m.name in r.scores for _, r in found)
    ]
    rows = [[e.method, *_cells(metrics, row)] for e, row in found]
    pair = next((p for p in comparison.images.pairs if p.name == name), None)
    results: list[tuple[str, np.ndarray]] = []
    for e, row in found:
        try:
            results.append((e.method, read_image(row.file)))
        except PatchScalerError:
            continue
    strips = []
    if results:
        shape = results[0][1].shape
        results = [(label, x) for label, x in results if x.shape == shape]
        inputs, hr = _around(pair, shape)
        for crop in choose_crops(name, [x for _, x in results], hr):
            shown = [*inputs, *results, *([("HR", hr)] if hr is not None else [])]
            strips.append((crop.label, [(label, _uri(crop.of(x))) for label, x in shown]))
    return {"name": name, "table": (["", *(m.title for m in metrics)], rows), "strips": strips}


def _around(
    pair: Pair | None, shape: tuple[int, ...]
) -> tuple[list[tuple[str, np.ndarray]], np.ndarray | None]:
    """The LR image at the results' size, and the HR image where it has that size."""
    inputs: list[tuple[str, np.ndarray]] = []
    hr = None
    try:
        if pair is not None and pair.has_lr:
            small = Image.fromarray(pair.lr).resize((shape[1], shape[0]), Image.Resampling.NEAREST)
            inputs.append(("LR", np.asarray(small)))
        hr = None if pair is None else pair.hr
    except PatchScalerError:
        pass
    return inputs, hr if hr is not None and hr.shape == shape else None


def _uri(image: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
