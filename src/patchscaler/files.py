"""An image file of any size -> another, larger one: checks, the passes on disk, the file, all or
nothing.
"""

import contextlib
import hashlib
import json
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from patchscaler._version import __version__
from patchscaler.devices import is_out_of_memory
from patchscaler.errors import PatchScalerError
from patchscaler.images.animation import Animation, check_animated, open_animation, save_animation
from patchscaler.images.formats import format_of
from patchscaler.images.pixels import has_alpha
from patchscaler.images.planes import to_planes
from patchscaler.images.read import LoadedImage, load
from patchscaler.images.sizes import passes, resized
from patchscaler.images.source import Source
from patchscaler.images.write import (
    check_alpha,
    check_large,
    check_output,
    check_quality,
    check_side,
    fit_image,
    save_image,
)
from patchscaler.model import Model
from patchscaler.models.weights import file_hash
from patchscaler.pipeline import Options, Output, PatchScaler, run_pass
from patchscaler.progress import UNITS, Callback, Progress, Reporter
from patchscaler.resources import WHOLE, size_text
from patchscaler.storage import DiskStorage
from patchscaler.tiling import Executor, LocalExecutor

FORMAT = 3  # of work folders; one of another number is not resumed


def upscale_file(
    pipeline: PatchScaler,
    source: str | Path,
    target: str | Path,
    *,
    quality: int | None = None,
    lossless: bool = False,
    bits: int | None = None,
    overwrite: bool = True,
    provenance: bool = True,
    callback: Callback | None = None,
    executor: Executor | None = None,
    **options: Any,
) -> Output:
    """Upscale a file of any size; one that does not fit in memory goes through tiles on disk.

    Killed, the same call resumes behind what is done.

    Args:
        pipeline: The model.
        source: An image or animation.
        target: Its suffix decides the format.
        quality: 1 to 100; the format's own by default.
        lossless: Of WebP and JPEG XL.
        bits: 8 or 16 a channel; the source's by default.
        overwrite: False refuses a target that is there.
        provenance: Note program, model and options in the target's metadata.
        callback: Called with a `Progress`.
        executor: Where the networks run; this process by default.
        **options: Arguments of `PatchScaler.__call__`.

    Returns:
        The `Output`; of a large image its array is empty, and of an animation it is the last
        frame's.

    Raises:
        PatchScalerError: Before any work where format, disk or memory cannot hold the result.
    """
    source, target = Path(source), Path(target)
    checked = pipeline.options(**options)
    check_output(target, source)
    if target.exists() and not overwrite:
        raise PatchScalerError(f"{target}: is there already. Hint: give --overwrite")
    executor = executor or LocalExecutor(pipeline.model)
    animation = open_animation(source, checked.max_pixels)
    if animation is not None:
        facts = provenance_of(pipeline.model, checked, source) if provenance else {}
        return _animation(
            pipeline, animation, target, options, quality, lossless, facts, callback, executor
        )
    image = load(
        source, checked.max_pixels, bits, by_rows=format_of(target) in ("PNG", "TIFF", "JPEG")
    )
    fit_image(image, format_of(target))
    check_file(image, target, checked, quality, lossless)
    facts = provenance_of(pipeline.model, checked, source) if provenance else {}
    if image.width * image.height > WHOLE or checked.tile:
        return _on_disk(
            pipeline.model,
            image,
            source,
            target,
            checked,
            quality,
            lossless,
            facts,
            callback,
            executor,
        )
    began = time.perf_counter()
    output = pipeline(
        to_planes(image), callback=before_writing(callback), executor=executor, **options
    )
    save_output(output, image, target, quality=quality, lossless=lossless, facts=facts)
    output.timings["write"] = time.perf_counter() - began - sum(output.timings.values())
    if callback:
        callback(Progress("write", UNITS, UNITS, 0.0))
    return output


