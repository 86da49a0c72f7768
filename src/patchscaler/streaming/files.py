"""A picture file of any size -> another four times as large: checks, three passes, the file, all or nothing."""

import contextlib
import hashlib
import json
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from patchscaler.config import GroupConfig
from patchscaler.devices import is_out_of_memory
from patchscaler.dials.record import hash_of, make_record, options_record, provenance, weights_of
from patchscaler.dials.report import write_report
from patchscaler.dials.speed import seconds_of_decoding, seconds_per_evaluation
from patchscaler.errors import PatchScalerError
from patchscaler.jobs import Job, Options
from patchscaler.patches import PatchGrid
from patchscaler.pictures.large_writing import check_large, save_large
from patchscaler.pictures.metadata import Metadata
from patchscaler.pictures.planes import has_alpha
from patchscaler.pictures.reading import load_picture, opened, orientation
from patchscaler.pictures.writing import DEEP, check_alpha, check_output, check_quality, check_side, format_of
from patchscaler.streaming.cost import (
    Cost,
    check_disk,
    check_memory,
    cost_of,
    disk_bytes,
    size_of,
    window_sizes,
)  # fmt: skip
from patchscaler.streaming.disk import JobFolder
from patchscaler.streaming.passes import (
    Watch,
    assign_once,
    decode_windows,
    nobody,
    restore_windows,
    sample_patches,
)  # fmt: skip
from patchscaler.streaming.source import Source
from patchscaler.streaming.windows import Sizes

if TYPE_CHECKING:
    from patchscaler.pipeline import PatchScaler

FORMAT = 1  # of job folders; another number, and none of before is taken up
BASE = 700 * 2**20  # bytes: the interpreter, torch and the model


@dataclass
class Streamed:
    """What is left of a picture that was made on disk: all but its pixels. Reads like a `Result`."""

    grid: PatchGrid
    groups: np.ndarray  # (M,)
    scores: np.ndarray  # (M,)
    textures: np.ndarray  # (M, K)
    config: GroupConfig
    options: Options | None
    cost: dict[str, Any]
    estimate: Cost
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FileOptions:
    """What concerns the files, not the pixels."""

    quality: int | None = None
    lossless: bool = False
    pyramid: bool = False  # a tiled TIFF with smaller copies of itself
    bits: int | None = None
    report: Path | None = None
    provenance: bool = True


