"""A video file -> a larger one, frame by frame. What a killed run had finished is taken up again.

The noise of the diffusion depends on the place alone, so it stands still while the picture moves.
"""

import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from patchscaler.apps.video.clip import Clip, import_av, look_through
from patchscaler.apps.video.encoding import (
    CODECS,
    SEGMENT,
    Plan,
    check_suffix,
    configure,
    encode_segment,
    make_plan,
)
from patchscaler.apps.video.frames import pack, read_frames, to_frame, unpack
from patchscaler.apps.video.muxing import rehearse, write_video
from patchscaler.dials.record import options_record, provenance, weights_of
from patchscaler.dials.speed import estimate
from patchscaler.enlarge import Upscaled
from patchscaler.errors import PatchScalerError
from patchscaler.images.planes import array_planes
from patchscaler.images.sizes import TargetSize, passes, resized
from patchscaler.jobs import Options, check_passes
from patchscaler.models.weights import file_hash
from patchscaler.streaming.cost import check_disk, check_memory, duration, in_memory_bytes, size_of
from patchscaler.streaming.disk import JobFolder
from patchscaler.streaming.files import BASE
from patchscaler.streaming.passes import Watch, noop
from patchscaler.work import Executor, LocalExecutor

if TYPE_CHECKING:
    from patchscaler.pipeline import PatchScaler

FORMAT = 1  # of job folders
COMPRESSED = 0.15  # bytes a pixel, from above for what is not pure noise
LOOKED_AT = 3  # frames, to tell the cost of all


@dataclass(frozen=True)
class VideoOptions:
    """What concerns the file, not the pixels."""

    codec: str | None = None  # of `encoding.CODECS`; None: by container, depth and size
    crf: int | None = None
    bits: int | None = None
    audio: bool = True
    provenance: bool = True


@dataclass
class MadeVideo:
    """What `upscale_video` did, or would do."""

    size: tuple[int, int]  # (width, height)
    frames: int
    made_now: int  # frames that no earlier run had made
    evaluations: int  # of those
    codec: str
    notes: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)  # of the cost, after a dry run


def upscale_video(
    scaler: "PatchScaler",
    source: str | Path | Clip,
    target: str | Path,
    *,
    target_size: TargetSize | float = 4.0,
    video: VideoOptions | None = None,
    dry_run: bool = False,
    watch: Watch = noop,
    max_frames: int = 0,
    executor: Executor | None = None,
    **options: Any,
) -> MadeVideo:
    """The file `source`, or a clip that was looked through -> the file `target`, which ends on
    .mp4, .mov, .mkv or .webm. Killed, the same call goes on behind the last frame that was
    finished, and gives the same file.

    target_size, options: of `upscale_to_size`. executor: who enlarges, by default this process.
    watch: told of the frames done. dry_run: look at a few frames, write nothing. Raises
    PatchScalerError before the first frame where the file is damaged or codec, disk or memory
    cannot hold it.
    """
    target_size = (
        target_size if isinstance(target_size, TargetSize) else TargetSize(scale=target_size)
    )
    run = _VideoRun(
        scaler,
        executor or LocalExecutor(scaler),
        source,
        Path(target),
        target_size,
        video or VideoOptions(),
        watch,
        max_frames,
        options,
    )
    if dry_run:
        return run.told()
    folder = JobFolder(run.target, run.key, run.about)
    try:
        made = run.make(folder)
    except BaseException as error:
        _leave(folder, run, error)
        raise
    folder.remove()
    for other in JobFolder.others(run.target, run.key):
        made.notes.append(
            f"an unfinished video of other options lies in {other}; delete it if it is not wanted"
        )
    return made


