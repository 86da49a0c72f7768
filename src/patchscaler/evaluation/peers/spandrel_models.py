"""Any architecture that spandrel recognises by its file: BSRGAN, SwinIR, realesr-general-x4v3 and
many more.

spandrel imports torchvision for two networks (LaMa, RestoreFormer) that do not upscale images,
and torchvision is no dependency here. Where it is missing, or does not fit the torch that is
installed, three of its names are stood in for while spandrel is imported, and only then; they
refuse to work.
"""

import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from patchscaler.devices import choose_device, choose_dtype
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.methods import code_hash, file_hash
from patchscaler.evaluation.peers.tiles import SCALE, in_tiles, to_bytes

HINT = "pip install --no-deps spandrel==0.4.2 einops==0.8.2"


def import_spandrel() -> Any:
    """The module. Raises PatchScalerError where it is not installed."""
    for package in ("spandrel", "einops"):
        if importlib.util.find_spec(package) is None:
            raise PatchScalerError(
                f"needs {package}: {HINT} (--no-deps: torchvision is not needed)"
            )
    if "spandrel" in sys.modules:
        return sys.modules["spandrel"]
    with _torchvision_or_stub():
        import spandrel
    return spandrel


@contextmanager
def _torchvision_or_stub() -> Iterator[None]:
    try:
        import torchvision.transforms.functional  # noqa: F401

        yield
        return
    except (ImportError, RuntimeError):
        # absent, or built for another torch: "operator nms does not exist"
        _forget_torchvision()

    def refuse(*_: Any, **__: Any) -> Any:
        raise PatchScalerError(
            "this network needs torchvision: install the version that belongs to your torch"
        )

    functional = types.ModuleType("torchvision.transforms.functional")
    functional.__dict__.update(
        InterpolationMode=types.SimpleNamespace(), rotate=refuse, normalize=refuse
    )
    transforms, root = types.ModuleType("torchvision.transforms"), types.ModuleType("torchvision")
    transforms.__dict__["functional"], root.__dict__["transforms"] = functional, transforms
    sys.modules |= {m.__name__: m for m in (root, transforms, functional)}
    try:
        yield
    finally:
        _forget_torchvision()  # no other code shall take the stub for it


def _forget_torchvision() -> None:
    for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
        del sys.modules[name]


class SpandrelMethod:
    """A network out of a local .pth, .pt, .ckpt or .safetensors file that upscales RGB
    four times.
    """

    def __init__(
        self,
        file: str | Path,
        name: str | None = None,
        *,
        device: str = "auto",
        dtype: str = "float32",
        tile: int = 0,
        overlap: int = 16,
    ):
        """dtype: float32, or half precision where the network says that it bears it."""
        self.file = Path(file)
        self.name, self.tile, self.overlap = name or self.file.stem, tile, overlap
        if not self.file.is_file():
            raise PatchScalerError(f"{self.file}: no such weights file")
        self.device = torch.device(choose_device(device))
        self.dtype = choose_dtype(dtype, str(self.device))
        spandrel = import_spandrel()
        try:  # a state dict only: spandrel reads pickled files with an unpickler that runs no code
            model = spandrel.ModelLoader(device="cpu").load_from_file(self.file)
        except Exception as error:
            # unknown architectures, damaged and foreign files have no common base class
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise PatchScalerError(f"{self.file}: spandrel cannot load it ({reason})") from error
        if not isinstance(model, spandrel.ImageModelDescriptor) or model.scale != SCALE:
            raise PatchScalerError(
                f"{self.file}: a {model.architecture.name} that upscales {model.scale} times; "
                f"give one for {SCALE}"
            )
        if (model.input_channels, model.output_channels) != (3, 3):
            raise PatchScalerError(
                f"{self.file}: takes {model.input_channels} channels; give a network for RGB"
            )
        bears = {torch.float16: model.supports_half, torch.bfloat16: model.supports_bfloat16}
        if not bears.get(self.dtype, True):
            raise PatchScalerError(
                f"{self.file}: a {model.architecture.name} does not bear {dtype}; take float32"
            )
        self.model = model.to(self.device, self.dtype).eval()

    def upscale(self, lr: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8 -> (4h, 4w, 3) uint8."""
        return to_bytes(
            in_tiles(self._upscale, lr.astype(np.float32) / 255, self.tile, self.overlap)
        )

    @torch.inference_mode()
    def _upscale(self, x: np.ndarray) -> np.ndarray:
        # (1, 3, h, w)
        planes = torch.from_numpy(x).movedim(-1, 0)[None].to(self.device, self.dtype)
        return self.model(planes)[0].movedim(0, -1).float().cpu().numpy()  # (4h, 4w, 3)

    @cached_property
    def weights(self) -> str:
        """SHA-256 of what was loaded."""
        return file_hash(self.file)

    def describe(self) -> dict[str, Any]:
        from importlib.metadata import version

        return {
            "weights": self.weights,
            "file": self.file.name,
            "architecture": self.model.architecture.name,
            "tags": list(self.model.tags),
            "parameters": sum(p.numel() for p in self.model.model.parameters()),
            "runtime": f"spandrel {version('spandrel')}, torch {torch.__version__}",
            "device": str(self.device),
            "dtype": str(self.dtype),
            "tile": self.tile,
            "overlap": self.overlap,
            "code": code_hash("evaluation/peers/*.py"),
            "licence": "of the file's authors",
        }
