"""Evaluations -> one HTML file with everything in it: no script, nothing fetched, light and dark.

Per picture, the worst of the first method first: its scores, and the same crop of the input, of
bicubic, of each method's result and of the original, in a row.
"""

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.crops import Crop
from patchscaler.evaluation.metric import Metric
from patchscaler.evaluation.pairs import Pair, read_picture
from patchscaler.evaluation.run import Evaluation, Row
from patchscaler.evaluation.summary import common_means, metrics_of, notes
from patchscaler.images.write import replacing

CROP = 128  # pixels a side of the crops, of the result
SHOWN = 30  # pictures with crops; all are in the tables
Labelled = Sequence[tuple[str, np.ndarray]]  # (what it is, (H, W, 3) uint8), in the order shown
# a picture's name and what is shown of it -> where to look
Choose = Callable[[str, Labelled], list[Crop]]
# what "worst" goes by
FIRST = ("lpips-alex", "lpips-vgg", "dists", "psnr-y", "ssim-y", "niqe", "brisque")


def write_html(
    evaluations: Sequence[Evaluation],
    pairs: Sequence[Pair],
    file: str | Path,
    *,
    title: str = "Evaluation",
    worst_by: str | None = None,
    shown: int = SHOWN,
    crops: Choose | None = None,
    summary: str | None = None,
    lines: Sequence[str] | None = None,
) -> None:
    """worst_by: the metric that orders pictures (by default the first there is of FIRST). Raises
    PatchScalerError.

    crops: where to look (by default at the place of the first method's most error). summary, lines:
    in place of the table of means and of the notes below it.
    """
    pictures = picture_parts(evaluations, pairs, worst_by=worst_by, shown=shown, crops=crops)
    body = [
        heading(title, 1),
        summary or _means_table(evaluations, metrics_of(evaluations)),
        note_list(lines or notes(evaluations)),
        *pictures,
        *repeat_parts(evaluations),
    ]
    write_page(file, title, body)


def picture_parts(
    evaluations: Sequence[Evaluation],
    pairs: Sequence[Pair],
    *,
    worst_by: str | None = None,
    shown: int = SHOWN,
    crops: Choose | None = None,
    title: str = "Picture by picture",
) -> list[str]:
    """What is said of each picture, then all scores; title: above it, the other arguments as for
    `write_html`.
    """
    metrics = metrics_of(evaluations)
    order = _order(evaluations, metrics, worst_by)
    by_name = {pair.name: pair for pair in pairs}
    choose = crops or _most_error(evaluations)
    cards = [
        _card(name, by_name.get(name), evaluations, metrics, choose) for name in order.names[:shown]
    ]
    return [
        f"{heading(title)}<p>{html.escape(order.text)}"
        + (
            f" The first {shown} of {len(order.names)} with crops."
            if len(order.names) > shown
            else ""
        )
        + "</p>",
        *cards,
        heading("All scores"),
        *(_scores_table(e, order.names) for e in evaluations),
    ]


def heading(text: str, level: int = 2) -> str:
    return f"<h{level}>{html.escape(text)}</h{level}>"


def note_list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def repeat_parts(evaluations: Sequence[Evaluation]) -> list[str]:
    return [heading("To repeat it"), *(_repeat(e) for e in evaluations)]


def write_page(file: str | Path, title: str, body: Sequence[str]) -> None:
    """Raises PatchScalerError where it cannot be written."""
    with replacing(Path(file)) as temporary:
        temporary.write_text(PAGE.format(title=html.escape(title), body="\n".join(body)), "utf-8")


# --- order ----------------------------------------------------------------------------------------


class _Order:
    def __init__(self, names: list[str], text: str):
        self.names, self.text = names, text


def _order(
    evaluations: Sequence[Evaluation], metrics: Sequence[Metric], worst_by: str | None
) -> _Order:
    """Names of pictures, the worst of the first method first; those it has no score for come at the
    end.
    """
    known = {m.name: m for m in metrics}
    if worst_by is not None and worst_by not in known:
        raise PatchScalerError(
            f"'{worst_by}' is not among the metrics: {', '.join(known) or 'none'}"
        )
    names = list(dict.fromkeys(r.name for e in evaluations for r in e.rows))
    by = worst_by or next((n for n in (*FIRST, *known) if n in known), None)
    if by is None or not evaluations:
        return _Order(names, "In the order of their names.")
    scores = {r.name: r.scores[by] for r in evaluations[0].rows if by in r.scores}
    judge = known[by]
    names.sort(key=lambda n: -judge.badness(scores[n]) if n in scores else np.inf)
    return _Order(names, f"The worst of {evaluations[0].method} first, by {by}.")


