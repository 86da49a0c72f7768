"""The whole of PatchScaler, from an LR image to an HR image. Read this file first.

LR image -> GRM: coarse latents and confidence -> patches -> groups -> start states -> denoiser with
a texture prompt
-> blended latents -> decoder -> HR image. The steps themselves are in `tiling.py` and
`denoising.py`, the networks in
`model.py`. Section and equation numbers are those of arXiv 2405.17158.
"""

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from patchscaler.config import GroupConfig
from patchscaler.denoising import denoise
from patchscaler.devices import is_out_of_memory, synchronize
from patchscaler.diffusion.budget import check_budget
from patchscaler.diffusion.fidelity import check_fidelity, coarse_weight, with_fidelity
from patchscaler.diffusion.groups import check_groups
from patchscaler.diffusion.noise import NoiseField
from patchscaler.errors import PatchScalerError
from patchscaler.images.color import KINDS
from patchscaler.images.mask import mask_weights
from patchscaler.images.planes import Planes, array_planes, to_pil, to_planes
from patchscaler.images.read import MAX_PIXELS, check_pixels
from patchscaler.images.sizes import TargetSize, passes, resized
from patchscaler.images.source import Source
from patchscaler.images.tileable import SEAM, resized_tile, unwrap_array, wrap_planes
from patchscaler.model import Model
from patchscaler.patching import PatchGrid
from patchscaler.progress import UNITS, Callback, Progress, Reporter
from patchscaler.regions import CONTEXT
from patchscaler.resources import batch_size_within, check_memory, in_memory_bytes, tile_sizes
from patchscaler.storage import MemoryStorage, Storage
from patchscaler.tiling import (
    Executor,
    Finishing,
    Job,
    LocalExecutor,
    decode,
    grid_of,
    restore,
    score_patches,
)
from patchscaler.work import assign_groups, image_work

ImageInput = Image.Image | np.ndarray | Tensor | Planes | str | Path


@dataclass
class Output:
    """One upscaled image and how it came about. M patches, row by row over `grid`; maps are those
    of the last pass.
    """

    array: np.ndarray  # (h, w, 1..4) uint8, or uint16 where the input had more than 8 bits
    confidence: np.ndarray  # (H, W) of latents, in (0, 1]
    groups: np.ndarray  # (M,) 0 simple, 1 medium, 2 hard
    scores: np.ndarray  # (M,) mean confidence of each patch
    grid: PatchGrid
    nfe: int  # network evaluations of patches
    gmac: float  # multiply-adds of all networks, in 10^9
    gmac_uniform: float  # the same, were every patch hard
    timings: dict[str, float] = field(default_factory=dict)  # seconds by stage
    warnings: list[str] = field(default_factory=list)
    icc_profile: bytes | None = None  # of the array's colors
    coarse: np.ndarray | None = None  # (h, w, 3) uint8 at x4, with maps=True
    deviation: np.ndarray | None = (
        None  # (H, W) levels between result and coarse image, with maps=True
    )
    textures: np.ndarray | None = None  # (M, K) memory entries of each patch's prompt
    final_size: tuple[int, int] | None = None  # (width, height) where the array was not kept

    @property
    def image(self) -> Image.Image:
        """The array as a Pillow image of 8 bits."""
        return to_pil(self.array, self.icc_profile)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.final_size or (self.array.shape[1], self.array.shape[0])

    def patches_by_group(self) -> dict[str, int]:
        """Number of patches of simple, medium and hard."""
        return {
            name: int((self.groups == g).sum())
            for g, name in enumerate(("simple", "medium", "hard"))
        }

    def __repr__(self) -> str:
        groups = ", ".join(f"{n} {name}" for name, n in self.patches_by_group().items())
        return (
            f"Output({self.size[0]}x{self.size[1]}, {groups}, {sum(self.timings.values()):.2f} s)"
        )

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.image.save(buffer, "PNG")
        return buffer.getvalue()


