"""`patchscaler evaluate`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from patchscaler.apps.cli.common import load_model, model_options
from patchscaler.apps.cli.status_line import StatusLine
from patchscaler.errors import PatchScalerError


def add_parser(commands: Any) -> None:
    ev = commands.add_parser(
        "evaluate",
        help="score a method, or finished pictures, on a set of pictures",
        description="Score a method, or finished pictures, on a set of pictures. Runs that were "
        "interrupted go on; "
        "exit code 1 where anything failed.",
    )
    ev.set_defaults(function=evaluate)
    picture_options(ev)
    what = ev.add_argument_group("what is scored, and how")
    what.add_argument(
        "--method",
        default="ours",
        metavar="METHOD",
        help="as for `compare`: ours, bicubic, lanczos, "
        "realesrgan-x4plus, spandrel:FILE ... (default: ours)",
    )
    what.add_argument(
        "--results", metavar="DIR", help="finished pictures to score instead of running a method"
    )
    score_options(what)
    output_options(ev, "evaluation")
    other = ev.add_argument_group("other uses")
    other.add_argument(
        "--list-metrics",
        action="store_true",
        help="names, directions, protocols, what is unavailable",
    )
    other.add_argument(
        "--confidence",
        action="store_true",
        help="how well the model knows where its coarse picture is wrong, patch by patch",
    )
    other.add_argument(
        "--round-trip",
        action="store_true",
        help="what the model's autoencoder alone costs: --hr encoded and decoded",
    )
    other.add_argument(
        "--fit-niqe", metavar="DIR", help="fit NIQE's parameters to good pictures, write them to -o"
    )
    model_options(ev.add_argument_group("the model"))


def picture_options(parser: Any, several: bool = False) -> None:
    """Which pictures: shared with `compare`, which takes several folders and kinds."""
    folder = "DIR[,NAME=DIR...]" if several else "DIR"
    data = parser.add_argument_group("pictures")
    data.add_argument("--lr", action="append", metavar=folder, help="small pictures")
    data.add_argument(
        "--hr",
        action="append",
        metavar=folder,
        help="originals, matched by name (NAME.png, NAME_x4.png)",
    )
    data.add_argument(
        "--degradation",
        action="append",
        metavar="KIND",
        help="make the small pictures from --hr: "
        "bicubic, mild (as ResShift's test set), stable (StableSR's milder training), real "
        "(Real-ESRGAN's two orders)" + ("; several: KIND,KIND" if several else ""),
    )
    data.add_argument(
        "--limit",
        type=int,
        default=0,
        metavar="N",
        help="the first N pictures by name (default: all)",
    )
    data.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the degradation, with each picture's name, and of ours",
    )


def score_options(group: Any) -> None:
    """Which scores: shared with `compare`."""
    group.add_argument(
        "--metrics",
        default="default",
        metavar="A,B,...",
        help="names, 'default' or 'all' (default: those of --list-metrics with a star)",
    )
    group.add_argument(
        "--crop-border",
        type=int,
        default=0,
        metavar="N",
        help="pixels cut off each side before scoring",
    )
    group.add_argument(
        "--niqe-parameters", metavar="FILE", help="of --fit-niqe, in place of the published ones"
    )


def output_options(parser: Any, folder: str) -> None:
    """Where everything goes: shared with `compare`."""
    out = parser.add_argument_group("output")
    out.add_argument(
        "-o",
        "--output",
        default=folder,
        metavar="OUT",
        help="folder of results and records, by which a run is resumed (default: %(default)s)",
    )
    out.add_argument(
        "--json", metavar="FILE", help="everything, and all that is needed to repeat it"
    )
    out.add_argument(
        "--csv", metavar="FILE", help="a line a picture; of `compare`, a line a method"
    )
    out.add_argument(
        "--html", metavar="FILE", help="a page with tables and crops, the worst picture first"
    )
    out.add_argument("--worst-by", metavar="METRIC", help="what the page is sorted by")
    out.add_argument("-q", "--quiet", action="store_true")


def evaluate(args: argparse.Namespace) -> int:
    if args.list_metrics:
        return list_metrics(args)
    if args.fit_niqe:
        return fit_niqe(args)
    take_one_set(args)
    if args.confidence:
        return confidence(args)
    if args.round_trip:
        return round_trip(args)
    from patchscaler.devices import choose_device
    from patchscaler.evaluation import report
    from patchscaler.evaluation.run import evaluate as run
    from patchscaler.images.write import check_writable

    check_options(args)
    names, asked = metric_names(args.metrics)
    files = [Path(file) for file in (args.json, args.csv, args.html) if file]
    for file in (*files, Path(args.output) / "records.jsonl"):
        check_writable(file)
    pairs, failures = find_pictures(args)
    method = find_method(args, pairs, failures) if pairs else None
    if method is None:
        for failure in failures:
            print(f"patchscaler: {failure}", file=sys.stderr)
        raise PatchScalerError("no picture can be measured")
    evaluation = run(
        method,
        pairs,
        names,
        args.output,
        crop_border=args.crop_border,
        device=choose_device(args.device),
        niqe_parameters=args.niqe_parameters,
        failures=failures,
        progress=progress(args.quiet),
    )
    print(report.terminal_table([evaluation]))
    if args.json:
        report.write_json([evaluation], args.json)
    if args.csv:
        report.write_csv([evaluation], args.csv)
    if args.html:
        made = f", {args.degradation}" if args.degradation else ""
        title = f"{evaluation.method} on {Path(args.hr or args.lr or args.results).name}{made}"
        report.write_html([evaluation], pairs, args.html, title=title, worst_by=args.worst_by)
    missing = sorted(asked & set(evaluation.unavailable))
    if evaluation.failures:
        print(f"patchscaler: {len(evaluation.failures)} failed, listed above", file=sys.stderr)
    if missing:
        print(f"patchscaler: asked for but unavailable: {', '.join(missing)}", file=sys.stderr)
    return 1 if evaluation.failures or missing else 0


def take_one_set(args: argparse.Namespace) -> None:
    """--lr, --hr and --degradation as the one text that each has here.

    Raises PatchScalerError for several.
    """
    from patchscaler.evaluation.sets import split_degradations, split_folders

    folders = {name: split_folders(getattr(args, name)) for name in ("lr", "hr")}
    degradations = split_degradations(args.degradation)
    if max(len(folders["lr"]), len(folders["hr"]), len(degradations)) > 1:
        raise PatchScalerError(
            "evaluate takes one set and one degradation; several: patchscaler compare"
        )
    for name, found in folders.items():
        setattr(args, name, found[0][1] if found else None)
    args.degradation = degradations[0] if degradations else None


def check_options(args: argparse.Namespace) -> None:
    """Raises PatchScalerError for options that make no sense together."""
    if not (args.lr or args.hr or args.results):
        raise PatchScalerError(
            "give pictures: --lr DIR, --hr DIR with --degradation KIND, or --results DIR"
        )
    if args.hr and not (args.lr or args.degradation or args.results):
        kinds = "bicubic (mild, stable, real)"
        raise PatchScalerError(
            f"--hr alone has nothing to enlarge: add --degradation {kinds}, or --lr DIR"
        )
    if args.results and args.method != "ours":
        raise PatchScalerError("--results are finished pictures: leave --method out")
    if args.limit < 0 or args.crop_border < 0:
        raise PatchScalerError("--limit and --crop-border take 0 or more")
    if args.worst_by and not args.html:
        raise PatchScalerError("--worst-by sorts the page: add --html FILE")


def metric_names(text: str) -> tuple[list[str], set[str]]:
    """--metrics -> names, and those that were asked for one by one.

    Raises PatchScalerError for unknown ones.
    """
    from patchscaler.evaluation.metrics import DEFAULT_METRICS, METRICS

    names: list[str] = []
    asked = set()
    for name in (part.strip() for part in text.split(",") if part.strip()):
        if name in ("all", "default"):
            names += METRICS if name == "all" else DEFAULT_METRICS
        elif name in METRICS:
            names.append(name)
            asked.add(name)
        else:
            raise PatchScalerError(
                f"unknown metric '{name}': choose from {', '.join(METRICS)}, default, all"
            )
    if not names:
        raise PatchScalerError("--metrics is empty: give names, default or all")
    return list(dict.fromkeys(names)), asked


def find_pictures(args: argparse.Namespace) -> tuple[list[Any], list[Any]]:
    """-> pairs and failures.

    Finished pictures without originals are pairs of nothing but a name.
    """
    from patchscaler.evaluation.pairs import Failure, Pair, load_pairs, pictures_by_stem

    if args.lr or args.hr:
        return load_pairs(args.lr, args.hr, args.degradation, args.seed, limit=args.limit)
    failures: list[Failure] = []
    stems = list(pictures_by_stem(args.results, failures))
    return [Pair(stem) for stem in stems[: args.limit or None]], failures


def find_method(args: argparse.Namespace, pairs: list[Any], failures: list[Any]) -> Any:
    """The method, or the folder of finished pictures; of these, what belongs to no pair is a
    failure.
    """
    from patchscaler.evaluation.methods import ResultFolder
    from patchscaler.evaluation.pairs import Failure, find_partner

    if not args.results:
        from patchscaler.evaluation.specs import Settings, build_method, parse_spec

        settings = Settings(args.device, args.dtype, args.model, args.autoencoder, args.seed)
        return build_method(parse_spec(args.method), settings)
    method = ResultFolder(args.results)
    if not args.limit:
        known = {f.name for f in failures}
        used = {find_partner(pair.name, method.files) for pair in pairs}
        for file in method.files.values():
            if file not in used and file.stem not in known:
                failures.append(
                    Failure(
                        file.name, f"a finished picture without a partner in {args.hr or args.lr}"
                    )
                )
    return method


def progress(quiet: bool) -> Any:
    """What counts the pictures of a run."""
    line = StatusLine("measuring", quiet)

    def show(done: int, total: int, name: str) -> None:
        line("pictures", done, total)
        if done == total:
            line.close()

    return show


def list_metrics(args: argparse.Namespace) -> int:
    from patchscaler.evaluation.metrics import (
        DEFAULT_METRICS,
        METRICS,
        MetricUnavailable,
        get_metric,
    )

    for name in METRICS:
        star = "*" if name in DEFAULT_METRICS else " "
        try:
            metric = get_metric(name, args.crop_border, niqe_parameters=args.niqe_parameters)
        except MetricUnavailable as error:
            print(f"{star} {name:14s} unavailable: {error.reason}; hint: {error.hint}")
        else:
            reference = "needs originals" if metric.needs_reference else "no reference"
            print(f"{star} {metric.name:14s} {metric.arrow}  {reference}; {metric.protocol}")
    return 0


def confidence(args: argparse.Namespace) -> int:
    from patchscaler.evaluation.confidence import confidence_lines, patch_errors
    from patchscaler.evaluation.pairs import load_pairs

    if not args.hr or args.results or args.method != "ours":
        raise PatchScalerError("--confidence is of our own model, against originals: give --hr")
    pairs, failures = load_pairs(args.lr, args.hr, args.degradation, args.seed, limit=args.limit)
    for failure in failures:
        print(f"patchscaler: {failure}", file=sys.stderr)
    if not pairs:
        raise PatchScalerError("no picture can be measured")
    print("\n".join(confidence_lines(*patch_errors(load_model(args), pairs))))
    return 1 if failures else 0


def round_trip(args: argparse.Namespace) -> int:
    from patchscaler.evaluation.pairs import load_pairs
    from patchscaler.evaluation.round_trip import round_trip as measure
    from patchscaler.evaluation.round_trip import round_trip_lines

    if not args.hr or args.lr or args.degradation or args.results or args.method != "ours":
        raise PatchScalerError(
            "--round-trip is of our own autoencoder and of originals: give --hr, and nothing to "
            "enlarge"
        )
    pairs, failures = load_pairs(hr=args.hr, limit=args.limit)
    for failure in failures:
        print(f"patchscaler: {failure}", file=sys.stderr)
    if not pairs:
        raise PatchScalerError("no picture can be measured")
    model = load_model(args)
    print(
        "\n".join(
            round_trip_lines(
                measure(model.autoencoder, pairs, seed=args.seed, device=str(model.device))
            )
        )
    )
    return 1 if failures else 0


def fit_niqe(args: argparse.Namespace) -> int:
    from patchscaler.evaluation.statistics import fit_niqe_folder
    from patchscaler.images.write import check_writable

    target = Path(args.output)
    if target.suffix != ".npz":
        raise PatchScalerError(
            "--fit-niqe writes a file of parameters: name it with -o, something.npz"
        )
    check_writable(target)
    pictures, blocks = fit_niqe_folder(args.fit_niqe, target)
    print(
        f"{target}: NIQE parameters of {blocks} sharp blocks from {pictures} pictures; use "
        f"--niqe-parameters {target}"
    )
    return 0