def upscale_file(
    scaler: "PatchScaler", source: str | Path, target: str | Path, *, window: int | None = None,
    memory_limit: float = 512, dry_run: bool = False, watch: Watch = nobody, files: FileOptions | None = None,
    **options: Any,
) -> Streamed:  # fmt: skip
    """The file `source` -> the file `target`. Killed, the same call goes on where it was.

    window: LR pixels of a window's side, by default as many as memory_limit (MiB) holds. dry_run: restore, count
    and measure, write nothing. watch: told of every stage's progress. options: of `PatchScaler.options`.
    Raises PatchScalerError before the first step where format, disk or memory cannot hold the picture.
    """
    source, target, files = Path(source), Path(target), files or FileOptions()
    checked = scaler.options(memory_limit=memory_limit, **({"max_pixels": 0} | options))
    checked = replace(checked, invention=checked.invention or files.report is not None)
    sizes, shape = _check(scaler, source, target, window, memory_limit, checked, files)
    about = {
        "format": FORMAT, "input": hash_of(source), "weights": weights_of(scaler), "options": options_record(checked),
        "assigned": None if checked.assigned is None else hashlib.sha256(checked.assigned.tobytes()).hexdigest(),
        "windows": asdict(sizes), "numbers": f"{scaler.device.type} {scaler.dtype}", "bits": files.bits,
        "output": target.name, "invention": checked.invention,
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = JobFolder(target, key, about)
    try:
        streamed = _run(scaler, source, target, folder, sizes, shape, checked, files, about, watch, dry_run)
    except BaseException as error:
        _leave(folder, target, error)
        raise
    if not dry_run or not folder.resumed:
        folder.remove()
    folder.close()
    for other in JobFolder.others(target, key):
        streamed.notes.append(f"an unfinished picture of other options lies in {other}; delete it if it is not wanted")
    return streamed


def _check(
    scaler: "PatchScaler", source: Path, target: Path, window: int | None, limit: float, options: Options,
    files: FileOptions,
) -> tuple[Sizes, tuple[int, int, int]]:  # fmt: skip
    """All that can be known before the first step -> window sizes, (h, w, channels)."""
    check_output(target, source)
    with opened(source, options.max_pixels) as image:
        turned = orientation(image) >= 5
        h, w = (image.width, image.height) if turned else (image.height, image.width)
        transparent, grey = has_alpha(image), image.mode in ("1", "L", "LA", "La", "I;16", "I;16B")
    scale = scaler.config.scale
    check_side(target, w * scale, h * scale)
    check_alpha(target, transparent)
    check_quality(target, files.quality, files.lossless)
    channels = (1 if grey else 3) + transparent
    check_large(target, h * w * scale**2 * channels, files.pyramid)
    sizes = window_sizes(scaler, w, window, limit)
    check_memory(BASE + int(1.5 * limit * 2**20), f"{target}: {w * scale}x{h * scale}")
    check_disk(disk_bytes(scaler, (h, w), channels, 8, 0, options.invention), target.parent)
    return sizes, (h, w, channels)


def _run(
    scaler: "PatchScaler", source: Path, target: Path, folder: JobFolder, sizes: Sizes, shape: tuple[int, int, int],
    options: Options, files: FileOptions, about: dict[str, Any], watch: Watch, dry_run: bool,
) -> Streamed:  # fmt: skip
    began = time.perf_counter()
    pixels, metadata, notes = _read(source, target, folder, options.max_pixels, files)
    options = replace(options, progress=lambda done, total: watch("patch-steps", done, total))
    with torch.inference_mode():
        job = restore_windows(scaler, pixels, sizes, options, folder, watch)
        restoring = time.perf_counter() - began
        assign_once(scaler, job, options, folder, restoring)
        height, width, channels = shape
        scale, sampled = scaler.config.scale, int((job.steps > 0).sum())
        disk = disk_bytes(scaler, (height, width), channels, pixels.bits, sampled, options.invention)
        check_disk(disk, target.parent, folder.bytes_taken())
        windows = len(folder.done["restored"])
        cost = cost_of(job, (width * scale, height * scale), disk, BASE + (512 * 2**20), windows)
        if dry_run:
            each, decoding = seconds_per_evaluation(scaler, job, options), seconds_of_decoding(scaler, job)
            seconds = {"restoring": restoring, "sampling": each * cost.total, "decoding": decoding}
            return _streamed(job, options, replace(cost, seconds=seconds), notes)
        store = sample_patches(scaler, job, options, folder)
        picture = decode_windows(scaler, job, store, pixels, sizes, options, folder, watch)
    streamed = _streamed(job, options, cost, notes)
    if files.provenance:
        metadata = metadata.with_provenance(provenance(scaler, options, about["weights"], about["input"]))
    watch("file written", 0, 1)
    streamed.notes += save_large(picture, target, metadata, files.quality, files.lossless, files.pyramid)
    watch("file written", 1, 1)
    if files.report:
        _report(scaler, files.report, source, target, streamed, folder, about)
    return streamed


def _read(
    source: Path, target: Path, folder: JobFolder, max_pixels: int, files: FileOptions
) -> tuple[Source, Metadata, list[str]]:
    picture = load_picture(source, max_pixels, files.bits)
    bits, kind = picture.bits, format_of(target)
    if bits == 16 and kind not in DEEP:
        picture.notes.append(f"{kind} holds 8 bits a channel; 16 came in")
        bits = 8
    stored = Source(picture.pixels, picture.metadata.icc_profile, bits, folder)
    return stored, picture.metadata, picture.notes


def _streamed(job: Job, options: Options, cost: Cost, notes: list[str]) -> Streamed:
    return Streamed(
        job.grid, job.groups.numpy(), job.scores.numpy(), np.asarray(job.textures[:]), job.config, options,
        job.cost(), cost, notes,
    )  # fmt: skip


def _report(
    scaler: "PatchScaler", report: Path, source: Path, target: Path, streamed: Streamed, folder: JobFolder,
    about: dict[str, Any],
) -> None:  # fmt: skip
    width, height = streamed.estimate.size
    scale = scaler.config.scale
    taken = {"name": source.name, "sha256": about["input"], "width": width // scale, "height": height // scale}
    made = {"name": target.name, "sha256": hash_of(target), "width": width, "height": height}
    record = make_record(scaler, streamed, taken, made, about["weights"])
    maps = (folder.arrays[name] for name in ("confidence", "moments"))  # a number, and four, for 64 pixels
    write_report(report, streamed, record, *maps)


def _leave(folder: JobFolder, target: Path, error: BaseException) -> None:
    """After an error or Ctrl-C: keep what is done and say so, or leave nothing where nothing is done."""
    with contextlib.suppress(OSError):
        folder.record(now=True)
    restored, patches = folder.done.get("restored"), folder.done.get("patches")
    if restored is None or not restored.any():
        folder.remove()
        return
    folder.close()
    done = f"{int(patches.sum())} of {len(patches)} patches" if patches is not None else (
        f"{int(restored.sum())} of {len(restored)} windows")  # fmt: skip
    stays = f"{done} are done; the same command goes on from there ({size_of(folder.bytes_taken())} in {folder.path})"
    if isinstance(error, KeyboardInterrupt):
        raise KeyboardInterrupt(f"{target}: interrupted, {stays}") from error
    if is_out_of_memory(error):
        raise PatchScalerError(f"{target}: memory ran out, {stays}; give a smaller --memory-limit") from error
