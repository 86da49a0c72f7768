"""Rows of methods over images, the paper's scores beside ours: what Tables 1, 2, 4, 5 and 6
share.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from patchscaler.config import GROUP_NAMES
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.metrics import resolve_metrics
from patchscaler.evaluation.report import failures, notes
from patchscaler.evaluation.run import Comparison, Evaluation, common_means, evaluate
from patchscaler.evaluation.sets import ImageSet
from patchscaler.evaluation.specs import AnyMethod
from patchscaler.progress import Callback
from patchscaler.reproduce.paper import METRICS, Scores
from patchscaler.reproduce.report import Report, Row
from patchscaler.reproduce.sources import Source

# The paper's columns, then what works without a network from a hub.
COLUMNS = {"PSNR": 2, "SSIM": 4, "LPIPS": 4, "ManIQA": 4, "CLIPIQA": 4, "MUSIQ": 2}
COLUMNS |= {"dists": 4, "niqe": 2, "patch-kid": 3, "NFE": 0, "seconds": 2}
NAMES = {ours: paper for paper, ours in METRICS.items()}
NEED_ORIGINALS = ("psnr-y", "ssim-y", "lpips-alex", "dists", "patch-kid")
DEFAULT_METRICS = (*METRICS.values(), "dists", "niqe", "patch-kid")


@dataclass
class Entry:
    """One row to be measured. method: None where it is not available; `reason` says why."""

    label: str
    paper: Scores = field(default_factory=dict)
    method: AnyMethod | None = None
    reason: str = ""
    note: str = ""


@dataclass(frozen=True)
class Measuring:
    """What all rows of a table share."""

    out: Path
    metrics: Sequence[str] = ()  # by default what the images allow of DEFAULT_METRICS
    device: str = "cpu"  # of the metrics' networks
    callback: Callback | None = None


def measure(
    report: Report, entries: Sequence[Entry], source: Source, measuring: Measuring, prefix: str = ""
) -> None:
    """Fill the report's rows.

    A row that is not available keeps the paper's scores; an image that fails is listed. Raises
    PatchScalerError where no row can be measured.
    """
    metrics = measuring.metrics or [
        m for m in DEFAULT_METRICS if source.has_originals or m not in NEED_ORIGINALS
    ]
    report.title += f"; {source.name}, {len(source.pairs)} images"
    found, missing = resolve_metrics(metrics, device=measuring.device)
    measured = [entry for entry in entries if entry.method is not None]
    if not measured:
        reason = f"{entries[0].label}: {entries[0].reason}"
        raise PatchScalerError(f"{report.name}: no row can be measured here; {reason}")
    evaluations = []
    for entry in measured:
        assert entry.method is not None
        evaluations.append(
            evaluate(
                entry.method,
                source.pairs,
                found,
                measuring.out / report.name / source.name,
                failures=source.failures,
                unavailable=missing,
                callback=measuring.callback,
            )
        )
    means, _ = common_means(evaluations)
    scores = {id(m): here_of(e, v) for m, e, v in zip(measured, evaluations, means, strict=True)}
    for entry in entries:
        note = f"not here: {entry.reason}" if entry.method is None and entry.reason else entry.note
        here = scores.get(id(entry), {})
        report.rows.append(Row(prefix + entry.label, entry.paper, here, note))
    compared = [Comparison(ImageSet(source.name, None, source.pairs), evaluations)]
    report.failures += failures(compared)
    known = {*report.protocol, *(f"failed: {line}" for line in report.failures)}
    report.protocol += [line for line in notes(compared) if line not in known]
    report.data.append(source.described | {"hash of pixels": evaluations[0].data["hash"]})
    report.details |= {
        prefix + m.label: e.description for m, e in zip(measured, evaluations, strict=True)
    }


def here_of(evaluation: Evaluation, means: Scores) -> Scores:
    """Means by the paper's names, what an image cost, and the groups' shares of all patches."""
    here = {NAMES.get(name, name): value for name, value in means.items()}
    if evaluation.seconds is not None:
        here["seconds"] = evaluation.seconds
    nfe = evaluation.mean_cost("nfe")
    if nfe is not None:
        here["NFE"] = nfe
        counts = [row.cost["groups"] for row in evaluation.rows if "groups" in row.cost]
        total = sum(sum(count.values()) for count in counts)
        here |= {group: sum(count[group] for count in counts) / total for group in GROUP_NAMES}
    return here
