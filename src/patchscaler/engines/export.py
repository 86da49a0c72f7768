"""A model as ONNX graphs for other programs.

`denoiser.onnx` is the whole RRDB denoiser, `upscaler.onnx` the same with one input and one output,
pixels in [0, 1], as chaiNNer-like programs load it. Beside them lies a graph for every other
network of the model. Each graph is run in ONNX Runtime on inputs of another size than it was
exported with and compared with torch.

Letters as in `models.patch_dit`; B images, K textures of a prompt, E blocks of Patch-DiT.
"""

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from patchscaler._version import __version__
from patchscaler.config import ModelConfig
from patchscaler.errors import PatchScalerError
from patchscaler.models.autoencoder import Autoencoder
from patchscaler.models.denoiser import SCALE, RRDBDenoiser
from patchscaler.models.grm import PixelGRM, UNetGRM
from patchscaler.models.patch_dit import PatchDiT, Prompt
from patchscaler.models.weights import file_hash

INDEX = "onnx.json"
# Of the largest number of an output: sums in float32 in another order stay far below.
TOLERANCE = 1e-3
BORDER = PixelGRM.border
PIXELS = {0: "images", 2: "height", 3: "width"}
HR_PIXELS = {0: "images", 2: "4*height", 3: "4*width"}
PATCHES = {0: "patches"}


@dataclass(frozen=True)
class Graph:
    """A function of tensors with names for its inputs, outputs and the axes that vary."""

    module: nn.Module
    inputs: dict[str, dict[int, str]]  # name -> axis -> its name
    outputs: tuple[str, ...]
    example: Callable[[int], tuple[Tensor, ...]]  # inputs of another size for each number


# --- networks as functions of tensors -------------------------------------------------------------


class Method(nn.Module):
    """One method of a module as its forward."""

    def __init__(self, module: nn.Module, name: str):
        super().__init__()
        self.module, self.name = module, name

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return getattr(self.module, self.name)(x)


class Denoiser(nn.Module):
    """The RRDB denoiser at full depth, its inputs in the order that a reader expects."""

    def __init__(self, denoiser: RRDBDenoiser):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, lr: Tensor, y_tau: Tensor, tau: Tensor) -> Tensor:
        return self.denoiser(y_tau, tau, lr)


class Upscaler(nn.Module):
    """LR image -> HR image, both in [0, 1], of any size: the denoiser at tau 0 on the GRM's image.

    No groups and no noise: every pixel takes the full depth. The denoised image is not encoded and
    decoded again, so it has detail that the pipeline's latents leave out.
    """

    def __init__(self, denoiser: RRDBDenoiser, grm: PixelGRM, autoencoder: Autoencoder):
        super().__init__()
        self.denoiser, self.grm, self.autoencoder = denoiser, grm, autoencoder

    def forward(self, image: Tensor) -> Tensor:
        lr = 2 * image - 1  # (B, 3, h, w)
        h, w = lr.shape[-2:]
        padded = mirrored(mirrored(lr, 2), 3)
        coarse, _ = self.grm.restore(padded)
        p = SCALE * BORDER
        y_0 = self.autoencoder.encode(coarse[..., p:-p, p:-p])  # sides are multiples of 8
        y_0 = self.autoencoder.decode(y_0)[..., : SCALE * h, : SCALE * w]  # (B, 3, 4h, 4w)
        tau = torch.zeros(lr.shape[:1], dtype=torch.long, device=lr.device)
        return ((self.denoiser(y_0, tau, lr) + 1) / 2).clamp(0, 1)  # (B, 3, 4h, 4w)


def mirrored(x: Tensor, axis: int) -> Tensor:
    """Mirror `BORDER` pixels at both ends of an axis, and one more where its length is odd."""
    n = x.shape[axis]
    index = torch.arange(-BORDER, n + n % 2 + BORDER, device=x.device)
    index = torch.where(index < 0, -1 - index, index)
    index = torch.where(index >= n, 2 * n - 1 - index, index)
    return x.index_select(axis, index.clamp(min=0))  # below 0 where n < BORDER


