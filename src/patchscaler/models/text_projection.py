"""The text prompt of the paper's ablation (4.4): a text encoder's tokens in the texture encoder's
place.
"""

from torch import Tensor, nn


class TextProjection(nn.Module):
    """Tokens of a caption -> context for Patch-DiT's cross-attention, by one linear layer."""

    def __init__(self, text_width: int, hidden_size: int):
        super().__init__()
        self.linear = nn.Linear(text_width, hidden_size)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, L, W) -> (N, L, D)."""
        return self.linear(tokens)
