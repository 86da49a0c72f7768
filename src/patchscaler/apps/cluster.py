"""Hands on other machines: an existing Ray cluster does the pieces of work of `work.py` (extra
`cluster`).

This machine reads and writes the files, keeps what is done and puts the pieces together in their
order; workers hold the model and nothing else. A piece whose worker dies is done again by another:
Ray sees to that.
"""

import os
import socket
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from patchscaler._version import __version__
from patchscaler.dials.record import weights_id, weights_of
from patchscaler.errors import PatchScalerError
from patchscaler.work import WORK, portable

if TYPE_CHECKING:
    from patchscaler.pipeline import PatchScaler

RETRIES = 8  # of a piece whose worker died
PATIENCE = 5.0  # seconds for an address to answer
AHEAD = 2  # pieces given out, a worker


@dataclass(frozen=True)
class ModelSpec:
    """How a worker finds the model, and how it knows that it is the right one."""

    source: str
    device: str
    dtype: str
    memory: str | None
    autoencoder: str | None
    threads: int
    version: str
    weights: str  # `weights_id`


@dataclass(frozen=True)
class Told:
    """What a worker says of itself."""

    node: str
    compute_signature: str
    pid: int


@lru_cache(maxsize=1)
def model_of(spec: ModelSpec) -> "PatchScaler":
    """On a worker, once a process.

    Raises PatchScalerError where version or weights are others than here.
    """
    from patchscaler.pipeline import PatchScaler

    where = f"worker on {socket.gethostname()}"
    if spec.version != __version__:
        raise PatchScalerError(
            f"{where} has patchscaler {__version__}, this machine {spec.version}; install the same"
        )
    torch.set_num_threads(spec.threads)
    try:
        scaler = PatchScaler.from_pretrained(
            spec.source,
            device=spec.device,
            dtype=spec.dtype,
            memory=spec.memory,
            autoencoder=spec.autoencoder,
        )
    except PatchScalerError as error:
        raise PatchScalerError(f"{where}: {error}") from error
    own = weights_id(weights_of(scaler))
    if own != spec.weights:
        raise PatchScalerError(
            f"{where} has other weights ({own}) than this machine ({spec.weights}) in {spec.source}"
        )
    return scaler


def tell(spec: ModelSpec) -> Told:
    """The work that only asks."""
    scaler = model_of(spec)
    return Told(socket.gethostname(), scaler.compute_signature, os.getpid())


@torch.inference_mode()
def do(spec: ModelSpec, name: str, arguments: tuple[Any, ...]) -> Any:
    """One piece."""
    return WORK[name](model_of(spec), *arguments)


def import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise PatchScalerError(
            "--cluster needs the package ray: pip install 'patchscaler[cluster]'"
        ) from error
    return ray


class Cluster:
    """Hands that are workers of a Ray cluster. Close it, or use it in a `with`."""

    def __init__(self, address: str, spec: ModelSpec):
        """address: HOST:PORT of a cluster that this machine belongs to, 'auto' for the one that
        runs here, or ray://HOST:PORT from outside. Raises PatchScalerError where it cannot be used.
        """
        self.ray, self.spec = import_ray(), spec
        check_answers(address)
        self.own = not self.ray.is_initialized()
        if self.own:
            try:
                self.ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                line = str(error).strip().splitlines()[0]
                raise PatchScalerError(
                    f"--cluster {address}: no Ray cluster can be used there ({line})"
                ) from error
        try:
            self.gpus = self.ray.cluster_resources().get("GPU", 0) >= 1 and spec.device in (
                "auto",
                "cuda",
            )
            resources = {"num_gpus": 1} if self.gpus else {"num_cpus": spec.threads}
            self.options = resources | {"max_retries": RETRIES, "retry_exceptions": False}
            self.workers, self.compute_signature = self._workers()
        except BaseException:
            self.close()
            raise

    def _workers(self) -> tuple[int, str]:
        """How many work at once, on what: asked of every machine.

        Raises PatchScalerError where they do not agree.
        """
        strategy = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        what, each = ("GPU", 1) if self.gpus else ("CPU", self.spec.threads)
        count, asked = 0, []
        for node in self.ray.nodes():
            here = int(node["Resources"].get(what, 0) // each) if node["Alive"] else 0
            if here:
                count += here
                pinned = strategy(node["NodeID"], soft=False)
                asked.append(self._remote(tell, scheduling_strategy=pinned).remote(self.spec))
        if not count:
            raise PatchScalerError(f"the cluster has no machine with {each} {what} for a worker")
        told = [self._got(reference) for reference in asked]
        numbers = {one.compute_signature for one in told}
        if len(numbers) > 1:
            kinds = ", ".join(sorted(f"{one.node} {one.compute_signature}" for one in told))
            raise PatchScalerError(
                f"the cluster's machines compute differently ({kinds}); choose --device and --dtype"
            )
        return count, numbers.pop()

    def _remote(self, function: Any, **more: Any) -> Any:
        return self.ray.remote(function).options(**self.options, **more)

    def _got(self, reference: Any) -> Any:
        """Its result. Raises PatchScalerError for whatever went wrong over there."""
        errors = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except errors.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            if isinstance(cause, PatchScalerError | MemoryError):
                raise cause from None
            if isinstance(cause, ModuleNotFoundError | AttributeError):
                raise PatchScalerError(
                    f"a worker has no patchscaler like this one ({cause}); install the same"
                ) from error
            raise PatchScalerError(
                f"a worker failed: {type(cause).__name__}: {cause}".splitlines()[0]
            ) from error
        except errors.RayError as error:
            raise PatchScalerError(
                f"the cluster lost a piece of work for good: {str(error).splitlines()[0]}"
            ) from error

    def map(self, name: str, calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """As `work.Executor` says.

        No more than AHEAD pieces a worker are under way or wait to be taken up here.
        """
        remote, waiting, calls = self._remote(do), deque[Any](), iter(calls)
        try:
            for arguments in calls:
                waiting.append(
                    remote.remote(self.spec, name, tuple(portable(a) for a in arguments))
                )
                if len(waiting) >= AHEAD * self.workers:
                    yield self._got(waiting.popleft())
            while waiting:
                yield self._got(waiting.popleft())
        finally:
            for reference in waiting:
                self.ray.cancel(reference)

    def close(self) -> None:
        if self.own and self.ray.is_initialized():
            self.ray.shutdown()

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


def check_answers(address: str) -> None:
    """Raises PatchScalerError for an address that is none, or where nobody answers: Ray itself
    would wait long.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise PatchScalerError(f"--cluster {address}: give auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PatchScalerError(f"--cluster {address}: nobody answers there ({reason})") from error
