"""Animations, frame by frame: GIF, WebP, APNG and AVIF sequences, with their times and loops.

Readers put each frame together (offsets, disposal, blending) before it is upscaled; writers cut it
up again. The noise of the diffusion depends on the place alone, so it stands still.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from patchscaler.errors import PatchScalerError
from patchscaler.images.deep import bit_depth
from patchscaler.images.formats import FORMATS, format_of, head_of
from patchscaler.images.labels import check_profile, label_of
from patchscaler.images.metadata import Metadata, orientation, read_metadata
from patchscaler.images.pixels import to_palette, to_pil, upright
from patchscaler.images.planes import Planes, to_planes
from patchscaler.images.read import MAX_PIXELS, opened
from patchscaler.images.write import check_side, fitting, replacing, save_options

ANIMATED = tuple(kind for kind, held in FORMATS.items() if held.moving)
MAX_FRAMES = 2_000
# of all frames together: sixteen times as many come out, and wait for the writer
FRAME_PIXELS = 60_000_000


@dataclass
class Animation:
    """What a file says of its frames; `frames` reads them one after the other."""

    path: Path
    metadata: Metadata
    format: str
    count: int
    loop: int | None  # times to play, 0 for ever; None: once, nothing said
    max_pixels: int
    durations: list[float] = field(default_factory=list)  # ms; filled while frames are read
    notes: list[str] = field(default_factory=list)

    def frames(self) -> Iterator[Planes]:
        """Each frame whole and upright. Raises PatchScalerError where the file is damaged."""
        self.durations.clear()
        with opened(self.path, self.max_pixels) as image:
            turn = orientation(image)
            canvas = Canvas(image.size) if image.format == "PNG" else None
            # a still for programs that cannot play
            first = 1 if getattr(image, "default_image", False) else 0
            for number in range(first, first + self.count):
                image.seek(number)
                frame = upright(canvas.next(image) if canvas else _frame(image), turn)
                if frame.size != self.metadata.size:
                    raise ValueError(f"frame {number} is larger than the image")
                duration = float(image.info.get("duration", 0))
                self.durations.append(duration if 0 <= duration < 2**31 else 0)
                frame.info = {"icc_profile": self.metadata.icc_profile}
                planes = to_planes(frame)
                if planes.alpha is not None and image.format == "GIF":
                    planes.alpha = _rounded(planes.alpha)
                yield planes


def _frame(image: Image.Image) -> Image.Image:
    image.load()
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


class Canvas:
    """Put the frames of a PNG together.

    Own code, for Pillow 13 pastes a half-transparent frame, alpha and all, where APNG puts it over.
    """

    def __init__(self, size: tuple[int, int]):
        self.whole = Image.new("RGBA", size)
        self.opaque: bool | None = None

    def next(self, image: Image.Image) -> Image.Image:
        """The canvas with the frame of the last `seek`: RGBA, or RGB without any transparency."""
        if self.opaque is None:
            self.opaque = not image.has_transparency_data
        over = image.info.get("blend", 0) == 1
        left, top, right, bottom = image.info.get("bbox", (0, 0, *image.size))
        box = (int(left), int(top), int(right), int(bottom))
        image.blend_op = 0  # type: ignore[attr-defined]  # Pillow shall only decode
        image.load()
        part = image.crop(box).convert("RGBA")
        before = self.whole.copy()
        if over:
            self.whole.alpha_composite(part, box[:2])
        else:
            self.whole.paste(part, box[:2])
        shown = self.whole
        disposal = image.info.get("disposal", 0)
        if disposal:  # 1: cleared, 2: as it was before
            self.whole = before if disposal == 2 else shown.copy()
            if disposal == 1:
                self.whole.paste((0, 0, 0, 0), box)
        else:
            self.whole = shown.copy()
        return shown.convert("RGB") if self.opaque else shown


def _rounded(alpha: Tensor) -> Tensor:
    """(h, w) of zeros and ones -> softened over a pixel, so that upscaled edges are curves and not
    stairs.
    """
    kernel = torch.tensor([0.25, 0.5, 0.25])
    x = F.pad(alpha[None, None], (1, 1, 1, 1), mode="replicate")
    return F.conv2d(x, (kernel[:, None] * kernel)[None, None])[0, 0]


def open_animation(
    path: str | Path, max_pixels: int = MAX_PIXELS, max_frames: int = MAX_FRAMES
) -> Animation | None:
    """None where the file holds one image. max_frames: 0 for no limit.

    Raises PatchScalerError.
    """
    path = Path(path)
    with opened(path, max_pixels) as image:
        if image.format not in ANIMATED or not getattr(image, "is_animated", False):
            return None
        count = int(image.n_frames) - bool(getattr(image, "default_image", False))  # type: ignore[attr-defined]
        if count < 2:
            return None
        if max_frames and count > max_frames:
            raise PatchScalerError(
                f"{path}: {count} frames are more than the limit of {max_frames}. Hint: allow them "
                f"with --max-frames {count}"
            )
        pixels = count * image.width * image.height
        if max_pixels and pixels > max(FRAME_PIXELS, max_pixels):
            raise PatchScalerError(
                f"{path}: {count} frames of {image.width}x{image.height} are more than the limit "
                "of "
                f"{max(FRAME_PIXELS, max_pixels) / 1e6:g} megapixels. Hint: allow them with "
                f"--max-pixels {pixels}"
            )
        turn = orientation(image)
        size = (image.height, image.width) if turn >= 5 else image.size
        label = None if image.info.get("icc_profile") else label_of(image)
        deep = bit_depth(image, head_of(path)) > 8
        metadata, notes = read_metadata(image, size)
        metadata.icc_profile = metadata.icc_profile or label
        check_profile(metadata.icc_profile)
        if deep:
            notes.append("its frames of more than 8 bits are read with 8")
        loop = image.info.get("loop")
        return Animation(path, metadata, image.format or "", count, loop, max_pixels, notes=notes)


def rounded_times(times: list[float], kind: str) -> list[float] | list[int]:
    """Milliseconds as a format holds them, so that the frames end as near to their times as it can.

    PNG holds fractions. GIF counts in hundredths, and players show one of those for a tenth of a
    second: two at least, but where the source itself says so.
    """
    if kind == "PNG":
        return times
    tick, out, end, shown = 10 if kind == "GIF" else 1, [], 0.0, 0
    for time in times:
        end += time
        length = max(0, round((end - shown) / tick)) * tick
        if kind == "GIF" and length <= 10 < time:
            length = 20
        out.append(length)
        shown += length
    return out


def check_animated(path: str | Path) -> None:
    """Raises PatchScalerError where the output's format holds one image."""
    if format_of(path) not in ANIMATED:
        raise PatchScalerError(
            f"{path}: the image moves, and this format cannot. Hint: use .gif, .webp, .png or .avif"
        )


