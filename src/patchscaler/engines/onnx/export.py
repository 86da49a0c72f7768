"""A model as ONNX graphs: a file a network, checked against torch as they are written, and
onnx.json about them.
"""

import contextlib
import io
import json
import logging
import operator
import os
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from patchscaler._version import __version__
from patchscaler.dials.record import weights_id, weights_of
from patchscaler.engines.onnx.networks import Exported, exported_networks
from patchscaler.errors import PatchScalerError
from patchscaler.models.checksums import write_text
from patchscaler.models.weights import file_hash

if TYPE_CHECKING:
    from patchscaler.pipeline import PatchScaler

INDEX = "onnx.json"
# of the largest number of an output: sums in float32 in another order stay far below
TOLERANCE = 1e-3


def export_onnx(scaler: "PatchScaler", folder: str | Path) -> dict[str, float]:
    """Write every network -> name: largest difference to torch, a share of the output's largest
    number.

    Raises PatchScalerError for a missing extra, and where a graph does not compute what torch does.
    """
    folder = Path(folder)
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise PatchScalerError(
            f"ONNX needs {error.name}: pip install 'patchscaler[onnx]'"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    networks = exported_networks(scaler)
    graphs: dict[str, Any] = {}
    for name, network in networks.items():
        file = folder / f"{name}.onnx"
        description = _write(network, file, scaler.device)
        difference = parity(network, file, scaler.device)
        if not difference <= TOLERANCE:
            file.unlink()
            raise PatchScalerError(
                f"{name}: the graph differs from torch by {difference:.2g}; please report it"
            )
        graphs[name] = description | {"difference": difference, "sha256": file_hash(file)}
    index = {
        "patchscaler": __version__,
        "torch": torch.__version__,
        "weights": graph_weights(scaler),
    }
    write_text(folder / "config.json", scaler.config.to_json() + "\n")
    write_text(folder / INDEX, json.dumps(index | {"graphs": graphs}, indent=1) + "\n")
    return {name: graph["difference"] for name, graph in graphs.items()}


def graph_weights(scaler: "PatchScaler") -> str:
    """A short hash of the networks; the memory is not in the graphs."""
    return weights_id(
        {name: digest for name, digest in weights_of(scaler).items() if name != "memory"}
    )


def read_index(folder: Path, weights: str) -> dict[str, Any]:
    """onnx.json of an export of these weights.

    Raises PatchScalerError for another's, and for changed files.
    """
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        found, graphs = index["weights"], index["graphs"]
        files = {name: (folder / f"{name}.onnx", graph["sha256"]) for name, graph in graphs.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PatchScalerError(
            f"{folder}: no export in it; make one with 'patchscaler export --onnx DIR'"
        ) from error
    if found != weights:
        raise PatchScalerError(
            f"{folder}: exported from other weights; 'patchscaler export --onnx' again"
        )
    for file, digest in files.values():
        if not file.is_file() or file_hash(file) != digest:
            raise PatchScalerError(
                f"{file}: missing, or not the file that was exported; export again"
            )
    return index


# --- one graph ------------------------------------------------------------------------------------


def _write(network: Exported, file: Path, device: torch.device) -> dict[str, Any]:
    """-> names and shapes of inputs and outputs."""
    import onnx

    auto = torch.export.Dim.AUTO  # some sides are multiples of others; the exporter finds out
    shapes = tuple(dict.fromkeys(axes, auto) for axes in network.axes)
    example = tuple(x.to(device) for x in network.example(1))
    with _quiet(), torch.inference_mode(False), torch.no_grad():
        program = torch.export.export(network.module.eval(), example, dynamic_shapes=shapes)
        _slices_for_chunks(program)
        made = torch.onnx.export(
            program,
            (),
            input_names=network.inputs,
            output_names=network.outputs,
            dynamo=True,
            verbose=False,
        )
    assert made is not None
    model = made.model_proto
    _name_axes(model.graph, network)
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        onnx.save(model, temporary)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    return {"inputs": _shapes(model.graph.input), "outputs": _shapes(model.graph.output)}


@contextlib.contextmanager
def _quiet() -> Any:
    """The exporter tells of every operator library that is not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _slices_for_chunks(program: torch.export.ExportedProgram) -> None:
    """Chunks of a moving axis become slices: the exporter makes a sequence of the former and then
    cannot fold it.
    """
    # what stands under an autocast is a graph of its own
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            _slices_in(module.graph)
            module.recompile()


def _slices_in(graph: torch.fx.Graph) -> None:
    aten = torch.ops.aten
    for node in list(graph.nodes):
        if node.target is not aten.chunk.default:
            continue
        x, count, axis = (*node.args, 0)[:3]
        length = x.meta["val"].shape[axis]
        if isinstance(length, int):
            continue

        def emit(function: Any, args: tuple[Any, ...], value: Any, before: Any) -> Any:
            with graph.inserting_before(before):
                made = graph.call_function(function, args)
            made.meta["val"] = value
            return made

        total = emit(aten.sym_size.int, (x, axis), length, node)
        above = emit(operator.add, (total, count - 1), length + (count - 1), node)
        size = emit(operator.floordiv, (above, count), (length + (count - 1)) // count, node)
        for user in list(node.users):  # operator.getitem(node, number)
            number, each = user.args[1], size.meta["val"]
            start = emit(operator.mul, (size, number), each * number, user)
            end = emit(operator.mul, (size, number + 1), each * (number + 1), user)
            piece = emit(aten.slice.Tensor, (x, axis, start, end), user.meta["val"], user)
            user.replace_all_uses_with(piece)
            graph.erase_node(user)
        graph.erase_node(node)


def _name_axes(graph: Any, network: Exported) -> None:
    """The exporter calls moving axes s77 and s53; called `patches` and `height` they say what they
    are.
    """
    names: dict[str, str] = {}
    for value, axes in zip(graph.input, network.axes, strict=True):
        for axis, name in axes.items():
            symbol = value.type.tensor_type.shape.dim[axis].dim_param
            for found in re.findall(r"\bs\d+\b", symbol):
                names.setdefault(found, name)
    for value in [*graph.input, *graph.output, *graph.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\bs\d+\b", lambda m: names.get(m[0], m[0]), dim.dim_param)


def _shapes(values: Any) -> dict[str, list[int | str]]:
    dims = {value.name: value.type.tensor_type.shape.dim for value in values}
    return {name: [dim.dim_param or dim.dim_value for dim in each] for name, each in dims.items()}


def parity(network: Exported, file: Path, device: torch.device | str = "cpu") -> float:
    """Largest difference between graph and torch on inputs of other sizes than it was exported
    with.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    worst = 0.0
    for number in (0, 3):
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            torch.manual_seed(number)
            inputs = network.example(number)
            expected = network.module(*(x.to(device) for x in inputs))
        expected = expected if isinstance(expected, tuple) else (expected,)
        found = session.run(
            None, {n: x.numpy() for n, x in zip(network.inputs, inputs, strict=True)}
        )
        for a, b in zip(found, expected, strict=True):
            worst = max(worst, _difference(a, b))
    return worst


def _difference(found: np.ndarray, expected: Tensor) -> float:
    truth = expected.cpu().float().numpy()
    if found.shape != truth.shape:
        return float("inf")
    return float(np.abs(found - truth).max() / max(float(np.abs(truth).max()), 1e-6))
