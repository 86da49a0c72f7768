"""A video file, looked through before any work: every frame's time, size, colours, and whether it
is all there.
"""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from patchscaler.errors import PatchScalerError

if TYPE_CHECKING:
    import av

SUFFIXES = {
    ".mp4",
    ".m4v",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".mpg",
    ".mpeg",
    ".vob",
    ".ts",
    ".m2ts",
    ".mts",
    ".wmv",
    ".flv",
    ".ogv",
    ".3gp",
    ".mxf",
    ".dv",
    ".y4m",
}
# Readers of one file each. Playlists are not among them: they would have other files and addresses
# opened.
READERS = "mov,mp4,matroska,webm,avi,mpeg,mpegts,asf,flv,ogg,mxf,dv,yuv4mpegpipe,nut"
TELLING = ("mov", "matroska", "avi", "flv", "asf")  # their headers tell how long they are
MAX_FRAME_PIXELS = 2**26  # of one decoded frame; larger ones are refused by the decoder itself
# from here on, colours that say nothing are BT.709, below BT.601: so players take them
HD = (1280, 720)
# signs of a display matrix -> quarter turns, mirrored before
TURNS: dict[tuple[int, ...], tuple[int, bool]] = {
    (1, 0, 0, 1): (0, False),
    (0, 1, -1, 0): (3, False),
    (-1, 0, 0, -1): (2, False),
    (0, -1, 1, 0): (1, False),
    (-1, 0, 0, 1): (0, True),
    (1, 0, 0, -1): (2, True),
    (0, 1, 1, 0): (1, True),
    (0, -1, -1, 0): (3, True),
}


@dataclass(frozen=True)
class Colors:
    """Numbers of ITU-T H.273; 2 where nobody says."""

    range: int  # 1 limited, 2 full
    matrix: int
    primaries: int
    transfer: int


@dataclass
class Clip:
    """What `look_through` found. Sizes are of upright frames."""

    path: Path
    width: int
    height: int
    quarters: int  # turns to the left that make a decoded frame upright
    mirrored: bool  # before it is turned
    depth: int  # bits a channel: 8, 10, 12
    time_base: Fraction
    times: list[int]  # of each frame, in time_base
    last: int  # how long the last one stays
    rate: Fraction  # frames a second, on average
    sar: Fraction  # width of a pixel through its height
    colors: Colors
    interlaced: bool
    start: Fraction  # seconds at which the file starts
    notes: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.times)

    @property
    def seconds(self) -> float:
        return float((self.times[-1] + self.last - self.times[0]) * self.time_base)


def import_av(what: str) -> Any:
    try:
        import av
    except ImportError as error:
        raise PatchScalerError(
            f"{what} needs the package av: pip install 'patchscaler[video]'"
        ) from error
    return av


