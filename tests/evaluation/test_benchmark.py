"""What enlarging costs: counts against numbers worked out by hand, and every part of the command
once.
"""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from patchscaler.apps.cli import main
from patchscaler.apps.cli.measure import listed
from patchscaler.config import PATCH_DIT_SIZES, TextureConfig, preset
from patchscaler.diffusion.groups import assign_groups, patch_confidence
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.cost import paper_networks, paper_size
from patchscaler.evaluation.cost.flops import count_flops, network_flops
from patchscaler.evaluation.cost.measure import measure_picture, shares_of_peak
from patchscaler.evaluation.cost.memory import process_peak, run_child
from patchscaler.evaluation.cost.pictures import mirrored, square_of, synthetic_photo
from patchscaler.evaluation.cost.sweeps import (
    sweep_overlaps,
    sweep_sizes,
    sweep_steps,
    threads,
    uniform_groups,
)
from patchscaler.evaluation.cost.timing import Timing, growth_exponent, matmul_peak, measure


@pytest.fixture(scope="module")
def model(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny.save_pretrained(folder, half=False)
    return folder


# --- counting -------------------------------------------------------------------------------------


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


def test_a_picture_costs_what_its_parts_cost(tiny, picture):
    lr = np.array(picture(64, 64))
    result = tiny.upscale(lr)
    assert 0 in result.groups and 2 in result.groups  # patches without and with evaluations
    whole = count_flops(lambda: tiny.upscale(lr, color="none"))  # matching colours is no network
    parts = network_flops(tiny, 64, 64).of_picture(result.cost)
    assert parts["total"] == whole == sum(v for k, v in parts.items() if k != "total")
    plain = network_flops(tiny, 64, 64, prompt=False)
    assert plain.prompt == 0 and plain.evaluation < network_flops(tiny, 64, 64).evaluation


# --- timing ---------------------------------------------------------------------------------------


def test_growth_exponent_of_made_up_times():
    pixels = [128**2, 256**2, 512**2]
    assert growth_exponent(pixels, [3e-6 * p for p in pixels]) == pytest.approx(1)
    assert growth_exponent(pixels, [1e-9 * p**1.7 for p in pixels]) == pytest.approx(1.7)
    for bad in ([1], [1, 1]):
        with pytest.raises(PatchScalerError, match="two sizes or more"):
            growth_exponent(bad, [1.0] * len(bad))


def test_the_warm_up_is_apart_and_the_median_counts(monkeypatch):
    clock = iter([0, 9, 10, 11, 20, 22, 30, 36])  # 9 s to warm up, then 1, 2 and 6
    monkeypatch.setattr("patchscaler.evaluation.cost.timing.time.perf_counter", lambda: next(clock))
    calls = []
    assert measure(lambda: calls.append(1), 3) == Timing(median=2, low=1, high=6, warm_up=9, runs=3)
    assert len(calls) == 4
    with pytest.raises(PatchScalerError, match="take 1 or more"):
        measure(lambda: None, 0)


def test_matmul_peak_is_the_best_run(monkeypatch):
    clock = iter([0, 1, 10, 12, 20, 20.5])
    monkeypatch.setattr("patchscaler.evaluation.cost.timing.time.perf_counter", lambda: next(clock))
    assert matmul_peak("cpu", torch.float32, side=16, runs=2) == 2 * 16**3 / 0.5


def test_share_of_peak(tiny, picture):
    lr = np.array(picture(40, 56))
    measured = measure_picture(tiny, lr, 1)
    measured = replace(
        measured, seconds=Timing(2.0, 2.0, 2.0, 2.0, 1), stages={"coarse": 0.5, "prompt": 0.0}
    )
    flops = network_flops(tiny, 40, 56)
    shares = shares_of_peak(flops, measured, peak=1e9)
    assert shares == {
        "coarse": flops.coarse / 0.5 / 1e9,
        "total": flops.of_picture(measured.cost)["total"] / 2 / 1e9,
    }


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with threads(before + 1) as count:
        assert count == torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


# --- memory ---------------------------------------------------------------------------------------


def test_a_childs_peak_is_its_own():
    small, large = (
        run_child(f"x = bytearray({n} << 20); x[::4096] = b'1' * len(x[::4096])", [])
        for n in (1, 200)
    )
    assert 190 < large.peak_mib - small.peak_mib < 230
    ballast = np.ones(300 << 17)  # 300 MiB of this process are not the child's
    assert process_peak() > 300
    again = run_child("pass", [])
    assert again.peak_mib < small.peak_mib + 30 and len(ballast)


def test_a_child_that_fails_is_told_in_its_words():
    with pytest.raises(PatchScalerError, match="a process of its own failed: no more"):
        run_child("import sys; sys.exit('no more')", [])


# --- pictures and sweeps --------------------------------------------------------------------------


def test_mirrored_keeps_the_mix():
    picture = synthetic_photo(24)
    large = mirrored(picture, 48)
    assert large.shape == (48, 48, 3)
    assert (large[:24, :24] == picture).all() and (large[24:, :24] == picture[::-1]).all()
    assert (mirrored(picture, 10) == picture[:10, :10]).all()


def test_square_of_a_photograph(tmp_path, picture):
    picture(40, 60).save(tmp_path / "a.png")
    assert square_of(str(tmp_path / "a.png"), 16).shape == (16, 16, 3)
    with pytest.raises(PatchScalerError, match="no such file"):
        square_of(str(tmp_path / "b.png"), 16)


def test_sweeps_count_what_they_vary(tiny, picture):
    lr = np.array(picture(64, 64))
    rows, exponents = sweep_sizes(tiny, lr, (32, 64), 1, {"other": lambda x: x})
    assert [(row["size"], row["method"]) for row in rows][:3] == [
        (32, "patchscaler"),
        (32, "patchscaler, all patches hard"),
        (32, "other"),
    ]
    assert set(exponents) == {"patchscaler", "patchscaler, all patches hard", "other"}
    patches = [sum(row["patches"].values()) for row in sweep_overlaps(tiny, lr, (8, 0), 1)]
    assert patches == [9, 4]  # 32 latents a side: three windows of 16 at stride 8, two at stride 16
    by_steps = sweep_steps(tiny, lr, [(0, 0, 0), (2, 3, 5)], 1)
    assert by_steps[0]["evaluations_total"] == 0
    counts = by_steps[1]["patches"]
    assert by_steps[1]["evaluations"] == {
        n: counts[n] * s for n, s in zip(counts, (2, 3, 5), strict=True)
    }
    uniform = measure_picture(tiny, lr, 1, uniform_groups(tiny))
    assert uniform.patches == {"simple": 0, "medium": 0, "hard": 9}
    assert uniform.megapixels_per_second == pytest.approx(256**2 / 1e6 / uniform.seconds.median)


# --- the paper's size -----------------------------------------------------------------------------


def test_shares_of_the_paper():
    # Half of the patches lie between .70 and 1: a sixth of these above .95, two thirds from .75 to
    # .95.
    assert paper_size.paper_shares() == pytest.approx((0.5 / 6, 0.5 * 5 / 6))
    with pytest.raises(PatchScalerError, match=r"below \.70"):
        paper_size.paper_shares((0.95, 0.5))


def test_networks_have_the_published_sizes():
    pytest.importorskip("diffusers")
    with torch.device("meta"):
        unet, decoder = paper_networks.latent_diffusion()
        kl = paper_networks.RandomAutoencoder(preset("paper").autoencoder)
    assert sum(p.numel() for p in unet.network.parameters()) == 113_622_563  # "113.6 M"
    assert sum(p.numel() for p in kl.model.parameters()) == 83_653_863
    assert unet.calls == 20 and decoder.calls == 1
    # Stable Diffusion's autoencoder at 512x512: 1257.3 G multiplications to decode, 558.3 to
    # encode.
    coarse, decode = paper_networks.autoencoder_flops(preset("paper"), 128)
    assert decode / 2e9 == pytest.approx(1257.3, abs=0.1)
    assert coarse / 2e9 > 558.3


def small_paper(monkeypatch):
    """The `paper` preset with shrunken networks in place of the real ones."""
    diffusers = pytest.importorskip("diffusers")
    base = preset("paper")
    config = replace(
        base,
        grm=replace(base.grm, width=8),
        texture=TextureConfig(widths=(8, 8), classes=("a",), memory_size=6),
        patch_dit=replace(
            PATCH_DIT_SIZES["tiny"], shared_modulation=False, depthwise_mlp=False, cross_size=0
        ),
    )

    class SmallAutoencoder(paper_networks.RandomAutoencoder):
        def __init__(self, config):
            paper_networks.Autoencoder.__init__(self)
            self.model = diffusers.AutoencoderKL(
                block_out_channels=(4, 4, 4, 4),
                layers_per_block=1,
                norm_num_groups=2,
                latent_channels=4,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
            )
            self.channels, self.factor, self.scaling_factor = 4, 8, 0.18

    monkeypatch.setattr(paper_networks, "RandomAutoencoder", SmallAutoencoder)
    monkeypatch.setattr(paper_networks, "preset", lambda name: config)

    def two_convolutions():
        conv = torch.nn.Conv2d(3, 3, 3, padding=1)
        return [
            paper_networks.Part(
                "conv", conv, 2, lambda n, device: (torch.zeros(1, 3, n, n, device=device),)
            )
        ]

    methods = {"LDM": two_convolutions, "SwinIR-GAN": unavailable}
    monkeypatch.setattr(paper_size, "PAPER_METHODS", methods)
    monkeypatch.setattr(paper_size, "matmul_peak", lambda device, dtype: 1e9)


def unavailable():
    raise PatchScalerError("needs spandrel: pip install it")


def test_thresholds_part_the_patches_as_in_the_paper(monkeypatch):
    small_paper(monkeypatch)
    model = paper_networks.paper_model("cpu", torch.float32)
    picture = synthetic_photo(96)  # 48 latents a side, 5 x 5 patches
    groups = paper_size.groups_with_shares(model, picture, (0.2, 0.6))
    result = model.upscale(picture, groups=groups)
    assert result.cost["patches"] == {"simple": 5, "medium": 10, "hard": 10}
    assert result.cost["evaluations"] == {"simple": 40, "medium": 140, "hard": 200}
    scores = patch_confidence(torch.from_numpy(result.confidence)[None], result.grid)
    assert (assign_groups(scores, groups.thresholds).numpy() == result.groups).all()


def test_random_weights_that_overflow_are_told(monkeypatch):
    small_paper(monkeypatch)
    model = paper_networks.paper_model("cpu", torch.float32)
    model.grm.confidence_head.weight.fill_(float("nan"))
    with pytest.raises(PatchScalerError, match="take --dtype bfloat16"):
        paper_size.groups_with_shares(model, synthetic_photo(64), (0.2, 0.6))


def test_measured_and_extrapolated_rows_count_alike(monkeypatch):
    small_paper(monkeypatch)
    measured, lacking, _ = paper_size.paper_rows([64], "cpu", torch.float32, 1)
    guessed, _, _ = paper_size.paper_rows(
        [64], "cpu", torch.float32, 1, extrapolate_from=32, batch=3
    )
    assert lacking == {"SwinIR-GAN": "needs spandrel: pip install it"}
    for a, b in zip(measured, guessed, strict=True):
        assert (a.method, a.flops, a.patches, a.evaluations) == (
            b.method,
            b.flops,
            b.patches,
            b.evaluations,
        )
        assert a.how == "measured" and b.how.startswith("extrapolated")
        assert a.seconds > 0 and b.seconds > 0
        assert a.share_of_peak == pytest.approx(a.flops / a.seconds / 1e9)
    # 64 -> 256: 32 latents, 9 patches, of which round(.083 * 9) are simple and round(.417 * 9) easy
    assert measured[0].patches == {"simple": 1, "medium": 3, "hard": 5}
    assert measured[0].evaluations == {"simple": 8, "medium": 42, "hard": 100}
    assert measured[1].flops == 2 * 2 * 64 * 64 * 3 * 27


def test_extrapolation_is_arithmetic(monkeypatch):
    """With a clock that says one second for everything, the parts add up to what the counts say."""
    small_paper(monkeypatch)
    monkeypatch.setattr(paper_size, "measure", lambda *_: Timing(1, 1, 1, 1, 1))
    row, other = paper_size.paper_rows([64], "cpu", torch.float32, 1, extrapolate_from=32, batch=2)[
        0
    ]
    model = paper_networks.paper_model("cpu", torch.float32)
    small, full = network_flops(model, 32, 32), network_flops(model, 64, 64)
    assert row.stages == pytest.approx(
        {
            "coarse": full.coarse / small.coarse,
            "prompt": 9 / 2,
            "sampling": 150 / 2,
            "decode": full.decode / small.decode,
        }
    )
    assert row.seconds == pytest.approx(sum(row.stages.values()))
    assert other.seconds == pytest.approx(2 * 4)  # two calls of four times the pixels


def test_paper_size_says_what_it_assumed(monkeypatch, tmp_path, capsys):
    small_paper(monkeypatch)
    file = tmp_path / "p.json"
    arguments = [
        "benchmark",
        "--paper-size",
        "--size",
        "64",
        "--runs",
        "1",
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    assert main([*arguments, "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert (
        "groups simple 8.3%, medium 33.3%, hard 58.3%: .5 of the patches above confidence .70"
        in out
    )
    assert "random weights" in out and "SwinIR-GAN: unavailable: needs spandrel" in out
    record = json.loads(file.read_text())
    assert (
        record["rows"][0]["method"] == "PatchScaler" and record["rows"][0]["paper_seconds"] is None
    )
    assert main([*arguments, "--size", "256", "--extrapolate", "32"]) == 0
    out = capsys.readouterr().out
    assert (
        "extrapolated" in out
        and " 1.29 " in out
        and "in the paper besides: SwinIR-GAN 0.30, StableSR 7.27" in out
    )


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Without processes of its own and large products."""
    child = {"seconds": 1.0, "peak_mib": 1.0, "cuda_mib": 0.0}
    monkeypatch.setattr(
        "patchscaler.evaluation.cost.benchmark._commands",
        lambda *_: {"cold_start": child, "four_times_larger": child},
    )
    monkeypatch.setattr("patchscaler.evaluation.cost.benchmark.matmul_peak", lambda *_: 1e9)


def run(model, *more):
    base = [
        "benchmark",
        "--model",
        str(model),
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--size",
        "32",
        "--runs",
        "1",
    ]
    return main([*base, "--against", "bicubic", *map(str, more)])


@pytest.mark.slow
def test_the_command_measures_all_it_is_asked(model, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    file, plot = tmp_path / "b.json", tmp_path / "b.png"
    sweeps = [
        "--sweep",
        "32,64",
        "--overlap",
        "8,0",
        "--steps",
        "0,0,0",
        "1,1,2",
        "--batch-sizes",
        "1,8",
    ]
    sweeps += ["--dtypes", "float32,bfloat16", "--threads", "1,2"]
    assert run(model, "--json", file, "--plot", plot, *sweeps) == 0
    out = capsys.readouterr().out
    record = json.loads(file.read_text())
    assert set(record["methods"]) == {"patchscaler", "patchscaler, all patches hard", "bicubic"}
    assert record["methods"]["patchscaler"]["ours_takes"] == 1
    assert set(record["stages"]) == {"coarse", "prompt", "sampling", "decode"}
    assert set(record["sweeps"]) == {
        "sizes",
        "overlaps",
        "steps",
        "batch sizes",
        "dtypes",
        "threads",
    }
    assert [row["dtype"] for row in record["sweeps"]["dtypes"]] == ["float32", "bfloat16"]
    assert set(record["growth_exponents"]) == set(record["methods"])
    assert record["command"]["four_times_larger"]["peak_mib"] > 100
    assert record["environment"]["packages"]["torch"] == torch.__version__
    for words in (
        "ours takes 1.00 of it",
        "share of the matmul peak",
        "to the power of",
        "batch sizes",
        "warm-up",
    ):
        assert words in out, words
    assert plot.read_bytes()[:4] == b"\x89PNG" and sorted(p.name for p in tmp_path.iterdir()) == [
        "b.json",
        "b.png",
    ]


def test_a_method_that_is_not_to_be_had_is_left_out(model, tmp_path, capsys, quick):
    assert run(model, "--against", f"spandrel:{tmp_path}/no.pth") == 0
    out = capsys.readouterr().out
    assert (
        "spandrel:no left out" in out
        and "no such weights file" in out
        and "network evaluations" in out
    )


def test_bad_options(model, tmp_path, capsys):
    def fails(*more):
        assert run(model, *more) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("patchscaler: "), error
        return error

    assert "--size takes 8 or more" in fails("--size", "4")
    assert "--runs 1 or more" in fails("--runs", "0")
    assert "--steps 1,2: give 3 numbers" in fails("--steps", "1,2")
    assert "--overlap a: give numbers separated by commas" in fails("--overlap", "a")
    assert "--batch-sizes 0,1: take 1 or more" in fails("--batch-sizes", "0,1")
    assert "unknown method 'magic'" in fails("--against", "magic")
    assert "belongs to --paper-size" in fails("--extrapolate")
    assert "32 or more" in fails("--paper-size", "--extrapolate", "16")
    assert "written as .png" in fails("--plot", tmp_path / "b.xyz")
    assert "cannot write there" in fails("--json", tmp_path)
    assert "overlap 16" in fails("--overlap", "16")
    assert "unknown dtype 'int3'" in fails("--dtypes", "int3")
    assert "500 steps from time 400" in fails("--steps", "0,500,1")
    assert listed("--x", None, int) == () and listed("--x", "1,2", int, 1) == (1, 2)


def test_the_command_line_does_not_wait_for_torch():
    code = "import sys; import patchscaler.apps.cli.measure; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