class TexturePrompt(nn.Module):
    """Textures and their scores -> keys and values of every cross-attention, once a patch."""

    def __init__(self, encoder: nn.Module, patch_dit: PatchDiT):
        super().__init__()
        self.encoder, self.patch_dit = encoder, patch_dit

    def forward(self, textures: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """(N, K, C, V, V), (N, K) -> keys, values, (E, N, heads, M, d) each."""
        prompt = self.patch_dit.prepare(self.encoder(textures, scores))
        keys, values = zip(*prompt.keys_values, strict=True)
        return torch.stack(keys), torch.stack(values)


class PatchDenoiser(nn.Module):
    """Patch-DiT with the prompt as two tensors, or without one."""

    def __init__(self, patch_dit: PatchDiT):
        super().__init__()
        self.patch_dit = patch_dit

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        coarse: Tensor,
        keys: Tensor | None = None,
        values: Tensor | None = None,
    ) -> Tensor:
        if keys is None or values is None:
            return self.patch_dit(x_t, t, coarse, None)
        pairs = zip(keys.unbind(0), values.unbind(0), strict=True)
        return self.patch_dit(x_t, t, coarse, Prompt(list(pairs)))


def graphs_of(config: ModelConfig, networks: dict[str, nn.Module]) -> dict[str, Graph]:
    """Name -> graph, of every network that the model has."""
    found = _image_graphs(config, networks)
    if isinstance(networks.get("patch_dit"), PatchDiT):
        found |= _patch_graphs(config, networks)
    denoiser, grm = networks.get("denoiser"), networks["grm"]
    if isinstance(denoiser, RRDBDenoiser):

        def noisy(i: int) -> tuple[Tensor, Tensor, Tensor]:
            lr, y_tau = (
                torch.rand(1 + i, 3, 8 + i, 9 + i),
                torch.randn(1 + i, 3, 32 + 4 * i, 36 + 4 * i),
            )
            return lr * 2 - 1, y_tau, torch.arange(400, 401 + i)

        found["denoiser"] = Graph(
            Denoiser(denoiser),
            {"lr": PIXELS, "y_tau": HR_PIXELS, "tau": {0: "images"}},
            ("image",),
            noisy,
        )
        if isinstance(grm, PixelGRM):
            autoencoder: Any = networks["autoencoder"]
            found["upscaler"] = Graph(
                Upscaler(denoiser, grm, autoencoder),
                {"lr": PIXELS},
                ("image",),
                lambda i: (torch.rand(1 + i, 3, 16 + i, 19 + i),),
            )
    return found


def _image_graphs(config: ModelConfig, networks: dict[str, nn.Module]) -> dict[str, Graph]:
    """Autoencoder and GRM."""
    c, f, grm = config.autoencoder.channels, config.autoencoder.factor, networks["grm"]
    unet = isinstance(grm, UNetGRM)
    # U-Net: whole squares of its coarsest scale, so that the graph pads nothing
    side = grm.size_multiple if isinstance(grm, UNetGRM) else 2

    def lr(i: int) -> tuple[Tensor]:
        shape = (1 + i, c if unet else 3, side * (16 + i), side * (17 + i))
        return (torch.rand(shape) * 2 - 1,)

    return {
        "encoder": Graph(
            Method(networks["autoencoder"], "encode"),
            {"images": PIXELS},
            ("latents",),
            lambda i: (torch.rand(1 + i, 3, f * (2 + i), f * (3 + i)) * 2 - 1,),
        ),
        "decoder": Graph(
            Method(networks["autoencoder"], "decode"),
            {"latents": PIXELS},
            ("images",),
            lambda i: (torch.randn(1 + i, c, 2 + i, 3 + i),),
        ),
        "grm": Graph(
            Method(grm, "restore"),
            {"latents" if unet else "images": PIXELS},
            ("coarse_latents" if unet else "coarse_images", "confidence"),
            lr,
        ),
    }


