"""Many files: small images share batches, each is written when it is done, errors are named.

With a `folders.Record`, a run that was killed, or is given once more, goes on behind what is done.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from patchscaler.errors import PatchScalerError
from patchscaler.files import provenance_of, save_output, upscale_file
from patchscaler.folders import Record
from patchscaler.images.formats import format_of
from patchscaler.images.planes import Planes, to_planes
from patchscaler.images.read import LoadedImage, load, opened
from patchscaler.images.write import fit_image
from patchscaler.model import Model
from patchscaler.pipeline import Output, PatchScaler
from patchscaler.progress import Callback
from patchscaler.tiling import Executor

BATCH_PIXELS, BATCH_IMAGES = 100_000, 16  # of the inputs that share batches
FAILURES = (PatchScalerError, OSError, MemoryError)


@dataclass(frozen=True)
class Done:
    """An image that was upscaled and written."""

    source: Path
    target: Path
    size: tuple[int, int] | None  # (width, height) of the input, where it was read here
    output: Output
    seconds: float  # of this image alone


@dataclass(frozen=True)
class FileOptions:
    """How results are written."""

    quality: int | None = None
    lossless: bool = False
    bits: int | None = None
    provenance: bool = True


# --- upscaling ------------------------------------------------------------------------------------


def upscale_files(
    pipeline: PatchScaler,
    items: Iterable[tuple[Path, Path]],
    *,
    options: Mapping[str, Any] | None = None,
    files: FileOptions | None = None,
    record: Record | None = None,
    overwrite: bool = True,
    on_done: Callable[[Done], None] | None = None,
    on_error: Callable[[Path, BaseException], None] | None = None,
    on_skip: Callable[[Path, Path, bool], None] | None = None,
    callback: Callable[[Path], Callback | None] | None = None,
    executor: Executor | None = None,
) -> None:
    """Upscale files. Small images share batches and come first, the others follow one by one.

    Args:
        pipeline: The model.
        items: (source, target) of each.
        options: Keyword arguments of `PatchScaler.__call__`.
        files: How results are written.
        record: Of what earlier runs did: that is not done again, and what is done is noted there.
        overwrite: Replace targets that are there.
        on_done: Called with each image when its target is written.
        on_error: Called with the source and what went wrong. By default the error is raised.
        on_skip: Called with source, target, and whether the record has it as done.
        callback: Called with the source that is begun, gives the callback of its progress.
        executor: Where the networks run; this process by default.
    """
    run = _Run(pipeline, options or {}, files or FileOptions(), record, executor)
    run.on_done, run.on_error, run.callback = on_done, on_error, callback
    todo = []
    for source, target in items:
        with _Failures(run, source):
            done = record is not None and record.is_done(source, target)
            own = record is not None and record.is_own(source, target)
            if not overwrite and target.exists() and (done or not own):
                if on_skip:
                    on_skip(source, target, done)
                continue
            todo.append((source, target))
    large: list[tuple[Path, Path]] = []
    run.small(batches(run.opened(todo, large)))
    for source, target in large:
        run.alone(source, target)


@dataclass
class _Item:
    source: Path
    target: Path
    picture: LoadedImage
    planes: Planes
    seconds: float  # of reading


class _Run:
    """One call of `upscale_files`."""

    on_done: Callable[[Done], None] | None
    on_error: Callable[[Path, BaseException], None] | None
    callback: Callable[[Path], Callback | None] | None

    def __init__(
        self,
        pipeline: PatchScaler,
        options: Mapping[str, Any],
        files: FileOptions,
        record: Record | None,
        executor: Executor | None,
    ):
        self.pipeline, self.options, self.files = pipeline, dict(options), files
        self.record, self.executor = record, executor

    def opened(
        self, items: list[tuple[Path, Path]], large: list[tuple[Path, Path]]
    ) -> Iterator[tuple[int, _Item]]:
        """Read the small images; put the others into `large`."""
        limit = self.options.get("max_pixels", 0)
        for source, target in items:
            began = time.perf_counter()
            with _Failures(self, source):
                with opened(source, limit) as image:
                    pixels = image.width * image.height
                    moves = getattr(image, "is_animated", False)
                if pixels > BATCH_PIXELS // 2 or moves:
                    large.append((source, target))
                    continue
                picture = load(source, limit, self.files.bits)
                fit_image(picture, format_of(target))
                planes = to_planes(picture)
                seconds = time.perf_counter() - began
                yield pixels, _Item(source, target, picture, planes, seconds)

    def small(self, batches: Iterator[list[_Item]]) -> None:
        """Upscale images that share batches; with an executor several batches may be under way."""
        if self.executor is None:
            for batch in batches:
                follow = self._callback(batch[0].source)
                planes = [item.planes for item in batch]
                self._finish(
                    batch, upscale_batch(self.pipeline.model, planes, self.options, follow)
                )
            return
        given: deque[list[_Item]] = deque()

        def calls() -> Iterator[tuple[Any, ...]]:
            for batch in batches:
                given.append(batch)
                yield [item.planes for item in batch], self.options

        for outputs in self.executor.map(upscale_batch, calls()):
            self._finish(given.popleft(), outputs)

    def _finish(self, batch: list[_Item], outputs: Sequence[Output | PatchScalerError]) -> None:
        for item, output in zip(batch, outputs, strict=True):
            with _Failures(self, item.source):
                if isinstance(output, PatchScalerError):
                    raise PatchScalerError(f"{item.source}: {output}") from output
                began = time.perf_counter()
                facts = None
                if self.files.provenance:
                    checked = self.pipeline.options(**self.options)
                    facts = provenance_of(self.pipeline.model, checked, item.source)
                quality, lossless = self.files.quality, self.files.lossless
                save_output(
                    output,
                    item.picture,
                    item.target,
                    quality=quality,
                    lossless=lossless,
                    facts=facts,
                )
                output.timings["read"] = item.seconds
                output.timings["write"] = time.perf_counter() - began
                size = item.picture.width, item.picture.height
                self._done(item.source, item.target, size, output, sum(output.timings.values()))

    def alone(self, source: Path, target: Path) -> None:
        """Upscale a large image or an animation."""
        began = time.perf_counter()
        with _Failures(self, source):
            output = upscale_file(
                self.pipeline,
                source,
                target,
                **self.options,
                **asdict(self.files),
                callback=self._callback(source),
                executor=self.executor,
            )
            self._done(source, target, None, output, time.perf_counter() - began)

    def _callback(self, source: Path) -> Callback | None:
        return self.callback(source) if self.callback else None

    def _done(self, source: Path, target: Path, size: Any, output: Output, seconds: float) -> None:
        if self.record:
            self.record.add(source, target)
        if self.on_done:
            self.on_done(Done(source, target, size, output, seconds))


class _Failures:
    """Report what goes wrong with one image, so that the rest goes on. Ctrl-C passes."""

    def __init__(self, run: _Run, source: Path):
        self.run, self.source = run, source

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, FAILURES) or self.run.on_error is None:
            return False
        self.run.on_error(self.source, error)
        return True


def upscale_batch(
    model: Model, images: list[Planes], options: Mapping[str, Any], callback: Callback | None = None
) -> list[Output | PatchScalerError]:
    """Upscale images together; where that fails, one by one, each with its own error."""
    pipeline = PatchScaler(model)
    if len(images) > 1:
        try:
            return list(pipeline(images, callback=callback, **options))
        except (PatchScalerError, MemoryError):
            pass
    found: list[Output | PatchScalerError] = []
    for image in images:
        try:
            found.append(pipeline(image, callback=callback, **options))
        except PatchScalerError as error:
            found.append(error)
        except MemoryError:
            found.append(PatchScalerError("not enough memory. Hint: give a smaller --memory-limit"))
    return found


def batches(
    items: Iterable[tuple[int, Any]], pixels: int = BATCH_PIXELS, count: int = BATCH_IMAGES
) -> Iterator[list[Any]]:
    """(pixels, item) -> lists of neighbours with at most `pixels` and `count` together."""
    batch: list[Any] = []
    held = 0
    for size, item in items:
        if batch and (held + size > pixels or len(batch) == count):
            yield batch
            batch, held = [], 0
        batch.append(item)
        held += size
    if batch:
        yield batch
