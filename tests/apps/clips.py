"""Clips for the tests, made with PyAV."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

RATE = 25


def moving(number: int, width: int, height: int) -> np.ndarray:
    """(h, w, 3) uint8: smooth colours that wander a pixel a frame."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    waves = [np.sin((x + number) / 7), np.cos(y / 5 + x / 20), np.sin((x + y) / 11 + number / 5)]
    return np.rint(127.5 + 100 * np.stack(waves, -1)).astype(np.uint8)


def make_clip(
    path: Path,
    count: int = 6,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: list[int] | None = None,
    time_base: Fraction = Fraction(1, 12800),
    audio: tuple[str, ...] = (),
    colors: tuple[int, int, int, int] | None = None,
    sar: Fraction | None = None,
    turn: int = 0,
    flip: str = "",
    still: bool = False,
    fields: bool = False,
    options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """size: (width, height) as coded. times: of the frames, in time_base. colors: range, matrix,
    primaries, transfer. fields: rows are by turns of two moments.
    """
    times = times or [n * int(1 / (time_base * RATE)) for n in range(count)]
    with av.open(str(path), "w") as out:
        out.metadata.update(metadata or {})
        video = out.add_stream(codec, rate=RATE)
        context = video.codec_context
        context.width, context.height, context.pix_fmt, context.time_base = (
            *size,
            pix_fmt,
            time_base,
        )
        context.options = {"crf": "5"} | (options or {}) if codec == "libx264" else options or {}
        if colors:
            context.color_range, context.colorspace, context.color_primaries, context.color_trc = (
                colors
            )
        if sar:
            context.sample_aspect_ratio = sar
        if turn:
            video.set_display_rotation(turn)
        if flip:
            video.set_display_rotation(0, hflip=flip == "h", vflip=flip == "v")
        sounds = [out.add_stream(name, rate=48000, layout="stereo") for name in audio]
        for sound, language in zip(sounds, ("eng", "deu"), strict=False):
            sound.metadata["language"] = language
        for n, time in enumerate(times):
            picture = moving(0 if still else n, *size)
            if fields:
                picture[1::2] = moving(n + 12, *size)[1::2]
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = time, time_base
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        for k, sound in enumerate(sounds):
            _play(out, sound, k, float(times[-1] * time_base) + 1 / RATE)
    return path


def _play(out: Any, sound: Any, number: int, seconds: float) -> None:
    for start in range(0, int(48000 * seconds), 1024):
        wave = np.sin(np.arange(start, start + 1024) * 0.05 * (number + 1)).astype(np.float32) * 0.3
        frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        out.mux(sound.encode(frame))
    out.mux(sound.encode(None))


def frames_of(path: Path) -> tuple[list[Any], Any]:
    """-> decoded frames, and (sample aspect ratio, primaries, transfer, codec) of the video."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        context = stream.codec_context
        about = (
            stream.sample_aspect_ratio,
            int(context.color_primaries),
            int(context.color_trc),
            context.name,
        )
    return frames, about


def seconds_of(path: Path) -> list[float]:
    """When each frame is shown."""
    return [float(frame.pts * frame.time_base) for frame in frames_of(path)[0]]


def sounds_of(path: Path) -> list[tuple[str, str, list[tuple[float, bytes]]]]:
    """-> (codec, language, (seconds, bytes) of each packet) of every audio stream."""
    found = []
    with av.open(str(path)) as container:
        count = len(container.streams.audio)
    for n in range(count):
        with av.open(str(path)) as container:
            stream = container.streams.audio[n]
            packets = [
                (float(p.pts * p.time_base), bytes(p)) for p in container.demux(stream) if p.size
            ]
            found.append(
                (stream.codec_context.codec.canonical_name, stream.language or "", packets)
            )
    return found
