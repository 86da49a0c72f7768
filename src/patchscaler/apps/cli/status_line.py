"""How far a command is, on standard error where a terminal is, or as lines of JSON."""

import json
import sys
import time
from typing import Any

from patchscaler.progress import Progress

EVERY = 0.2  # seconds between two writings


class StatusLine:
    """Call it with a `Progress`.

    Args:
        name: Of what is being done.
        quiet: Show nothing.
        lines: Print JSON to standard output in place of the line for people.
    """

    def __init__(self, name: str, quiet: bool = False, lines: bool = False):
        self.name, self.lines, self.shown, self.last = name, lines, False, -EVERY
        self.live = not quiet and (lines or sys.stderr.isatty())

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if not self.live or now - self.last < EVERY:
            return
        self.last = now
        done, total, left = progress.done, progress.total, progress.eta
        if self.lines:
            facts: dict[str, Any] = {"event": "progress", "input": self.name}
            facts |= {"stage": progress.stage, "done": done, "total": total, "eta": left}
            print(json.dumps(facts), flush=True)
            return
        text = f"{self.name}: {100 * done // total} % {progress.stage}"
        text += "" if left is None else f", {left:.0f} s left"
        print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)
        self.shown = True

    def close(self) -> None:
        """Clear the line."""
        if self.shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
            self.shown = False
