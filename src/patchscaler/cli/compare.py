"""`patchscaler compare`: several methods on the same pictures, quality and cost side by side."""

import argparse
import sys
from pathlib import Path
from typing import Any

from patchscaler.cli.common import model_options
from patchscaler.cli.evaluate import (
    find_pictures,
    metric_names,
    output_options,
    picture_options,
    progress,
    score_options,
)
from patchscaler.errors import PatchScalerError


def add_parser(commands: Any) -> None:
    compare = commands.add_parser(
        "compare", help="several methods side by side: quality and cost",
        description="Several methods on the same pictures, quality and cost side by side. Runs that were interrupted "
        "go on; exit code 1 where anything failed, or a method asked for by name is unavailable.",
    )  # fmt: skip
    compare.set_defaults(function=run)
    picture_options(compare)
    what = compare.add_argument_group("what is compared, and how")
    what.add_argument("--methods", metavar="A,B,...", help="as ours,ours:steps=0,0,0,bicubic,realesrgan-x4plus,"
                      "spandrel:FILE,folder:NAME=DIR (default: all that need no file; --list-methods)")  # fmt: skip
    score_options(what)
    what.add_argument("--tile", type=int, default=0, metavar="N", help="peers take larger inputs in tiles of N pixels "
                      "(default: whole pictures)")  # fmt: skip
    what.add_argument("--tile-overlap", type=int, default=16, metavar="N", help="surroundings each tile sees")
    what.add_argument("--threads", type=int, default=0, metavar="N", help="processor threads (default: all)")
    what.add_argument("--no-memory", action="store_true", help="do not start a process a method to see its peak memory")
    what.add_argument("--list-methods", action="store_true", help="what is known, what it needs, what is unavailable")
    output_options(compare, "comparison")
    model_options(compare.add_argument_group("the model"))


def run(args: argparse.Namespace) -> int:
    from patchscaler.cost.sweeps import threads
    from patchscaler.devices import choose_device
    from patchscaler.evaluation import comparison_report as report
    from patchscaler.evaluation.compare import compare
    from patchscaler.evaluation.specs import DEFAULT_METHODS, Settings, parse_specs
    from patchscaler.pictures.writing import check_writable

    settings = Settings(
        args.device, args.dtype, args.model, args.autoencoder, args.seed, args.threads, args.tile, args.tile_overlap
    )
    if args.list_methods:
        return list_methods(settings)
    check_options(args)
    specs = parse_specs(args.methods or DEFAULT_METHODS)
    names, asked = metric_names(args.metrics)
    for file in (args.json, args.csv, args.html, Path(args.output) / "records.jsonl"):
        if file:
            check_writable(Path(file))
    pairs, failures = find_pictures(args)
    if not pairs:
        for failure in failures:
            print(f"patchscaler: {failure}", file=sys.stderr)
        raise PatchScalerError("no picture can be measured")
    bar = progress(args.quiet)

    def show(method: str, done: int, total: int, name: str) -> None:
        if bar:
            bar(done, total, f"{method}: {name}")

    with threads(args.threads):
        comparison = compare(
            specs, pairs, names, args.output, settings, memory=not args.no_memory, progress=show,
            crop_border=args.crop_border, device=choose_device(args.device), niqe_parameters=args.niqe_parameters,
            failures=failures,
        )  # fmt: skip
    print(report.terminal(comparison))
    if args.json:
        report.write_json(comparison, args.json)
    if args.csv:
        report.write_csv(comparison, args.csv)
    if args.html:
        title = f"{len(comparison.evaluations)} methods on {Path(args.hr or args.lr).name}"
        report.write_html(comparison, pairs, args.html, title=title, worst_by=args.worst_by)
    return exit_code(comparison, asked, by_name=bool(args.methods))


def check_options(args: argparse.Namespace) -> None:
    """Raises PatchScalerError for options that make no sense together."""
    if not (args.lr or args.hr):
        raise PatchScalerError("give pictures: --lr DIR (with --hr DIR), or --hr DIR with --degradation KIND")
    if args.hr and not (args.lr or args.degradation):
        kinds = "bicubic (mild, stable, real)"
        raise PatchScalerError(f"--hr alone has nothing to enlarge: add --degradation {kinds}, or --lr DIR")
    if min(args.limit, args.crop_border, args.threads) < 0:
        raise PatchScalerError("--limit, --crop-border and --threads take 0 or more")
    if args.tile < 0 or args.tile_overlap < 0 or (args.tile and args.tile <= 2 * args.tile_overlap):
        raise PatchScalerError(f"--tile takes 0, or more than twice --tile-overlap ({args.tile_overlap})")
    if args.worst_by and not args.html:
        raise PatchScalerError("--worst-by sorts the page: add --html FILE")


def exit_code(comparison: Any, asked: set[str], by_name: bool) -> int:
    """1 where a picture failed, or what was asked for by name is not to be had; each said in one line."""
    metrics = {name for e in comparison.evaluations for name in e.unavailable}
    lines = []
    if comparison.failures:
        lines.append(f"{len(comparison.failures)} failed, listed above")
    if unknown := [name for name, cost in comparison.costs.items() if cost.memory_failure]:
        lines.append(f"peak memory could not be measured: {', '.join(unknown)}")
    if missing := sorted(asked & metrics):
        lines.append(f"asked for but unavailable: {', '.join(missing)}")
    if by_name and comparison.unavailable:
        lines.append(f"asked for but unavailable: {', '.join(comparison.unavailable)}")
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
