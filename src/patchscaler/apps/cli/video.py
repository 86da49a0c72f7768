"""Videos of `patchscaler upscale` (docs/video.md)."""

import argparse
from pathlib import Path
from typing import Any

from patchscaler.errors import PatchScalerError

IMAGES_ONLY = ("fidelity_mask", "onto", "crop", "tileable", "report", "quality")


def add_options(group: Any) -> None:
    add = group.add_argument
    add("--codec", metavar="C", help="h264, h265, av1, ffv1 (lossless), prores (default: by size)")
    add("--crf", type=int, metavar="N", help="0 is best (default: h264 18, h265 20, av1 25)")
    add("--no-audio", action="store_true", help="leave the sound out")
    add("--videos", action="store_true", help="of a folder, its videos too")


def is_video(path: str | Path) -> bool:
    from patchscaler.apps.video import clip

    return clip.is_video(Path(path))


def check_options(args: argparse.Namespace) -> None:
    """Raises PatchScalerError for options of videos without one, and of images for a video."""
    folder = any(Path(name).is_dir() for name in args.inputs)
    videos = [name for name in args.inputs if is_video(name)]
    if args.videos and not folder:
        raise PatchScalerError("--videos: is for a folder. Hint: upscale DIR -o OUT --videos")
    if not videos and not args.videos and (args.codec or args.crf is not None or args.no_audio):
        raise PatchScalerError(
            "--codec, --crf, --no-audio: are for videos. Hint: those of a folder need --videos"
        )
    given = [name for name in IMAGES_ONLY if getattr(args, name, None)]
    if videos and given:
        option = f"--{given[0].replace('_', '-')}"
        raise PatchScalerError(f"{videos[0]}: {option} is for images")


def target_suffix(source: Path, suffix: str | None = None) -> str:
    """Of the output: as `--format` says, the input's, or .mkv where that cannot be written."""
    from patchscaler.apps.video.encoding import CONTAINERS

    if suffix:
        return f".{suffix.lower().removeprefix('.')}"
    return source.suffix.lower() if source.suffix.lower() in CONTAINERS else ".mkv"


def upscale_video(
    pipeline: Any,
    source: Path,
    target: Path,
    options: dict[str, Any],
    args: argparse.Namespace,
    callback: Any = None,
    executor: Any = None,
) -> Any:
    """One video: `apps.video.upscale_video` with the options of the command line.

    Args:
        pipeline: A PatchScaler.
        source, target: Files.
        options: Of the frames: scale or size, seed, fidelity and so on.
        args: Of the command line, for the options above.
        callback, executor: As there.

    Returns:
        A `VideoOutput`, or with `--dry-run` a line of text about what it would be.
    """
    from patchscaler.apps import video
    from patchscaler.images.sizes import TargetSize

    if args.dry_run:
        clip = video.probe_video(source, options.get("max_pixels", 0), args.max_frames or 0)
        size = TargetSize.of(options.get("scale"), options.get("size")).size(
            clip.width, clip.height
        )
        plan = video.make_plan(clip, target, size, args.codec, args.crf, args.bits)
        video.check_streams(clip, target, plan, not args.no_audio)
        return (
            f"{source}: {clip.count} frames, {float(clip.rate):.4g}/s, {clip.width}x{clip.height} "
            f"-> {target}: {plan.width}x{plan.height}, {plan.codec}"
        )
    return video.upscale_video(
        pipeline,
        source,
        target,
        max_frames=args.max_frames or 0,
        codec=args.codec,
        crf=args.crf,
        bits=args.bits,
        audio=not args.no_audio,
        provenance=not args.no_provenance,
        callback=callback,
        executor=executor,
        **options,
    )
