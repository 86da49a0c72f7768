"""Peak memory: the high-water mark of a process, asked of itself, or CUDA's own count."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from patchscaler.errors import PatchScalerError

MEBIBYTE = 2**20


@dataclass(frozen=True)
class ChildCost:
    """Of a command in a process of its own, from its start to its end."""

    seconds: float
    peak_mib: float  # resident memory of the process
    cuda_mib: float  # of torch's allocator, 0 without CUDA


def process_peak() -> float:
    """High-water mark of this process's resident memory, MiB."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not ru_maxrss: on Linux it starts at what the parent had when it started this process.
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    try:
        import resource
    except ImportError as error:  # Windows
        raise PatchScalerError("this system does not tell a process's peak memory") from error
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MEBIBYTE if sys.platform == "darwin" else 1024)


def cuda_peak() -> float:
    """Of torch's allocator in this process, MiB."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return 0.0
    return float(torch.cuda.max_memory_allocated() / MEBIBYTE)


def run_child(code: str, arguments: Sequence[str], threads: int = 0) -> ChildCost:
    """Python code with `arguments` in a process of its own.

    Raises PatchScalerError with its words where it fails.
    """
    last = (
        "\nimport json; from patchscaler.evaluation.cost.memory import process_peak, cuda_peak"
        "\nprint(json.dumps([process_peak(), cuda_peak()]))"
    )
    environment = dict(os.environ)
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    began = time.perf_counter()
    command = [sys.executable, "-c", code + last, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - began
    if done.returncode:
        words = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise PatchScalerError(f"a process of its own failed: {words[0]}")
    peak, cuda = json.loads(done.stdout.splitlines()[-1])
    return ChildCost(seconds, peak, cuda)


def command_cost(picture: np.ndarray, options: Sequence[str], threads: int = 0) -> ChildCost:
    """`patchscaler upscale` on a picture (h, w, 3) uint8, with further options, from a
    cold start.
    """
    code = "import sys; from patchscaler.apps.cli import main\nif main(sys.argv[1:]): sys.exit(1)"
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "in.png"
        Image.fromarray(picture).save(file)
        return run_child(code, ["upscale", str(file), "-q", "--max-pixels", "0", *options], threads)


def method_cost(spec: str, picture: np.ndarray, settings: dict[str, Any]) -> ChildCost:
    """A method of `evaluation.specs` on one picture, in a process of its own: loading included."""
    code = (
        "import json, sys; from patchscaler.evaluation.specs import Settings, build_method, "
        "parse_spec"
        "\nfrom patchscaler.evaluation.pairs import read_picture"
        "\nmethod = build_method(parse_spec(sys.argv[1]), Settings(**json.loads(sys.argv[2])))"
        "\nmethod.upscale(read_picture(sys.argv[3]))"
    )
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "in.png"
        Image.fromarray(picture).save(file)
        return run_child(
            code, [spec, json.dumps(settings), str(file)], int(settings.get("threads") or 0)
        )
