"""The one folder that uploads and results lie in: private, bounded, cleared as visitors leave and
when all ends.
"""

import os
import secrets
import shutil
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

from patchscaler.errors import PatchScalerError

IN_USE = "in-use"  # a file in a job's folder while somebody works on it


class Folder:
    """`path` is the upload folder; every job has a folder in it whose name nobody can guess."""

    def __init__(self, keep: float, parent: str | Path | None = None):
        try:
            self.path = Path(
                os.path.realpath(tempfile.mkdtemp(prefix="patchscaler-web-", dir=parent))
            )
        except OSError as error:
            raise PatchScalerError(
                f"no folder for uploads can be made ({error.strerror or error})"
            ) from error
        self.keep, self.closed = keep, False
        self.pinned: set[Path] = set()
        self.lock = threading.Lock()
        self.jobs: defaultdict[str, set[Path]] = defaultdict(set)  # of each visitor
        self.uploads: defaultdict[str, set[Path]] = defaultdict(set)

    def pin(self) -> None:
        """What lies here now, the page's own examples, stays until all ends."""
        self.pinned = set(self.path.iterdir())

    def new_job(self) -> Path:
        """A folder of its own, marked as in use."""
        job = self.path / secrets.token_urlsafe(24)
        job.mkdir(mode=0o700)
        (job / IN_USE).touch()
        return job

    def keep_job(self, job: Path, visitor: str) -> None:
        """It is done; it stays until the visitor leaves."""
        with self.lock:
            self.jobs[visitor].add(job)
        (job / IN_USE).unlink(missing_ok=True)

    def remove(self, job: Path) -> None:
        shutil.rmtree(job, ignore_errors=True)

    def uploaded(self, path: Any, visitor: str) -> Path:
        """An upload that a visitor names -> its path.

        Raises PatchScalerError for all but files that lie here.
        """
        if not isinstance(path, str | Path) or "\0" in str(path):
            raise PatchScalerError("that is no file: upload a picture")
        real = Path(os.path.realpath(path))
        if not real.is_relative_to(self.path) or not real.is_file():
            raise PatchScalerError(
                "that is no uploaded file (uploads are removed after a while): upload it again"
            )
        with self.lock:
            if not self.pinned & set(real.parents):
                self.uploads[visitor].add(real)
        return real

    def left(self, visitor: str) -> None:
        """Remove what only this visitor has. Equal files of two visitors are one."""
        with self.lock:
            jobs, uploads = self.jobs.pop(visitor, set()), self.uploads.pop(visitor, set())
            mine = uploads - {path for others in self.uploads.values() for path in others}
        for job in jobs:
            self.remove(job)
        for path in mine:
            path.unlink(missing_ok=True)
            with suppress(OSError):
                path.parent.rmdir()

    def size(self) -> int:
        """Bytes of all files."""
        total = 0
        for place, _, files in os.walk(self.path):
            for name in files:
                with suppress(OSError):  # it was removed meanwhile
                    total += os.lstat(os.path.join(place, name)).st_size
        return total

    def sweep(self, now: float | None = None) -> None:
        """Remove what has lain here for longer than `keep` seconds."""
        limit = (time.time() if now is None else now) - self.keep
        for entry in self._entries() - self.pinned:
            with suppress(OSError):
                times = [entry.lstat().st_mtime]
                times += (
                    [path.lstat().st_mtime for path in entry.rglob("*")] if entry.is_dir() else []
                )
                if max(times) >= limit or (entry / IN_USE).exists():
                    continue
                if entry.is_dir():
                    self.remove(entry)
                else:
                    entry.unlink(missing_ok=True)

    def _entries(self) -> set[Path]:
        with suppress(OSError):
            if not self.closed:  # what clears temporary files may have taken it
                self.path.mkdir(mode=0o700)
        with suppress(OSError):
            return set(self.path.iterdir())
        return set()

    def close(self) -> None:
        """All of it goes."""
        self.closed = True
        shutil.rmtree(self.path, ignore_errors=True)
