"""Which file becomes which: inputs, names of outputs, and every check before work begins."""

import argparse
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from patchscaler.errors import PatchScalerError
from patchscaler.folders import find_images
from patchscaler.images.animation import ANIMATED, check_animated
from patchscaler.images.formats import FORMATS, format_of
from patchscaler.images.formats import suffix_of as suffix_of_kind
from patchscaler.images.metadata import orientation
from patchscaler.images.pixels import has_alpha
from patchscaler.images.read import opened
from patchscaler.images.sizes import TargetSize
from patchscaler.images.write import (
    check_alpha,
    check_output,
    check_place,
    check_quality,
    check_room,
    check_side,
)

STREAM = "-"
REPORT = ("groups.png", "confidence.png", "coarse.png", "deviation.png", "run.json")


@dataclass(frozen=True)
class Header:
    """What an image says of itself before it is decoded."""

    size: tuple[int, int]  # (width, height), upright
    format: str
    transparent: bool
    moves: bool


@dataclass(frozen=True)
class Item:
    """An input that can be upscaled."""

    source: Path
    target: Path
    header: Header | None  # None for videos
    report: Path | None = None


@dataclass
class Plan:
    """What a run is going to do."""

    items: list[Item] = field(default_factory=list)
    failed: list[tuple[Path, PatchScalerError]] = field(default_factory=list)
    passed_over: list[tuple[Path, str]] = field(default_factory=list)
    folder: Path | None = None  # the one that was given, or None where files were

    @property
    def count(self) -> int:
        return len(self.items) + len(self.failed)


def make_plan(args: argparse.Namespace, target_size: TargetSize, limit: int) -> Plan:
    """Read every header, name every output and check it.

    Args:
        args: Options of `patchscaler upscale`; `-` is replaced by a file before.
        target_size: Of the results.
        limit: Of an input's pixels.

    Raises:
        PatchScalerError: A folder or an output cannot be used for any input. What concerns one
            input is in the plan.
    """
    from patchscaler.apps.video.clip import is_video

    plan, sources = Plan(), [Path(name) for name in args.inputs]
    out = None if args.output is None else Path(args.output)
    folders = [path for path in sources if path.is_dir()]
    if folders:
        _check_folder(folders[0], len(sources), out)
        also = is_video if args.videos else lambda path: False
        found = find_images(folders[0], args.recursive, out, also)
        plan.folder, sources, plan.passed_over = folders[0], found.images, found.passed_over
    elif args.recursive or args.videos:
        raise PatchScalerError(
            "--recursive and --videos are for a folder. Hint: upscale DIR -o OUT"
        )
    into_folder = bool(folders) or len(sources) > 1
    into_folder |= out is not None and (str(args.output).endswith("/") or out.is_dir())
    if out and not into_folder and args.format:
        raise PatchScalerError(f"-o {out}: names the format already. Hint: leave --format out")
    if args.format and not is_video(Path(f"x{suffix_of(args.format)}")):
        format_of(Path(f"--format {args.format}{suffix_of(args.format)}"))
    names = _Names({real_path(path) for path in sources})
    named: list[tuple[Path, Header | None, list[Path]]] = []
    for source in sources:
        try:
            header = None if is_video(source) else read_header(source, limit)
            wished = [out] if out and not into_folder else []
            if not wished:
                place = out or source.parent
                if plan.folder:
                    place = place / os.path.relpath(source.parent, plan.folder)
                wished = wishes(source, place, header, args)
            named.append((source, header, wished))
        except PatchScalerError as error:
            plan.failed.append((source, error))
    counts = Counter(wished[0] for *_, wished in named)
    several = plan.folder is not None or len(sources) > 1
    root = plan.folder or Path(os.path.commonpath([str(path.parent) for path in sources] or ["."]))
    for source, header, wished in named:
        try:
            twins = counts[wished[0]] > 1 and len(wished) > 1
            target = names.claim(source, wished[1:] if twins else wished)
            if header:
                check_target(target, source, header, target_size, args)
            report = None
            if args.report:
                report = Path(args.report) / (os.path.relpath(source, root) if several else ".")
                for name in REPORT:
                    names.claim(source, [report / name])
                    check_place(report / name)
                    check_writable(report / name)
            plan.items.append(Item(source, target, header, report))
        except PatchScalerError as error:
            plan.failed.append((source, error))
    return plan


