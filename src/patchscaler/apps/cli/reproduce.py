"""`patchscaler reproduce`: the paper's tables and figures, one command each
(docs/reproduction.md).
"""

import argparse
from pathlib import Path
from typing import Any

from patchscaler.apps.cli.common import load_model, model_options
from patchscaler.apps.cli.status_line import StatusLine
from patchscaler.errors import PatchScalerError

DATA = (
    "a data set as NAME=DIR (patchscaler data names them), or a folder of images; may be repeated"
)


def add_parser(commands: Any) -> None:
    reproduce = commands.add_parser(
        "reproduce", help="the paper's tables and figures, with the paper's beside ours"
    )
    kinds = reproduce.add_subparsers(dest="experiment", required=True, metavar="EXPERIMENT")

    def experiment(name: str, function: Any, text: str, data: bool = True) -> Any:
        p = kinds.add_parser(name, help=text, description=text)
        p.set_defaults(function=function)
        if data:
            p.add_argument(
                "--data", action="append", required=True, metavar="[NAME=]DIR", help=DATA
            )
            limit = "the first N images of each"
            p.add_argument("--limit", type=int, default=0, metavar="N", help=limit)
            unchecked = "go on where a data set differs from its release"
            p.add_argument("--unchecked", action="store_true", help=unchecked)
        out = "for JSON and images"
        p.add_argument("-o", "--output", default="reproduction", metavar="DIR", help=out)
        p.add_argument("--seed", type=int, default=0)
        model_options(p)
        return p

    metrics = "of `evaluate` (default: the paper's and DISTS, NIQE, patch-KID)"
    for name, text in (("table1", "methods on LSDIR-Test"), ("table2", "methods on real images")):
        p = experiment(name, methods_table, text)
        methods = (
            "of `compare`; spandrel:FILE,name=BSRGAN and folder:StableSR=DIR find the paper's rows"
        )
        p.add_argument("--methods", metavar="M,M,...", help=methods)
        p.add_argument("--metrics", metavar="M,M,...", help=metrics)
    experiments = {
        "table4": "start timesteps and steps",
        "table5": "prompts",
        "table6": "thresholds",
    }
    for name, text in experiments.items():
        p = experiment(name, ablation, text)
        p.add_argument("--metrics", metavar="M,M,...", help=metrics)
        if name == "table5":
            add = p.add_argument
            add("--text-model", metavar="DIR", help="of `train diffusion --prompt text`")
            add(
                "--captioner", metavar="DIR", help="BLIP-2: folder or hub id (default: the paper's)"
            )
            clip = "CLIP: folder or hub id (default: Stable Diffusion's)"
            add("--text-encoder", metavar="DIR", help=clip)
    for name, function, text in (
        ("table3", table3, "running time at the paper's sizes"),
        ("table3-two", table3_two, "hard patches on one worker, simple and medium on the other"),
    ):
        p = experiment(name, function, text, data=False)
        p.add_argument("--sizes", default="256,512", metavar="S,S", help="sides of the LR image")
        p.add_argument("--repeats", type=int, default=3)
        if name == "table3-two":
            add = p.add_argument
            add("--devices", metavar="A,B", help="of the workers (default: two GPUs, else cpu,cpu)")
            add(
                "--threads", type=int, default=0, help="of each worker (default: half of the cores)"
            )
            paper = "the paper's sizes and steps with random weights"
            add("--paper-size", action="store_true", help=paper)
    p = experiment("figure1a", figure1a, "a patch after 1 ... N steps")
    p.add_argument("--start", type=int, default=1000, help="timestep of the first kind of row")
    p.add_argument("--steps", type=int, default=20, help="its steps")
    experiment("figure5", figure5, "share of the patches in each interval of confidence")
    experiment("figure7", figure7, "groups over images")
    p = experiment("figure8", figure8, "the texture memory by class", data=False)
    p.add_argument("--per-class", type=int, default=10, metavar="N", help="entries of each class")
    p = experiment("figure9", figure9, "retrieved textures of some patches, with their scores")
    patches = "numbers of patches in each image (default: two of its own)"
    p.add_argument("--patches", metavar="I,J,...", help=patches)


# --- tables ---------------------------------------------------------------------------------------


def methods_table(args: argparse.Namespace) -> int:
    from patchscaler.evaluation.specs import Settings
    from patchscaler.reproduce import quality

    first = args.experiment == "table1"
    names = ("device", "dtype", "engine", "model", "autoencoder", "seed")
    settings = Settings(**{n: getattr(args, n) for n in names}, tile=512)
    found = sources(args, originals=first)
    table = quality.table1 if first else quality.table2
    methods = args.methods or quality.DEFAULT_METHODS
    return done(args, table(methods, settings, found, measuring_of(args)))


