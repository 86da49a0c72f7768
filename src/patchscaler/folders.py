"""Folders of images: which files are images, and which are done already.

What is done is kept in a file of lines beside the results, one an image, written when its result
lies there: a run that was killed, or is given once more, goes on behind it.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from patchscaler._version import __version__
from patchscaler.errors import PatchScalerError
from patchscaler.images.formats import SUFFIXES as WRITTEN
from patchscaler.model import Model
from patchscaler.models.weights import file_hash

RECORD = ".patchscaler.jsonl"
SUFFIXES = {*WRITTEN, ".mpo"}

# --- what is done ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """An image that is done. Paths are relative to the two folders."""

    source: str
    size: int
    mtime: int  # nanoseconds
    key: str  # of options and weights
    target: str


class Record:
    """The lines of RECORD in a folder of results. As a context it keeps other runs out.

    Args:
        folder: Of the results.
        source: Of the images.
        key: Of everything that decides about the results, see `settings_key`.
    """

    def __init__(self, folder: Path, source: Path, key: str):
        self.folder, self.source, self.key, self.file = folder, source, key, folder / RECORD
        self.entries: dict[str, Entry] = {}
        name = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:24]
        self._lock = FileLock(Path(tempfile.gettempdir()) / f"patchscaler-{name}.lock", mode=0o666)

    def __enter__(self) -> "Record":
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise PatchScalerError(
                f"{self.folder}: another run is writing there. Hint: wait for it, or stop it"
            ) from error
        self._read()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lock.release()

    def _read(self) -> None:
        try:
            text = self.file.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            text = ""
        self.torn = bool(text) and not text.endswith("\n")  # by a kill
        for line in text.splitlines():
            try:
                entry = Entry(**json.loads(line))
            except (ValueError, TypeError):
                continue  # torn: that image is made again
            self.entries[entry.source] = entry

    def is_done(self, source: Path, target: Path) -> bool:
        """Was this very file made in this very way, and is the result there?"""
        entry = self._entry(source, target)
        stat = source.stat()
        return entry is not None and (entry.size, entry.mtime) == (stat.st_size, stat.st_mtime_ns)

    def is_own(self, source: Path, target: Path) -> bool:
        """Was the result made of this source by these settings, whatever the source is now?"""
        return self._entry(source, target) is not None

    def _entry(self, source: Path, target: Path) -> Entry | None:
        entry = self.entries.get(os.path.relpath(source, self.source))
        place = os.path.relpath(target, self.folder)
        known = entry is not None and entry.key == self.key and entry.target == place
        return entry if known and target.is_file() else None

    def add(self, source: Path, target: Path) -> None:
        """Call when the result is written."""
        stat, name = source.stat(), os.path.relpath(source, self.source)
        place = os.path.relpath(target, self.folder)
        entry = Entry(name, stat.st_size, stat.st_mtime_ns, self.key, place)
        self.entries[name] = entry
        with self.file.open("a", encoding="utf-8") as file:
            file.write(("\n" if self.torn else "") + json.dumps(asdict(entry)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.torn = False


def settings_key(model: Model, options: Mapping[str, Any], *more: Any) -> str:
    """Hash of everything that decides about results.

    Args:
        model: Its weights and what computes count.
        options: Of `PatchScaler.__call__`.
        more: Whatever else decides, such as `FileOptions`.
    """
    about = [
        __version__,
        model.weights_hash(),
        model.compute_signature,
        sorted(options.items()),
        more,
    ]
    return hashlib.sha256(json.dumps(about, default=_stable).encode()).hexdigest()[:16]


def _stable(value: Any) -> str:
    """Of an option, for the hash. A file counts by its content."""
    if isinstance(value, Path):
        return file_hash(value)
    return value.tobytes().hex() if isinstance(value, np.ndarray) else repr(value)


# --- folders --------------------------------------------------------------------------------------


@dataclass
class Found:
    """Below a folder: images by name, and what was passed over, with the reason."""

    images: list[Path] = field(default_factory=list)
    passed_over: list[tuple[Path, str]] = field(default_factory=list)


def find_images(
    folder: Path,
    recursive: bool = False,
    apart_from: Path | None = None,
    also: Callable[[Path], bool] = lambda path: False,
) -> Found:
    """Find the images of a folder, sorted by path.

    Hidden files, other folders and links that lead out of the folder are passed over.

    Args:
        folder: Where to look.
        recursive: Look into the folders below.
        apart_from: A folder to leave out, such as that of the results.
        also: Files to take although they are not named like images.

    Raises:
        PatchScalerError: The folder cannot be read.
    """
    found, root = Found(), folder.resolve()
    apart = None if apart_from is None else apart_from.resolve()

    def walk(place: Path) -> None:
        try:
            entries = sorted(place.iterdir())
        except OSError as error:
            if place == folder:
                raise PatchScalerError(f"{folder}: cannot be read ({error.strerror})") from error
            found.passed_over.append((place, f"cannot be read ({error.strerror})"))
            return
        for path in entries:
            real = Path(os.path.realpath(path))  # `resolve` raises where links go round in a circle
            if path.name.startswith(".") or real == apart:
                continue
            if path.is_symlink() and not real.is_relative_to(root):
                found.passed_over.append((path, "a link that leads out of the folder"))
            elif path.is_dir() and path.is_symlink():
                found.passed_over.append((path, "a link to a folder"))
            elif path.is_dir() and recursive:
                walk(path)
            elif path.is_dir():
                found.passed_over.append((path, "a folder; --recursive goes into it"))
            elif path.suffix.lower() not in SUFFIXES and not also(path):
                found.passed_over.append((path, "not named like an image"))
            elif not path.is_file():
                found.passed_over.append((path, "not a file"))
            else:
                found.images.append(path)

    walk(folder)
    return found
