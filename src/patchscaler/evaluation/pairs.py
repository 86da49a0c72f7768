"""Which images are measured: LR alone, LR with HR, or HR with a seeded degradation."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from patchscaler.errors import PatchScalerError
from patchscaler.images.planes import to_planes
from patchscaler.images.read import load_image
from patchscaler.training.data.degradation import DEGRADATIONS, degrade
from patchscaler.training.data.sources import IMAGE_SUFFIXES

# What data sets and programs add to a name: 0001x4.png, 0001_x4.png, Canon_004_LR4.png,
# Canon_004_HR.png
SUFFIX = re.compile(r"([_-]?x4|[_-](lr4?|hr|sr|out))$", re.IGNORECASE)


@dataclass(frozen=True)
class Failure:
    """One thing that did not work; the rest went on."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True)
class Pair:
    """One image to measure with.

    Pixels are read when asked for, so that a large set needs no memory.
    """

    name: str
    lr_file: Path | None = None
    hr_file: Path | None = None
    degradation: str | None = None  # LR is made from HR by this
    seed: int = 0
    scale: int = 4

    @property
    def has_lr(self) -> bool:
        return self.lr_file is not None or self.degradation is not None

    @property
    def lr(self) -> np.ndarray:
        """(h, w, 3) uint8. Raises PatchScalerError where it cannot be read or there is none."""
        if self.lr_file is not None:
            return read_image(self.lr_file)
        if self.degradation is None or self.hr_file is None:
            raise PatchScalerError(f"{self.name}: has no LR image; give --lr or --degradation")
        return degraded(
            self._hr_image(), self.degradation, self.hr_file.stem, self.seed, self.scale
        )

    @property
    def hr(self) -> np.ndarray | None:
        """(scale h, scale w, 3) uint8, or None where there is no HR image."""
        return None if self.hr_file is None else self._hr_image()

    def _hr_image(self) -> np.ndarray:
        """Cut to multiples of `scale`; whole where there is no LR image, as nothing says how
        large it was.
        """
        assert self.hr_file is not None
        image = read_image(self.hr_file)
        return cut_to_multiple(image, self.scale) if self.has_lr else image


