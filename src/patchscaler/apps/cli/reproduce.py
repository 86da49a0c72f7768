"""`patchscaler reproduce`: the paper's tables and figures, one command each
(docs/reproduction.md).
"""

import argparse
from pathlib import Path
from typing import Any

from patchscaler.apps.cli.common import load_model, model_options
from patchscaler.errors import PatchScalerError
from patchscaler.sampling_options import numbers

NEEDS_DATA = (
    "a data set as NAME=DIR (patchscaler data names them), or a folder of pictures; may be repeated"
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
                "--data", action="append", required=True, metavar="[NAME=]DIR", help=NEEDS_DATA
            )
            p.add_argument(
                "--limit", type=int, default=0, metavar="N", help="the first N pictures of each"
            )
            p.add_argument(
                "--unchecked",
                action="store_true",
                help="go on where a data set differs from its release",
            )
        p.add_argument(
            "-o", "--output", default="reproduction", metavar="DIR", help="for JSON and pictures"
        )
        p.add_argument("--seed", type=int, default=0)
        model_options(p)
        return p

    def measured(p: Any) -> None:
        p.add_argument(
            "--metrics",
            metavar="M,M,...",
            help="of `evaluate` (default: the paper's and DISTS, NIQE, BRISQUE)",
        )

    for name, text in (("table1", "methods on LSDIR-Test"), ("table2", "methods on real pictures")):
        p = experiment(name, methods_table, text)
        p.add_argument(
            "--methods",
            metavar="M,M,...",
            help="of `compare`; spandrel:FILE,name=BSRGAN and "
            "folder:StableSR=DIR find the paper's rows by name",
        )
        measured(p)
    for name, text in (
        ("table4", "start times and steps"),
        ("table5", "prompts"),
        ("table6", "thresholds"),
    ):
        p = experiment(name, ablation, text)
        measured(p)
        if name == "table5":
            p.add_argument(
                "--text-model", metavar="DIR", help="a model of `train diffusion --prompt text`"
            )
            p.add_argument(
                "--captioner", metavar="DIR", help="BLIP-2: folder or hub id (default: the paper's)"
            )
            p.add_argument(
                "--text-encoder",
                metavar="DIR",
                help="CLIP: folder or hub id (default: Stable Diffusion's)",
            )
    p = experiment("table3", table3, "running time at the paper's sizes", data=False)
    p.add_argument("--sizes", default="256,512", metavar="S,S", help="sides of the small picture")
    p.add_argument("--runs", type=int, default=3)
    p.add_argument(
        "--extrapolate",
        nargs="?",
        type=int,
        const=64,
        default=0,
        metavar="SIDE",
        help="run each network once at this side (64 unless given), the rest by counting",
    )
    p = experiment(
        "table3-two",
        table3_two,
        "hard patches on one worker, simple and medium on the other",
        data=False,
    )
    p.add_argument("--sizes", default="256,512", metavar="S,S", help="sides of the small picture")
    p.add_argument("--runs", type=int, default=3)
    p.add_argument(
        "--devices", metavar="A,B", help="of the two workers (default: two GPUs, else cpu,cpu)"
    )
    p.add_argument(
        "--threads", type=int, default=0, help="of each worker (default: half of the cores)"
    )
    p.add_argument(
        "--paper-size", action="store_true", help="the paper's sizes and steps with random weights"
    )
    p = experiment("figure1a", figure1a, "a patch after 1 ... N steps")
    p.add_argument("--start", type=int, default=1000, help="time the first kind of row starts from")
    p.add_argument("--steps", type=int, default=20, help="its steps")
    experiment("figure5", figure5, "share of the patches in each interval of confidence")
    experiment("figure7", figure7, "groups over pictures")
    p = experiment("figure8", figure8, "the texture memory by class", data=False)
    p.add_argument(
        "--per-class", type=int, default=10, metavar="N", help="entries drawn of each class"
    )
    p = experiment("figure9", figure9, "retrieved textures of some patches, with their scores")
    p.add_argument(
        "--patches",
        metavar="I,J,...",
        help="numbers of patches in each picture (default: two of its own)",
    )
    p = experiment(
        "steps", steps, "quality against steps: an experiment of ours, not the paper's", data=False
    )
    p.add_argument(
        "--hr",
        action="append",
        required=True,
        metavar="DIR[,NAME=DIR...]",
        help="originals, as of `compare`",
    )
    p.add_argument(
        "--degradation",
        action="append",
        metavar="KIND",
        help="as of `compare`; several: KIND,KIND (default: mild)",
    )
    p.add_argument(
        "--steps",
        default="0,1,2,4,8,20",
        metavar="N,N,...",
        help="of medium and hard patches alike",
    )
    p.add_argument("--limit", type=int, default=0, metavar="N", help="the first N pictures of each")
    p.add_argument(
        "--metrics", metavar="M,M,...", help="of `evaluate` (default: lpips-alex, dists, psnr-y)"
    )


