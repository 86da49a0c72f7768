"""`--redo`: one region of a finished picture again, with another group or seed; all the rest stays
as it is.

A patch depends on nothing but the input, its group and its noise. So the patches that touch the box
are made anew, those around them are made again as they were, for the overlaps, and the pixels of
the box's patches take the old ones' place. The result is what a whole run with these changes gives,
but for the little that colours and drawing change beyond the border of a patch: there the old
picture stays.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from patchscaler.config import GroupConfig
from patchscaler.dials.boxes import Change, last_seeds, patches_in
from patchscaler.dials.invention import cell_moments
from patchscaler.diffusion.group_sampling import steps_of
from patchscaler.diffusion.groups import patch_confidence
from patchscaler.errors import PatchScalerError
from patchscaler.images.color import reach_of
from patchscaler.images.planes import Planes, finish, reflect_pad, to_planes
from patchscaler.jobs import Clock, Counter, Job, Options, Picture, Progress
from patchscaler.patching import Canvas, PatchGrid, make_grid
from patchscaler.pipeline import PatchScaler
from patchscaler.refining import patch_steps, refine_parts, refined_parts, tiles_of
from patchscaler.streaming.windows import Window


@dataclass
class Made:
    """A finished picture as `redo` wants it. M patches, (h, w) of the small picture."""

    array: np.ndarray  # (4h, 4w, 1..4) uint8 or uint16, exact: not from a JPEG
    options: dict[str, Any]  # keyword arguments of `PatchScaler.upscale`, `record.read_options`
    groups: np.ndarray  # (M,)
    config: GroupConfig  # the groups' numbers as they were used
    textures: np.ndarray | None = None  # (M, K)
    moments: np.ndarray | None = None  # (4, H, W) of `dials.invention`


def redo(
    scaler: PatchScaler,
    image: Picture,
    made: Made,
    changes: list[Change],
    progress: Progress | None = None,
) -> Made:
    """The picture with these boxes made again. progress: of each box by itself.

    Raises PatchScalerError where picture and run do not fit together.
    """
    planes = to_planes(image)
    h, w = planes.rgb.shape[-2:]
    scale = scaler.config.scale
    if made.array.shape[:2] != (h * scale, w * scale):
        height, width = made.array.shape[:2]
        raise PatchScalerError(
            f"the finished picture is {width}x{height}, not {scale} times {w}x{h}: nothing to redo"
        )
    if not (scaler.grm.exact and scaler.autoencoder.exact):
        raise PatchScalerError(
            "this model's networks see the whole picture at once: run it whole with the boxes"
        )
    if made.options["period"]:
        raise PatchScalerError(
            "a tileable texture is made from what lies around it, too: run it whole with the boxes"
        )
    if made.options["color"] == "adain":
        raise PatchScalerError(
            "colours matched by 'adain' hang on the whole picture: run it whole with the boxes"
        )
    padded = scaler.padded_size(h, w)
    overlap, size = made.config.overlap, made.config.latent_patch_size
    grid = make_grid(padded[0] // scaler.step, padded[1] // scaler.step, size, overlap)
    if len(made.groups) != len(grid):
        raise PatchScalerError(
            f"{len(made.groups)} patches are recorded, the picture has {len(grid)}: another one's"
        )
    out = Made(
        made.array.copy(),
        dict(made.options),
        made.groups.copy(),
        made.config,
        None if made.textures is None else made.textures.copy(),
        None if made.moments is None else made.moments.copy(),
    )
    for change in changes:
        out.options["changes"] = (*out.options["changes"], change)
        _redo_box(scaler, planes, padded, grid, out, change, progress)
    return out


@torch.inference_mode()
def _redo_box(
    scaler: PatchScaler,
    planes: Planes,
    padded: tuple[int, int],
    grid: PatchGrid,
    out: Made,
    change: Change,
    progress: Progress | None,
) -> None:
    h, w = planes.rgb.shape[-2:]
    step, f = scaler.step, scaler.autoencoder.factor
    options = scaler.options(
        **(out.options | {"invention": out.moments is not None, "max_pixels": 0})
    )
    touched = patches_in(change.box, grid, step, (h, w))
    if change.group is not None:
        out.groups[touched] = change.group
    corners = np.array(grid.corners())[touched]
    # In latents: what is replaced, and what has to be right around it to be decoded.
    region = [(int(corners[:, i].min()), int(corners[:, i].max()) + grid.size) for i in (0, 1)]
    reach = scaler.autoencoder.reach + -(
        -reach_of(options.color, options.fidelity > 0, scaler.config.scale) // f
    )
    limits = (grid.height, grid.width)
    around = [
        (max(0, a - reach), min(n, b + reach)) for (a, b), n in zip(region, limits, strict=True)
    ]
    tiles: list[Window] = []
    read = around
    if scaler.refiner:
        tiles = _tiles_meeting(grid, around)
        sides = [t.rows for t in tiles], [t.columns for t in tiles]
        read = [(min(s.low for s in side), max(s.high for s in side)) for side in sides]
    job, area, index = _job_of(scaler, planes, padded, grid, out, options, read)
    steps = steps_of(torch.from_numpy(out.groups), out.config)
    parts = list(refined_parts(steps > 0, grid, tiles))
    count = Counter([job], progress, sum(patch_steps(part) for part, _ in parts))
    scaler.sample([job], options, Clock(scaler.device), count)
    if out.textures is not None:
        out.textures[index] = job.textures[:, : out.textures.shape[1]]

    assert isinstance(job.canvas, Canvas) and isinstance(job.coarse, torch.Tensor)
    latents = job.canvas.fused()
    if scaler.refiner:
        (top, bottom), (left, right) = area
        lr = reflect_pad(planes.rgb, *padded)[
            :, step * top : step * bottom, step * left : step * right
        ]
        latents = refine_parts(scaler, latents, job.coarse, lr, parts, (top, left), count)
    y, x = (slice(a - start, b - start) for (a, b), (start, _) in zip(around, area, strict=True))
    rows, columns = (
        slice(step * a, min(step * b, n)) for (a, b), n in zip(around, (h, w), strict=True)
    )
    image, plain = scaler.picture(
        latents[:, y, x],
        job.coarse[:, y, x],
        job.confidence[:, y, x],
        planes.rgb[:, rows, columns].to(scaler.device),
        options,
    )
    core = [
        slice(f * (a - start), f * (b - start))
        for (a, b), (start, _) in zip(region, around, strict=True)
    ]
    image, plain = image[:, core[0], core[1]].cpu(), plain[:, core[0], core[1]].cpu()
    (top, left), (n, m) = (f * region[0][0], f * region[1][0]), image.shape[1:]
    strip = torch.zeros(3, n, out.array.shape[1])
    strip[:, :, left : left + m] = image
    out.array[top : top + n, left : left + m] = finish(strip, planes, (top, top + n))[
        :, left : left + m
    ]
    if out.moments is not None:
        cells = cell_moments(image, plain, f).numpy()
        place = (
            slice(region[0][0], region[0][0] + cells.shape[1]),
            slice(region[1][0], region[1][0] + cells.shape[2]),
        )
        out.moments[:, place[0], place[1]] = cells


def _tiles_meeting(grid: PatchGrid, area: list[tuple[int, int]]) -> list[Window]:
    """The refiner's tiles that hold any of [start, stop) x [start, stop)."""
    (top, bottom), (left, right) = area
    return [
        t
        for t in tiles_of(grid.height, grid.width)
        if t.rows.start < bottom
        and t.rows.stop > top
        and t.columns.start < right
        and t.columns.stop > left
    ]


