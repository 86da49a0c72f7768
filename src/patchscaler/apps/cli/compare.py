"""`patchscaler compare`: several methods on the same pictures, quality and cost side by side."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from patchscaler.apps.cli.common import model_options
from patchscaler.apps.cli.evaluate import (
    metric_names,
    output_options,
    picture_options,
    progress,
    score_options,
)
from patchscaler.errors import PatchScalerError


def add_parser(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        help="several methods side by side: quality and cost",
        description="Several methods on the same pictures, quality and cost side by side; of "
        "several folders and "
        "degradations (mild,real), each pair has a table. Runs that were interrupted go on; exit "
        "code 1 where anything "
        "failed, or a method asked for by name is unavailable.",
    )
    compare.set_defaults(function=run)
    picture_options(compare, several=True)
    what = compare.add_argument_group("what is compared, and how")
    what.add_argument(
        "--methods",
        metavar="A,B,...",
        help="as ours,ours:steps=0,0,0,bicubic,realesrgan-x4plus,"
        "spandrel:FILE,folder:NAME=DIR (default: all that need no file; --list-methods)",
    )
    score_options(what)
    what.add_argument(
        "--tile",
        type=int,
        default=0,
        metavar="N",
        help="peers take larger inputs in tiles of N pixels (default: whole pictures)",
    )
    what.add_argument(
        "--tile-overlap", type=int, default=16, metavar="N", help="surroundings each tile sees"
    )
    what.add_argument(
        "--threads", type=int, default=0, metavar="N", help="processor threads (default: all)"
    )
    what.add_argument(
        "--no-memory",
        action="store_true",
        help="do not start a process a method to see its peak memory",
    )
    what.add_argument(
        "--list-methods",
        action="store_true",
        help="what is known, what it needs, what is unavailable",
    )
    output_options(compare, "comparison")
    model_options(compare.add_argument_group("the model"))


def run(args: argparse.Namespace) -> int:
    from patchscaler.devices import choose_device
    from patchscaler.evaluation import sets_report as report
    from patchscaler.evaluation.compare import compare_sets
    from patchscaler.evaluation.cost.sweeps import threads
    from patchscaler.evaluation.sets import split_degradations, split_folders
    from patchscaler.evaluation.specs import DEFAULT_METHODS, Settings, parse_specs
    from patchscaler.images.write import check_writable

    settings = Settings(
        args.device,
        args.dtype,
        args.model,
        args.autoencoder,
        args.seed,
        args.threads,
        args.tile,
        args.tile_overlap,
    )
    if args.list_methods:
        return list_methods(settings)
    args.lr, args.hr = split_folders(args.lr), split_folders(args.hr)
    args.degradation = split_degradations(args.degradation)
    check_options(args)
    specs = parse_specs(args.methods or DEFAULT_METHODS)
    names, asked = metric_names(args.metrics)
    for file in (args.json, args.csv, args.html, Path(args.output) / "records.jsonl"):
        if file:
            check_writable(Path(file))
    sets = find_sets(args)
    bar = progress(args.quiet)

    def show(method: str, done: int, total: int, name: str) -> None:
        if bar:
            bar(done, total, f"{method}: {name}")

    with threads(args.threads):
        comparisons = compare_sets(
            specs,
            sets,
            names,
            args.output,
            settings,
            memory=not args.no_memory,
            progress=show,
            crop_border=args.crop_border,
            device=choose_device(args.device),
            niqe_parameters=args.niqe_parameters,
        )
    print(report.terminal(comparisons, sets))
    if args.json:
        report.write_json(comparisons, sets, args.json)
    if args.csv:
        report.write_csv(comparisons, sets, args.csv)
    if args.html:
        on = dict.fromkeys(pictures.name for pictures in sets)
        title = f"{len(comparisons[0].evaluations)} methods on {', '.join(on)}"
        report.write_html(comparisons, sets, args.html, title=title, worst_by=args.worst_by)
    return exit_code(comparisons, asked, by_name=bool(args.methods))


def find_sets(args: argparse.Namespace) -> list[Any]:
    """Every folder under every degradation.

    Raises PatchScalerError for one that nothing can be measured of.
    """
    from patchscaler.evaluation.sets import open_sets

    sets = open_sets(args.lr, args.hr, args.degradation, args.seed, args.limit)
    for pictures in sets:
        if not pictures.pairs:
            for failure in pictures.failures:
                print(f"patchscaler: {failure}", file=sys.stderr)
            of = f"{pictures.title}: " if len(sets) > 1 else ""
            raise PatchScalerError(f"{of}no picture can be measured")
    return sets


def check_options(args: argparse.Namespace) -> None:
    """Raises PatchScalerError for options that make no sense together."""
    if not (args.lr or args.hr):
        raise PatchScalerError(
            "give pictures: --lr DIR (with --hr DIR), or --hr DIR with --degradation KIND"
        )
    if args.hr and not (args.lr or args.degradation):
        kinds = "bicubic (mild, stable, real)"
        raise PatchScalerError(
            f"--hr alone has nothing to enlarge: add --degradation {kinds}, or --lr DIR"
        )
    if min(args.limit, args.crop_border, args.threads) < 0:
        raise PatchScalerError("--limit, --crop-border and --threads take 0 or more")
    if args.tile < 0 or args.tile_overlap < 0 or (args.tile and args.tile <= 2 * args.tile_overlap):
        raise PatchScalerError(
            f"--tile takes 0, or more than twice --tile-overlap ({args.tile_overlap})"
        )
    if args.worst_by and not args.html:
        raise PatchScalerError("--worst-by sorts the page: add --html FILE")


def exit_code(comparisons: Sequence[Any], asked: set[str], by_name: bool) -> int:
    """1 where a picture failed, or what was asked for by name is not to be had; each said in one
    line.
    """
    metrics = {name for c in comparisons for e in c.evaluations for name in e.unavailable}
    lines = []
    if failed := sum(len(comparison.failures) for comparison in comparisons):
        lines.append(f"{failed} failed, listed above")
    if unknown := dict.fromkeys(
        name for c in comparisons for name, cost in c.costs.items() if cost.memory_failure
    ):
        lines.append(f"peak memory could not be measured: {', '.join(unknown)}")
    if missing := sorted(asked & metrics):
        lines.append(f"asked for but unavailable: {', '.join(missing)}")
    if by_name and comparisons[0].unavailable:
        lines.append(f"asked for but unavailable: {', '.join(comparisons[0].unavailable)}")
    for line in lines:
        print(f"patchscaler: {line}", file=sys.stderr)
    return 1 if lines else 0


def list_methods(settings: Any) -> int:
    """Every kind of method; those that need no file of the user's are tried."""
    from patchscaler.evaluation.specs import DEFAULT_METHODS, KINDS, build_methods, parse_specs

    _, unavailable = build_methods(parse_specs(DEFAULT_METHODS), settings)
    for name, kind in KINDS.items():
        text = f"{name}:{kind.argument}" if kind.argument_needed else name
        print(f"{text:26s} {kind.says}; options: {', '.join([*kind.options, 'name'])}")
        if name in unavailable:
            print(f"{'':26s} unavailable: {unavailable[name]}")
    return 0
