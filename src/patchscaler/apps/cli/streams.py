"""Standard streams that are missing, closed by their reader, or full."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

NAMES = ("stdin", "stdout", "stderr")


class Surviving:
    """A text stream that takes no more once it fails, so that the work goes on."""

    def __init__(self, stream: Any):
        self.stream, self.lost = stream, False

    def write(self, text: str) -> int:
        if not self.lost:
            try:
                self.stream.write(text)
            except (OSError, ValueError):
                self._lose()
        return len(text)

    def flush(self) -> None:
        if not self.lost:
            try:
                self.stream.flush()
            except (OSError, ValueError):
                self._lose()

    def _lose(self) -> None:
        """What the stream holds goes nowhere, or the interpreter would fail with it at exit."""
        self.lost = True
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def surviving() -> Iterator[None]:
    """Let `print` survive whatever happens to standard output and standard error."""
    restore()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files need not be text it can show
            stream.reconfigure(errors="backslashreplace")
    out, err = Surviving(sys.stdout), Surviving(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield
        finally:
            out.flush()
            err.flush()


def restore() -> None:
    """Open the null device for each standard stream that the process was started without.

    Otherwise the next file that is opened gets its number, and what a library prints goes into it.
    """
    for number, name in enumerate(NAMES):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                with contextlib.suppress(OSError):
                    os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if number == 0 else "w"))  # noqa: SIM115