@dataclass(frozen=True, kw_only=True)
class Options:
    """The arguments of `PatchScaler.__call__`, checked."""

    groups: GroupConfig  # thresholds, start timesteps and steps, with the fidelity in them
    target: TargetSize
    seed: int
    fidelity: float
    mask: Planes | None
    budget: float | None
    prompt: bool
    color: str
    tileable: bool
    origin: tuple[int, int]
    batch_size: int
    tile: int | None
    memory_limit: float
    max_pixels: int
    maps: bool


class PatchScaler:
    """Upscale images: `PatchScaler.from_pretrained()(image)`.

    Attributes:
        model: Networks, texture memory, device and precision.
    """

    def __init__(self, model: Model):
        self.model = model

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = "compact",
        *,
        device: str = "auto",
        dtype: str = "auto",
        engine: str = "auto",
        memory: str | Path | None = None,
        autoencoder: str | Path | None = None,
        offline: bool = False,
    ) -> "PatchScaler":
        """Load a model.

        Args:
            source: A shipped name, a folder of `save_pretrained`, or a hub id (needs the `hub`
            extra; @revision may
                follow).
            device: auto, cpu, cuda or mps.
            dtype: auto, float32, bfloat16 or float16, of the large networks.
            engine: What runs the networks: auto or a name of `engines.ENGINES`.
            memory: Another texture memory.
            autoencoder: Another local copy of the `paper` autoencoder.
            offline: Fetch nothing, as HF_HUB_OFFLINE=1.

        Raises:
            PatchScalerError: Something is missing, corrupt or does not fit.
        """
        from patchscaler.engines import use_engine

        model = Model.from_pretrained(
            source,
            device=device,
            dtype=dtype,
            memory=memory,
            autoencoder=autoencoder,
            offline=offline,
        )
        use_engine(model, engine)
        return cls(model)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        half: bool = True,
        license: str = "unknown",
        copy_autoencoder: bool = True,
    ) -> None:
        """Write a folder that `from_pretrained` and a hub take.

        Args:
            folder: Where to.
            half: Keep floats in half precision.
            license: Of the weights, for the model card.
            copy_autoencoder: False only names a diffusers autoencoder.
        """
        self.model.save_pretrained(
            folder, half=half, license=license, copy_autoencoder=copy_autoencoder
        )

    @overload
    def __call__(self, image: ImageInput, **options: Any) -> Output: ...

    @overload
    def __call__(self, image: Sequence[ImageInput], **options: Any) -> list[Output]: ...

    def __call__(  # type: ignore[misc]  # the overloads leave the keywords to this signature
        self,
        image: ImageInput | Sequence[ImageInput],
        *,
        scale: float | None = None,
        size: TargetSize | str | None = None,
        seed: int = 0,
        fidelity: float | None = None,
        fidelity_mask: ImageInput | None = None,
        budget: float | None = None,
        prompt: bool = True,
        groups: GroupConfig | None = None,
        color: str = "wavelet",
        tileable: bool = False,
        origin: tuple[int, int] = (0, 0),
        batch_size: int | None = None,
        tile: int | None = None,
        memory_limit: float = 512.0,
        max_pixels: int = MAX_PIXELS,
        maps: bool = False,
        callback: Callback | None = None,
        executor: Executor | None = None,
    ) -> Output | list[Output]:
        """Upscale an image, or several whose patches share batches.

        Args:
            image: Pillow image; (H, W[, 1..4]) array of uint8, uint16 or floats in 0..1; (3, H, W)
            tensor of floats
                in 0..1; the path of a file. Or a list of these.
            scale: How many times as large, 4 by default; beyond 4 in several passes.
            size: In place of scale: "3000x" (width), "x2000" (height), "3000x2000" (to fit into),
            "12mp".
            seed: Of the noise. The same seed gives the same image.
            fidelity: From 0 (vivid) to 1 (the coarse image, the most probable one); None for the
            model's default.
            fidelity_mask: Grey image of any size: white keeps the coarse image there, black follows
            `fidelity`.
            budget: Share of the work of every patch hard, 0 to 1; None for the groups' own.
            prompt: False leaves the texture prompt out.
            groups: Thresholds, start timesteps and steps in place of the model's.
            color: "wavelet" keeps the input's colors, "none" the network's.
            tileable: Make opposite borders meet.
            origin: (row, column) of the image in a larger one whose noise it shares, in multiples
            of 2 pixels.
            batch_size: Patches of a batch; None for what memory_limit holds.
            tile: Side of a tile in LR pixels; 0 for the whole image, None for what memory_limit
            holds.
            memory_limit: MiB that the networks may take.
            max_pixels: Limit of the input, 0 for none.
            maps: Give the coarse image and the deviation from it, too.
            callback: Called with a `Progress`.
            executor: Where the networks run; this process by default.

        Returns:
            An `Output` for an image, a list of them for a list.

        Raises:
            PatchScalerError: An argument is out of its range, or memory is too small.
        """
        # 1. Check the arguments
        options = self.options(
            scale=scale,
            size=size,
            seed=seed,
            fidelity=fidelity,
            fidelity_mask=fidelity_mask,
            budget=budget,
            prompt=prompt,
            groups=groups,
            color=color,
            tileable=tileable,
            origin=origin,
            batch_size=batch_size,
            tile=tile,
            memory_limit=memory_limit,
            max_pixels=max_pixels,
            maps=maps,
        )
        several = isinstance(image, list | tuple)
        images = [to_planes(x) for x in _as_list(image)]
        for planes in images:
            width, height = planes.size
            check_pixels(width, height, options.max_pixels, "the image")
            check_memory(
                in_memory_bytes(self.model, height, width), f"an image of {width}x{height}"
            )
        executor = executor or LocalExecutor(self.model)
        try:
            outputs = self._upscale(images, options, executor, callback)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise PatchScalerError(
                "not enough memory for this image. Hint: give a smaller `tile`, or use "
                "`upscale_file`"
            ) from error
        return outputs if several else outputs[0]

    upscale = __call__

    def _upscale(
        self, images: list[Planes], options: Options, executor: Executor, callback: Callback | None
    ) -> list[Output]:
        """Passes of x4 over all images; each pass is the way of `run_pass`."""
        targets = [
            passes(planes.size, options.target.size(*planes.size), self.model.scale)
            for planes in images
        ]
        outputs: dict[int, Output] = {}
        todo = list(range(len(images)))
        number = 0
        while todo:
            sources = [images[i] for i in todo]
            if options.tileable:
                sources = [wrap_planes(x, margin_of(self.model)) for x in sources]
            report = pass_reporter(callback, number, max(len(targets[i]) for i in todo))
            storages: list[Storage] = [MemoryStorage() for _ in todo]
            found = [Source.from_planes(x) for x in sources]
            made = run_pass(self.model, executor, found, storages, options, report)
            for i, output in zip(todo, made, strict=True):
                finish_pass(self.model, images[i], output, targets[i][number], options)
                if i in outputs:
                    output.warnings = outputs[i].warnings
                outputs[i] = output
            number += 1
            todo = [i for i in todo if number < len(targets[i])]
            for i in todo:
                images[i] = array_planes(outputs[i].array, images[i].icc_profile)
        return [outputs[i] for i in range(len(images))]

    def options(
        self,
        *,
        scale: float | None = None,
        size: TargetSize | str | None = None,
        seed: int = 0,
        fidelity: float | None = None,
        fidelity_mask: ImageInput | None = None,
        budget: float | None = None,
        prompt: bool = True,
        groups: GroupConfig | None = None,
        color: str = "wavelet",
        tileable: bool = False,
        origin: tuple[int, int] = (0, 0),
        batch_size: int | None = None,
        tile: int | None = None,
        memory_limit: float = 512.0,
        max_pixels: int = MAX_PIXELS,
        maps: bool = False,
    ) -> Options:
        """Check the arguments of `__call__`. Raises PatchScalerError that names the argument and
        its range.
        """
        own = self.model.config.groups
        config = check_groups(groups or own)
        if config.latent_patch_size != own.latent_patch_size:
            raise PatchScalerError(
                f"groups: patches of {config.latent_patch_size} latents. "
                f"Hint: this model was trained for {own.latent_patch_size}"
            )
        dial = config.fidelity if fidelity is None else check_fidelity(fidelity)
        if color not in KINDS:
            raise PatchScalerError(f"color {color!r}: choose {' or '.join(KINDS)}")
        whole = {
            "seed": seed,
            "max_pixels": max_pixels,
            "batch_size": 1 if batch_size is None else batch_size,
        }
        whole |= {"tile": 0 if tile is None else tile}
        least = {"seed": None, "batch_size": 1}
        for name, value in whole.items():
            low = least.get(name, 0)
            if (
                isinstance(value, bool)
                or not isinstance(value, int | np.integer)
                or (low is not None and value < low)
            ):
                allowed = "a whole number" if low is None else f"a whole number of {low} or more"
                raise PatchScalerError(f"{name} {value!r}: take {allowed}")
        return Options(
            groups=with_fidelity(config, dial, int(self.model.denoiser is not None)),
            target=TargetSize.of(scale, size),
            seed=int(seed),
            fidelity=coarse_weight(config, dial),
            mask=None if fidelity_mask is None else to_planes(fidelity_mask),
            budget=None if budget is None else check_budget(budget),
            prompt=prompt,
            color=color,
            tileable=tileable,
            origin=origin,
            batch_size=batch_size or batch_size_within(self.model, memory_limit),
            tile=tile,
            memory_limit=memory_limit,
            max_pixels=int(max_pixels),
            maps=maps,
        )


