"""`patchscaler upscale`."""

import argparse
import contextlib
import sys
import time
from pathlib import Path
from typing import Any

from patchscaler.apps.cli import cluster, dials, folders, video
from patchscaler.apps.cli import picture_options as pictures
from patchscaler.apps.cli.common import model_options
from patchscaler.apps.cli.status_line import StatusLine
from patchscaler.errors import PatchScalerError
from patchscaler.sampling_options import SAMPLING, group_settings


def add_parser(commands: Any) -> None:
    up = commands.add_parser(
        "upscale", help="enlarge pictures", description="Enlarge pictures, x4 by default."
    )
    up.set_defaults(function=upscale)
    up.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="pictures and videos, or one folder of them"
    )
    up.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help="file, or folder for several (default: NAME_x4 beside, in the input's format)",
    )
    up.add_argument("--seed", type=int, default=0, help="another number invents other fine texture")
    up.add_argument(
        "--shares",
        metavar="S,E",
        help="S of the patches left as restored, up to E refined briefly, the "
        "rest longer (.02,.6 of typical pictures as shipped); 0,0 is slowest, 1,1 fastest",
    )
    up.add_argument(
        "--no-prompt", action="store_true", help="do not look textures up in the memory"
    )
    up.add_argument(
        "--memory", metavar="FILE", help="textures of your own (patchscaler memory build)"
    )
    up.add_argument(
        "--save-difficulty",
        action="store_true",
        help="also write NAME_difficulty.png: dark blue patches "
        "were easy, orange medium, yellow hard",
    )
    up.add_argument(
        "--save-coarse",
        action="store_true",
        help="also write NAME_coarse.png: restored, nothing invented",
    )
    up.add_argument(
        "--max-pixels",
        type=int,
        help="limit of the input's pixels, 0 for none (default: 500 megapixels, 4 with --window 0)",
    )
    up.add_argument("-q", "--quiet", action="store_true")
    pictures.picture_options(up)
    dials.add_options(up)
    folders.add_options(up)
    video.add_options(up)
    cluster.add_options(up)
    fine = up.add_argument_group("for those who know the paper")
    fine.add_argument(
        "--preset", help="start times and steps of a preset (compact, paper) with the same weights"
    )
    fine.add_argument(
        "--steps",
        metavar="N1,N2,N3",
        help="steps of simple, medium, hard patches; 0: coarse as it is",
    )
    fine.add_argument(
        "--start-times", metavar="T1,T2,T3", help="where each group enters the diffusion, 0..1000"
    )
    fine.add_argument(
        "--thresholds", metavar="G1,G2", help="confidence above G1 is simple, above G2 medium"
    )
    fine.add_argument("--overlap", type=int, help="of patches, 0..15 latents of 8 pixels each")
    fine.add_argument("--sampler", choices=("ddim", "dpm++"), help="ddim, or DPM-Solver++(2M)")
    model_options(fine, engine="auto")


def upscale(args: argparse.Namespace) -> int:
    """Every input in turn; one that fails is named and the rest go on."""
    from patchscaler.images.read import MAX_PIXELS

    whole = dials.window_of(args) == 0
    limit = (
        (MAX_PIXELS if whole else dials.LARGE_PIXELS)
        if args.max_pixels is None
        else args.max_pixels
    )
    if limit < 0 or not args.memory_limit > 0:
        raise PatchScalerError("--max-pixels takes 0 or more, --memory-limit more than 0")
    pictures.check_options(args)
    dials.check_options(args)
    video.check_options(args)
    cluster.check_options(args)
    settings = group_settings(**{name: getattr(args, name) for name in SAMPLING})
    if folders.is_one(args):
        return folders.upscale_folder(
            args, limit, lambda model: _options(model, settings, limit, args)
        )
    with contextlib.ExitStack() as stack:
        return _upscale_files(args, limit, settings, stack)