# --- tables ---------------------------------------------------------------------------------------


def methods_table(args: argparse.Namespace) -> int:
    from patchscaler.evaluation.specs import Settings
    from patchscaler.reproduce import quality

    first = args.experiment == "table1"
    found, measuring = sources(args, originals=first), measuring_of(args)
    settings = Settings(args.device, args.dtype, args.model, args.autoencoder, args.seed, tile=512)
    table = quality.table1 if first else quality.table2
    return done(args, table(args.methods or quality.DEFAULT_METHODS, settings, found, measuring))


def ablation(args: argparse.Namespace) -> int:
    from patchscaler.reproduce import ablations

    source, measuring = one_source(args), measuring_of(args)
    model = load_model(args)
    if args.experiment == "table4":
        return done(args, ablations.table4(model, source, measuring, args.seed))
    if args.experiment == "table6":
        return done(args, ablations.table6(model, source, measuring, args.seed))
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
    return done(args, ablations.table5(model, source, measuring, text, args.seed))


def measuring_of(args: argparse.Namespace) -> Any:
    import sys

    from patchscaler.devices import choose_device
    from patchscaler.evaluation.metrics import METRICS
    from patchscaler.reproduce.quality import Measuring

    metrics = tuple(m for m in (args.metrics or "").split(",") if m)
    if unknown := [m for m in metrics if m not in METRICS]:
        raise PatchScalerError(f"unknown metric '{unknown[0]}': choose from {', '.join(METRICS)}")
    return Measuring(
        Path(args.output),
        metrics,
        choose_device(args.device),
        lambda text: print(f"... {text}", file=sys.stderr),
    )


def table3(args: argparse.Namespace) -> int:
    from patchscaler.reproduce import speed

    if args.extrapolate and args.extrapolate < 32:
        raise PatchScalerError("--extrapolate takes 32 or more: a patch is 32 pixels of the input")
    return done(
        args,
        speed.table3(sizes_of(args), args.device, args.dtype, args.runs, args.extrapolate),
        model=False,
    )


