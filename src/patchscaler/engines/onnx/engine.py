"""ONNX Runtime or OpenVINO in torch's place: the pipeline stays, its networks' methods call
compiled graphs.
"""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from patchscaler.engines.onnx.export import INDEX, export_onnx, graph_weights, read_index
from patchscaler.engines.onnx.networks import stacked, unstacked
from patchscaler.errors import PatchScalerError
from patchscaler.models.patch_dit import Prompt

if TYPE_CHECKING:
    from patchscaler.pipeline import PatchScaler

ENGINES = ("torch", "onnxruntime", "openvino")
FASTEST = "openvino"  # on a processor, measured beside torch (docs/onnx.md)
Graph = Callable[..., tuple[Tensor, ...]]


def use_engine(
    scaler: "PatchScaler", engine: str, folder: str | Path | None = None
) -> "PatchScaler":
    """Let this model's networks run in `engine`, on the processor -> the same model.

    engine: one of ENGINES; or auto, which is the fastest one where it is installed and these
    weights were exported before, torch elsewhere: nobody waits for an export that was not asked
    for. folder: of an export of these weights; made there where it is missing, by default in the
    user's cache. Everything is float32, but that OpenVINO computes in bfloat16 where the model was
    loaded so. Raises PatchScalerError.
    """
    if engine == "auto":
        ready = (
            scaler.device.type == "cpu"
            and find_spec(FASTEST)
            and (_place(scaler, folder) / INDEX).is_file()
        )
        engine = FASTEST if ready else "torch"
    if engine == "torch":
        return scaler
    if engine not in ENGINES:
        raise PatchScalerError(
            f"unknown engine '{engine}': choose one of auto, {', '.join(ENGINES)}"
        )
    if scaler.device.type != "cpu":
        raise PatchScalerError(
            f"engine {engine} runs on the processor: leave --device out, or take --device cpu"
        )
    load = _onnxruntime if engine == "onnxruntime" else _openvino
    open_graph = load(torch.get_num_threads(), scaler.dtype)
    place = _place(scaler, folder)
    if not (place / INDEX).is_file():
        export_onnx(scaler, place)
    read_index(place, graph_weights(scaler))
    scaler.engine = (
        f"{engine} {str(scaler.dtype).removeprefix('torch.')}" if engine == "openvino" else engine
    )
    scaler.dtype = torch.float32  # torch itself has nothing left to do in half precision
    _replace_methods(scaler, lambda name: _lazily(open_graph, place / f"{name}.onnx"))
    return scaler


def _place(scaler: "PatchScaler", folder: str | Path | None) -> Path:
    return Path(folder) if folder else cache_folder() / graph_weights(scaler)


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "patchscaler" / "onnx"


def _replace_methods(scaler: "PatchScaler", graph: Callable[[str], Graph]) -> None:
    """What the pipeline calls of each network, as torch's own `Module.compile` does it: on this
    object alone.
    """
    encoder, decoder, grm, classifier = (
        graph(n) for n in ("encoder", "decoder", "grm", "classifier")
    )
    prompt, with_prompt, without = (
        graph(n) for n in ("prompt", "patch_dit", "patch_dit_without_prompt")
    )
    dit = scaler.patch_dit

    def forward(x_t: Tensor, t: Tensor, coarse: Tensor, given: Prompt | None) -> Tensor:
        if given is None:
            return without(x_t, t, coarse)[0]
        return with_prompt(x_t, t, coarse, *stacked(given))[0]

    replaced: list[tuple[torch.nn.Module, str, Callable[..., Any]]] = [
        (scaler.autoencoder, "encode", lambda images: encoder(images)[0]),
        (scaler.autoencoder, "decode", lambda latents: decoder(latents)[0]),
        (scaler.grm, "restore", _padded(grm, getattr(scaler.grm, "size_multiple", 1))),
        (scaler.classifier, "keys", lambda latents: classifier(latents)[0]),
        # The graph of the prompt gives keys and values at once, so `prepare` has only to name them.
        (dit, "prepare", lambda pair: unstacked(*pair)),
        (dit, "forward", forward),
    ]
    source = scaler.networks.get("texture_encoder") or scaler.networks["text_projection"]
    replaced.append((source, "forward", prompt))
    if scaler.refiner:
        refiner = graph("refiner")
        replaced.append((scaler.refiner, "refine", lambda pixels, small: refiner(pixels, small)[0]))
    for module, name, method in replaced:
        object.__setattr__(module, name, method)


def _padded(graph: Graph, multiple: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """The U-Net's graph takes whole squares of its coarsest scale."""

    def restore(x: Tensor) -> tuple[Tensor, ...]:
        height, width = x.shape[-2:]
        padded = torch.nn.functional.pad(
            x, (0, -width % multiple, 0, -height % multiple), mode="reflect"
        )
        return tuple(y[..., :height, :width] for y in graph(padded)) if multiple > 1 else graph(x)

    return restore


def _lazily(open_graph: Callable[[Path], Graph], file: Path) -> Graph:
    """Compiled when it is first called: most runs need only some of the graphs."""
    graph: list[Graph] = []

    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        if not graph:
            graph.append(open_graph(file))
        return graph[0](*inputs)

    return call


def _array(x: Tensor) -> np.ndarray:
    x = x.detach().contiguous()
    return (x.float() if x.is_floating_point() else x).numpy()


def _onnxruntime(threads: int, dtype: torch.dtype) -> Callable[[Path], Graph]:
    try:
        import onnxruntime
    except ImportError as error:
        raise PatchScalerError("engine onnxruntime: pip install 'patchscaler[onnx]'") from error

    def open_graph(file: Path) -> Graph:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        names = [value.name for value in session.get_inputs()]

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            found = session.run(None, {n: _array(x) for n, x in zip(names, inputs, strict=True)})
            return tuple(torch.from_numpy(y) for y in found)

        return run

    return open_graph


def _openvino(threads: int, dtype: torch.dtype) -> Callable[[Path], Graph]:
    try:
        import openvino
    except ImportError as error:
        raise PatchScalerError("engine openvino: pip install 'patchscaler[openvino]'") from error
    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
    }

    def open_graph(file: Path) -> Graph:
        compiled = core.compile_model(core.read_model(str(file)), "CPU", settings)

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            found = compiled([_array(x) for x in inputs])
            return tuple(torch.from_numpy(np.array(found[i])) for i in range(len(compiled.outputs)))

        return run

    return open_graph
