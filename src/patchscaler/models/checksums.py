"""SHA256SUMS of a model folder, in the format of the command `sha256sum`: written when a model is
saved, checked when it is loaded. They find damage and files of two versions in one folder; who made
the files they do not say.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from patchscaler.errors import PatchScalerError
from patchscaler.models.weights import file_hash

NAME = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
WEIGHTS = ("*.json", "*.safetensors", "*/*.json", "*/*.safetensors")


def _mend(folder: Path) -> str:
    return (
        "download it again, or, where the change was meant, 'patchscaler info --model "
        f"{folder} --write-sums'"
    )


def write_text(path: Path, text: str) -> None:
    """Atomically."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """names: files below the folder, with forward slashes."""
    write_text(
        folder / NAME, "".join(f"{file_hash(folder / name)}  {name}\n" for name in sorted(names))
    )


def renew_sums(folder: Path) -> list[str]:
    """Sums of all configurations and weights of a folder as they are now -> their names."""
    names = sorted(
        file.relative_to(folder).as_posix() for kind in WEIGHTS for file in folder.glob(kind)
    )
    write_sums(folder, names)
    return names


def read_sums(folder: Path) -> dict[str, str]:
    """name -> hash; empty where the folder has no sums.

    Raises PatchScalerError for a file that is no list of them.
    """
    file = folder / NAME
    if not file.is_file():
        return {}
    sums = {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        found = LINE.fullmatch(line)
        if not found:
            raise PatchScalerError(
                f"{file}: not a list of SHA-256 sums ({line[:40]!r}); {_mend(folder)}"
            )
        sums[found[2]] = found[1]
    if not sums:
        raise PatchScalerError(f"{file}: empty; {_mend(folder)}")
    return sums


def check_sums(folder: Path, names: Iterable[str]) -> None:
    """Are these files, which are about to be read, as they were saved? A folder without sums
    passes.

    A missing file is left to whoever reads it. Raises PatchScalerError, naming the first that
    differs.
    """
    sums = read_sums(folder)
    for name in names if sums else ():
        if not (folder / name).is_file():
            continue
        if name not in sums:
            raise PatchScalerError(f"{folder / name}: not in {NAME}; {_mend(folder)}")
        if (found := file_hash(folder / name)) != sums[name]:
            raise PatchScalerError(
                f"{folder / name}: not the file that was saved (sha256 {found[:12]}..., {NAME} "
                "says "
                f"{sums[name][:12]}...); {_mend(folder)}"
            )


def verify(folder: Path) -> dict[str, str]:
    """Every file that the sums name -> 'ok', 'differs' or 'missing'.

    Raises PatchScalerError where there are none.
    """
    sums = read_sums(folder)
    if not sums:
        raise PatchScalerError(
            f"{folder}: no {NAME}, so nothing to check by; save_pretrained writes one"
        )

    def state(name: str) -> str:
        file = folder / name
        if not file.is_file():
            return "missing"
        return "ok" if file_hash(file) == sums[name] else "differs"

    return {name: state(name) for name in sums}