def table3_two(args: argparse.Namespace) -> int:
    import os

    from patchscaler.evaluation.cost.paper_size import paper_shares
    from patchscaler.reproduce import speed
    from patchscaler.reproduce.two_workers import Job, default_devices

    one = "" if args.device == "auto" else args.device
    devices = (
        tuple((args.devices or f"{one},{one}").split(","))
        if args.devices or one
        else default_devices()
    )
    if len(devices) != 2:
        raise PatchScalerError(f"--devices {args.devices}: give two, as cuda:0,cuda:1")
    job = Job(
        speed.pictures_of(sizes_of(args)),
        (devices[0], devices[1]),
        None if args.paper_size else args.model,
        args.autoencoder,
        args.dtype,
        args.threads or max(1, (os.cpu_count() or 2) // 2),
        args.runs,
        args.seed,
        paper_shares(),
    )
    return done(args, speed.table3_two(job), model=not args.paper_size)


def sizes_of(args: argparse.Namespace) -> tuple[int, ...]:
    if args.runs < 1:
        raise PatchScalerError("--runs takes 1 or more")
    return numbers("--sizes", args.sizes, None, int)


# --- figures --------------------------------------------------------------------------------------


def figure1a(args: argparse.Namespace) -> int:
    from patchscaler.reproduce import steps_figure

    source = one_source(args)
    return done(
        args,
        steps_figure.figure1a(
            load_model(args),
            source,
            Path(args.output),
            start=args.start,
            steps=args.steps,
            seed=args.seed,
        ),
    )


def figure5(args: argparse.Namespace) -> int:
    from patchscaler.reproduce import figures

    source = one_source(args)
    return done(args, figures.figure5(load_model(args), source, Path(args.output)))


def figure7(args: argparse.Namespace) -> int:
    from patchscaler.reproduce import figures

    source = one_source(args)
    return done(args, figures.figure7(load_model(args), source, Path(args.output), args.seed))


def figure8(args: argparse.Namespace) -> int:
    from patchscaler.reproduce import figures

    if args.per_class < 1:
        raise PatchScalerError("--per-class takes 1 or more")
    return done(args, figures.figure8(load_model(args), Path(args.output), args.per_class))


def figure9(args: argparse.Namespace) -> int:
    from patchscaler.reproduce import figures

    patches = None
    if args.patches:
        try:
            patches = [int(part) for part in args.patches.split(",")]
        except ValueError as error:
            raise PatchScalerError(
                f"--patches {args.patches}: give numbers separated by commas"
            ) from error
    source = one_source(args)
    return done(args, figures.figure9(load_model(args), source, Path(args.output), patches))


# --- of ours --------------------------------------------------------------------------------------


def steps(args: argparse.Namespace) -> int:
    from patchscaler.apps.cli.compare import find_sets
    from patchscaler.evaluation.sets import split_degradations, split_folders
    from patchscaler.images.write import check_writable
    from patchscaler.reproduce.steps_quality import steps_quality

    counts = numbers("--steps", args.steps, None, int)
    if min(*counts, args.limit) < 0:
        raise PatchScalerError("--steps and --limit take 0 or more")
    measuring = measuring_of(args)
    args.lr, args.hr, args.degradation = (
        [],
        split_folders(args.hr),
        split_degradations(args.degradation) or ["mild"],
    )
    check_writable(Path(args.output) / "steps.json")
    sets = find_sets(args)
    return done(args, steps_quality(load_model(args), sets, counts, measuring, args.seed))


# --- shared ---------------------------------------------------------------------------------------


def sources(args: argparse.Namespace, *, originals: bool = False) -> list[Any]:
    """Every --data. Raises PatchScalerError."""
    from patchscaler.images.write import check_writable
    from patchscaler.reproduce.pictures import open_source

    if args.limit < 0:
        raise PatchScalerError(f"--limit {args.limit}: take 0 (all) or more")
    check_writable(Path(args.output) / "results.json")
    return [
        open_source(
            text,
            originals=originals,
            limit=args.limit,
            seed=args.seed,
            unchecked=args.unchecked,
            out=args.output,
        )
        for text in args.data
    ]


def one_source(args: argparse.Namespace) -> Any:
    if len(args.data) > 1:
        raise PatchScalerError(f"{args.experiment} takes one --data at a time")
    return sources(args)[0]


def done(args: argparse.Namespace, report: Any, model: bool = True) -> int:
    """Print, save, and say by the exit code whether anything failed. model: whether args.model was
    used.
    """
    from patchscaler.models.folder import find_model
    from patchscaler.reproduce.report import folder_hashes

    if model and not report.model:
        report.model = folder_hashes(find_model(args.model))
    print(report.text())
    print(f"saved: {report.save(args.output)}")
    return 1 if report.failures else 0
