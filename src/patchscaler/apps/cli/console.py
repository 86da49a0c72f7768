"""What `patchscaler upscale` prints: lines for people, or lines of JSON."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

from patchscaler.apps.cli.status_line import StatusLine
from patchscaler.errors import PatchScalerError
from patchscaler.pipeline import Output
from patchscaler.progress import Callback


class Console:
    """One run's messages.

    Args:
        quiet: Print nothing but errors.
        lines: Print JSON: events progress, done, skipped, passed_over, error and summary.
        count: Inputs of the run; the last line counts them where there are several.
        stream: Where results are printed, by default standard output.
        shown: File -> name to print, such as - for a temporary file.
    """

    def __init__(
        self,
        quiet: bool,
        lines: bool,
        count: int,
        stream: TextIO,
        shown: dict[Path, str] | None = None,
    ):
        self.quiet, self.lines, self.count, self.stream = quiet, lines, count, stream
        self.shown, self.counts, self.status = shown or {}, Counter[str](), StatusLine("", True)
        self.failures: list[str] = []

    def progress(self, source: Path) -> Callback:
        """The callback of an image that is begun."""
        self.status.close()
        done = sum(self.counts.values())
        place = f"[{done + 1}/{self.count}] " if self.count > 1 and not self.lines else ""
        self.status = StatusLine(place + self._name(source), self.quiet, self.lines)
        return self.status

    def done(
        self,
        source: Path,
        target: Path,
        size: tuple[int, int] | None,
        output: Output,
        seconds: float,
    ) -> None:
        """An image is written."""
        name, groups = self._name(target), output.patches_by_group()
        self._count("done")
        for warning in output.warnings:
            self.note(source, warning)
        if self.lines:
            facts: dict[str, Any] = {"input": self._name(source), "output": name}
            facts |= {"input_size": size, "output_size": list(output.size), "groups": groups}
            facts |= {"nfe": output.nfe, "gmac": output.gmac, "gmac_uniform": output.gmac_uniform}
            facts |= {"seconds": output.timings | {"total": seconds}, "warnings": output.warnings}
            self._event("done", **facts)
            return
        before = f"{size[0]}x{size[1]} -> " if size else ""
        patches = ", ".join(f"{n} {group}" for group, n in groups.items())
        share = output.gmac / output.gmac_uniform if output.gmac_uniform else 1.0
        self.say(
            f"{name}: {before}{output.size[0]}x{output.size[1]}, patches {patches}, "
            f"{share:.0%} of the work of all hard, {seconds:.2f} s"
        )

    def note(self, source: Path, text: str) -> None:
        """A line for people about what could not be kept."""
        if not self.quiet and not self.lines:
            print(f"{self._name(source)}: {text}", file=sys.stderr, flush=True)

    def error(self, source: Path, error: BaseException) -> None:
        """An input failed."""
        self._count("failed")
        text = f"{error}" or type(error).__name__
        if isinstance(error, OSError) and not isinstance(error, PatchScalerError):
            text = error.strerror or text
        name = self._name(source)
        text = text.replace(str(source), name)
        text = text if name in text else f"{name}: {text}"
        self.failures.append(text)
        if self.lines:
            self._event("error", input=name, error=text.removeprefix(f"{name}: "))
        print(f"patchscaler: {text}", file=sys.stderr, flush=True)

    def skip(self, source: Path, target: Path, done: bool) -> None:
        """An output is there: made by the same settings, or otherwise."""
        self._count("done_before" if done else "skipped")
        reason = "done before" if done else "exists, made otherwise; --overwrite replaces it"
        if self.lines:
            self._event("skipped", input=self._name(source), output=str(target), reason=reason)
        elif not done:
            self.say(f"{target}: skipped: {reason}")

    def pass_over(self, path: Path, reason: str) -> None:
        """A file of a folder is not an input."""
        self.counts["passed_over"] += 1
        if self.lines:
            self._event("passed_over", input=str(path), reason=reason)
        else:
            self.note(path, f"passed over: {reason}")

    def summary(self, interrupted: bool = False) -> None:
        """The last line, of several inputs."""
        self.status.close()
        if self.lines:
            names = ("done", "done_before", "skipped", "passed_over", "failed")
            self._event("summary", **{n: self.counts[n] for n in names}, interrupted=interrupted)
        elif self.count != 1 or interrupted:
            said = [f"{self.counts['done']} upscaled"]
            said += [
                f"{n} {name.replace('_', ' ')}" for name, n in self.counts.items() if name != "done"
            ]
            said += ["interrupted: the same command goes on from here"] if interrupted else []
            self.say(", ".join(said))

    def say(self, text: str) -> None:
        """A line for people."""
        self.status.close()
        if not self.quiet and not self.lines:
            print(text, file=self.stream, flush=True)

    def _count(self, what: str) -> None:
        self.status.close()
        self.counts[what] += 1

    def _event(self, event: str, **facts: Any) -> None:
        print(json.dumps({"event": event} | facts), file=self.stream, flush=True)

    def _name(self, path: Path) -> str:
        return self.shown.get(path, str(path))
