"""Videos through PyAV (extra `video`): decode, upscale frame by frame, encode; sound is copied.

The noise of the diffusion depends on the place alone, so a still scene stays still.
"""

import hashlib
import itertools
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from patchscaler._version import __version__
from patchscaler.apps.video.clip import Clip, import_av, probe_video, read_frames
from patchscaler.apps.video.encoding import (
    Plan,
    check_streams,
    encode_segment,
    make_plan,
    write_video,
)
from patchscaler.config import GroupConfig
from patchscaler.images.read import MAX_PIXELS
from patchscaler.images.sizes import TargetSize, resized
from patchscaler.images.write import check_place
from patchscaler.model import Model
from patchscaler.models.weights import file_hash
from patchscaler.pipeline import PatchScaler
from patchscaler.progress import Callback, Progress
from patchscaler.storage import DiskStorage
from patchscaler.tiling import Executor, LocalExecutor

SEGMENT = 24  # frames; what a killed run loses at most
BATCH_PIXELS = 2**17  # of the LR frames that share batches of patches
BATCH_FRAMES = (8, 4, 2, 1)  # divisors of SEGMENT: a resumed run makes the same batches


@dataclass
class VideoOutput:
    """What `upscale_video` did."""

    size: tuple[int, int]  # (width, height)
    frames: int
    resumed: int  # of them, made by an earlier run that was killed
    nfe: int  # network evaluations of patches
    codec: str
    warnings: list[str] = field(default_factory=list)


def upscale_frames(
    model: Model, frames: list[np.ndarray], keywords: dict[str, Any]
) -> list[tuple[np.ndarray, int]]:
    """What an executor runs: frames that share batches -> their arrays and network evaluations."""
    outputs = PatchScaler(model)(frames, **keywords)
    return [(output.array, output.nfe) for output in outputs]


def upscale_video(
    pipeline: PatchScaler,
    source: str | Path | Clip,
    target: str | Path,
    *,
    scale: float | None = None,
    size: TargetSize | str | None = None,
    seed: int = 0,
    fidelity: float | None = None,
    budget: float | None = None,
    prompt: bool = True,
    groups: GroupConfig | None = None,
    color: str = "wavelet",
    batch_size: int | None = None,
    tile: int | None = None,
    memory_limit: float = 512.0,
    max_pixels: int = MAX_PIXELS,
    max_frames: int = 0,
    codec: str | None = None,
    crf: int | None = None,
    bits: int | None = None,
    audio: bool = True,
    provenance: bool = True,
    callback: Callback | None = None,
    executor: Executor | None = None,
) -> VideoOutput:
    """Upscale a video file. Killed, the same call continues behind the last finished segment.

    Args:
        pipeline: Model and options' defaults.
        source: The file, or what `probe_video` gave of it.
        target: The output: .mp4, .m4v, .mov, .mkv or .webm.
        scale, size, seed, fidelity, budget, prompt, groups, color, batch_size, tile, memory_limit:
            Of every frame, see `PatchScaler.__call__`.
        max_pixels: Limit of an input frame, 0 for none.
        max_frames: Limit of their number, 0 for none.
        codec, crf, bits: Of the encoder, see `make_plan`.
        audio: Copy sound.
        provenance: Note program, model and seed in the metadata.
        callback: Called with a `Progress` after every frame.
        executor: Where the networks run; this process by default.

    Returns:
        A `VideoOutput`.

    Raises:
        PatchScalerError: The file is damaged or in HDR, or the target cannot hold it; before the
            first frame.
    """
    import_av(Path(target))
    target = Path(target)
    clip = source if isinstance(source, Clip) else probe_video(Path(source), max_pixels, max_frames)
    check_place(target, clip.path)
    target_size = TargetSize.of(scale, size)
    width, height = target_size.size(clip.width, clip.height)
    if clip.decoded != (clip.width, clip.height):  # pixels become square behind the networks
        target_size = TargetSize(scale=height / clip.decoded[1])
    keywords: dict[str, Any] = {
        "size": target_size,
        "seed": seed,
        "fidelity": fidelity,
        "budget": budget,
        "prompt": prompt,
        "groups": groups,
        "color": color,
        "batch_size": batch_size,
        "tile": tile,
        "memory_limit": memory_limit,
        "max_pixels": 0,
    }
    pipeline.options(**keywords)  # checks them
    plan = make_plan(clip, target, (width, height), codec, crf, bits)
    warnings = clip.warnings + check_streams(clip, target, plan, audio)
    if (plan.width, plan.height) != (width, height):
        held = f"{plan.width}x{plan.height}"
        warnings.append(f"{width}x{height} becomes {held}: {plan.codec} holds even sizes")
    executor = executor or LocalExecutor(pipeline.model)
    weights = pipeline.model.weights_hash()
    about = {
        "input": file_hash(clip.path),
        "weights": weights,
        "options": repr(keywords),
        "compute_signature": executor.compute_signature,
        "plan": repr(plan),
        "segment": SEGMENT,
        "version": __version__,
    }
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    storage = DiskStorage(target, key, about)
    try:
        output = _make_segments(storage, executor, clip, plan, (width, height), keywords, callback)
        facts = f"PatchScaler {__version__}, {pipeline.model.config.name}, seed {seed}"
        segments = [_segment(storage, n) for n in range(-(-clip.count // SEGMENT))]
        write_video(target, clip, plan, segments, facts if provenance else None, audio)
    except BaseException as error:
        kept = len(list(storage.path.glob("segment*[0-9]")))
        storage.close() if kept else storage.remove()
        if kept and isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(
                f"{target}: interrupted, {min(clip.count, kept * SEGMENT)} of {clip.count} frames "
                "are done. Hint: the same command continues there"
            ) from error
        raise
    storage.remove()
    output.warnings = warnings
    return output


def _segment(storage: DiskStorage, number: int) -> Path:
    return storage.path / f"segment{number:06d}"


def _make_segments(
    storage: DiskStorage,
    executor: Executor,
    clip: Clip,
    plan: Plan,
    size: tuple[int, int],
    keywords: dict[str, Any],
    callback: Callback | None,
) -> VideoOutput:
    """Upscale and encode what no earlier run has. size: (width, height) with square pixels."""
    count, starts = clip.count, range(0, clip.count, SEGMENT)
    first = next((n for n in range(len(starts)) if not _segment(storage, n).exists()), len(starts))
    begin = min(count, first * SEGMENT)
    output = VideoOutput((plan.width, plan.height), count, begin, 0, plan.codec)
    together = (n for n in BATCH_FRAMES if n * math.prod(clip.decoded) <= BATCH_PIXELS)
    calls = ((batch, keywords) for batch in _batches(read_frames(clip, begin), next(together, 1)))
    began = time.monotonic()

    def upscaled() -> Iterator[np.ndarray]:
        made = itertools.chain.from_iterable(executor.map(upscale_frames, calls))
        for number, (array, nfe) in enumerate(made, begin + 1):
            if array.shape[:2] != (size[1], size[0]):
                array = resized(array, (size[1], size[0]))
            output.nfe += nfe
            if callback:
                eta = (time.monotonic() - began) / (number - begin) * (count - number)
                callback(Progress("frames", number, count, eta))
            yield array[: plan.height, : plan.width]

    frames = upscaled()
    for n in range(first, len(starts)):
        times = clip.times[starts[n] : starts[n] + SEGMENT]
        storage.write(_segment(storage, n).name, encode_segment(plan, times, frames))
    next(frames, None)  # `read_frames` counts them
    return output


def _batches(frames: Iterator[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    while batch := list(itertools.islice(frames, size)):
        yield batch
