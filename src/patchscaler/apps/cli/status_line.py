"""The line on standard error that says how far a command is, where somebody looks at it."""

import sys
import time


class StatusLine:
    """`line(stage, done, total)` shows it, with the time that is left at the speed measured since
    the stage began.
    """

    def __init__(self, name: str, quiet: bool):
        self.name, self.stage, self.shown = name, "", False
        self.live = not quiet and sys.stderr.isatty()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.perf_counter()
        if stage != self.stage:
            self.stage, self.began, self.first = stage, now, done
        if self.live:
            fresh = done - self.first
            left = f", {(now - self.began) / fresh * (total - done):.0f} s left" if fresh else ""
            print(
                f"\r{self.name}: {done}/{total} {stage}{left} \033[K",
                end="",
                file=sys.stderr,
                flush=True,
            )
            self.shown = True

    def patch_steps(self, done: int, total: int) -> None:
        self("patch-steps", done, total)

    def close(self) -> None:
        if self.shown:
            print("\r\033[K", end="", file=sys.stderr)
            self.shown = False
