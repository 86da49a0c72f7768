"""The paper's figures beside ours, in the terminal and as JSON; what differs is said with them."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from patchscaler.evaluation.environment import environment
from patchscaler.images.write import replacing
from patchscaler.models.weights import file_hash


@dataclass
class Row:
    """One line of a table. Values by column; what the paper or we do not have is left out."""

    label: str
    paper: dict[str, float] = field(default_factory=dict)
    here: dict[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass
class Report:
    """What one command found. columns: in the order they are printed, with digits after
    the point.
    """

    name: str  # table4, figure5 ...
    title: str
    columns: dict[str, int] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)  # what is not as in the paper, and why
    data: list[dict[str, Any]] = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)  # pictures or rows that could not be had
    protocol: list[str] = field(default_factory=list)  # metrics, data, machine, in words
    figures: list[str] = field(default_factory=list)  # files drawn
    details: dict[str, Any] = field(default_factory=dict)  # whatever else belongs into the JSON

    def text(self) -> str:
        """The table, then what differs, then how it was measured."""
        lines = [self.title, *table_lines(self.columns, self.rows)]
        lines += ["", "What differs from the paper:"] if self.differs else []
        lines += [f"- {line}" for line in self.differs]
        lines += ["", *self.protocol] if self.protocol else []
        lines += [f"failed: {line}" for line in self.failures]
        lines += [f"drawn: {file}" for file in self.figures]
        return "\n".join(lines)

    def save(self, out: str | Path) -> Path:
        """OUT/NAME.json, with everything that is needed to repeat it."""
        record = asdict(self) | {"environment": environment()}
        file = Path(out) / f"{self.name}.json"
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(_plain(record), indent=1) + "\n", "utf-8")
        return file


def table_lines(columns: dict[str, int], rows: list[Row]) -> list[str]:
    """Each column with the paper's value and ours; a side that no row has is left out."""
    if not rows:
        return []
    width = max(len(row.label) for row in rows) + 2
    sides = {
        column: [
            side for side in ("paper", "here") if any(column in getattr(row, side) for row in rows)
        ]
        for column in columns
    }
    shown = [column for column in columns if sides[column]]
    # Wide enough for a column's name, and for "paper" and "here" under it.
    widths = {c: [max(10, -(-(len(c) + 2) // len(sides[c])))] * len(sides[c]) for c in shown}
    head = " " * width + "".join(f"{c:>{sum(widths[c])}}" for c in shown)
    under = " " * width + "".join(
        f"{s:>{w}}" for c in shown for s, w in zip(sides[c], widths[c], strict=True)
    )
    lines = [head, under] if any("paper" in sides[column] for column in shown) else [head]
    for row in rows:
        line = f"{row.label:<{width}}"
        for column in shown:
            for side, w in zip(sides[column], widths[column], strict=True):
                line += f"{_number(getattr(row, side).get(column), columns[column]):>{w}}"
        lines.append(line.rstrip() + (f"   {row.note}" if row.note else ""))
    return lines


def folder_hashes(folder: Path) -> dict[str, Any]:
    """What says which weights a figure was made with."""
    files = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".json"))
    return {"folder": folder.name, "sha256": {file.name: file_hash(file) for file in files}}


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _plain(value: Any) -> Any:
    """For JSON: no NaN, no infinity, no paths."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, Path) else value
