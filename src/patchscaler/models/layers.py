"""Parts of Patch-DiT: time embedding, positions, attention, MLP, modulation."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def timestep_embedding(t: Tensor, size: int, max_period: float = 10_000) -> Tensor:
    """Sinusoids of DDPM: (N,) times, or any scalars -> (N, size), cosines first."""
    half = size // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=t.device) / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


def sincos_positions(side: int, size: int) -> Tensor:
    """Fixed 2-D positions: (side * side, size), half of the width for each axis."""

    def axis(position: Tensor) -> Tensor:
        omega = 1 / 10_000 ** (torch.arange(size // 4, dtype=torch.float64) / (size // 4))
        angles = position.double().flatten()[:, None] * omega
        return torch.cat([angles.sin(), angles.cos()], 1)

    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.cat([axis(x), axis(y)], 1).float()


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x: (N, L, D); shift, scale: (N, D)."""
    return x * (1 + scale[:, None]) + shift[:, None]


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(N, L, D) -> (N, heads, L, D / heads)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


class SelfAttention(nn.Module):
    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        # (N, heads, L, D/heads)
        q, k, v = (split_heads(y, self.num_heads) for y in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v)  # (N, heads, L, D/heads)
        return self.proj(y.transpose(1, 2).flatten(2))  # (N, L, D)


class CrossAttention(nn.Module):
    """Queries from the patch; keys and values of the prompt are computed once per patch by
    `keys_values`.
    """

    def __init__(self, hidden_size: int, num_heads: int, inner_size: int):
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(hidden_size, inner_size)
        self.kv = nn.Linear(hidden_size, 2 * inner_size)
        self.proj = nn.Linear(inner_size, hidden_size)

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """context: (N, M, D) -> k, v, each (N, heads, M, inner / heads)."""
        k, v = self.kv(context).chunk(2, -1)
        return split_heads(k, self.num_heads), split_heads(v, self.num_heads)

    def forward(self, x: Tensor, keys_values: tuple[Tensor, Tensor]) -> Tensor:
        q = split_heads(self.q(x), self.num_heads)  # (N, heads, L, inner/heads)
        y = F.scaled_dot_product_attention(q, *keys_values)  # (N, heads, L, inner/heads)
        return self.proj(y.transpose(1, 2).flatten(2))  # (N, L, D)


class MLP(nn.Module):
    """Linear, tanh-GELU, linear; optionally a depth-wise 3x3 convolution over the square of tokens
    between.
    """

    def __init__(self, hidden_size: int, ratio: float, depthwise: bool):
        super().__init__()
        inner = int(hidden_size * ratio)
        self.fc1 = nn.Linear(hidden_size, inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner) if depthwise else None
        self.fc2 = nn.Linear(inner, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)  # (N, L, inner)
        if self.depthwise is not None:
            side = math.isqrt(h.shape[1])
            square = h.transpose(1, 2).unflatten(-1, (side, side))  # (N, inner, s, s)
            h = h + self.depthwise(square).flatten(2).transpose(1, 2)  # (N, L, inner)
        return self.fc2(F.gelu(h, approximate="tanh"))  # (N, L, D)


class TimeEmbedder(nn.Module):
    """256 sinusoids and two linear layers."""

    def __init__(self, hidden_size: int, frequencies: int = 256):
        super().__init__()
        self.frequencies = frequencies
        self.fc1 = nn.Linear(frequencies, hidden_size)
        self.fc2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, t: Tensor) -> Tensor:
        h = timestep_embedding(t, self.frequencies).to(self.fc1.weight.dtype)  # (N, 256)
        return self.fc2(F.silu(self.fc1(h)))  # (N, D)


def tokenise(x: Tensor, side: int) -> Tensor:
    """Cut into squares: (N, C, V, V) -> (N, (V/side)^2, C * side^2)."""
    return F.pixel_unshuffle(x, side).flatten(2).transpose(1, 2)


def untokenise(tokens: Tensor, side: int) -> Tensor:
    """The inverse of `tokenise`."""
    n = math.isqrt(tokens.shape[1])
    return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(-1, (n, n)), side)
