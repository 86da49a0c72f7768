"""`--report DIR`: difficulty, steps and invention as pictures, and a JSON with everything to repeat
the run.
"""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from patchscaler.dials.invention import invention
from patchscaler.dials.record import Run
from patchscaler.diffusion.group_sampling import steps_of
from patchscaler.errors import PatchScalerError
from patchscaler.images.write import replacing
from patchscaler.patching import blended

RECORD, MAPS = "run.json", "maps.npz"
LONGEST = 2048  # pixels of a map's longer side
# grey levels of invention drawn as brightest, others by their root: one scale for all pictures
FULL_SCALE = 16.0

# From dark blue over orange to light yellow: each lighter than the one before, so that brightness
# alone tells.
STOPS = [[12, 14, 40], [60, 40, 130], [190, 60, 90], [240, 140, 40], [255, 245, 170]]
EVEN, AT = np.linspace(0, 1, 256), np.linspace(0, 1, len(STOPS))
COLORS = (
    np.stack([np.interp(EVEN, AT, channel) for channel in zip(*STOPS, strict=True)], -1)
    .round()
    .astype(np.uint8)
)


def write_report(
    folder: str | Path, run: Run, record: dict[str, Any], confidence: Any, moments: Any | None
) -> list[Path]:
    """-> the files written: run.json, difficulty.png, steps.png and, where measured, two maps of
    the invention.

    confidence: (H, W), moments: (4, H, W) of `dials.invention`; arrays, or what reads like them.
    They are kept in maps.npz. record: of `make_record`; the invention's figures are added to it.
    """
    folder = Path(folder)
    size, factor = tuple(record["grid"]["sampled"]), record["grid"]["pixels_per_latent"]
    numbers = {"confidence": confidence[:].astype(np.float16)}
    maps = {"difficulty": 1 - confidence[:], "steps": steps_map(run)}
    if moments is not None:
        numbers["moments"] = moments[:].astype(np.float16)
        found = invention(moments)
        maps |= {
            "invention_low": (found.low / FULL_SCALE) ** 0.5,
            "invention_high": (found.high / FULL_SCALE) ** 0.5,
        }
        record = record | {
            "invention": found.summary()
            | {"unit": "grey levels of 255", "brightest": FULL_SCALE, "scale": "root"}
        }
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, values in maps.items():
            buffer = io.BytesIO()
            draw(values, size, factor).save(buffer, "PNG")
            written.append(_whole(folder / f"{name}.png", buffer.getvalue()))
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **numbers)
        written.append(_whole(folder / MAPS, buffer.getvalue()))
        written.append(_whole(folder / RECORD, json.dumps(record, separators=(",", ":")).encode()))
    except OSError as error:
        raise PatchScalerError(
            f"{folder}: the report cannot be written ({error.strerror or error})"
        ) from error
    return written


def _whole(path: Path, data: bytes) -> Path:
    """All or nothing."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return path


def read_maps(folder: str | Path) -> tuple[np.ndarray, np.ndarray | None]:
    """maps.npz of a report -> confidence (H, W), moments (4, H, W) where there are.

    Raises PatchScalerError.
    """
    file = Path(folder) / MAPS
    try:
        with np.load(file, allow_pickle=False) as stored:
            moments = stored["moments"].astype(np.float32) if "moments" in stored else None
            return stored["confidence"].astype(np.float32), moments
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise PatchScalerError(
            f"{file}: missing or damaged; make the report again with --report"
        ) from error


def read_report(folder: str | Path) -> dict[str, Any]:
    """run.json of a report. Raises PatchScalerError."""
    file = Path(folder) / RECORD
    try:
        record = json.loads(file.read_text("utf-8"))
        if record["format"] != 1:
            raise PatchScalerError(f"{file}: written by another version of PatchScaler")
        return record
    except FileNotFoundError as error:
        raise PatchScalerError(f"{folder}: holds no report (run.json)") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PatchScalerError(f"{file}: damaged; make the report again with --report") from error


def steps_map(run: Run) -> np.ndarray:
    """(H, W) in [0, 1]: evaluations that went into each latent, overlapping patches blended; 1 is
    the hard group's.
    """
    import torch

    steps = steps_of(torch.from_numpy(run.groups), run.config).numpy().astype(np.float32)
    most = max(1, *run.config.num_inference_steps)
    return blended(steps / most, run.grid)


def draw(values: np.ndarray, size: tuple[int, int], factor: int) -> Image.Image:
    """(H, W) in [0, 1] -> colours, as large as the sampled picture (width, height) but for its
    LONGEST side.
    """
    image = Image.fromarray(values.astype(np.float32))
    shrink = min(1.0, LONGEST / max(size))
    target = (max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink)))
    box = (0.0, 0.0, min(image.width, size[0] / factor), min(image.height, size[1] / factor))
    resized = np.asarray(image.resize(target, Image.Resampling.BILINEAR, box))
    return Image.fromarray(COLORS[(resized.clip(0, 1) * 255).round().astype(np.uint8)])
