"""Every network as an ONNX graph computes what torch does, at other sizes too; the pipeline on
these graphs; errors.
"""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from common import read
from torch import nn

from patchscaler.apps.cli import main
from patchscaler.config import AutoencoderConfig, GRMConfig, RefinerConfig, TextureConfig, preset
from patchscaler.engines.onnx import export
from patchscaler.engines.onnx.engine import use_engine
from patchscaler.engines.onnx.export import export_onnx, parity
from patchscaler.engines.onnx.networks import exported_networks
from patchscaler.errors import PatchScalerError
from patchscaler.models.folder import build_networks
from patchscaler.pipeline import PatchScaler

NAMES = [
    "classifier",
    "decoder",
    "encoder",
    "grm",
    "patch_dit",
    "patch_dit_without_prompt",
    "prompt",
]


@pytest.fixture(scope="module")
def exported(model_folder, tmp_path_factory):
    """An export of the tiny model, made once by the command line; not to be changed."""
    folder = tmp_path_factory.mktemp("onnx")
    assert (
        main(["export", "--model", str(model_folder), "--device", "cpu", "--onnx", str(folder)])
        == 0
    )
    return folder


@pytest.fixture
def loaded(model_folder) -> PatchScaler:
    """A model of its own: an engine changes it."""
    return PatchScaler.from_pretrained(model_folder, device="cpu", dtype="float32")


