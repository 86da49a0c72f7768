"""What `patchscaler upscale` takes and writes: sizes, formats, names, colours, animations
(docs/pictures.md).
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from patchscaler.apps.cli import video
from patchscaler.apps.cli.status_line import StatusLine
from patchscaler.errors import PatchScalerError

SUFFIXES = {"jpeg": ".jpg", "tiff": ".tif"}  # --format NAME -> suffix, where it is not .NAME


def picture_options(up: Any) -> None:
    sizes = up.add_argument_group("size (x4 by default)")
    sizes.add_argument(
        "--scale", type=float, metavar="S", help="any: passes of x4, then reduced; 1 restores only"
    )
    sizes.add_argument(
        "--width",
        type=int,
        metavar="PIXELS",
        help="of the result; with --height: the frame it fits",
    )
    sizes.add_argument("--height", type=int, metavar="PIXELS")
    sizes.add_argument("--megapixels", type=float, metavar="M", help="of the result")
    files = up.add_argument_group("files (docs/pictures.md)")
    files.add_argument(
        "--format",
        metavar="F",
        help="png, jpg, webp, tif, bmp, gif, avif, heic, jxl (default: the "
        "input's, or png where that has no room for the picture)",
    )
    files.add_argument("--quality", type=int, help="1 to 100 (default: 95; avif and heic 90)")
    files.add_argument("--lossless", action="store_true", help="of webp and jxl")
    files.add_argument(
        "--suffix", metavar="TEXT", help="after the input's name (default: _x4, or the size given)"
    )
    files.add_argument(
        "--bits", type=int, choices=(8, 16), help="a channel (default: as many as the input has)"
    )
    files.add_argument(
        "--color",
        choices=("wavelet", "adain", "none"),
        help="how shifts of colour against the input are undone (default: wavelet)",
    )
    files.add_argument(
        "--tileable", action="store_true", help="a texture whose opposite borders meet"
    )
    files.add_argument(
        "--max-frames",
        type=int,
        metavar="N",
        help="limit of an animation, 0 for none (default: 2000)",
    )


def check_options(args: argparse.Namespace) -> None:
    """Raises PatchScalerError for what cannot be, before anything is loaded."""
    if args.quality is not None and not 1 <= args.quality <= 100:
        raise PatchScalerError("--quality takes 1 to 100")
    if (args.max_frames or 0) < 0:
        raise PatchScalerError("--max-frames takes 0 or more")
    target_size(args)
    if args.suffix and ("/" in args.suffix or "\0" in args.suffix):
        raise PatchScalerError(f"--suffix {args.suffix}: a piece of a file's name, without /")
    if args.format and not video.is_format(args.format):
        from patchscaler.images.write import check_suffix

        check_suffix(Path(f"--format {args.format}{suffix_of(args.format)}"))
    if args.tileable and alone(args):
        raise PatchScalerError(f"--tileable goes with none of {ALONE}")


ALONE = "--report, --redo, --dry-run, --save-difficulty and --save-coarse"


def alone(args: argparse.Namespace) -> bool:
    """Is something asked for that only single, whole pictures have?"""
    return bool(
        args.report or args.redo or args.dry_run or args.save_difficulty or args.save_coarse
    )


def target_size(args: argparse.Namespace) -> Any:
    from patchscaler.images.sizes import TargetSize

    return TargetSize(args.scale, args.width, args.height, args.megapixels)


def suffix_of(name: str) -> str:
    name = name.lower().removeprefix(".")
    return SUFFIXES.get(name, f".{name}")


# --- names ----------------------------------------------------------------------------------------


# an input; its output's folder, or file; neither: beside the input
Target = tuple[Path, Path | None, Path | None]


def targets_of(args: argparse.Namespace) -> list[Target]:
    """Raises PatchScalerError where two inputs would go to one output."""
    inputs, output = args.inputs, args.output
    folder = len(inputs) > 1 or (
        output is not None and (output.endswith("/") or Path(output).is_dir())
    )
    place = None if output is None else Path(output)
    if place and not folder and args.format:
        raise PatchScalerError(f"-o {output} names the format: leave --format out")
    targets: list[Target] = [
        (Path(name), place if folder else None, None if folder else place) for name in inputs
    ]
    seen: set[tuple[Path, str]] = set()
    for source, directory, _ in targets:
        name = name_of(source, directory, False, True, args)
        # a.gif and a.png may both become a.png, or not, as their content wants it: `claim` will see
        place_and_kind = name, "" if args.format else source.suffix.lower()
        if folder and place_and_kind in seen:
            raise PatchScalerError(
                f"{source}: another input would also be written to {name}; rename one"
            )
        seen.add(place_and_kind)
    return targets


def real_path(path: Path) -> Path:
    """Links followed; unlike `Path.resolve`, loops of them raise nothing before Python 3.13."""
    return Path(os.path.realpath(path))


def planes_of(picture: Any, source: Path) -> Any:
    """What the pipeline reads of a picture. Raises PatchScalerError naming the file."""
    try:
        return picture.planes
    except PatchScalerError as error:
        raise PatchScalerError(f"{source}: {error}") from error


def checked(
    source: Path,
    folder: Path | None,
    file: Path | None,
    inputs: set[Path],
    taken: set[Path],
    limit: int,
    args: argparse.Namespace,
) -> tuple[Any, Path]:
    """-> the picture, animation or clip, None where it is to be made in windows; where it goes.

    Raises PatchScalerError.
    """
    if video.is_video(source):
        return video.checked(source, folder, file, inputs, taken, limit, args)
    from patchscaler.apps.cli.dials import in_seconds, is_large
    from patchscaler.images import write as writing
    from patchscaler.images.animation import ANIMATED, MAX_FRAMES, check_animated, open_animation
    from patchscaler.images.planes import has_alpha
    from patchscaler.images.read import MAX_PIXELS, check_pixels, load_picture, opened, orientation
    from patchscaler.images.rows import told_of

    with opened(source, limit) as image:
        size = (
            (image.height, image.width)
            if orientation(told_of(source, image)) >= 5
            else (image.width, image.height)
        )
        transparent = has_alpha(image)
        may_move = image.format in ANIMATED and getattr(image, "is_animated", False)
    # What moves or tiles is made whole, so it keeps the limit of pictures in memory unless one is
    # asked for.
    whole = MAX_PIXELS if args.max_pixels is None else limit
    picture: Any = None
    if may_move:
        picture = open_animation(
            source, whole, MAX_FRAMES if args.max_frames is None else args.max_frames
        )
    moving = picture is not None
    if moving and alone(args):
        raise PatchScalerError(f"{source}: moves, and animations go with none of {ALONE}")
    if moving and in_seconds(args):
        raise PatchScalerError(
            f"{source}: moves, and --budget in seconds is for one picture; give a share, or "
            "fast, balanced, best"
        )
    if args.tileable:
        check_pixels(*size, whole, str(source))
    if not moving and (args.tileable or not is_large(size, args)):
        picture = load_picture(source, limit, args.bits)
    elif not moving and (args.save_difficulty or args.save_coarse):
        raise PatchScalerError(
            f"{source}: is made in windows, where --save-difficulty and --save-coarse are not to "
            "be had; "
            "take --report, or make it whole with --window 0"
        )
    target = file or name_of(source, folder, transparent, moving, args)
    claim(source, target, inputs, taken)
    writing.check_output(target)
    writing.check_side(target, *target_size(args).size(*size))
    writing.check_room(target, *target_size(args).size(*size))
    writing.check_alpha(target, transparent)
    writing.check_quality(target, args.quality, args.lossless)
    if moving:
        check_animated(target)
    elif picture is not None:
        writing.fit_picture(picture, writing.format_of(target))
    taken.add(real_path(target))
    return picture, target


def claim(source: Path, target: Path, inputs: set[Path], taken: set[Path]) -> None:
    """Raises PatchScalerError where the target is an input, or another one's target."""
    place = real_path(target)
    if place in inputs:
        raise PatchScalerError(
            f"{target}: output and input are the same file; name another with -o"
        )
    if place in taken:
        raise PatchScalerError(f"{source}: another input was written to {target}; rename one")


