"""Several sets of pictures and several degradations: a comparison has a table for each pair of
them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.pairs import Failure, Pair, load_pairs
from patchscaler.training.data.degradation import DEGRADATIONS


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one folder under one degradation (None: small pictures as they are), and what
    could not be used.
    """

    name: str
    degradation: str | None
    pairs: list[Pair]
    failures: list[Failure] = field(default_factory=list)

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
    """`a,b` and `NAME=c` -> [("a", "a"), ("b", "b"), ("NAME", "c")]: what each set is called, and
    its folder.

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
            raise PatchScalerError(f"'{text}' names no folder of pictures")
    return out


def _own_name(folder: str) -> str:
    path = Path(folder)
    return path.stem if path.is_file() else path.resolve().name or "pictures"


def split_degradations(texts: Sequence[str] | None) -> list[str]:
    """`mild,real` -> the two names.

    Raises PatchScalerError for an unknown one, and for one that is named twice.
    """
    names = [name.strip() for text in texts or [] for name in text.split(",") if name.strip()]
    for i, name in enumerate(names):
        if name not in DEGRADATIONS:
            raise PatchScalerError(
                f"unknown degradation '{name}': choose from {', '.join(DEGRADATIONS)}"
            )
        if name in names[:i]:
            raise PatchScalerError(f"degradation '{name}' is named twice: leave one out")
    return names


def open_sets(
    lr: Sequence[tuple[str, str]],
    hr: Sequence[tuple[str, str]],
    degradations: Sequence[str],
    seed: int = 0,
    limit: int = 0,
) -> list[PictureSet]:
    """Every folder under every degradation, in the order given. lr, hr: of `split_folders`; see
    `load_pairs`.

    With both, the first of `lr` belongs to the first of `hr`, and so on. Raises PatchScalerError
    where two sets have one name, where folders do not pair up, or where a set holds no pictures.
    """
    if lr and hr and len(lr) != len(hr):
        raise PatchScalerError(
            f"--lr has {len(lr)} folders and --hr has {len(hr)}: give one of each for every set"
        )
    names = [name for name, _ in hr or lr]
    for i, name in enumerate(names):
        if file_name(name).lower() in [file_name(other).lower() for other in names[:i]]:
            raise PatchScalerError(
                f"two sets are called '{name}': write one as ANOTHER={(hr or lr)[i][1]}"
            )
    kinds: list[str | None] = [*degradations] or [None]
    sets = []
    for i, name in enumerate(names):
        small, large = (folders[i][1] if folders else None for folders in (lr, hr))
        for degradation in kinds:
            sets.append(
                PictureSet(
                    name, degradation, *load_pairs(small, large, degradation, seed, limit=limit)
                )
            )
    return sets