def woken(module: nn.Module) -> nn.Module:
    """Layers that start at zero would make any graph look right."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return module


# --- graphs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_parity_at_other_sizes(tiny, exported, name):
    onnx.checker.check_model(onnx.load(exported / f"{name}.onnx"), full_check=True)
    network = exported_networks(tiny)[name]
    assert parity(network, exported / f"{name}.onnx") < 1e-5
    wrong = woken(build_networks(tiny.config)["grm"]) if name == "grm" else None
    if wrong is not None:  # and it can fail
        assert (
            parity(
                replace(network, module=type(network.module)(wrong, "restore")),
                exported / f"{name}.onnx",
            )
            > 0.01
        )


def test_moving_axes_have_names(exported):
    index = json.loads((exported / "onnx.json").read_text())
    graphs = index["graphs"]
    assert sorted(graphs) == NAMES and set(index) == {"patchscaler", "torch", "weights", "graphs"}
    assert graphs["patch_dit"]["inputs"] == {
        "x_t": ["patches", 8, 16, 16],
        "t": ["patches"],
        "coarse": ["patches", 8, 16, 16],
        "keys": [2, "patches", 2, "tokens", 8],
        "values": [2, "patches", 2, "tokens", 8],
    }
    assert graphs["grm"]["outputs"]["coarse_images"] == ["pictures", 3, "4*height", "4*width"]
    assert all(graph["difference"] < 1e-5 for graph in graphs.values())


def scaler_of(config, **networks) -> PatchScaler:
    return PatchScaler(config, build_networks(config) | networks, None)


def check(scaler: PatchScaler, name: str, folder) -> None:
    network = exported_networks(scaler)[name]
    woken(network.module)
    export._write(network, folder / f"{name}.onnx", scaler.device)
    assert parity(network, folder / f"{name}.onnx") < 1e-4


def test_refiner(tiny, tmp_path):
    check(scaler_of(replace(tiny.config, refiner=RefinerConfig(8, 1))), "refiner", tmp_path)


def test_text_prompt(tiny, tmp_path):
    check(scaler_of(replace(tiny.config, text_width=12)), "prompt", tmp_path)


def test_u_net(tiny, tmp_path):
    grm = GRMConfig(kind="unet", width=8, channel_mults=(1, 1), num_res_blocks=1)
    scaler = scaler_of(replace(tiny.config, grm=grm))
    check(scaler, "grm", tmp_path)


def test_stable_diffusions_autoencoder(tmp_path):
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
    scaler = scaler_of(config)
    for name in ("encoder", "decoder"):
        network = exported_networks(scaler)[name]
        export._write(network, tmp_path / f"{name}.onnx", scaler.device)
        assert parity(network, tmp_path / f"{name}.onnx") < 1e-4


def test_a_graph_that_differs_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(
        export, "_write", lambda network, file, device: {"bytes": file.write_bytes(b"")}
    )
    monkeypatch.setattr(export, "parity", lambda *_: 0.5)
    with pytest.raises(PatchScalerError, match=r"encoder: the graph differs from torch by 0\.5"):
        export_onnx(tiny, tmp_path)
    assert not list(tmp_path.iterdir())


# --- the pipeline on graphs -----------------------------------------------------------------------


def test_the_pipeline_on_onnx_runtime(tiny, loaded, exported, picture):
    use_engine(loaded, "onnxruntime", exported)
    for options in (
        {},
        {"prompt": False},
        {"seed": 4, "max_patches": 2, "budget": "best"},
        {"fidelity": 0.5},
    ):
        a, b = tiny.upscale(picture(33, 47), **options), loaded.upscale(picture(33, 47), **options)
        assert np.array_equal(a.groups, b.groups) and np.array_equal(a.textures, b.textures)
        assert np.abs(a.array.astype(int) - b.array).max() <= 1
    assert b.array.std() > 10


def test_it_is_really_used(loaded, exported, picture, monkeypatch):
    import onnxruntime

    opened = []
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda file, *a, **k: opened.append(file) or real(file, *a, **k),
    )
    use_engine(loaded, "onnxruntime", exported)
    for module in (loaded.patch_dit.blocks[0], loaded.grm.stem, loaded.texture_encoder.norm):
        monkeypatch.setattr(module, "forward", None)  # torch would fail
    loaded.upscale(picture(32, 32), budget="best")
    used = ["classifier", "decoder", "encoder", "grm", "patch_dit", "prompt"]
    # each once, none that is not needed
    assert sorted(opened) == [str(exported / f"{name}.onnx") for name in used]


def test_the_command(model_folder, exported, photo, capsys):
    source = photo(32, 32)
    command = [
        "upscale",
        str(source),
        "--model",
        str(model_folder),
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    out = source.parent
    assert (
        main(
            [
                *command,
                "-o",
                str(out / "a.png"),
                "--engine",
                "onnxruntime",
                "--onnx-dir",
                str(exported),
            ]
        )
        == 0
    )
    assert main([*command, "-o", str(out / "b.png")]) == 0
    a, b = read(out / "a.png"), read(out / "b.png")
    assert a.shape == (128, 128, 3) and np.abs(a - b).max() <= 1


def test_an_export_is_made_where_there_is_none(loaded, exported, tmp_path, monkeypatch):
    made = []

    def copy(scaler, folder):
        made.append(folder)
        shutil.copytree(exported, folder)

    monkeypatch.setattr("patchscaler.engines.onnx.engine.export_onnx", copy)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    use_engine(loaded, "onnxruntime")
    use_engine(loaded, "onnxruntime")
    assert len(made) == 1 and made[0].is_relative_to(tmp_path / "patchscaler" / "onnx")


def test_auto_takes_the_fast_one_where_it_is_ready(loaded, exported, tmp_path, monkeypatch):
    """Installed and exported; never an export that was not asked for."""
    used = []
    monkeypatch.setattr(
        "patchscaler.engines.onnx.engine._openvino", lambda threads, dtype: used.append("openvino")
    )
    monkeypatch.setattr(
        "patchscaler.engines.onnx.engine.export_onnx", lambda *a: pytest.fail("an export was made")
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("patchscaler.engines.onnx.engine.find_spec", lambda name: name)
    use_engine(loaded, "auto")  # not exported
    monkeypatch.setattr("patchscaler.engines.onnx.engine.find_spec", lambda name: None)
    use_engine(loaded, "auto", exported)  # not installed
    assert not used and "forward" not in vars(loaded.patch_dit)
    monkeypatch.setattr("patchscaler.engines.onnx.engine.find_spec", lambda name: name)
    use_engine(loaded, "auto", exported)
    assert used == ["openvino"] and "forward" in vars(loaded.patch_dit)
    # work begun by torch is not taken up by it
    assert loaded.compute_signature == "cpu torch.float32 openvino float32"


# --- errors ---------------------------------------------------------------------------------------


def test_exports_of_others_are_refused(tiny, loaded, exported, tmp_path):
    torch.manual_seed(9)
    other = PatchScaler(tiny.config, build_networks(tiny.config), None)
    with pytest.raises(PatchScalerError, match="exported from other weights"):
        use_engine(other, "onnxruntime", exported)
    folder = shutil.copytree(exported, tmp_path / "copy")
    (folder / "grm.onnx").write_bytes(b"")
    with pytest.raises(
        PatchScalerError, match=r"grm\.onnx: missing, or not the file that was exported"
    ):
        use_engine(loaded, "onnxruntime", folder)
    (folder / "onnx.json").write_text("{}")
    with pytest.raises(PatchScalerError, match="no export in it"):
        use_engine(loaded, "onnxruntime", folder)


def test_what_cannot_be(loaded, tmp_path, monkeypatch):
    with pytest.raises(
        PatchScalerError,
        match="unknown engine 'tensorrt': choose one of auto, torch, onnxruntime, openvino",
    ):
        use_engine(loaded, "tensorrt")
    for engine, extra in (("onnxruntime", "onnx"), ("openvino", "openvino")):
        monkeypatch.setitem(sys.modules, engine, None)
        with pytest.raises(
            PatchScalerError, match=rf"engine {engine}: pip install 'patchscaler\[{extra}\]'"
        ):
            use_engine(loaded, engine, tmp_path)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        PatchScalerError, match=r"ONNX needs onnx\w*: pip install 'patchscaler\[onnx\]'"
    ):
        export_onnx(loaded, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    monkeypatch.setattr(loaded, "device", torch.device("cuda"))
    with pytest.raises(PatchScalerError, match="runs on the processor"):
        use_engine(loaded, "onnxruntime")
    assert use_engine(loaded, "torch") is loaded


# --- side by side ---------------------------------------------------------------------------------


def test_engines_side_by_side(model_folder, exported, capsys):
    command = [
        "benchmark",
        "--model",
        str(model_folder),
        "--dtype",
        "float32",
        "--size",
        "32",
        "--runs",
        "2",
    ]
    assert (
        main(
            [
                *command,
                "--threads",
                "1",
                "--engines",
                "torch,onnxruntime",
                "--onnx-dir",
                str(exported),
            ]
        )
        == 0
    )
    head, first, second = capsys.readouterr().out.splitlines()
    assert head == "32x32 -> 128x128, 1 threads, 2 rounds, engines in turn"
    assert (
        first.startswith("torch ")
        and "1.00 of torch" in first
        and first.endswith("picture differs by 0.00")
    )
    assert second.startswith("onnxruntime ") and float(second.split("differs by ")[1]) < 0.1
    assert main([*command, "--engines", "torch,tensorrt"]) == 1
    assert "--engines tensorrt: choose of torch, onnxruntime, openvino" in capsys.readouterr().err


def test_the_pipeline_on_openvino(tiny, loaded, exported, picture):
    pytest.importorskip("openvino")
    use_engine(loaded, "openvino", exported)
    for options in ({}, {"prompt": False, "budget": "best"}):
        a, b = tiny.upscale(picture(33, 47), **options), loaded.upscale(picture(33, 47), **options)
        assert np.array_equal(a.groups, b.groups)
        assert np.abs(a.array.astype(int) - b.array).max() <= 1
