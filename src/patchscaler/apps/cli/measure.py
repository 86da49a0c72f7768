"""`patchscaler benchmark`: what enlarging costs, here."""

import argparse
import sys
from pathlib import Path
from typing import Any

from patchscaler.apps.cli.common import load_model, model_options
from patchscaler.errors import PatchScalerError
from patchscaler.sampling_options import numbers

TABLE_3_SIZES = (256, 512)
TILE = 512  # peers run larger pictures in tiles of this side: whole, they would take gigabytes


def add_parsers(commands: Any) -> None:
    bench = commands.add_parser(
        "benchmark",
        help="seconds by stage, evaluations, FLOPs, memory; beside uniform sampling and "
        "Real-ESRGAN",
    )
    bench.set_defaults(function=benchmark)
    bench.add_argument("--size", type=int, help="side of the input (default: 128)")
    bench.add_argument(
        "--image",
        metavar="FILE",
        help="a picture whose middle square, reduced to --size, "
        "is the input (default: made by code)",
    )
    bench.add_argument(
        "--runs", type=int, default=5, help="after one that warms up; the median counts"
    )
    bench.add_argument(
        "--threads",
        default="0",
        metavar="N[,N...]",
        help="processor threads (default: all); several are a sweep",
    )
    bench.add_argument(
        "--against",
        default="realesrgan-x4plus",
        metavar="METHODS",
        help="methods of `compare` to time in the same run; 'none' for none",
    )
    bench.add_argument(
        "--engines",
        metavar="E,E,...",
        help="these engines side by side and nothing else, as "
        "torch,onnxruntime,openvino (docs/onnx.md)",
    )
    bench.add_argument("--json", metavar="FILE")
    bench.add_argument(
        "--plot", metavar="FILE", help="draw it (.png, .svg, .pdf; needs the `plots` extra)"
    )
    sweeps = bench.add_argument_group("sweeps, one number varied at a time")
    sweeps.add_argument(
        "--sweep",
        nargs="?",
        const="128,256,512,1024",
        metavar="SIZES",
        help="sides of the input and how the seconds grow (128,256,512,1024 unless given)",
    )
    sweeps.add_argument("--overlap", metavar="O,O,...", help="of patches, in latents, as 8,4,2,0")
    sweeps.add_argument(
        "--steps", nargs="+", metavar="N1,N2,N3", help="of the groups, as 0,0,0 0,1,1 1,2,4"
    )
    sweeps.add_argument("--batch-sizes", metavar="B,B,...", help="patches at once, as 1,8,64")
    sweeps.add_argument("--dtypes", metavar="D,D,...", help="as float32,bfloat16")
    paper = bench.add_argument_group("the paper's Table 3, with random weights")
    paper.add_argument(
        "--paper-size",
        action="store_true",
        help="the `paper` preset at 256->1024 and 512->2048, or "
        "at --size, beside SwinIR-GAN and LDM",
    )
    paper.add_argument(
        "--extrapolate",
        nargs="?",
        type=int,
        const=64,
        default=0,
        metavar="SIDE",
        help="run each network once at this side (64 unless given), the rest by counting",
    )
    model_options(bench)


def benchmark(args: argparse.Namespace) -> int:
    from patchscaler.evaluation.cost import report
    from patchscaler.evaluation.cost.plots import check_plot, plot_benchmark
    from patchscaler.images.write import check_writable

    if (args.size is not None and args.size < 8) or args.runs < 1:
        raise PatchScalerError("--size takes 8 or more, --runs 1 or more")
    if args.json:
        check_writable(Path(args.json))
    if args.plot:
        check_plot(args.plot)
    if args.engines:
        return engines(args)
    if args.paper_size:
        return paper_size(args)
    if args.extrapolate:
        raise PatchScalerError("--extrapolate belongs to --paper-size")
    from patchscaler.evaluation.cost.benchmark import benchmark as measure
    from patchscaler.models.folder import find_model

    def load(dtype: str | None) -> Any:
        return load_model(argparse.Namespace(**(vars(args) | ({"dtype": dtype} if dtype else {}))))

    record = measure(
        load,
        find_model(args.model),
        plan_of(args),
        lambda text: print(f"... {text}", file=sys.stderr),
    )
    print("\n".join(report.terminal(record)))
    if args.json:
        report.save_json(record, args.json)
    if args.plot:
        plot_benchmark(record, args.plot)
    return 0