def is_one_pass(picture: Any, model: Any, target_size: Any) -> bool:
    """Does one enlargement give the size that is wanted, and nothing more?"""
    height, width = picture.planes.rgb.shape[-2:]
    scale = model.config.scale
    return bool(target_size.size(width, height) == (scale * width, scale * height))


def name_of(
    source: Path, folder: Path | None, transparent: bool, moving: bool, args: argparse.Namespace
) -> Path:
    """The output's, where none was given: the input's name, a suffix, and a format that holds the
    picture.
    """
    from patchscaler.images.write import ANIMATED, FORMATS, NO_ALPHA

    if video.is_video(source):
        return video.name_of(source, folder, args)
    suffix = suffix_of(args.format) if args.format else source.suffix.lower()
    if not args.format:
        kind = FORMATS.get(suffix)
        no_room = (transparent and kind in NO_ALPHA) or (moving and kind not in ANIMATED)
        palette = kind == "GIF" and not moving  # a still one has no reason to keep to 256 colours
        suffix = ".png" if kind is None or no_room or palette else suffix
    text = f"_{target_size(args).label()}" if args.suffix is None else args.suffix
    return (folder or source.parent) / f"{source.stem}{text}{suffix}"


# --- moving pictures ------------------------------------------------------------------------------


def upscale_animation(
    model: Any,
    moving: Any,
    target: Path,
    options: dict[str, Any],
    args: argparse.Namespace,
    facts: dict[str, str],
) -> None:
    """Frame by frame, with one noise for all of them."""
    from patchscaler.images.animation import save_animation

    frames, evaluations, began = [], 0, time.perf_counter()
    line = StatusLine(moving.path.name, args.quiet)
    keywords = options | {"memory_limit": args.memory_limit}
    calls = ((planes, target_size(args), args.tileable, keywords) for planes in moving.frames())
    for number, made in enumerate(args.executor.map("one", calls), 1):
        line("frames", number, moving.count)
        frames.append(made.array)
        evaluations += sum(result.cost["evaluations_total"] for result in made.passes)
    line.close()
    if facts:
        moving.metadata = moving.metadata.with_provenance(facts)
    tell(
        moving.path,
        moving.notes + save_animation(frames, target, moving, args.quality, args.lossless),
    )
    if not args.quiet:
        (w, h), (height, width) = moving.metadata.size, frames[0].shape[:2]
        seconds = time.perf_counter() - began
        print(
            f"{target}: {len(frames)} frames, {w}x{h} -> {width}x{height}, {evaluations} network "
            "evaluations, "
            f"{seconds:.2f} s"
        )


def tell(source: Path, notes: list[str]) -> None:
    """What could not be kept."""
    for note in notes:
        print(f"{source}: {note}", file=sys.stderr)
