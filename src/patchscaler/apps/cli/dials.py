"""The dials of `patchscaler upscale`, its windows for large pictures, and what they write beside
the picture.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from patchscaler.apps.cli.status_line import StatusLine
from patchscaler.errors import PatchScalerError
from patchscaler.sampling_options import numbers

LARGE_PIXELS = 500_000_000  # of an input that is made in windows: its output has eight gigapixels


def add_options(up: Any) -> None:
    dials = up.add_argument_group("dials (docs/dials.md)")
    dials.add_argument(
        "--budget",
        metavar="B",
        help="work to spend, on the hardest patches first: a share of full "
        "sampling (.4), seconds (20s), or fast, balanced, best",
    )
    dials.add_argument(
        "--fidelity",
        type=float,
        default=0,
        metavar="F",
        help="0: all that the diffusion invents; 1: the coarse picture, nothing invented",
    )
    dials.add_argument(
        "--report",
        metavar="DIR",
        help="write maps of difficulty, steps and invention, and run.json "
        "with everything to repeat the run",
    )
    dials.add_argument(
        "--redo",
        metavar="X,Y,W,H",
        action="append",
        default=[],
        help="a box of the input, in pixels, "
        "to make again in an output that is there; may be repeated",
    )
    dials.add_argument(
        "--group", choices=("simple", "medium", "hard"), help="the group of the boxes' patches"
    )
    dials.add_argument("--redo-seed", type=int, metavar="N", help="the seed of the boxes' patches")
    dials.add_argument(
        "--no-provenance",
        action="store_true",
        help="do not note program, weights, seed and options in the output's XMP",
    )
    large = up.add_argument_group("large pictures")
    large.add_argument(
        "--window",
        default="auto",
        metavar="N",
        help="pixels of the input at a time, as a square of N "
        "by N; 0: all of it; auto: as --memory-limit allows, where the picture is large",
    )
    large.add_argument(
        "--memory-limit",
        type=float,
        default=512,
        metavar="MIB",
        help="working memory of one batch or window",
    )
    large.add_argument(
        "--dry-run", action="store_true", help="tell what it costs, and write nothing"
    )
    large.add_argument(
        "--pyramid", action="store_true", help="a tiled .tif that holds smaller copies of itself"
    )


def check_options(args: argparse.Namespace) -> None:
    """Raises PatchScalerError for options that do not go together, before anything is loaded."""
    from patchscaler.dials.budget import parse_budget
    from patchscaler.dials.fidelity import check_fidelity

    if args.budget is not None:
        parse_budget(args.budget)
        if args.shares or args.thresholds:
            raise PatchScalerError(
                "--budget sets the thresholds: leave --shares and --thresholds out"
            )
    check_fidelity(args.fidelity)
    changes_of(args)
    if args.redo and args.dry_run:
        raise PatchScalerError(
            "--redo changes an output that is there, --dry-run writes nothing: give one of them"
        )
    window_of(args)
    _check_reports(args)
    if (
        args.pyramid
        and args.output
        and Path(args.output).suffix.lower() not in (".tif", ".tiff", "")
    ):
        raise PatchScalerError(f"{args.output}: pyramids are written as .tif")


def in_seconds(args: argparse.Namespace) -> bool:
    """Is the budget one of seconds? Raises PatchScalerError for one that cannot be."""
    from patchscaler.dials.budget import parse_budget

    return args.budget is not None and parse_budget(args.budget).seconds is not None


def _check_reports(args: argparse.Namespace) -> None:
    """Raises PatchScalerError where two inputs would be reported in one folder."""
    seen: dict[Path, str] = {}
    for name in args.inputs:
        folder = report_folder(args, Path(name), len(args.inputs) > 1)
        if folder and folder in seen:
            raise PatchScalerError(
                f"{name}: --report would put it into {folder}, as {seen[folder]}; rename one"
            )
        if folder:
            seen[folder] = name


def changes_of(args: argparse.Namespace) -> tuple[Any, ...]:
    """`--redo`, `--group` and `--redo-seed` -> changes."""
    from patchscaler.dials.boxes import make_change

    if not args.redo:
        if args.group or args.redo_seed is not None:
            raise PatchScalerError(
                "--group and --redo-seed say how to make a box again: name it with --redo X,Y,W,H"
            )
        return ()
    boxes = [numbers("--redo", text, 4, int) for text in args.redo]
    return tuple(make_change(box, args.group, args.redo_seed) for box in boxes)


def window_of(args: argparse.Namespace) -> str | int:
    if args.window == "auto":
        return "auto"
    try:
        number = int(args.window)
    except ValueError:
        number = -1
    if number < 0:
        raise PatchScalerError(f"--window {args.window}: give auto, 0 or a number of pixels")
    return number


def dial_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of `PatchScaler.upscale`."""
    return {"budget": args.budget, "fidelity": args.fidelity, "invention": args.report is not None}


