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
from patchscaler.devices import choose_device, choose_dtype, is_out_of_memory
from patchscaler.diffusion import Diffusion
from patchscaler.errors import PatchScalerError
from patchscaler.group_sampling import sample_groups, steps_of
from patchscaler.grouping import assign_groups, check_groups, patch_confidence
from patchscaler.images import MAX_PIXELS, Planes, check_pixels, from_planes, reflect_pad, to_planes
from patchscaler.models.autoencoder import Autoencoder, build_autoencoder
from patchscaler.models.grm import GRM, build_grm
from patchscaler.models.patch_dit import PatchDiT, Prompt, TextureEncoder
from patchscaler.models.texture import TextureClassifier
from patchscaler.noise import noise_field
from patchscaler.patches import PatchGrid, make_grid, merge, partition
from patchscaler.texture_memory import TextureMemory

SHIPPED = Path(__file__).parent / "weights"
NETWORKS = ("autoencoder", "grm", "classifier", "texture_encoder", "patch_dit")
Picture = Image.Image | np.ndarray | Tensor
Progress = Callable[[int, int], None]  # (patch-steps done, patch-steps in all)


@dataclass
class Result:
    """One upscaled picture and how it came about. M patches, row by row over `grid`."""

    image: Image.Image
    coarse: Image.Image | None  # what the GRM alone gives, decoded; where it was asked for
    confidence: np.ndarray  # (H/8, W/8) of the output, in (0, 1]
    groups: np.ndarray  # (M,) 0 simple, 1 medium, 2 hard
    scores: np.ndarray  # (M,) mean confidence of each patch
    textures: np.ndarray  # (M, K) memory entries that fed each patch, -1 where none did
    grid: PatchGrid
    cost: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Job:
    """One picture on its way."""

    planes: Planes
    size: tuple[int, int]  # LR (h, w)
    coarse: Tensor  # (C, H, W) latents
    confidence: Tensor  # (1, H, W)
    grid: PatchGrid
    scores: Tensor  # (M,)
    groups: Tensor  # (M,)


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
        config_file = folder / "config.json"
        if not config_file.is_file():
            raise PatchScalerError(f"{folder}: no config.json; give a folder written by save_pretrained")
        try:
            config = ModelConfig.from_json(config_file.read_text(encoding="utf-8"))
        except (PatchScalerError, UnicodeDecodeError) as error:
            raise PatchScalerError(f"{config_file}: {error}") from error
        if autoencoder is not None and config.autoencoder.kind == "pca":
            raise PatchScalerError(f"model '{source}' has its own autoencoder: leave --autoencoder out")
        if autoencoder is not None:
            config = replace(config, autoencoder=replace(config.autoencoder, model_id=str(autoencoder), revision=""))
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

    def upscale(
        self, image: Picture | Sequence[Picture], *, seed: int = 0, groups: GroupConfig | None = None,
        prompt: bool = True, max_patches: int | None = None, memory_limit: float = 512,
        max_pixels: int = MAX_PIXELS, progress: Progress | None = None, coarse: bool = False,
    ) -> Any:  # fmt: skip
        """PIL image, (H, W[, 3|4]) array or (3, H, W) tensor in [0, 1] -> Result; a list of them -> a list.

        groups: thresholds, start times, steps and overlap in place of the checkpoint's. prompt: False
        leaves the texture prompt out. max_patches: of one batch, by default as many as memory_limit (MiB)
        holds; halved when memory runs out. Patches of a list share batches. coarse: True decodes the coarse
        picture too.
        """
        several = isinstance(image, Sequence)
        pictures: Sequence[Picture] = image if several else [image]  # type: ignore[list-item,assignment]
        config = check_groups(groups or self.config.groups)
        if config.latent_patch_size != self.config.groups.latent_patch_size:
            size = self.config.groups.latent_patch_size
            raise PatchScalerError(f"patches of {config.latent_patch_size} latents: this model was trained for {size}")
        results = self._upscale(
            pictures,
            seed,
            config,
            prompt,
            self.patches_within(memory_limit) if max_patches is None else max_patches,
            max_pixels,
            progress,
            coarse,
        )
        return results if several else results[0]

    @torch.inference_mode()
    def _upscale(
        self, pictures: Sequence[Picture], seed: int, config: GroupConfig, prompt: bool, max_patches: int,
        max_pixels: int, progress: Progress | None, keep_coarse: bool,
    ) -> list[Result]:  # fmt: skip
        if not pictures:
            return []
        clock = Clock()
        jobs = [self._restore(to_planes(p), config, max_pixels) for p in pictures]
        clock.lap("coarse")
        # Patches of all pictures in one row, each with its slice of its picture's noise field.
        coarse = torch.cat([partition(j.coarse, j.grid) for j in jobs])  # (M, C, V, V)
        groups = torch.cat([j.groups for j in jobs])  # (M,)
        noise = torch.cat([self._noise(j.grid, seed) for j in jobs])  # (M, C, V, V)
        x_0, textures = self._sample(coarse, noise, groups, config, prompt, max_patches, progress, clock)
        results, first = [], 0
        for job in jobs:
            rows = slice(first, first + len(job.grid))
            first = rows.stop
            latents = merge(x_0[rows], job.grid)  # (C, H, W)
            image = self._decode(latents, job)
            results.append(
                Result(
                    from_planes(image, job.planes, self.config.scale),
                    from_planes(self._decode(job.coarse, job), job.planes, self.config.scale) if keep_coarse else None,
                    job.confidence[0].cpu().numpy(), job.groups.numpy(), job.scores.cpu().numpy(),
                    textures[rows].numpy(), job.grid, self._cost(job, config),
                )
            )  # fmt: skip
        clock.lap("decode")
        for result in results:
            result.cost["seconds"] = dict(clock.seconds)
        return results

    def _restore(self, planes: Planes, config: GroupConfig, max_pixels: int) -> _Job:
        """Coarse latents, confidence and groups of one picture."""
        height, width = planes.rgb.shape[-2:]
        check_pixels(width, height, max_pixels, "the picture")
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
        groups = assign_groups(scores, config.thresholds)
        return _Job(planes, (height, width), coarse, confidence, grid, scores, groups)

    def _noise(self, grid: PatchGrid, seed: int) -> Tensor:
        field_ = noise_field(seed, self.autoencoder.channels, 0, 0, grid.height, grid.width)
        return partition(field_, grid).to(self.device)

    def _sample(
        self, coarse: Tensor, noise: Tensor, groups: Tensor, config: GroupConfig, prompt: bool,
        max_patches: int, progress: Progress | None, clock: "Clock",
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """-> x_0 (M, C, V, V), the memory entries of each patch (M, K)."""
        k = min(self.config.texture.top_k, len(self.memory)) if self.memory else 0
        textures = torch.full((len(coarse), max(1, k)), -1)
        steps = steps_of(groups, config)
        # Longest first: chunks of one length keep their batches full.
        order = steps.argsort(descending=True, stable=True)
        order = order[steps[order] > 0]
        total, done = int(steps.sum()), 0
        out = coarse.clone()

        def count(evaluated: int) -> None:
            nonlocal done
            done += evaluated
            if progress:
                progress(done, total)

        if max_patches < 1:
            raise PatchScalerError(f"max_patches {max_patches}: take 1 or more")
        while len(order):
            chunk = order[:max_patches]
            y_0 = coarse[chunk]
            before = done
            try:
                wrapped: Prompt | None = None
                if prompt and k:
                    wrapped, textures[chunk] = self.texture_prompt(y_0)
                clock.lap("prompt")
                out[chunk] = sample_groups(
                    self._denoiser(y_0, wrapped), y_0, noise[chunk], groups[chunk], config, self.diffusion, count
                )
                clock.lap("sampling")
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(chunk) == 1:
                    raise PatchScalerError(
                        "not enough memory even for one patch; free some, or use --device cpu"
                    ) from error
                max_patches, done = len(chunk) // 2, before
                continue
            order = order[max_patches:]
        return out, textures

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
    """Seconds by stage; laps of one name add up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.last
        self.last = now


def build_networks(config: ModelConfig) -> dict[str, torch.nn.Module]:
    """The five networks of a configuration, freshly initialised (the `paper` autoencoder is loaded)."""
    autoencoder = build_autoencoder(config.autoencoder)
    c, v = autoencoder.channels, config.groups.latent_patch_size
    return {
        "autoencoder": autoencoder,
        "grm": build_grm(config.grm, c),
        "classifier": TextureClassifier(config.texture, c),
        "texture_encoder": TextureEncoder(config.patch_dit, c, v),
        "patch_dit": PatchDiT(config.patch_dit, c, v),
    }


def _autoencoder(networks: dict[str, torch.nn.Module]) -> Autoencoder:
    return networks["autoencoder"]  # type: ignore[return-value]


def find_model(source: str | Path) -> Path:
    """Shipped name, folder, or hub id -> folder."""
    if (SHIPPED / str(source) / "config.json").is_file():
        return SHIPPED / str(source)
    path = Path(source)
    if path.is_dir():
        return path
    names = sorted(p.parent.name for p in SHIPPED.glob("*/config.json"))
    if str(source).count("/") != 1 or str(source).startswith((".", "/")):
        raise PatchScalerError(
            f"model '{source}': no such folder, and the shipped ones are {', '.join(names) or 'none'}"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise PatchScalerError(f"model '{source}' is on a hub: pip install 'patchscaler[hub]'") from error
    try:
        return Path(snapshot_download(str(source), allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # network and hub errors have no common base class
        raise PatchScalerError(
            f"model '{source}' cannot be fetched ({type(error).__name__}); download its folder and give that"
        ) from error
