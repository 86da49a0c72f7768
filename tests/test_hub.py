"""The folder that a hub takes: model card, sums, a copy of the autoencoder; fetching, offline, what
a hub refuses.
"""

import sys

import huggingface_hub as hub
import numpy as np
import pytest

from patchscaler.apps.cli import main
from patchscaler.errors import PatchScalerError
from patchscaler.model_card import MARK
from patchscaler.models.hub import is_hub_id
from patchscaler.pipeline import PatchScaler

FILES = {"autoencoder", "grm", "classifier", "texture_encoder", "patch_dit", "memory"}


@pytest.fixture
def folder(tiny, tmp_path):
    tiny.save_pretrained(tmp_path / "tiny", half=False, license="apache-2.0")
    return tmp_path / "tiny"


def load(source, **options) -> PatchScaler:
    return PatchScaler.from_pretrained(source, device="cpu", dtype="float32", **options)


def test_another_memory_needs_not_the_one_of_the_folder(folder, tmp_path):
    (folder / "memory.safetensors").rename(tmp_path / "mine.safetensors")
    assert len(load(folder, memory=tmp_path / "mine.safetensors").model.memory) == 10


# --- model card -----------------------------------------------------------------------------------


def test_model_card(folder, tiny):
    card = (folder / "README.md").read_text()
    data = hub.ModelCard(card).data  # as the hub reads its header
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "apache-2.0",
        "patchscaler",
        "image-to-image",
    )
    count = sum(x.numel() for x in tiny.model.patch_dit.parameters())
    assert f"| `patch_dit.safetensors` | Patch-DiT, the diffusion transformer | {count:,} |" in card
    assert "crops: CC0-1.0 (10)" in card and "simple patches 0 from t = 0" in card


def test_a_card_of_ones_own_stays(folder, tiny):
    card = folder / "README.md"
    tiny.save_pretrained(folder, half=False, license="mit")
    assert "license: mit" in card.read_text()
    card.write_text(card.read_text().replace(MARK, "") + "Trained on bricks.\n")
    tiny.save_pretrained(folder, half=False)
    assert card.read_text().endswith("Trained on bricks.\n") and "license: mit" in card.read_text()
    load(folder)  # a card may change: the hub's page edits it


# --- the hub --------------------------------------------------------------------------------------


def test_ids():
    assert all(
        map(is_hub_id, ("me/it", "me/it-v1.0", "me/it@v1", "me/it@31f26fde", "me/it@refs/pr/1"))
    )
    assert not any(
        map(is_hub_id, ("it", "./it", "/me/it", "a/b/c", "../it", "me/it@", "-me/it", "C:/x/y"))
    )


def test_the_folder_of_a_hub_is_the_folder_on_disk(folder, tiny, picture, monkeypatch):
    asked = []

    def snapshot_download(name, **options):
        asked.append((name, options))
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    a, b = load("me/tiny").upscale(picture(33, 47)), tiny.upscale(picture(33, 47))
    assert np.array_equal(a.array, b.array)
    load("me/tiny@v1.0")
    load("me/tiny", offline=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    load("me/tiny")
    assert [name for name, _ in asked] == ["me/tiny"] * 4
    assert [options["revision"] for _, options in asked] == [None, "v1.0", None, None]
    assert [options["local_files_only"] for _, options in asked] == [False, False, True, True]


def test_what_is_fetched(folder, monkeypatch):
    """All that a folder holds, and nothing that could be run."""
    from huggingface_hub.utils import filter_repo_objects

    monkeypatch.setattr(
        hub,
        "snapshot_download",
        lambda name, allow_patterns, **_: patterns.extend(allow_patterns) or folder,
    )
    patterns = []
    load("me/tiny")
    names = [f.name for f in folder.iterdir()] + [
        "autoencoder/config.json",
        "autoencoder/x.safetensors",
    ]
    assert list(filter_repo_objects(names, allow_patterns=patterns)) == names
    assert not list(
        filter_repo_objects(["model.py", "weights.bin", "w.pt", "w.pkl"], allow_patterns=patterns)
    )


def test_offline_and_not_in_the_cache(tmp_path, monkeypatch, capsys):
    """The hub's real code, which reaches no network here."""
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        PatchScalerError, match="'me/it' is not in the local cache, and offline nothing is fetched"
    ):
        load("me/it", offline=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert main(["info", "--model", "me/it", "--offline"]) == 1
    assert "is not in the local cache, and offline" in capsys.readouterr().err


def test_a_model_that_vanished(monkeypatch):
    def gone(*args, **kwargs):
        raise ConnectionError

    monkeypatch.setattr(hub, "snapshot_download", gone)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(
        PatchScalerError, match=r"cannot be fetched \(ConnectionError\); download its folder"
    ):
        load("me/it")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(PatchScalerError, match=r"pip install 'patchscaler\[hub\]'"):
        load("me/it")