def report_folder(args: argparse.Namespace, source: Path, several: bool) -> Path | None:
    """Of one picture: DIR itself, or DIR/NAME where there are several."""
    if args.report is None:
        return None
    return Path(args.report) / source.name if several else Path(args.report)


def is_large(size: tuple[int, int], args: argparse.Namespace) -> bool:
    """Is a picture of this size to be made in windows?"""
    from patchscaler.streaming.cost import IN_MEMORY

    window = window_of(args)
    return bool(
        args.pyramid or (size[0] * size[1] > IN_MEMORY if window == "auto" else window != 0)
    )


# --- pictures in memory ---------------------------------------------------------------------------


def facts(model: Any, options: Any, source: Path) -> dict[str, str]:
    """What the output's metadata says of its making."""
    from patchscaler.dials.record import provenance, weights_of
    from patchscaler.models.weights import file_hash

    if isinstance(options, dict):
        options = model.options(**options)
    return provenance(model, options, weights_of(model), file_hash(source))


def report(
    folder: Path,
    model: Any,
    result: Any,
    source: Path,
    target: Path,
    before: tuple[int, int],
    after: tuple[int, int],
) -> None:
    """before, after: (width, height) of input and output; the last pass may have enlarged to more
    than `after`.
    """
    from patchscaler.dials.record import make_record, weights_of
    from patchscaler.dials.report import write_report
    from patchscaler.models.weights import file_hash

    taken = {
        "name": source.name,
        "sha256": file_hash(source),
        "width": before[0],
        "height": before[1],
    }
    made = {"name": target.name, "sha256": file_hash(target), "width": after[0], "height": after[1]}
    record = make_record(model, result, taken, made, result.array.shape[1::-1], weights_of(model))
    write_report(folder, result, record, result.confidence, result.moments)


def dry_run(model: Any, picture: Any, source: Path, options: dict[str, Any]) -> None:
    """Print what `picture` costs, and what that takes here."""
    from patchscaler.dials.speed import estimate

    cost = estimate(model, picture, options)
    for line in cost.lines():
        print(f"{source}: {line}")


def redo(
    model: Any, source: Path, target: Path, args: argparse.Namespace, report: Path | None
) -> bool:
    """Boxes of an output that is there, made again in it -> True; False where there is no earlier
    run of it.
    """
    from patchscaler.dials.saved import redo_file

    began = time.perf_counter()
    made = redo_file(model, source, target, changes_of(args), report, not args.no_provenance)
    if made is not None and not args.quiet:
        print(f"{target}: {', '.join(args.redo)} made again, {time.perf_counter() - began:.2f} s")
    return made is not None


# --- pictures on disk -----------------------------------------------------------------------------


def stream(
    model: Any,
    source: Path,
    target: Path,
    target_size: Any,
    options: dict[str, Any],
    args: argparse.Namespace,
    report: Path | None,
) -> None:
    """One picture in windows, and a line about it."""
    from patchscaler.streaming.files import FileOptions, upscale_file

    window = window_of(args)
    watch, began = StatusLine(source.name, args.quiet), time.perf_counter()
    files = FileOptions(
        quality=args.quality,
        lossless=args.lossless,
        pyramid=args.pyramid,
        bits=args.bits,
        report=report,
        provenance=not args.no_provenance,
    )
    made = upscale_file(
        model,
        source,
        target,
        target_size=target_size,
        window=window if isinstance(window, int) and window else None,
        memory_limit=args.memory_limit,
        dry_run=args.dry_run,
        watch=watch,
        files=files,
        executor=args.executor,
        **options,
    )
    watch.close()
    for note in made.notes:
        print(f"{source}: {note}", file=sys.stderr)
    if args.dry_run:
        for line in made.estimate.lines():
            print(f"{source}: {line}")
    elif not args.quiet:
        patches = ", ".join(f"{n} {name}" for name, n in made.cost["patches"].items())
        print(
            f"{target}: {made.estimate.size[0]}x{made.estimate.size[1]}, patches {patches}, "
            f"{made.cost['evaluations_total']} network evaluations, {made.estimate.windows} "
            "windows, "
            f"{time.perf_counter() - began:.2f} s"
        )
