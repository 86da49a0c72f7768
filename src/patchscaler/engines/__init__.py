"""What runs the networks: torch, or OpenVINO on a processor. An engine replaces the calls of networks it has graphs of."""

from importlib.util import find_spec

from patchscaler.errors import PatchScalerError
from patchscaler.model import Model

ENGINES = ("torch", "openvino")


def use_engine(model: Model, engine: str = "auto") -> None:
    """Let an engine run the large networks of `model`.

    Args:
        engine: auto takes OpenVINO where it is installed and pays (a model with the RRDB denoiser on a processor),
            torch elsewhere.

    Raises:
        PatchScalerError: The engine is unknown, missing, or not for this device.
    """
    if engine not in ("auto", *ENGINES):
        raise PatchScalerError(f"engine {engine!r}: choose auto, {' or '.join(ENGINES)}")
    pays = model.device.type == "cpu" and model.denoiser is not None
    if engine == "torch" or (engine == "auto" and not (pays and find_spec("openvino"))):
        return
    if not pays:
        raise PatchScalerError(
            "engine openvino runs the RRDB denoiser on a processor. Hint: leave --engine out"
        )
    if find_spec("openvino") is None:
        raise PatchScalerError("engine openvino is not installed. Hint: pip install openvino")
    from patchscaler.engines.openvino import attach

    attach(model)
