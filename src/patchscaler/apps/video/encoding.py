"""Frames -> encoded segments -> one file, with the sound and subtitles of the input.

Each segment is encoded by itself, so that a killed run continues behind the last finished one.
"""

import heapq
import io
import itertools
import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from patchscaler.apps.video.clip import (
    PRECISE,
    SWS_MATRIX,
    Clip,
    Colors,
    import_av,
    is_cover,
    open_video,
)
from patchscaler.errors import PatchScalerError
from patchscaler.images.write import replacing

H264_SIDES = (4096, 2304)  # few players decode larger H.264
CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
MOVIES = (".mp4", ".m4v", ".mov", ".mkv")
MAX_CRF = 51


@dataclass(frozen=True)
class Codec:
    """What a name of `--codec` means."""

    encoder: str  # FFmpeg's name
    crf: int | None  # the default; None where the encoder has no such number
    options: dict[str, str]
    formats: dict[int, str]  # bits -> pixel format
    suffixes: tuple[str, ...]


YUV420, YUV444 = {8: "yuv420p", 10: "yuv420p10le"}, {8: "yuv444p", 10: "yuv444p10le"}
X265 = {"preset": "medium", "x265-params": "log-level=error"}
AV1 = {"preset": "6", "svtav1-params": "enable-tf=0"}
CODECS = {
    "h264": Codec("libx264", 18, {"preset": "medium"}, YUV420, MOVIES),
    "h265": Codec("libx265", 20, X265, YUV420, MOVIES),
    "av1": Codec("libsvtav1", 25, AV1, YUV420, (".webm", ".mkv", ".mp4")),
    "ffv1": Codec("ffv1", None, {"level": "3"}, YUV444, (".mkv",)),
    "prores": Codec("prores_ks", None, {"profile": "3"}, {10: "yuv422p10le"}, (".mov", ".mkv")),
}


@dataclass(frozen=True)
class Plan:
    """How frames are encoded."""

    codec: str
    crf: int | None
    pix_fmt: str
    width: int
    height: int
    colors: Colors
    rate: Fraction
    time_base: Fraction


def make_plan(
    clip: Clip,
    target: Path,
    size: tuple[int, int],
    codec: str | None = None,
    crf: int | None = None,
    bits: int | None = None,
) -> Plan:
    """Choose an encoder, and try it.

    Args:
        clip: The input.
        target: The output, for its container.
        size: (width, height) of the upscaled frames; odd ones lose a column or row where the pixel
            format holds colors for two of them together.
        codec: One of CODECS. By default what most players play: H.264 of 8 bits up to 4096x2304,
            H.265 beyond, AV1 in WebM.
        crf: Quality, 0 is best.
        bits: 8 or 10, by default the input's.

    Raises:
        PatchScalerError: The codec is not available, or not in this container.
    """
    av, suffix = import_av(target), target.suffix.lower()
    if suffix not in CONTAINERS:
        raise PatchScalerError(
            f"{target}: videos cannot be written as '{suffix}'. Hint: take {', '.join(CONTAINERS)}"
        )
    depth = 10 if (bits or clip.depth) > 8 else 8
    if codec is None:
        small = size[0] <= H264_SIDES[0] and size[1] <= H264_SIDES[1]
        codec = "av1" if suffix == ".webm" else "h264" if depth == 8 and small else "h265"
    entry = CODECS.get(codec)
    if entry is None:
        raise PatchScalerError(f"codec {codec}: choose one of {', '.join(CODECS)}")
    if suffix not in entry.suffixes:
        raise PatchScalerError(f"{target}: {codec} goes into {', '.join(entry.suffixes)}")
    if crf is not None and (entry.crf is None or not 0 <= crf <= MAX_CRF):
        takes = "no such number" if entry.crf is None else f"0 (best) to {MAX_CRF}"
        raise PatchScalerError(f"crf {crf}: {codec} takes {takes}")
    pix_fmt = entry.formats.get(depth, entry.formats[10])
    width = size[0] - (size[0] % 2 if "444" not in pix_fmt else 0)
    height = size[1] - (size[1] % 2 if "420" in pix_fmt else 0)
    crf = entry.crf if crf is None else crf
    plan = Plan(codec, crf, pix_fmt, width, height, clip.colors, clip.rate, clip.time_base)
    try:
        _encoder(plan).open()
    except (av.error.FFmpegError, ValueError) as error:
        raise PatchScalerError(
            f"{target}: {codec} cannot encode {width}x{height} as {pix_fmt} here ({error}). "
            "Hint: choose another --codec"
        ) from error
    return plan


