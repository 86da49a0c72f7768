"""Which device, which precision, waiting for it, and what running out of memory looks like."""

import torch

from patchscaler.errors import PatchScalerError


def choose_device(name: str) -> str:
    """auto: CUDA, then MPS, then CPU.

    Raises PatchScalerError for one that is unknown or not there.
    """
    found = ["cpu"]
    if torch.backends.mps.is_available():
        found.insert(0, "mps")
    if torch.cuda.is_available():
        found.insert(0, "cuda")
    if name == "auto":
        return found[0]
    kind, _, number = name.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if kind not in found or (number and not (number.isdigit() and int(number) < count)):
        raise PatchScalerError(
            f"device '{name}' is unknown or not available here: choose auto or {', '.join(found)}"
        )
    return name


def choose_dtype(name: str, device: str) -> torch.dtype:
    """auto: half precision on a GPU, bfloat16 on a processor that has it in hardware,
    else float32.
    """
    table = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name != "auto":
        if name not in table:
            raise PatchScalerError(f"unknown dtype '{name}': choose auto, {', '.join(table)}")
        return table[name]
    if device == "cpu":
        hardware = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        return torch.bfloat16 if hardware else torch.float32
    return torch.float16


def synchronize(device: torch.device | str) -> None:
    """Wait until everything given to a GPU is done; nothing to wait for on a processor."""
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.synchronize(device)
    elif kind == "mps":
        torch.mps.synchronize()


def is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or "out of memory" in text
        or "can't allocate" in text
    )
