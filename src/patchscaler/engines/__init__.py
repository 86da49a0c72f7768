"""What runs the networks: torch, or OpenVINO on a processor. An engine replaces the calls of
networks it has graphs of.
"""

import sys
from importlib.util import find_spec

import torch

from patchscaler.errors import PatchScalerError
from patchscaler.model import Model

ENGINES = ("torch", "openvino")


def use_engine(model: Model, engine: str = "auto") -> None:
    """Let an engine run the large networks of `model`.

    Args:
        engine: auto takes OpenVINO where it is installed and pays (the RRDB denoiser on a processor
        with
            bfloat16), torch elsewhere.

    Raises:
        PatchScalerError: The engine is unknown, missing, or not for this device.
    """
    if engine not in ("auto", *ENGINES):
        raise PatchScalerError(f"engine {engine!r}: choose auto, {' or '.join(ENGINES)}")
    fits = model.device.type == "cpu" and model.denoiser is not None
    # Measured on 128x128 -> 512x512 with two cores: .32 s against torch's .49 in bfloat16, no gain
    # in float32.
    pays = fits and model.dtype == torch.bfloat16 and find_spec("openvino") is not None
    if engine == "torch" or (engine == "auto" and not pays):
        return
    if not fits:
        raise PatchScalerError(
            "engine openvino runs the RRDB denoiser on a processor. Hint: leave --engine out"
        )
    if find_spec("openvino") is None:
        raise PatchScalerError("engine openvino is not installed. Hint: pip install openvino")
    from patchscaler.engines.openvino import attach

    try:
        attach(model)
    except PatchScalerError as error:
        if engine != "auto":
            raise
        print(f"{error}; torch runs the networks", file=sys.stderr)
