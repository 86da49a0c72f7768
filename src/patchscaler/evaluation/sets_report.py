"""Comparisons on several sets -> a table of each under its heading, and what they have in common
once.

One comparison alone is reported by `comparison_report`, as if there were no sets.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from patchscaler.evaluation import comparison_report as one
from patchscaler.evaluation import html_report
from patchscaler.evaluation.compare import Comparison
from patchscaler.evaluation.cost.report import table
from patchscaler.evaluation.sets import PictureSet
from patchscaler.evaluation.summary import metrics_of

FORMAT = "patchscaler-comparisons-1"


def shared_notes(comparisons: Sequence[Comparison], sets: Sequence[PictureSet]) -> list[str]:
    """What holds for all once; then what is of one set alone, as its data and what failed there,
    under its title.
    """
    lines = [one.all_notes(comparison) for comparison in comparisons]
    shared = [line for line in lines[0] if all(line in other for other in lines)]
    return shared + [
        f"{pictures.title}: {line}"
        for pictures, own in zip(sets, lines, strict=True)
        for line in own
        if line not in shared
    ]


def terminal(comparisons: Sequence[Comparison], sets: Sequence[PictureSet]) -> str:
    """A table a set, with its title above; then a line for everything one has to know."""
    if len(sets) == 1:
        return one.terminal(comparisons[0])
    out: list[str] = []
    for comparison, pictures in zip(comparisons, sets, strict=True):
        out += [pictures.title, *table(*one.side_by_side(comparison)), ""]
    return "\n".join(out + shared_notes(comparisons, sets))


def write_json(
    comparisons: Sequence[Comparison], sets: Sequence[PictureSet], file: str | Path
) -> None:
    """One as it always was, or a list of such.

    Raises PatchScalerError where it cannot be written.
    """
    if len(sets) == 1:
        return one.write_json(comparisons[0], file)
    found: list[dict[str, Any]] = [
        {"set": pictures.name, "degradation": pictures.degradation} | one.to_json(comparison)
        for comparison, pictures in zip(comparisons, sets, strict=True)
    ]
    return one.write_json_file(file, {"format": FORMAT, "comparisons": found})


def write_csv(
    comparisons: Sequence[Comparison], sets: Sequence[PictureSet], file: str | Path
) -> None:
    """A line a set and method. Raises PatchScalerError where it cannot be written."""
    if len(sets) == 1:
        return one.write_csv(comparisons[0], file)
    metrics = metrics_of([e for comparison in comparisons for e in comparison.evaluations])
    head: list[str] = []
    rows: list[list[Any]] = []
    for comparison, pictures in zip(comparisons, sets, strict=True):
        head, own = one.csv_table(comparison, metrics)
        rows += [[pictures.name, pictures.degradation or "", *row] for row in own]
    lines = [*shared_notes(comparisons, sets), *one.descriptions(comparisons[0])]
    return one.write_csv_file(file, lines, ["set", "degradation", *head], rows)


def write_html(
    comparisons: Sequence[Comparison],
    sets: Sequence[PictureSet],
    file: str | Path,
    *,
    title: str = "Comparison",
    worst_by: str | None = None,
) -> None:
    """All tables first, then the pictures set by set."""
    if len(sets) == 1:
        return one.write_html(comparisons[0], sets[0].pairs, file, title=title, worst_by=worst_by)
    tables, pictures = [], []
    for comparison, of in zip(comparisons, sets, strict=True):
        tables += [
            html_report.heading(of.title),
            html_report.plain_table(*one.side_by_side(comparison)),
        ]
        pictures += html_report.picture_parts(
            comparison.evaluations,
            of.pairs,
            worst_by=worst_by,
            crops=one.crops_of(comparison),
            title=f"{of.title}: picture by picture",
        )
    body = [
        html_report.heading(title, 1),
        *tables,
        html_report.note_list(shared_notes(comparisons, sets)),
        *pictures,
    ]
    return html_report.write_page(
        file, title, [*body, *html_report.repeat_parts(comparisons[0].evaluations)]
    )
