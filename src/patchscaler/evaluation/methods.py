"""What can be measured: anything that enlarges an array four times and says how to repeat it."""

import hashlib
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import PIL
from PIL import Image

from patchscaler._version import __version__
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.pairs import find_partner, pictures_by_stem, read_picture, to_rgb


class Method(Protocol):
    """One way to enlarge pictures four times."""

    name: str

    def upscale(self, lr: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8 -> (4h, 4w, 3) uint8."""
        ...

    def describe(self) -> dict[str, Any]:
        """What is needed to repeat it: options, weights' hash, licence, source."""
        ...


class PatchScalerMethod:
    """Ours. options: those of `PatchScaler.upscale` (seed, groups, prompt ...)."""

    def __init__(self, scaler: Any, name: str = "patchscaler", **options: Any):
        self.scaler, self.name = scaler, name
        self.options: dict[str, Any] = {"max_pixels": 0} | options
        # of the last picture: patches and evaluations per group, seconds
        self.cost: dict[str, Any] = {}

    def upscale(self, lr: np.ndarray) -> np.ndarray:
        result = self.scaler.upscale(lr, **self.options)
        self.cost = result.cost
        return to_rgb(result.image)

    def describe(self) -> dict[str, Any]:
        from patchscaler.dials.record import weights_id, weights_of

        groups = self.options.get("groups") or self.scaler.config.groups
        plain = {k: v for k, v in self.options.items() if k not in ("groups", "progress")}
        return {
            "version": __version__,
            "model": self.scaler.config.name,
            "code": code_hash("*.py", "diffusion/*.py", "models/*.py", "images/*.py", "dials/*.py"),
            # the memory's and all networks'
            "weights": weights_id(weights_of(self.scaler)),
            "groups": vars(groups),
            "configuration": hashlib.sha256(self.scaler.config.to_json().encode()).hexdigest(),
            "options": plain,
            "device": str(self.scaler.device),
            "dtype": str(self.scaler.dtype),
            "engine": self.scaler.engine,
            "licence": "Apache-2.0",
            "source": "https://arxiv.org/abs/2405.17158",
        }


class Resize:
    """Pillow's own resampling, the yardstick from below. kind: bicubic or lanczos."""

    KINDS: ClassVar = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}

    def __init__(self, kind: str, name: str | None = None):
        if kind not in self.KINDS:
            raise PatchScalerError(
                f"unknown resampling '{kind}': choose from {', '.join(self.KINDS)}"
            )
        self.kind, self.name = kind, name or kind

    def upscale(self, lr: np.ndarray) -> np.ndarray:
        h, w = lr.shape[:2]
        return np.asarray(Image.fromarray(lr).resize((4 * w, 4 * h), self.KINDS[self.kind]))

    def describe(self) -> dict[str, Any]:
        return {
            "resampling": self.kind,
            "runtime": f"Pillow {PIL.__version__}",
            "licence": "MIT-CMU",
        }


class ResultFolder:
    """Finished pictures, made elsewhere: NAME.png, NAME_x4.png or NAMEx4.png for the pair NAME."""

    def __init__(self, folder: str | Path, name: str | None = None):
        self.folder, self.name = Path(folder), name or Path(folder).name
        self.files = pictures_by_stem(self.folder)

    def result(self, name: str) -> np.ndarray:
        """The finished picture of a pair, (H, W, 3) uint8.

        Raises PatchScalerError where there is none.
        """
        file = find_partner(name, self.files)
        if file is None:
            raise PatchScalerError(f"no finished picture of this name in {self.folder}")
        return read_picture(file)

    def upscale(self, lr: np.ndarray) -> np.ndarray:
        raise PatchScalerError(f"{self.folder}: finished pictures cannot enlarge another")

    def describe(self) -> dict[str, Any]:
        return {"source": f"finished pictures in {self.folder}"}


def code_hash(*patterns: str) -> str:
    """SHA-256 of this package's sources that match, so that results of changed code are not taken
    for today's.
    """
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for pattern in patterns:
        for file in sorted(root.glob(pattern)):
            digest.update(file.read_bytes())
    return digest.hexdigest()