# --- tables ---------------------------------------------------------------------------------------


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], best: Sequence[int | None] = ()
) -> str:
    """best: of each column after the first, the row to set in bold."""
    cells = "".join(f"<th>{html.escape(c)}</th>" for c in head)
    out = [f'<div class="wide"><table><tr>{cells}</tr>']
    for i, row in enumerate(rows):
        marks = [c is not None and c == i for c in best]
        tds = [f"<td>{html.escape(row[0])}</td>"]
        for j, text in enumerate(row[1:]):
            strong = j < len(marks) and marks[j]
            tds.append(
                f"<td>{'<b>' if strong else ''}{html.escape(text)}{'</b>' if strong else ''}</td>"
            )
        out.append(f"<tr>{''.join(tds)}</tr>")
    return "".join([*out, "</table></div>"])


def plain_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """HTML of a table of texts."""
    return _table(head, rows)


def _best(metric: Metric, values: Sequence[float | None]) -> int | None:
    """Which row is best, where there is something to compare."""
    having = [(metric.badness(v), i) for i, v in enumerate(values) if v is not None]
    return min(having)[1] if len(having) > 1 else None


def _means_table(evaluations: Sequence[Evaluation], metrics: Sequence[Metric]) -> str:
    means, counts = common_means(evaluations)
    shown = [m for m in metrics if counts[m.name]]
    rows = []
    for evaluation, mean in zip(evaluations, means, strict=True):
        seconds = evaluation.seconds
        scores = [_number(m, mean.get(m.name)) for m in shown]
        time = "-" if seconds is None else f"{seconds:.2f}"
        rows.append([evaluation.method, str(len(evaluation.rows)), *scores, time])
    best = [None, *(_best(m, [mean.get(m.name) for mean in means]) for m in shown)]
    return _table(["method", "n", *(f"{m.name} {m.arrow}" for m in shown), "s/picture"], rows, best)


def _scores_table(evaluation: Evaluation, names: Sequence[str]) -> str:
    rows = {r.name: r for r in evaluation.rows}
    body = [
        [n, *(_number(m, rows[n].scores.get(m.name)) for m in evaluation.metrics)]
        for n in names
        if n in rows
    ]
    head = [evaluation.method, *(f"{m.name} {m.arrow}" for m in evaluation.metrics)]
    summary = f"<summary>{html.escape(evaluation.method)}</summary>"
    return f"<details>{summary}{_table(head, body)}</details>"


def _repeat(evaluation: Evaluation) -> str:
    """Everything of a method, its metrics' weights and the machine, as it is in the JSON."""
    lines = [f"{k}: {v}" for k, v in evaluation.description.items()]
    lines += [f"weights of {m.name}: {m.weights}" for m in evaluation.metrics if m.weights]
    lines += [f"{k}: {v}" for k, v in evaluation.environment.items()]
    text = html.escape("\n".join(lines))
    return (
        f"<details><summary>{html.escape(evaluation.method)}</summary><pre>{text}</pre></details>"
    )


def _number(metric: Metric, value: float | None) -> str:
    return "-" if value is None else f"{value:.{metric.digits}f}"


# --- crops ----------------------------------------------------------------------------------------


def _card(
    name: str,
    pair: Pair | None,
    evaluations: Sequence[Evaluation],
    metrics: Sequence[Metric],
    choose: Choose,
) -> str:
    """One picture: scores of each method, and the same crops of everything there is."""
    rows = {e.method: next((r for r in e.rows if r.name == name), None) for e in evaluations}
    body = [
        [method, *(_number(m, row.scores.get(m.name)) for m in metrics)]
        for method, row in rows.items()
        if row
    ]
    best = [_best(m, [row.scores.get(m.name) for row in rows.values() if row]) for m in metrics]
    table = _table(["", *(f"{m.name} {m.arrow}" for m in metrics)], body, best)
    failed = [f for e in evaluations for f in e.failures if f.name == name]
    lines = "".join(f"<p>{html.escape(str(f))}</p>" for f in dict.fromkeys(failed))
    pictures = _pictures(pair, rows)
    if not pictures:
        return f"<section><h3>{html.escape(name)}</h3>{lines}{table}</section>"
    by_label = dict(pictures)
    first = by_label[next(method for method in rows if method in by_label)]
    strips = "".join(_strip(crop, first, pictures) for crop in choose(name, pictures))
    return f"<section><h3>{html.escape(name)}</h3>{lines}{table}{strips}</section>"


def _most_error(evaluations: Sequence[Evaluation]) -> Choose:
    """Where the first method's result is farthest from the original; of most detail, where there is
    none.
    """

    def choose(name: str, pictures: Labelled) -> list[Crop]:
        by_label = dict(pictures)
        first = by_label[next(e.method for e in evaluations if e.method in by_label)]
        truth = by_label.get("original")
        return [
            Crop("of most detail" if truth is None else "of most error", *interesting(first, truth))
        ]

    return choose


