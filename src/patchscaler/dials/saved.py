"""A finished picture and how it was made: from its report, or from its own metadata; to redo boxes of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from patchscaler.config import GroupConfig
from patchscaler.dials.record import group_config, hash_of, read_options, read_provenance, weights_id, weights_of
from patchscaler.dials.redo import Made
from patchscaler.dials.report import RECORD, read_report
from patchscaler.errors import PatchScalerError
from patchscaler.jobs import Picture
from patchscaler.pictures.reading import load_picture
from patchscaler.pictures.writing import format_of
from patchscaler.pipeline import PatchScaler

EXACT = ("PNG", "TIFF", "BMP")  # formats whose pixels are those that were written


@dataclass
class Saved:
    """An earlier run. groups, config and textures are known from a report only."""

    options: dict[str, Any]  # keyword arguments of `PatchScaler.upscale`
    input: str  # SHA-256 of the input file
    weights: str  # `record.weights_id`
    groups: np.ndarray | None = None
    config: GroupConfig | None = None
    record: dict[str, Any] | None = None


def find_saved(report: str | Path | None, output: str | Path) -> Saved | None:
    """The run in a report's folder, or else the one that the output tells of itself; None where there is none."""
    if report is not None and (Path(report) / RECORD).exists():
        record = read_report(report)
        try:
            return Saved(
                read_options(record["options"]), record["input"]["sha256"], record["model"]["id"],
                np.array(record["patches"]["groups"]), group_config(record["groups_used"]), record,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise PatchScalerError(f"{report}: the report is damaged ({error})") from error
    if not Path(output).is_file():
        return None
    facts = read_provenance(load_picture(output, 0).metadata.xmp)
    if not {"Options", "Input", "Weights"} <= set(facts):
        return None
    import json

    try:
        return Saved(read_options(json.loads(facts["Options"])), facts["Input"], facts["Weights"])
    except ValueError as error:
        raise PatchScalerError(f"{output}: what it says of its making is damaged") from error


def check_saved(saved: Saved, scaler: PatchScaler, source: str | Path) -> None:
    """Raises PatchScalerError where the earlier run was of another picture, or with other weights."""
    if saved.input != hash_of(source):
        raise PatchScalerError(f"{source}: the earlier run was of another picture, or it was changed since")
    if saved.weights != weights_id(weights_of(scaler)):
        raise PatchScalerError("the earlier run was made with other weights or another texture memory; give the same")


def made_of(saved: Saved, scaler: PatchScaler, image: Picture, output: str | Path) -> Made:
    """What `redo` needs: pixels from the output's file, groups from the report or found again.

    Raises PatchScalerError where the file does not hold the very pixels, or the groups cannot be found again.
    """
    if format_of(output) not in EXACT:
        raise PatchScalerError(f"{output}: its format keeps pixels only about; redo works on .png, .tif and .bmp")
    groups, config = saved.groups, saved.config
    if groups is None or config is None:
        budget = saved.options["budget"]
        if budget is not None and budget.seconds is not None:
            raise PatchScalerError(f"{output}: made with a budget in seconds; to redo it, its --report is needed")
        groups, config = scaler.groups_of(image, **saved.options)
    pixels = load_picture(output, 0).pixels
    array = np.asarray(pixels)
    return Made(array[..., None] if array.ndim == 2 else array, saved.options, groups, config)
