"""`patchscaler export`."""

import argparse

import pytest

from patchscaler.apps.cli import export
from patchscaler.engines import esrgan
from patchscaler.engines import export as graphs
from patchscaler.errors import PatchScalerError


def command(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    export.add_parser(parser.add_subparsers())
    args = parser.parse_args(["export", *map(str, arguments)])
    return args.function(args)


def test_a_folder_for_a_hub(model_folder, tmp_path):
    assert command("--model", model_folder, "--device", "cpu", "--folder", tmp_path / "out") == 0
    assert {"config.json", "grm.safetensors"} <= {p.name for p in (tmp_path / "out").iterdir()}


def test_graphs_are_named_with_their_difference(model_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(graphs, "export_onnx", lambda config, networks, folder: {"grm": 1e-7})
    monkeypatch.setattr(esrgan, "export_esrgan", lambda denoiser, file: 0.0)
    assert command("--model", model_folder, "--device", "cpu", "--onnx", tmp_path / "out") == 0
    assert f"{tmp_path / 'out' / 'grm.onnx'}: " in capsys.readouterr().out


def test_nothing_to_write_is_refused():
    with pytest.raises(PatchScalerError, match="--folder"):
        command()