def engines(args: argparse.Namespace) -> int:
    """Torch beside ONNX Runtime and OpenVINO."""
    from patchscaler.engines.onnx.engine import ENGINES
    from patchscaler.evaluation.cost.engines import compare_engines, engine_lines
    from patchscaler.evaluation.cost.pictures import square_of, synthetic_photo
    from patchscaler.evaluation.cost.sweeps import threads

    names = args.engines.split(",")
    if unknown := sorted(set(names) - set(ENGINES)):
        raise PatchScalerError(f"--engines {', '.join(unknown)}: choose of {', '.join(ENGINES)}")
    if args.json or args.plot or args.paper_size:
        raise PatchScalerError(
            "--engines prints its lines: leave --json, --plot and --paper-size out"
        )
    side = args.size or 128
    picture = square_of(args.image, side) if args.image else synthetic_photo(side)
    (number,) = listed("--threads", args.threads, int, 0)[:1]
    with threads(number) as count:
        times = compare_engines(
            lambda name: load_model(
                argparse.Namespace(**(vars(args) | {"engine": name, "device": "cpu"}))
            ),
            names,
            picture,
            args.runs,
        )
    height, width = picture.shape[:2]
    print(
        f"{width}x{height} -> {4 * width}x{4 * height}, {count} threads, {args.runs} rounds, "
        "engines in turn"
    )
    print("\n".join(engine_lines(times)))
    return 0


def plan_of(args: argparse.Namespace) -> Any:
    """The options -> what to measure. A method that is not to be had is named and left out."""
    from patchscaler.evaluation.cost.benchmark import Plan
    from patchscaler.evaluation.specs import Settings, build_methods, parse_specs

    counts = listed("--threads", args.threads, int, 0)
    threads = counts[0] if len(counts) == 1 else 0
    settings = Settings(
        args.device, args.dtype, args.model, args.autoencoder, threads=threads, tile=TILE
    )
    given = {"--device": args.device, "--dtype": args.dtype, "--autoencoder": args.autoencoder}
    specs = [] if args.against in ("", "none") else parse_specs(args.against)
    methods, unavailable = build_methods(specs, settings)
    for name, reason in unavailable.items():
        print(f"{name} left out: {reason}")
    return Plan(
        size=args.size or 128,
        image=args.image,
        runs=args.runs,
        threads=threads,
        against={method.name: method.upscale for method in methods},
        sizes=listed("--sweep", args.sweep, int, 8),
        overlaps=listed("--overlap", args.overlap, int, 0),
        steps=[numbers("--steps", text, 3, int) for text in args.steps or ()],
        batch_sizes=listed("--batch-sizes", args.batch_sizes, int, 1),
        dtypes=listed("--dtypes", args.dtypes, str),
        thread_counts=counts if len(counts) > 1 else (),
        options=[part for option, value in given.items() if value for part in (option, value)],
    )


def listed(option: str, text: str | None, kind: Any, least: int | None = None) -> tuple[Any, ...]:
    """Values separated by commas; none where the option was not given."""
    if not text:
        return ()
    values = numbers(option, text, None, kind)
    if least is not None and min(values) < least:
        raise PatchScalerError(f"{option} {text}: take {least} or more")
    return values


def paper_size(args: argparse.Namespace) -> int:
    """Table 3."""
    from patchscaler.devices import choose_device, choose_dtype
    from patchscaler.evaluation.cost import report
    from patchscaler.evaluation.cost.paper_size import assumptions, paper_rows, paper_shares
    from patchscaler.evaluation.cost.plots import plot_paper
    from patchscaler.evaluation.cost.sweeps import threads
    from patchscaler.evaluation.environment import environment

    device = choose_device(args.device)
    dtype = choose_dtype(args.dtype, device)
    if args.extrapolate and args.extrapolate < 32:
        raise PatchScalerError("--extrapolate takes 32 or more: a patch is 32 pixels of the input")
    sizes = (args.size,) if args.size else TABLE_3_SIZES
    if min(sizes) % 2:
        raise PatchScalerError(
            "--size takes even numbers here: whole latents of 8 pixels of the output"
        )
    counts = listed("--threads", args.threads, int, 0)
    if len(counts) > 1:
        raise PatchScalerError("--threads takes one number with --paper-size")
    with threads(counts[0]) as count:
        rows, unavailable, peak = paper_rows(sizes, device, dtype, args.runs, args.extrapolate)
    print(f"Table 3 at paper size: {device}, {dtype}, {count} threads, median of {args.runs}")
    print("\n".join([*report.paper_table(rows, unavailable, peak), *assumptions(paper_shares())]))
    record = report.paper_record(rows, unavailable, peak)
    if args.json:
        record |= {
            "device": device,
            "dtype": str(dtype),
            "threads": count,
            "runs": args.runs,
            "assumptions": assumptions(paper_shares()),
            "environment": environment(),
        }
        report.save_json(record, args.json)
    if args.plot:
        plot_paper(record["rows"], args.plot)
    return 0