def load_pairs(
    lr: str | Path | None = None,
    hr: str | Path | None = None,
    degradation: str | None = None,
    seed: int = 0,
    scale: int = 4,
    limit: int = 0,
) -> tuple[list[Pair], list[Failure]]:
    """Folders (or single files) -> pairs by name, and what could not be used.

    lr: LR images; hr: HR images, matched by name (a suffix like _x4 is tolerated);
    degradation: bicubic, mild, stable or real, makes the LR images from `hr`. limit: the first
    so many by name, 0 for all. HR images are cut to multiples of `scale`. Every image is read
    once here, so that those that cannot be are among the failures. Raises PatchScalerError where
    nothing can be measured at all.
    """
    if lr is None and hr is None:
        raise PatchScalerError(
            "give a folder of LR images (--lr), or of HR images (--hr) and a --degradation"
        )
    if degradation is not None:
        if lr is not None or hr is None:
            raise PatchScalerError("--degradation makes the LR images from --hr: leave --lr out")
        if degradation not in DEGRADATIONS:
            raise PatchScalerError(
                f"unknown degradation '{degradation}': choose from {', '.join(DEGRADATIONS)}"
            )
    failures: list[Failure] = []
    small = images_by_stem(lr, failures) if lr is not None else {}
    large = images_by_stem(hr, failures) if hr is not None else {}
    candidates: list[Pair] = []
    if lr is None:
        candidates = [
            Pair(stem, None, file, degradation, seed, scale) for stem, file in large.items()
        ]
    else:
        used = set()
        for stem, file in small.items():
            partner = find_partner(stem, large) if hr is not None else None
            if hr is not None and partner is None:
                failures.append(Failure(file.name, f"no HR image of this name in {hr}"))
                continue
            if partner is not None and partner in used:
                failures.append(
                    Failure(file.name, f"another LR image belongs to {partner.name}; rename one")
                )
                continue
            used.add(partner)
            candidates.append(
                Pair(partner.stem if partner else stem, file, partner, None, seed, scale)
            )
        failures += [
            Failure(p.name, f"no LR image of this name in {lr}")
            for p in large.values()
            if p not in used
        ]
    pairs = []
    for pair in candidates[: limit or None]:
        reason = problem_of(pair)
        if reason:
            failures.append(Failure(pair.name, reason))
        else:
            pairs.append(pair)
    if not pairs and not failures:
        raise PatchScalerError(f"{lr or hr}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return pairs, failures


def cut_to_multiple(image: np.ndarray, scale: int) -> np.ndarray:
    """(H, W, 3) -> its upper left part with sides that are multiples of `scale`."""
    return image[: image.shape[0] // scale * scale, : image.shape[1] // scale * scale]


def problem_of(pair: Pair) -> str | None:
    """Why a pair cannot be measured, in one line; None where it can."""
    try:
        hr = pair.hr
        if pair.lr_file is None:
            if hr is not None and pair.degradation and min(hr.shape[:2]) < 8 * pair.scale:
                return (
                    f"{hr.shape[1]}x{hr.shape[0]} is too small to be degraded; "
                    f"{8 * pair.scale} or more a side"
                )
            return None
        lr = pair.lr
    except PatchScalerError as error:
        return str(error)
    expected = (lr.shape[0] * pair.scale, lr.shape[1] * pair.scale)
    if hr is not None and hr.shape[:2] != expected:
        return (
            f"sizes do not fit: {lr.shape[1]}x{lr.shape[0]} upscaled {pair.scale} times is "
            f"{expected[1]}x{expected[0]}, the HR image is {hr.shape[1]}x{hr.shape[0]}"
        )
    return None


def images_by_stem(folder: str | Path, failures: list[Failure] | None = None) -> dict[str, Path]:
    """The images of a folder (or one file) by name without suffix, sorted. Raises
    PatchScalerError if none.

    Other files and hidden ones are skipped; two images of one stem are a failure.
    """
    root = Path(folder)
    if root.is_file():
        return {root.stem: root}
    if not root.is_dir():
        raise PatchScalerError(f"{root}: no such folder of images")
    found: dict[str, Path] = {}
    for file in sorted(root.iterdir()):
        if file.suffix.lower() not in IMAGE_SUFFIXES or file.name.startswith(".") or file.is_dir():
            continue
        if file.stem in found:
            clash = Failure(
                file.name,
                f"another image of this name is there ({found[file.stem].name}); rename one",
            )
            if failures is None:
                raise PatchScalerError(f"{root}/{clash}")
            failures.append(clash)
            continue
        found[file.stem] = file
    if not found:
        raise PatchScalerError(f"{root}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return found


def find_partner(stem: str, files: dict[str, Path]) -> Path | None:
    """The file of this stem; else the only one that is equal to it without suffixes like _x4."""
    if stem in files:
        return files[stem]
    plain = SUFFIX.sub("", stem)
    alike = [file for other, file in files.items() if SUFFIX.sub("", other) == plain]
    return alike[0] if len(alike) == 1 else None


def read_image(file: str | Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright, without transparency. Raises PatchScalerError."""
    return to_rgb(load_image(file, max_pixels=0))


def to_rgb(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8; 16-bit images by their range."""
    if image.mode.startswith("I") or image.mode == "F":
        planes = to_planes(image).rgb
        return ((planes + 1) * 127.5).round().byte().movedim(0, -1).numpy()
    return np.asarray(image.convert("RGB"))


def degraded(hr: np.ndarray, degradation: str, stem: str, seed: int, scale: int = 4) -> np.ndarray:
    """(H, W, 3) -> (H/scale, W/scale, 3), uint8.

    Random numbers from (degradation, stem, seed) and nothing else.
    """
    digest = hashlib.sha256(f"{degradation}:{stem}:{seed}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    x = torch.from_numpy(np.array(hr)).movedim(-1, 0)[None].float() / 255  # (1, 3, H, W)
    return (
        (degrade(x, degradation, generator, scale)[0] * 255).round().byte().movedim(0, -1).numpy()
    )
