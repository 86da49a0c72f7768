"""`--report DIR`: what is known of an image beside its pixels, as images and JSON."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from patchscaler._version import __version__
from patchscaler.images.overlay import difficulty_mask
from patchscaler.images.write import replacing, save_image
from patchscaler.pipeline import Output, PatchScaler

LONGEST = 2048  # pixels of a map's longer side
FULL_SCALE = 16.0  # levels of deviation that are drawn white


def write_report(
    folder: Path, pipeline: PatchScaler, output: Output, facts: dict[str, Any]
) -> None:
    """Write the maps of an `Output` made with maps=True, and run.json.

    Args:
        folder: Made where it is missing.
        pipeline: For the facts of the model.
        output: Of the image.
        facts: Of the run: input, output, options.

    Raises:
        PatchScalerError: The folder cannot be written.
    """
    model = pipeline.model
    maps = {"groups": difficulty_mask(output), "confidence": output.confidence}
    if output.deviation is not None:
        maps["deviation"] = output.deviation / FULL_SCALE
    for name, values in maps.items():
        save_image(_drawn(values), folder / f"{name}.png")
    if output.coarse is not None:
        save_image(Image.fromarray(output.coarse), folder / "coarse.png")
    record = facts | {
        "patchscaler": __version__,
        "model": {"name": model.config.name, "weights": model.weights_hash()},
        "compute": model.compute_signature,
        "output_size": list(output.size),
        "patches": output.patches_by_group(),
        "nfe": output.nfe,
        "gmac": output.gmac,
        "gmac_uniform": output.gmac_uniform,
        "seconds": output.timings,
        "warnings": output.warnings,
        "grid": {"rows": list(output.grid.rows), "columns": list(output.grid.columns)},
        "groups": output.groups.tolist(),
        "scores": [round(float(score), 5) for score in output.scores],
    }
    with replacing(folder / "run.json") as temporary:
        temporary.write_text(json.dumps(record, default=str), "utf-8")


def _drawn(values: np.ndarray) -> Image.Image:
    """(H, W) in 0..1 -> grey levels, no larger than LONGEST."""
    image = Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))
    image.thumbnail((LONGEST, LONGEST))
    return image
