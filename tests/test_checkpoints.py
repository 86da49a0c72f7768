"""Weights on disk: atomic writing, strict reading, stable hashes."""

import pytest
import torch
from safetensors import safe_open
from torch import nn

from patchscaler.errors import PatchScalerError
from patchscaler.models import weights as checkpoints
from patchscaler.models.weights import (
    file_hash,
    load_module,
    load_tensors,
    save_module,
    save_tensors,
)


def network() -> nn.Module:
    torch.manual_seed(0)
    # the norm counts batches in an integer
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_module_round_trip(tmp_path):
    source, target = network(), nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    save_module(tmp_path / "a" / "n.safetensors", source, {"network": "n"}, half=False)
    metadata = load_module(tmp_path / "a" / "n.safetensors", target)
    assert metadata == {"format": "patchscaler-1", "network": "n"}
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in source.state_dict().items())


def test_half_precision_on_disk_full_in_memory(tmp_path):
    source, target = network(), nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    save_module(tmp_path / "n.safetensors", source, {})
    with safe_open(tmp_path / "n.safetensors", framework="pt") as file:
        assert file.get_tensor("0.weight").dtype == torch.float16
        assert file.get_tensor("1.num_batches_tracked").dtype == torch.int64
    load_module(tmp_path / "n.safetensors", target)
    assert target[0].weight.dtype == torch.float32
    assert torch.equal(target[0].weight, source[0].weight.half().float())


def small_network(bits: int) -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(16, 4, 3), nn.BatchNorm2d(4), nn.Linear(8, 2), nn.Conv2d(11, 4, 3)
    )
    nn.init.zeros_(module[2].weight)
    module.storage_bits = bits
    return module


def test_eight_bits_have_a_factor_for_each_output_and_eight_inputs(tmp_path):
    source, target = small_network(8), small_network(8)
    with torch.no_grad():
        # it coarsens neither the other output channels nor the other inputs
        source[0].weight[1, :8] *= 1000
    save_module(tmp_path / "n.safetensors", source, {})
    with safe_open(tmp_path / "n.safetensors", framework="pt") as file:
        assert file.get_tensor("0.weight").dtype == torch.int8
        assert file.get_tensor("0.weight.int8_scale").shape == (4, 2)
        assert file.get_tensor("0.bias").dtype == torch.float16
        assert file.get_tensor("2.weight").dtype == torch.int8
        # eleven inputs: a factor for all would be too coarse
        assert file.get_tensor("3.weight").dtype == torch.float16
    load_module(tmp_path / "n.safetensors", target)
    assert torch.equal(source[3].weight.half().float(), target[3].weight)
    largest = source[0].weight.abs().reshape(4, 2, -1).amax(2)
    error = (source[0].weight - target[0].weight).abs().reshape(4, 2, -1).amax(2)
    # Up or down by chance, to one of the two whole steps beside it; the largest of a group to the
    # nearest.
    assert (error <= largest / 127 * 1.01).all() and error.all()
    weights, read = (net[0].weight.detach().reshape(4, 2, -1) for net in (source, target))
    place = weights.abs().argmax(2, keepdim=True)
    assert ((weights - read).gather(2, place).abs()[..., 0] <= largest / 127 * 0.51).all()
    # As often up as down: of 72 weights the errors' mean is a tenth of a step at most, save for
    # chance.
    assert ((weights - read).mean(2).abs() <= largest / 127 * 0.2).all()
    assert not target[2].weight.any()
    save_module(tmp_path / "full.safetensors", source, {}, half=False)
    load_module(tmp_path / "full.safetensors", target)
    assert torch.equal(source[0].weight, target[0].weight)