def before_writing(callback: Callback | None) -> Callback | None:
    """Progress of the pipeline as that of all but the writing."""
    if callback is None:
        return None

    def follow(progress: Progress) -> None:
        done = min(int(0.97 * progress.done), UNITS - 1)
        callback(Progress(progress.stage, done, progress.total, progress.eta))

    return follow


def check_file(
    image: LoadedImage, target: Path, options: Options, quality: int | None, lossless: bool
) -> tuple[int, int]:
    """Check before any work that the target's format holds the result -> its (width, height)."""
    width, height = options.target.size(image.width, image.height)
    pixels = image.pixels
    transparent = pixels.shape[2] in (2, 4) if hasattr(pixels, "shape") else has_alpha(pixels)
    channels = 3 + transparent
    check_side(target, width, height)
    check_alpha(target, transparent)
    check_quality(target, quality, lossless)
    check_large(target, width * height * channels * image.bits // 8)
    return width, height


def save_output(
    output: Output,
    image: LoadedImage,
    target: Path,
    *,
    quality: int | None = None,
    lossless: bool = False,
    facts: dict[str, str] | None = None,
) -> None:
    """Write a result with the metadata of its source; what is lost becomes warnings of the
    output.
    """
    metadata = image.metadata.with_provenance(facts) if facts else image.metadata
    output.warnings += image.notes + save_image(output.array, target, metadata, quality, lossless)


def provenance_of(model: Model, options: Options, source: Path) -> dict[str, str]:
    """What made a result, for its metadata."""
    return {
        "Software": f"PatchScaler {__version__}",
        "Model": model.config.name,
        "Weights": model.weights_hash()[:16],
        "Seed": str(options.seed),
        "Input": file_hash(source),
        "Options": json.dumps(options_record(options), separators=(",", ":")),
    }


def options_record(options: Options) -> dict[str, Any]:
    """What decides about the pixels, as JSON."""
    mask = options.mask
    digest = None if mask is None else hashlib.sha256(mask.rgb.numpy().tobytes()).hexdigest()
    return {
        "size": asdict(options.target),
        "seed": options.seed,
        "groups": asdict(options.groups),
        "fidelity": options.fidelity,
        "mask": digest,
        "budget": options.budget,
        "prompt": options.prompt,
        "color": options.color,
        "tileable": options.tileable,
        "origin": list(options.origin),
    }


# --- large images ---------------------------------------------------------------------------------


def _on_disk(
    model: Model,
    image: LoadedImage,
    source: Path,
    target: Path,
    options: Options,
    quality: int | None,
    lossless: bool,
    facts: dict[str, str],
    callback: Callback | None,
    executor: Executor,
) -> Output:
    """The steps of the pipeline with their arrays in a folder beside the target."""
    if options.tileable:
        raise PatchScalerError(f"{source}: too large for tileable, which is made in memory")
    final = options.target.size(image.width, image.height)
    sizes = passes((image.width, image.height), final, model.scale)
    about: dict[str, Any] = {
        "format": FORMAT,
        "input": file_hash(source),
        "weights": model.weights_hash(),
        "options": options_record(options),
        "maps": options.maps,
        "tile": options.tile,
        "memory_limit": options.memory_limit,
        "compute": executor.compute_signature,
        "bits": image.bits,
        "output": target.name,
    }
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    check_disk(disk_bytes(model, image, sizes), target.parent)
    storage = DiskStorage(target, key, about)
    try:
        output = _passes(model, image, sizes, storage, options, callback, executor)
        output.warnings += image.notes
        metadata = image.metadata.with_provenance(facts) if facts else image.metadata
        output.warnings += save_image(output.array, target, metadata, quality, lossless)
        if callback:
            callback(Progress("write", UNITS, UNITS, 0.0))
    except BaseException as error:
        _leave(storage, target, error)
        raise
    output.array = np.zeros((0, 0, output.array.shape[2]), output.array.dtype)
    output.final_size = final
    storage.remove()
    for other in DiskStorage.others(target, key):
        output.warnings.append(
            f"an unfinished image of other options lies in {other}. Hint: delete it if not wanted"
        )
    return output


def _passes(
    model: Model,
    image: LoadedImage,
    sizes: list[tuple[int, int]],
    storage: DiskStorage,
    options: Options,
    callback: Callback | None,
    executor: Executor,
) -> Output:
    """All passes of x4; the last one's array lies in the storage."""
    first, finished = storage.finished()
    pixels: Any = image.pixels if finished is None else finished
    profile = image.metadata.icc_profile
    output = None
    for n in range(first, len(sizes)):
        storage.begin(n)
        source = Source.from_pixels(pixels, profile, image.bits, storage)
        work = {"restore": 1.0, "denoise": 8.0, "decode": 0.5}
        report = Reporter(before_writing(callback), work)
        [output] = run_pass(model, executor, [source], [storage], options, report)
        array = output.array
        if tuple(array.shape[:2]) != (sizes[n][1], sizes[n][0]):
            shape = (sizes[n][1], sizes[n][0], array.shape[2])
            array = resized(array, shape[:2], storage.array("resized", shape, array.dtype))
        output.array = array
        if n < len(sizes) - 1:
            pixels = storage.finish(n, array)  # type: ignore[arg-type]
    assert output is not None
    return output


def disk_bytes(model: Model, image: LoadedImage, sizes: list[tuple[int, int]]) -> int:
    """Of the work folder and the output, from above, for the largest pass."""
    inputs = [(image.width, image.height), *sizes[:-1]]
    w, h = max(inputs, key=lambda size: size[0] * size[1])
    per_latent = model.autoencoder.channels * (4 + 2 + 2) + 4
    return int(16 * w * h + w * h / model.step**2 * per_latent + 3 * w * h * model.scale**2 * 4)


def check_disk(needed: int, folder: Path) -> None:
    """Raises PatchScalerError where the disk is too full."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise PatchScalerError(
            f"{folder}: the image and its intermediate data take {size_text(needed)} of disk, "
            f"{size_text(free)} are free. Hint: free some, or write to another disk with -o"
        )


def _leave(storage: DiskStorage, target: Path, error: BaseException) -> None:
    """After an error or Ctrl-C: keep what is done and say so, or leave nothing where nothing is
    done.
    """
    with contextlib.suppress(OSError):
        storage.record(now=True)
    restored = storage.done.get("restored")
    if not storage.passed and (restored is None or not restored.any()):
        storage.remove()
        return
    storage.close()
    stays = f"the same command resumes ({size_text(storage.bytes_taken())} in {storage.path})"
    if isinstance(error, KeyboardInterrupt):
        raise KeyboardInterrupt(f"{target}: interrupted; {stays}") from error
    if is_out_of_memory(error):
        raise PatchScalerError(
            f"{target}: memory ran out; {stays}. Hint: give a smaller --memory-limit"
        ) from error


# --- animations -----------------------------------------------------------------------------------


def _animation(
    pipeline: PatchScaler,
    animation: Animation,
    target: Path,
    options: dict[str, Any],
    quality: int | None,
    lossless: bool,
    facts: dict[str, str],
    callback: Callback | None,
    executor: Executor,
) -> Output:
    """Frame by frame, with one noise for all of them."""
    check_animated(target)
    frames: list[np.ndarray] = []
    output, began = None, time.monotonic()
    options = {name: value for name, value in options.items() if name != "callback"}
    for number, planes in enumerate(animation.frames(), 1):
        output = pipeline(planes, executor=executor, **options)
        frames.append(output.array)
        if callback:
            eta = (time.monotonic() - began) / number * (animation.count - number)
            done = min(int(UNITS * number / animation.count), UNITS - 1)
            callback(Progress("denoise", done, UNITS, eta))
    assert output is not None
    if facts:
        animation.metadata = replace(animation.metadata).with_provenance(facts)
    output.warnings += animation.notes
    output.warnings += save_animation(frames, target, animation, quality, lossless)
    if callback:
        callback(Progress("write", UNITS, UNITS, 0.0))
    return output
