"""`patchscaler benchmark`: what upscaling costs here, beside Real-ESRGAN x4plus at its fastest."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from patchscaler.apps.cli.common import load_model, model_options


def add_parsers(commands: Any) -> None:
    bench = commands.add_parser(
        "benchmark",
        help="ours beside Real-ESRGAN x4plus through its fastest runtime",
        description="Ours by default and with every patch hard, beside Real-ESRGAN x4plus through "
        "every runtime of this machine: one run, same images and threads, repeats in alternation, "
        "medians.",
    )
    bench.set_defaults(function=benchmark)
    add = bench.add_argument
    add("--size", type=int, default=128, help="side of the LR image (default: %(default)s)")
    images = "its middle square, reduced to --size, is the LR image; may be repeated"
    add("--image", action="append", default=[], metavar="FILE", help=images)
    add("--repeats", type=int, default=5, help="after one that warms up (default: %(default)s)")
    add("--threads", type=int, default=0, metavar="N", help="processor threads (default: all)")
    graph = "x4plus quantized, an OpenVINO graph, as one more runtime"
    add("--int8-graph", metavar="FILE.xml", help=graph)
    add("--ours-only", action="store_true", help="leave x4plus out")
    cold = "also start the command as a process of its own, twice"
    add("--cold-start", action="store_true", help=cold)
    add("--json", metavar="FILE")
    model_options(bench, engine="auto")


def benchmark(args: argparse.Namespace) -> int:
    from patchscaler.evaluation.cost.benchmark import Plan, lines
    from patchscaler.evaluation.cost.benchmark import benchmark as measure
    from patchscaler.evaluation.report import write_text
    from patchscaler.images.write import check_writable

    if args.json:
        check_writable(Path(args.json))
    names = ("model", "device", "dtype", "engine")
    options = [part for n in names for part in (f"--{n}", getattr(args, n))]
    plan = Plan(
        images=args.image,
        size=args.size,
        repeats=args.repeats,
        threads=args.threads,
        int8_graph=args.int8_graph,
        peers=not args.ours_only,
        cold_start=options if args.cold_start else None,
    )
    record = measure(load_model(args), plan, lambda text: print(f"... {text}", file=sys.stderr))
    print("\n".join(lines(record)))
    if args.json:
        write_text(args.json, json.dumps(record, indent=1) + "\n")
    return 0
