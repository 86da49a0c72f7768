"""`patchscaler compare`: several methods on the same images, quality and cost side by side."""

import argparse
import sys
from pathlib import Path
from typing import Any

from patchscaler.apps.cli.common import model_options
from patchscaler.apps.cli.status_line import StatusLine
from patchscaler.errors import PatchScalerError


def add_parser(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        help="several methods side by side: quality and cost",
        description="Several methods on the same images, quality and cost side by side; of several "
        "folders and degradations (mild,real), each pair has a table. Interrupted runs go on; exit "
        "code 1 where anything failed, or what was named is unavailable.",
    )
    compare.set_defaults(function=run)
    image_options(compare)
    what = compare.add_argument_group("what is compared, and how")
    what.add_argument(
        "--methods",
        metavar="A,B,...",
        help="as ours,ours:budget=.5,bicubic,realesrgan-x4plus,spandrel:FILE,folder:NAME=DIR "
        "(default: all that need no file; --list-methods)",
    )
    score_options(what)
    what.add_argument("--list-methods", action="store_true", help="what is known, what it needs")
    output_options(compare, "comparison")
    model_options(compare.add_argument_group("the model"))


def image_options(parser: Any) -> None:
    """Which images: shared with `evaluate`."""
    add = parser.add_argument_group("images").add_argument
    folder = "DIR[,NAME=DIR...]"
    add("--lr", action="append", metavar=folder, help="LR images")
    hr = "HR images, matched by name (NAME.png, NAME_x4.png)"
    add("--hr", action="append", metavar=folder, help=hr)
    add(
        "--degradation",
        action="append",
        metavar="KIND[,KIND...]",
        help="make the LR images from --hr: bicubic, mild (ResShift's test set), stable "
        "(StableSR's milder training), real (Real-ESRGAN's two orders)",
    )
    add("--limit", type=int, default=0, metavar="N", help="the first N images by name")
    seed = "of the degradation, with each image's name, and of ours"
    add("--seed", type=int, default=0, help=seed)


def score_options(group: Any) -> None:
    """Which scores, and how peers run: shared with `evaluate`."""
    add = group.add_argument
    names = "names, 'default' or 'all' (default: those of `evaluate --list-metrics` with a star)"
    add("--metrics", default="default", metavar="A,B,...", help=names)
    border = "pixels cut off each side before scoring"
    add("--crop-border", type=int, default=0, metavar="N", help=border)
    tile = "peers take larger inputs in tiles of N pixels (default: whole images)"
    add("--tile", type=int, default=0, metavar="N", help=tile)
    overlap = "surroundings each tile sees"
    add("--tile-overlap", type=int, default=16, metavar="N", help=overlap)
    threads = "processor threads (default: all)"
    add("--threads", type=int, default=0, metavar="N", help=threads)


def output_options(parser: Any, folder: str) -> None:
    """Where everything goes: shared with `evaluate`."""
    add = parser.add_argument_group("output").add_argument
    records = "folder of results and records, by which a run is resumed (default: %(default)s)"
    add("-o", "--output", default=folder, metavar="OUT", help=records)
    add("--json", metavar="FILE", help="everything, and all that is needed to repeat it")
    add("--csv", metavar="FILE", help="a line a method and image")
    add("--html", metavar="FILE", help="a page with tables and crops, the worst image first")
    add("--worst-by", metavar="METRIC", help="what the page is sorted by")
    add("-q", "--quiet", action="store_true")


def run(args: argparse.Namespace) -> int:
    from patchscaler.evaluation.specs import DEFAULT_METHODS

    if args.list_methods:
        return list_methods(settings_of(args))
    return measure(args, args.methods or DEFAULT_METHODS, by_name=bool(args.methods))


