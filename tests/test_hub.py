"""The folder that a hub takes: model card, sums, a copy of the autoencoder; fetching, offline, what
a hub refuses.
"""

import hashlib
import re
import shutil
import sys
from dataclasses import replace

import huggingface_hub as hub
import numpy as np
import pytest
import torch

from patchscaler.apps.cli import main
from patchscaler.errors import PatchScalerError
from patchscaler.models import checksums
from patchscaler.models.card import MARK
from patchscaler.models.checksums import check_sums, renew_sums, verify
from patchscaler.models.folder import SHIPPED, build_networks
from patchscaler.models.hub import is_hub_id
from patchscaler.pipeline import PatchScaler

FILES = {"autoencoder", "grm", "classifier", "texture_encoder", "patch_dit", "memory"}


@pytest.fixture
def folder(tiny, tmp_path):
    tiny.save_pretrained(tmp_path / "tiny", half=False, licence="apache-2.0")
    return tmp_path / "tiny"


def load(source, **options) -> PatchScaler:
    return PatchScaler.from_pretrained(source, device="cpu", dtype="float32", **options)


# --- sums -----------------------------------------------------------------------------------------


def test_sums_are_those_of_sha256sum(folder):
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    assert {line.split("  ")[1] for line in lines} == {f"{name}.safetensors" for name in FILES} | {
        "config.json"
    }
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize(
    "name", ["config.json", *(f"{name}.safetensors" for name in sorted(FILES))]
)
def test_a_changed_file_is_named(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[-2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(
        PatchScalerError, match=rf"{name}: not the file that was saved .* --write-sums"
    ) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_files_of_two_versions_do_not_mix(folder, tiny, tmp_path):
    torch.manual_seed(3)
    networks = tiny.networks | {"grm": build_networks(tiny.config)["grm"]}
    PatchScaler(tiny.config, networks, None).save_pretrained(tmp_path / "other", half=False)
    shutil.copy(tmp_path / "other" / "grm.safetensors", folder)
    with pytest.raises(PatchScalerError, match=r"grm\.safetensors: not the file"):
        load(folder)
    renew_sums(folder)
    load(folder)


def test_a_folder_without_sums_loads(folder):
    (folder / "SHA256SUMS").unlink()
    assert load(folder).config.name == "tiny"


def test_files_that_are_not_listed(folder):
    sums = folder / "SHA256SUMS"
    sums.write_text(
        "".join(line for line in sums.read_text().splitlines(True) if "grm" not in line)
    )
    with pytest.raises(PatchScalerError, match=r"grm\.safetensors: not in SHA256SUMS"):
        load(folder)


@pytest.mark.parametrize(
    ("text", "message"), [("", "empty"), ("<html>\n", "not a list of SHA-256 sums")]
)
def test_spoilt_sums(folder, text, message):
    (folder / "SHA256SUMS").write_text(text)
    with pytest.raises(PatchScalerError, match=message):
        load(folder)


def test_another_memory_needs_not_the_one_of_the_folder(folder, tmp_path):
    (folder / "memory.safetensors").rename(tmp_path / "mine.safetensors")
    assert len(load(folder, memory=tmp_path / "mine.safetensors").memory) == 10


def test_a_save_that_was_stopped_is_noticed(folder, tiny, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    torch.manual_seed(4)
    networks = tiny.networks | {"patch_dit": build_networks(tiny.config)["patch_dit"]}
    monkeypatch.setattr(checksums, "file_hash", stop)  # the sums come last
    with pytest.raises(KeyboardInterrupt):
        PatchScaler(tiny.config, networks, tiny.memory).save_pretrained(folder, half=False)
    monkeypatch.undo()
    with pytest.raises(PatchScalerError, match="not the file that was saved"):
        load(folder)


def test_info_verifies(folder, capsys):
    command = ["info", "--model", str(folder)]
    assert main([*command, "--verify"]) == 0
    assert capsys.readouterr().out.count("ok       ") == 7
    (folder / "grm.safetensors").write_bytes(b"x")
    (folder / "classifier.safetensors").unlink()
    assert main([*command, "--verify"]) == 1
    out = capsys.readouterr().out
    assert "differs  grm.safetensors" in out and "missing  classifier.safetensors" in out
    assert main([*command, "--write-sums"]) == 0
    assert set(verify(folder).values()) == {"ok"} and len(verify(folder)) == 6
    (folder / "SHA256SUMS").unlink()
    assert main([*command, "--verify"]) == 1
    assert "no SHA256SUMS, so nothing to check by" in capsys.readouterr().err


def test_shipped_weights_are_as_they_were_saved():
    states = verify(SHIPPED / "compact")
    assert set(states.values()) == {"ok"}, "weights were replaced: patchscaler info --write-sums"
    assert {file.name for file in (SHIPPED / "compact").glob("*.safetensors")} <= set(states)


# --- model card -----------------------------------------------------------------------------------


def test_model_card(folder, tiny):
    card = (folder / "README.md").read_text()
    data = hub.ModelCard(card).data  # as the hub reads its header
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "apache-2.0",
        "patchscaler",
        "image-to-image",
    )
    count = sum(x.numel() for x in tiny.patch_dit.parameters())
    assert f"| `patch_dit.safetensors` | Patch-DiT, the diffusion transformer | {count:,} |" in card
    assert "crops: CC0-1.0 (10)" in card and "simple patches 0 from t = 0" in card


def test_a_card_of_ones_own_stays(folder, tiny):
    card = folder / "README.md"
    tiny.save_pretrained(folder, half=False, licence="mit")
    assert "license: mit" in card.read_text()
    card.write_text(card.read_text().replace(MARK, "") + "Trained on bricks.\n")
    tiny.save_pretrained(folder, half=False)
    assert card.read_text().endswith("Trained on bricks.\n") and "license: mit" in card.read_text()
    load(folder)  # a card may change: the hub's page edits it


def test_export_writes_the_folder(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["export", "--model", str(folder), "--folder", str(out), "--licence", "mit"]) == 0
    assert "tiny; upload it with" in capsys.readouterr().out
    assert {f.name for f in out.iterdir()} == {f.name for f in folder.iterdir()}
    assert "license: mit" in (out / "README.md").read_text()
    assert (out / "patch_dit.safetensors").stat().st_size < (
        folder / "patch_dit.safetensors"
    ).stat().st_size
    assert main(["export", "--model", str(folder)]) == 1
    assert "say what to write" in capsys.readouterr().err


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


def test_a_damaged_download_is_named(folder, monkeypatch):
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **_: folder)
    (folder / "grm.safetensors").write_bytes((folder / "grm.safetensors").read_bytes()[:-1])
    with pytest.raises(
        PatchScalerError, match=r"grm\.safetensors: not the file .*; download it again"
    ):
        load("me/tiny")


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


# --- another's autoencoder ------------------------------------------------------------------------


@pytest.fixture
def borrowed(tiny, tmp_path):
    """A model with a diffusers autoencoder, and the folder that this one was read from."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    ).save_pretrained(tmp_path / "vae")
    autoencoder = replace(
        tiny.config.autoencoder, kind="tiny", channels=4, model_id=str(tmp_path / "vae")
    )
    config = replace(tiny.config, autoencoder=autoencoder)
    return PatchScaler(config, build_networks(config), None), tmp_path / "vae"


def test_a_saved_model_needs_nobody_elses(borrowed, picture, tmp_path):
    model, vae = borrowed
    model.save_pretrained(tmp_path / "whole", half=False)
    shutil.rmtree(vae)
    again = load(tmp_path / "whole")
    assert again.config.autoencoder == model.config.autoencoder  # still says where it came from
    assert np.array_equal(
        again.upscale(picture(32, 32)).array, model.upscale(picture(32, 32)).array
    )
    again.save_pretrained(tmp_path / "copy", half=False)
    assert verify(tmp_path / "copy") == verify(tmp_path / "whole")
    card = (tmp_path / "whole" / "README.md").read_text()
    assert "`autoencoder/`" in card and "The autoencoder is " in card and str(tmp_path) not in card
    text = re.sub(
        "0.1", "0.2", (tmp_path / "whole" / "autoencoder" / "config.json").read_text(), count=1
    )
    (tmp_path / "whole" / "autoencoder" / "config.json").write_text(text + " ")
    with pytest.raises(
        PatchScalerError, match=r"autoencoder/config\.json: not the file that was saved"
    ):
        load(tmp_path / "whole")


def test_a_model_that_only_names_it(borrowed, tmp_path):
    model, vae = borrowed
    model.save_pretrained(tmp_path / "part", half=False, copy_autoencoder=False)
    assert not (tmp_path / "part" / "autoencoder").exists()
    load(tmp_path / "part")
    vae.rename(tmp_path / "moved")
    with pytest.raises(
        PatchScalerError, match=r"vae' cannot be loaded .* local copy with --autoencoder"
    ):
        load(tmp_path / "part")
    load(tmp_path / "part", autoencoder=tmp_path / "moved")


def test_offline_reaches_the_autoencoder(borrowed, tmp_path, monkeypatch):
    import diffusers

    model, _ = borrowed
    model.save_pretrained(tmp_path / "part", half=False, copy_autoencoder=False)
    asked, real = [], diffusers.AutoencoderTiny.from_pretrained

    def from_pretrained(name, **options):
        asked.append(options)
        return real(name, **options)

    monkeypatch.setattr(diffusers.AutoencoderTiny, "from_pretrained", from_pretrained)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    load(tmp_path / "part")
    load(tmp_path / "part", offline=True)
    assert [options["local_files_only"] for options in asked] == [False, True]


def test_checking_costs_nothing_without_sums(tmp_path, monkeypatch):
    monkeypatch.setattr(checksums, "file_hash", None)
    (tmp_path / "x.json").write_text("{}")
    check_sums(tmp_path, ["x.json"])
