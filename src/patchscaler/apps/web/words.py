"""What the page says, and what its fields mean."""

from html import escape
from typing import Any

import numpy as np

from patchscaler.apps.web.jobs import Dials, Item, Limits

FIRST = "Choose an image to begin."
ABOUT = """
**Detail** goes from *faithful*, only what the image shows, to *vivid*, with texture that is made up
to fit. Faces and text are not treated specially: small letters stay unreadable, and a face may
change. To keep a part as it is, paint it under *Protect parts*.

A sharp photograph that is large enough gains nothing from an upscaler.

Images are kept on this server for {keep} at the most, and nothing is sent elsewhere. {limits}
"""


def about(limits: Limits) -> str:
    allowed = []
    if limits.pixels:
        allowed.append(f"{limits.pixels / 1e6:g} megapixels an image")
    if limits.file_bytes:
        allowed.append(f"{limits.file_bytes / 1e6:g} MB a file")
    if limits.files:
        allowed.append(f"{limits.files} images in a list")
    if limits.seconds:
        allowed.append(f"{duration(limits.seconds)} of work an image")
    text = f"Up to {', '.join(allowed)} are taken." if allowed else ""
    return ABOUT.format(keep=duration(limits.keep), limits=text)


def say(text: str, failed: bool = False) -> str:
    """A line that screen readers speak."""
    return f'<p role="status" class="{"failed" if failed else "fine"}">{escape(text)}</p>'


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{round(seconds / 3600, 1):g} h"


def dials_of(scale: float, detail: float, seed: float | None, size: str | None) -> Dials:
    """The fields beside the image. Detail is faithful at 0 and vivid at 1."""
    return Dials(float(scale), (size or "").strip(), round(1 - detail, 2), int(seed or 0))


def mask_of(sketch: dict[str, Any] | None) -> np.ndarray | None:
    """What the brush painted, (h, w), white on black; None where that is nothing."""
    layers = [np.asarray(layer)[..., 3] for layer in (sketch or {}).get("layers") or []]
    if not layers or not np.any(layers):
        return None
    return np.where(np.max(layers, axis=0) > 0, 255, 0).astype(np.uint8)


def painted(item: Item | None) -> dict[str, Any] | None:
    """An image and its mask as the brush left it."""
    if item is None:
        return None
    layers = []
    if item.mask is not None:
        layers = [np.dstack([np.full_like(item.mask, 255)] * 3 + [item.mask])]
    return {"background": str(item.sketch), "layers": layers, "composite": None}


def facts_of(item: Item | None) -> str:
    """What a run did, for those who know the paper."""
    if item is None or item.output is None:
        return ""
    output = item.output
    rows = "".join(f"| {name} | {n} |\n" for name, n in output.patches_by_group().items())
    seconds = ", ".join(f"{stage} {s:.1f} s" for stage, s in output.timings.items())
    notes = "".join(f"\n- {line}" for line in output.warnings)
    return (
        f"| group | patches |\n|---|---|\n{rows}\n{output.nfe} network evaluations of patches, "
        f"{output.gmac:.0f} of {output.gmac_uniform:.0f} billion multiply-adds.\n\n"
        f"{item.seconds:.1f} s in all: {seconds}.\n{notes}"
    )