def measure(args: argparse.Namespace, methods: str, by_name: bool = True) -> int:
    """Run, print and write everything.

    Args:
        args: Of this file's options.
        methods: As --methods.
        by_name: One that is unavailable was named, which makes the exit code 1.
    """
    from patchscaler.devices import choose_device
    from patchscaler.evaluation import report
    from patchscaler.evaluation.cost.timing import torch_threads
    from patchscaler.evaluation.run import compare
    from patchscaler.evaluation.sets import open_sets, split_degradations, split_folders
    from patchscaler.evaluation.specs import parse_specs
    from patchscaler.images.write import check_writable

    if min(args.limit, args.crop_border, args.threads) < 0:
        raise PatchScalerError("--limit, --crop-border and --threads take 0 or more")
    specs = parse_specs(methods)
    names, named = metric_names(args.metrics)
    for file in (args.json, args.csv, args.html, Path(args.output) / "records.jsonl"):
        if file:
            check_writable(Path(file))
    sets = open_sets(
        split_folders(args.lr),
        split_folders(args.hr),
        split_degradations(args.degradation),
        args.seed,
        args.limit,
        finished=getattr(args, "results", None),
    )
    status = StatusLine(args.command, args.quiet)
    with torch_threads(args.threads):
        comparisons = compare(
            specs,
            sets,
            names,
            args.output,
            settings_of(args),
            crop_border=args.crop_border,
            device=choose_device(args.device),
            callback=status,
        )
    status.close()
    print(report.terminal(comparisons))
    if args.json:
        report.write_json(comparisons, args.json)
    if args.csv:
        report.write_csv(comparisons, args.csv)
    if args.html:
        title = f"{', '.join(s.name for s in specs)} on {', '.join(s.title for s in sets)}"
        report.write_html(comparisons, args.html, title, args.worst_by)
    missing = named & {name for c in comparisons for e in c.evaluations for name in e.unavailable}
    if by_name:
        missing |= set(comparisons[0].unavailable)
    if missing:
        print(f"patchscaler: unavailable: {', '.join(sorted(missing))}", file=sys.stderr)
    if failed := report.failures(comparisons):
        print(f"patchscaler: {len(failed)} failed, listed above", file=sys.stderr)
    return 1 if missing or failed else 0


def settings_of(args: argparse.Namespace) -> Any:
    from patchscaler.evaluation.specs import Settings

    names = ("device", "dtype", "engine", "model", "autoencoder", "seed", "threads", "tile")
    return Settings(**{n: getattr(args, n) for n in names}, tile_overlap=args.tile_overlap)


def metric_names(text: str) -> tuple[list[str], set[str]]:
    """--metrics -> names, and those among them that were asked for by name.

    Raises PatchScalerError for unknown ones.
    """
    from patchscaler.evaluation.metrics import DEFAULT_METRICS, METRICS

    groups = {"default": list(DEFAULT_METRICS), "all": list(METRICS)}
    pieces = [piece.strip() for piece in text.split(",") if piece.strip()]
    if unknown := [piece for piece in pieces if piece not in {**groups, **METRICS}]:
        raise PatchScalerError(
            f"unknown metric '{unknown[0]}': choose from {', '.join([*groups, *METRICS])}"
        )
    if not pieces:
        raise PatchScalerError("--metrics names none")
    names = [name for piece in pieces for name in groups.get(piece, [piece])]
    return list(dict.fromkeys(names)), {piece for piece in pieces if piece not in groups}


def list_methods(settings: Any) -> int:
    """Every kind of method; those that need no file of the user's are tried."""
    from patchscaler.evaluation.specs import DEFAULT_METHODS, KINDS, build_methods, parse_specs

    _, unavailable = build_methods(parse_specs(DEFAULT_METHODS), settings)
    for name, kind in KINDS.items():
        text = f"{name}:{kind.argument}" if kind.argument_needed else name
        print(f"{text:26s} {kind.summary}; options: {', '.join([*kind.options, 'name'])}")
        if name in unavailable:
            print(f"{'':26s} unavailable: {unavailable[name]}")
    return 0
