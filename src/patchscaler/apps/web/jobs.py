"""The images of the page's visitors: checked, estimated, tried in part, upscaled."""

import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from patchscaler.errors import PatchScalerError
from patchscaler.files import upscale_file
from patchscaler.images.pixels import has_alpha
from patchscaler.images.planes import eight_bits
from patchscaler.images.read import load_image, opened
from patchscaler.images.sizes import TargetSize, passes
from patchscaler.pipeline import Output, PatchScaler
from patchscaler.progress import Callback, Progress

EXAMPLE = Path(__file__).parent / "static" / "cat.jpg"
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")
LARGER = 16  # times the limit on an input's pixels: of its result
VIEW = 4096  # pixels of a side that a browser is given to compare
SKETCH = 1024  # and to click and paint on
PART_SECONDS = 1.5  # that trying a part may take
PART_SIDES = range(256, 31, -16)  # LR pixels of a part


@dataclass(frozen=True)
class Limits:
    """What a visitor may ask for; 0 is no limit. The defaults are for one's own machine."""

    pixels: int = 500_000_000  # of an image
    seconds: float = 0  # of the work on an image
    file_bytes: int = 0
    files: int = 0  # of a list
    queue: int = 100  # jobs that wait
    keep: int = 86_400  # seconds, of files


STRANGERS = Limits(4_000_000, 300, 50_000_000, 20, 8, 3600)


@dataclass(frozen=True)
class Dials:
    """What is chosen beside the image."""

    scale: float = 4.0
    size: str = ""  # in place of the scale: 3000x, x2000, 3000x2000, 12mp
    fidelity: float | None = None
    seed: int = 0

    @property
    def target(self) -> TargetSize:
        return TargetSize.parse(self.size) if self.size else TargetSize(scale=self.scale)


@dataclass(eq=False)
class Item:
    """An image of a visitor's list, and what was made of it."""

    source: Path
    size: tuple[int, int]  # (width, height), upright
    folder: Path  # of all that is made of it
    sketch: Path  # a small copy
    state: str = "waiting"
    mask: np.ndarray | None = None  # (h, w) uint8, white where the brush went
    made_with: tuple[object, ...] = ()  # `wish` of the result
    result: Path | None = None  # a PNG file
    output: Output | None = None
    seconds: float = 0.0
    before_after: tuple[Path, Path] | None = None
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def name(self) -> str:
        return self.source.name

    def wish(self, dials: Dials) -> tuple[object, ...]:
        """All that a result depends on."""
        return dials, None if self.mask is None else self.mask.tobytes()

    def view(self) -> tuple[Path, Path]:
        """Before and after; before twice where there is no after."""
        return self.before_after or (self.sketch, self.sketch)


@dataclass
class Visit:
    """The list of one visitor, and which image of it is in view."""

    items: list[Item] = field(default_factory=list)
    current: int = 0

    @property
    def item(self) -> Item | None:
        return self.items[self.current] if self.items else None

    def todo(self, dials: Dials) -> list[Item]:
        """What is not made with these dials yet."""
        return [item for item in self.items if item.made_with != item.wish(dials)]

    def done(self) -> list[Item]:
        return [item for item in self.items if item.result]


class StoppedError(Exception):
    """The visitor pressed Stop, or left."""


