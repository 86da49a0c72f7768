"""Frames of a clip -> pictures in sRGB-like numbers, 16 bits a channel; pictures -> frames for the
encoder.

Matrices and ranges are those of the clip both ways. Transfer and primaries stay what they were: the
model sees HDR's numbers as they are coded, as it sees those of wide profiles that it cannot
convert.
"""

from collections.abc import Generator, Iterator
from typing import Any

import numpy as np

from patchscaler.apps.video.clip import Clip, Colors, import_av, opened, video_stream
from patchscaler.errors import PatchScalerError

# swscale's: bicubic, rounded accurately, colours read and written for every pixel
PRECISE = 4 | 0x40000 | 0x2000 | 0x4000
SWS_MATRIX = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}  # H.273's numbers -> swscale's


def read_frames(clip: Clip, numbers: range) -> Generator[np.ndarray, None, None]:
    """Upright (h, w, 3) uint16, of the frames of these numbers; fields are made frames.

    Raises PatchScalerError.
    """
    number = 0
    with opened(clip.path) as container:
        stream = video_stream(container, clip.path)
        stream.thread_type = "AUTO"
        decoded = container.decode(stream)
        for frame in deinterlaced(decoded, clip, stream) if clip.interlaced else decoded:
            if number in numbers:
                yield to_array(frame, clip)
            number += 1
    if number != clip.count:
        raise PatchScalerError(
            f"{clip.path}: {number} frames where there were {clip.count}: did the file change?"
        )


def deinterlaced(frames: Iterator[Any], clip: Clip, stream: Any) -> Iterator[Any]:
    """As many frames as come in: those made of two fields are filled in from their neighbours
    (FFmpeg's bwdif).
    """
    av = import_av(f"{clip.path}: a video")
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add_buffer(template=stream),
        graph.add("bwdif", "mode=send_frame:deint=interlaced"),
        graph.add("buffersink"),
    ).configure()
    for frame in frames:
        graph.push(frame)
        yield from _pulled(graph, av)
    graph.push(None)
    yield from _pulled(graph, av)


def _pulled(graph: Any, av: Any) -> Iterator[Any]:
    while True:
        try:
            yield graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def to_array(frame: Any, clip: Clip) -> np.ndarray:
    """-> (h, w, 3) uint16, upright."""
    source = (
        {}
        if frame.format.is_rgb
        else {
            "src_colorspace": SWS_MATRIX.get(clip.colors.matrix, 5),
            "src_color_range": clip.colors.range,
        }
    )
    array = frame.reformat(
        format="rgb48le", dst_color_range=2, interpolation=PRECISE, **source
    ).to_ndarray()
    if clip.mirrored:
        array = array[:, ::-1]
    return np.ascontiguousarray(np.rot90(array, clip.quarters))


def to_frame(array: np.ndarray, pix_fmt: str, colors: Colors) -> Any:
    """(h, w, 1..3) uint16 -> a frame of `pix_fmt`."""
    av = import_av("a video")
    array = np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))
    frame = av.VideoFrame.from_ndarray(array, format="rgb48le")
    return frame.reformat(
        format=pix_fmt,
        dst_colorspace=SWS_MATRIX.get(colors.matrix, 5),
        src_color_range=2,
        dst_color_range=colors.range,
        interpolation=PRECISE,
    )


# --- frames as numbers, for the disk --------------------------------------------------------------


def pack(frame: Any) -> np.ndarray:
    """All planes of a frame, row by row without padding -> (n,) uint8."""
    return np.concatenate([_rows(plane, frame)[0].ravel() for plane in frame.planes])


def unpack(numbers: np.ndarray, width: int, height: int, pix_fmt: str) -> Any:
    """The inverse of `pack`."""
    av = import_av("a video")
    frame, taken = av.VideoFrame(width, height, pix_fmt), 0
    for plane in frame.planes:
        used, whole = _rows(plane, frame)
        used[:] = numbers[taken : taken + used.size].reshape(used.shape)
        plane.update(whole.tobytes())
        taken += used.size
    return frame


def _rows(plane: Any, frame: Any) -> tuple[np.ndarray, np.ndarray]:
    """-> (rows, bytes of a row that are used), a view of (rows, bytes of a row); a copy of the
    plane.
    """
    size = max(1, -(-max(component.bits for component in frame.format.components) // 8))
    whole = np.frombuffer(bytearray(bytes(plane)), np.uint8)
    whole = whole[: plane.height * plane.line_size].reshape(plane.height, plane.line_size)
    return whole[:, : plane.width * size], whole