class _VideoRun:
    """One call of `upscale_video`, checked when it is made."""

    def __init__(
        self,
        scaler: "PatchScaler",
        executor: Executor,
        source: str | Path | Clip,
        target: Path,
        target_size: TargetSize,
        video: VideoOptions,
        watch: Watch,
        max_frames: int,
        options: dict[str, Any],
    ):
        self.executor = executor
        self.scaler, self.target, self.target_size, self.video, self.watch = (
            scaler,
            target,
            target_size,
            video,
            watch,
        )
        check_suffix(target)
        limit = options.pop("max_pixels", 0)
        self.clip = (
            source if isinstance(source, Clip) else look_through(Path(source), limit, max_frames)
        )
        self.keywords = options | {"max_pixels": 0}
        self.options = scaler.options(**self.keywords)
        width, height = target_size.size(self.clip.width, self.clip.height)
        self.passes = len(
            passes((self.clip.width, self.clip.height), (width, height), scaler.config.scale)
        )
        _check_options(self.passes, self.options)
        self.plan, self.notes = make_plan(
            self.clip, target, (width, height), video.codec, video.crf, video.bits
        )
        self.size = (self.plan.width, self.plan.height)
        _check_encoder(self.plan, target)
        self.notes += rehearse(target, self.clip, self.plan, video.audio)
        memory = BASE + in_memory_bytes(scaler, self.clip.height, self.clip.width)
        check_memory(memory, f"{target}: a frame of {self.clip.width}x{self.clip.height}")
        check_disk(self.disk, target.parent)
        self.about = {
            "format": FORMAT,
            "input": file_hash(self.clip.path),
            "weights": weights_of(scaler),
            "options": options_record(self.options),
            "compute_signature": executor.compute_signature,
            "target_size": (width, height),
            "size": self.size,
            "plan": self.plan.record(),
            "output": target.name,
            "av": import_av("a video").__version__,
        }
        self.key = hashlib.sha256(
            json.dumps(self.about, sort_keys=True, default=str).encode()
        ).hexdigest()

    @property
    def disk(self) -> int:
        """Bytes of a segment's frames as they are, and of all of them encoded twice: segments, then
        the file.
        """
        pixels = self.size[0] * self.size[1]
        raw = 3 if "420" in self.plan.pix_fmt else 6
        return int(
            min(SEGMENT, self.clip.count) * pixels * raw + 2 * COMPRESSED * pixels * self.clip.count
        )

    def make(self, folder: JobFolder) -> MadeVideo:
        clip, made = self.clip, MadeVideo(self.size, self.clip.count, 0, 0, self.plan.codec)
        spans = [range(a, min(a + SEGMENT, clip.count)) for a in range(0, clip.count, SEGMENT)]
        first = next(
            (i for i, span in enumerate(spans) if not _segment(folder, i).exists()), len(spans)
        )
        begin = next(
            (n for span in spans[first:] for n in span if not _frame(folder, n).exists()),
            clip.count,
        )
        frames = read_frames(clip, range(begin, clip.count))
        made_of = self.executor.map(
            "one", ((array, self.target_size, False, self.keywords) for array in frames)
        )
        for i in range(first, len(spans)):
            for n in spans[i]:
                if n >= begin:
                    self._keep(n, next(made_of), folder, made)
            packed = [np.load(_frame(folder, n)) for n in spans[i]]
            whole = [unpack(numbers, *self.size, self.plan.pix_fmt) for numbers in packed]
            folder.write(
                _segment(folder, i).name,
                encode_segment(self.plan, whole, [clip.times[n] for n in spans[i]]),
            )
            for n in spans[i]:
                _frame(folder, n).unlink(missing_ok=True)
        next(made_of, None)  # it tells where the file has changed under our feet
        facts = None
        if self.video.provenance:
            told = provenance(self.scaler, self.options, self.about["weights"], self.about["input"])
            facts = ", ".join(
                f"{name} {told[name]}" for name in ("Software", "Model", "Weights", "Seed")
            )
        self.watch("file written", 0, 1)
        segments = [_segment(folder, i) for i in range(len(spans))]
        made.notes = clip.notes + self.notes
        write_video(self.target, clip, self.plan, segments, facts, self.video.audio)
        return made

    def _keep(self, number: int, enlarged: Upscaled, folder: JobFolder, made: MadeVideo) -> None:
        """One frame, on disk until its segment is whole."""
        width, height = self.size
        array = enlarged.array[:height]
        if self.plan.sar != self.clip.sar:  # pixels become square
            array = resized(array, (height, width))
        array = array[:, :width]
        file = io.BytesIO()
        np.save(file, pack(to_frame(array, self.plan.pix_fmt, self.plan.colors)))
        folder.write(_frame(folder, number).name, file.getvalue())
        made.made_now += 1
        made.evaluations += sum(result.cost["evaluations_total"] for result in enlarged.passes)
        self.watch("frames", number + 1, self.clip.count)

    def told(self) -> MadeVideo:
        """The cost, from a few frames over the whole length."""
        clip, count = self.clip, self.clip.count
        step = max(1, (count - 1) // max(1, min(LOOKED_AT, count) - 1))
        looked_at = read_frames(clip, range(0, count, step))
        costs = [estimate(self.scaler, array_planes(array), self.keywords) for array in looked_at]
        steps = sum(cost.total for cost in costs) / len(costs)
        seconds = [sum((cost.seconds or {}).values()) for cost in costs]
        each = sum(seconds) / len(seconds)
        again = f", the first of {self.passes} passes" if self.passes > 1 else ""
        pixels = f"{self.size[0]}x{self.size[1]}"
        lines = [
            f"{count} frames, {clip.seconds:.2f} s, {float(clip.rate):.4g} a second, "
            f"{clip.width}x{clip.height} -> "
            f"{pixels} as {self.plan.codec}"
            + ("" if self.plan.crf is None else f" (crf {self.plan.crf})"),
            f"up to {size_of(self.disk)} of disk, about {size_of(BASE + costs[0].memory)} of "
            "memory",
            f"about {steps:.0f} patch-steps a frame (looked at {len(costs)}), "
            f"{steps * count:.0f} in all{again}",
            f"about {duration(each * count)} here ({each:.2f} s a frame)",
        ]
        return MadeVideo(self.size, count, 0, 0, self.plan.codec, clip.notes + self.notes, lines)


def _segment(folder: JobFolder, number: int) -> Path:
    return folder.path / f"segment{number:06d}"


def _frame(folder: JobFolder, number: int) -> Path:
    return folder.path / f"frame{number:08d}.npy"


def _check_options(count: int, options: Options) -> None:
    check_passes(count, options)
    if options.changes:
        raise PatchScalerError("boxes to be made again are for pictures, not for videos")
    if options.budget is not None and options.budget.seconds is not None:
        raise PatchScalerError(
            "a budget in seconds is for one picture; give a video a share, or fast, balanced, best"
        )


def _check_encoder(plan: Plan, target: Path) -> None:
    """Raises PatchScalerError where the encoder refuses the plan: found out before the
    first frame.
    """
    av = import_av("a video")
    try:
        configure(av.codec.CodecContext.create(CODECS[plan.codec].encoder, "w"), plan).open()
    except (av.error.FFmpegError, ValueError) as error:
        raise PatchScalerError(
            f"{target}: {plan.codec} cannot write {plan.width}x{plan.height} as {plan.pix_fmt}; "
            "choose another --codec"
        ) from error


def _leave(folder: JobFolder, run: _VideoRun, error: BaseException) -> None:
    """After an error or Ctrl-C: keep what is done and say so, or leave nothing where nothing is
    done.
    """
    segments = len(list(folder.path.glob("segment[0-9]*[0-9]")))
    done = min(run.clip.count, segments * SEGMENT + len(list(folder.path.glob("frame*.npy"))))
    if not done:
        folder.remove()
        return
    folder.close()
    if isinstance(error, KeyboardInterrupt):
        raise KeyboardInterrupt(
            f"{run.target}: interrupted, {done} of {run.clip.count} frames are done; the same "
            "command goes on from "
            f"there ({size_of(folder.bytes_taken())} in {folder.path})"
        ) from error