def test_eight_bits_keep_steps_smaller_than_their_own(tmp_path):
    """Training that goes on from a file in eight bits moves most weights by less than half of a
    step.
    """
    module = nn.Conv2d(64, 64, 3)
    module.storage_bits = 8
    save_module(tmp_path / "before.safetensors", module, {})
    load_module(tmp_path / "before.safetensors", module)
    save_module(tmp_path / "again.safetensors", module, {})
    assert file_hash(tmp_path / "again.safetensors") == file_hash(tmp_path / "before.safetensors")
    before = module.weight.detach().clone()
    moved = (
        0.2
        * before.abs().reshape(64, 8, -1).amax(2).div(127).repeat_interleave(8, 1)[..., None, None]
    )
    with torch.no_grad():
        module.weight += moved
    save_module(tmp_path / "after.safetensors", module, {})
    load_module(tmp_path / "after.safetensors", module)
    kept = ((module.weight.detach() - before) * moved).sum() / (
        moved * moved.expand_as(before)
    ).sum()
    assert abs(float(kept) - 1) < 0.05  # to the nearest: 0


def test_eight_bits_without_their_factors_are_refused(tmp_path):
    save_module(tmp_path / "n.safetensors", small_network(8), {})
    tensors, _ = load_tensors(tmp_path / "n.safetensors")
    for wrong in (None, torch.ones(3, 2).half(), torch.ones(4).half(), torch.ones(4, 3).half()):
        broken = {k: v for k, v in tensors.items() if k != "0.weight.int8_scale"}
        save_tensors(
            tmp_path / "n.safetensors",
            broken if wrong is None else broken | {"0.weight.int8_scale": wrong},
            {},
        )
        with pytest.raises(PatchScalerError, match="'0\\.weight' is in int8 and lacks its factors"):
            load_module(tmp_path / "n.safetensors", small_network(8))


def test_tensors_of_any_layout(tmp_path):
    x = torch.arange(6.0).view(2, 3)
    save_tensors(
        tmp_path / "x.safetensors", {"turned": x.T, "wide": x[:1].expand(4, 3)}, {"a": "b"}
    )
    tensors, metadata = load_tensors(tmp_path / "x.safetensors")
    assert torch.equal(tensors["turned"], x.T) and torch.equal(tensors["wide"], x[:1].expand(4, 3))
    assert metadata["a"] == "b"


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "n.safetensors"
    save_module(path, network(), {})
    before = path.read_bytes()

    def full(tensors, name, metadata):
        with open(name, "wb") as file:
            file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(OSError, match="disk full"):
        save_module(path, network(), {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_names_and_shapes_are_checked(tmp_path):
    save_module(tmp_path / "n.safetensors", network(), {})
    wider = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(4))
    with pytest.raises(
        PatchScalerError,
        match=r"do not fit the configuration \(0.(weight, 0.bias|bias, 0.weight)\)",
    ):
        load_module(tmp_path / "n.safetensors", wider)
    without = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(
        PatchScalerError, match=r"1.bias, 1.num_batches_tracked, 1.running_mean and 2 more"
    ):
        load_module(tmp_path / "n.safetensors", without)
    with pytest.raises(PatchScalerError, match=r"2.bias, 2.weight\)"):
        load_module(tmp_path / "n.safetensors", nn.Sequential(*network(), nn.Linear(4, 4)))


def test_a_mismatch_changes_no_weight(tmp_path):
    save_module(tmp_path / "n.safetensors", network(), {})
    target = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(4))
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(PatchScalerError):
        load_module(tmp_path / "n.safetensors", target)
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in before.items())


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff" * 100, b"PK\x03\x04 a torch file"])
def test_no_safetensors(tmp_path, data):
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(PatchScalerError, match="corrupt or not a safetensors file"):
        load_tensors(tmp_path / "x.safetensors")


def test_missing_file(tmp_path):
    with pytest.raises(PatchScalerError, match=r"none\.safetensors: no such weights file"):
        load_tensors(tmp_path / "none.safetensors")


def test_hash_of_a_known_text(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert (
        file_hash(tmp_path / "x")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_the_same_weights_are_the_same_file(tmp_path):
    # The texture memory knows its classifier by the file's hash, so saving again must not change
    # it.
    hashes = set()
    for i in range(8):
        save_module(tmp_path / f"{i}.safetensors", network(), {"network": "n"})
        hashes.add(file_hash(tmp_path / f"{i}.safetensors"))
    assert len(hashes) == 1