def _check_folder(folder: Path, inputs: int, out: Path | None) -> None:
    if inputs > 1:
        raise PatchScalerError(f"{folder}: is a folder. Hint: give one folder alone, or images")
    if out is None:
        raise PatchScalerError(f"{folder}: is a folder. Hint: name one for the results with -o OUT")
    if out.exists() and not out.is_dir():
        raise PatchScalerError(f"{out}: is a file. Hint: the results of a folder need a folder")
    if real_path(out) == real_path(folder):
        raise PatchScalerError(f"{out}: is the input folder. Hint: name another with -o OUT")
    check_place(out / "image.png")


def read_header(source: Path, limit: int) -> Header:
    """Size, format and kind of an image. Raises PatchScalerError."""
    with opened(source, limit) as image:
        size = image.size if orientation(image) < 5 else (image.height, image.width)
        moves = image.format in ANIMATED and getattr(image, "is_animated", False)
        return Header(size, image.format or "", has_alpha(image), moves)


def wishes(
    source: Path, place: Path, header: Header | None, args: argparse.Namespace
) -> list[Path]:
    """Names for an output: like the input's, and one with the input's suffix in it.

    Where the first is that of several inputs each takes its second: a.jpg and a.png of a camera
    become a_jpg_x4.webp and a_png_x4.webp.
    """
    if header is None:
        from patchscaler.apps.cli.video import name_of

        return [name_of(source, place, args)]
    text = f"_{size_of(args).label()}" if args.suffix is None else args.suffix
    suffix = suffix_of(args.format) if args.format else own_suffix(source, header)
    kind = source.suffix.lower().removeprefix(".")
    return [place / f"{source.stem}{text}{suffix}", place / f"{source.stem}_{kind}{text}{suffix}"]


def own_suffix(source: Path, header: Header) -> str:
    """Of the input's own format, or .png where that cannot hold the result or be written."""
    kind = "JPEG" if header.format == "MPO" else header.format
    if kind not in FORMATS:
        return ".png"
    held = FORMATS[kind]
    no_room = (header.transparent and not held.alpha) or (header.moves and not held.moving)
    palette = kind == "GIF" and not header.moves  # a still one has no reason to keep 256 colors
    return ".png" if no_room or palette else suffix_of_kind(kind, source)


def suffix_of(name: str) -> str:
    """Of `--format`."""
    name = name.lower().removeprefix(".")
    return {"jpeg": ".jpg", "tiff": ".tif"}.get(name, f".{name}")


def size_of(args: argparse.Namespace) -> TargetSize:
    """`--scale` or `--size`. Raises PatchScalerError."""
    if args.size is None:
        return TargetSize(scale=args.scale)
    if args.scale is not None:
        raise PatchScalerError("--scale and --size say the same. Hint: give one of them")
    return TargetSize.parse(args.size)


def check_target(
    target: Path, source: Path, header: Header, size: TargetSize, args: argparse.Namespace
) -> None:
    """Raises PatchScalerError where the result cannot be written."""
    width, height = size.size(*header.size)
    check_output(target, source)
    check_writable(target)
    check_side(target, width, height)
    check_room(target, width, height)
    check_alpha(target, header.transparent)
    check_quality(target, *quality_of(args))
    if header.moves:
        check_animated(target)


def check_writable(target: Path) -> None:
    """Raises PatchScalerError for a file that is there and write-protected."""
    if target.exists() and not os.access(target, os.W_OK):
        raise PatchScalerError(f"{target}: is write-protected. Hint: name another with -o")


def quality_of(args: argparse.Namespace) -> tuple[int | None, bool]:
    """`--quality` -> number, lossless."""
    lossless = args.quality == "lossless"
    return (None if lossless else args.quality), lossless


def real_path(path: Path) -> Path:
    """Links followed; unlike `Path.resolve`, loops of them raise nothing before Python 3.13."""
    return Path(os.path.realpath(path))


class _Names:
    """Outputs that are named, each once, and none of them an input."""

    def __init__(self, inputs: set[Path]):
        self.inputs, self.taken = inputs, set[Path]()

    def claim(self, source: Path, wished: list[Path]) -> Path:
        """The first name that is free. Raises PatchScalerError where none is."""
        for path in wished:
            place = real_path(path)
            if place not in self.inputs and place not in self.taken:
                self.taken.add(place)
                return path
        if real_path(wished[0]) in self.inputs:
            raise PatchScalerError(f"{wished[0]}: is an input as well. Hint: name another with -o")
        raise PatchScalerError(
            f"{source}: another input is written to {wished[0]} as well. Hint: rename one"
        )
