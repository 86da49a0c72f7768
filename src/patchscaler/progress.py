"""One kind of progress for everything: `callback(Progress(stage, done, total, eta))`."""

import time
from collections.abc import Callable
from dataclasses import dataclass

STAGES = ("read", "restore", "denoise", "decode", "write")


@dataclass(frozen=True)
class Progress:
    """How far a piece of work has come, all of its stages together.

    stage: The stage at hand, for images one of STAGES. done, total: work in whole units; `done` is
    `total` only when
    nothing is left. eta: seconds that are left, or None where nothing is known yet.
    """

    stage: str
    done: int
    total: int
    eta: float | None = None


Callback = Callable[[Progress], None]
UNITS = 1000  # of `Progress.total`


class Reporter:
    """Shares of stages -> `Progress` of the whole.

    Args:
        callback: Called at every advance, or None.
        work: Expected work of each stage, in any unit; it may be corrected later.
    """

    def __init__(self, callback: Callback | None, work: dict[str, float]):
        self.callback, self.work = callback, dict(work)
        self.done = dict.fromkeys(work, 0.0)  # share of each stage
        self.began = time.monotonic()
        self.resumed = 0.0  # share of the whole that a killed run had done

    def advance(self, stage: str, share: float) -> None:
        """Add to the share of a stage that is done."""
        self.done[stage] = min(1.0, self.done.get(stage, 0.0) + share)
        self.report(stage)

    def report(self, stage: str) -> None:
        if self.callback is None:
            return
        total = sum(self.work.values())
        done = sum(self.work[name] * share for name, share in self.done.items()) / total
        eta = None
        if done > 0.02:
            eta = (time.monotonic() - self.began) * (1 - done) / done
        left = any(share < 1 - 1e-9 and self.work[name] > 0 for name, share in self.done.items())
        units = min(int(UNITS * done), UNITS - 1) if left else UNITS
        self.callback(Progress(stage, units, UNITS, eta if left else 0.0))
