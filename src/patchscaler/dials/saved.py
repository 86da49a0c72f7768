"""A finished picture and how it was made: from its report, or from its own metadata; to redo boxes
of it.
"""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from patchscaler.config import GroupConfig
from patchscaler.dials.boxes import FARTHEST, Change, in_force, make_change
from patchscaler.dials.budget import parse_budget
from patchscaler.dials.fidelity import check_fidelity
from patchscaler.dials.record import (
    group_config,
    make_record,
    provenance,
    read_options,
    read_provenance,
    weights_id,
    weights_of,
)
from patchscaler.dials.redo import Made, redo
from patchscaler.dials.report import RECORD, read_maps, read_report, write_report
from patchscaler.diffusion.groups import check_groups
from patchscaler.errors import PatchScalerError
from patchscaler.images.color import KINDS
from patchscaler.images.planes import Planes
from patchscaler.images.read import load_picture
from patchscaler.images.write import fit_picture, format_of, save_picture
from patchscaler.jobs import Options, Picture, Progress, cost_of_groups
from patchscaler.models.weights import file_hash
from patchscaler.patching import PatchGrid, make_grid
from patchscaler.pipeline import PatchScaler

EXACT = ("PNG", "TIFF", "BMP")  # formats whose pixels are those that were written
MOST_CHANGES = 1000  # of an earlier run
DAMAGE = (
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
    OverflowError,
    RecursionError,
    PatchScalerError,
)


@dataclass
class Saved:
    """An earlier run."""

    options: dict[str, Any]  # keyword arguments of `PatchScaler.upscale`
    input: str  # SHA-256 of the input file
    weights: str  # `record.weights_id`
    record: dict[str, Any] | None = None  # run.json, where it is known from a report
    output: str | None = None  # SHA-256 of the file that it tells of


def find_saved(report: str | Path | None, output: str | Path) -> Saved | None:
    """The run in a report's folder, or else the one that the output tells of itself; None where
    there is none.
    """
    if report is not None and (Path(report) / RECORD).exists():
        record = read_report(report)
        with _followed(f"{report}: what the report says"):
            source, model, made = (
                record["input"]["sha256"],
                record["model"]["id"],
                record["output"]["sha256"],
            )
            return Saved(checked_options(record["options"]), source, model, record, made)
    if not Path(output).is_file():
        return None
    facts = read_provenance(load_picture(output, 0).metadata.xmp)
    if not {"Options", "Input", "Weights"} <= set(facts):
        return None
    with _followed(f"{output}: what it says of its making"):
        return Saved(
            checked_options(json.loads(facts["Options"])), facts["Input"], facts["Weights"]
        )


@contextmanager
def _followed(what: str) -> Iterator[None]:
    """Whatever cannot be in a record becomes one line."""
    try:
        yield
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PatchScalerError(f"{what} cannot be followed ({reason[:200]})") from error


def checked_options(stored: dict[str, Any]) -> dict[str, Any]:
    """`read_options`, of which nothing is believed: anybody can write such metadata.

    Raises PatchScalerError, and what `_followed` makes one of, for what no run can have been asked
    for.
    """
    if (count := len(stored["changes"])) > MOST_CHANGES:
        raise PatchScalerError(
            f"{count} boxes were made again in it, more than {MOST_CHANGES}: enlarge it anew"
        )
    options = read_options(stored)
    _check_numbers(options["groups"])
    for name, least in (("origin", -FARTHEST), ("period", 1)):
        _check_pair(name, options[name], least)
    if options["color"] not in KINDS:
        raise PatchScalerError(f"unknown color '{options['color']}'")
    check_fidelity(options["fidelity"])
    changes = tuple(make_change(c.box, c.group, c.seed) for c in options["changes"])
    budget = None if options["budget"] is None else parse_budget(options["budget"])
    return options | {"changes": changes, "budget": budget}


def _check_numbers(groups: GroupConfig) -> None:
    lengths = [
        len(n)
        for n in (
            groups.thresholds,
            groups.quantiles,
            groups.start_times,
            groups.num_inference_steps,
        )
    ]
    whole = (
        groups.latent_patch_size,
        groups.overlap,
        *groups.start_times,
        *groups.num_inference_steps,
    )
    others = (*groups.thresholds, *groups.quantiles, *groups.calibration)
    if (
        lengths != [2, 2, 3, 3]
        or not all(isinstance(n, int) for n in whole)
        or not all(map(math.isfinite, others))
    ):
        raise PatchScalerError("numbers of groups that are none")
    check_groups(groups)


def _check_pair(name: str, pair: tuple[int, ...] | None, least: int) -> None:
    if pair is None and name == "period":
        return
    if (
        pair is None
        or len(pair) != 2
        or not all(isinstance(n, int) and least <= n <= FARTHEST for n in pair)
    ):
        raise PatchScalerError(f"{name} {pair}: no two whole numbers from {least} to {FARTHEST}")