def _encoder(plan: Plan, context: Any = None) -> Any:
    """A configured encoder: of a segment, or of the file whose header describes them all."""
    import av

    codec, c = CODECS[plan.codec], plan.colors
    context = context or av.codec.CodecContext.create(codec.encoder, "w")
    context.width, context.height, context.pix_fmt = plan.width, plan.height, plan.pix_fmt
    context.time_base, context.framerate = plan.time_base, plan.rate
    context.sample_aspect_ratio = Fraction(1)
    context.color_range, context.colorspace = c.range, c.matrix
    context.color_primaries, context.color_trc = c.primaries, c.transfer
    context.flags |= av.codec.context.Flags.global_header
    context.options = codec.options | ({} if plan.crf is None else {"crf": str(plan.crf)})
    return context


# --- segments -------------------------------------------------------------------------------------


def encode_segment(plan: Plan, times: Sequence[int], frames: Iterator[np.ndarray]) -> bytes:
    """As many (h, w, 1..3) uint16 frames as times -> a segment, as `read_segment` takes it."""
    encoder = _encoder(plan)
    packets = []
    for time, array in zip(times, frames, strict=False):
        frame = to_frame(array, plan)
        frame.pts, frame.time_base = time, plan.time_base
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    head = [(p.pts, p.size, p.is_keyframe) for p in packets]
    return json.dumps(head).encode() + b"\n" + b"".join(bytes(p) for p in packets)


def read_segment(segment: Path) -> Iterator[Any]:
    """Packets of a segment, in the order of decoding."""
    import av

    with segment.open("rb") as file:
        for pts, size, key in json.loads(file.readline()):
            packet = av.Packet(file.read(size))
            packet.pts, packet.is_keyframe = pts, key
            yield packet


def to_frame(array: np.ndarray, plan: Plan) -> Any:
    """(h, w, 1..3) uint16 -> a frame of the plan's pixel format."""
    import av

    array = np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))
    frame = av.VideoFrame.from_ndarray(array, format="rgb48le").reformat(
        format=plan.pix_fmt,
        dst_colorspace=SWS_MATRIX.get(plan.colors.matrix, 5),
        src_color_range=2,
        dst_color_range=plan.colors.range,
        interpolation=PRECISE,
    )
    frame.color_range, frame.colorspace = plan.colors.range, plan.colors.matrix
    return frame


# --- the file -------------------------------------------------------------------------------------


def check_streams(clip: Clip, target: Path, plan: Plan, audio: bool = True) -> list[str]:
    """A warning for each stream that the target cannot hold.

    Raises PatchScalerError where that is sound.
    """
    with open_video(clip.path) as (source, original), _container(target, io.BytesIO()) as out:
        _, copies = _add_streams(out, source, original, plan, audio)
        warnings = []
        for stream in source.streams:
            if stream is original or stream in copies or (stream.type == "audio" and not audio):
                continue
            name = stream.codec_context.codec.canonical_name if stream.codec_context else "unknown"
            if stream.type == "audio":
                raise PatchScalerError(
                    f"{target}: cannot hold its sound ({name}). Hint: name a .mkv, which holds "
                    "nearly all, or give --no-audio"
                )
            kind = "cover image" if is_cover(stream) else stream.type
            warnings.append(f"its {kind} ({name}) has no room in this format and is left out")
        return warnings