def _patch_graphs(config: ModelConfig, networks: dict[str, nn.Module]) -> dict[str, Graph]:
    """Classifier, texture prompt and Patch-DiT."""
    c, v = config.autoencoder.channels, config.groups.latent_patch_size
    dit, k = config.patch_dit, max(1, config.texture.top_k)
    width, network = (dit.cross_size or dit.hidden_size) // dit.num_heads, networks["patch_dit"]
    assert isinstance(network, PatchDiT)

    def noisy(i: int) -> tuple[Tensor, Tensor, Tensor]:
        return torch.randn(2 + i, c, v, v), torch.arange(400, 402 + i), torch.randn(2 + i, c, v, v)

    def prompted(i: int) -> tuple[Tensor, ...]:
        shape = (dit.depth, 2 + i, dit.num_heads, 8 + i, width)
        return (*noisy(i), torch.randn(shape), torch.randn(shape))

    plain = {"x_t": PATCHES, "t": PATCHES, "coarse": PATCHES}
    of_prompt = {1: "patches", 3: "tokens"}
    found = {
        "patch_dit": Graph(
            PatchDenoiser(network),
            plain | {"keys": of_prompt, "values": of_prompt},
            ("prediction",),
            prompted,
        ),
        "patch_dit_without_prompt": Graph(PatchDenoiser(network), plain, ("prediction",), noisy),
    }
    if "classifier" in networks:
        found["classifier"] = Graph(
            Method(networks["classifier"], "keys"),
            {"latents": PATCHES},
            ("keys",),
            lambda i: (torch.randn(2 + i, c, v, v),),
        )
    if "texture_encoder" in networks:
        axes = {0: "patches", 1: "textures"}
        found["prompt"] = Graph(
            TexturePrompt(networks["texture_encoder"], network),
            {"textures": axes, "scores": axes},
            ("keys", "values"),
            lambda i: (torch.randn(2 + i, k + i, c, v, v), torch.rand(2 + i, k + i)),
        )
    return found


# --- ONNX -----------------------------------------------------------------------------------------


def export_onnx(
    config: ModelConfig, networks: dict[str, nn.Module], folder: str | Path
) -> dict[str, float]:
    """Write every network as an ONNX graph, and `onnx.json` about them.

    Args:
        config: Of the model.
        networks: By the names of their weight files.
        folder: Where to; made where it is missing.

    Returns:
        For each graph its largest difference from torch, as a share of the output's largest number.

    Raises:
        PatchScalerError: The extra is missing, or a graph does not compute what torch does.
    """
    folder = Path(folder)
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise PatchScalerError(
            f"ONNX needs {error.name}. Hint: pip install 'patchscaler[onnx]'"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {}
    for name, graph in graphs_of(config, networks).items():
        file = folder / f"{name}.onnx"
        shapes = write_graph(graph, file)
        difference = difference_from_torch(graph, file)
        if not difference <= TOLERANCE:
            file.unlink()
            raise PatchScalerError(
                f"{file}: differs from torch by {difference:.2g}. Hint: please report it"
            )
        about[name] = shapes | {"difference": difference, "sha256": file_hash(file)}
    index = {"patchscaler": __version__, "torch": torch.__version__, "graphs": about}
    (folder / "config.json").write_text(config.to_json() + "\n", "utf-8")
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", "utf-8")
    return {name: graph["difference"] for name, graph in about.items()}


def write_graph(graph: Graph, file: Path) -> dict[str, Any]:
    """Write one graph -> names and shapes of its inputs and outputs."""
    import onnx

    example = _on_device(graph, 1)
    with _quiet(), torch.inference_mode(False), torch.no_grad():
        made = torch.onnx.export(
            graph.module.eval(),
            example,
            input_names=list(graph.inputs),
            output_names=graph.outputs,
            dynamic_shapes=tuple(graph.inputs.values()),
            dynamo=True,
            verbose=False,
        )
    assert made is not None
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        onnx.save(made.model_proto, temporary)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    described = made.model_proto.graph
    return {"inputs": _shapes(described.input), "outputs": _shapes(described.output)}


def _on_device(graph: Graph, number: int) -> tuple[Tensor, ...]:
    device = next((x.device for x in graph.module.state_dict().values()), torch.device("cpu"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        return tuple(x.to(device) for x in graph.example(number))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the exporter prints about operator libraries that are not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _shapes(values: Any) -> dict[str, list[int | str]]:
    dims = {value.name: value.type.tensor_type.shape.dim for value in values}
    return {name: [dim.dim_param or dim.dim_value for dim in each] for name, each in dims.items()}


def difference_from_torch(graph: Graph, file: Path) -> float:
    """Largest difference between graph and torch on inputs of two other sizes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    worst = 0.0
    for number in (0, 3):
        inputs = _on_device(graph, number)
        with torch.inference_mode():
            expected = graph.module(*inputs)
        expected = expected if isinstance(expected, tuple) else (expected,)
        given = {n: x.cpu().numpy() for n, x in zip(graph.inputs, inputs, strict=True)}
        for found, tensor in zip(session.run(None, given), expected, strict=True):
            truth = tensor.cpu().float().numpy()
            if found.shape != truth.shape:
                return float("inf")
            scale = max(float(np.abs(truth).max()), 1e-6)
            worst = max(worst, float(np.abs(found - truth).max()) / scale)
    return worst