def check_saved(saved: Saved, scaler: PatchScaler, source: str | Path) -> None:
    """Raises PatchScalerError where the earlier run was of another picture, or with
    other weights.
    """
    if saved.input != file_hash(source):
        raise PatchScalerError(
            f"{source}: the earlier run was of another picture, or it was changed since"
        )
    if saved.weights != weights_id(weights_of(scaler)):
        raise PatchScalerError(
            "the earlier run was made with other weights or another texture memory; give the same"
        )


def pixels_of(output: str | Path) -> np.ndarray:
    """(h, w, c) of a finished file."""
    array = np.asarray(load_picture(output, 0).pixels)
    return array[..., None] if array.ndim == 2 else array


def made_of(
    saved: Saved, scaler: PatchScaler, image: Picture, output: str | Path, report: Path | None
) -> Made:
    """What `redo` needs: pixels from the output's file, groups from the report or found again.

    Raises PatchScalerError where the file does not hold the very pixels, or the groups cannot be
    found again.
    """
    if format_of(output) not in EXACT:
        raise PatchScalerError(
            f"{output}: its format keeps pixels only about; redo works on .png, .tif and .bmp"
        )
    array = pixels_of(output)
    if saved.record is None or report is None:
        budget = saved.options["budget"]
        if budget is not None and budget.seconds is not None:
            raise PatchScalerError(
                f"{output}: made with a budget in seconds; to redo it, its --report is needed"
            )
        return Made(array, saved.options, *scaler.groups_of(image, max_pixels=0, **saved.options))
    try:
        patches = saved.record["patches"]
        textures = np.full((len(patches["textures"]), max(1, scaler.top_k)), -1)
        for row, entries in zip(textures, patches["textures"], strict=True):
            row[: len(entries)] = entries
        groups, config = np.array(patches["groups"]), group_config(saved.record["groups_used"])
    except (KeyError, TypeError, ValueError) as error:
        raise PatchScalerError(f"{report}: the report is damaged ({error})") from error
    return Made(array, saved.options, groups, config, textures, read_maps(report)[1])


def _grid(scaler: PatchScaler, config: GroupConfig, size: tuple[int, int]) -> PatchGrid:
    h, w = scaler.padded_size(*size)
    return make_grid(h // scaler.step, w // scaler.step, config.latent_patch_size, config.overlap)


def redo_file(
    scaler: PatchScaler,
    source: str | Path,
    output: str | Path,
    changes: Sequence[Change],
    report: Path | None = None,
    with_provenance: bool = True,
    progress: Progress | None = None,
) -> Made | None:
    """Boxes of the finished file `output` made again in it; its report, where there is one,
    follows.

    progress: of each box by itself. None where nothing is known of an earlier run. Raises
    PatchScalerError; the file then is as it was.
    """
    saved = find_saved(report, output)
    if saved is None or not Path(output).is_file():
        return None
    check_saved(saved, scaler, source)
    if saved.output not in (None, file_hash(output)):
        raise PatchScalerError(
            f"{output}: is not the file that {report} tells of; leave --report out, or give its own"
        )
    # As the run was given it: in the depth and the colours that the output could hold.
    picture = load_picture(source, 0, 8 * pixels_of(output).dtype.itemsize)
    fit_picture(picture, format_of(output))
    size = picture.height, picture.width
    grid = _grid(scaler, scaler.options(**saved.options).asked, size)
    saved.options["changes"] = tuple(in_force(saved.options["changes"], grid, scaler.step, size))
    report = report if saved.record is not None else None
    before = made_of(saved, scaler, picture.planes, output, report)
    made = redo(scaler, picture.planes, before, list(changes), progress)
    options = scaler.options(**made.options)
    metadata = picture.metadata
    if with_provenance:
        metadata = metadata.with_provenance(
            provenance(scaler, options, weights_of(scaler), saved.input)
        )
    save_picture(made.array, output, metadata)
    if report is not None and saved.record is not None and made.textures is not None:
        record = saved.record
        run = Redone(scaler, picture.planes, made, options, np.array(record["patches"]["scores"]))
        taken, written = record["input"], record["output"] | {"sha256": file_hash(output)}
        record = make_record(
            scaler, run, taken, written, made.array.shape[1::-1], record["model"]["weights"]
        )
        write_report(report, run, record, read_maps(report)[0], made.moments)
    return made


class Redone:
    """A redone picture as records and reports read it."""

    def __init__(
        self, scaler: PatchScaler, planes: Planes, made: Made, options: Options, scores: np.ndarray
    ):
        self.grid = _grid(scaler, made.config, (planes.rgb.shape[1], planes.rgb.shape[2]))
        self.groups, self.scores, self.config = made.groups, scores, made.config
        self.options: Options | None = options
        self.textures = (
            made.textures if made.textures is not None else np.full((len(scores), 1), -1)
        )
        refines = scaler.refiner is not None
        self.cost: dict[str, Any] = cost_of_groups(
            torch.from_numpy(made.groups), made.config, self.grid, refines
        )
