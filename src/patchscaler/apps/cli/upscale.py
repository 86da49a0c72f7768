"""`patchscaler upscale`: from arguments to files."""

import argparse
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from patchscaler.apps.cli import cluster, paths, video
from patchscaler.apps.cli.console import Console
from patchscaler.apps.cli.estimate import measure
from patchscaler.apps.cli.paths import STREAM, Item
from patchscaler.apps.cli.region import upscale_onto, upscale_region
from patchscaler.apps.cli.report import write_report
from patchscaler.batch import FAILURES, Done, FileOptions, upscale_files
from patchscaler.diffusion.settings import group_settings
from patchscaler.errors import PatchScalerError
from patchscaler.folders import Record, settings_key
from patchscaler.images.formats import format_of
from patchscaler.images.planes import to_planes
from patchscaler.images.read import MAX_PIXELS, LoadedImage, load
from patchscaler.images.write import fit_image, save_image
from patchscaler.pipeline import PatchScaler

EXACT = (
    "PNG",
    "TIFF",
    "BMP",
)  # formats that keep every value; WEBP and JXL with --quality lossless


def run(args: argparse.Namespace) -> int:
    """Upscale what `args` name. Returns an exit code."""
    _check(args)
    with contextlib.ExitStack() as stack:
        run = _Run(args, stack)
        if args.dry_run:
            return run.dry_run()
        return run.region() if args.crop or args.onto else run.files()


def _check(args: argparse.Namespace) -> None:
    """Raises PatchScalerError for options that do not go together, before anything is loaded."""
    one = [name for name in ("crop", "onto", "fidelity_mask") if getattr(args, name)]
    if one and (len(args.inputs) > 1 or Path(args.inputs[0]).is_dir()):
        raise PatchScalerError(f"--{one[0].replace('_', '-')} is for one image. Hint: name one")
    if args.onto and (args.crop or args.scale or args.size or not args.fidelity_mask):
        raise PatchScalerError(
            "--onto goes with --fidelity-mask, and without --crop, --scale and --size. "
            "Hint: black in the mask is made again"
        )
    if STREAM in args.inputs and args.output is None:
        raise PatchScalerError("-: the output has no name. Hint: give -o FILE, or -o - for a pipe")
    if STREAM in args.inputs and len(args.inputs) > 1:
        raise PatchScalerError("-: standard input is one image. Hint: give it alone")
    if args.output == STREAM and (len(args.inputs) > 1 or Path(args.inputs[0]).is_dir()):
        raise PatchScalerError("-o -: standard output takes one image. Hint: give one input")
    if args.report and (args.crop or args.onto):
        raise PatchScalerError("--report is of whole images. Hint: leave it, --crop or --onto out")
    if args.suffix and ("/" in args.suffix or "\0" in args.suffix):
        raise PatchScalerError(f"--suffix {args.suffix}: is part of a name. Hint: leave / out")
    video.check_options(args)
    cluster.check_options(args)


