"""Weights that other people's packages carry: found without importing the package, read without
trusting it.
"""

import importlib.util
import os
import pickle
from pathlib import Path
from typing import Any

from patchscaler.errors import PatchScalerError


class PackageMissing(PatchScalerError):  # noqa: N818
    """A package whose weights are wanted is not installed. reason and hint, apart."""

    def __init__(self, reason: str, hint: str):
        super().__init__(f"{reason}; hint: {hint}")
        self.reason, self.hint = reason, hint


def package_file(package: str, *parts: str, hint: str) -> Path:
    """A file inside an installed package. hint: the command that installs it.

    Raises PackageMissing.
    """
    # finds, does not import: some of these packages cannot be imported
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.origin:
        raise PackageMissing(f"needs the weights in the package {package.replace('_', '-')}", hint)
    file = Path(os.path.dirname(spec.origin), *parts)
    if not file.is_file():
        raise PackageMissing(
            f"the installed package {package.replace('_', '-')} has no {'/'.join(parts)}", hint
        )
    return file


class _ArraysOnly(pickle.Unpickler):
    """Dictionaries, lists, numbers and numpy arrays, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {"_reconstruct", "ndarray", "dtype", "_frombuffer", "scalar"}
        if module.split(".")[0] == "numpy" and name in allowed:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a file of weights")


def unpickle_arrays(file: Path) -> Any:
    """A pickle of plain values and numpy arrays. Raises PatchScalerError for any other."""
    try:
        with open(file, "rb") as stream:
            return _ArraysOnly(stream).load()
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        AttributeError,
        IndexError,
        KeyError,
    ) as error:
        raise PatchScalerError(
            f"{file}: not a file of plain arrays ({error}); install its package again"
        ) from error
