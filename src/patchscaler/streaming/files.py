"""A picture file of any size -> another, larger one: checks, the passes, the file, all
or nothing.
"""

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
from patchscaler.dials.record import make_record, options_record, provenance, weights_of
from patchscaler.dials.report import write_report
from patchscaler.dials.speed import seconds_of_decoding, seconds_per_evaluation, seconds_per_refined
from patchscaler.errors import PatchScalerError
from patchscaler.images.large_writing import check_large, save_large
from patchscaler.images.planes import has_alpha
from patchscaler.images.read import load_picture, opened, orientation
from patchscaler.images.rows import told_of
from patchscaler.images.sizes import TargetSize, passes, resized
from patchscaler.images.write import (
    check_alpha,
    check_output,
    check_quality,
    check_side,
    fit_picture,
    format_of,
)
from patchscaler.jobs import Job, Options, check_passes
from patchscaler.models.weights import file_hash
from patchscaler.patching import PatchGrid, make_grid
from patchscaler.refining import latents_refined
from patchscaler.streaming.cost import (
    Cost,
    check_disk,
    check_memory,
    cost_of,
    disk_bytes,
    refining_bytes,
    size_of,
    window_sizes,
)
from patchscaler.streaming.disk import DiskArray, JobFolder
from patchscaler.streaming.passes import (
    Watch,
    assign_once,
    decode_windows,
    noop,
    refine_tiles,
    restore_windows,
    sample_patches,
)
from patchscaler.streaming.source import Source
from patchscaler.work import Executor, LocalExecutor

if TYPE_CHECKING:
    from patchscaler.pipeline import PatchScaler

FORMAT = 2  # of job folders; another number, and none of before is taken up
BASE = 700 * 2**20  # bytes: the interpreter, torch and the model


@dataclass
class Streamed:
    """What is left of a picture that was made on disk: all but its pixels.

    Reads like a `Result`.
    """

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
    scaler: "PatchScaler",
    source: str | Path,
    target: str | Path,
    *,
    target_size: TargetSize | float = 4.0,
    window: int | None = None,
    memory_limit: float = 512,
    dry_run: bool = False,
    watch: Watch = noop,
    files: FileOptions | None = None,
    executor: Executor | None = None,
    **options: Any,
) -> Streamed:
    """The file `source` -> the file `target`. Killed, the same call goes on where it was.

    target_size: a scale or a size. window: LR pixels of a window's side, by default as many as
    memory_limit (MiB) holds. dry_run: restore, count and measure, write nothing. watch: told of
    every stage's progress. executor: who does the work, by default this process. options: of
    `PatchScaler.options`. Raises PatchScalerError before the first step where format, disk or
    memory cannot hold it.
    """
    checked = scaler.options(memory_limit=memory_limit, **({"max_pixels": 0} | options))
    files = files or FileOptions()
    checked = replace(checked, invention=checked.invention or files.report is not None)
    target_size = (
        target_size if isinstance(target_size, TargetSize) else TargetSize(scale=target_size)
    )
    executor = executor or LocalExecutor(scaler)
    run = _FileRun(
        scaler,
        executor,
        Path(source),
        Path(target),
        target_size,
        window,
        memory_limit,
        checked,
        files,
        watch,
    )
    folder = JobFolder(run.target, run.key, run.about)
    try:
        streamed = run.make(folder, dry_run)
    except BaseException as error:
        if dry_run and not folder.resumed:
            folder.remove()
        else:
            _leave(folder, run.target, error)
        raise
    if dry_run and folder.resumed:
        folder.close()  # what an earlier run had done is still wanted
    else:
        folder.remove()
    for other in JobFolder.others(run.target, run.key):
        streamed.notes.append(
            f"an unfinished picture of other options lies in {other}; delete it if it is not wanted"
        )
    return streamed


