"""`patchscaler evaluate`: score one method, or finished images, on a set."""

import argparse
from typing import Any

from patchscaler.apps.cli.common import model_options
from patchscaler.apps.cli.compare import image_options, measure, output_options, score_options


def add_parser(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="score a method, or finished images, on a set of images",
        description="Score a method, or finished images, on sets of images. Interrupted runs go "
        "on; exit code 1 where anything failed.",
    )
    evaluate.set_defaults(function=run)
    image_options(evaluate)
    what = evaluate.add_argument_group("what is scored, and how")
    method = "as one of `compare`: ours, bicubic, spandrel:FILE ... (default: ours)"
    what.add_argument("--method", default="ours", metavar="METHOD", help=method)
    results = "finished images to score instead of running a method"
    what.add_argument("--results", metavar="DIR", help=results)
    score_options(what)
    listed = "names, directions, protocols, what is unavailable"
    what.add_argument("--list-metrics", action="store_true", help=listed)
    output_options(evaluate, "evaluation")
    model_options(evaluate.add_argument_group("the model"))


def run(args: argparse.Namespace) -> int:
    if args.list_metrics:
        return list_metrics(args.crop_border)
    return measure(args, f"folder:results={args.results}" if args.results else args.method)


def list_metrics(crop_border: int) -> int:
    from patchscaler.evaluation.metrics import DEFAULT_METRICS, METRICS, resolve_metrics

    found, unavailable = resolve_metrics(list(METRICS), crop_border)
    protocols = {m.name: f"{m.arrow} {m.protocol}" for m in found}
    for name in METRICS:
        star = "*" if name in DEFAULT_METRICS else " "
        print(f"{star} {name:13s} {protocols.get(name, f'unavailable: {unavailable.get(name)}')}")
    return 0
