"""The command line. Each command is a module of this package, imported when it is given.

What `--help` needs is light; what computes is imported at one place, `_function`.
"""

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from patchscaler._version import __version__
from patchscaler.apps.cli.parser import Parser, nearest
from patchscaler.apps.cli.streams import surviving
from patchscaler.errors import PatchScalerError

__all__ = ["main"]

INTERRUPTED = 130
# command -> (module of this package, what it does)
COMMANDS = {
    "upscale": ("upscale_options", "upscale images and videos, x4 by default"),
    "web": ("web", "a page in the browser, and an API"),
    "info": ("memory", "what is installed: model, sizes, hashes, device"),
}
RESEARCH = {
    "train": ("train", "train a model, stage by stage"),
    "evaluate": ("evaluate", "score a method, or finished images, on a set"),
    "compare": ("compare", "several methods side by side: quality and cost"),
    "benchmark": ("measure", "seconds by stage, evaluations, FLOPs, memory"),
    "reproduce": ("reproduce", "the paper's tables and figures"),
    "memory": ("memory", "build a texture memory, or look into one"),
    "export": ("export", "a model as a folder for a hub, or as ONNX graphs"),
    "data": ("data", "check a public data set: counts, sizes, hash of the list"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Arguments, by default those of the process.

    Returns:
        Exit code: 0 fine, 1 something failed, 2 wrong usage, 130 interrupted.
    """
    with surviving(), _signals(own=argv is None):
        try:
            args = _parse(list(sys.argv[1:] if argv is None else argv))
            function = _function(args)
            with _interruptible():
                return int(function(args) or 0)
        except PatchScalerError as error:
            print(f"patchscaler: {error}", file=sys.stderr)
        except KeyboardInterrupt as error:
            text = str(error) or "interrupted; nothing half-written is left"
            print(f"patchscaler: {text}", file=sys.stderr)
            return INTERRUPTED
        except OSError as error:
            name = error.filename or "a file"
            print(f"patchscaler: {name}: {error.strerror or error}", file=sys.stderr)
        except MemoryError:
            text = "not enough memory. Hint: give a smaller --memory-limit"
            print(f"patchscaler: {text}", file=sys.stderr)
        return 1


def _parse(argv: list[str]) -> argparse.Namespace:
    """Only the chosen command's options are made: no command waits for another's imports."""
    parser = Parser(
        prog="patchscaler",
        usage="patchscaler COMMAND ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=_overview(),
    )
    parser.add_argument("--version", action="version", version=f"patchscaler {__version__}")
    name = next((text for text in argv if not text.startswith("-")), None)
    known = COMMANDS | RESEARCH
    if name is None:
        if not argv:
            parser.error("no command. Hint: patchscaler --help lists them")
        return parser.parse_args(argv)  # --help, --version, or a mistake
    if name not in known:
        parser.error(f"{name}: no such command. Hint: {nearest(name, known, 'patchscaler --help')}")
    commands = parser.add_subparsers(dest="command", prog="patchscaler", parser_class=Parser)
    module = importlib.import_module(f"{__name__}.{known[name][0]}")
    (getattr(module, "add_parsers", None) or module.add_parser)(commands)
    return parser.parse_args(argv)


def _overview() -> str:
    def lines(commands: dict[str, tuple[str, str]]) -> str:
        return "\n".join(f"  {name:<10} {text}" for name, (_, text) in commands.items())

    return (
        "Upscale images: compute follows the difficulty of each patch.\n\n"
        f"commands:\n{lines(COMMANDS)}\n\nfor researchers:\n{lines(RESEARCH)}\n\n"
        "'patchscaler COMMAND --help' lists the options of a command."
    )


def _function(args: argparse.Namespace) -> Callable[[argparse.Namespace], Any]:
    """What a command runs. The one place that imports torch and what else takes seconds."""
    if "module" in args:
        function: Callable[..., Any] = importlib.import_module(args.module).run
        return function
    chosen: Callable[..., Any] = args.function
    return chosen


# --- signals --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _signals(own: bool) -> Iterator[None]:
    """Ctrl-C ends the process at once, without a traceback, while it imports and while it exits.

    Args:
        own: The process is this command's own: it stays so after the command.
    """
    if not own or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    signal.signal(signal.SIGTERM, _leave)
    yield


def _leave(number: int, frame: Any) -> None:
    """Nothing has been begun, or all is done."""
    os._exit(INTERRUPTED)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt, so that the command cleans up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler or signal.SIG_DFL)
