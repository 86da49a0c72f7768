"""What can be measured: anything that upscales an array four times and says how to repeat it."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import PIL
from PIL import Image

from patchscaler._version import __version__
from patchscaler.config import GROUP_NAMES
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.pairs import find_partner, images_by_stem, read_image, to_rgb

if TYPE_CHECKING:
    from patchscaler.pipeline import Output, PatchScaler


class Method(Protocol):
    """One way to upscale images four times."""

    name: str

    def upscale(self, lr: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8 -> (4h, 4w, 3) uint8."""
        ...

    def describe(self) -> dict[str, Any]:
        """What is needed to repeat it: options, weights' hash, licence, source."""
        ...


class PatchScalerMethod:
    """Ours. options: those of `PatchScaler.upscale` (seed, groups, prompt ...)."""

    def __init__(self, pipeline: "PatchScaler", name: str = "ours", **options: Any):
        self.pipeline, self.name = pipeline, name
        self.options: dict[str, Any] = {"max_pixels": 0} | options
        self.cost: dict[str, Any] = {}  # of the last image

    def upscale(self, lr: np.ndarray) -> np.ndarray:
        output = self.pipeline.upscale(lr, **self.options)
        self.cost = cost_of(output)
        return to_rgb(output.image)

    def describe(self) -> dict[str, Any]:
        model = self.pipeline.model
        groups = self.options.get("groups") or model.config.groups
        return {
            "version": __version__,
            "model": model.config.name,
            "code": code_hash("*.py", "diffusion/*.py", "models/*.py", "images/*.py"),
            "weights": model.weights_hash(),
            "groups": vars(groups),
            "configuration": hashlib.sha256(model.config.to_json().encode()).hexdigest(),
            "options": {k: v for k, v in self.options.items() if k != "groups"},
            "compute": model.compute_signature,
            "licence": "Apache-2.0",
            "source": "https://arxiv.org/abs/2405.17158",
        }


def cost_of(output: "Output") -> dict[str, Any]:
    """What an image cost, as plain values for records."""
    groups = {name: int((output.groups == g).sum()) for g, name in enumerate(GROUP_NAMES)}
    return {
        "nfe": output.nfe,
        "gmac": output.gmac,
        "gmac_uniform": output.gmac_uniform,
        "groups": groups,
        "timings": dict(output.timings),
    }


class Resize:
    """Pillow's own resampling, the yardstick from below. kind: bicubic or lanczos."""

    KINDS: ClassVar = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}

    def __init__(self, kind: str):
        if kind not in self.KINDS:
            raise PatchScalerError(
                f"unknown resampling '{kind}': choose from {', '.join(self.KINDS)}"
            )
        self.kind = self.name = kind

    def upscale(self, lr: np.ndarray) -> np.ndarray:
        h, w = lr.shape[:2]
        return np.asarray(Image.fromarray(lr).resize((4 * w, 4 * h), self.KINDS[self.kind]))

    def describe(self) -> dict[str, Any]:
        runtime = f"Pillow {PIL.__version__}"
        return {"resampling": self.kind, "runtime": runtime, "licence": "MIT-CMU"}


class ResultFolder:
    """Finished images, made elsewhere: NAME.png, NAME_x4.png or NAMEx4.png for the pair NAME."""

    def __init__(self, folder: str | Path, name: str | None = None):
        self.folder, self.name = Path(folder), name or Path(folder).name
        self.files = images_by_stem(self.folder)

    def result(self, name: str) -> tuple[np.ndarray, Path]:
        """The finished image of a pair, (H, W, 3) uint8, and its file.

        Raises PatchScalerError where there is none.
        """
        file = find_partner(name, self.files)
        if file is None:
            raise PatchScalerError(f"{self.folder}: no finished image of this name")
        return read_image(file), file

    def describe(self) -> dict[str, Any]:
        return {"source": f"finished images in {self.folder}"}


def code_hash(*patterns: str) -> str:
    """SHA-256 of this package's sources that match: results of other code are made anew."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for pattern in patterns:
        for file in sorted(root.glob(pattern)):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def file_hash(*files: Path) -> str:
    """SHA-256 over names and contents."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
