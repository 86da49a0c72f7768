"""The whole of PatchScaler, from a picture to a picture four times as large. Read this file first.

LR picture -> GRM: coarse latents and confidence -> patches -> groups by confidence -> texture prompt
-> Patch-DiT from each group's start -> fused latents -> decoder -> picture
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from patchscaler.checkpoints import file_hash, load_module, save_module
from patchscaler.config import GROUP_NAMES, GroupConfig, ModelConfig
from patchscaler.devices import choose_device, choose_dtype, is_out_of_memory, synchronise
from patchscaler.diffusion import Diffusion
from patchscaler.errors import PatchScalerError
from patchscaler.group_sampling import sample_groups, steps_of
from patchscaler.grouping import assign_groups, check_groups, patch_confidence
from patchscaler.model_folder import build_networks, find_model, read_config
from patchscaler.models.autoencoder import Autoencoder
from patchscaler.models.grm import GRM
from patchscaler.models.patch_dit import PatchDiT, Prompt, TextureEncoder
from patchscaler.models.texture import TextureClassifier
from patchscaler.noise import noise_field
from patchscaler.patches import Canvas, PatchGrid, make_grid
from patchscaler.pictures.colour import match_colour
from patchscaler.pictures.planes import Planes, finish, reflect_pad, to_pil, to_planes
from patchscaler.pictures.reading import MAX_PIXELS, check_pixels
from patchscaler.texture_memory import TextureMemory

Picture = Image.Image | np.ndarray | Tensor | Planes
Progress = Callable[[int, int], None]  # (patch-steps done, patch-steps in all)


@dataclass
class Result:
    """One upscaled picture and how it came about. M patches, row by row over `grid`."""

    array: np.ndarray  # (h, w, 1..4) uint8, or uint16 where the input had more than 8 bits
    coarse: Image.Image | None  # what the GRM alone gives, decoded; where it was asked for
    confidence: np.ndarray  # (H/8, W/8) of the output, in (0, 1]
    groups: np.ndarray  # (M,) 0 simple, 1 medium, 2 hard
    scores: np.ndarray  # (M,) mean confidence of each patch
    textures: np.ndarray  # (M, K) memory entries that fed each patch, -1 where none did
    grid: PatchGrid
    cost: dict[str, Any] = field(default_factory=dict)
    icc_profile: bytes | None = None  # of the array's colours

    @property
    def image(self) -> Image.Image:
        """The array as a Pillow image of 8 bits."""
        return to_pil(self.array, self.icc_profile)


@dataclass
class _Job:
    """One picture on its way. C, H, W: its latents."""

    planes: Planes
    size: tuple[int, int]  # LR (h, w)
    coarse: Tensor  # (C, H, W) y_0
    noise: Tensor  # (C, H, W) the picture's window of the noise field
    confidence: Tensor  # (1, H, W)
    grid: PatchGrid
    scores: Tensor  # (M,)
    groups: Tensor  # (M,)
    canvas: Canvas  # where sampled patches are fused


@dataclass(frozen=True)
class _Options:
    """The arguments of `upscale`."""

    groups: GroupConfig
    seed: int
    origin: tuple[int, int]
    prompt: bool
    max_patches: int
    max_pixels: int
    progress: Progress | None
    coarse: bool
    colour: str
    period: tuple[int, int] | None


class PatchScaler:
    """Five networks, a texture memory and the numbers that tie them together."""

    def __init__(
        self, config: ModelConfig, networks: dict[str, torch.nn.Module], memory: TextureMemory | None,
        device: str = "cpu", dtype: torch.dtype = torch.float32,
    ):  # fmt: skip
        self.config = config
        self.device, self.dtype = torch.device(device), dtype
        for network in networks.values():
            network.to(self.device).eval().requires_grad_(False)
        networks["grm"].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.networks = networks
        self.memory = memory.to(self.device) if memory else None
        self.diffusion = Diffusion(config.diffusion)

    # --- loading and saving -----------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls, source: str | Path = "compact", *, device: str = "auto", dtype: str = "auto",
        memory: str | Path | None = None, autoencoder: str | Path | None = None,
    ) -> "PatchScaler":  # fmt: skip
        """A shipped name, a folder of `save_pretrained`, or a hub id (needs the `hub` extra).

        device: auto, cpu, cuda, mps. dtype: auto, float32, bfloat16, float16, of the two large networks.
        memory: another texture memory; autoencoder: another local copy of the `paper` autoencoder.
        Raises PatchScalerError for anything missing, corrupt or not fitting.
        """
        folder = find_model(source)
        config = read_config(folder, autoencoder)
        where = choose_device(device)
        networks = build_networks(config)
        for name, network in networks.items():
            if name != "autoencoder" or config.autoencoder.kind == "pca":
                load_module(folder / f"{name}.safetensors", network)
        networks["autoencoder"].to(where)  # it encodes the memory
        textures = None
        if memory or config.texture.memory_size:
            memory_file = Path(memory) if memory else folder / "memory.safetensors"
            key_model = file_hash(folder / "classifier.safetensors")
            textures = TextureMemory.load(memory_file, _autoencoder(networks), key_model)
        return cls(config, networks, textures, where, choose_dtype(dtype, where))

    def save_pretrained(self, folder: str | Path, half: bool = True) -> None:
        """config.json, one safetensors file a network, memory.safetensors."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, network in self.networks.items():
            if name != "autoencoder" or self.config.autoencoder.kind == "pca":
                save_module(folder / f"{name}.safetensors", network, {"network": name}, half)
        config = self.config
        if self.memory:
            self.memory.key_model = file_hash(folder / "classifier.safetensors")
            self.memory.save(folder / "memory.safetensors")
        else:
            config = replace(config, texture=replace(config.texture, memory_size=0))
        (folder / "config.json").write_text(config.to_json() + "\n", encoding="utf-8")

    # --- the main path ----------------------------------------------------------------------------

    def upscale(self, image: Picture, **options: Any) -> Result:
        """PIL image, (H, W[, 3|4]) array or (3, H, W) tensor in [0, 1] -> Result. Options as in `upscale_many`."""
        return self.upscale_many([image], **options)[0]

    def upscale_many(
        self, images: Sequence[Picture], *, seed: int = 0, groups: GroupConfig | None = None,
        origin: tuple[int, int] = (0, 0), prompt: bool = True, max_patches: int | None = None,
        memory_limit: float = 512, max_pixels: int = MAX_PIXELS, progress: Progress | None = None,
        coarse: bool = False, colour: str = "none", period: tuple[int, int] | None = None,
    ) -> list[Result]:  # fmt: skip
        """Several pictures whose patches share batches -> their Results, in order.

        groups: thresholds, start times, steps and overlap in place of the checkpoint's. origin: (row, column)
        of the picture in a larger one, so that a crop sees the noise of the whole (multiples of two pixels).
        prompt: False leaves the texture prompt out. max_patches: of one batch, by default as many as
        memory_limit (MiB) holds; halved when memory runs out. max_pixels: of each picture, 0 for no limit.
        coarse: True decodes the coarse picture too. colour: wavelet, adain or none, against shifts of colour.
        period: (height, width) in pixels after which the noise repeats, for tileable textures.
        Raises PatchScalerError for what cannot be.
        """
        config = check_groups(groups or self.config.groups)
        if config.latent_patch_size != self.config.groups.latent_patch_size:
            size = self.config.groups.latent_patch_size
            raise PatchScalerError(f"patches of {config.latent_patch_size} latents: this model was trained for {size}")
        if max_patches is None:
            max_patches = self.patches_within(memory_limit)
        if max_patches < 1:
            raise PatchScalerError(f"max_patches {max_patches}: take 1 or more")
        options = _Options(config, seed, origin, prompt, max_patches, max_pixels, progress, coarse, colour, period)
        try:
            return self._upscale(images, options)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise PatchScalerError("not enough memory for this picture; cut it into parts, or free some") from error

    @torch.inference_mode()
    def _upscale(self, pictures: Sequence[Picture], options: _Options) -> list[Result]:
        clock = Clock(self.device)
        jobs = [self._restore(to_planes(p), options) for p in pictures]
        clock.lap("coarse")
        textures = self._sample(jobs, options, clock)
        results = []
        for job, entries in zip(jobs, textures, strict=True):
            image = match_colour(self._decode(job.canvas.fused(), job), job.planes.rgb, options.colour)
            coarse = self._decode(job.coarse, job) if options.coarse else None
            results.append(
                Result(
                    finish(image, job.planes),
                    None if coarse is None else to_pil(finish(coarse, job.planes), job.planes.icc_profile),
                    job.confidence[0].cpu().numpy(), job.groups.numpy(), job.scores.numpy(), entries.numpy(),
                    job.grid, self._cost(job, options.groups), job.planes.icc_profile,
                )
            )  # fmt: skip
        clock.lap("decode")
        for result in results:
            result.cost["seconds"] = dict(clock.seconds)
        return results

    def _restore(self, planes: Planes, options: _Options) -> _Job:
        """Coarse latents, confidence, groups and noise of one picture."""
        config = options.groups
        height, width = planes.rgb.shape[-2:]
        check_pixels(width, height, options.max_pixels, "the picture")
        # At least one patch, and whole latents: in LR pixels, factor / scale of them make a latent.
        step = max(1, self.autoencoder.factor // self.config.scale)
        least = config.latent_patch_size * step
        padded = [max(least, -(-side // step) * step) for side in (height, width)]
        lr = reflect_pad(planes.rgb, *padded)[None].to(self.device)  # (1, 3, h, w)
        with self._autocast():
            coarse, confidence = self.grm(lr, self.autoencoder)
        coarse, confidence = coarse[0].float(), confidence[0].float()  # (C, H, W), (1, H, W)
        grid = make_grid(coarse.shape[-2], coarse.shape[-1], config.latent_patch_size, config.overlap)
        scores = patch_confidence(confidence, grid).cpu()
        top, left = (side // step for side in options.origin)
        period = None
        if options.period:
            period = (max(1, options.period[0] // step), max(1, options.period[1] // step))
        noise = noise_field(options.seed, len(coarse), top, left, grid.height, grid.width, period).to(self.device)
        groups = assign_groups(scores, config.thresholds)
        canvas = Canvas(len(coarse), grid, self.device)
        return _Job(planes, (height, width), coarse, noise, confidence, grid, scores, groups, canvas)

    def _sample(self, jobs: list[_Job], options: _Options, clock: "Clock") -> list[Tensor]:
        """Fill the canvases, patches of all pictures in one row -> the memory entries of each, (M, K) a picture."""
        if not jobs:
            return []
        config, size = options.groups, options.groups.latent_patch_size
        k = min(self.config.texture.top_k, len(self.memory)) if self.memory and options.prompt else 0
        places = [(job, row, column) for job in jobs for row, column in job.grid.corners()]
        groups = torch.cat([job.groups for job in jobs])  # (M,)
        textures = torch.full((len(places), max(1, k)), -1)  # (M, K)
        steps = steps_of(groups, config)  # (M,)
        total, done = int(steps.sum()), 0

        def cut(name: str, chunk: Tensor) -> Tensor:
            """The patches of a chunk out of `coarse` or `noise`: (n, C, V, V)."""
            windows = [(getattr(job, name), row, column) for job, row, column in (places[i] for i in chunk)]
            return torch.stack([x[:, r : r + size, c : c + size] for x, r, c in windows])

        def count(evaluated: int) -> None:
            nonlocal done
            done += evaluated
            if options.progress:
                options.progress(done, total)

        # Longest first: chunks of one length keep their batches full; those of no steps come last.
        order, limit = steps.argsort(descending=True, stable=True), options.max_patches
        while len(order):
            chunk, before = order[:limit], done
            y_0 = cut("coarse", chunk)  # (n, C, V, V)
            sampled = int(steps[chunk[0]]) > 0
            try:
                prompt = None
                if sampled and k:
                    prompt, textures[chunk] = self.texture_prompt(y_0)
                clock.lap("prompt")
                if sampled:
                    noise, denoise = cut("noise", chunk), self._denoiser(y_0, prompt)
                    y_0 = sample_groups(denoise, y_0, noise, groups[chunk], config, self.diffusion, count)
                clock.lap("sampling")
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or len(chunk) == 1:
                    raise
                limit, done = len(chunk) // 2, before
                continue
            for patch, i in zip(y_0, chunk, strict=True):
                job, row, column = places[i]
                job.canvas.add(patch, row, column)
            order = order[limit:]
        textures[steps == 0] = -1
        return list(textures.split([len(job.grid) for job in jobs]))

    def texture_prompt(self, y_0: Tensor) -> tuple[Prompt, Tensor]:
        """Texture Feature Wrapping (3.3). y_0: (N, C, V, V) -> prompt, entries (N, K)."""
        assert self.memory is not None
        k = min(self.config.texture.top_k, len(self.memory))
        query = self.classifier.keys(y_0)  # (N, D)
        values, scores, entries = self.memory.lookup(query, k)  # (N, K, C, V, V), (N, K)
        with self._autocast():
            context = self.texture_encoder(values, scores)  # (N, M, D)
            return self.patch_dit.prepare(context), entries.cpu()

    def patches_within(self, mebibytes: float) -> int:
        """How many patches a batch may have: an estimate of Patch-DiT's and the prompt's memory, from above."""
        c, k = self.config.patch_dit, self.config.texture.top_k
        latents = self.autoencoder.channels * self.config.groups.latent_patch_size**2
        tokens = (self.config.groups.latent_patch_size // c.patch_size) ** 2
        context = k * (self.config.groups.latent_patch_size // c.context_patch_size) ** 2
        floats = (12 + 2 * k) * latents + tokens * c.hidden_size * (8 + 3 * c.mlp_ratio)
        floats += context * (c.hidden_size * (8 + 2 * c.mlp_ratio) + 2 * c.depth * (c.cross_size or c.hidden_size))
        return max(1, int(mebibytes * 2**20 / (4 * floats)))

    def _denoiser(self, y_0: Tensor, prompt: Prompt | None) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        def denoise(x_t: Tensor, t: Tensor, index: Tensor) -> Tensor:
            rows = index.to(y_0.device)
            everything = len(rows) == len(y_0)
            y = y_0 if everything else y_0[rows]
            p = prompt if everything or prompt is None else prompt.select(rows)
            with self._autocast():
                output = self.patch_dit(x_t, t, y, p)  # (n, C, V, V)
            return self.diffusion.to_x_0(output.float(), x_t, t, y)

        return denoise

    def _decode(self, latents: Tensor, job: _Job) -> Tensor:
        """(C, H, W) -> (3, scale h, scale w), padding cut off."""
        h, w = (side * self.config.scale for side in job.size)
        return self.autoencoder.decode(latents[None])[0, :, :h, :w]

    def _cost(self, job: _Job, config: GroupConfig) -> dict[str, Any]:
        patches = {name: int((job.groups == g).sum()) for g, name in enumerate(GROUP_NAMES)}
        evaluations = {n: patches[n] * s for n, s in zip(GROUP_NAMES, config.num_inference_steps, strict=True)}
        return {"patches": patches, "evaluations": evaluations, "evaluations_total": sum(evaluations.values())}

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

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


class Clock:
    """Seconds by stage; laps of one name add up. A GPU's work counts where it was given, not where it is waited for."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self.device, self.last = device, time.perf_counter()

    def lap(self, name: str) -> None:
        synchronise(self.device)
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.last
        self.last = now


def _autoencoder(networks: dict[str, torch.nn.Module]) -> Autoencoder:
    return networks["autoencoder"]  # type: ignore[return-value]
