"""Stage `diffusion`: Patch-DiT with its texture encoder by Eq. 8, everything before them frozen."""

import argparse
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from patchscaler.config import ModelConfig
from patchscaler.diffusion.samplers import sample
from patchscaler.diffusion.schedule import Diffusion, group_timesteps
from patchscaler.models.autoencoder import Autoencoder
from patchscaler.models.grm import GRM
from patchscaler.models.patch_dit import PatchDiT, Prompt, TextureEncoder
from patchscaler.models.text_projection import TextProjection
from patchscaler.models.texture import TextureClassifier
from patchscaler.models.weights import save_module
from patchscaler.texture_memory import TextureMemory
from patchscaler.training.data.coarse import CoarseShards
from patchscaler.training.data.shards import PairShards
from patchscaler.training.folder import ModelFolder
from patchscaler.training.loop import Batch, LoopConfig, train

# --- what is trained ------------------------------------------------------------------------------


class DenoiserTrainer(nn.Module, ABC):
    """Patch-DiT and what makes its prompt. forward(batch) is Eq. 8."""

    patch_dit: PatchDiT

    @abstractmethod
    def prompt(self, batch: Batch) -> Prompt | None:
        """The prompt of a batch; None where it was dropped for the whole batch."""

    @abstractmethod
    def save(self, folder: Path) -> None: ...

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """-> mean squared error of what is predicted; logs apart for low and high times."""
        output = self.patch_dit(batch["x_t"], batch["t"], batch["coarse"], self.prompt(batch))
        error = (output.float() - batch["target"]).square().mean((1, 2, 3))  # (N,)
        means, low = error.detach(), batch["t"] <= 400
        logs = {"loss": float(means.mean())}
        if low.any() and not low.all():
            logs |= {"low": float(means[low].mean()), "high": float(means[~low].mean())}
        return error.mean(), logs


class TextureTrainer(DenoiserTrainer):
    """With the texture prompt: the similarity-aware texture encoder (3.3)."""

    def __init__(self, patch_dit: PatchDiT, texture_encoder: TextureEncoder):
        super().__init__()
        self.patch_dit, self.texture_encoder = patch_dit, texture_encoder

    def prompt(self, batch: Batch) -> Prompt | None:
        if batch["values"] is None:
            return None
        return self.patch_dit.prepare(self.texture_encoder(batch["values"], batch["scores"]))

    def save(self, folder: Path) -> None:
        _save(folder, patch_dit=self.patch_dit, texture_encoder=self.texture_encoder)


class TextTrainer(DenoiserTrainer):
    """With the text prompt (4.4): a projection of a caption's tokens instead."""

    def __init__(self, patch_dit: PatchDiT, text_projection: TextProjection):
        super().__init__()
        self.patch_dit, self.text_projection = patch_dit, text_projection

    def prompt(self, batch: Batch) -> Prompt | None:
        if batch["text"] is None:
            return None
        return self.patch_dit.prepare(self.text_projection(batch["text"]))

    def save(self, folder: Path) -> None:
        _save(folder, patch_dit=self.patch_dit, text_projection=self.text_projection)


def _save(folder: Path, **networks: nn.Module) -> None:
    for name, network in networks.items():
        save_module(folder / f"{name}.safetensors", network, {"network": name})


# --- where its patches come from ------------------------------------------------------------------


@dataclass
class Patches:
    """coarse y_0 and x_0: (N, C, V, V) latents; (shard, tile) of each."""

    coarse: Tensor
    x_0: Tensor
    places: list[tuple[int, int]]


class PatchSource(ABC):
    """Shards -> patches. `per_image`: how many an image gives."""

    shards: PairShards
    per_image: int

    def __init__(self, config: ModelConfig, autoencoder: Autoencoder, device: str):
        self.size, self.device = config.groups.latent_patch_size, device
        self.autoencoder = autoencoder.to(device).eval().requires_grad_(False)

    @abstractmethod
    def draw(self, images: int, rng: np.random.Generator) -> Patches: ...


class Regions(PatchSource):
    """One random patch an image, its coarse image cached: cheap."""

    per_image = 1

    def __init__(
        self, shards: CoarseShards, config: ModelConfig, autoencoder: Autoencoder, device: str
    ):
        super().__init__(config, autoencoder, device)
        self.shards: CoarseShards = shards

    @torch.no_grad()
    def draw(self, images: int, rng: np.random.Generator) -> Patches:
        factor = self.autoencoder.factor
        regions = self.shards.draw(images, self.size, factor, rng)
        coarse, x_0 = (
            self.autoencoder.encode(x.to(self.device))  # (N, C, V, V)
            for x in self.shards.read(regions, self.size, factor)
        )
        return Patches(coarse, x_0, [(r.shard, r.tile) for r in regions])


