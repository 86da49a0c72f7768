"""Rows of methods over pictures, the paper's scores beside ours: what Tables 1, 2, 4, 5 and 6
share; Tables 1 and 2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from patchscaler.config import GROUP_NAMES
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.run import Evaluation, evaluate, resolve_metrics
from patchscaler.evaluation.specs import AnyMethod, Settings, build_method, parse_specs
from patchscaler.evaluation.summary import common_means, method_line, notes
from patchscaler.reproduce.paper import METRICS, NO_REFERENCE, TABLE_1, TABLE_2, Scores
from patchscaler.reproduce.pictures import Source
from patchscaler.reproduce.report import Report, Row
from patchscaler.training.coarse import rank_correlation

# The paper's columns, then what can be had without a network from a hub.
COLUMNS = {
    "PSNR": 2,
    "SSIM": 4,
    "LPIPS": 4,
    "ManIQA": 4,
    "CLIPIQA": 4,
    "MUSIQ": 2,
    "dists": 4,
    "niqe": 2,
    "brisque": 2,
    "evaluations": 0,
    "seconds": 2,
}
NAMES = {ours: paper for paper, ours in METRICS.items()}
NEED_ORIGINALS = ("psnr-y", "ssim-y", "lpips-alex", "dists")
DEFAULT_METRICS = (*METRICS.values(), "dists", "niqe", "brisque")
DEFAULT_METHODS = "bicubic,realsr-jpeg,realesrgan-x4plus,ours"
# A method's kind or name -> the paper's row. Others find theirs by name:
# `spandrel:FILE,name=BSRGAN`.
PAPER_NAMES = {
    "ours": "PatchScaler",
    "realesrgan-x4plus": "Real-ESRGAN",
    "realsr-jpeg": "RealSR-JPEG",
    "ldm": "LDM",
}
VARIANTS = (
    "The paper names no variant of its metrics. ManIQA is taken as KonIQ's and CLIPIQA as "
    "CLIPIQA+, by the size of "
    "its values; PSNR and SSIM are of Y without a border cut off. Do not set these beside tables "
    "of other variants."
)
WEIGHTS = "PatchScaler has this model's weights, not the paper's, which were never published."


@dataclass
class Entry:
    """One row to be measured. method: None where it cannot be had here; `reason` says why, with the
    hint.
    """

    label: str
    paper: Scores = field(default_factory=dict)
    method: AnyMethod | None = None
    reason: str = ""
    note: str = ""


@dataclass(frozen=True)
class Measuring:
    """What all rows of a table share."""

    out: Path
    metrics: Sequence[str] = ()  # by default what the pictures allow of DEFAULT_METRICS
    device: str = "cpu"  # of the metrics' networks
    say: Callable[[str], None] = lambda text: None  # told of every picture done


def measure(
    report: Report,
    entries: Sequence[Entry],
    source: Source,
    measuring: Measuring,
    prefix: str = "",
    one_model: bool = False,
) -> None:
    """Fill the report's rows. A row that cannot be had keeps the paper's scores; a picture that
    fails is listed.

    one_model: all rows are of one model, so one line says what it is.
    """
    metrics = measuring.metrics or [
        m for m in DEFAULT_METRICS if source.has_originals or m not in NEED_ORIGINALS
    ]
    report.title += f"; {source.name}, {len(source.pairs)} pictures"
    # once: their networks serve all rows
    found, missing = resolve_metrics(metrics, device=measuring.device)
    evaluations: list[Evaluation] = []
    measured: list[Entry] = []
    for entry in entries:
        if entry.method is None:
            continue

        def say(done: int, total: int, name: str, label: str = entry.label) -> None:
            measuring.say(f"{report.name} {prefix}{label}: {done}/{total} {name}")

        evaluations.append(
            evaluate(
                entry.method,
                source.pairs,
                found,
                measuring.out / report.name / source.name,
                failures=source.failures,
                unavailable=missing,
                progress=say,
            )
        )
        measured.append(entry)
    if not evaluations:
        raise PatchScalerError(
            f"{report.name}: no row can be measured here; {entries[0].label}: {entries[0].reason}"
        )
    means, _ = common_means(evaluations)
    scores = {
        id(entry): here_of(e, mean)
        for entry, e, mean in zip(measured, evaluations, means, strict=True)
    }
    for entry in entries:
        here, note = scores.get(id(entry), {}), entry.note
        if entry.method is None and entry.reason:
            note = f"not here: {entry.reason}"
        report.rows.append(Row(prefix + entry.label, entry.paper, here, note))
    repeated = {method_line(e) for e in evaluations[1:]} if one_model else set()
    lines = [line for line in notes(evaluations) if line not in repeated]
    report.failures += [
        line.removeprefix("failed: ") for line in lines if line.startswith("failed: ")
    ]
    report.protocol += [
        line for line in lines if not line.startswith("failed: ") and line not in report.protocol
    ]
    report.data.append(source.described | {"hash of pixels": evaluations[0].data["hash"]})
    report.details.setdefault("methods", {}).update(
        {
            prefix + entry.label: e.description
            for entry, e in zip(measured, evaluations, strict=True)
        }
    )


def here_of(evaluation: Evaluation, means: dict[str, float]) -> Scores:
    """Means by the paper's names, what a picture cost, and the groups' shares of all patches."""
    here = {NAMES.get(name, name): value for name, value in means.items()}
    if evaluation.seconds is not None:
        here["seconds"] = evaluation.seconds
    costs = [row.cost for row in evaluation.rows if "evaluations_total" in row.cost]
    if costs:
        here["evaluations"] = float(np.mean([cost["evaluations_total"] for cost in costs]))
        total = sum(sum(cost["patches"].values()) for cost in costs)
        here |= {
            group: sum(cost["patches"][group] for cost in costs) / total for group in GROUP_NAMES
        }
    return here


def order_lines(rows: Sequence[Row], columns: Sequence[str] = NO_REFERENCE) -> list[str]:
    """How alike the paper and we put the rows in order: Spearman's rank correlation of
    each column.
    """
    out = []
    for column in columns:
        both = [
            (r.paper[column], r.here[column])
            for r in rows
            if column in r.paper and column in r.here
        ]
        if len(both) >= 3:
            paper, here = (torch.tensor(values) for values in zip(*both, strict=True))
            out.append(
                f"order of {len(both)} rows by {column}: rank correlation "
                f"{rank_correlation(paper, here):.2f}"
            )
    return out


# --- Tables 1 and 2 -------------------------------------------------------------------------------


def method_entries(specs: str, paper: dict[str, Scores], settings: Settings) -> list[Entry]:
    """All rows of the paper, those of `specs` measured; methods the paper has not come first."""
    own: list[Entry] = []
    rows = {
        name: Entry(name, scores, None, "not among --methods") for name, scores in paper.items()
    }
    for spec in parse_specs(specs):
        name = next((PAPER_NAMES[n] for n in (spec.name, spec.kind) if n in PAPER_NAMES), spec.name)
        if name in paper and rows[name].method is not None:
            name = spec.name
        entry = rows[name] if name in paper else Entry(spec.name)
        try:
            entry.method, entry.reason = build_method(spec, settings), ""
        except PatchScalerError as error:
            entry.reason = str(error)
        if name not in paper:
            own.append(entry)
    return own + list(rows.values())


def table1(
    specs: str, settings: Settings, sources: Sequence[Source], measuring: Measuring
) -> Report:
    """LSDIR-Test."""
    report = Report("table1", "Table 1: LSDIR-Test", COLUMNS)
    for source in sources:
        prefix = f"{source.name}, " if len(sources) > 1 else ""
        measure(report, method_entries(specs, TABLE_1, settings), source, measuring, prefix)
    report.differs = [WEIGHTS, VARIANTS]
    if any(source.described.get("collection") != "lsdir" for source in sources):
        report.differs.append(
            "Other pictures than LSDIR's: compare the order of methods, not the values."
        )
    report.differs += [
        "The paper drew its 2,000 pictures at random from all of LSDIR and did not publish "
        "which. Here they are "
        "validation and test, and training pictures chosen by the hash of their names where the "
        "test is missing.",
        "Centre crops of 512 pixels, degraded by ResShift's test settings ('mild'), each seeded "
        "by its name; the "
        "paper gives neither crop nor seed, and its resizes are not antialiased.",
        *order_lines(report.rows, (*NO_REFERENCE, "PSNR", "LPIPS")),
    ]
    return report


def table2(
    specs: str, settings: Settings, sources: Sequence[Source], measuring: Measuring
) -> Report:
    """Real pictures: RealSR, and RealSet80 or RealSet65 for the unpublished RealSet110."""
    report = Report("table2", "Table 2: real pictures", COLUMNS)
    report.differs = [WEIGHTS, VARIANTS]
    for source in sources:
        same = source.name.startswith("realsr") and source.described.get("collection") is not None
        paper = TABLE_2["RealSR" if same else "RealSet110"]
        before = len(report.rows)
        measure(
            report, method_entries(specs, paper, settings), source, measuring, f"{source.name}, "
        )
        if not same:
            report.differs.append(
                f"{source.name} stands beside the paper's RealSet110, which was not published: "
                "compare the order "
                "of methods, not the values."
            )
        if source.name == "realsr":
            report.differs.append(
                "RealSR in full size, as ResShift measures; the paper does not say whether it "
                "cropped."
            )
        report.differs += [f"{source.name}: {line}" for line in order_lines(report.rows[before:])]
    return report
