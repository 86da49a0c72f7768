"""What the page's work is told about while it goes on, and what comes out."""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from patchscaler.config import GROUP_NAMES
from patchscaler.errors import PatchScalerError
from patchscaler.folders import Summary


@dataclass(frozen=True)
class Step:
    """How far a job is."""

    stage: str  # as `upscale_file` names them, or "waiting", "redo", "views"
    done: int
    total: int
    left: float | None = None  # seconds
    whole: bool = False  # they are of all stages, not of this one alone
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
        full = sum(self.record["cost"]["patches"].values()) * max(
            self.record["groups_used"]["num_inference_steps"]
        )
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
class Pace:
    """How long the stages of earlier jobs took: seconds for a pixel of the input."""

    seconds: dict[str, float] = field(default_factory=dict)

    def learn(self, taken: dict[str, float], pixels: int) -> None:
        """The newest job counts as much as all before."""
        for stage, seconds in taken.items():
            rate = seconds / pixels
            self.seconds[stage] = (self.seconds.get(stage, rate) + rate) / 2

    def expected(self, pixels: int) -> dict[str, float]:
        return {stage: rate * pixels for stage, rate in self.seconds.items()}


@dataclass
class Watched:
    """Work calls it and is stopped by it; whoever waits asks for `step`."""

    limit: float  # seconds, 0 for none
    picture: str = ""
    left: bool = False  # the visitor has
    began: float = field(default_factory=time.perf_counter)
    # seconds of each stage, in their order, where known
    expected: dict[str, float] = field(default_factory=dict)
    taken: dict[str, float] = field(default_factory=dict)  # of those that are over
    finished: threading.Event = field(default_factory=threading.Event)
    # its name, when it began, what was done then
    _stage: tuple[str, float, int] = ("waiting", 0.0, 0)
    _last: tuple[float, int, int] = (0.0, 0, 1)  # when something was done, what, of how much

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
                f"it took longer than the {self.limit:g} seconds allowed here; take a smaller "
                "picture, a smaller "
                "scale, or less budget"
            )
        now, (before, since, first) = time.perf_counter(), self._stage
        if stage != before or done < first:
            self.taken[before] = now - since
            self._stage = (stage, now, done)
        self._last = (now, done, total)

    def end(self) -> dict[str, float]:
        """-> seconds of each stage."""
        stage, since, _ = self._stage
        taken = self.taken | {stage: time.perf_counter() - since}
        return {name: seconds for name, seconds in taken.items() if name != "waiting"}

    def step(self) -> Step:
        """How far it is at this moment."""
        (stage, since, first), (last, done, total), now = (
            self._stage,
            self._last,
            time.perf_counter(),
        )
        left = None
        if first < done < total:
            left = (last - since) / (done - first) * (total - done) - (now - last)
        elif stage in self.expected:
            left = self.expected[stage] - (now - since)
        stages = list(self.expected)
        if left is None or stage not in stages:
            return Step(
                stage, done, total, None if left is None else max(0.0, left), False, self.picture
            )
        later = sum(self.expected[name] for name in stages[stages.index(stage) + 1 :])
        return Step(stage, done, total, max(0.0, left) + later, True, self.picture)