def _as_list(image: ImageInput | Sequence[ImageInput]) -> list[ImageInput]:
    return list(image) if isinstance(image, list | tuple) else [image]  # type: ignore[list-item]


@torch.inference_mode()
def run_pass(
    model: Model,
    executor: Executor,
    sources: list[Source],
    storages: list[Storage],
    options: Options,
    report: Reporter,
) -> list[Output]:
    """Upscale images of any size four times: the main path, step by step.

    The arrays of each image, its result among them, lie in its storage: in memory, or on disk for a
    large one.
    """
    timer = Timer(model)
    jobs: list[Job] = []
    for source, storage in zip(sources, storages, strict=True):
        # 2. Cut the image into tiles: one, or as many as the memory limit asks for
        sizes = tile_sizes(model, source.size, options.tile, options.memory_limit)
        grid = grid_of(model, source, options.groups)
        # 3. Restore: coarse latents y_0 and confidence C (3.1, Eq. 1)
        coarse, confidence = restore(model, executor, source, storage, sizes, report.advance)
        # 4. Score patches, and assign them to groups by confidence (3.2, Eq. 2) or as the budget
        # allows
        scores = score_patches(confidence, grid, options.groups.least_confidence)
        groups = assign_groups(model, scores, grid, options.groups, options.budget)
        # 5. Noise of the whole image, keyed by seed and place; start states are made of it (Eq. 3
        # to 7)
        noise = NoiseField(
            options.seed, model.autoencoder.channels, *places(model, options, source)
        )
        textures = storage.array("textures", (len(grid), max(1, model.top_k)), np.int32)
        steps = np.array(options.groups.num_inference_steps)[groups.numpy()]
        textures[np.flatnonzero(steps == 0)] = -1
        jobs.append(
            Job(
                source,
                storage,
                sizes,
                grid,
                coarse,
                confidence,
                scores,
                noise,
                options.groups,
                groups,
                textures,
            )
        )
    timer.lap("restore")
    report.work["denoise"] = sum(image_work(model, job).denoise for job in jobs)
    # 6. Denoise the patches of all images, each group from its own start timestep (3.2), with
    # texture prompts (3.3)
    latents = denoise(model, executor, jobs, options.batch_size, options.prompt, report.advance)
    timer.lap("denoise")
    outputs = []
    for job, denoised in zip(jobs, latents, strict=True):
        # 7. Blend patches, move towards the coarse image, decode, match colors
        mask = None if options.mask is None else mask_weights(options.mask, job.source.size)
        finishing = Finishing(options.fidelity, mask, options.color, options.maps)
        array = decode(model, executor, job, denoised, finishing, report.advance)
        # 8. Collect what is known of the image
        outputs.append(output_of(model, job, array))
    timer.lap("decode")
    for output in outputs:
        output.timings = {name: seconds / len(outputs) for name, seconds in timer.seconds.items()}
    return outputs


