"""Exported graphs and weight files compute what the torch networks compute."""

import json
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from patchscaler.config import AutoencoderConfig, DenoiserConfig, GRMConfig, TextureConfig, preset
from patchscaler.engines import export
from patchscaler.engines.export import (
    difference_from_torch,
    export_onnx,
    graphs_of,
    write_graph,
)
from patchscaler.errors import PatchScalerError
from patchscaler.model_folder import build_networks
from patchscaler.models.denoiser import RRDBDenoiser

NAMES = {
    "classifier",
    "decoder",
    "denoiser",
    "encoder",
    "grm",
    "patch_dit",
    "patch_dit_without_prompt",
    "prompt",
    "upscaler",
}


def random_weights(network: nn.Module, std: float = 0.1) -> nn.Module:
    """Layers that start at zero would make any graph look right."""
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=std)
    return network.eval()


def denoiser_of(**changes: int) -> RRDBDenoiser:
    torch.manual_seed(1)
    return RRDBDenoiser(replace(DenoiserConfig(width=8, growth=4, depth=2), **changes)).eval()


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    """Of the preset `tiny`, with an RRDB denoiser beside its Patch-DiT."""
    torch.manual_seed(0)
    found = build_networks(preset("tiny")) | {"denoiser": denoiser_of()}
    return {name: random_weights(network) for name, network in found.items()}


@pytest.fixture(scope="module")
def exported(networks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    export_onnx(preset("tiny"), networks, folder)
    return folder


def run(file, *inputs: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    given = {n: x.numpy() for n, x in zip(names, inputs, strict=True)}
    return session.run(None, given)[0]


def test_every_network_has_a_valid_graph_that_agrees_with_torch(exported):
    graphs = json.loads((exported / "onnx.json").read_text())["graphs"]
    assert set(graphs) == NAMES
    for name, graph in graphs.items():
        onnx.checker.check_model(onnx.load(exported / f"{name}.onnx"), full_check=True)
        assert graph["difference"] < 1e-5


def test_axes_that_vary_are_named(exported):
    graphs = json.loads((exported / "onnx.json").read_text())["graphs"]
    assert graphs["patch_dit"]["inputs"]["keys"] == [2, "patches", 2, "tokens", 8]
    assert graphs["grm"]["outputs"]["coarse_images"] == ["images", 3, "4*height", "4*width"]
    assert graphs["upscaler"]["inputs"] == {"lr": ["images", 3, "height", "width"]}
    assert graphs["upscaler"]["outputs"] == {"image": ["images", 3, "4*height", "4*width"]}


def test_the_difference_of_other_weights_is_seen(networks, exported):
    graph = graphs_of(preset("tiny"), networks | {"denoiser": denoiser_of()})["denoiser"]
    assert difference_from_torch(graph, exported / "denoiser.onnx") > 0.01


@torch.inference_mode()
def test_the_denoiser_graph_follows_y_tau_and_tau(networks, exported):
    lr, y_tau = torch.rand(2, 3, 10, 13) * 2 - 1, torch.randn(2, 3, 40, 52)
    tau = torch.tensor([0, 700])
    expected = networks["denoiser"](y_tau, tau, lr).numpy()
    assert np.abs(run(exported / "denoiser.onnx", lr, y_tau, tau) - expected).max() < 1e-4
    assert np.abs(run(exported / "denoiser.onnx", lr, 0 * y_tau, tau) - expected).max() > 0.01
    assert np.abs(run(exported / "denoiser.onnx", lr, y_tau, 0 * tau) - expected)[1].max() > 0.01


@torch.inference_mode()
def test_the_upscaler_graph_is_the_denoiser_on_the_coarse_image(networks, exported):
    image = torch.rand(1, 3, 20, 26)
    lr, autoencoder = 2 * image - 1, networks["autoencoder"]
    y_0, _ = networks["grm"](lr, autoencoder)
    result = networks["denoiser"](autoencoder.decode(y_0), torch.tensor([0]), lr)
    expected = ((result + 1) / 2).clamp(0, 1).numpy()
    assert np.abs(run(exported / "upscaler.onnx", image) - expected).max() < 1e-4
    assert 0 < expected.mean() < 1


@pytest.mark.parametrize("size", [(7, 9), (32, 1), (33, 20)])
def test_the_upscaler_graph_takes_odd_sizes(exported, size):
    image = run(exported / "upscaler.onnx", torch.rand(1, 3, *size))
    assert image.shape == (1, 3, 4 * size[0], 4 * size[1])
    assert image.min() >= 0 and image.max() <= 1


def test_a_u_net_has_a_graph(tmp_path):
    grm = GRMConfig(kind="unet", width=8, channel_mults=(1, 1), num_res_blocks=1)
    config = replace(preset("tiny"), grm=grm)
    graph = graphs_of(config, build_networks(config))["grm"]
    random_weights(graph.module)
    write_graph(graph, tmp_path / "grm.onnx")
    assert difference_from_torch(graph, tmp_path / "grm.onnx") < 1e-4


def test_stable_diffusions_autoencoder_has_graphs(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    diffusers.AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    ).save_pretrained(tmp_path / "vae")
    config = replace(
        preset("tiny"),
        autoencoder=AutoencoderConfig(kind="kl", channels=4, model_id=str(tmp_path / "vae")),
        texture=TextureConfig(widths=(8, 8), classes=("a", "b"), top_k=2),
    )
    graphs = graphs_of(config, build_networks(config))
    for name in ("encoder", "decoder"):
        write_graph(graphs[name], tmp_path / f"{name}.onnx")
        assert difference_from_torch(graphs[name], tmp_path / f"{name}.onnx") < 1e-4


def test_a_graph_that_differs_is_refused(networks, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "write_graph", lambda graph, file: {"x": file.write_bytes(b"")})
    monkeypatch.setattr(export, "difference_from_torch", lambda *_: 0.5)
    with pytest.raises(PatchScalerError, match=r"encoder\.onnx: differs from torch by 0\.5"):
        export_onnx(preset("tiny"), networks, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(networks, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(PatchScalerError, match=r"pip install 'patchscaler\[onnx\]'"):
        export_onnx(preset("tiny"), networks, tmp_path / "none")
    assert not (tmp_path / "none").exists()
