"""Optimisers by name, the learning rate over a run, and the moving average of weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from patchscaler.errors import PatchScalerError


def build_optimizers(name: str, module: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Build adam, adamw, or muon (2-D weights of blocks by Muon at 20 x lr, the rest by AdamW).

    The rate of each parameter group is kept in `initial_lr`.
    """
    optimizers = _build(name, module, lr)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def _build(name: str, module: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    parameters = [p for p in module.parameters() if p.requires_grad]
    if name == "adam":
        return [torch.optim.Adam(parameters, lr=lr)]
    if name == "adamw":
        return [torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=0.0)]
    if name == "muon":
        matrices = [
            p
            for n, p in module.named_parameters()
            if p.requires_grad and p.ndim == 2 and "blocks." in n
        ]
        chosen = {id(p) for p in matrices}
        rest = [p for p in parameters if id(p) not in chosen]
        if matrices:
            return [
                torch.optim.Muon(matrices, lr=20 * lr, weight_decay=0.0),
                torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99), weight_decay=0.0),
            ]
        return _build("adamw", module, lr)  # convolutions alone, as in a discriminator
    raise PatchScalerError(f"unknown optimizer '{name}': choose adam, adamw or muon")


def rate_factor(step: int, progress: float, warmup: int = 100, decay: float = 0.3) -> float:
    """Warm-up over steps, then constant, then linear to 1 % over the last `decay` of the run
    (progress 0..1).
    """
    up = min(1.0, (step + 1) / max(1, warmup))
    down = 1.0 if decay <= 0 else min(1.0, max(0.01, (1 - progress) / decay))
    return up * down


class EMA:
    """Exponential moving average of a module's parameters; buffers are copied."""

    def __init__(self, module: nn.Module, decay: float = 0.999):
        self.decay = decay
        self.shadow = {k: v.detach().clone().float() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))  # short memory at first
        for name, value in module.state_dict().items():
            if value.dtype.is_floating_point:
                self.shadow[name].lerp_(value.float(), 1 - decay)
            else:
                self.shadow[name].copy_(value)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[nn.Module]:
        """The module with the averaged weights, in eval mode; its own come back afterwards."""
        own = {k: v.clone() for k, v in module.state_dict().items()}
        module.load_state_dict(self.shadow)
        try:
            yield module.eval()
        finally:
            module.load_state_dict(own)

    def state_dict(self) -> dict[str, Tensor]:
        return self.shadow

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            self.shadow[name].copy_(value)
