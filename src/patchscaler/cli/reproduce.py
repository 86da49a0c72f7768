"""`patchscaler reproduce`: the paper's tables and figures, one command each (docs/reproduction.md)."""

import argparse
from pathlib import Path
from typing import Any

from patchscaler.cli.common import load_model, model_options
from patchscaler.errors import PatchScalerError

NEEDS_DATA = "a data set as NAME=DIR (patchscaler data names them), or a folder of pictures; may be repeated"


def add_parser(commands: Any) -> None:
    reproduce = commands.add_parser("reproduce", help="the paper's tables and figures, with the paper's beside ours")
    kinds = reproduce.add_subparsers(dest="experiment", required=True, metavar="EXPERIMENT")

    def experiment(name: str, function: Any, text: str, data: bool = True) -> Any:
        p = kinds.add_parser(name, help=text, description=text)
        p.set_defaults(function=function)
        if data:
            p.add_argument("--data", action="append", required=True, metavar="[NAME=]DIR", help=NEEDS_DATA)
            p.add_argument("--limit", type=int, default=0, metavar="N", help="the first N pictures of each")
            p.add_argument("--unchecked", action="store_true", help="go on where a data set differs from its release")
        p.add_argument("-o", "--output", default="reproduction", metavar="DIR", help="for JSON and pictures")
        p.add_argument("--seed", type=int, default=0)
        model_options(p)
        return p

    p = experiment("figure1a", figure1a, "a patch after 1 ... N steps")
    p.add_argument("--start", type=int, default=1000, help="time the first kind of row starts from")
    p.add_argument("--steps", type=int, default=20, help="its steps")
    experiment("figure5", figure5, "share of the patches in each interval of confidence")
    experiment("figure7", figure7, "groups over pictures")
    p = experiment("figure8", figure8, "the texture memory by class", data=False)
    p.add_argument("--per-class", type=int, default=10, metavar="N", help="entries drawn of each class")
    p = experiment("figure9", figure9, "retrieved textures of some patches, with their scores")
    p.add_argument("--patches", metavar="I,J,...", help="numbers of patches in each picture (default: two of its own)")


# --- figures --------------------------------------------------------------------------------------


def figure1a(args: argparse.Namespace) -> int:
    from patchscaler.reproduction import steps_figure

    source = one_source(args)
    return done(args, steps_figure.figure1a(
        load_model(args), source, Path(args.output), start=args.start, steps=args.steps, seed=args.seed
    ))  # fmt: skip


def figure5(args: argparse.Namespace) -> int:
    from patchscaler.reproduction import figures

    source = one_source(args)
    return done(args, figures.figure5(load_model(args), source, Path(args.output)))


def figure7(args: argparse.Namespace) -> int:
    from patchscaler.reproduction import figures

    source = one_source(args)
    return done(args, figures.figure7(load_model(args), source, Path(args.output), args.seed))


def figure8(args: argparse.Namespace) -> int:
    from patchscaler.reproduction import figures

    if args.per_class < 1:
        raise PatchScalerError("--per-class takes 1 or more")
    return done(args, figures.figure8(load_model(args), Path(args.output), args.per_class))


def figure9(args: argparse.Namespace) -> int:
    from patchscaler.reproduction import figures

    patches = None
    if args.patches:
        try:
            patches = [int(part) for part in args.patches.split(",")]
        except ValueError as error:
            raise PatchScalerError(f"--patches {args.patches}: give numbers separated by commas") from error
    source = one_source(args)
    return done(args, figures.figure9(load_model(args), source, Path(args.output), patches))


# --- shared ---------------------------------------------------------------------------------------


def sources(args: argparse.Namespace, *, originals: bool = False) -> list[Any]:
    """Every --data. Raises PatchScalerError."""
    from patchscaler.pictures.writing import check_writable
    from patchscaler.reproduction.pictures import open_source

    if args.limit < 0:
        raise PatchScalerError(f"--limit {args.limit}: take 0 (all) or more")
    check_writable(Path(args.output) / "results.json")
    return [
        open_source(
            text, originals=originals, limit=args.limit, seed=args.seed, unchecked=args.unchecked, out=args.output
        )
        for text in args.data
    ]


def one_source(args: argparse.Namespace) -> Any:
    if len(args.data) > 1:
        raise PatchScalerError(f"{args.experiment} takes one --data at a time")
    return sources(args)[0]


def done(args: argparse.Namespace, report: Any) -> int:
    """Print, save, and say by the exit code whether anything failed."""
    from patchscaler.model_folder import find_model
    from patchscaler.reproduction.report import folder_hashes

    report.model = report.model or folder_hashes(find_model(args.model))
    print(report.text())
    print(f"saved: {report.save(args.output)}")
    return 1 if report.failures else 0
