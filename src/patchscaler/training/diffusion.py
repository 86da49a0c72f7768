"""Stage 3: Patch-DiT with its texture encoder by Eq. 8, everything before them frozen."""

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn

from patchscaler.config import ModelConfig
from patchscaler.diffusion.samplers import sample
from patchscaler.diffusion.schedule import Diffusion, group_timesteps
from patchscaler.models.autoencoder import Autoencoder
from patchscaler.models.patch_dit import PatchDiT, Prompt, TextureEncoder
from patchscaler.models.text_projection import TextProjection
from patchscaler.models.texture import TextureClassifier
from patchscaler.models.weights import save_module
from patchscaler.texture_memory import TextureMemory
from patchscaler.training.data.coarse import CoarseShards
from patchscaler.training.loop import Batch


class Denoiser(nn.Module, ABC):
    """What is trained together: Patch-DiT and the similarity-aware texture encoder."""

    def __init__(self, patch_dit: PatchDiT, texture_encoder: TextureEncoder):
        super().__init__()
        self.patch_dit, self.texture_encoder = patch_dit, texture_encoder

    def prompt(self, batch: Batch) -> Prompt | None:
        """The texture prompt of a batch; dropped for the whole batch where it was drawn so."""
        if batch["values"] is None:
            return None
        return self.patch_dit.prepare(self.texture_encoder(batch["values"], batch["scores"]))

    @abstractmethod
    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]: ...


class DiffusionTrainer(Denoiser):
    """Eq. 8 as a forward: the squared error of what the network predicts."""

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        return eq_8(self.patch_dit, batch, self.prompt(batch))

    def save(self, folder: Path) -> None:
        save_denoiser(self, folder)


class TextTrainer(nn.Module):
    """The same with the text prompt of 4.4: a projection of a caption's tokens in the texture
    encoder's place.
    """

    def __init__(self, patch_dit: PatchDiT, text_projection: TextProjection):
        super().__init__()
        self.patch_dit, self.text_projection = patch_dit, text_projection

    def prompt(self, batch: Batch) -> Prompt | None:
        return (
            None
            if batch["text"] is None
            else self.patch_dit.prepare(self.text_projection(batch["text"]))
        )

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        return eq_8(self.patch_dit, batch, self.prompt(batch))

    def save(self, folder: Path) -> None:
        """patch_dit.safetensors and text_projection.safetensors."""
        save_module(folder / "patch_dit.safetensors", self.patch_dit, {"network": "patch_dit"})
        save_module(
            folder / "text_projection.safetensors",
            self.text_projection,
            {"network": "text_projection"},
        )


def eq_8(
    patch_dit: PatchDiT, batch: Batch, prompt: Prompt | None
) -> tuple[Tensor, dict[str, float]]:
    """-> mean squared error of what is predicted; logs apart for low and high times."""
    output = patch_dit(batch["x_t"], batch["t"], batch["coarse"], prompt).float()
    error = (output - batch["target"]).square().mean((1, 2, 3))  # (N,)
    low = batch["t"] <= 400
    logs = {"loss": float(error.detach().mean())}
    if low.any() and not low.all():
        logs |= {
            "low": float(error.detach()[low].mean()),
            "high": float(error.detach()[~low].mean()),
        }
    return error.mean(), logs


class FrozenParts:
    """Autoencoder, classifier, memory: regions of pictures -> latents, and latents -> retrieved
    textures.

    The text prompt needs neither classifier nor memory.
    """

    def __init__(
        self,
        config: ModelConfig,
        autoencoder: Autoencoder,
        classifier: TextureClassifier | None,
        memory: TextureMemory | None,
        device: str,
    ):
        self.config, self.device = config, device
        self.autoencoder = autoencoder.to(device).eval().requires_grad_(False)
        self.classifier = classifier.to(device).eval().requires_grad_(False) if classifier else None
        self.memory = memory.to(device) if memory else None

    @torch.no_grad()
    def textures(
        self, coarse: Tensor, rng: np.random.Generator, drop: float
    ) -> tuple[Tensor | None, Tensor | None]:
        """Top-K values and scores of patches (N, C, V, V), or None, None with
        probability `drop`.
        """
        if rng.random() < drop:
            return None, None
        assert self.memory is not None and self.classifier is not None
        values, scores, _ = self.memory.lookup(
            self.classifier.keys(coarse), self.config.texture.top_k
        )
        return values.float(), scores