class WholeImages(PatchSource):
    """Every disjoint patch of whole tiles, restored by the frozen GRM at hand (the paper, 4.1)."""

    def __init__(
        self,
        shards: PairShards,
        grm: GRM,
        config: ModelConfig,
        autoencoder: Autoencoder,
        device: str,
    ):
        super().__init__(config, autoencoder, device)
        self.shards, self.grm = shards, grm.to(device).eval().requires_grad_(False)
        self.per_image = (shards.hr[0].shape[1] // autoencoder.factor // self.size) ** 2

    @torch.no_grad()
    def draw(self, images: int, rng: np.random.Generator) -> Patches:
        lr, hr, places = self.shards.tiles(images, rng)
        coarse, _ = self.grm(lr.to(self.device), self.autoencoder)  # (B, C, H, W)
        x_0 = self.autoencoder.encode(hr.to(self.device))
        repeated = [place for place in places for _ in range(self.per_image)]
        return Patches(disjoint(coarse.float(), self.size), disjoint(x_0, self.size), repeated)


def disjoint(latents: Tensor, size: int) -> Tensor:
    """(B, C, H, W) -> (B M, C, V, V): patches without overlap, row by row; a rest is left out."""
    b, c = latents.shape[:2]
    columns = F.unfold(latents, size, stride=size)  # (B, C V V, M)
    return columns.view(b, c, size, size, -1).permute(0, 4, 1, 2, 3).reshape(-1, c, size, size)


# --- the stage ------------------------------------------------------------------------------------


class DiffusionStage:
    """Train by Eq. 8.

    Args:
        classifier, memory: Of the texture prompt; None with the text prompt.
        batch_size: Images a step; each gives `source.per_image` patches.
        from_coarse: Share of x_t built from y_0 instead of x_0, as inference starts (Eq. 7), with
            the target still x_0; 0 in the paper.
        low_times: Share of t drawn from 1..500 alone; 0 in the paper.
    """

    def __init__(
        self,
        denoiser: DenoiserTrainer,
        config: ModelConfig,
        source: PatchSource,
        validation: PatchSource,
        classifier: TextureClassifier | None = None,
        memory: TextureMemory | None = None,
        *,
        batch_size: int = 32,
        from_coarse: float = 0.0,
        low_times: float = 0.0,
    ):
        self.device = source.device
        self.config, self.source, self.validation = config, source, validation
        self.classifier = (
            classifier.to(self.device).eval().requires_grad_(False) if classifier else None
        )
        self.memory = memory.to(self.device) if memory else None
        self.diffusion = Diffusion(config.diffusion)
        self.trainables: dict[str, nn.Module] = {"denoiser": denoiser.to(self.device)}
        self.batch_size, self.from_coarse, self.low_times = batch_size, from_coarse, low_times

    def batch(self, rng: np.random.Generator, generator: Generator) -> Batch:
        drop = self.config.patch_dit.prompt_dropout
        return self.make_batch(self.source, self.batch_size, rng, generator, drop)

    @torch.no_grad()
    def make_batch(
        self,
        source: PatchSource,
        images: int,
        rng: np.random.Generator,
        generator: Generator,
        drop: float,
        time: int | None = None,
    ) -> Batch:
        """Diffuse patches to random times (Eq. 4), or all to `time`, and look up their prompts."""
        diffusion, patches = self.diffusion, source.draw(images, rng)
        coarse, x_0, n = patches.coarse, patches.x_0, len(patches.x_0)
        t = torch.randint(1, diffusion.num_train_timesteps + 1, (n,), generator=generator)
        low = torch.rand(n, generator=generator) < self.low_times
        t = torch.where(low, (t + 1) // 2, t).to(self.device)
        shortcut = torch.rand(n, generator=generator) < self.from_coarse
        if time is not None:
            t, shortcut = torch.full_like(t, time), torch.zeros_like(shortcut)
        noise = torch.randn(x_0.shape, generator=generator).to(x_0)
        start = torch.where(shortcut.to(x_0.device)[:, None, None, None], coarse, x_0)
        x_t = diffusion.q_sample(start, t, noise)
        target = diffusion.target(x_0, diffusion.noise_from(x_t, x_0, t), t, coarse)
        batch: Batch = {"x_0": x_0, "coarse": coarse, "t": t, "x_t": x_t, "target": target}
        dropped = rng.random() < drop
        if source.shards.text:
            text = None if dropped else source.shards.tokens(patches.places).to(self.device)
            return batch | {"text": text}
        if dropped:
            return batch | {"values": None, "scores": None}
        assert self.classifier is not None and self.memory is not None
        keys = self.classifier.keys(coarse)
        values, scores, _ = self.memory.lookup(keys, self.config.texture.top_k)
        return batch | {"values": values.float(), "scores": scores}

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Error of x_0 at some times relative to the coarse patch's, from x_t of the ground truth;
        1 is no gain.
        """
        assert isinstance(model, DenoiserTrainer)
        out: dict[str, float] = {}
        for t in (100, 250, 400, 700):
            for name, drop in (("", 0.0), ("_no_prompt", 1.0)):
                x_0, batch = self._predict(model, 128, seed=t, drop=drop, time=t)
                error = (x_0 - batch["x_0"]).square().mean()
                out[f"t{t}{name}"] = float(error / (batch["coarse"] - batch["x_0"]).square().mean())
        return out

    def _predict(
        self, model: DenoiserTrainer, patches: int, seed: int, drop: float, time: int
    ) -> tuple[Tensor, Batch]:
        rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        images = max(1, patches // self.validation.per_image)
        batch = self.make_batch(self.validation, images, rng, generator, drop, time)
        x_t, t, coarse = batch["x_t"], batch["t"], batch["coarse"]
        output = model.patch_dit(x_t, t, coarse, model.prompt(batch))
        return self.diffusion.to_x_0(output.float(), x_t, t, coarse), batch

    @torch.no_grad()
    def samples(self, model: nn.Module) -> list[list[Tensor]]:
        """Coarse, sampled from t = 400 in four steps, ground truth: one patch a row."""
        assert isinstance(model, DenoiserTrainer)
        _, batch = self._predict(model, 6, seed=0, drop=0.0, time=400)
        coarse, prompt = batch["coarse"], model.prompt(batch)

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            output = model.patch_dit(x_t, t, coarse, prompt).float()
            return self.diffusion.to_x_0(output, x_t, t, coarse)

        noise = torch.randn(coarse.shape, generator=torch.Generator().manual_seed(0)).to(coarse)
        start = self.diffusion.start_from_coarse(coarse, batch["t"], noise)
        x_0 = sample(denoise, start, group_timesteps(400, 4), self.diffusion)
        decode = self.validation.autoencoder.decode
        columns = [decode(z[:6]) for z in (coarse, x_0, batch["x_0"])]
        return [list(row) for row in zip(*columns, strict=True)]

    def save(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, DenoiserTrainer)
        model.save(folder)


def run(args: argparse.Namespace) -> None:
    model = ModelFolder.from_args(args)
    text = args.prompt == "text"
    kind = PairShards if args.whole_images else CoarseShards
    shards, validation = kind(args.shards, text), kind(args.validation, text)
    model.choose_prompt(args.prompt, shards.text[0].shape[-1] if text else 0)
    autoencoder = model.autoencoder().to(model.device)

    def source(pairs: PairShards) -> PatchSource:
        if isinstance(pairs, CoarseShards):
            return Regions(pairs, model.config, autoencoder, model.device)
        return WholeImages(pairs, model.grm(), model.config, autoencoder, model.device)

    trainer: DenoiserTrainer
    if text:
        trainer = TextTrainer(model.patch_dit(needed=False), model.text_projection(needed=False))
    else:
        trainer = TextureTrainer(model.patch_dit(needed=False), model.texture_encoder(needed=False))
    share = args.from_coarse
    if share is None:  # near t = 0 the noise that leads from y_0 to x_0 grows without bound
        share = 0.3 if model.config.diffusion.prediction_type in ("residual", "sample") else 0.0
    stage = DiffusionStage(
        trainer,
        model.config,
        source(shards),
        source(validation),
        None if text else model.classifier(),
        None if text else model.memory(autoencoder),
        batch_size=args.batch_size,
        from_coarse=share,
        low_times=args.low_times,
    )
    print(train(stage, LoopConfig.from_args(args, model.folder, "diffusion"), model.folder))
