"""Which encoder, and segments: each is encoded by itself, so that a killed run goes on behind the
last finished one and the file comes out as if it had never been killed.
"""

import json
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from patchscaler.apps.video.clip import Clip, Colors, import_av
from patchscaler.errors import PatchScalerError

SEGMENT = 48  # frames
H264_SIDES = (4096, 2304)  # beyond them few players decode H.264


@dataclass(frozen=True)
class Codec:
    """What the name of `--codec` means."""

    encoder: str  # FFmpeg's name
    crf: int | None  # by default; None: no such number
    crf_limit: int
    options: dict[str, str]
    formats: dict[int, str]  # bits -> pixel format
    suffixes: tuple[str, ...]
    tag: str | None = None  # in MP4 and MOV, where players look for another than FFmpeg's


MOVIES = (".mp4", ".m4v", ".mov", ".mkv")
TELLS_ASPECT = ("h264", "h265")  # in its own data; Matroska's cannot be set through PyAV
CODECS = {
    "h264": Codec(
        "libx264", 18, 51, {"preset": "medium"}, {8: "yuv420p", 10: "yuv420p10le"}, MOVIES
    ),
    "h265": Codec(
        "libx265",
        20,
        51,
        {"preset": "medium", "x265-params": "log-level=error"},
        {8: "yuv420p", 10: "yuv420p10le"},
        MOVIES,
        "hvc1",
    ),
    "vp9": Codec(
        "libvpx-vp9",
        24,
        63,
        {"b": "0", "row-mt": "1", "cpu-used": "2"},
        {8: "yuv420p"},
        (".webm", ".mkv", ".mp4"),
    ),
    "av1": Codec(
        "libsvtav1",
        25,
        63,
        {"preset": "6", "svtav1-params": "enable-tf=0"},
        {8: "yuv420p", 10: "yuv420p10le"},
        (".webm", ".mkv", ".mp4"),
    ),
    "ffv1": Codec("ffv1", None, 0, {"level": "3"}, {8: "yuv444p", 10: "yuv444p10le"}, (".mkv",)),
    "prores": Codec(
        "prores_ks",
        None,
        0,
        {"profile": "3"},
        {8: "yuv422p10le", 10: "yuv422p10le"},
        (".mov", ".mkv"),
    ),
}
CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}


@dataclass(frozen=True)
class Plan:
    """All that decides about what the encoder gives, but the frames."""

    codec: str
    crf: int | None
    pix_fmt: str
    width: int
    height: int
    time_base: Fraction
    rate: Fraction
    sar: Fraction
    colors: Colors

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        texts = {name: str(getattr(self, name)) for name in ("time_base", "rate", "sar")}
        return asdict(self) | texts | {"encoder": CODECS[self.codec].encoder, "segment": SEGMENT}