class Studio:
    """One model and its visitors. Upscales an example first, and measures its speed by it.

    Args:
        pipeline: Of the model.
        limits: For every visitor.
        folder: Where to keep what is made.
    """

    def __init__(self, pipeline: PatchScaler, limits: Limits, folder: Path):
        self.pipeline, self.limits, self.folder = pipeline, limits, folder
        self.stops: dict[str, threading.Event] = {}
        self.lock = threading.Lock()  # a stopped job ends a moment after its place in the queue
        self.spent = np.zeros(2)  # seconds and LR pixels of earlier jobs, older ones by halves
        self.example = self.add(EXAMPLE)
        self.upscale(self.example, Dials())

    # --- before the work ----------------------------------------------------------------------

    def add(self, source: Path) -> Item:
        """Check a file when it is chosen.

        Raises:
            PatchScalerError: It cannot be read, moves, or is too large.
        """
        with own_words(source):
            with opened(source, 0) as image:
                if image.format in ANIMATED and getattr(image, "is_animated", False):
                    raise PatchScalerError(
                        f"{source}: moves. Hint: `patchscaler upscale` takes animations"
                    )
                pixels, limit = image.width * image.height, self.limits.pixels
                if limit and pixels > limit:
                    raise PatchScalerError(
                        f"{source}: has {pixels / 1e6:.1f} megapixels. "
                        f"Hint: up to {limit / 1e6:g} are taken here"
                    )
            image = load_image(source, 0)
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        return Item(source, image.size, folder, save_view(image, folder / "sketch", SKETCH))

    def target(self, item: Item, dials: Dials) -> tuple[int, int]:
        """(width, height) of the result. Raises PatchScalerError where it is too large."""
        size = dials.target.size(*item.size)
        limit = self.limits.pixels * LARGER
        if limit and size[0] * size[1] > limit:
            raise PatchScalerError(
                f"{item.name}: would become {size[0]} × {size[1]} pixels. Hint: take a smaller size"
            )
        return size

    def estimate(self, size: tuple[int, int], dials: Dials) -> float:
        """Seconds for an image of (width, height), by what earlier ones took."""
        seconds, pixels = self.spent
        return float(seconds / pixels) * self._work(size, dials) if pixels else 0.0

    def _work(self, size: tuple[int, int], dials: Dials) -> int:
        """LR pixels of all passes."""
        target = dials.target.size(*size)
        sizes = [size, *passes(size, target, self.pipeline.model.scale)[:-1]]
        return sum(width * height for width, height in sizes)

    def _learn(self, size: tuple[int, int], dials: Dials, seconds: float) -> None:
        self.spent = self.spent / 2 + [seconds, self._work(size, dials)]

    # --- the work -----------------------------------------------------------------------------

    def part(
        self, item: Item, dials: Dials, place: tuple[float, float] = (0.5, 0.5)
    ) -> tuple[Path, Path]:
        """Upscale a part of an image as the whole would be.

        Args:
            item: The image.
            dials: As for the whole.
            place: Middle of the part, (x, y) as shares of width and height.

        Returns:
            Before and after.
        """
        dials = replace(dials, scale=self.target(item, dials)[0] / item.size[0], size="")
        side = next(
            (s for s in PART_SIDES if self.estimate((s, s), dials) < PART_SECONDS), PART_SIDES[-1]
        )
        corner = [
            max(0, min(round(at * whole) - side // 2, whole - side)) // 2 * 2
            for at, whole in zip(place, item.size, strict=True)
        ]
        right, bottom = (min(c + side, w) for c, w in zip(corner, item.size, strict=True))
        box = (corner[0], corner[1], right, bottom)
        with own_words(item.source):
            crop = load_image(item.source, 0).crop(box)
        mask = item.mask
        if mask is not None:
            mask = np.asarray(Image.fromarray(mask).resize(item.size).crop(box))
        began = time.perf_counter()
        with self.lock:
            output = self.pipeline(
                crop,
                scale=dials.scale,
                seed=dials.seed,
                fidelity=dials.fidelity,
                fidelity_mask=mask,
                origin=(box[1], box[0]),
            )
        self._learn(crop.size, dials, time.perf_counter() - began)
        return save_pair(item, crop, output.image)

    def upscale(self, item: Item, dials: Dials, callback: Callback | None = None) -> None:
        """Make the result, a PNG file, and what is known of it.

        Raises:
            PatchScalerError: It could not be made.
            StoppedError: From the callback.
        """
        width, height = self.target(item, dials)
        result = item.folder / f"{item.source.stem}_{width}x{height}.png"
        wish, began = item.wish(dials), time.perf_counter()
        with own_words(item.source), self.lock:
            output = upscale_file(
                self.pipeline,
                item.source,
                result,
                size=dials.target,
                seed=dials.seed,
                fidelity=dials.fidelity,
                fidelity_mask=item.mask,
                max_pixels=self.limits.pixels,
                callback=callback,
            )
        item.seconds = time.perf_counter() - began
        item.result, item.output, item.made_with = result, output, wish
        item.before_after = save_pair(item, load_image(item.source, 0), load_image(result, 0))
        self._learn(item.size, dials, item.seconds)

    def watch(self, visitor: str, show: Callable[[Progress], None]) -> Callback:
        """A callback that shows progress, and ends the work on Stop or when its time is up."""
        self.stops[visitor] = stop = threading.Event()
        began = time.monotonic()

        def callback(progress: Progress) -> None:
            if stop.is_set():
                raise StoppedError
            if self.limits.seconds and time.monotonic() - began > self.limits.seconds:
                raise PatchScalerError(
                    f"it took longer than the {self.limits.seconds:g} seconds allowed here. "
                    "Hint: take a smaller image or size"
                )
            show(progress)

        return callback

    def stop(self, visitor: str) -> None:
        """End what the visitor is waiting for."""
        self.stops.setdefault(visitor, threading.Event()).set()

    def stopped(self, visitor: str) -> bool:
        return visitor in self.stops and self.stops[visitor].is_set()


# --- what a browser can show ----------------------------------------------------------------------


def save_pair(item: Item, before: Image.Image, after: Image.Image) -> tuple[Path, Path]:
    """Before and after, of one size and under new names: a browser keeps its copies of old ones."""
    after.thumbnail((VIEW, VIEW), Image.Resampling.LANCZOS)
    before = displayable(before).resize(after.size, Image.Resampling.BICUBIC)
    number = next(item.numbers)
    return (
        save_view(before, item.folder / f"before-{number}"),
        save_view(after, item.folder / f"after-{number}"),
    )


def save_view(image: Image.Image, path: Path, side: int = VIEW) -> Path:
    """A copy of at most `side` pixels a side: JPEG, or PNG where it has transparency."""
    profile, image = image.info.get("icc_profile"), displayable(image)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    path = path.with_suffix(".png" if image.mode == "RGBA" else ".jpg")
    image.save(path, icc_profile=profile, quality=92)
    return path


def displayable(image: Image.Image) -> Image.Image:
    """RGB or RGBA of 8 bits."""
    found = eight_bits(image).convert("RGBA" if has_alpha(image) else "RGB")
    found.info["icc_profile"] = image.info.get("icc_profile")
    return found


@contextmanager
def own_words(path: Path) -> Iterator[None]:
    """Name a file in errors as its owner does, without this machine's folders."""
    try:
        yield
    except PatchScalerError as error:
        raise PatchScalerError(str(error).replace(str(path), path.name)) from error
