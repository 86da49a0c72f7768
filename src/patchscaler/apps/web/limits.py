"""How much one visitor may ask for, and what is asked for in the first place, checked."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from patchscaler.dials.budget import Budget, parse_budget
from patchscaler.errors import PatchScalerError, TooManyPixelsError
from patchscaler.images.animation import ANIMATED
from patchscaler.images.read import check_pixels, opened, orientation
from patchscaler.images.sizes import TargetSize

ENLARGED = 16  # times as many pixels as may come in may go out
MOST = sys.float_info.max  # whole numbers may be larger, and then are no float


@dataclass(frozen=True)
class Limits:
    """All of one server; 0 is no limit but of `queue`."""

    max_pixels: int = 4_000_000  # of an input; ENLARGED times as many may come out
    seconds: float = 300  # of one picture, or of one zip
    file_bytes: int = 50_000_000  # of an upload
    files: int = 20  # of one zip
    queue: int = 8  # jobs that wait
    # of all uploads and results together; above, none is taken or made
    disk_bytes: int = 4_000_000_000
    # seconds after which a visitor's files are removed, should the page stay open
    keep: float = 3600

    def text(self) -> str:
        """For the page."""
        parts = [
            f"pictures of up to {self.max_pixels / 1e6:g} megapixels" if self.max_pixels else "",
            f"{self.file_bytes / 1e6:g} MB a file" if self.file_bytes else "",
            f"{self.seconds:g} seconds of work" if self.seconds else "",
        ]
        return ", ".join(part for part in parts if part) or "pictures of any size"


@dataclass(frozen=True)
class Dials:
    """What can be turned, as the pipeline takes it."""

    target_size: TargetSize = field(default_factory=lambda: TargetSize(scale=4.0))
    fidelity: float = 0.0
    budget: Budget | None = None
    seed: int = 0

    def keywords(self) -> dict[str, Any]:
        """Arguments of `PatchScaler.options`."""
        return {"fidelity": self.fidelity, "budget": self.budget, "seed": self.seed}


def read_dials(scale: Any, fidelity: Any, budget: Any, seed: Any) -> Dials:
    """From whatever a client sent. Raises PatchScalerError that names the dial."""
    if not isinstance(budget, str | int | float | None) or isinstance(budget, bool):
        raise PatchScalerError("budget: give a share from 0 to 1, seconds such as 20s, or a name")
    text = str(budget).strip() if budget is not None else ""
    return Dials(
        TargetSize(scale=number("scale", scale)),
        number("fidelity", fidelity),
        parse_budget(text) if text else None,
        whole("seed", seed),
    )


def number(name: str, value: Any) -> float:
    """Raises PatchScalerError for what is no finite number."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST:
        return float(value)
    raise PatchScalerError(f"{name}: give a number")


def whole(name: str, value: Any) -> int:
    """Raises PatchScalerError for what is no whole number that a page's field holds exactly."""
    if number(name, value) != int(value) or abs(value) >= 2**53:
        raise PatchScalerError(f"{name}: give a whole number")
    return int(value)


def read_seed(value: Any) -> int | None:
    """A seed that may be left out, as a number or as text. Raises PatchScalerError."""
    if isinstance(value, str):
        word = value.strip()
        if not word:
            return None
        try:
            value = int(word)
        except ValueError as error:  # Python reads no number of thousands of digits either
            raise PatchScalerError("seed: give a whole number, or nothing") from error
    return None if value is None else whole("seed", value)


def check_picture(path: Path, target_size: TargetSize, limits: Limits) -> tuple[int, int]:
    """-> (width, height) of the upright picture. Nothing of it is decoded.

    Raises PatchScalerError, of which TooManyPixelsError is one.
    """
    with opened(path, limits.max_pixels) as image:
        if image.format in ANIMATED and getattr(image, "is_animated", False):
            raise PatchScalerError(
                f"{path}: moves, and only still pictures are taken here; the command "
                "`patchscaler upscale` enlarges it"
            )
        size = (
            (image.height, image.width) if orientation(image) >= 5 else (image.width, image.height)
        )
    width, height = target_size.size(*size)
    try:
        check_pixels(width, height, limits.max_pixels * ENLARGED, str(path))
    except TooManyPixelsError as error:
        raise PatchScalerError(
            f"{path}: would become {width}x{height}, and up to {error.limit / 1e6:g} megapixels "
            "can be made here; "
            "take a smaller scale"
        ) from error
    return size
