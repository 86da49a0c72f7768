"""What is known of a video file before any work, and its frames as arrays."""

import itertools
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from patchscaler.errors import PatchScalerError
from patchscaler.images.read import check_pixels

SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".vob", ".ts"}
SUFFIXES |= {".m2ts", ".mts", ".wmv", ".flv", ".ogv", ".3gp", ".mxf", ".dv", ".y4m"}
# Readers of single files. Playlists are not among them: they open other files and addresses.
READERS = "mov,mp4,matroska,webm,avi,mpeg,mpegts,asf,flv,ogg,mxf,dv,yuv4mpegpipe,nut"
WITH_LENGTH = {"mov", "matroska", "avi", "flv", "asf"}  # formats whose header has the length
MAX_FRAME_PIXELS = 2**26  # of a decoded frame; the decoder itself refuses larger ones
HDR = {16: "PQ", 18: "HLG"}  # transfer functions, by their numbers in ITU-T H.273
# Bicubic, rounded accurately, with colors read and written for every pixel
PRECISE = 4 | 0x40000 | 0x2000 | 0x4000
SWS_MATRIX = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}  # numbers of H.273 -> those of swscale


@dataclass(frozen=True)
class Colors:
    """Numbers of ITU-T H.273; 2 is unspecified."""

    range: int  # 1 limited, 2 full
    matrix: int
    primaries: int
    transfer: int


@dataclass
class Clip:
    """A video stream. Sizes are of upright frames."""

    path: Path
    decoded: tuple[int, int]  # (width, height) of a decoded frame that was turned upright
    width: int  # with square pixels
    height: int
    quarters: int  # turns to the left that make a decoded frame upright
    mirrored: bool  # before it is turned
    depth: int  # bits a channel
    time_base: Fraction
    times: list[int]  # of each frame, in time_base
    last: int  # duration of the last frame
    rate: Fraction  # frames a second, on average
    colors: Colors
    interlaced: bool
    start: Fraction  # seconds at which the file starts
    warnings: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.times)


def import_av(path: Path) -> Any:
    try:
        import av
    except ImportError as error:
        raise PatchScalerError(
            f"{path}: videos need the package av. Hint: pip install 'patchscaler[video]'"
        ) from error
    return av


