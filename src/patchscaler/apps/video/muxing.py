"""Segments, and everything of the input that is not its pictures, into one file."""

import heapq
import io
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

from patchscaler.apps.video.clip import Clip, import_av, is_cover, opened, video_stream
from patchscaler.apps.video.encoding import (
    CODECS,
    CONTAINERS,
    Plan,
    configure,
    read_segment,
    read_times,
)
from patchscaler.errors import PatchScalerError
from patchscaler.images.write import replacing

KEPT = ("audio", "subtitle")
# what audio becomes where a container has no room for it; aac elsewhere
INSTEAD = {"webm": "libopus"}


def rehearse(target: Path, clip: Clip, plan: Plan, audio: bool = True) -> list[str]:
    """Before any work: can all this go into such a file? -> a line for each thing that cannot be
    kept.

    Raises PatchScalerError where the pictures cannot.
    """
    notes: list[str] = []
    with opened(clip.path) as source, _container(target, io.BytesIO(), "") as out:
        _prepare(out, source, clip, plan, None, audio, notes)
    return notes


def write_video(
    target: Path,
    clip: Clip,
    plan: Plan,
    segments: Sequence[Path],
    facts: str | None,
    audio: bool = True,
) -> None:
    """All or nothing. facts: who made it, for the comment. Raises PatchScalerError."""
    with (
        replacing(target) as temporary,
        opened(clip.path) as source,
        _container(target, f"file:{temporary.absolute()}", "+faststart") as out,
    ):
        video, copies = _prepare(out, source, clip, plan, facts, audio, [])
        packets = _video_packets(clip, plan, segments, video), _copied_packets(source, clip, copies)
        for _, packet in heapq.merge(*packets, key=lambda item: item[0]):
            out.mux(packet)


