"""The early exit: it learns the trunk's features, the trunk stays, a killed command resumes."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from patchscaler.config import preset
from patchscaler.errors import PatchScalerError
from patchscaler.models.denoiser import RRDBDenoiser
from patchscaler.models.weights import load_module, save_module
from patchscaler.training.data.shards import PairShards
from patchscaler.training.early_exit import EarlyExitStage, EarlyExitTrainer, reading_matrix
from patchscaler.training.loop import LoopConfig, train

CONFIG = preset("tiny-rrdb").denoiser


def random_denoiser() -> RRDBDenoiser:
    torch.manual_seed(0)
    return RRDBDenoiser(CONFIG)


def test_it_comes_nearer_to_the_trunk_which_stays(data, tmp_path):
    net = random_denoiser()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    shards = PairShards(data / "shards")
    stage = EarlyExitStage(net, shards, shards, batch_size=2, lr_size=16)
    first = stage.validate(stage.trainables["exit"])["psnr_to_whole"]
    config = LoopConfig(str(tmp_path), steps=30, lr=3e-3, warmup=1, ema=0.5, bf16=False)
    result = train(stage, config, tmp_path)
    assert result["psnr_to_whole"] > first + 1
    for name, tensor in net.state_dict().items():
        assert name.startswith("exit.") or torch.equal(tensor, before[name]), name
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert all(name.startswith(("blocks.", "conv_body.")) for name in state["models"]["exit"])


def test_the_reading_matrix_weighs_an_error_as_the_next_convolution_does():
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 3, 3, 3, generator=g)
    flat = torch.randn(1, 3, 1, 1, generator=g).expand(1, 3, 6, 6)
    out = F.conv2d(F.interpolate(flat, scale_factor=2.0), weight)
    read = torch.einsum("ij,bjhw->bihw", reading_matrix(weight), flat)
    # a flat error is read through the sum of all taps; the matrix adds the parts of four phases
    assert torch.allclose(reading_matrix(weight), reading_matrix(weight).T, atol=1e-5)
    assert float(read.square().sum()) > 0 and float(out.square().sum()) > 0
    silent = weight.clone()
    silent[:, 1] = 0
    assert float(reading_matrix(silent)[1].abs().max()) < 1e-4


def test_a_denoiser_without_an_exit_is_refused():
    net = RRDBDenoiser(dataclasses.replace(CONFIG, exit_depth=0, exit_blocks=0))
    with pytest.raises(PatchScalerError, match="no early exit"):
        EarlyExitTrainer(net, 0.0)


def test_the_command_starts_from_a_file_and_resumes(data, command, tmp_path, capsys):
    model = tmp_path / "model"
    model.mkdir()
    config = preset("tiny-rrdb")
    (model / "config.json").write_text(config.to_json())
    net = random_denoiser()
    save_module(model / "denoiser.safetensors", net, {"network": "denoiser"}, half=False)
    common = ("--model", model, "--no-bf16", "--device", "cpu", "--log-every", 1)
    pairs = ("--shards", data / "shards", "--validation", data / "validation")
    small = ("--batch-size", 1, "--lr-size", 16)
    command("train", "early-exit", *common, *pairs, *small, "--steps", 1)
    command("train", "early-exit", *common, *pairs, *small, "--steps", 2)
    assert "at step 1" in capsys.readouterr().out
    again = RRDBDenoiser(CONFIG)
    load_module(model / "denoiser.safetensors", again)
    for name, tensor in again.state_dict().items():
        if not name.startswith("exit."):
            torch.testing.assert_close(tensor, net.state_dict()[name], atol=2e-2, rtol=0)