def ablation(args: argparse.Namespace) -> int:
    from patchscaler.reproduce import ablations

    source, measuring = one_source(args), measuring_of(args)
    pipeline = load_model(args)
    if args.experiment != "table5":
        table = getattr(ablations, args.experiment)
        return done(args, table(pipeline, source, measuring, args.seed), pipeline)
    from patchscaler.models.text_encoders import CAPTIONER, TEXT_ENCODER
    from patchscaler.reproduce.text_method import text_entry

    text = text_entry(
        args.text_model,
        args.captioner or CAPTIONER,
        args.text_encoder or TEXT_ENCODER,
        device=args.device,
        dtype=args.dtype,
        autoencoder=args.autoencoder,
        seed=args.seed,
    )
    return done(args, ablations.table5(pipeline, source, measuring, text, args.seed), pipeline)


def measuring_of(args: argparse.Namespace) -> Any:
    from patchscaler.apps.cli.compare import metric_names
    from patchscaler.devices import choose_device
    from patchscaler.reproduce.measuring import Measuring

    metrics = metric_names(args.metrics)[0] if args.metrics else ()
    status = StatusLine(args.experiment)
    return Measuring(Path(args.output), metrics, choose_device(args.device), status)


def table3(args: argparse.Namespace) -> int:
    from patchscaler.reproduce import speed

    return done(
        args, speed.table3(numbers("--sizes", args.sizes), args.device, args.dtype, args.repeats)
    )


def table3_two(args: argparse.Namespace) -> int:
    from patchscaler.reproduce import speed
    from patchscaler.reproduce.paper_networks import paper_shares
    from patchscaler.reproduce.two_workers import Job, default_devices, default_threads

    one = "" if args.device == "auto" else args.device
    devices = args.devices.split(",") if args.devices else [one, one] if one else default_devices()
    if len(devices) != 2:
        raise PatchScalerError(f"--devices {args.devices}: give two, as cuda:0,cuda:1")
    job = Job(
        speed.images_of(numbers("--sizes", args.sizes)),
        devices=(devices[0], devices[1]),
        model=None if args.paper_size else args.model,
        autoencoder=args.autoencoder,
        dtype=args.dtype,
        threads=args.threads or default_threads(),
        repeats=args.repeats,
        seed=args.seed,
        shares=paper_shares(),
    )
    return done(args, speed.table3_two(job))


# --- figures --------------------------------------------------------------------------------------


def figure1a(args: argparse.Namespace) -> int:
    from patchscaler.reproduce.steps_figure import figure1a as figure

    source, pipeline = one_source(args), load_model(args)
    options = {"start": args.start, "steps": args.steps, "seed": args.seed}
    return done(args, figure(pipeline, source, Path(args.output), **options), pipeline)


def figure5(args: argparse.Namespace) -> int:
    from patchscaler.reproduce import figures

    source, pipeline = one_source(args), load_model(args)
    return done(args, figures.figure5(pipeline, source, Path(args.output)), pipeline)


def figure7(args: argparse.Namespace) -> int:
    from patchscaler.reproduce import figures

    source, pipeline = one_source(args), load_model(args)
    return done(args, figures.figure7(pipeline, source, Path(args.output), args.seed), pipeline)


def figure8(args: argparse.Namespace) -> int:
    from patchscaler.reproduce import figures

    if args.per_class < 1:
        raise PatchScalerError("--per-class takes 1 or more")
    pipeline = load_model(args)
    return done(args, figures.figure8(pipeline, Path(args.output), args.per_class), pipeline)


def figure9(args: argparse.Namespace) -> int:
    from patchscaler.reproduce import figures

    patches = list(numbers("--patches", args.patches)) if args.patches else None
    source, pipeline = one_source(args), load_model(args)
    return done(args, figures.figure9(pipeline, source, Path(args.output), patches), pipeline)


# --- shared ---------------------------------------------------------------------------------------


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers separated by commas. Raises PatchScalerError."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise PatchScalerError(
            f"{option} {text}: give whole numbers separated by commas"
        ) from error


def sources(args: argparse.Namespace, *, originals: bool = False) -> list[Any]:
    """Every --data. Raises PatchScalerError."""
    from patchscaler.images.write import check_writable
    from patchscaler.reproduce.sources import open_source

    if args.limit < 0:
        raise PatchScalerError(f"--limit {args.limit}: take 0 (all) or more")
    check_writable(Path(args.output) / "results.json")
    options = {"limit": args.limit, "seed": args.seed, "unchecked": args.unchecked}
    return [open_source(x, originals=originals, out=args.output, **options) for x in args.data]


def one_source(args: argparse.Namespace) -> Any:
    if len(args.data) > 1:
        raise PatchScalerError(f"{args.experiment} takes one --data at a time")
    return sources(args)[0]


def done(args: argparse.Namespace, report: Any, pipeline: Any = None) -> int:
    """Print, save, and say by the exit code whether anything failed."""
    from patchscaler.reproduce.report import model_record

    if pipeline is not None:
        report.model = model_record(pipeline.model)
    print(report.text())
    print(f"saved: {report.save(args.output)}")
    return 1 if report.failures else 0
