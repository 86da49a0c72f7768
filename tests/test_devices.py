"""Which device, which numbers, and how to tell that memory ran out."""

import pytest
import torch

from patchscaler.devices import choose_device, choose_dtype, is_out_of_memory
from patchscaler.errors import PatchScalerError


def test_devices(monkeypatch):
    for cuda, mps, best in (
        (False, False, "cpu"),
        (False, True, "mps"),
        (True, False, "cuda"),
        (True, True, "cuda"),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=cuda: found)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda found=mps: found)
        assert choose_device("auto") == best
        assert choose_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["tpu", "", "gpu", "cuda", "cuda:1", "mps", "cpu:x"])
def test_devices_that_are_not_there(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(
        PatchScalerError,
        match=f"device '{name}' is unknown or not available here: choose auto or cpu",
    ):
        choose_device(name)


def test_dtypes():
    assert choose_dtype("float32", "cuda") == torch.float32
    assert choose_dtype("bfloat16", "cpu") == torch.bfloat16
    assert choose_dtype("auto", "cuda") == torch.float16
    with pytest.raises(
        PatchScalerError, match="unknown dtype 'float8': choose auto, float32, bfloat16, float16"
    ):
        choose_dtype("float8", "cpu")


def test_processors_without_bfloat16_keep_full_precision(monkeypatch):
    for found, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(
            torch.cpu, "_is_avx512_bf16_supported", lambda found=found: found, raising=False
        )
        assert choose_dtype("auto", "cpu") == expected


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("no"),
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 "
            "bytes"
        ),
    ],
)
def test_out_of_memory(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyboardInterrupt(), RuntimeError("shapes do not match")]
)
def test_other_errors(error):
    assert not is_out_of_memory(error)
