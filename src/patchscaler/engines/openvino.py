"""OpenVINO in torch's place for the RRDB denoiser, on a processor.

Graphs are converted from the network in memory, so that they are always those of its weights, and
checked against it on a
small image before they are used.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from patchscaler.errors import PatchScalerError
from patchscaler.model import Model
from patchscaler.models.denoiser import SCALE, RRDBDenoiser

LOWEST_PSNR = 40.0  # dB between an engine's image of noise and torch's, in float32


class _Depth(nn.Module):
    """The denoiser at one depth, as a graph takes it."""

    def __init__(self, denoiser: RRDBDenoiser, early: bool):
        super().__init__()
        self.denoiser, self.early = denoiser, early

    def forward(self, y_tau: Tensor, tau: Tensor, lr: Tensor) -> Tensor:
        return self.denoiser(y_tau, tau, lr, early=self.early)


class OpenVinoDenoiser:
    """Calls compiled graphs as `RRDBDenoiser.forward` is called.

    Args:
        denoiser: The network in torch.
        dtype: bfloat16 computes in it, float32 exactly.

    Raises:
        PatchScalerError: A graph cannot be compiled, or gives another image than torch.
    """

    def __init__(self, denoiser: RRDBDenoiser, dtype: torch.dtype):
        self.graphs: dict[bool, Callable[..., Any]] = {}
        try:
            for early in (False, True) if denoiser.exit is not None else (False,):
                self.graphs[early] = _compiled(_Depth(denoiser, early), dtype)
            self._check(denoiser)
        except (RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise PatchScalerError(f"engine openvino: {reason}") from error

    def __call__(self, y_tau: Tensor, tau: Tensor, lr: Tensor, early: bool = False) -> Tensor:
        found = self.graphs[early](
            (y_tau.contiguous().numpy(), tau.numpy(), lr.contiguous().numpy())
        )
        return torch.from_numpy(found[0])

    @torch.inference_mode()
    def _check(self, denoiser: RRDBDenoiser) -> None:
        generator = torch.Generator().manual_seed(0)
        lr = torch.rand(1, 3, 12, 20, generator=generator) * 2 - 1
        y_tau = torch.randn(1, 3, 12 * SCALE, 20 * SCALE, generator=generator)
        tau = torch.tensor([100])
        for early in self.graphs:
            error = (self(y_tau, tau, lr, early) - denoiser(y_tau, tau, lr, early=early)).square()
            psnr = float(10 * torch.log10(4 / error.mean().clamp_min(1e-12)))
            if not psnr >= LOWEST_PSNR:
                raise PatchScalerError(
                    f"engine openvino: {psnr:.1f} dB from torch in its self-check"
                )


def _compiled(module: nn.Module, dtype: torch.dtype) -> Callable[..., Any]:
    import openvino

    example = (torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long), torch.zeros(1, 3, 8, 8))
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of torch, about tracing
        graph = openvino.convert_model(module.eval(), example_input=example)
    precision = "bf16" if dtype == torch.bfloat16 else "f32"
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    return openvino.Core().compile_model(graph, "CPU", settings)


def attach(model: Model) -> None:
    """Let OpenVINO run the denoiser of `model`. Raises PatchScalerError."""
    assert model.denoiser is not None
    model.run_denoiser = OpenVinoDenoiser(model.denoiser, model.dtype)
    model.engine = "openvino"