def is_video(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


@contextmanager
def open_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container, for reading, and its first video stream. Raises PatchScalerError."""
    av = import_av(path)
    if not path.is_file():
        raise PatchScalerError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": READERS,
        "max_pixels": str(MAX_FRAME_PIXELS),
    }
    place = f"file:{os.path.abspath(path)}"
    try:
        with av.open(place, options=options, metadata_errors="replace") as container:
            for stream in container.streams.video:
                if stream.codec_context is not None and not is_cover(stream):
                    stream.thread_type = "AUTO"
                    yield container, stream
                    return
            raise PatchScalerError(f"{path}: no video stream that can be decoded")
    except (av.error.FFmpegError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise PatchScalerError(
            f"{path}: not a readable video: damaged, cut off or of another kind ({reason})"
        ) from error


def is_cover(stream: Any) -> bool:
    return bool(int(stream.disposition) & 0x400)  # AV_DISPOSITION_ATTACHED_PIC


# --- probing --------------------------------------------------------------------------------------


def probe_video(path: Path, max_pixels: int = 0, max_frames: int = 0) -> Clip:
    """Decode the whole file once, so that damage is found before the work.

    Args:
        path: Of the file.
        max_pixels: Limit of a frame, 0 for none.
        max_frames: Limit of their number, 0 for none.

    Returns:
        What is known of it.

    Raises:
        PatchScalerError: No video, damaged, cut off, in HDR, beyond a limit, or frames of several
            sizes.
    """
    times: list[Any] = []
    first: Any = None
    corrupt, interlaced, duration, end = 0, False, 0, Fraction(0)
    with open_video(path) as (container, stream):
        check_pixels(stream.width, stream.height, max_pixels, str(path))
        for packet in container.demux():
            if packet.size and packet.pts is not None and packet.time_base:
                end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
            for frame in packet.decode() if packet.stream is stream else ():
                first = first or frame
                _check_frame(path, frame, first, len(times), max_frames)
                times.append(frame.pts)
                corrupt += bool(frame.is_corrupt)
                interlaced = interlaced or bool(frame.interlaced_frame)
                duration = int(frame.duration or 0)
        if first is None:
            raise PatchScalerError(f"{path}: no frame can be decoded")
        check_pixels(first.width, first.height, max_pixels, str(path))
        start = Fraction(max(0, container.start_time or 0), 1_000_000)
        expected = start + Fraction(container.duration or 0, 1_000_000)
        known = WITH_LENGTH & set(container.format.name.split(","))
        if known and end < expected - max(Fraction(1, 4), expected / 100):
            raise PatchScalerError(
                f"{path}: cut off after {float(end):.1f} of {float(expected):.1f} s. "
                "Hint: get the whole file, or save the part that plays as a new one"
            )
        colors = _colors(path, first, stream.codec_context)
        rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        time_base = Fraction(stream.time_base)
        sar = Fraction(stream.sample_aspect_ratio or 1)
    warnings = [f"{corrupt} frames are damaged and upscaled as they are"] if corrupt else []
    if any(component.is_alpha for component in first.format.components):
        warnings.append("transparency is not kept")
    if None in times or any(b <= a for a, b in itertools.pairwise(times)):
        warnings.append(
            f"timestamps are missing or go back: frames are spaced at {float(rate):g}/s"
        )
        time_base, times, duration = 1 / rate, list(range(len(times))), 1
    quarters, mirrored = _turn(first)
    sides = (first.width, first.height)
    if quarters % 2:
        sides, sar = sides[::-1], 1 / sar
    if sar != 1:
        warnings.append(f"pixels of {sar.numerator}:{sar.denominator} become square")
    return Clip(
        path=path,
        decoded=sides,
        width=max(1, round(sides[0] * sar)),
        height=sides[1],
        quarters=quarters,
        mirrored=mirrored,
        depth=max(component.bits for component in first.format.components),
        time_base=time_base,
        times=times,
        last=max(1, duration or round(1 / (rate * time_base))),
        rate=rate,
        colors=colors,
        interlaced=interlaced,
        start=start,
        warnings=warnings,
    )


def _check_frame(path: Path, frame: Any, first: Any, number: int, max_frames: int) -> None:
    if (frame.width, frame.height) != (first.width, first.height):
        raise PatchScalerError(
            f"{path}: frame {number} is {frame.width}x{frame.height}, those before it "
            f"{first.width}x{first.height}. Hint: cut the video there"
        )
    if max_frames and number >= max_frames:
        raise PatchScalerError(
            f"{path}: more than {max_frames} frames. Hint: raise the limit with --max-frames"
        )


def _colors(path: Path, frame: Any, context: Any) -> Colors:
    """As tagged; an untagged matrix is the one that players take at this size."""
    matrix, transfer = int(frame.colorspace), int(context.color_trc)
    if transfer in HDR:
        raise PatchScalerError(
            f"{path}: is in HDR ({HDR[transfer]}), which the networks do not know. "
            "Hint: map it to SDR first, as with FFmpeg's filters zscale and tonemap"
        )
    full = int(frame.color_range) == 2 or frame.format.name.startswith("yuvj")
    if frame.format.is_rgb or matrix == 0:  # is written as BT.709
        matrix, full = 1, False
    elif matrix == 2:
        matrix = 1 if frame.width >= 1280 or frame.height >= 720 else 6  # BT.709, BT.601
    return Colors(2 if full else 1, matrix, int(context.color_primaries), transfer)


def _turn(frame: Any) -> tuple[int, bool]:
    """The display matrix as quarter turns to the left, and whether to mirror before."""
    for side in frame.side_data:
        if "DISPLAYMATRIX" in str(side.type):
            a, b, c, d = np.frombuffer(bytes(side), np.int32)[[0, 1, 3, 4]].astype(float)
            mirrored = bool(a * d < b * c)
            angle = math.atan2(-b, -a) if mirrored else math.atan2(b, a)
            return round(-angle / (math.pi / 2)) % 4, mirrored
    return 0, False


# --- frames ---------------------------------------------------------------------------------------


def read_frames(clip: Clip, first: int = 0) -> Iterator[np.ndarray]:
    """Upright (h, w, 3) uint16 frames from number `first` on, interlaced ones made progressive.

    Raises PatchScalerError where the file has changed since it was probed.
    """
    count = 0
    with open_video(clip.path) as (container, stream):
        frames = container.decode(stream)
        for frame in deinterlaced(frames, stream) if clip.interlaced else frames:
            if count >= first:
                yield to_array(frame, clip)
            count += 1
    if count != clip.count:
        raise PatchScalerError(
            f"{clip.path}: {count} frames in place of {clip.count}. Hint: did the file change?"
        )


def deinterlaced(frames: Iterator[Any], stream: Any) -> Iterator[Any]:
    """A whole frame for each that comes in (FFmpeg's bwdif)."""
    import av

    graph = av.filter.Graph()
    filters = graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
    graph.link_nodes(graph.add_buffer(template=stream), *filters).configure()
    for frame in itertools.chain(frames, [None]):
        graph.push(frame)
        while True:
            try:
                yield graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                break


def to_array(frame: Any, clip: Clip) -> np.ndarray:
    """-> (h, w, 3) uint16, upright. Transfer and primaries stay those of the clip."""
    source = {}
    if not frame.format.is_rgb:
        matrix = SWS_MATRIX.get(clip.colors.matrix, 5)
        source = {"src_colorspace": matrix, "src_color_range": clip.colors.range}
    array = frame.reformat(
        format="rgb48le", dst_color_range=2, interpolation=PRECISE, **source
    ).to_ndarray()
    if clip.mirrored:
        array = array[:, ::-1]
    return np.ascontiguousarray(np.rot90(array, clip.quarters))
