"""Folders of pictures: which files are pictures, which are done already, and which share a batch.

What is done is kept in a file of lines beside the results, one a picture, written when its result
lies there: a run that was killed, or is given once more, goes on behind it.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from patchscaler.apps.video.clip import is_video
from patchscaler.errors import PatchScalerError
from patchscaler.images.write import FORMATS

STATUS = ".patchscaler.jsonl"
SUFFIXES = {*FORMATS, ".jfif", ".jpe", ".mpo", ".hif"}
BATCH_PIXELS, BATCH_PICTURES = 400_000, 32  # of the inputs that share batches


@dataclass
class Found:
    """Below a folder: pictures by name, and what was passed over, with the reason."""

    pictures: list[Path] = field(default_factory=list)
    passed_over: list[tuple[Path, str]] = field(default_factory=list)


def find_pictures(
    folder: Path, recursive: bool, apart_from: Path | None = None, videos: bool = False
) -> Found:
    """Sorted by path. Hidden files, other folders and links that lead out of the folder are passed
    over.

    apart_from: the folder of results, should it lie inside. videos: find them too.
    Raises PatchScalerError for a folder that cannot be read.
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
            inside = real.is_relative_to(root)
            if path.name.startswith(".") or real == apart:
                continue
            if path.is_symlink() and not inside:
                found.passed_over.append((path, "a link that leads out of the folder"))
            elif path.is_dir():
                if path.is_symlink():
                    # it will be met where it is, or is a loop
                    found.passed_over.append((path, "a link to a folder"))
                elif recursive:
                    walk(path)
                else:
                    found.passed_over.append((path, "a folder; --recursive goes into it"))
            elif is_video(path) and not videos:
                found.passed_over.append((path, "a video; --videos takes it too"))
            elif path.suffix.lower() not in SUFFIXES and not is_video(path):
                found.passed_over.append((path, "not named like a picture"))
            elif not path.is_file():
                found.passed_over.append((path, "not a file"))
            else:
                found.pictures.append(path)

    walk(folder)
    return found


# --- what is done ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A picture that is done: what it was, how it was made, where it lies.

    Paths from the two folders on.
    """

    source: str
    size: int
    mtime: int  # nanoseconds
    key: str  # of options and weights
    target: str


class Status:
    """The lines of STATUS in the folder of results."""

    def __init__(self, folder: Path, key: str):
        self.folder, self.key, self.file = folder, key, folder / STATUS
        self.entries: dict[str, Entry] = {}
        try:
            text = self.file.read_text("utf-8") if self.file.exists() else ""
        except (OSError, UnicodeDecodeError):
            text = ""
        # by a kill: the next entry begins a line of its own
        self.torn = bool(text) and not text.endswith("\n")
        for line in text.splitlines():
            try:
                entry = Entry(**json.loads(line))
            except (ValueError, TypeError):
                continue  # torn by a kill: that picture is made again
            self.entries[entry.source] = entry

    def is_done(self, source: Path, name: str) -> bool:
        """Was this very file made in this very way, and is the result there?"""
        entry = self.entries.get(name)
        if entry is None or entry.key != self.key or not (self.folder / entry.target).is_file():
            return False
        stat = source.stat()
        return (stat.st_size, stat.st_mtime_ns) == (entry.size, entry.mtime)

    def add(self, source: Path, name: str, target: Path) -> None:
        """Call when the result is written."""
        stat = source.stat()
        place = os.path.relpath(target, self.folder)
        entry = Entry(name, stat.st_size, stat.st_mtime_ns, self.key, place)
        self.entries[name] = entry
        with self.file.open("a", encoding="utf-8") as file:
            file.write(("\n" if self.torn else "") + json.dumps(asdict(entry)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.torn = False


# --- which share a batch --------------------------------------------------------------------------


def batches(
    items: Iterator[tuple[int, Any]], pixels: int = BATCH_PIXELS, count: int = BATCH_PICTURES
) -> Iterator[list[Any]]:
    """(pixels, thing) -> lists of neighbours with at most so many pixels and pictures together."""
    batch: list[Any] = []
    held = 0
    for size, thing in items:
        if batch and (held + size > pixels or len(batch) == count):
            yield batch
            batch, held = [], 0
        batch.append(thing)
        held += size
    if batch:
        yield batch


@dataclass
class Summary:
    """What became of every file."""

    done: list[dict[str, str]] = field(default_factory=list)  # source, target
    done_before: list[str] = field(default_factory=list)
    passed_over: list[dict[str, str]] = field(default_factory=list)  # source, reason
    failed: list[dict[str, str]] = field(default_factory=list)  # source, error
    interrupted: bool = False

    def lines(self) -> Sequence[str]:
        """For people: counts, then every failure."""
        said = [f"{len(self.done)} enlarged", f"{len(self.done_before)} done before"]
        said += [f"{len(self.passed_over)} passed over"] if self.passed_over else []
        said += [f"{len(self.failed)} failed"] if self.failed else []
        said += ["interrupted: the same command goes on from here"] if self.interrupted else []
        return [", ".join(said), *(f"  {f['source']}: {f['error']}" for f in self.failed)]
