"""Images in rows with a line of text under each: what the figures are drawn with."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

GAP, LINE, TEXT_SIZE = 6, 18, 13
INK, PAPER = (25, 25, 25), (255, 255, 255)


@dataclass(frozen=True)
class Cell:
    image: Image.Image
    caption: str = ""
    frame: tuple[int, int, int] | None = None  # color of a border


def sheet(
    rows: Sequence[Sequence[Cell]], labels: Sequence[str] = (), largest: int = 256
) -> Image.Image:
    """Rows of cells, each with its label in front. largest: side that images are reduced to, in
    pixels.

    Small images keep their pixels; all columns are as wide as the widest image.
    """
    fitted = [[_fit(cell.image, largest) for cell in row] for row in rows]
    font = ImageFont.load_default(size=TEXT_SIZE)
    width = max(p.width for row in fitted for p in row)
    label_width = max((int(font.getlength(label)) for label in labels), default=0) + (
        2 * GAP if labels else 0
    )
    heights = [max(p.height for p in row) + LINE + GAP for row in fitted]
    columns = max(len(row) for row in fitted)
    canvas = Image.new(
        "RGB", (label_width + columns * (width + GAP) + GAP, sum(heights) + GAP), PAPER
    )
    draw = ImageDraw.Draw(canvas)
    top = GAP
    for i, (row, images) in enumerate(zip(rows, fitted, strict=True)):
        if i < len(labels):
            draw.text((GAP, top + 2), labels[i], fill=INK, font=font)
        for j, (cell, image) in enumerate(zip(row, images, strict=True)):
            left = label_width + GAP + j * (width + GAP)
            canvas.paste(image, (left, top))
            if cell.frame:
                box = (left, top, left + image.width - 1, top + image.height - 1)
                draw.rectangle(box, outline=cell.frame, width=3)
            draw.text(
                (left, top + image.height + 1),
                _shortened(cell.caption, font, width),
                fill=INK,
                font=font,
            )
        top += heights[i]
    return canvas


def _fit(image: Image.Image, largest: int) -> Image.Image:
    image = image.convert("RGB")
    factor = largest / max(image.size)
    if factor >= 1:
        return image
    return image.resize([max(1, round(s * factor)) for s in image.size], Image.Resampling.LANCZOS)


def _shortened(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    """What fits under a image."""
    while text and font.getlength(text) > width:
        text = text[:-2].rstrip() + "…" if len(text) > 2 else ""
    return text