def _upscale_files(
    args: argparse.Namespace, limit: int, settings: Any, stack: contextlib.ExitStack
) -> int:
    """stack: lets go of what the model needed."""
    model: Any = None
    failed = 0
    targets = pictures.targets_of(args)
    inputs, taken = {pictures.real_path(source) for source, *_ in targets}, set[Path]()
    for source, folder, file in targets:
        try:
            picture, target = pictures.checked(source, folder, file, inputs, taken, limit, args)
        except PatchScalerError as error:
            failed += _failure(error, len(targets))
            continue
        if model is None:  # errors of the model or the options concern all inputs alike
            model = cluster.load(args)
            args.executor = stack.enter_context(cluster.executor_of(args, model))
            options = _options(model, settings, limit, args)
        report = dials.report_folder(args, source, len(targets) > 1)
        try:
            if not args.redo or not dials.redo(model, source, target, args, report):
                upscale_one(model, picture, source, target, options, args, report)
        except PatchScalerError as error:
            failed += _failure(error, len(targets))
    if failed:
        print(f"patchscaler: {failed} of {len(targets)} pictures failed", file=sys.stderr)
    return 1 if failed else 0


def _options(model: Any, settings: Any, limit: int, args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of `PatchScaler.upscale`, the same for all inputs."""
    options = {
        "seed": args.seed,
        "groups": settings(model.config.groups),
        "prompt": not args.no_prompt,
    }
    options |= {"max_pixels": limit, "changes": dials.changes_of(args)} | dials.dial_options(args)
    return options | ({"color": args.color} if args.color else {})


def _failure(error: PatchScalerError, count: int) -> int:
    """The only input's error ends the command; one of several is named and counted."""
    if count == 1:
        raise error
    print(f"patchscaler: {error}", file=sys.stderr)
    return 1


def upscale_one(
    model: Any,
    picture: Any,
    source: Path,
    target: Path,
    options: dict[str, Any],
    args: argparse.Namespace,
    report: Path | None,
) -> None:
    """picture: of `picture_options.checked`; None is made in windows."""
    from patchscaler.apps.video.clip import Clip
    from patchscaler.images.animation import Animation

    target_size = pictures.target_size(args)
    if isinstance(picture, Clip):
        video.upscale(model, picture, target, options, args)
    elif isinstance(picture, Animation):
        facts = {} if args.no_provenance else dials.facts(model, options, source)
        pictures.upscale_animation(model, picture, target, options, args, facts)
    elif picture is None or (
        args.dry_run and not pictures.is_one_pass(picture, model, target_size)
    ):
        # files know passes
        dials.stream(model, source, target, target_size, options, args, report)
    elif args.dry_run:
        dials.dry_run(model, pictures.planes_of(picture, source), source, options)
    else:
        planes = pictures.planes_of(picture, source)
        line, began = StatusLine(source.name, args.quiet), time.perf_counter()
        keywords = options | {"memory_limit": args.memory_limit, "coarse": args.save_coarse}
        keywords["progress"] = line.patch_steps
        [made] = args.executor.map("one", [(planes, target_size, args.tileable, keywords)])
        line.close()
        write(model, picture, made, source, target, args, report, began)


def write(
    model: Any,
    picture: Any,
    made: Any,
    source: Path,
    target: Path,
    args: argparse.Namespace,
    report: Path | None,
    began: float,
) -> None:
    """An `Upscaled` picture, what goes beside it, and a line about it."""
    from patchscaler.images.overlay import difficulty_overlay
    from patchscaler.images.write import save_image, save_picture

    result, extras = made.passes[-1], {}
    if args.save_difficulty:
        extras["difficulty"] = difficulty_overlay(result)
    if result.coarse is not None:
        extras["coarse"] = result.coarse
    metadata = picture.metadata
    if not args.no_provenance:
        metadata = metadata.with_provenance(dials.facts(model, result.options, source))
    notes = save_picture(made.array, target, metadata, args.quality, args.lossless)
    pictures.tell(source, picture.notes + notes)
    for name, extra in extras.items():
        save_image(extra, target.with_name(f"{target.stem}_{name}.png"))
    if report:
        dials.report(
            report,
            model,
            result,
            source,
            target,
            (picture.width, picture.height),
            made.array.shape[1::-1],
        )
    if not args.quiet:
        patches = ", ".join(f"{n} {name}" for name, n in result.cost["patches"].items())
        stages = ", ".join(f"{name} {s:.2f}" for name, s in result.cost["seconds"].items())
        height, width = made.array.shape[:2]
        again = f"{len(made.passes)} passes, the last: " if len(made.passes) > 1 else ""
        print(
            f"{target}: {picture.width}x{picture.height} -> {width}x{height}, {again}"
            f"patches {patches}, {result.cost['evaluations_total']} network evaluations, "
            f"{time.perf_counter() - began:.2f} s ({stages})"
        )