class DiffusionStage:
    """Trains by Eq. 8 on patches of cached coarse pictures.

    from_coarse: share of x_t built from y_0 instead of x_0, as inference starts (Eq. 7), with the
    target still x_0; 0 in the `paper` recipe. low_times: share of t drawn from 1..500 alone.
    """

    def __init__(
        self,
        denoiser: DiffusionTrainer | TextTrainer,
        frozen: FrozenParts,
        shards: CoarseShards,
        validation: CoarseShards,
        *,
        batch_size: int = 32,
        from_coarse: float = 0.3,
        low_times: float = 0.6,
    ):
        self.frozen, self.shards, self.validation = frozen, shards, validation
        self.diffusion = Diffusion(frozen.config.diffusion)
        self.trainables: dict[str, nn.Module] = {"denoiser": denoiser.to(frozen.device)}
        self.batch_size, self.from_coarse, self.low_times = batch_size, from_coarse, low_times

    def batch(self, rng: np.random.Generator, generator: Generator) -> Batch:
        return self.make_batch(
            self.shards,
            self.batch_size,
            rng,
            generator,
            self.frozen.config.patch_dit.prompt_dropout,
        )

    @torch.no_grad()
    def make_batch(
        self,
        shards: CoarseShards,
        n: int,
        rng: np.random.Generator,
        generator: Generator,
        drop: float,
        time: int | None = None,
    ) -> Batch:
        frozen, diffusion = self.frozen, self.diffusion
        v, f = frozen.config.groups.latent_patch_size, frozen.autoencoder.factor
        regions = shards.draw(n, v, f, rng)
        coarse_pixels, hr = shards.read(regions, v, f)
        coarse = frozen.autoencoder.encode(coarse_pixels.to(frozen.device))  # (N, C, V, V)
        x_0 = frozen.autoencoder.encode(hr.to(frozen.device))
        t = torch.randint(1, diffusion.num_train_timesteps + 1, (n,), generator=generator)
        low = torch.rand(n, generator=generator) < self.low_times
        t = torch.where(low, (t + 1) // 2, t).to(frozen.device)
        shortcut = torch.rand(n, generator=generator) < self.from_coarse
        if time is not None:
            t, shortcut = torch.full_like(t, time), torch.zeros_like(shortcut)
        noise = torch.randn(x_0.shape, generator=generator).to(x_0)
        source = torch.where(shortcut.to(x_0.device)[:, None, None, None], coarse, x_0)
        x_t = diffusion.q_sample(source, t, noise)
        target = diffusion.target(x_0, diffusion.noise_from(x_t, x_0, t), t, coarse)
        batch: Batch = {"x_0": x_0, "coarse": coarse, "t": t, "x_t": x_t, "target": target}
        if shards.text:
            return batch | {
                "text": None if rng.random() < drop else shards.tokens(regions).to(frozen.device)
            }
        values, scores = frozen.textures(coarse, rng, drop)
        return batch | {"values": values, "scores": scores}

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Error of x_0 at some times relative to the coarse patch's, from x_t of the truth; 1 is
        'no gain'.
        """
        assert isinstance(model, DiffusionTrainer | TextTrainer)
        out: dict[str, float] = {}
        for t in (100, 250, 400, 700):
            for name, drop in (("", 0.0), ("_no_prompt", 1.0)):
                generator = torch.Generator().manual_seed(t)
                batch = self.make_batch(
                    self.validation, 128, np.random.default_rng(t), generator, drop, time=t
                )
                output = model.patch_dit(
                    batch["x_t"], batch["t"], batch["coarse"], model.prompt(batch)
                )
                x_0 = self.diffusion.to_x_0(
                    output.float(), batch["x_t"], batch["t"], batch["coarse"]
                )
                error = (x_0 - batch["x_0"]).square().mean()
                out[f"t{t}{name}"] = float(error / (batch["coarse"] - batch["x_0"]).square().mean())
        return out

    @torch.no_grad()
    def pictures(self, model: nn.Module) -> list[list[Tensor]]:
        """Coarse, sampled from t = 400 in four steps, truth: one patch a row."""
        assert isinstance(model, DiffusionTrainer | TextTrainer)
        rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
        batch = self.make_batch(self.validation, 6, rng, generator, 0.0, time=400)
        coarse, prompt = batch["coarse"], model.prompt(batch)

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            return self.diffusion.to_x_0(
                model.patch_dit(x_t, t, coarse, prompt).float(), x_t, t, coarse
            )

        noise = torch.randn(coarse.shape, generator=generator).to(coarse)
        start = self.diffusion.start_from_coarse(coarse, batch["t"], noise)
        x_0 = sample(denoise, start, group_timesteps(400, 4), self.diffusion)
        columns = [self.frozen.autoencoder.decode(z) for z in (coarse, x_0, batch["x_0"])]
        return [list(row) for row in zip(*columns, strict=True)]

    def save(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, DiffusionTrainer | TextTrainer)
        model.save(folder)


def save_denoiser(model: nn.Module, folder: Path) -> None:
    """patch_dit.safetensors and texture_encoder.safetensors."""
    assert isinstance(model, Denoiser)
    save_module(folder / "patch_dit.safetensors", model.patch_dit, {"network": "patch_dit"})
    save_module(
        folder / "texture_encoder.safetensors",
        model.texture_encoder,
        {"network": "texture_encoder"},
    )