@contextmanager
def _container(target: Path, place: Any, flags: str) -> Iterator[Any]:
    """For writing, in the format of the target."""
    av = import_av(f"{target}: a video")
    name = CONTAINERS[target.suffix.lower()]
    options = {"movflags": flags} if flags and name in ("mp4", "mov") else {}
    try:
        with av.open(place, "w", format=name, container_options=options) as out:
            yield out
    except (av.error.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PatchScalerError(
            f"{target}: cannot be written ({reason}); try .mkv, or --no-audio"
        ) from error


def _prepare(
    out: Any, source: Any, clip: Clip, plan: Plan, facts: str | None, audio: bool, notes: list[str]
) -> tuple[Any, dict[int, "_Copy"]]:
    """Everything up to the first packet -> the video's stream, the streams that go along."""
    codec, original = CODECS[plan.codec], video_stream(source, clip.path)
    video = out.add_stream(codec.encoder, rate=plan.rate)
    configure(video.codec_context, plan)
    if codec.tag and out.format.name in ("mp4", "mov"):
        video.codec_context.codec_tag = codec.tag
    video.metadata.update(_names(original))
    copies = _copies(source, out, original, audio, notes)
    out.metadata.update(_metadata(source, facts))
    if chapters := source.chapters():
        out.set_chapters([chapter | _moved(chapter, clip) for chapter in chapters])
    out.start_encoding()
    return video, copies


def _names(stream: Any) -> dict[str, str]:
    return {k: v for k, v in stream.metadata.items() if k in ("language", "title")}


def _metadata(source: Any, facts: str | None) -> dict[str, str]:
    own = {"encoder", "major_brand", "minor_version", "compatible_brands", "duration"}
    kept = {k: v for k, v in source.metadata.items() if k.lower() not in own}
    if facts and not any(k.lower() == "comment" for k in kept):
        kept["comment"] = facts
    return kept


def _moved(chapter: dict[str, Any], clip: Clip) -> dict[str, int]:
    shift = round(clip.start / (chapter["time_base"] or 1))
    return {name: max(0, chapter[name] - shift) for name in ("start", "end")}


def _copies(
    source: Any, out: Any, original: Any, audio: bool, notes: list[str]
) -> dict[int, "_Copy"]:
    """Streams that go along, by their number in the input."""
    copies: dict[int, _Copy] = {}
    for stream in source.streams:
        if stream is original or (stream.type == "audio" and not audio):
            continue
        name = stream.codec_context.codec.canonical_name if stream.codec_context else "unknown data"
        fits = stream.type in KEPT and stream.codec_context and _has_room(out, stream)
        if fits:
            made, convert = out.add_stream_from_template(stream), None
        elif stream.type == "audio" and stream.codec_context:
            codec = INSTEAD.get(out.format.name, "aac")
            made = out.add_stream(
                codec, rate=48000 if codec == "libopus" else stream.codec_context.sample_rate
            )
            made.codec_context.layout = (
                "stereo" if stream.codec_context.layout.nb_channels > 1 else "mono"
            )
            made.codec_context.bit_rate = 192_000
            convert = made
            became = f"{codec.removeprefix('lib')} in stereo; .mkv would keep it"
            notes.append(f"its {name} audio has no room in this format and became {became}")
        else:
            what = (
                "cover picture"
                if stream.type == "video" and is_cover(stream)
                else f"{stream.type} ({name})"
            )
            notes.append(f"its {what} has no room here and is left out")
            continue
        made.metadata.update(_names(stream))
        made.disposition = stream.disposition
        copies[stream.index] = _Copy(stream, made, convert)
    return copies


def _has_room(out: Any, stream: Any) -> bool:
    """Tried: what libraries list as possible is not always."""
    av = import_av("a video")
    try:
        with av.open(io.BytesIO(), "w", format=out.format.name) as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
    except (av.error.FFmpegError, ValueError):
        return False
    return True


class _Copy:
    """One stream of the input on its way: packet by packet, or decoded and encoded anew."""

    def __init__(self, source: Any, made: Any, encoder: Any):
        self.source, self.made, self.encoder = source, made, encoder

    def packets(self, packet: Any, start: Fraction) -> Iterator[Any]:
        """packet: of no size at the end of the file. start: what goes off all times, in seconds."""
        if self.encoder is None:
            if packet.size and (packet.dts is not None or packet.pts is not None):
                shift = round(start / packet.time_base)
                packet.pts = None if packet.pts is None else packet.pts - shift
                packet.dts = packet.pts if packet.dts is None else packet.dts - shift
                packet.stream = self.made
                yield packet
            return
        for frame in packet.decode():
            if frame.pts is not None:
                frame.pts -= round(start / frame.time_base)
            yield from self.encoder.encode(frame)
        if not packet.size:
            yield from self.encoder.encode(None)


def _copied_packets(
    source: Any, clip: Clip, copies: dict[int, _Copy]
) -> Iterator[tuple[Fraction, Any]]:
    """-> (seconds, packet) in the order of the file."""
    if not copies:
        return
    latest = Fraction(-(10**9))
    for packet in source.demux([copy.source for copy in copies.values()]):
        for made in copies[packet.stream.index].packets(packet, clip.start):
            time = made.dts if made.dts is not None else made.pts
            if time is not None:
                # merging wants them in order; the muxer sorts finely
                latest = max(latest, time * made.time_base)
            yield latest, made


def _video_packets(
    clip: Clip, plan: Plan, segments: Sequence[Path], stream: Any
) -> Iterator[tuple[Fraction, Any]]:
    """Times of decoding are made anew over all segments: an encoder knows only its own."""
    av = import_av("a video")
    shift = round(clip.start / plan.time_base)
    times = clip.times
    ends = [*times[1:], times[-1] + clip.last]
    order = [time for segment in segments for time in read_times(segment)]
    delay = max(i - bisect_left(times, time) for i, time in enumerate(order))
    step = ends[0] - times[0]
    number = 0
    for segment in segments:
        for time, data, key in read_segment(segment):
            packet = av.Packet(data)
            packet.pts = time - shift
            before = number - delay
            packet.dts = (times[before] if before >= 0 else times[0] + before * step) - shift
            packet.duration = ends[bisect_left(times, time)] - time
            packet.time_base, packet.is_keyframe, packet.stream = plan.time_base, key, stream
            number += 1
            yield packet.dts * plan.time_base, packet
