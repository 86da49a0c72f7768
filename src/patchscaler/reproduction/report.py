"""The paper's figures beside ours, in the terminal and as JSON; what differs is said with them."""

import json
import math
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from patchscaler.checkpoints import file_hash
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.environment import environment


@dataclass
class Row:
    """One line of a table. Values by column; what the paper or we do not have is left out."""

    label: str
    paper: dict[str, float] = field(default_factory=dict)
    here: dict[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass
class Report:
    """What one command found. columns: in the order they are printed, with digits after the point."""

    name: str  # table4, figure5 ...
    title: str
    columns: dict[str, int] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)  # what is not as in the paper, and why
    data: list[dict[str, Any]] = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)  # pictures or rows that could not be had
    figures: list[str] = field(default_factory=list)  # files drawn
    details: dict[str, Any] = field(default_factory=dict)  # whatever else belongs into the JSON

    def text(self) -> str:
        """The table, then what differs."""
        lines = [self.title, *table_lines(self.columns, self.rows)]
        lines += ["", "What differs from the paper:"] if self.differs else []
        lines += [f"- {line}" for line in self.differs]
        lines += [f"failed: {line}" for line in self.failures]
        lines += [f"drawn: {file}" for file in self.figures]
        return "\n".join(lines)

    def save(self, out: str | Path) -> Path:
        """OUT/NAME.json, with everything that is needed to repeat it."""
        record = asdict(self) | {"environment": environment()}
        file = Path(out) / f"{self.name}.json"
        write_text(file, json.dumps(_plain(record), indent=1) + "\n")
        return file


def table_lines(columns: dict[str, int], rows: list[Row]) -> list[str]:
    """Each column with the paper's value and ours; a side that no row has is left out."""
    if not rows:
        return []
    width = max(len(row.label) for row in rows) + 2
    sides = {
        column: [side for side in ("paper", "here") if any(column in getattr(row, side) for row in rows)]
        for column in columns
    }
    shown = [column for column in columns if sides[column]]
    head, under = " " * width, " " * width
    for column in shown:
        head += f"{column:>{10 * len(sides[column])}}"
        under += "".join(f"{side:>10}" for side in sides[column])
    lines = [head, under] if any("paper" in sides[column] for column in shown) else [head]
    for row in rows:
        line = f"{row.label:<{width}}"
        for column in shown:
            for side in sides[column]:
                line += f"{_number(getattr(row, side).get(column), columns[column]):>10}"
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


def write_text(file: Path, text: str) -> None:
    """To a temporary file beside it, then renamed. Raises PatchScalerError."""
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".", suffix=file.suffix)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, file)
        temporary = None
    except OSError as error:
        raise PatchScalerError(f"{file}: cannot be written ({error.strerror or error})") from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
