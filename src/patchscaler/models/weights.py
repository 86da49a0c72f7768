"""Weights on disk: one safetensors file a network, the configuration in its header,
strict loading.
"""

import hashlib
import json
import os
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from patchscaler.errors import PatchScalerError

FORMAT = "patchscaler-1"
# (out, G) float16 factors beside an int8 tensor (out, in, ...), one for each in/G inputs
SCALE = ".int8_scale"
# inputs that share a factor; a few weights of a convolution are twenty times as large as the others
SHARED = 8


def save_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically; metadata values are strings."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    os.close(handle)
    try:
        # One entry: safetensors writes several in an order that changes, and with it the file's
        # hash.
        header = {"patchscaler": json.dumps({"format": FORMAT} | metadata, sort_keys=True)}
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, header)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """-> tensors, metadata.

    Raises PatchScalerError for a file that is missing, corrupt or not ours.
    """
    path = Path(path)
    if not path.is_file():
        raise PatchScalerError(f"{path}: no such weights file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("patchscaler", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise PatchScalerError(
            f"{path}: corrupt or not a safetensors file ({error}); download it again"
        ) from error
    if metadata.get("format") != FORMAT:
        raise PatchScalerError(
            f"{path}: not written by PatchScaler (format '{metadata.get('format', 'none')}')"
        )
    return tensors, metadata


def to_int8(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Floating-point weights of a multiple of `SHARED` inputs as int8, and beside them factors for
    so many each.

    Others stay: one factor for all inputs drowns the small weights of a first convolution that
    reads several pictures. Rounded up as often as a weight lies nearer to what is above: to the
    nearest, training that began from such a file and moved each weight by less than half a step
    would be undone. What was read from a file is written as it was.
    """
    small, generator = {}, torch.Generator().manual_seed(0)
    for name, tensor in state.items():
        if not tensor.is_floating_point() or tensor.ndim < 2 or tensor.shape[1] % SHARED:
            small[name] = tensor
            continue
        out, inputs = tensor.shape[:2]
        rows = tensor.float().reshape(out, inputs // SHARED, -1)  # (out, G, the rest)
        # The factor is rounded before it divides, and never to zero, so that what is read is what
        # was meant.
        scale = (rows.abs().amax(2) / 127).half().clamp(min=2.0**-24)
        steps = rows / scale.float()[..., None]
        # never a whole half
        dither = torch.rand(rows.shape, generator=generator).sub(0.5).mul(0.998)
        dither[steps.abs() > 126.5] = 0  # the largest, which the factor is read from
        small[name] = (steps + dither).round().clamp(-127, 127).to(torch.int8).view(tensor.shape)
        small[name + SCALE] = scale
    return small


def from_int8(path: str | Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What `to_int8` made -> floating-point tensors again; others stay. Raises PatchScalerError."""
    state = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALE):
            continue
        if tensor.dtype == torch.int8:
            scale = tensors.get(name + SCALE)
            fits = (
                scale is not None
                and scale.ndim == 2
                and scale.numel()
                and len(scale) == len(tensor)
            )
            if scale is None or not fits or tensor.shape[1] % scale.shape[1]:
                raise PatchScalerError(
                    f"{path}: '{name}' is in int8 and lacks its factors; download it again"
                )
            rows = tensor.float().reshape(*scale.shape, -1)  # (out, G, the rest)
            tensor = (rows * scale.float()[..., None]).view(tensor.shape)
        state[name] = tensor
    return state


def save_module(
    path: str | Path, module: nn.Module, metadata: dict[str, str], half: bool = True
) -> None:
    """Floating-point weights in half precision, or int8 where `module.storage_bits` is 8. half:
    False for neither.
    """
    state = {k: v.detach().cpu() for k, v in module.state_dict().items()}
    if half and getattr(module, "storage_bits", 16) == 8:
        state = to_int8(state)
    if half:
        state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    save_tensors(path, state, metadata)


def load_module(path: str | Path, module: nn.Module) -> dict[str, str]:
    """Fill a module, every name and shape checked -> metadata.

    Raises PatchScalerError on any mismatch.
    """
    tensors, metadata = load_tensors(path)
    tensors = from_int8(path, tensors)
    expected = module.state_dict()
    wrong = sorted(set(expected) ^ set(tensors))
    wrong += [k for k, v in tensors.items() if k in expected and v.shape != expected[k].shape]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise PatchScalerError(
            f"{path}: weights do not fit the configuration ({', '.join(wrong[:3])}{more}); "
            "take configuration and weights from one release"
        )
    module.load_state_dict(
        {k: v.to(torch.float32) if v.is_floating_point() else v for k, v in tensors.items()}
    )
    return metadata


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file of any size, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        PatchScalerError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise PatchScalerError(f"{path}: cannot be written ({error.strerror})") from error
