"""What a browser can show of a job: both pictures in 8 bits and bounded size, and the maps of the
report.
"""

from pathlib import Path

from PIL import Image

from patchscaler.images.planes import eight_bits, has_alpha
from patchscaler.images.read import load_picture
from patchscaler.images.write import save_image

LONGEST = 4096  # pixels of a view's longer side: what phones can still decode
MAPS = ("difficulty", "steps", "invention_low", "invention_high")  # of a report


def make_views(source: Path, result: Path, report: Path, folder: Path) -> dict[str, Path]:
    """-> before, after, and those of MAPS that there are."""
    views = {"before": view(source, folder / "before"), "after": view(result, folder / "after")}
    return views | {
        name: report / f"{name}.png" for name in MAPS if (report / f"{name}.png").exists()
    }


def view(path: Path, stem: Path) -> Path:
    """A copy of a picture file: JPEG, or WebP where it is transparent."""
    pixels = load_picture(path, 0, 8).pixels
    assert isinstance(pixels, Image.Image)
    pixels = eight_bits(pixels)
    pixels.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS, reducing_gap=2)
    target = stem.with_suffix(".webp" if has_alpha(pixels) else ".jpg")
    save_image(pixels, target)
    return target
