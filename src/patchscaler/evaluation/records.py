"""Records of a run: lines of JSON, each found again by a hash of all that it depends on."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from patchscaler.errors import PatchScalerError


class Records:
    """Lines of JSON, each with its key; a line that a crash cut off is skipped."""

    def __init__(self, file: Path):
        self.file = file
        self.lines: dict[str, dict[str, Any]] = {}
        text = file.read_text("utf-8") if file.is_file() else ""
        for line in text.splitlines():
            try:
                record = json.loads(line)
                self.lines[record["key"]] = record
            except (ValueError, KeyError, TypeError):
                continue
        if text and not text.endswith("\n"):
            self._append("\n")

    def find(self, key: str) -> dict[str, Any] | None:
        return self.lines.get(key)

    def add(self, record: dict[str, Any]) -> None:
        self.lines[record["key"]] = record
        self._append(json.dumps(record) + "\n")

    def _append(self, text: str) -> None:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with open(self.file, "a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            reason = error.strerror or error
            raise PatchScalerError(f"{self.file}: cannot be written ({reason})") from error


def plain(value: float) -> float | str:
    """JSON knows no infinity: equal images have "inf"."""
    return value if math.isfinite(value) else str(value)


def key_of(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
