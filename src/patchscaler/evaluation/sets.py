"""Several sets of images and several degradations: a comparison has a table for each of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.pairs import Failure, Pair, images_by_stem, load_pairs
from patchscaler.training.data.degradation import DEGRADATIONS


@dataclass(frozen=True)
class ImageSet:
    """Images of one folder under one degradation (None: LR images as they are)."""

    name: str
    degradation: str | None
    pairs: list[Pair]
    failures: list[Failure] = field(default_factory=list)  # what could not be used

    @property
    def title(self) -> str:
        return f"{self.name}, {self.degradation}" if self.degradation else self.name

    @property
    def folder(self) -> Path:
        """Where its results lie, below the output's folder, when there are several sets."""
        return Path(file_name(self.name)) / (self.degradation or "")


def file_name(text: str) -> str:
    """A name that is safe for a file or a folder."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in text)


def split_folders(texts: Sequence[str] | None) -> list[tuple[str, str]]:
    """`a,b` and `NAME=c` -> [("a", "a"), ("b", "b"), ("NAME", "c")]: names and folders of sets.

    What exists as it is written is one folder, whatever its name holds. Raises PatchScalerError for
    no name at all.
    """
    out: list[tuple[str, str]] = []
    for text in texts or []:
        pieces = [text] if Path(text).exists() else [piece.strip() for piece in text.split(",")]
        for piece in filter(None, pieces):
            named = None if Path(piece).exists() else re.fullmatch(r"([^/=]+)=(.+)", piece)
            out.append((named[1], named[2]) if named else (_own_name(piece), piece))
        if not any(pieces):
            raise PatchScalerError(f"'{text}' names no folder of images")
    return out


def _own_name(folder: str) -> str:
    path = Path(folder)
    return path.stem if path.is_file() else path.resolve().name or "images"


def split_degradations(texts: Sequence[str] | None) -> list[str]:
    """`mild,real` -> the two names, each once. Raises PatchScalerError for an unknown one."""
    names = [name.strip() for text in texts or [] for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in DEGRADATIONS]:
        raise PatchScalerError(
            f"unknown degradation '{unknown[0]}': choose from {', '.join(DEGRADATIONS)}"
        )
    return list(dict.fromkeys(names))


def open_sets(
    lr: Sequence[tuple[str, str]],
    hr: Sequence[tuple[str, str]],
    degradations: Sequence[str],
    seed: int = 0,
    limit: int = 0,
    finished: str | None = None,
) -> list[ImageSet]:
    """Open every folder under every degradation, in the order given.

    Args:
        lr, hr: Of `split_folders`. With both, the first of `lr` belongs to the first of `hr`.
        degradations: None for LR images as they are.
        seed, limit: As for `load_pairs`.
        finished: A folder of results that are only scored: LR images are not needed.

    Raises:
        PatchScalerError: Folders do not pair up, names repeat, or a set has nothing to measure.
    """
    if finished and not (lr or hr):
        stems = list(images_by_stem(finished))[: limit or None]
        return [ImageSet(_own_name(finished), None, [Pair(stem) for stem in stems])]
    if not (lr or hr):
        raise PatchScalerError(
            "give images: --lr DIR (with --hr DIR), or --hr DIR with --degradation KIND"
        )
    if hr and not (lr or degradations or finished):
        raise PatchScalerError(
            "--hr alone has nothing to upscale: add --degradation bicubic (mild, stable, real), "
            "or --lr DIR"
        )
    if lr and hr and len(lr) != len(hr):
        raise PatchScalerError(
            f"--lr has {len(lr)} folders and --hr has {len(hr)}: give one of each for every set"
        )
    names = [name for name, _ in hr or lr]
    if len({file_name(name).lower() for name in names}) < len(names):
        raise PatchScalerError(
            f"two sets have one name ({', '.join(names)}): write one as ANOTHER=DIR"
        )
    kinds: list[str | None] = [*degradations] or [None]
    sets = []
    for i, name in enumerate(names):
        small, large = (folders[i][1] if folders else None for folders in (lr, hr))
        for degradation in kinds:
            pairs, failures = load_pairs(small, large, degradation, seed, limit=limit)
            opened = ImageSet(name, degradation, pairs, failures)
            if not pairs:
                reasons = "; ".join(map(str, failures))
                raise PatchScalerError(f"{opened.title}: no image can be measured ({reasons})")
            sets.append(opened)
    return sets