class _Run:
    """One call of the command.

    stack: Lets go at the end of what the run holds.
    """

    def __init__(self, args: argparse.Namespace, stack: contextlib.ExitStack):
        self.args, self.stack = args, stack
        self.shown: dict[Path, str] = {}
        self.piped = args.output == STREAM
        self.size = paths.size_of(args)
        self.settings = group_settings(
            steps=args.steps,
            start_times=args.start_times,
            thresholds=args.thresholds,
            shares=args.shares,
            overlap=args.overlap,
        )
        self._streams()
        self.limit = MAX_PIXELS if args.max_pixels is None else args.max_pixels
        self.plan = paths.make_plan(args, self.size, self.limit)
        stream = sys.stderr if self.piped else sys.stdout
        count = self.plan.count if self.plan.folder is None else max(2, self.plan.count)
        self.console = Console(args.quiet, args.json, count, stream, self.shown)
        for path, reason in self.plan.passed_over:
            self.console.pass_over(path, reason)
        for path, error in self.plan.failed:
            self.console.error(path, error)
        self.items = {item.source: item for item in self.plan.items}

    def _streams(self) -> None:
        """Put files in the place of standard input and output."""
        args = self.args
        if STREAM not in (args.output, *args.inputs):
            return
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="patchscaler-")))
        if args.inputs == [STREAM]:
            source = folder / "stdin"
            with source.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
            args.inputs, self.shown[source] = [str(source)], STREAM
        if self.piped:
            header = paths.read_header(Path(args.inputs[0]), 0)
            suffix = paths.suffix_of(args.format) if args.format else None
            target = folder / f"stdout{suffix or paths.own_suffix(Path('-'), header)}"
            args.output, args.format, self.shown[target] = str(target), None, STREAM

    def _load(self) -> PatchScaler:
        """The model, its options, and where it runs."""
        args = self.args
        pipeline: PatchScaler = cluster.load(args)
        self.options: dict[str, Any] = {
            "size": self.size,
            "seed": args.seed,
            "fidelity": args.fidelity,
            "fidelity_mask": Path(args.fidelity_mask) if args.fidelity_mask else None,
            "budget": args.budget,
            "prompt": not args.no_prompt,
            "groups": self.settings(pipeline.model.config.groups),
            "color": args.color,
            "tileable": args.tileable,
            "tile": args.tile,
            "memory_limit": args.memory_limit,
            "max_pixels": self.limit,
            "maps": args.report is not None,
        }
        pipeline.options(**self.options)  # raises for what no input could be made with
        return pipeline

    def _file_options(self) -> FileOptions:
        quality, lossless = paths.quality_of(self.args)
        return FileOptions(quality, lossless, self.args.bits, not self.args.no_provenance)

    def _code(self) -> int:
        """Raises the only input's error: it is the command's."""
        return 1 if self.console.counts["failed"] else 0

    # --- files ------------------------------------------------------------------------------------

    def files(self) -> int:
        """Every image, then every video."""
        if not self.items:
            self.console.summary()
            return self._code()
        pipeline = self._load()
        try:
            with (
                cluster.executor_of(self.args, pipeline) as executor,
                self._record(pipeline) as record,
            ):
                self._images(pipeline, executor, record)
                self._videos(pipeline, executor, record)
        except KeyboardInterrupt:
            self.console.summary(interrupted=True)
            raise
        self.console.summary()
        return self._code()

    def _images(self, pipeline: PatchScaler, executor: Any, record: Record | None) -> None:
        console = self.console

        def done(made: Done) -> None:
            item = self.items[made.source]
            if item.report:
                facts: dict[str, Any] = {
                    "input": str(item.source),
                    "output": str(item.target),
                }
                facts["options"] = {name: str(value) for name, value in self.options.items()}
                write_report(item.report, pipeline, made.output, facts)
            if self.piped:
                _to_stdout(made.target)
            size = item.header.size if item.header else made.size
            console.done(made.source, made.target, size, made.output, made.seconds)

        upscale_files(
            pipeline,
            [(item.source, item.target) for item in self.plan.items if item.header],
            options=self.options,
            files=self._file_options(),
            record=record,
            overwrite=self.args.overwrite or self.console.count == 1,
            on_done=done,
            on_error=console.error,
            on_skip=console.skip,
            callback=console.progress,
            executor=executor,
        )

    def _videos(self, pipeline: PatchScaler, executor: Any, record: Record | None) -> None:
        for item in self.plan.items:
            if item.header:
                continue
            with _named(self.console, item.source):
                if record and record.is_done(item.source, item.target) and not self.args.overwrite:
                    self.console.skip(item.source, item.target, True)
                    continue
                video.upscale(pipeline, item.source, item.target, self.options, self.args, executor)
                if record:
                    record.add(item.source, item.target)
                self.console.counts["done"] += 1

    def _record(self, pipeline: PatchScaler) -> contextlib.AbstractContextManager[Record | None]:
        """Of a folder."""
        if self.plan.folder is None:
            return contextlib.nullcontext()
        more = [asdict(self._file_options()), self.args.report, self.args.format, self.args.suffix]
        more += [self.args.codec, self.args.crf, self.args.no_audio]
        pixels = {name: value for name, value in self.options.items() if name != "max_pixels"}
        key = settings_key(pipeline.model, pixels, *more)
        return Record(Path(self.args.output), self.plan.folder, key)

    # --- a region ---------------------------------------------------------------------------------

    def region(self) -> int:
        """`--crop` and `--onto`, of one image."""
        if not self.items:
            return self._code()
        [item] = self.plan.items
        if item.header is None or item.header.moves:
            raise PatchScalerError(f"{item.source}: moves. Hint: --crop and --onto are for images")
        onto = Path(self.args.onto) if self.args.onto else None
        target = onto if onto and self.args.output is None else item.target
        if onto and format_of(target) not in EXACT and not self._file_options().lossless:
            raise PatchScalerError(
                f"{target}: this format would change all pixels. Hint: name a .png with -o"
            )
        paths.check_writable(target)
        source = load(item.source, self.limit, self.args.bits)
        fit_image(source, format_of(target))
        pipeline = self._load()
        planes, follow = to_planes(source), self.console.progress(item.source)
        if onto:
            result = load(onto, 0)
            mask = to_planes(Path(self.args.fidelity_mask))
            array = _array(result)
            output = upscale_onto(pipeline, planes, array, mask, self.options, follow)
            metadata = result.metadata
        else:
            output = upscale_region(pipeline, planes, self.args.crop, self.options, follow)
            metadata = source.metadata
        quality, lossless = paths.quality_of(self.args)
        output.warnings += source.notes
        output.warnings += save_image(output.array, target, metadata, quality, lossless)
        if self.piped:
            _to_stdout(target)
        seconds = sum(output.timings.values())
        self.console.done(item.source, target, item.header.size, output, seconds)
        return 0

    # --- a dry run --------------------------------------------------------------------------------

    def dry_run(self) -> int:
        """Sizes, work and time of each image, and of all."""
        items = [item for item in self.plan.items if item.header]
        if not items:
            self.console.summary()
            return self._code()
        pipeline = self._load()
        speed = measure(pipeline, [item.source for item in items], self.size, self.options)
        totals = np.zeros(4)  # pixels in and out, seconds, GMAC
        for item in items:
            assert item.header is not None
            size = item.header.size
            target = self.size.size(*size)
            own = speed.of(size, target)
            self._estimate(item, size, target, own.seconds, own.gmac)
            pixels = [side[0] * side[1] / 1e6 for side in (size, target)]
            totals += np.array([*pixels, own.seconds, own.gmac])
        before, after, seconds, gmac = totals
        self.console.say(
            f"{len(items)} images, {before:.2f} -> {after:.2f} megapixels, about {gmac:.0f} GMAC "
            f"and {_time(seconds)}; nothing was written"
        )
        return self._code()

    def _estimate(
        self,
        item: Item,
        size: tuple[int, int],
        target: tuple[int, int],
        seconds: float,
        gmac: float,
    ) -> None:
        if self.args.json:
            facts = {"input": str(item.source), "output": str(item.target)}
            sizes = {"input_size": size, "output_size": target}
            self.console._event("estimate", **facts, **sizes, seconds=seconds, gmac=gmac)
        self.console.say(
            f"{item.target}: {size[0]}x{size[1]} -> {target[0]}x{target[1]}, about {gmac:.0f} GMAC "
            f"and {_time(seconds)}"
        )


@contextlib.contextmanager
def _named(console: Console, source: Path) -> Iterator[None]:
    """Name an input that fails; the rest goes on."""
    try:
        yield
    except FAILURES as error:
        console.error(source, error)


def _to_stdout(path: Path) -> None:
    """Raises PatchScalerError where standard output takes no more."""
    try:
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise PatchScalerError(f"-: standard output takes no more ({error.strerror})") from error


def _array(picture: LoadedImage) -> np.ndarray:
    """(h, w, 1..4) as the file has it."""
    pixels = picture.pixels
    if isinstance(pixels, Image.Image):
        if pixels.mode not in ("L", "LA", "RGB", "RGBA"):
            pixels = pixels.convert("RGBA" if picture.has_alpha else "RGB")
        pixels = np.asarray(pixels)
    array = np.asarray(pixels[:])
    return array[..., None] if array.ndim == 2 else array


def _time(seconds: float) -> str:
    """For people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
