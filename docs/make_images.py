"""The pictures of the documentation, made anew with the shipped model:  python docs/make_images.py

From examples/cat.jpg (CC0) and letters drawn by code. Each is a row of squares with a line of words
below.
"""

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from patchscaler import PatchScaler, Result
from patchscaler.dials.invention import invention
from patchscaler.dials.report import FULL_SCALE, draw
from patchscaler.images.overlay import difficulty_overlay

ROOT = Path(__file__).parents[1]
SIDE = 256  # of a square on the page
# of the cat: a box of 128 pixels with fur, eyes and a blurred background
EYES = (105, 50, 233, 178)
BUDGETS = ("fast", "balanced", "best")
FIDELITIES = (0.0, 0.5, 1.0)


def row(squares: Sequence[tuple[str, Image.Image]], file: Path, side: int = SIDE) -> None:
    """Pictures of any size, shown as high as `side` with their words below."""
    shown = [
        p.convert("RGB").resize((p.width * side // p.height, side), Image.Resampling.LANCZOS)
        for _, p in squares
    ]
    page = Image.new("RGB", (sum(p.width + 8 for p in shown) - 8, side + 26), "white")
    pen, font, x = ImageDraw.Draw(page), ImageFont.load_default(15), 0
    for (words, _), picture in zip(squares, shown, strict=True):
        page.paste(picture, (x, 0))
        pen.text((x + 2, side + 4), words, fill="black", font=font)
        x += picture.width + 8
    page.save(file, quality=88)


def first_page(scaler: PatchScaler, file: Path) -> None:
    """An eye of the whole cat: what the README shows."""
    cat, eye = Image.open(ROOT / "examples" / "cat.jpg").convert("RGB"), (560, 180, 960, 580)
    made = scaler.upscale(cat, coarse=True)
    assert made.coarse is not None
    bicubic = cat.resize(made.image.size, Image.Resampling.BICUBIC)
    row(
        [
            ("bicubic", bicubic.crop(eye)),
            ("coarse: restored only", made.coarse.crop(eye)),
            ("PatchScaler", made.image.crop(eye)),
            ("difficulty", difficulty_overlay(made)),
        ],
        file,
        side=400,
    )


def detail(picture: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    return picture.crop(box)


def letters() -> Image.Image:
    """Small type, a few pixels high, as a poor scan has it."""
    page = Image.new("RGB", (96, 96), "white")
    pen = ImageDraw.Draw(page)
    for y, size in ((4, 6), (14, 7), (25, 9), (39, 12), (58, 18)):
        pen.text((4, y), "Patchwork 38", fill="black", font=ImageFont.load_default(size))
    stored = io.BytesIO()
    page.save(stored, "JPEG", quality=40)
    return Image.open(stored).convert("RGB")


def nearest(picture: Image.Image) -> Image.Image:
    return picture.resize((SIDE, SIDE), Image.Resampling.NEAREST)


def make(scaler: PatchScaler, out: Path) -> None:
    cat = Image.open(ROOT / "examples" / "cat.jpg").convert("RGB").crop(EYES)
    eye = (40, 150, 240, 350)  # of the enlarged picture

    def upscale(picture: Image.Image = cat, **options: object) -> Result:
        return scaler.upscale(picture, **options)

    made = upscale(coarse=True, invention=True)
    assert made.coarse is not None
    row(
        [
            ("input", nearest(cat)),
            ("bicubic", cat.resize(made.image.size, Image.Resampling.BICUBIC)),
            ("coarse: restored only", made.coarse),
            ("PatchScaler", made.image),
        ],
        out / "start.jpg",
    )
    budgets = {name: upscale(budget=name) for name in BUDGETS}
    row(
        [
            (f"{n}: {r.cost['evaluations_total']} evaluations", difficulty_overlay(r))
            for n, r in budgets.items()
        ],
        out / "budget.jpg",
    )
    faithful = {value: upscale(fidelity=value).image for value in FIDELITIES}
    row(
        [(f"--fidelity {value:g}", detail(p, eye)) for value, p in faithful.items()],
        out / "fidelity.jpg",
    )
    seeds = [upscale(seed=seed).image for seed in (0, 7)]
    apart = np.abs(np.asarray(seeds[0], int) - np.asarray(seeds[1], int)).max(-1)
    row(
        [
            ("--seed 0", detail(seeds[0], eye)),
            ("--seed 7", detail(seeds[1], eye)),
            (
                "difference, times 8",
                detail(Image.fromarray((apart * 8).clip(0, 255).astype(np.uint8)), eye),
            ),
        ],
        out / "seed.jpg",
    )
    found = invention(made.moments)
    low, high = (draw((x / FULL_SCALE) ** 0.5, made.image.size, 8) for x in (found.low, found.high))
    row(
        [
            ("difficulty", difficulty_overlay(made)),
            ("invented: colours, shapes", low),
            ("invented: texture, edges", high),
        ],
        out / "report.jpg",
    )
    small = letters()
    row(
        [
            ("small type", nearest(small)),
            ("PatchScaler", upscale(small).image),
            ("--fidelity 1", upscale(small, fidelity=1.0).image),
        ],
        out / "letters.jpg",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    shipped = PatchScaler.from_pretrained(given.model, device="cpu")
    make(shipped, given.out)
    first_page(shipped, given.out.parent / "cat.jpg")
