"""`patchscaler benchmark`."""

import argparse
from pathlib import Path
from typing import Any

from patchscaler.cli.common import load_model, model_options
from patchscaler.errors import PatchScalerError


def add_parsers(commands: Any) -> None:
    bench = commands.add_parser("benchmark", help="seconds by stage, adaptive against uniform, beside Real-ESRGAN")
    bench.set_defaults(function=benchmark)
    bench.add_argument("--size", type=int, default=128, help="side of the input")
    bench.add_argument("--image", metavar="FILE", help="a picture to cut the input from (default: made by code)")
    bench.add_argument("--runs", type=int, default=5)
    bench.add_argument("--threads", type=int, default=0, help="processor threads (default: all)")
    bench.add_argument("--json", metavar="FILE")
    model_options(bench)


def benchmark(args: argparse.Namespace) -> int:
    from patchscaler.benchmark import run_benchmark
    from patchscaler.model_folder import find_model
    from patchscaler.pictures.writing import check_writable

    if args.size < 8 or args.runs < 1 or args.threads < 0:
        raise PatchScalerError("--size takes 8 or more, --runs 1 or more, --threads 0 or more")
    if args.json:
        check_writable(Path(args.json))
    return run_benchmark(
        load_model(args), find_model(args.model), args.size, args.image, args.runs, args.threads, args.json
    )