class _FileRun:
    """One call of `upscale_file`, checked when it is made."""

    def __init__(
        self,
        scaler: "PatchScaler",
        executor: Executor,
        source: Path,
        target: Path,
        target_size: TargetSize,
        window: int | None,
        limit: float,
        options: Options,
        files: FileOptions,
        watch: Watch,
    ):
        self.executor = executor
        self.scaler, self.source, self.target, self.files, self.watch = (
            scaler,
            source,
            target,
            files,
            watch,
        )
        self.options = replace(
            options, progress=lambda done, total: watch("patch-steps", done, total)
        )
        self.memory = BASE + max(int(1.5 * limit * 2**20), refining_bytes(scaler))
        check_output(target, source)
        with opened(source, options.max_pixels) as image:
            turned = orientation(told_of(source, image)) >= 5
            # (w, h)
            self.size = (image.height, image.width) if turned else (image.width, image.height)
            transparent, grey = (
                has_alpha(image),
                image.mode in ("1", "L", "LA", "La", "I;16", "I;16B"),
            )
        self.channels = (1 if grey else 3) + transparent
        self.final = target_size.size(*self.size)
        self.passes = passes(self.size, self.final, scaler.config.scale)
        check_passes(len(self.passes), options)
        check_side(target, *self.final)
        check_alpha(target, transparent)
        check_quality(target, files.quality, files.lossless)
        check_large(target, self.final[0] * self.final[1] * self.channels, files.pyramid)
        self.sizes = window_sizes(scaler, self._input(-1)[0], window, limit)
        check_memory(self.memory, f"{target}: {self.final[0]}x{self.final[1]}")
        check_disk(self._disk(-1, 8, 0), target.parent)
        assigned = options.assigned
        self.about: dict[str, Any] = {
            "format": FORMAT,
            "input": file_hash(source),
            "weights": weights_of(scaler),
            "options": options_record(options),
            "invention": options.invention,
            "windows": asdict(self.sizes),
            "assigned": None
            if assigned is None
            else hashlib.sha256(assigned.tobytes()).hexdigest(),
            "compute_signature": executor.compute_signature,
            "bits": files.bits,
            "output": target.name,
            "size": self.final,
        }
        self.key = hashlib.sha256(json.dumps(self.about, sort_keys=True).encode()).hexdigest()

    def _input(self, n: int) -> tuple[int, int]:
        """(w, h) of what the n-th pass enlarges."""
        return ([self.size, *self.passes][:-1])[n]

    def _disk(self, n: int, bits: int, sampled: int) -> int:
        w, h = self._input(n)
        return disk_bytes(self.scaler, (h, w), self.channels, bits, sampled, self.options.invention)

    @torch.inference_mode()
    def make(self, folder: JobFolder, dry_run: bool) -> Streamed:
        # the others have whole pictures converted
        by_rows = format_of(self.target) in ("PNG", "TIFF", "JPEG")
        picture = load_picture(self.source, self.options.max_pixels, self.files.bits, by_rows)
        fit_picture(picture, format_of(self.target))
        metadata, notes, bits = picture.metadata, picture.notes, picture.bits
        first, finished = folder.finished()
        pixels: Any = picture.pixels if finished is None else finished
        del picture  # or its pixels would stay in memory
        last = len(self.passes) - 1
        for n in range(first, last + 1):
            folder.begin(n)
            source = Source(pixels, metadata.icc_profile, bits, folder)
            pixels = None  # they lie on the disk now
            job, cost = self._count(n, source, folder, dry_run)
            if dry_run:
                return self._streamed(
                    job, cost, notes + [self._bound(m) for m in range(n + 1, last + 1)]
                )
            result = self._enlarged(n, job, source, folder)
            if n < last:
                pixels = folder.finish(n, result)
        streamed = self._streamed(job, cost, notes)
        if self.files.provenance:
            facts = provenance(
                self.scaler, self.options, self.about["weights"], self.about["input"]
            )
            metadata = metadata.with_provenance(facts)
        self.watch("file written", 0, 1)
        files = self.files
        streamed.notes += save_large(
            result, self.target, metadata, files.quality, files.lossless, files.pyramid
        )
        self.watch("file written", 1, 1)
        if files.report:
            self._report(files.report, streamed, folder)
        return streamed

    def _enlarged(self, n: int, job: Job, source: Source, folder: JobFolder) -> DiskArray:
        """All that is left of a pass, and the size that it is to have."""
        store = sample_patches(self.scaler, self.executor, job, self.options, folder)
        refine_tiles(self.scaler, self.executor, job, store, source, folder, self.watch)
        result = decode_windows(
            self.scaler,
            self.executor,
            job,
            store,
            source,
            self.sizes,
            self.options,
            folder,
            self.watch,
        )
        width, height = self.passes[n]
        if result.shape[:2] == (height, width):
            return result
        out = folder.array("resized", (height, width, result.shape[2]), result.dtype)
        return resized(result, (height, width), out)

    def _count(self, n: int, source: Source, folder: JobFolder, measure: bool) -> tuple[Job, Cost]:
        """The first step of a pass, and what the others cost.

        Raises PatchScalerError where the disk is too small.
        """
        began, scaler = time.perf_counter(), self.scaler
        job = restore_windows(
            scaler, self.executor, source, self.sizes, self.options, folder, self.watch
        )
        restoring = time.perf_counter() - began
        assign_once(scaler, job, self.options, folder, restoring)
        disk = self._disk(n, source.bits, int((job.steps > 0).sum()))
        check_disk(disk, self.target.parent, folder.bytes_taken())
        cost = cost_of(job, self.final, disk, self.memory, len(folder.done["restored"]))
        if measure:
            each = seconds_per_evaluation(scaler, job, self.options)
            seconds = {"restoring": restoring, "sampling": each * cost.total}
            if scaler.refiner:
                seconds["refining"] = seconds_per_refined(scaler, job) * latents_refined(
                    job.steps > 0, job.grid
                )
            cost = replace(cost, seconds=seconds | {"decoding": seconds_of_decoding(scaler, job)})
        return job, cost

    def _bound(self, n: int) -> str:
        """What a later pass costs at most: which of its patches are hard, only the pass before it
        can tell.
        """
        scaler, groups = self.scaler, self.options.groups
        w, h = self._input(n)
        height, width = (side // scaler.step for side in scaler.padded_size(h, w))
        patches = len(make_grid(height, width, groups.latent_patch_size, groups.overlap))
        most = patches * max(groups.num_inference_steps)
        return (
            f"that was pass {n} of {len(self.passes)}; pass {n + 1}: {patches} patches, "
            f"{most} patch-steps at most"
        )

    def _streamed(self, job: Job, cost: Cost, notes: list[str]) -> Streamed:
        return Streamed(
            job.grid,
            job.groups.numpy(),
            job.scores.numpy(),
            np.asarray(job.textures[:]),
            job.config,
            self.options,
            job.cost(),
            cost,
            notes,
        )

    def _report(self, report: Path, streamed: Streamed, folder: JobFolder) -> None:
        taken = {
            "name": self.source.name,
            "sha256": self.about["input"],
            "width": self.size[0],
            "height": self.size[1],
        }
        made = {
            "name": self.target.name,
            "sha256": file_hash(self.target),
            "width": self.final[0],
            "height": self.final[1],
        }
        w, h = self._input(-1)
        sampled = (w * self.scaler.config.scale, h * self.scaler.config.scale)
        record = make_record(self.scaler, streamed, taken, made, sampled, self.about["weights"])
        # a number, and four, for 64 pixels
        maps = (folder.arrays[name] for name in ("confidence", "moments"))
        write_report(report, streamed, record, *maps)


def _leave(folder: JobFolder, target: Path, error: BaseException) -> None:
    """After an error or Ctrl-C: keep what is done and say so, or leave nothing where nothing is
    done.
    """
    with contextlib.suppress(OSError):
        folder.record(now=True)
    restored, patches = folder.done.get("restored"), folder.done.get("patches")
    if not folder.passed and (restored is None or not restored.any()):
        folder.remove()
        return
    folder.close()
    done, tiles = "some of it is", folder.done.get("refined")
    if tiles is not None:
        done = f"{int(tiles.sum())} of {len(tiles)} tiles are"
    elif patches is not None:
        done = f"{int(patches.sum())} of {len(patches)} patches are"
    elif restored is not None:
        done = f"{int(restored.sum())} of {len(restored)} windows are"
    stays = (
        f"{done} done; the same command goes on from there ({size_of(folder.bytes_taken())} "
        f"in {folder.path})"
    )
    if isinstance(error, KeyboardInterrupt):
        raise KeyboardInterrupt(f"{target}: interrupted, {stays}") from error
    if is_out_of_memory(error):
        raise PatchScalerError(
            f"{target}: memory ran out, {stays}; give a smaller --memory-limit"
        ) from error
