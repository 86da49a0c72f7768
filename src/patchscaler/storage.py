"""Where the arrays of an image on its way lie: in memory, or in a folder beside the output that
survives a kill.
"""

import contextlib
import errno
import json
import os
import shutil
import time
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from patchscaler.errors import PatchScalerError

try:
    import fcntl
except ImportError:  # Windows: two runs of one command may meet there
    fcntl = None  # type: ignore[assignment]

TRIES = 100  # to lock a folder


class Array(Protocol):
    """A numpy array, or what reads and writes like one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, key: Any, /) -> np.ndarray: ...

    def __setitem__(self, key: Any, value: Any, /) -> None: ...


class Storage(Protocol):
    """Named arrays and what is done of them."""

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """The array of this name: as a killed run left it, or new and zero."""

    def progress(self, name: str, count: int) -> np.ndarray:
        """(count,) bool: which of `count` pieces of work are done. Set it, then call `record`."""

    def record(self, now: bool = False) -> None:
        """Keep what is done so far."""

    def get(self, name: str) -> Array | None:
        """An array that was made before."""


class MemoryStorage:
    """All in memory; nothing survives."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        self.arrays[name] = np.zeros(shape, dtype)
        return self.arrays[name]

    def progress(self, name: str, count: int) -> np.ndarray:
        return np.zeros(count, bool)

    def record(self, now: bool = False) -> None:
        pass

    def get(self, name: str) -> np.ndarray | None:
        return self.arrays.get(name)


