"""The whole of PatchScaler, from a picture to a picture four times as large. Read this file first.

LR picture -> GRM: coarse latents and confidence -> patches -> groups by confidence -> texture
prompt
-> Patch-DiT from each group's start -> fused latents -> refiner (compact) -> decoder -> picture
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchscaler.assignment import assign
from patchscaler.batches import Batches, patches_within
from patchscaler.config import GroupConfig, ModelConfig
from patchscaler.devices import choose_device, choose_dtype, is_out_of_memory
from patchscaler.dials.boxes import Change
from patchscaler.dials.budget import Budget, parse_budget
from patchscaler.dials.fidelity import check_fidelity, colors_of_coarse, start_later, towards_coarse
from patchscaler.dials.invention import cell_moments
from patchscaler.diffusion.group_sampling import sample_groups
from patchscaler.diffusion.groups import check_groups, patch_confidence
from patchscaler.diffusion.noise import noise_field
from patchscaler.diffusion.schedule import Diffusion
from patchscaler.errors import PatchScalerError
from patchscaler.images.color import DEFAULT, match_color
from patchscaler.images.planes import Planes, finish, reflect_pad, to_pil, to_planes
from patchscaler.images.read import MAX_PIXELS, check_pixels
from patchscaler.jobs import Clock, Counter, Job, Latents, Options, Picture, Progress, Result
from patchscaler.models.autoencoder import Autoencoder
from patchscaler.models.checksums import check_sums
from patchscaler.models.folder import (
    AUTOENCODER,
    autoencoder_files,
    build_networks,
    find_model,
    read_config,
    write_model,
)
from patchscaler.models.grm import GRM
from patchscaler.models.patch_dit import PatchDiT, Prompt, TextureEncoder
from patchscaler.models.quantized import Int8Refiner, int8_available
from patchscaler.models.refiner import Refiner
from patchscaler.models.texture import TextureClassifier
from patchscaler.models.weights import file_hash, load_module
from patchscaler.patching import Canvas, PatchGrid, make_grid
from patchscaler.refining import refined, refining_steps
from patchscaler.texture_memory import TextureMemory

__all__ = ["PatchScaler", "Picture", "Progress", "Result"]


class PatchScaler:
    """The networks, a texture memory and the numbers that tie them together."""

    def __init__(
        self,
        config: ModelConfig,
        networks: dict[str, torch.nn.Module],
        memory: TextureMemory | None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        self.config = config
        self.device, self.dtype = torch.device(device), dtype
        # `torch int8` where the refiner computes in bytes, or `onnx.engine.use_engine`'s
        self.engine = "torch"
        for network in networks.values():
            network.to(self.device).eval().requires_grad_(False)
        for name in ("grm", "refiner"):
            if name in networks:
                networks[name].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.networks = networks
        self.memory = memory.to(self.device) if memory else None
        self.diffusion = Diffusion(config.diffusion)
        self.files: dict[str, Path] = {}  # where the networks and the memory were loaded from

    # --- loading and saving -----------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = "compact",
        *,
        device: str = "auto",
        dtype: str = "auto",
        memory: str | Path | None = None,
        autoencoder: str | Path | None = None,
        offline: bool = False,
        engine: str = "torch",
        onnx: str | Path | None = None,
    ) -> "PatchScaler":
        """A shipped name, a folder of `save_pretrained`, or a hub id (needs the `hub` extra;
        @revision may follow).

        device: auto, cpu, cuda, mps. dtype: auto, float32, bfloat16, float16, of the large
        networks; auto also draws in bytes (`models/quantized.py`) where weights and processor allow
        it.
        memory: another texture memory; autoencoder: another local copy of the `paper` autoencoder.
        offline: fetch nothing, as HF_HUB_OFFLINE=1. engine, onnx: see `onnx.engine.use_engine`.
        Raises PatchScalerError for anything missing, corrupt, changed or not fitting.
        """
        folder = find_model(source, offline)
        check_sums(folder, ["config.json"])
        config = read_config(folder, autoencoder)
        where = choose_device(device)
        copy = [] if autoencoder or config.autoencoder.kind == "pca" else autoencoder_files(folder)
        check_sums(folder, copy)
        networks = build_networks(config, folder / AUTOENCODER if copy else None, offline)
        for name, network in networks.items():
            if name != "autoencoder" or config.autoencoder.kind == "pca":
                check_sums(folder, [f"{name}.safetensors"])
                load_module(folder / f"{name}.safetensors", network)
        networks["autoencoder"].to(where)  # it encodes the memory
        textures, memory_file = None, Path(memory) if memory else folder / "memory.safetensors"
        if memory or config.texture.memory_size:
            check_sums(folder, [] if memory else [memory_file.name])
            key_model = file_hash(folder / "classifier.safetensors")
            textures = TextureMemory.load(memory_file, _autoencoder(networks), key_model)
        scaler = cls(config, networks, textures, where, choose_dtype(dtype, where))
        scaler.files = {
            path.stem: path for path in folder.glob("*.safetensors") if path.stem in networks
        }
        scaler.files |= {"memory": memory_file} if textures else {}
        refiner, choice = (
            scaler.refiner,
            dtype == "auto" and where == "cpu" and engine in ("auto", "torch"),
        )
        # faster than any engine
        if refiner and choice and config.refiner.ranges and int8_available():
            object.__setattr__(refiner, "refine", Int8Refiner(refiner).refine)
            scaler.engine = "torch int8"
            return scaler
        if engine == "torch":
            return scaler
        from patchscaler.engines.onnx.engine import use_engine

        return use_engine(scaler, engine, onnx)

    def save_pretrained(
        self,
        folder: str | Path,
        half: bool = True,
        *,
        licence: str = "unknown",
        copy_autoencoder: bool = True,
    ) -> None:
        """A folder that `from_pretrained` and a hub take: see `model_folder`.

        half: floats in half precision. licence: of the weights, for the model card.
        copy_autoencoder: False only names a diffusers autoencoder, which then has to be had when
        the model is loaded.
        """
        write_model(
            Path(folder), self.config, self.networks, self.memory, half, licence, copy_autoencoder
        )

    # --- the main path ----------------------------------------------------------------------------

    def upscale(self, image: Picture, **options: Any) -> Result:
        """PIL image, (H, W[, 3|4]) array or (3, H, W) tensor in [0, 1] -> Result. options: see
        `options`.
        """
        return self.upscale_many([image], **options)[0]

    def upscale_many(self, images: Sequence[Picture], **options: Any) -> list[Result]:
        """Several pictures whose patches share batches -> their Results, in order. options: see
        `options`.

        Pictures too large for memory: `streaming.files.upscale_file`.
        """
        checked = self.options(**options)
        try:
            return self._upscale(images, checked)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            hint = "make it in windows (--window, `upscale_file`), or free some"
            raise PatchScalerError(f"not enough memory for this picture; {hint}") from error

    def options(
        self,
        *,
        seed: int = 0,
        groups: GroupConfig | None = None,
        origin: tuple[int, int] = (0, 0),
        prompt: bool = True,
        max_patches: int | None = None,
        memory_limit: float = 512,
        max_pixels: int = MAX_PIXELS,
        progress: Progress | None = None,
        coarse: bool = False,
        color: str = DEFAULT,
        period: tuple[int, int] | None = None,
        budget: str | float | Budget | None = None,
        fidelity: float = 0,
        changes: Sequence[Change] = (),
        invention: bool = False,
        assigned: np.ndarray | None = None,
    ) -> Options:
        """What a picture is to be made with.

        groups: thresholds, start times, steps and overlap in place of the checkpoint's. origin:
        (row, column) of the picture in a larger one, so that a crop sees the noise of the whole
        (multiples of two pixels). prompt: False leaves the texture prompt out. max_patches: of one
        batch, by default as many as memory_limit (MiB) holds; halved when memory runs out.
        max_pixels: of each picture, 0 for no limit. coarse: True decodes the coarse picture too.
        color: wavelet, adain or none, against shifts of colour. period: (height, width) in pixels
        after which the noise repeats, for tileable textures. The dials (docs/dials.md): budget, a
        share of full sampling, seconds ('20s') or a name; fidelity, 0 to 1; changes, boxes with
        another group or seed; invention: True measures what was invented; assigned: (M,) groups of
        an earlier run, to repeat it. Raises PatchScalerError for what cannot be.
        """
        config = check_groups(groups or self.config.groups)
        if config.latent_patch_size != self.config.groups.latent_patch_size:
            size = self.config.groups.latent_patch_size
            raise PatchScalerError(
                f"patches of {config.latent_patch_size} latents: this model was trained for {size}"
            )
        if max_patches is None:
            max_patches = patches_within(self, memory_limit)
        if max_patches < 1:
            raise PatchScalerError(f"max_patches {max_patches}: take 1 or more")
        return Options(
            start_later(config, check_fidelity(fidelity)),
            seed,
            origin,
            prompt,
            max_patches,
            max_pixels,
            progress,
            coarse,
            color,
            period,
            None if budget is None else parse_budget(budget),
            fidelity,
            tuple(changes),
            invention,
            assigned,
            config,
        )

    @torch.inference_mode()
    def _upscale(self, pictures: Sequence[Picture], options: Options) -> list[Result]:
        clock = Clock(self.device)
        jobs = [self.restored(picture, options) for picture in pictures]
        clock.lap("coarse")
        for job in jobs:
            assign(self, job, options, spent=clock.seconds["coarse"] / len(jobs))
        count = Counter(
            jobs, options.progress, refining_steps(self, jobs) if options.progress else 0
        )
        self.sample(jobs, options, clock, count)
        fused = [refined(self, job, count) for job in jobs]
        if self.refiner:
            clock.lap("refining")
        results = [
            self._result(job, latents, options) for job, latents in zip(jobs, fused, strict=True)
        ]
        clock.lap("decode")
        for result in results:
            result.cost["seconds"] = dict(clock.seconds)
        return results

    def restored(self, picture: Picture, options: Options) -> Job:
        """Coarse latents, confidence, patches and noise of one picture."""
        planes = to_planes(picture)
        height, width = planes.rgb.shape[-2:]
        check_pixels(width, height, options.max_pixels, "the picture")
        padded = self.padded_size(height, width)
        coarse, confidence = self.restore(reflect_pad(planes.rgb, *padded)[None].to(self.device))
        grid = make_grid(
            coarse.shape[1],
            coarse.shape[2],
            options.groups.latent_patch_size,
            options.groups.overlap,
        )
        noise = self.noise(options, 0, 0, grid.height, grid.width).to(self.device)
        scores = patch_confidence(confidence, grid, options.groups.least_confidence).cpu()
        return self.new_job(
            planes,
            (height, width),
            coarse,
            noise,
            confidence,
            grid,
            scores,
            options.groups,
            Canvas(len(coarse), grid, self.device),
        )

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """LR (height, width) with at least one patch, and whole latents."""
        least = self.config.groups.latent_patch_size * self.step
        return max(least, -(-height // self.step) * self.step), max(
            least, -(-width // self.step) * self.step
        )

    def restore(self, lr: Tensor) -> tuple[Tensor, Tensor]:
        """(1, 3, h, w) in [-1, 1] -> coarse latents (C, H, W), confidence (1, H, W)."""
        with self.autocast():
            coarse, confidence = self.grm(lr, self.autoencoder)
        return coarse[0].float(), confidence[0].float()

    def noise(
        self,
        options: Options,
        row: int,
        column: int,
        height: int,
        width: int,
        seed: int | None = None,
    ) -> Tensor:
        """(C, height, width) of the noise field, from latent (row, column) of the picture on."""
        top, left = (side // self.step for side in options.origin)
        period = None
        if options.period:
            period = (
                max(1, options.period[0] // self.step),
                max(1, options.period[1] // self.step),
            )
        seed = options.seed if seed is None else seed
        return noise_field(
            seed, self.autoencoder.channels, top + row, left + column, height, width, period
        )

    @torch.inference_mode()
    def groups_of(self, image: Picture, **options: Any) -> tuple[np.ndarray, GroupConfig]:
        """Which group each patch falls into, (M,), and the groups' numbers, without
        sampling any.
        """
        checked = self.options(**options)
        job = self.restored(image, checked)
        assign(self, job, checked)
        return job.groups.numpy(), job.config

    def sample(self, jobs: list[Job], options: Options, clock: Clock, count: Counter) -> None:
        """Fill the canvases; the patches of all pictures of one configuration share batches."""
        for config in dict.fromkeys(job.config for job in jobs):
            self._sample(
                [job for job in jobs if job.config == config], config, options, clock, count
            )

    def _sample(
        self, jobs: list[Job], config: GroupConfig, options: Options, clock: Clock, count: Counter
    ) -> None:
        batches = Batches(jobs, config.latent_patch_size, options.max_patches)
        while len(batches):
            batch, before = batches.next_batch(), count.done
            sampled = batches.sampled(batch)
            y_0, noise = batches.coarse(batch), batches.noise(batch) if sampled else None
            try:
                patches, entries = self.sample_batch(
                    y_0, noise, batches.groups[batch], config, options, clock, count
                )
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or len(batch) == 1:
                    raise
                batches.requeue(batch)
                count.done = before
                continue
            batches.put(batch, patches, entries)

    def sample_batch(
        self,
        y_0: Tensor,
        noise: Tensor | None,
        groups: Tensor,
        config: GroupConfig,
        options: Options,
        clock: Clock,
        count: Callable[[int], None],
    ) -> tuple[Tensor, Tensor]:
        """y_0, noise: (n, C, V, V); groups: (n,) -> patches (n, C, V, V), memory entries (n, K); no
        noise, no steps.
        """
        k = self.top_k if options.prompt else 0
        y_0, entries, prompt = y_0.to(self.device), torch.full((len(y_0), max(1, k)), -1), None
        if noise is not None and k:
            prompt, entries = self.texture_prompt(y_0)
        clock.lap("prompt")
        if noise is not None:
            denoise = self.denoiser(y_0, prompt)
            y_0 = sample_groups(
                denoise, y_0, noise.to(self.device), groups, config, self.diffusion, count
            )
        clock.lap("sampling")
        return y_0, entries

    def _result(self, job: Job, latents: Tensor, options: Options) -> Result:
        """Fused latents (C, H, W) -> picture."""
        assert isinstance(job.coarse, Tensor)
        image, coarse = self.picture(latents, job.coarse, job.confidence, job.planes.rgb, options)
        moments = (
            cell_moments(image, coarse, self.autoencoder.factor) if options.invention else None
        )
        profile = job.planes.icc_profile
        return Result(
            finish(image, job.planes),
            to_pil(finish(coarse, job.planes), profile) if options.coarse else None,
            job.confidence[0].cpu().numpy(),
            job.groups.numpy(),
            job.scores.numpy(),
            job.textures,
            job.grid,
            job.cost(),
            profile,
            job.config,
            None if moments is None else moments.cpu().numpy(),
            options,
        )

    def picture(
        self, latents: Tensor, coarse: Tensor, confidence: Tensor, lr: Tensor, options: Options
    ) -> tuple[Tensor, Tensor]:
        """Latents (C, H, W) twice, (1, H, W), input (3, h, w) -> result and, if wanted, coarse, (3,
        4h, 4w) both.
        """
        if options.fidelity:
            calibration = self.config.groups.calibration
            latents = towards_coarse(latents, coarse, confidence, calibration, options.fidelity)
        size = (lr.shape[1], lr.shape[2])
        image = plain = self.decode(latents, size)
        if options.coarse or options.fidelity or options.invention:
            plain = self.decode(coarse, size)
        if options.fidelity:
            image = colors_of_coarse(image, plain, options.fidelity)
        # or what colours are matched by would count as invented
        if options.coarse or options.invention:
            plain = match_color(plain, lr, options.color)
        return match_color(image, lr, options.color), plain

    def new_job(
        self,
        planes: Planes,
        size: tuple[int, int],
        coarse: Latents,
        noise: Latents,
        confidence: Tensor,
        grid: PatchGrid,
        scores: Tensor,
        config: GroupConfig,
        canvas: Any,
    ) -> Job:
        """A job whose patches are all still to be sampled; see `Job` for the shapes."""
        textures = np.full((len(grid), max(1, self.top_k)), -1, np.int64)
        groups, todo = (
            torch.zeros(len(grid), dtype=torch.long),
            torch.ones(len(grid), dtype=torch.bool),
        )
        return Job(
            planes,
            size,
            coarse,
            noise,
            confidence,
            grid,
            scores,
            groups,
            config,
            canvas,
            textures,
            todo,
            refines=self.refiner is not None,
        )

    def texture_prompt(self, y_0: Tensor) -> tuple[Prompt, Tensor]:
        """Texture Feature Wrapping (3.3). y_0: (N, C, V, V) -> prompt, entries (N, K)."""
        assert self.memory is not None
        query = self.classifier.keys(y_0)  # (N, D)
        values, scores, entries = self.memory.lookup(query, self.top_k)  # (N, K, C, V, V), (N, K)
        with self.autocast():
            context = self.texture_encoder(values, scores)  # (N, M, D)
            return self.patch_dit.prepare(context), entries.cpu()

    def denoiser(
        self, y_0: Tensor, prompt: Prompt | None
    ) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Patch-DiT as `sample_groups` calls it: (x_t, t, rows of y_0) -> x_0."""

        def denoise(x_t: Tensor, t: Tensor, index: Tensor) -> Tensor:
            rows = index.to(y_0.device)
            everything = len(rows) == len(y_0)
            y = y_0 if everything else y_0[rows]
            p = prompt if everything or prompt is None else prompt.select(rows)
            with self.autocast():
                output = self.patch_dit(x_t, t, y, p)  # (n, C, V, V)
            return self.diffusion.to_x_0(output.float(), x_t, t, y)

        return denoise

    def decode(self, latents: Tensor, size: tuple[int, int]) -> Tensor:
        """(C, H, W) -> (3, scale h, scale w) for the LR size (h, w): padding cut off."""
        h, w = (side * self.config.scale for side in size)
        return self.autoencoder.decode(latents[None])[0, :, :h, :w]

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    @property
    def compute_signature(self) -> str:
        """What computes, and how exactly: the last bits of a picture depend on it."""
        return (
            f"{self.device.type} {self.dtype} {self.engine.removeprefix('torch').strip()}".rstrip()
        )

    @property
    def step(self) -> int:
        """LR pixels a latent."""
        return max(1, self.autoencoder.factor // self.config.scale)

    @property
    def top_k(self) -> int:
        """Textures that a prompt is made of."""
        return min(self.config.texture.top_k, len(self.memory)) if self.memory else 0

    @property
    def autoencoder(self) -> Autoencoder:
        return _autoencoder(self.networks)

    @property
    def grm(self) -> GRM:
        return self.networks["grm"]  # type: ignore[return-value]

    @property
    def classifier(self) -> TextureClassifier:
        return self.networks["classifier"]  # type: ignore[return-value]

    @property
    def texture_encoder(self) -> TextureEncoder:
        return self.networks["texture_encoder"]  # type: ignore[return-value]

    @property
    def patch_dit(self) -> PatchDiT:
        return self.networks["patch_dit"]  # type: ignore[return-value]

    @property
    def refiner(self) -> Refiner | None:
        return self.networks.get("refiner")  # type: ignore[return-value]


def _autoencoder(networks: dict[str, torch.nn.Module]) -> Autoencoder:
    return networks["autoencoder"]  # type: ignore[return-value]
