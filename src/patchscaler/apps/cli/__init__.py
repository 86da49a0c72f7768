"""The command line, a file a group of commands.

Thin: torch is imported late, all work is done elsewhere.
"""

import argparse
import contextlib
import io
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

from patchscaler._version import __version__
from patchscaler.apps.cli import (
    compare,
    data,
    evaluate,
    export,
    measure,
    memory,
    reproduce,
    train,
    upscale,
    video,
    web,
)
from patchscaler.errors import PatchScalerError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """-> exit code: 0 fine, 1 something failed, 2 wrong usage, 130 interrupted."""
    args = _parser().parse_args(argv)
    # names of files need not be text that the terminal can show
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _terminated_like_interrupted():
            return int(args.function(args) or 0)
    except PatchScalerError as error:
        print(f"patchscaler: {error}", file=sys.stderr)
    except KeyboardInterrupt as error:
        print(
            f"patchscaler: {str(error) or 'interrupted; nothing half-written is left'}",
            file=sys.stderr,
        )
        return 130
    except OSError as error:
        print(
            f"patchscaler: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr
        )
    except MemoryError:
        print(
            "patchscaler: not enough memory; use a smaller picture or --memory-limit",
            file=sys.stderr,
        )
    return 1


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM cleans up as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="patchscaler", description="Enlarge pictures, x4 by default."
    )
    parser.add_argument("--version", action="version", version=f"patchscaler {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    upscale.add_parser(commands)
    memory.add_parsers(commands)
    export.add_parser(commands)
    compare.add_parser(commands)
    measure.add_parsers(commands)
    evaluate.add_parser(commands)
    video.add_parser(commands)
    data.add_parser(commands)
    reproduce.add_parser(commands)
    web.add_parser(commands)
    train.add_parser(commands)
    return parser