def save_animation(
    frames: list[np.ndarray],
    path: str | Path,
    animation: Animation,
    quality: int | None = None,
    lossless: bool = False,
) -> list[str]:
    """(h, w, 1..4) uint8 each -> one file, all or nothing.

    Returns a line for each thing it could not hold.
    """
    path = Path(path)
    check_animated(path)
    kind = format_of(path)
    notes: list[str] = []
    height, width = frames[0].shape[:2]
    check_side(path, width, height)
    data = fitting(animation.metadata, kind, notes).upscaled(width, height)
    channels = max(frame.shape[2] for frame in frames)
    images = [to_pil(frame) for frame in frames]
    if len({image.mode for image in images}) > 1:
        images = [image.convert("RGBA" if channels in (2, 4) else "RGB") for image in images]
    options: dict[str, Any] = save_options(kind, (height, width, channels), data, quality, lossless)
    options |= {
        "save_all": True,
        "duration": rounded_times(animation.durations[: len(images)], kind),
    }
    if animation.loop is not None:
        options["loop"] = animation.loop
    elif animation.format == "GIF" and kind != "GIF":
        options["loop"] = 1  # a GIF that says nothing plays once, the others for ever
    if kind == "GIF":
        images = [to_palette(image) for image in images]
        # every frame is whole: none shows through the next
        options |= {"disposal": 2, "optimize": False}
    elif kind == "PNG":
        options |= {"disposal": 0, "blend": 0}
    with replacing(path) as temporary, temporary.open("wb") as file:
        images[0].save(file, kind, append_images=images[1:], **options)
    return notes
