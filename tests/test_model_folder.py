"""Saving and loading a whole model, memory running out, and what goes wrong."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from patchscaler.config import preset
from patchscaler.errors import PatchScalerError
from patchscaler.model import Model
from patchscaler.model_folder import build_networks
from patchscaler.models.weights import load_tensors, save_module
from patchscaler.pipeline import PatchScaler

NETWORKS = ("autoencoder", "grm", "classifier", "texture_encoder", "patch_dit")


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    """A folder of `save_pretrained` in full precision; not to be changed."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny.save_pretrained(folder, half=False)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of it, to be spoilt; without sums, as training leaves it (with them: test_hub.py)."""
    return shutil.copytree(saved, tmp_path / "tiny")


def load(folder, **options) -> PatchScaler:
    return PatchScaler.from_pretrained(folder, device="cpu", dtype="float32", **options)


# --- round trip -----------------------------------------------------------------------------------


def test_files(saved):
    expected = {f"{name}.safetensors" for name in (*NETWORKS, "memory")}
    expected |= {"config.json", "README.md"}
    assert {path.name for path in saved.iterdir()} == expected


def test_round_trip_gives_an_equal_picture(tiny, saved, picture):
    loaded = load(saved)
    assert loaded.model.config == tiny.model.config
    a, b = tiny.upscale(picture(64, 64)), loaded.upscale(picture(64, 64))
    assert np.array_equal(np.asarray(a.image), np.asarray(b.image))
    assert np.array_equal(a.groups, b.groups) and np.array_equal(a.textures, b.textures)
    assert loaded.model.memory.origins == tiny.model.memory.origins


def test_half_precision_is_half_the_size_and_nearly_the_picture(tiny, saved, picture, tmp_path):
    tiny.save_pretrained(tmp_path)
    name = "patch_dit.safetensors"
    assert (tmp_path / name).stat().st_size < 0.6 * (saved / name).stat().st_size
    loaded = load(tmp_path)
    assert next(loaded.model.patch_dit.parameters()).dtype == torch.float32
    a, b = (
        np.asarray(s.upscale(picture(33, 47), groups=preset("tiny").groups).image, int)
        for s in (tiny, loaded)
    )
    assert np.abs(a - b).mean() < 1


def test_bfloat16_gives_nearly_the_picture(tiny, saved, picture):
    low = PatchScaler.from_pretrained(saved, device="cpu", dtype="bfloat16")
    # no patch may change its group
    everything = replace(preset("tiny").groups, thresholds=(1.0, 1.0))
    a, b = (
        np.asarray(s.upscale(picture(33, 47), groups=everything).image, int) for s in (tiny, low)
    )
    assert 0 < np.abs(a - b).mean() < 4


def test_saving_what_was_loaded_changes_nothing(saved, tmp_path):
    load(saved).save_pretrained(tmp_path, half=False)
    assert (tmp_path / "config.json").read_text() == (saved / "config.json").read_text()
    for path in saved.glob("*.safetensors"):
        before, after = load_tensors(path)[0], load_tensors(tmp_path / path.name)[0]
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before), path.name


def test_another_memory(tiny, saved, picture, tmp_path):
    shutil.copy(saved / "memory.safetensors", tmp_path / "other.safetensors")
    loaded = load(saved, memory=tmp_path / "other.safetensors")
    assert torch.equal(loaded.model.memory.keys, tiny.model.memory.keys)
    with pytest.raises(PatchScalerError, match=r"none\.safetensors: no such weights file"):
        load(saved, memory=tmp_path / "none.safetensors")


def test_a_model_without_memory_comes_back_without(tiny, picture, tmp_path):
    PatchScaler(Model(tiny.model.config, tiny.model.networks, None)).save_pretrained(
        tmp_path, half=False
    )
    a, b = tiny.upscale(picture(33, 47), prompt=False), load(tmp_path).upscale(picture(33, 47))
    assert np.array_equal(np.asarray(a.image), np.asarray(b.image))


# --- spoilt folders -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NETWORKS, "memory"])
def test_missing_weights(folder, name):
    (folder / f"{name}.safetensors").unlink()
    with pytest.raises(PatchScalerError, match=rf"{name}\.safetensors"):
        load(folder)


@pytest.mark.parametrize("name", [*NETWORKS, "memory"])
@pytest.mark.parametrize("share", [0, 0.5, 0.999])
def test_truncated_weights(folder, name, share):
    path = folder / f"{name}.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(PatchScalerError, match=rf"{name}\.safetensors: corrupt"):
        load(folder)


def test_weights_of_another_program(folder):
    save_file({"x": torch.zeros(2)}, folder / "grm.safetensors")
    with pytest.raises(PatchScalerError, match="not written by PatchScaler"):
        load(folder)


def test_weights_of_another_network(folder):
    shutil.copy(folder / "classifier.safetensors", folder / "grm.safetensors")
    with pytest.raises(
        PatchScalerError, match=r"grm\.safetensors: weights do not fit .* and \d+ more"
    ):
        load(folder)


def test_weights_of_another_size(folder, tiny):
    config = replace(
        tiny.model.config, patch_dit=replace(tiny.model.config.patch_dit, hidden_size=64)
    )
    (folder / "config.json").write_text(config.to_json())
    with pytest.raises(
        PatchScalerError, match=r"safetensors: weights do not fit the configuration"
    ):
        load(folder)


def test_memory_of_another_classifier(folder, tiny):
    torch.manual_seed(5)
    save_module(
        folder / "classifier.safetensors", build_networks(tiny.model.config)["classifier"], {}
    )
    with pytest.raises(PatchScalerError, match="another texture classifier"):
        load(folder)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "not a PatchScaler configuration"),
        (b'{"name": "x", "colour": 1}', "unknown setting colour"),
        (b"\xff\xfe\x00", r"config\.json"),
        (b'{"name": "x", "grm": {"kind": "swin"}}', "unknown GRM 'swin'"),
    ],
)
def test_spoilt_configuration(folder, data, message):
    (folder / "config.json").write_bytes(data)
    with pytest.raises(PatchScalerError, match=message):
        load(folder)


def test_folder_without_configuration(tmp_path):
    with pytest.raises(PatchScalerError, match=r"no config\.json"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["gigantic", "./none/here", "/none/here", "a/b/c"])
def test_unknown_model(name):
    with pytest.raises(PatchScalerError, match="no such folder, and the shipped ones are"):
        load(name)


# --- memory running out ---------------------------------------------------------------------------


def hungry(tiny, monkeypatch, limit: int, error: Exception) -> list[int]:
    """Let Patch-DiT fail for batches above `limit` -> sizes asked for, filled as it runs."""
    real, asked = tiny.model.patch_dit.forward, []

    def forward(x_t, *args):
        asked.append(len(x_t))
        if len(x_t) > limit:
            raise error
        return real(x_t, *args)

    monkeypatch.setattr(tiny.model.patch_dit, "forward", forward)
    return asked
