"""Stage 4: Patch-DiT in one or two steps from y_tau of the coarse patch, judged on fused, decoded
pictures.

What inference does is what is trained: patches of a region start by Eq. 7, take the steps of one
group, are fused and decoded, and the picture meets L1, perceptual distances and a discriminator.
The gradient goes through the last step; the steps before it are the network's own. A teacher's
pictures, where the shards have them, may stand in for the truth: a function of the LR picture can
be learned without averaging.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn

from patchscaler.diffusion.samplers import ddim_step
from patchscaler.diffusion.schedule import Diffusion, group_timesteps
from patchscaler.errors import PatchScalerError
from patchscaler.models.autoencoder import PCAAutoencoder
from patchscaler.models.patch_dit import PatchDiT, TextureEncoder
from patchscaler.models.refiner import Refiner
from patchscaler.models.weights import save_module
from patchscaler.patching import make_grid, merge, partition
from patchscaler.training.data.coarse import CoarseShards
from patchscaler.training.diffusion import Denoiser, FrozenParts, save_denoiser
from patchscaler.training.loop import Batch, mean_psnr
from patchscaler.training.picture_loss import PictureLoss, target


class FewStepTrainer(Denoiser):
    """Generator: last step -> fused -> decoded -> losses.

    The autoencoder's correction is trained along.
    """

    def __init__(
        self,
        patch_dit: PatchDiT,
        texture_encoder: TextureEncoder,
        refiner: Refiner | None,
        autoencoder: PCAAutoencoder,
        diffusion: Diffusion,
        loss: PictureLoss,
    ):
        super().__init__(patch_dit, texture_encoder)
        self.refiner, self.correction = refiner, autoencoder.correction
        self.diffusion, self.loss = diffusion, loss
        self._frozen = (autoencoder,)  # a tuple: no part of the state

    def restore(self, batch: Batch) -> Tensor:
        """The step that carries the gradient, patches fused, drawn -> latents (B, C, G, G)."""
        output = self.patch_dit(
            batch["x_t"], batch["t"], batch["coarse"], self.prompt(batch)
        ).float()
        # (B M, C, V, V)
        x_0 = self.diffusion.to_x_0(output, batch["x_t"], batch["t"], batch["coarse"])
        fused = torch.stack([merge(p, batch["grid"]) for p in x_0.split(len(batch["grid"]))])
        if self.refiner is None:
            return fused
        autoencoder, coarse = self._frozen[0], batch["coarse_pixels"]
        pixels = torch.cat([autoencoder.decode(fused), coarse], 1).contiguous(
            memory_format=torch.channels_last
        )
        refined = self.refiner(pixels, batch["small"]).float()  # (B, 3, S, S)
        return fused + autoencoder.encode(refined) - autoencoder.encode(coarse)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        latents = self.restore(batch)  # (B, C, G, G)
        loss, logs = self.loss(self._frozen[0].decode(latents).float(), batch)  # of (B, 3, S, S)
        # Latents weigh every component alike: fine ones count as much as the mean.
        l1_latents = (latents - batch["hr_latents"]).abs().mean()
        return loss + 0.05 * self.loss.weights["l1"] * l1_latents, logs


class FewStepStage:
    """Regions of `side` latents, cut and fused as the pipeline does."""

    def __init__(
        self,
        frozen: FrozenParts,
        patch_dit: PatchDiT,
        texture_encoder: TextureEncoder,
        refiner: Refiner | None,
        shards: CoarseShards,
        validation: CoarseShards,
        *,
        batch_size: int = 4,
        side: int = 24,
        weights: dict[str, float] | None = None,
    ):
        autoencoder = frozen.autoencoder
        if not isinstance(autoencoder, PCAAutoencoder):
            raise PatchScalerError(
                "the few-step stage trains through the closed-form decoder, so not this model"
            )
        if autoencoder.correction is not None:
            autoencoder.correction.requires_grad_(True)
        device = frozen.device
        self.frozen, self.shards, self.validation = frozen, shards, validation
        self.autoencoder = autoencoder
        self.diffusion = Diffusion(frozen.config.diffusion)
        self.loss = PictureLoss(weights or {}, device)
        trainer = FewStepTrainer(
            patch_dit, texture_encoder, refiner, autoencoder, self.diffusion, self.loss
        )
        self.generator = trainer.to(device)
        self.trainables: dict[str, nn.Module] = {
            "generator": self.generator
        } | self.loss.discriminators()
        groups = frozen.config.groups
        self.grid = make_grid(side, side, groups.latent_patch_size, groups.overlap)
        self.batch_size, self.side = batch_size, side
        self.settings = sorted(
            {
                (t, n)
                for t, n in zip(groups.start_times, groups.num_inference_steps, strict=True)
                if n
            }
        )

    @torch.no_grad()
    def batch(self, rng: np.random.Generator, generator: Generator) -> Batch:
        start, steps = self.settings[int(rng.integers(len(self.settings)))]
        last = int(rng.integers(steps))  # which of the steps carries the gradient
        drop = self.frozen.config.patch_dit.prompt_dropout
        factor = self.autoencoder.factor
        regions = self.shards.draw(self.batch_size, self.side, factor, rng)
        share = self.loss.weights["teacher"]
        batch = target(self.shards, regions, self.side, factor, share, rng, self.frozen.device)
        pixels, hr, small = batch["coarse_pixels"], batch["hr"], batch["small"]
        return batch | self.make_batch(pixels, hr, small, start, steps, last, rng, generator, drop)

    @torch.no_grad()
    def make_batch(
        self,
        pixels: Tensor,
        hr: Tensor,
        small: Tensor,
        start: int,
        steps: int,
        last: int,
        rng: np.random.Generator,
        generator: Generator,
        drop: float,
    ) -> Batch:
        """Everything up to the input of step `last` (0 is the first) of `steps` from `start`."""
        device = self.frozen.device
        hr, pixels = hr.to(device), pixels.to(device)
        y_0 = self.autoencoder.encode(pixels)  # (B, C, G, G)
        noise = torch.randn(y_0.shape, generator=generator).to(device)  # one field a picture
        coarse = torch.cat([partition(y, self.grid) for y in y_0])  # (B M, C, V, V)
        noise = torch.cat([partition(n, self.grid) for n in noise])
        values, scores = self.frozen.textures(coarse, rng, drop)
        batch: Batch = {
            "coarse": coarse,
            "values": values,
            "scores": scores,
            "hr": hr,
            "coarse_pixels": pixels,
            "small": small.to(device),
            "grid": self.grid,
            "hr_latents": self.autoencoder.encode(hr),
        }
        times = group_timesteps(start, steps)
        t = torch.full((len(coarse),), start, device=device)
        x_t = self.diffusion.start_from_coarse(coarse, t, noise)
        prompt = self.generator.prompt(batch) if last else None
        for i in range(last):
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                output = self.generator.patch_dit(x_t, t, coarse, prompt)
            x_0 = self.diffusion.to_x_0(output.float(), x_t, t, coarse)
            t_next = torch.full_like(t, times[i + 1])
            x_t, t = ddim_step(self.diffusion, x_t, x_0, t, t_next), t_next
        return batch | {"x_t": x_t, "t": t}

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """PSNR and LPIPS of fused pictures for each setting, with and without the prompt, and of
        the coarse ones.
        """
        assert isinstance(model, FewStepTrainer)
        out: dict[str, list[float]] = {}
        for start, steps in self.settings:
            for name, drop in (("", 0.0), ("_no_prompt", 1.0)):
                rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
                for _ in range(8):
                    pixels, hr, small = self.validation.regions(
                        8, self.side, self.autoencoder.factor, rng
                    )
                    batch = self.make_batch(
                        pixels, hr, small, start, steps, steps - 1, rng, generator, drop
                    )
                    image = self.autoencoder.decode(model.restore(batch))
                    pictures = {f"{start}_{steps}{name}": image}
                    if not drop:
                        pictures["coarse"] = batch["coarse_pixels"]
                    for key, picture in pictures.items():
                        out.setdefault(f"psnr_{key}", []).append(mean_psnr(picture, batch["hr"]))
                        if self.loss.lpips:
                            distance = self.loss.lpips(picture, batch["hr"]).mean()
                            out.setdefault(f"lpips_{key}", []).append(float(distance))
                        if self.loss.vgg:
                            out.setdefault(f"vgg_{key}", []).append(
                                float(self.loss.vgg(picture, batch["hr"]).mean())
                            )
        return {k: float(np.mean(v)) for k, v in out.items()}

    @torch.no_grad()
    def pictures(self, model: nn.Module) -> list[list[Tensor]]:
        """Coarse, restored in the fewest and in the most steps, truth."""
        assert isinstance(model, FewStepTrainer)
        factor = self.autoencoder.factor
        pixels, hr, small = self.validation.regions(6, self.side, factor, np.random.default_rng(0))
        columns = [pixels]
        for start, steps in (self.settings[0], self.settings[-1]):
            rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
            batch = self.make_batch(pixels, hr, small, start, steps, steps - 1, rng, generator, 0.0)
            columns.append(self.autoencoder.decode(model.restore(batch)))
        return [list(row) for row in zip(*columns, hr, strict=True)]

    def save(self, model: nn.Module, folder: Path) -> None:
        save_denoiser(model, folder)
        if isinstance(model.refiner, Refiner):
            save_module(folder / "refiner.safetensors", model.refiner, {"network": "refiner"})
        save_module(
            folder / "autoencoder.safetensors",
            self.autoencoder,
            {"network": "autoencoder"},
            half=False,
        )