def make_plan(
    clip: Clip,
    target: Path,
    size: tuple[int, int],
    codec: str | None,
    crf: int | None,
    bits: int | None,
) -> tuple[Plan, list[str]]:
    """-> the plan, and a line for each thing that it cannot keep. Raises PatchScalerError for what
    cannot be.

    size: (width, height) of the frames as they are made; the plan's may lack an odd last column or
    row.

    By default what most players play: H.264 with 8 bits and up to 4096x2304, H.265 beyond, AV1 or
    VP9 in WebM.
    """
    av = import_av(f"{target}: a video")
    depth = 10 if clip.depth > 8 and bits != 8 else 8
    suffix = check_suffix(target)
    if codec is None:
        small = size[0] <= H264_SIDES[0] and size[1] <= H264_SIDES[1]
        codec = (
            ("vp9" if depth == 8 else "av1")
            if suffix == ".webm"
            else "h264"
            if depth == 8 and small
            else "h265"
        )
    entry = CODECS.get(codec)
    if entry is None:
        raise PatchScalerError(f"codec {codec}: choose one of {', '.join(CODECS)}")
    if suffix not in entry.suffixes:
        raise PatchScalerError(f"{target}: {codec} goes into {', '.join(entry.suffixes)}")
    if crf is not None and (entry.crf is None or not 0 <= crf <= entry.crf_limit):
        hint = "takes none" if entry.crf is None else f"takes 0 (best) to {entry.crf_limit}"
        raise PatchScalerError(f"--crf {crf}: {codec} {hint}")
    try:
        offered = {f.name for f in av.codec.Codec(entry.encoder, "w").video_formats or []}
    except av.codec.codec.UnknownCodecError as error:
        raise PatchScalerError(
            f"--codec {codec}: this build of av lacks {entry.encoder}; take another"
        ) from error
    notes = []
    if depth not in entry.formats or entry.formats[depth] not in offered:
        notes, depth = [f"{codec} holds 8 bits a channel here; {clip.depth} came in"], 8
    elif clip.depth > 10 and bits != 8:
        notes = [f"it is written with 10 bits a channel; {clip.depth} came in"]
    sar = clip.sar
    if sar != 1 and suffix in (".mkv", ".webm") and codec not in TELLS_ASPECT:
        notes.append(
            f"its pixels are {sar.numerator}:{sar.denominator}, which {codec} in {suffix} cannot "
            "say: "
            "they become square"
        )
        size, sar = (max(2, round(size[0] * sar)), size[1]), Fraction(1)
    pix_fmt = entry.formats[depth]
    held = held_size(size, pix_fmt)
    if held != size:
        notes.append(
            f"{size[0]}x{size[1]} becomes {held[0]}x{held[1]}: {codec} has no room for an odd "
            "row or column"
        )
    plan = Plan(
        codec,
        entry.crf if crf is None else crf,
        pix_fmt,
        *held,
        clip.time_base,
        clip.rate,
        sar,
        clip.colors,
    )
    return plan, notes


def held_size(size: tuple[int, int], pix_fmt: str) -> tuple[int, int]:
    """(width, height) without an odd last column or row, where colours are kept for two of them
    together.
    """
    across, down = 2 if "420" in pix_fmt or "422" in pix_fmt else 1, 2 if "420" in pix_fmt else 1
    return size[0] // across * across, size[1] // down * down


def check_suffix(target: Path) -> str:
    suffix = target.suffix.lower()
    if suffix not in CONTAINERS:
        raise PatchScalerError(
            f"{target}: cannot write videos as '{suffix}'; use one of {', '.join(CONTAINERS)}"
        )
    return suffix


def configure(context: Any, plan: Plan) -> Any:
    """An encoder's context, made ready: of each segment, and of the file whose header tells of them
    all.
    """
    import_av("a video")
    from av.codec.context import Flags

    codec = CODECS[plan.codec]
    context.width, context.height, context.pix_fmt = plan.width, plan.height, plan.pix_fmt
    context.time_base, context.framerate = plan.time_base, plan.rate
    context.sample_aspect_ratio = plan.sar
    c = plan.colors
    context.color_range, context.colorspace = c.range, c.matrix
    context.color_primaries, context.color_trc = c.primaries, c.transfer
    context.flags |= Flags.global_header
    context.options = codec.options | ({} if plan.crf is None else {"crf": str(plan.crf)})
    return context


def encode_segment(plan: Plan, frames: list[Any], times: list[int]) -> bytes:
    """Frames of the plan's format and their times -> one segment, as `read_segment` takes it."""
    av = import_av("a video")
    context = configure(av.codec.CodecContext.create(CODECS[plan.codec].encoder, "w"), plan)
    context.open()
    packets = []
    for frame, time in zip(frames, times, strict=True):
        frame.pts, frame.time_base = time, plan.time_base
        frame.color_range, frame.colorspace = plan.colors.range, plan.colors.matrix
        packets += context.encode(frame)
    packets += context.encode(None)
    about = [(int(p.pts), int(p.size), bool(p.is_keyframe)) for p in packets]
    return json.dumps(about).encode() + b"\n" + b"".join(bytes(p) for p in packets)


def read_times(segment: Path) -> list[int]:
    """Of its packets, in the order of decoding."""
    with segment.open("rb") as file:
        return [time for time, *_ in json.loads(file.readline())]


def read_segment(segment: Path) -> list[tuple[int, bytes, bool]]:
    """-> (time, packet, whether pictures can start here), in the order of decoding."""
    head, _, body = segment.read_bytes().partition(b"\n")
    packets, taken = [], 0
    for time, size, key in json.loads(head):
        packets.append((time, body[taken : taken + size], key))
        taken += size
    return packets
