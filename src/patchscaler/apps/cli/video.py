"""Videos of `patchscaler upscale` (docs/video.md)."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from patchscaler.errors import PatchScalerError

IMAGES_ONLY = ("fidelity_mask", "onto", "crop", "tileable", "report", "quality")
FRAMES = ("seed", "fidelity", "budget", "prompt", "groups", "color", "tile", "memory_limit")


def add_options(parser: Any) -> None:
    add = parser.add_argument_group("videos").add_argument
    add("--codec", metavar="C", help="h264, h265, av1, ffv1 (lossless), prores (default: by size)")
    add("--crf", type=int, metavar="N", help="0 is best (default: h264 18, h265 20, av1 25)")
    add("--no-audio", action="store_true", help="leave the sound out")
    add("--videos", action="store_true", help="of a folder, its videos too")


def check_options(args: argparse.Namespace) -> None:
    """Raises PatchScalerError for options of videos without one, and of images for a video."""
    from patchscaler.apps.video.clip import is_video

    videos = [name for name in args.inputs if is_video(Path(name))]
    if args.videos and not any(Path(name).is_dir() for name in args.inputs):
        raise PatchScalerError("--videos: is for a folder. Hint: upscale DIR -o OUT --videos")
    if not videos and not args.videos and (args.codec or args.crf is not None or args.no_audio):
        raise PatchScalerError(
            "--codec, --crf, --no-audio: are for videos. Hint: those of a folder need --videos"
        )
    for name in IMAGES_ONLY:
        if videos and getattr(args, name, None):
            raise PatchScalerError(f"{videos[0]}: --{name.replace('_', '-')} is for images")


def name_of(source: Path, place: Path, args: argparse.Namespace) -> Path:
    """The output's: the input's name and container, or .mkv where that cannot be written."""
    from patchscaler.apps.video.encoding import CONTAINERS

    own = source.suffix.lower()
    suffix = own if own in CONTAINERS else ".mkv"
    text = f"_{_size(args).label()}" if args.suffix is None else args.suffix
    if args.format:
        suffix = f".{args.format.lower().removeprefix('.')}"
    return place / f"{source.stem}{text}{suffix}"


def _size(args: argparse.Namespace) -> Any:
    from patchscaler.images.sizes import TargetSize

    return TargetSize.of(args.scale, args.size)


def describe(source: Path, target: Path, args: argparse.Namespace) -> str:
    """A line for `--dry-run`. Raises PatchScalerError for what could not be made."""
    from patchscaler.apps.video import check_streams, make_plan, probe_video

    clip = probe_video(source, args.max_pixels or 0, args.max_frames or 0)
    size = _size(args).size(clip.width, clip.height)
    plan = make_plan(clip, target, size, args.codec, args.crf, args.bits)
    check_streams(clip, target, plan, not args.no_audio)
    return (
        f"{target}: {clip.count} frames, {float(clip.rate):.4g}/s, {clip.width}x{clip.height} -> "
        f"{plan.width}x{plan.height}, {plan.codec}"
    )


def upscale(
    pipeline: Any,
    source: Path,
    target: Path,
    options: dict[str, Any],
    args: argparse.Namespace,
    executor: Any = None,
) -> None:
    """Upscale one video and print a line about it.

    Args:
        pipeline: A PatchScaler.
        source, target: Files.
        options: Of `PatchScaler.__call__`; those of images alone are left out.
        args: Of the command line.
        executor: Where the networks run.

    Raises:
        PatchScalerError: See `apps.video.upscale_video`.
    """
    from patchscaler.apps.cli.status_line import StatusLine
    from patchscaler.apps.video import upscale_video

    status, began = StatusLine(source.name, args.quiet, args.json), time.perf_counter()
    try:
        output = upscale_video(
            pipeline,
            source,
            target,
            size=_size(args),
            **{name: options[name] for name in FRAMES if name in options},
            max_pixels=args.max_pixels or 0,
            max_frames=args.max_frames or 0,
            codec=args.codec,
            crf=args.crf,
            bits=args.bits,
            audio=not args.no_audio,
            provenance=not args.no_provenance,
            callback=status,
            executor=executor,
        )
    finally:
        status.close()
    seconds, (width, height) = time.perf_counter() - began, output.size
    if args.json:
        facts: dict[str, Any] = {"event": "done", "input": str(source), "output": str(target)}
        facts |= {"output_size": output.size, "frames": output.frames, "nfe": output.nfe}
        facts |= {"seconds": {"total": seconds}, "warnings": output.warnings}
        print(json.dumps(facts), flush=True)
    elif not args.quiet:
        for warning in output.warnings:
            print(f"{source}: {warning}", file=sys.stderr)
        print(
            f"{target}: {output.frames} frames, {width}x{height}, {output.codec}, {seconds:.2f} s"
        )
