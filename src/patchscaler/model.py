"""The networks of PatchScaler, a texture memory, and the numbers that tie them together.

Nothing here knows of images, files or jobs: tensors come in and go out. `pipeline.py` strings the
calls together.

Letters: C channels, H, W latents, V a patch's side in latents, N patches, K textures of a prompt.
"""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from patchscaler import model_folder
from patchscaler.config import GroupConfig, ModelConfig
from patchscaler.devices import choose_device, choose_dtype
from patchscaler.diffusion.group_sampling import sample_groups
from patchscaler.diffusion.schedule import Diffusion
from patchscaler.models.autoencoder import Autoencoder
from patchscaler.models.denoiser import RRDBDenoiser
from patchscaler.models.grm import GRM
from patchscaler.models.patch_dit import PatchDiT, Prompt, TextureEncoder
from patchscaler.models.texture import TextureClassifier
from patchscaler.models.weights import file_hash, load_module
from patchscaler.texture_memory import TextureMemory


class Model:
    """Hold the networks on one device, in one precision.

    Args:
        config: What `networks` were built from.
        networks: By the names of their weight files.
        memory: Texture memory, or None for a model without a texture prompt.
        device: A torch device.
        dtype: Of the large networks, by autocast.
    """

    def __init__(
        self,
        config: ModelConfig,
        networks: dict[str, nn.Module],
        memory: TextureMemory | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        self.config = config
        self.device, self.dtype = torch.device(device), dtype
        self.engine = "torch"
        self.run_denoiser: Callable[..., Tensor] | None = networks.get("denoiser")  # or an engine
        for network in networks.values():
            network.to(self.device).eval().requires_grad_(False)
        for name in ("grm", "denoiser"):
            if name in networks:
                networks[name].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.networks = networks
        self.memory = memory.to(self.device) if memory else None
        self.diffusion = Diffusion(config.diffusion)
        self.files: dict[str, Path] = {}  # where networks and memory were loaded from

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
    ) -> "Model":
        """Load a model: see `PatchScaler.from_pretrained`."""
        folder = model_folder.find_model(source, offline)
        config = model_folder.read_config(folder, autoencoder)
        where = choose_device(device)
        copy = folder / model_folder.AUTOENCODER
        local = copy if autoencoder is None and model_folder.autoencoder_files(folder) else None
        networks = model_folder.build_networks(config, local, offline)
        files = {n: folder / f"{n}.safetensors" for n in networks}
        if config.autoencoder.kind != "pca":  # the others have no file of ours
            del files["autoencoder"]
        for name, file in files.items():
            load_module(file, networks[name])
        networks["autoencoder"].to(where)  # it encodes the memory
        textures = None
        if memory or config.texture.memory_size:
            files["memory"] = Path(memory) if memory else folder / "memory.safetensors"
            key_model = file_hash(folder / "classifier.safetensors")
            encoder: Any = networks["autoencoder"]
            textures = TextureMemory.load(files["memory"], encoder, key_model)
        model = cls(config, networks, textures, where, choose_dtype(dtype, where))
        model.files = files
        return model

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        half: bool = True,
        license: str = "unknown",
        copy_autoencoder: bool = True,
    ) -> None:
        """Write a model folder: see `PatchScaler.save_pretrained`."""
        model_folder.write_model(
            Path(folder), self.config, self.networks, self.memory, half, license, copy_autoencoder
        )

    # --- what the networks do -----------------------------------------------------------------

    def restore(self, lr: Tensor) -> tuple[Tensor, Tensor]:
        """Restore coarsely (Eq. 1). (1, 3, h, w) in [-1, 1] -> latents (C, H, W), confidence (1, H,
        W).
        """
        with self.autocast():
            coarse, confidence = self.grm(lr.to(self.device), self.autoencoder)
        return coarse[0].float(), confidence[0].float()

    def texture_prompt(self, y_0: Tensor) -> tuple[Prompt, Tensor]:
        """Wrap the nearest textures (3.3). (N, C, V, V) -> prompt, memory entries (N, K)."""
        assert self.memory is not None
        query = self.classifier.keys(y_0)  # (N, D)
        values, scores, entries = self.memory.lookup(query, self.top_k)  # (N, K, C, V, V), (N, K)
        with self.autocast():
            context = self.texture_encoder(values, scores)  # (N, M, D)
            return self.patch_dit.prepare(context), entries.cpu()

    def denoise_patches(
        self,
        y_0: Tensor,
        noise: Tensor,
        groups: Tensor,
        config: GroupConfig,
        prompt: bool = True,
        on_step: Callable[[int], None] = lambda evaluated: None,
    ) -> tuple[Tensor, Tensor]:
        """Sample patches with Patch-DiT, each group from its own start (Eq. 7).

        Args:
            y_0: (N, C, V, V) coarse patches.
            noise: (N, C, V, V).
            groups: (N,) of 0, 1, 2.
            config: Start timesteps and numbers of steps.
            prompt: Give the texture prompt.
            on_step: Called with the number of patches of each step.

        Returns:
            x_0 (N, C, V, V) and the memory entries of each prompt (N, K), -1 where there is none.
        """
        y_0 = y_0.to(self.device)
        k = self.top_k if prompt else 0
        textures, entries = None, torch.full((len(y_0), max(1, k)), -1)
        if k:
            textures, entries = self.texture_prompt(y_0)
        denoise = self._patch_denoiser(y_0, textures)
        noise = noise.to(self.device)
        x_0 = sample_groups(denoise, y_0, noise, groups, config, self.diffusion, on_step)
        return x_0, entries

    def _patch_denoiser(
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

    def denoise_region(
        self, y_0: Tensor, noise: Tensor, lr: Tensor, timesteps: list[int], early: bool
    ) -> Tensor:
        """Denoise a region of any size with the RRDB denoiser, from y_tau of Eq. 7.

        Args:
            y_0: (C, H, W) coarse latents.
            noise: (C, H, W).
            lr: (3, s H, s W) in [-1, 1], s LR pixels a latent.
            timesteps: [tau, ..., 0]; one evaluation at each but the last, one at tau = 0 for [0].
            early: Leave the network at its early exit.

        Returns:
            x_0 (C, H, W).
        """
        assert self.run_denoiser is not None
        y_0, noise, lr = (x[None].to(self.device) for x in (y_0, noise, lr))
        lr = lr.contiguous(memory_format=torch.channels_last)
        x_0 = y_0
        for tau in timesteps[:-1] or [0]:
            t = torch.full((1,), tau, device=self.device)
            y_tau = self.diffusion.q_sample(x_0, t, noise)  # (1, C, H, W)
            image = self.autoencoder.decode(y_tau).contiguous(memory_format=torch.channels_last)
            with self.autocast():
                image = self.run_denoiser(image, t, lr, early=early)
            x_0 = self.autoencoder.encode(image.float())
        return x_0[0]

    def decode(self, latents: Tensor) -> Tensor:
        """(C, H, W) -> (3, fH, fW), about [-1, 1]."""
        return self.autoencoder.decode(latents[None].to(self.device))[0]

    # --- numbers ------------------------------------------------------------------------------

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    @property
    def compute_signature(self) -> str:
        """Device, precision and engine: the last bits of an image depend on them."""
        return f"{self.device.type} {str(self.dtype).removeprefix('torch.')} {self.engine}"

    @property
    def scale(self) -> int:
        return self.config.scale

    @property
    def factor(self) -> int:
        """HR pixels of a latent's side."""
        return self.autoencoder.factor

    @property
    def step(self) -> int:
        """LR pixels of a latent's side."""
        return max(1, self.autoencoder.factor // self.config.scale)

    @property
    def top_k(self) -> int:
        """Textures of a prompt; 0 where the model has no texture memory."""
        return min(self.config.texture.top_k, len(self.memory)) if self.memory else 0

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """LR (height, width) with at least one patch, and whole latents."""
        least, step = self.config.groups.latent_patch_size * self.step, self.step
        return max(least, -(-height // step) * step), max(least, -(-width // step) * step)

    def weights_hash(self) -> str:
        """SHA-256 over the files of networks and memory, or over the numbers of what has
        no file.
        """
        digest = hashlib.sha256()
        for name, network in sorted(self.networks.items()):
            digest.update(name.encode())
            if name in self.files:
                digest.update(file_hash(self.files[name]).encode())
                continue
            for tensor in network.state_dict().values():
                digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
        if self.memory is not None:
            known = self.files.get("memory")
            digest.update(file_hash(known).encode() if known else self.memory.digest().encode())
        return digest.hexdigest()

    @property
    def autoencoder(self) -> Autoencoder:
        return self.networks["autoencoder"]  # type: ignore[return-value]

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
    def denoiser(self) -> RRDBDenoiser | None:
        """The RRDB denoiser of `compact`; None where Patch-DiT denoises."""
        return self.networks.get("denoiser")  # type: ignore[return-value]