def output_of(model: Model, job: Job, array: Any) -> Output:
    """The `Output` of one pass over one image."""
    work = image_work(model, job)
    steps = job.steps
    coarse, deviation = job.storage.get("coarse_image"), job.storage.get("deviation")
    return Output(
        array=array,
        confidence=np.asarray(job.confidence[:]),
        groups=job.groups.numpy(),
        scores=job.scores.numpy(),
        grid=job.grid,
        nfe=int(steps.sum()),
        gmac=work.total,
        gmac_uniform=work.uniform,
        icc_profile=job.source.icc_profile,
        coarse=None if coarse is None else np.asarray(coarse[:]),
        deviation=None if deviation is None else np.asarray(deviation[:]),
        textures=None if job.textures is None else np.asarray(job.textures[:]),
    )


def margin_of(model: Model) -> int:
    """LR pixels around a tileable texture that its result depends on, a multiple of the patches'
    stride.
    """
    groups, step = model.config.groups, model.step
    stride = (groups.latent_patch_size - groups.overlap) * step
    reach = (
        model.grm.reach
        + (model.autoencoder.reach + groups.latent_patch_size + CONTEXT) * step
        + SEAM
    )
    return -(-reach // stride) * stride


def places(
    model: Model, options: Options, source: Source
) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """Where an image lies in the noise field, and after how many latents the field repeats."""
    top, left = (side // model.step for side in options.origin)
    if not options.tileable:
        return (top, left), None
    margin = margin_of(model)
    period = tuple(max(1, (side - 2 * margin) // model.step) for side in source.size)
    return (top - margin // model.step, left - margin // model.step), (period[0], period[1])


def finish_pass(
    model: Model, planes: Planes, output: Output, target: tuple[int, int], options: Options
) -> None:
    """Cut off what surrounds a tileable texture, and resize to this pass's target (width,
    height).
    """
    size = (target[1], target[0])
    if options.tileable:
        h, w = (side * model.scale for side in planes.rgb.shape[-2:])
        margin = margin_of(model) * model.scale
        output.array = unwrap_array(output.array, margin, (h, w), SEAM * model.scale)
    if output.array.shape[:2] != size:
        output.array = (resized_tile if options.tileable else resized)(output.array, size)


class Timer:
    """Seconds by stage. A GPU's work counts where it was given, not where its result is read."""

    def __init__(self, model: Model):
        self.device, self.seconds, self.last = model.device, dict[str, float](), time.perf_counter()

    def lap(self, stage: str) -> None:
        synchronize(self.device)
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.last
        self.last = now


def pass_reporter(callback: Callback | None, number: int, count: int) -> Reporter:
    """Progress of one pass of several; later ones are larger, so an earlier one counts a sixteenth
    of the next.
    """
    shares = [16.0**n for n in range(count)]
    before, own, whole = sum(shares[:number]), shares[number], sum(shares)

    def scaled(progress: Progress) -> None:
        if callback:
            part = progress.done / progress.total
            done = int(UNITS * (before + own * part) / whole)
            last = number == count - 1 and progress.done == progress.total
            eta = progress.eta
            callback(Progress(progress.stage, UNITS if last else min(done, UNITS - 1), UNITS, eta))

    return Reporter(scaled if callback else None, {"restore": 1.0, "denoise": 8.0, "decode": 0.5})