def is_video(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The container, for reading; what its library says becomes one clear line."""
    av = import_av(f"{path}: a video")
    if not path.is_file():
        raise PatchScalerError(
            f"{path}: {'is a folder' if path.is_dir() else 'there is no such file'}"
        )
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": READERS,
        "max_pixels": str(MAX_FRAME_PIXELS),
    }
    try:
        with av.open(
            f"file:{os.path.abspath(path)}", options=options, metadata_errors="replace"
        ) as container:
            yield container
    except (av.error.FFmpegError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise PatchScalerError(
            f"{path}: not a video that can be read: damaged, cut off or of another kind ({reason})"
        ) from error


def video_stream(container: Any, path: Path) -> Any:
    """The first that is not a cover picture. Raises PatchScalerError where there is none."""
    for stream in container.streams.video:
        if stream.codec_context is not None and not is_cover(stream):
            return stream
    raise PatchScalerError(f"{path}: there is no video in it that can be read")


def is_cover(stream: Any) -> bool:
    return bool(int(stream.disposition) & 0x400)  # AV_DISPOSITION_ATTACHED_PIC


def look_through(path: Path, max_pixels: int = 0, max_frames: int = 0) -> Clip:
    """Decodes all of it, which is little beside enlarging. 0: no limit. Raises PatchScalerError.

    Damage is found here and not after a night's work.
    """
    with opened(path) as container:
        stream = video_stream(container, path)
        width, height = stream.codec_context.width, stream.codec_context.height
        _check_size(path, width, height, max_pixels)
        stream.thread_type = "AUTO"
        seen = _Seen(path, max_frames)
        for packet in container.demux():
            seen.packet(packet, stream)
            if packet.stream is stream:
                for frame in packet.decode():
                    seen.frame(frame)
        if not seen.times:
            raise PatchScalerError(f"{path}: there is no frame in it that can be read")
        if (seen.width, seen.height) != (width, height):
            _check_size(path, seen.width, seen.height, max_pixels)
        seen.check_whole(container, stream)
        return seen.clip(container, stream)


def _check_size(path: Path, width: int, height: int, max_pixels: int) -> None:
    from patchscaler.images.read import check_pixels

    if width < 1 or height < 1:
        raise PatchScalerError(f"{path}: its frames have no size: damaged or cut off")
    check_pixels(width, height, max_pixels, str(path))


class _Seen:
    """Gathers what the frames say while they pass."""

    def __init__(self, path: Path, max_frames: int):
        self.path, self.max_frames = path, max_frames
        self.times: list[int | None] = []
        self.first: Any = None
        self.duration, self.packets, self.damaged = 0, 0, 0
        self.end = Fraction(0)

    def packet(self, packet: Any, stream: Any) -> None:
        if packet.size and packet.stream is stream:
            self.packets += 1
        if packet.size and packet.pts is not None and packet.time_base:
            self.end = max(self.end, (packet.pts + (packet.duration or 0)) * packet.time_base)

    def frame(self, frame: Any) -> None:
        number = len(self.times)
        if self.first is None:
            self.first, self.width, self.height = frame, frame.width, frame.height
        if (frame.width, frame.height) != (self.width, self.height):
            raise PatchScalerError(
                f"{self.path}: frame {number} is {frame.width}x{frame.height}, those before it "
                f"{self.width}x{self.height}; cut the video there first"
            )
        if self.max_frames and number >= self.max_frames:
            raise PatchScalerError(
                f"{self.path}: has more frames than the limit of {self.max_frames} (--max-frames)"
            )
        self.times.append(frame.pts)
        self.damaged += bool(frame.is_corrupt)
        self.duration = int(getattr(frame, "duration", 0) or 0)

    def check_whole(self, container: Any, stream: Any) -> None:
        """Raises PatchScalerError where the header told of more than there is."""
        if not any(name in TELLING for name in container.format.name.split(",")):
            return
        told = Fraction(container.duration or 0, 1_000_000) + Fraction(
            max(0, container.start_time or 0), 1_000_000
        )
        if self.packets + 2 < 0.98 * (stream.frames or 0) or self.end < told - max(
            Fraction(1, 4), told / 100
        ):
            raise PatchScalerError(
                f"{self.path}: damaged or cut off after {float(self.end):.1f} of "
                f"{float(told):.1f} s "
                f"({len(self.times)} frames can be read); get it whole, or save the part that "
                "plays as a new file"
            )

    def clip(self, container: Any, stream: Any) -> Clip:
        notes = (
            [f"{self.damaged} frames are damaged, and are enlarged as they are"]
            if self.damaged
            else []
        )
        rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        time_base, times = Fraction(stream.time_base), [t for t in self.times if t is not None]
        if len(times) < len(self.times) or any(b <= a for a, b in itertools.pairwise(times)):
            notes.append(
                "its timestamps are missing or go back: frames are spaced evenly, "
                f"{float(rate):g} a second"
            )
            time_base, times = 1 / rate, list(range(len(self.times)))
            self.duration = 1
        usual = (
            round(1 / (rate * time_base))
            if len(times) < 2
            else (times[-1] - times[0]) // (len(times) - 1)
        )
        quarters, mirrored = turn_of(self.first)
        turned = quarters % 2 == 1
        width, height = (self.height, self.width) if turned else (self.width, self.height)
        sar = Fraction(
            stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1
        ) or Fraction(1)
        if any(component.is_alpha for component in self.first.format.components):
            notes.append("its transparency is not kept")
        return Clip(
            self.path,
            width,
            height,
            quarters,
            mirrored,
            _depth(self.first),
            time_base,
            times,
            max(1, self.duration or usual),
            rate,
            1 / sar if turned else sar,
            _colors(self.first, stream),
            bool(self.first.interlaced_frame),
            Fraction(max(0, container.start_time or 0), 1_000_000),
            notes,
        )


def _depth(frame: "av.VideoFrame") -> int:
    return max((component.bits for component in frame.format.components), default=8)


def _colors(frame: Any, stream: Any) -> Colors:
    """As tagged; where the matrix is not, what players would take it for at this size, since ours
    is another.
    """
    context = stream.codec_context
    matrix, primaries, transfer = (
        int(frame.colorspace),
        int(context.color_primaries),
        int(context.color_trc),
    )
    full = (
        int(frame.color_range) == 2 or frame.format.name.startswith("yuvj") or frame.format.is_rgb
    )
    if matrix == 2 and not frame.format.is_rgb:
        matrix = 1 if frame.width >= HD[0] or frame.height >= HD[1] else 6
    elif frame.format.is_rgb or matrix == 0:
        matrix, full = 1, False  # RGB comes out as BT.709
    return Colors(2 if full else 1, matrix, primaries, transfer)


def turn_of(frame: Any) -> tuple[int, bool]:
    """Of the display matrix: (quarter turns to the left, mirrored left to right before), to the
    nearest quarter.
    """
    for side in frame.side_data:
        if "DISPLAYMATRIX" in str(side.type):
            m = np.frombuffer(bytes(side), np.int32)[[0, 1, 3, 4]].astype(float)
            a, b, c, d = m / max(1.0, np.abs(m).max())
            key = tuple(int(np.rint(x)) for x in (a, b, c, d))
            return TURNS.get(key, (0, False))
    return 0, False
