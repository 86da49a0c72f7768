"""What the page's work is told about while it goes on, and what comes out."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from patchscaler.config import GROUP_NAMES
from patchscaler.errors import PatchScalerError
from patchscaler.folders import Summary

Watch = Callable[[str, int, int], None]  # (stage, done, in all)


@dataclass(frozen=True)
class Step:
    """How far a job is."""

    stage: str  # as `upscale_file` names them, or "waiting", "redo", "views"
    done: int
    total: int
    left: float | None = None  # seconds, of this stage
    picture: str = ""  # of several: '2 of 5, name'


@dataclass(frozen=True)
class Job:
    """A finished picture, and all that lies beside it."""

    folder: Path
    source: Path
    result: Path
    record: dict[str, Any]  # run.json; empty where there is no report
    views: dict[str, Path]  # before, after, and the maps; what a browser can show
    size: tuple[int, int]  # (width, height) of the input
    seconds: float

    @property
    def report(self) -> Path:
        return self.result.parent / "report"

    def cost(self) -> list[tuple[str, int, int]]:
        """(group, patches, network evaluations)."""
        cost = self.record["cost"]
        return [(name, cost["patches"][name], cost["evaluations"][name]) for name in GROUP_NAMES]

    def share(self) -> float:
        """Of the evaluations of full sampling, every patch in the hard group."""
        full = sum(self.record["cost"]["patches"].values()) * max(self.record["groups_used"]["num_inference_steps"])
        return self.record["cost"]["evaluations_total"] / full if full else 0.0


@dataclass(frozen=True)
class Zip:
    """Several pictures in one file."""

    file: Path
    summary: Summary
    seconds: float


class Gone(Exception):  # noqa: N818 (nothing went wrong)
    """The visitor has left: nobody waits for this work."""


@dataclass
class Watched:
    """Work calls it and is stopped by it; whoever waits reads `step`."""

    limit: float  # seconds, 0 for none
    picture: str = ""
    step: Step = Step("waiting", 0, 1)
    began: float = field(default_factory=time.perf_counter)
    left: bool = False  # the visitor has
    finished: threading.Event = field(default_factory=threading.Event)
    _stage: tuple[str, float, int] = ("", 0.0, 0)  # name, when it began, what was done then

    @property
    def late(self) -> bool:
        return bool(self.limit) and self.seconds > self.limit

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def start(self) -> None:
        """The time that was spent waiting does not count."""
        self.began = time.perf_counter()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Raises Gone, and PatchScalerError when the time is up."""
        if self.left:
            raise Gone
        if self.late:
            raise PatchScalerError(
                f"it took longer than the {self.limit:g} seconds allowed here; take a smaller picture, a smaller "
                "scale, or less budget"
            )
        now = time.perf_counter()
        if stage != self._stage[0] or done < self._stage[2]:
            self._stage = (stage, now, done)
        fresh = done - self._stage[2]
        left = (now - self._stage[1]) / fresh * (total - done) if fresh else None
        self.step = Step(stage, done, total, left, self.picture)