def _strip(crop: Crop, first: np.ndarray, pictures: Labelled) -> str:
    """A row: where it is in the first method's result, and this square of every picture."""
    figures = [_overview(first, crop)]
    for label, picture in pictures:
        square = picture[crop.top : crop.top + crop.side, crop.left : crop.left + crop.side]
        figures.append(_figure(label, Image.fromarray(square), "PNG"))
    return f'<div class="row">{"".join(figures)}</div>'


def _pictures(pair: Pair | None, rows: dict[str, Row | None]) -> list[tuple[str, np.ndarray]]:
    """(label, picture) in the order shown, all of the results' size.

    What cannot be read any more is left out.
    """
    results = []
    for method, row in rows.items():
        if row is not None:
            try:
                results.append((method, read_picture(row.file)))
            except PatchScalerError:
                continue
    if not results:
        return []
    h, w = results[0][1].shape[:2]
    out: list[tuple[str, np.ndarray]] = []
    hr = None
    if pair is not None:
        try:
            hr = pair.hr
            if pair.has_lr:
                small = Image.fromarray(pair.lr)
                for label, kind in (
                    ("input", Image.Resampling.NEAREST),
                    ("bicubic", Image.Resampling.BICUBIC),
                ):
                    if label not in rows:  # a method of this name is shown already
                        out.append((label, np.asarray(small.resize((w, h), kind))))
        except PatchScalerError:
            out = []
    out += results
    if hr is not None:
        out.append(("original", hr))
    return [(label, picture) for label, picture in out if picture.shape == (h, w, 3)]


def interesting(
    picture: np.ndarray, truth: np.ndarray | None, side: int = CROP
) -> tuple[int, int, int]:
    """(top, left, side) of the square of most error, where there is a truth, or most detail.

    Squares are tried on a grid of half their side.
    """
    h, w = picture.shape[:2]
    side = min(side, h, w)
    gray = picture.astype(np.float64).mean(2)
    if truth is None:
        weight = np.zeros((h, w))
        weight[:, :-1] += np.abs(np.diff(gray, axis=1))
        weight[:-1] += np.abs(np.diff(gray, axis=0))
    else:
        weight = np.abs(gray - truth.astype(np.float64).mean(2))
    # sums of any rectangle by four look-ups
    total = np.pad(weight.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    step = max(1, side // 2)
    tops = sorted({*range(0, h - side + 1, step), h - side})
    lefts = sorted({*range(0, w - side + 1, step), w - side})

    def inside(place: tuple[int, int]) -> float:
        t, left = place
        return float(
            total[t + side, left + side]
            - total[t, left + side]
            - total[t + side, left]
            + total[t, left]
        )

    top, left = max(((t, left) for t in tops for left in lefts), key=inside)
    return top, left, side


def _overview(array: np.ndarray, crop: Crop) -> str:
    """The whole picture small, with the crop's frame."""
    top, left, side = crop.top, crop.left, crop.side
    picture = Image.fromarray(array)
    scale = 256 / max(picture.size)
    small = picture.resize(
        (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    )
    box = [round(v * scale) for v in (left, top, left + side, top + side)]
    draw = ImageDraw.Draw(small)
    draw.rectangle(box, outline=(0, 0, 0), width=3)
    draw.rectangle([box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1], outline=(255, 220, 0), width=1)
    return _figure(crop.label, small, "JPEG")


def _figure(label: str, image: Image.Image, kind: str) -> str:
    stream = io.BytesIO()
    image.save(stream, kind, **({"quality": 85} if kind == "JPEG" else {}))
    data = base64.b64encode(stream.getvalue()).decode()
    source = f"data:image/{kind.lower()};base64,{data}"
    name = html.escape(label)
    return f'<figure><img src="{source}" alt="{name}"><figcaption>{name}</figcaption></figure>'


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<style>
:root {{ --ink: #1c1c1c; --paper: #fff; --line: #ccc; --soft: #f4f4f4 }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e4e4e4; --paper: #161616; --line: #444; --soft: #222 }} }}
body {{ font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 2rem auto; max-width: 100rem; padding: 0 1rem }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0 }}
th, td {{ border: 1px solid var(--line); padding: .2rem .6rem; text-align: right;
  white-space: nowrap }}
th:first-child, td:first-child {{ text-align: left }}
th {{ background: var(--soft) }}
.wide, .row {{ overflow-x: auto }}
.row {{ display: flex; gap: .5rem; padding-bottom: .5rem }}
section {{ border-top: 1px solid var(--line); margin-top: 1.5rem }}
figure {{ margin: 0; flex: none }}
figure img {{ width: 256px; height: 256px; object-fit: contain; image-rendering: pixelated;
  display: block; background: var(--soft) }}
figcaption {{ text-align: center; overflow-wrap: anywhere; width: 256px }}
ul {{ padding-left: 1.2rem }}
pre {{ overflow-x: auto; background: var(--soft); padding: .5rem }}
</style></head><body>
{body}
</body></html>
"""