def write_video(
    target: Path,
    clip: Clip,
    plan: Plan,
    segments: Sequence[Path],
    comment: str | None = None,
    audio: bool = True,
) -> None:
    """Write segments and copied streams, all or nothing.

    Args:
        target: The file.
        clip: The input.
        plan: Of the segments.
        segments: In order.
        comment: For the metadata, where the input has none.
        audio: Copy sound.

    Raises:
        PatchScalerError: The container cannot hold it.
    """
    with (
        replacing(target) as temporary,
        open_video(clip.path) as (source, original),
        _container(target, f"file:{temporary.absolute()}") as out,
    ):
        video, copies = _add_streams(out, source, original, plan, audio)
        out.metadata.update(_metadata(source, comment))
        if chapters := source.chapters():
            out.set_chapters([chapter | _shifted(chapter, clip) for chapter in chapters])
        out.start_encoding()
        packets = _video_packets(clip, plan, segments, video), _copied_packets(source, clip, copies)
        for packet in heapq.merge(*packets, key=lambda packet: packet.dts * packet.time_base):
            out.mux(packet)


@contextmanager
def _container(target: Path, place: Any) -> Iterator[Any]:
    """For writing, in the format of the target."""
    av, form = import_av(target), CONTAINERS[target.suffix.lower()]
    options = (
        {"movflags": "+faststart"} if isinstance(place, str) and form in ("mp4", "mov") else {}
    )
    try:
        with av.open(place, "w", format=form, container_options=options) as out:
            yield out
    except (av.error.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PatchScalerError(
            f"{target}: cannot be written ({reason}). Hint: name a .mkv, or give --no-audio"
        ) from error


def _add_streams(
    out: Any, source: Any, original: Any, plan: Plan, audio: bool
) -> tuple[Any, dict[Any, Any]]:
    """-> the video's stream; input streams that are copied -> those of the output."""
    video = out.add_stream(CODECS[plan.codec].encoder, rate=plan.rate)
    _encoder(plan, video.codec_context)
    if plan.codec == "h265" and out.format.name in ("mp4", "mov"):
        video.codec_context.codec_tag = "hvc1"  # which Apple's players want
    copies = {}
    for stream in source.streams:
        copied = stream.type == "subtitle" or (audio and stream.type == "audio")
        if copied and stream.codec_context and _has_room(out.format.name, stream):
            copies[stream] = out.add_stream_from_template(stream)
            copies[stream].disposition = stream.disposition
    for before, after in [(original, video), *copies.items()]:
        names = {k: v for k, v in before.metadata.items() if k in ("language", "title")}
        after.metadata.update(names)
    return video, copies


def _has_room(form: str, stream: Any) -> bool:
    """Try: what libraries list as possible is not always."""
    import av

    try:
        with av.open(io.BytesIO(), "w", format=form) as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
    except (av.error.FFmpegError, ValueError):
        return False
    return True


def _metadata(source: Any, comment: str | None) -> dict[str, str]:
    own = {"encoder", "major_brand", "minor_version", "compatible_brands", "duration"}
    kept = {k: v for k, v in source.metadata.items() if k.lower() not in own}
    return ({"comment": comment} if comment else {}) | kept


def _shifted(chapter: dict[str, Any], clip: Clip) -> dict[str, int]:
    shift = round(clip.start / (chapter["time_base"] or 1))
    return {name: max(0, chapter[name] - shift) for name in ("start", "end")}


def _video_packets(clip: Clip, plan: Plan, segments: Sequence[Path], stream: Any) -> Iterator[Any]:
    """Times of decoding are made anew over all segments: encoders know only their own."""
    shift, times = round(clip.start / plan.time_base), clip.times
    ends = [*times[1:], times[-1] + clip.last]
    shown = [bisect_left(times, packet.pts) for s in segments for packet in read_segment(s)]
    delay = max(decoded - number for decoded, number in enumerate(shown))
    early = [times[0] - (delay - n) * (ends[0] - times[0]) for n in range(delay)]
    packets = itertools.chain.from_iterable(read_segment(segment) for segment in segments)
    for packet, number, dts in zip(packets, shown, itertools.chain(early, times), strict=False):
        packet.duration = ends[number] - packet.pts
        packet.pts, packet.dts = packet.pts - shift, dts - shift
        packet.time_base, packet.stream = plan.time_base, stream
        yield packet


def _copied_packets(source: Any, clip: Clip, copies: dict[Any, Any]) -> Iterator[Any]:
    for packet in source.demux(list(copies)) if copies else ():
        if packet.size and (packet.dts is not None or packet.pts is not None):
            shift = round(clip.start / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts = packet.pts if packet.dts is None else packet.dts - shift
            packet.stream = copies[packet.stream]
            yield packet
