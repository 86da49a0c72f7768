"""Patch-DiT and the similarity-aware texture encoder (A.2, A.3).

A DiT on one patch of latents, with three changes of the paper: the coarse patch y_0 is concatenated
to the noisy latents, every block has a cross-attention to the texture prompt, and there is neither
class label nor learned covariance. Patches are independent: the network does not know where in the
picture it is.
Letters: N patches, V their side in latents, L tokens of a patch, M tokens of its prompt, D
hidden_size.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchscaler.config import PatchDiTConfig
from patchscaler.models.layers import (
    MLP,
    CrossAttention,
    SelfAttention,
    TimeEmbedder,
    modulate,
    sincos_positions,
    timestep_embedding,
    tokenise,
    untokenise,
)

# shift, scale, gate of attention; scale of cross-attention; shift, scale, gate of the MLP
CHUNKS = 7


@dataclass
class Prompt:
    """What cross-attention needs of the texture prompt: keys and values of each block, once per
    patch.
    """

    keys_values: list[tuple[Tensor, Tensor]]

    def select(self, index: Tensor) -> "Prompt":
        """The rows of these patches."""
        return Prompt([(k[index], v[index]) for k, v in self.keys_values])


class DiTBlock(nn.Module):
    """Self-attention, cross-attention to the prompt, MLP; adaLN-Zero (arXiv 2212.09748)."""

    def __init__(self, config: PatchDiTConfig):
        super().__init__()
        d = config.hidden_size
        self.norm1 = nn.LayerNorm(d, elementwise_affine=False, eps=1e-6)
        self.attention = SelfAttention(d, config.num_heads)
        self.norm2 = nn.LayerNorm(d, elementwise_affine=False, eps=1e-6)
        self.cross = CrossAttention(d, config.num_heads, config.cross_size or d)
        self.norm3 = nn.LayerNorm(d, elementwise_affine=False, eps=1e-6)
        self.mlp = MLP(d, config.mlp_ratio, config.depthwise_mlp)
        # Either a modulation of its own from the time (DiT), or a table added to the shared one.
        shared = config.shared_modulation
        self.modulation = None if shared else nn.Linear(d, CHUNKS * d)
        self.table = nn.Parameter(torch.zeros(CHUNKS * d)) if shared else None

    def forward(self, x: Tensor, c: Tensor, keys_values: tuple[Tensor, Tensor] | None) -> Tensor:
        """x: (N, L, D); c: (N, D) of the time, or (N, 7D) where modulation is shared."""
        m = c if self.modulation is None else self.modulation(F.silu(c))  # (N, 7D)
        m = m if self.table is None else m + self.table
        # each (N, D)
        shift1, scale1, gate1, cross_scale, shift2, scale2, gate2 = m.chunk(CHUNKS, -1)
        # (N, L, D)
        x = x + gate1[:, None] * self.attention(modulate(self.norm1(x), shift1, scale1))
        if keys_values is not None:  # A.3: dimension-wise scale from the time
            x = x + (1 + cross_scale)[:, None] * self.cross(self.norm2(x), keys_values)  # (N, L, D)
        return x + gate2[:, None] * self.mlp(modulate(self.norm3(x), shift2, scale2))  # (N, L, D)


class PatchDiT(nn.Module):
    """f(x_t, t, y_0, prompt) -> what `DiffusionConfig.prediction_type` says, (N, C, V, V)."""

    positions: Tensor

    def __init__(self, config: PatchDiTConfig, channels: int, latent_patch_size: int):
        super().__init__()
        d, p = config.hidden_size, config.patch_size
        self.config = config
        self.embed = nn.Linear(2 * channels * p * p, d)
        self.time = TimeEmbedder(d)
        self.shared = nn.Linear(d, CHUNKS * d) if config.shared_modulation else None
        self.blocks = nn.ModuleList([DiTBlock(config) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(d, elementwise_affine=False, eps=1e-6)
        self.final_modulation = nn.Linear(d, 2 * d)
        self.out = nn.Linear(d, channels * p * p)
        positions = sincos_positions(latent_patch_size // p, d)
        self.register_buffer("positions", positions, persistent=False)  # (L, D)
        self._initialise()

    def macs(self) -> float:
        """Multiply-adds of an evaluation of a patch, about: the linear layers, once a token."""
        tokens = self.positions.shape[0]
        linear = sum(m.weight.numel() for m in self.modules() if isinstance(m, nn.Linear))
        attention = 2 * self.config.depth * tokens * self.config.hidden_size
        return float(tokens * (linear + attention))

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.time.fc1.weight, std=0.02)
        nn.init.normal_(self.time.fc2.weight, std=0.02)
        # adaLN-Zero: every branch starts closed, the network as a function of y_0 and x_t starts at
        # zero.
        zero: list[nn.Linear | None] = [self.shared, self.final_modulation, self.out]
        for block in self._blocks():
            zero += [block.modulation, block.cross.proj]
            if block.mlp.depthwise is not None:
                nn.init.zeros_(block.mlp.depthwise.weight)
                nn.init.zeros_(block.mlp.depthwise.bias)  # type: ignore[arg-type]
        for linear in zero:
            if linear is not None:
                nn.init.zeros_(linear.weight)
                nn.init.zeros_(linear.bias)

    def _blocks(self) -> list[DiTBlock]:
        return [block for block in self.blocks if isinstance(block, DiTBlock)]

    def prepare(self, context: Tensor) -> Prompt:
        """Keys and values of every block. context: (N, M, D) of the texture encoder."""
        return Prompt([block.cross.keys_values(context) for block in self._blocks()])

    def forward(self, x_t: Tensor, t: Tensor, coarse: Tensor, prompt: Prompt | None) -> Tensor:
        """x_t, coarse: (N, C, V, V); t: (N,) integers in 1..T; prompt: of `prepare`, or None."""
        x = self.embed(tokenise(torch.cat([x_t, coarse], 1), self.config.patch_size))  # (N, L, D)
        x = x + self.positions.to(x.dtype)  # (N, L, D)
        c = self.time(t)  # (N, D)
        m = self.shared(F.silu(c)) if self.shared is not None else c  # (N, 7D) or (N, D)
        for i, block in enumerate(self.blocks):
            x = block(x, m, prompt.keys_values[i] if prompt is not None else None)  # (N, L, D)
        shift, scale = self.final_modulation(F.silu(c)).chunk(2, -1)  # each (N, D)
        x = self.out(modulate(self.norm(x), shift, scale))  # (N, L, C p p)
        return untokenise(x, self.config.patch_size)  # (N, C, V, V)


class EncoderBlock(nn.Module):
    """A DiT block without time and prompt."""

    def __init__(self, config: PatchDiTConfig):
        super().__init__()
        d = config.hidden_size
        self.norm1, self.norm2 = nn.LayerNorm(d, eps=1e-6), nn.LayerNorm(d, eps=1e-6)
        self.attention = SelfAttention(d, config.num_heads)
        self.mlp = MLP(d, config.mlp_ratio, depthwise=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))  # (N, M, D)
        return x + self.mlp(self.norm2(x))  # (N, M, D)


class TextureEncoder(nn.Module):
    """Top-K values and their scores -> the texture prompt: shaped like the first half of Patch-DiT,
    no time.

    Each retrieved patch gives its own tokens, marked with an embedding of its score, so that K may
    differ between training and use. Run once per patch, not once per step.
    """

    positions: Tensor

    def __init__(self, config: PatchDiTConfig, channels: int, latent_patch_size: int):
        super().__init__()
        d, p = config.hidden_size, config.context_patch_size
        self.config = config
        self.embed = nn.Linear(channels * p * p, d)
        self.score1, self.score2 = nn.Linear(64, d), nn.Linear(d, d)
        self.blocks = nn.ModuleList(
            [EncoderBlock(config) for _ in range(max(1, config.depth // 2))]
        )
        self.norm = nn.LayerNorm(d, eps=1e-6)
        positions = sincos_positions(latent_patch_size // p, d)
        self.register_buffer("positions", positions, persistent=False)  # (m, D), m tokens a value
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, values: Tensor, scores: Tensor) -> Tensor:
        """values: (N, K, C, V, V) latents of the memory; scores: (N, K) in [-1, 1] -> context (N,
        M, D).
        """
        n, k = scores.shape
        # (N K, m, D)
        x = self.embed(tokenise(values.flatten(0, 1), self.config.context_patch_size))
        s = timestep_embedding(1000 * scores.flatten(), 64).to(x.dtype)  # (N K, 64)
        s = self.score2(F.silu(self.score1(s)))  # (N K, D)
        x = x + self.positions.to(x.dtype) + s[:, None]  # (N K, m, D)
        x = x.unflatten(0, (n, k)).flatten(1, 2)  # (N, M = K m, D)
        for block in self.blocks:
            x = block(x)  # (N, M, D)
        return self.norm(x)  # (N, M, D)
