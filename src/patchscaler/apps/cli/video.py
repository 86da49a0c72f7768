"""Videos of `patchscaler upscale`: options, checks, progress (docs/video.md)."""

import argparse
import time
from pathlib import Path
from typing import Any

from patchscaler.errors import PatchScalerError

NOT = "--report, --redo, --save-difficulty, --save-coarse, --tileable, --pyramid"


def add_options(up: Any) -> None:
    videos = up.add_argument_group("videos (docs/video.md)")
    videos.add_argument(
        "--codec",
        metavar="C",
        help="h264, h265, vp9, av1, ffv1 (lossless), prores (default: h264; "
        "h265 with 10 bits or above 4096x2304; vp9 or av1 in .webm)",
    )
    videos.add_argument(
        "--crf",
        type=int,
        metavar="N",
        help="less is better and larger; 0 is best (default: h264 18, h265 20, vp9 24, av1 25)",
    )
    videos.add_argument("--no-audio", action="store_true", help="pictures only")
    videos.add_argument("--videos", action="store_true", help="of a folder, its videos too")


def is_video(path: str | Path) -> bool:
    from patchscaler.apps.video import clip

    return clip.is_video(Path(path))


def is_format(name: str) -> bool:
    """Is this `--format` one of videos?"""
    from patchscaler.apps.video.encoding import CONTAINERS

    return f".{name.lower().removeprefix('.')}" in CONTAINERS


def check_options(args: argparse.Namespace) -> None:
    """Raises PatchScalerError for options of videos where there are none, before anything is
    loaded.
    """
    some = args.videos or any(is_video(name) for name in args.inputs)
    if not some and (args.codec or args.crf is not None or args.no_audio):
        raise PatchScalerError(
            "--codec, --crf and --no-audio are for videos; for those of a folder, add --videos"
        )
    if args.videos and not any(Path(name).is_dir() for name in args.inputs):
        raise PatchScalerError("--videos is for a folder: upscale DIR -o OUT --videos")


def checked(
    source: Path,
    folder: Path | None,
    file: Path | None,
    inputs: set[Path],
    taken: set[Path],
    limit: int,
    args: argparse.Namespace,
) -> tuple[Any, Path]:
    """-> the clip, looked through; where it goes. Raises PatchScalerError."""
    from patchscaler.apps.cli.picture_options import claim, real_path
    from patchscaler.apps.video.clip import import_av, look_through
    from patchscaler.apps.video.encoding import make_plan
    from patchscaler.images.write import check_place

    import_av(f"{source}: a video")
    if (
        args.report
        or args.redo
        or args.save_difficulty
        or args.save_coarse
        or args.tileable
        or args.pyramid
    ):
        raise PatchScalerError(f"{source}: videos go with none of {NOT}")
    # in a folder they are of its pictures
    if (args.quality is not None or args.lossless) and not args.videos:
        hint = "--codec ffv1" if args.lossless else "--crf N"
        raise PatchScalerError(
            f"{source}: --quality and --lossless are of pictures; a video takes {hint}"
        )
    target = file or name_of(source, folder, args)
    claim(source, target, inputs, taken)
    check_place(target, source)
    clip = look_through(source, limit, args.max_frames or 0)
    make_plan(
        clip,
        target,
        _target_size(args).size(clip.width, clip.height),
        args.codec,
        args.crf,
        args.bits,
    )
    taken.add(real_path(target))
    return clip, target


def name_of(source: Path, folder: Path | None, args: argparse.Namespace) -> Path:
    """The output's, where none was given: the input's name and kind, or .mp4 where that cannot be
    written.
    """
    from patchscaler.apps.video.encoding import CONTAINERS

    suffix = f".{args.format.lower().removeprefix('.')}" if args.format else source.suffix.lower()
    suffix = suffix if suffix in CONTAINERS or args.format else ".mp4"
    text = f"_{_target_size(args).label()}" if args.suffix is None else args.suffix
    return (folder or source.parent) / f"{source.stem}{text}{suffix}"


def _target_size(args: argparse.Namespace) -> Any:
    from patchscaler.apps.cli.picture_options import target_size

    return target_size(args)


def upscale(
    model: Any, clip: Any, target: Path, options: dict[str, Any], args: argparse.Namespace
) -> None:
    """One video, and a line about it."""
    from patchscaler.apps.cli.picture_options import tell
    from patchscaler.apps.cli.status_line import StatusLine
    from patchscaler.apps.video.job import VideoOptions, upscale_video

    watch, began = StatusLine(clip.path.name, args.quiet), time.perf_counter()
    video = VideoOptions(args.codec, args.crf, args.bits, not args.no_audio, not args.no_provenance)
    try:
        made = upscale_video(
            model,
            clip,
            target,
            target_size=_target_size(args),
            video=video,
            dry_run=args.dry_run,
            watch=watch,
            memory_limit=args.memory_limit,
            executor=args.executor,
            **options,
        )
    finally:
        watch.close()
    tell(clip.path, made.notes)
    for line in made.lines:
        print(f"{clip.path}: {line}")
    if not args.dry_run and not args.quiet:
        (width, height), earlier = made.size, made.frames - made.made_now
        before = f" ({earlier} of them by an earlier run)" if earlier else ""
        print(
            f"{target}: {made.frames} frames{before}, {clip.width}x{clip.height} -> "
            f"{width}x{height}, {made.codec}, "
            f"{made.evaluations} network evaluations, {time.perf_counter() - began:.2f} s"
        )


# --- patchscaler flicker --------------------------------------------------------------------------


def add_parser(commands: Any) -> None:
    from patchscaler.apps.cli.common import model_options

    flicker = commands.add_parser(
        "flicker",
        help="measure how videos flicker",
        description="Measure the flicker of clips made from a picture.",
    )
    flicker.set_defaults(function=flicker_command)
    flicker.add_argument("--image", required=True, help="a picture; its middle is used")
    flicker.add_argument("--side", type=int, default=64, help="of the small frames (default: 64)")
    flicker.add_argument("--frames", type=int, default=6, help="of each clip (default: 6)")
    flicker.add_argument("--seed", type=int, default=0)
    model_options(flicker)


def flicker_command(args: argparse.Namespace) -> int:
    from patchscaler.apps.cli.common import load_model
    from patchscaler.evaluation.flicker import HEAD, measure_flicker
    from patchscaler.images.read import load_image

    if args.side < 8:
        raise PatchScalerError("--side takes 8 or more")
    image = load_image(args.image)
    print(HEAD)
    for row in measure_flicker(load_model(args), image, args.side, args.frames, seed=args.seed):
        print(row.line())
    return 0