def _job_of(
    scaler: PatchScaler,
    planes: Planes,
    padded: tuple[int, int],
    grid: PatchGrid,
    out: Made,
    options: Options,
    around: list[tuple[int, int]],
) -> tuple[Job, list[tuple[int, int]], np.ndarray]:
    """All patches that reach into `around` as a job -> job, the area of its latents, its patches'
    numbers.
    """
    v, step = grid.size, scaler.step
    starts = [
        [s for s in all_starts if s + v > a and s < b]
        for all_starts, (a, b) in zip((grid.rows, grid.columns), around, strict=True)
    ]
    area = [(s[0], s[-1] + v) for s in starts]
    multiple = -(-scaler.grm.multiple // step) * step
    read, inside = [], []
    for (a, b), n in zip(area, padded, strict=True):
        low = max(0, (step * a - scaler.grm.reach) // multiple * multiple)
        read.append(slice(low, min(n, step * b + scaler.grm.reach)))
        inside.append(slice(a - low // step, b - low // step))
    lr = reflect_pad(planes.rgb, *padded)[None, :, read[0], read[1]]
    coarse, confidence = scaler.restore(lr.to(scaler.device))
    coarse, confidence = (
        coarse[:, inside[0], inside[1]].contiguous(),
        confidence[:, inside[0], inside[1]].contiguous(),
    )
    (top, bottom), (left, right) = area
    rows, columns = (tuple(s - first[0] for s in first) for first in starts)
    local = PatchGrid(bottom - top, right - left, v, grid.overlap, rows, columns)
    noise = scaler.noise(options, top, left, local.height, local.width).to(scaler.device)
    scores = patch_confidence(confidence, local, out.config.least_confidence).cpu()
    job = scaler.new_job(
        planes,
        (planes.rgb.shape[1], planes.rgb.shape[2]),
        coarse,
        noise,
        confidence,
        local,
        scores,
        out.config,
        Canvas(len(coarse), local, scaler.device),
    )
    number = {corner: i for i, corner in enumerate(grid.corners())}
    index = np.array([number[row + top, column + left] for row, column in local.corners()])
    job.groups = torch.from_numpy(out.groups[index])
    here = {int(i): n for n, i in enumerate(index)}
    corners = grid.corners()
    for i, seed in last_seeds(options.changes, grid, step, job.size).items():
        if i in here:
            job.noise_of[here[i]] = scaler.noise(options, *corners[i], v, v, seed).to(scaler.device)
    return job, area, index
