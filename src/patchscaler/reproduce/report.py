"""The paper's numbers beside ours, in the terminal and as JSON; what differs is said with them."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from patchscaler.evaluation.environment import environment
from patchscaler.evaluation.report import write_text
from patchscaler.evaluation.tables import number, table
from patchscaler.model import Model

WEIGHTS = "PatchScaler has this model's weights, not the paper's, which were never published."


@dataclass
class Row:
    """One line of a table. Values by column; what the paper or we do not have is left out."""

    label: str
    paper: dict[str, float] = field(default_factory=dict)
    here: dict[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass
class Report:
    """What one command found. columns: in the order they are printed, with digits after the
    point.
    """

    name: str  # table4, figure5 ...
    title: str
    columns: dict[str, int] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)  # what is not as in the paper, and why
    data: list[dict[str, Any]] = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)  # images or rows that could not be measured
    protocol: list[str] = field(default_factory=list)  # metrics, data, machine, in words
    figures: list[str] = field(default_factory=list)  # files drawn
    details: dict[str, Any] = field(default_factory=dict)  # whatever else belongs into the JSON

    def text(self) -> str:
        """The table, then what differs, then how it was measured."""
        lines = [self.title, "", *table_lines(self.columns, self.rows)]
        lines += ["", "What differs from the paper:"] if self.differs else []
        lines += [f"- {line}" for line in self.differs]
        lines += ["", *self.protocol] if self.protocol else []
        lines += [f"failed: {line}" for line in self.failures]
        lines += [f"drawn: {file}" for file in self.figures]
        return "\n".join(lines)

    def save(self, out: str | Path) -> Path:
        """Write OUT/NAME.json, with everything that is needed to repeat it."""
        record = asdict(self) | {"environment": environment()}
        file = Path(out) / f"{self.name}.json"
        write_text(file, json.dumps(_plain(record), indent=1) + "\n")
        return file


def table_lines(columns: dict[str, int], rows: Sequence[Row]) -> list[str]:
    """Each column with the paper's value and ours; a side that no row has is left out."""
    sides = [
        (column, side)
        for column in columns
        for side in ("paper", "here")
        if any(column in getattr(row, side) for row in rows)
    ]
    head = ["", *(f"{column}, paper" if side == "paper" else column for column, side in sides)]
    body = [
        [row.label, *(number(getattr(row, s).get(c), columns[c]) for c, s in sides)] for row in rows
    ]
    lines = table(head, body) if rows else []
    return lines[:1] + [
        line + (f"   {row.note}" if row.note else "")
        for line, row in zip(lines[1:], rows, strict=True)
    ]


# --- order ----------------------------------------------------------------------------------------

# What stands in for a metric of the paper that is not here: ours, and the sign that makes more
# better. Only the order of rows is compared.
STAND_INS = {"ManIQA": ("niqe", -1), "CLIPIQA": ("niqe", -1), "MUSIQ": ("niqe", -1)}


def order_lines(rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """How alike the paper and we put the rows in order: Spearman's rank correlation by column."""
    out = []
    for column in columns:
        for theirs, sign in ((column, 1), STAND_INS.get(column, (column, 1))):
            both = [
                (r.paper[column], sign * r.here[theirs])
                for r in rows
                if column in r.paper and theirs in r.here
            ]
            if len(both) >= 3:
                beside = "" if theirs == column else f", ours by {theirs} in its place"
                correlation = rank_correlation(*zip(*both, strict=True))
                out.append(
                    f"order of {len(both)} rows by {column}{beside}: rank correlation "
                    f"{correlation:.2f}"
                )
                break
    return out


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's; equal values share a rank. NaN where one side is constant."""
    x, y = (_ranks(np.asarray(values, float)) for values in (a, b))
    if x.std() == 0 or y.std() == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def model_record(model: Model) -> dict[str, Any]:
    """Which weights a result was made with."""
    return {
        "name": model.config.name,
        "weights": model.weights_hash(),
        "compute": model.compute_signature,
    }


def _plain(value: Any) -> Any:
    """For JSON: no NaN, no infinity, no paths."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, Path) else value
