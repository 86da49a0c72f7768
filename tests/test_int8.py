"""The refiner in bytes: what it draws, what is folded where, when it is used."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from patchscaler.apps.cli import main
from patchscaler.config import RefinerConfig
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.cost.flops import count_flops
from patchscaler.evaluation.methods import PatchScalerMethod
from patchscaler.models import quantized as int8
from patchscaler.models.quantized import Int8Refiner, find_ranges
from patchscaler.models.refiner import GROWTH, Refiner
from patchscaler.models.weights import load_tensors
from patchscaler.pipeline import PatchScaler

REFINER = RefinerConfig(16, 2, ranges=True)
has_bytes = pytest.mark.skipif(
    not int8.int8_available(), reason="no VNNI here: sums of bytes would overflow"
)


def refiner(config: RefinerConfig = REFINER) -> Refiner:
    torch.manual_seed(0)
    return Refiner(config).eval().requires_grad_(False)


def pictures(seed: int = 1, height: int = 48, width: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    large = torch.rand(1, 6, height, width, generator=generator) * 2 - 1
    return large, torch.rand(1, 3, height // 4, width // 4, generator=generator) * 2 - 1


def ranged() -> Refiner:
    network = refiner()
    find_ranges(network, [pictures(seed) for seed in range(4)])
    return network


def test_ranges_are_the_most_that_a_channel_reached():
    network = ranged()
    given = [pictures(seed) for seed in range(4)]
    first = [
        network.conv_first(torch.cat([torch.nn.functional.pixel_unshuffle(a, 4), b], 1))
        for a, b in given
    ]
    most = torch.stack([x.abs().amax((0, 2, 3)) for x in first]).amax(0)
    assert torch.allclose(network.ranges_dense.view(6, 16 + 4 * GROWTH)[0, :16], most)
    features = torch.stack([network.features(*x).abs().amax((0, 2, 3)) for x in given]).amax(0)
    assert torch.allclose(network.ranges_ends.view(5, 16)[1], features)
    assert not any(m._forward_pre_hooks for m in network.modules())


@has_bytes
def test_bytes_draw_what_floats_draw():
    network, given = ranged(), pictures(9)
    network.conv_last.bias += 0.5
    floats, drawn = network.refine(*given), Int8Refiner(network).refine(*given)
    assert drawn.shape == floats.shape and drawn.dtype == torch.float32
    assert (drawn - floats).square().mean() < 2e-4 * floats.var()
    assert abs((drawn - floats).mean()) < 2e-3 * floats.std()
    assert (drawn - floats).abs().max() > 0  # they are bytes


@has_bytes
def test_pictures_of_many_bands_and_several_at_once():
    network = ranged()
    large, small = (
        torch.cat(both) for both in zip(pictures(5, 200, 36), pictures(6, 200, 36), strict=True)
    )
    fast = Int8Refiner(network)
    together = fast.refine(large, small)
    assert torch.equal(
        together, torch.cat([fast.refine(large[i : i + 1], small[i : i + 1]) for i in range(2)])
    )
    assert torch.equal(together, fast.enlarge(fast.to_up1(fast.features(large, small))))
    assert (together - network.refine(large, small)).square().mean() < 1e-3 * together.var()


@has_bytes
def test_a_copy_draws_the_same():
    network, given = ranged(), pictures()
    object.__setattr__(network, "refine", Int8Refiner(network).refine)
    assert torch.equal(deepcopy(network).refine(*given), network.refine(*given))


@pytest.mark.parametrize("bad", [0.0, float("inf"), float("nan")])
def test_ranges_that_are_none(bad):
    network = ranged()
    network.ranges_ends[:16] = bad
    with pytest.raises(
        PatchScalerError, match="the refiner's ranges are no use: find them again with"
    ):
        Int8Refiner(network)


@has_bytes
def test_a_convolution_of_whole_numbers_is_exact():
    """Black around the picture is zero, which is 128; scales before and after are folded in."""
    conv = torch.nn.Conv2d(16, 8, 3, padding=1)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-126, 127, conv.weight.shape, generator=generator).float()
    weight[:, 0, 0, 0] = 127  # so that a step of an output's weights is one
    read, written = torch.full((16,), 0.5), torch.full((8,), 0.25)
    with torch.no_grad():
        conv.weight.copy_(weight)
    q = torch.randint(0, 256, (1, 16, 5, 7), dtype=torch.uint8, generator=generator)
    wanted = conv((q.float() - 128) * 0.5)
    assert torch.allclose(int8._Conv(conv, read)(q), wanted, rtol=1e-5, atol=1e-2)
    assert torch.allclose(int8._Conv(conv, read, written)(q) * 0.25, wanted, rtol=1e-5, atol=1e-2)
    assert torch.allclose(int8._Conv(conv, read, factor=0.2)(q), 0.2 * wanted, rtol=1e-5, atol=1e-2)


def test_weights_are_rounded_so_that_their_sum_is_too():
    weight = torch.empty(5, 7, 3, 3).uniform_(-120, 120, generator=torch.Generator().manual_seed(0))
    whole = int8.rounded(weight)
    assert torch.equal(whole, whole.round()) and (whole - weight).abs().max() <= 1
    assert (whole - weight).sum((2, 3)).abs().max() <= 0.5 + 1e-3
    # one by one they would be further off
    assert (weight.round() - weight).sum((2, 3)).abs().max() > 1
    assert torch.equal(int8.rounded(weight.round()), weight.round())


def test_floats_become_the_nearest_byte_and_stop_at_the_last():
    scales = torch.tensor([0.5, 2.0])
    x = torch.tensor([0.0, 0.24, 0.26, -0.26, 900.0, -900.0]).repeat(2, 1)[None, :, None]
    assert int8._ToBytes(scales)(x)[0, :, 0].tolist() == [
        [128, 128, 129, 127, 255, 0],
        [128, 128, 128, 128, 255, 0],
    ]
    assert int8._curved(torch.tensor([10.0, -10.0, -1000.0])).tolist() == [138, 126, 0]


def test_a_channel_that_is_always_still_gets_a_range():
    scales = int8._channel_scales(torch.tensor([[1.0, 0.0]]))[0]
    assert torch.allclose(scales, torch.tensor([1.1, 0.022]) / 127)


@has_bytes
def test_operations_of_bytes_are_counted_as_those_of_floats():
    network, given = ranged(), pictures()
    fast = Int8Refiner(network)
    assert (
        count_flops(lambda: fast.refine(*given)) == count_flops(lambda: network.refine(*given)) > 0
    )


# --- where it is used -----------------------------------------------------------------------------


@pytest.fixture
def saved(tiny, tmp_path):
    config = replace(tiny.config, refiner=REFINER)
    scaler = PatchScaler(config, tiny.networks | {"refiner": ranged()}, tiny.memory)
    scaler.save_pretrained(tmp_path / "model", half=False)
    return tmp_path / "model"


@has_bytes
def test_auto_draws_in_bytes_where_the_processor_gains_by_it(saved, monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    monkeypatch.setattr("patchscaler.pipeline.int8_available", lambda: False)
    plain = PatchScaler.from_pretrained(saved, device="cpu")
    monkeypatch.setattr("patchscaler.pipeline.int8_available", lambda: True)
    fast = PatchScaler.from_pretrained(saved, device="cpu")
    exact = PatchScaler.from_pretrained(saved, device="cpu", dtype="float32")
    assert (plain.engine, fast.engine, exact.engine) == ("torch", "torch int8", "torch")
    assert "int8" in fast.compute_signature and "int8" not in plain.compute_signature
    shown = [scaler.upscale(image).array.astype(int) for scaler in (plain, fast, exact)]
    assert np.abs(shown[1] - shown[0]).max() > 0 and np.abs(shown[1] - shown[0]).mean() < 2
    assert np.abs(shown[0] - shown[2]).mean() < 2


@has_bytes
def test_an_engine_or_a_precision_that_was_asked_for_is_taken(saved, monkeypatch):
    monkeypatch.setattr("patchscaler.pipeline.int8_available", lambda: True)
    monkeypatch.setattr(
        "patchscaler.engines.onnx.engine.use_engine",
        lambda scaler, engine, folder: f"asked for {engine}",
    )
    assert PatchScaler.from_pretrained(saved, device="cpu", engine="auto").engine == "torch int8"
    assert (
        PatchScaler.from_pretrained(saved, device="cpu", engine="openvino") == "asked for openvino"
    )
    assert (
        PatchScaler.from_pretrained(saved, device="cpu", engine="auto", dtype="bfloat16")
        == "asked for auto"
    )


@has_bytes
def test_what_draws_in_bytes_is_saved_as_it_was_and_described_as_what_it_is(
    saved, tmp_path, monkeypatch
):
    monkeypatch.setattr("patchscaler.pipeline.int8_available", lambda: True)
    fast = PatchScaler.from_pretrained(saved, device="cpu")
    fast.save_pretrained(tmp_path / "again", half=False)
    for name in ("refiner.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()
    exact = PatchScaler.from_pretrained(
        saved, device="cpu", dtype=str(fast.dtype).removeprefix("torch.")
    )
    # Or a comparison would take one's pictures for the other's.
    assert PatchScalerMethod(fast).describe() != PatchScalerMethod(exact).describe()


def test_without_ranges_nothing_changes(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("patchscaler.pipeline.int8_available", lambda: True)
    plain = replace(REFINER, ranges=False)
    config = replace(tiny.config, refiner=plain)
    PatchScaler(config, tiny.networks | {"refiner": refiner(plain)}, tiny.memory).save_pretrained(
        tmp_path
    )
    assert PatchScaler.from_pretrained(tmp_path, device="cpu").engine == "torch"


def test_a_processor_without_vnni_or_a_torch_without_the_convolutions_has_none(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    assert not int8.int8_available()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True})
    monkeypatch.setattr(torch.ops, "onednn", object())
    assert not int8.int8_available()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not int8.int8_available()


# --- `train ranges` -------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path):
    """Shards of two tiles of noise."""
    folder, rng = tmp_path / "data", np.random.default_rng(0)
    folder.mkdir()
    for name, shape in (
        ("hr", (2, 64, 64, 3)),
        ("lr", (2, 1, 16, 16, 3)),
        ("coarse", (2, 1, 64, 64, 3)),
    ):
        np.save(folder / f"0000_{name}.npy", rng.integers(0, 256, shape, dtype=np.uint8))
    np.save(folder / "0000_confidence.npy", np.full((2, 1, 8, 8), 0.5, np.float16))
    return folder


def test_ranges_are_found_and_kept(tiny, data, tmp_path, capsys):
    plain, folder = replace(REFINER, ranges=False), tmp_path / "model"
    config = replace(tiny.config, refiner=plain)
    PatchScaler(config, tiny.networks | {"refiner": refiner(plain)}, tiny.memory).save_pretrained(
        folder, half=False
    )
    command = [
        "train",
        "ranges",
        "--model",
        str(folder),
        "--device",
        "cpu",
        "--shards",
        str(data),
        "--side",
        "8",
    ]
    assert main([*command, "--regions", "6"]) == 0
    assert "the refiner's ranges on 6 regions" in capsys.readouterr().out
    again = PatchScaler.from_pretrained(folder, device="cpu", dtype="float32")
    assert again.config.refiner.ranges
    assert (again.refiner.ranges_dense > 0).float().mean() > 0.9 and (
        again.refiner.ranges_ends > 0
    ).all()
    kept, _ = load_tensors(folder / "refiner.safetensors")
    assert kept["ranges_dense"].is_floating_point()  # never in eight bits themselves
    before = refiner(plain).state_dict()
    assert all(
        torch.equal(again.refiner.state_dict()[name], before[name].half().float())
        for name in before
    )

    assert main([*command, "--regions", "0"]) == 1
    assert "--regions 0: take 1 or more" in capsys.readouterr().err
    assert main([*command, "--side", "9"]) == 1
    assert "regions of 9 latents: the tiles of these shards have 8" in capsys.readouterr().err


def test_training_again_takes_the_ranges_out(saved, data):
    """They would no longer be true."""
    common = ["--model", str(saved), "--device", "cpu", "--shards", str(data), "--side", "8"]
    losses = [
        "--validation",
        str(data),
        "--batch-size",
        "1",
        "--lpips",
        "0",
        "--gan",
        "0",
        "--pattern",
        "0",
    ]
    assert main(["train", "refining", *common, *losses, "--steps", "1"]) == 0
    assert not PatchScaler.from_pretrained(saved, device="cpu").config.refiner.ranges
    assert main(["train", "ranges", *common, "--regions", "2"]) == 0
    assert PatchScaler.from_pretrained(saved, device="cpu").config.refiner.ranges
    # goes on from its checkpoint
    assert main(["train", "refining", *common, *losses, "--steps", "2"]) == 0
    kept, _ = load_tensors(saved / "refiner.safetensors")
    assert not any(name.startswith("ranges") for name in kept)


def test_a_model_without_a_refiner_has_no_ranges(tiny, tmp_path, capsys):
    tiny.save_pretrained(tmp_path)
    command = [
        "train",
        "ranges",
        "--model",
        str(tmp_path),
        "--device",
        "cpu",
        "--shards",
        str(tmp_path),
    ]
    assert main(command) == 1
    assert "this model has no refiner" in capsys.readouterr().err