class DiskArray:
    """An array in a file, read and written by parts.

    It is mapped for the time of one access only, so that none of its pages count as the process's
    memory.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: Any):
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        self.ndim, self.itemsize = len(shape), self.dtype.itemsize
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        if not path.exists() or path.stat().st_size != self.nbytes:
            self._reserve()

    def _reserve(self) -> None:
        """All of it at once: a map of a file that the disk cannot hold would kill the process half-
        way.
        """
        try:
            with open(self.path, "wb") as file:
                file.truncate(self.nbytes)
                if self.nbytes and hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, self.nbytes)
        except OSError as error:
            self.path.unlink(missing_ok=True)
            raise PatchScalerError(
                f"{self.path.parent.parent}: no room for {self.nbytes / 1e9:.2f} GB of data "
                f"({error.strerror}). Hint: free some, or write the output to another disk with -o"
            ) from error

    def __getitem__(self, key: Any) -> np.ndarray:
        if not self.nbytes:
            return np.zeros(self.shape, self.dtype)[key]
        return np.array(np.memmap(self.path, self.dtype, "r", shape=self.shape)[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.nbytes:
            np.memmap(self.path, self.dtype, "r+", shape=self.shape)[key] = value

    def __len__(self) -> int:
        return self.shape[0]

    def flush(self) -> None:
        """Wait until everything written lies on the disk."""
        with open(self.path, "rb") as file:
            os.fsync(file.fileno())


class DiskStorage:
    """The folder `.NAME.patchscaler-KEY` beside the output NAME, locked while a run works in it.

    KEY is a hash of everything that decides about the pixels, so that the same command finds the
    folder again and
    another one does not. Work is recorded as done only after it was written.

    Args:
        target: The output file.
        key: Of all that decides about the pixels.
        about: For people who find the folder.
        every: Seconds between records of what is done.
    """

    def __init__(self, target: Path, key: str, about: dict[str, Any], every: float = 10.0):
        self.path = target.parent / f".{target.name}.patchscaler-{key[:16]}"
        self.every, self.last = every, time.monotonic()
        self.arrays: dict[str, DiskArray] = {}
        self.done: dict[str, np.ndarray] = {}
        self.prefix, self.passed = "", 0  # of the pass at hand; passes that are done
        self._made = [
            folder for folder in self.path.parents if not folder.exists()
        ]  # innermost first
        try:
            self._lock = self._locked()
        except BlockingIOError as error:
            raise PatchScalerError(
                f"{target}: another run is making this image. Hint: wait for it, or stop it"
            ) from error
        except OSError as error:
            raise PatchScalerError(
                f"{target}: cannot write there ({error.strerror}). Hint: choose another -o"
            ) from error
        self.resumed = (self.path / "job.json").exists()
        if not self.resumed:
            self.write("job.json", json.dumps(about, indent=1).encode())

    def _locked(self) -> IO[str]:
        """The folder's lock, held until it is closed; again where a run that ended removed the
        folder meanwhile.
        """
        for _ in range(TRIES):
            with contextlib.ExitStack() as stack, contextlib.suppress(FileNotFoundError):
                self.path.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(open(self.path / "lock", "w"))
                if fcntl:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock.fileno()), os.stat(self.path / "lock")):
                    stack.pop_all()
                    return lock
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> DiskArray:
        self.arrays[name] = DiskArray(self.path / (self.prefix + name), shape, dtype)
        return self.arrays[name]

    def get(self, name: str) -> DiskArray | None:
        return self.arrays.get(name)

    def progress(self, name: str, count: int) -> np.ndarray:
        file = self.path / f"{self.prefix}{name}.done"
        stored = (
            np.frombuffer(file.read_bytes(), bool).copy() if file.exists() else np.zeros(0, bool)
        )
        self.done[name] = stored if len(stored) == count else np.zeros(count, bool)
        return self.done[name]

    def record(self, now: bool = False) -> None:
        """Keep what is done so far, arrays first; at most every `every` seconds, unless `now`."""
        if not now and time.monotonic() - self.last < self.every:
            return
        for array in self.arrays.values():
            array.flush()
        for name, done in self.done.items():
            self.write(f"{self.prefix}{name}.done", done.tobytes())
        self.last = time.monotonic()

    def write(self, name: str, data: bytes) -> None:
        """A small file, whole or not at all."""
        temporary = self.path / f"{name}.tmp"
        temporary.write_bytes(data)
        os.replace(temporary, self.path / name)

    def finished(self) -> tuple[int, DiskArray | None]:
        """Of several passes: the first that is left, and the result of the one before it in a
        killed run.
        """
        kept = (file.with_suffix("") for file in self.path.glob("result*.json"))
        last = max(
            (file for file in kept if file.exists()),
            key=lambda file: int(file.name[6:]),
            default=None,
        )
        if last is None:
            return 0, None
        stored = json.loads(last.with_suffix(".json").read_text())
        return stored["pass"] + 1, DiskArray(last, tuple(stored["shape"]), stored["dtype"])

    def begin(self, n: int) -> None:
        """The n-th of several passes: names are free for it."""
        self.arrays, self.done, self.passed = {}, {}, n
        self.prefix = f"pass{n}." if n else ""

    def finish(self, n: int, result: DiskArray) -> DiskArray:
        """Keep of the n-th pass its result alone."""
        result.flush()
        about = {"pass": n, "shape": result.shape, "dtype": result.dtype.str}
        kept = self.path / f"result{n}"
        # The description comes first: a result that was moved without it would be made again, and
        # be empty.
        self.write(f"result{n}.json", json.dumps(about).encode())
        os.replace(result.path, kept)
        for file in self.path.iterdir():
            if file.name.split(".")[0] not in ("job", "lock", f"result{n}"):
                file.unlink()
        return DiskArray(kept, result.shape, result.dtype)

    def bytes_taken(self) -> int:
        with contextlib.suppress(OSError):  # another program may remove files meanwhile
            return sum(file.stat().st_size for file in self.path.glob("*"))
        return 0

    def close(self) -> None:
        """Release the lock; what is recorded stays for the next run."""
        self._lock.close()

    def remove(self) -> None:
        """Delete the folder, and parents that were made for it and hold nothing else.

        The lock goes last and is held until then: no run works in a folder that is being deleted.
        """
        if not fcntl:  # Windows deletes no open file
            self.close()
        for file in set(self.path.glob("*")) - {self.path / "lock"}:
            with contextlib.suppress(OSError):
                file.unlink()
        shutil.rmtree(self.path, ignore_errors=True)
        self.close()
        with contextlib.suppress(OSError):
            for folder in self._made:
                folder.rmdir()

    @staticmethod
    def others(target: Path, key: str) -> list[Path]:
        """Folders that runs with other options left for this output."""
        found = target.parent.glob(f".{_escape(target.name)}.patchscaler-*")
        return sorted(p for p in found if p.is_dir() and p.name.rsplit("-", 1)[1] != key[:16])


def _escape(name: str) -> str:
    """A name for `glob`, taken literally."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
