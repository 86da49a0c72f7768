"""An executor whose work is done by the workers of a Ray cluster (extra `cluster`).

This process reads and writes the files and puts results together in order; a worker holds the
model and nothing else. A call depends on its arguments and the model alone, so one whose worker
died is given to another.
"""

import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from patchscaler._version import __version__
from patchscaler.errors import PatchScalerError
from patchscaler.model import Model

AHEAD = 2  # calls given to a worker at a time, so that it never waits for the next one
RESTARTS = 8  # of a worker that died
TIMEOUT = 5.0  # seconds for an address to answer
LOADING = 300.0  # seconds for workers to load the model


@dataclass(frozen=True)
class ModelSpec:
    """How a worker loads the model, and how it knows that it is the right one."""

    source: str
    device: str
    dtype: str
    memory: str | None
    autoencoder: str | None
    offline: bool
    threads: int
    version: str
    weights: str  # `Model.weights_hash` here


class Worker:
    """An actor, with the model from its first call on."""

    def __init__(self, spec: ModelSpec):
        self.spec = spec

    @cached_property
    def model(self) -> Model:
        """Raises PatchScalerError for another version or other weights than the spec's."""
        spec, host = self.spec, f"worker on {socket.gethostname()}"
        if spec.version != __version__:
            raise PatchScalerError(
                f"{host}: has patchscaler {__version__}, not {spec.version}. Hint: install the same"
            )
        torch.set_num_threads(spec.threads)
        model = Model.from_pretrained(
            spec.source,
            device=spec.device,
            dtype=spec.dtype,
            memory=spec.memory,
            autoencoder=spec.autoencoder,
            offline=spec.offline,
        )
        found = model.weights_hash()
        if found != spec.weights:
            raise PatchScalerError(
                f"{host}: {spec.source} has weights {found[:12]}, not {spec.weights[:12]}. "
                "Hint: copy the model folder"
            )
        return model

    def describe(self) -> tuple[str, str]:
        """-> host, compute signature."""
        return socket.gethostname(), self.model.compute_signature

    @torch.inference_mode()
    def run(self, function: Callable[..., Any], call: tuple[Any, ...]) -> Any:
        return function(self.model, *call)


class RayExecutor:
    """An `Executor` of `tiling.py` over a Ray cluster. Close it, or use it in a `with`.

    Args:
        address: auto for the cluster that this machine belongs to, HOST:PORT likewise, or
            ray://HOST:PORT from outside.
        spec: The model.

    Raises:
        PatchScalerError: No cluster answers, or its workers do not agree.
    """

    def __init__(self, address: str, spec: ModelSpec):
        self.ray, self.spec = import_ray(), spec
        self.workers: list[Any] = []
        check_address(address)
        self.owned = not self.ray.is_initialized()
        try:
            if self.owned:
                self.ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            self._start()
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            self.close()
            reason = str(error).strip().splitlines()[0]
            raise PatchScalerError(f"{address}: no usable Ray cluster ({reason})") from error
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        """Start a worker a GPU, or every `threads` cores where there are none."""
        spec, ray = self.spec, self.ray
        total = ray.cluster_resources()
        gpus = total.get("GPU", 0) >= 1 and spec.device in ("auto", "cuda")
        kind, each = ("GPU", 1) if gpus else ("CPU", spec.threads)
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        count = sum(int(resources.get(kind, 0) // each) for resources in alive)
        if not count:
            raise PatchScalerError(f"the cluster has no machine with {each} {kind} for a worker")
        needs = {"num_gpus": 1} if gpus else {"num_cpus": each}
        actor = ray.remote(Worker).options(**needs, max_restarts=RESTARTS)
        self.workers = [actor.remote(spec) for _ in range(count)]
        answers = {worker.describe.remote(): worker for worker in self.workers}
        ready, _ = ray.wait(list(answers), num_returns=count, timeout=LOADING)
        found = [self._result(reference) for reference in ready]
        if len({signature for _, signature in found}) != 1:
            kinds = ", ".join(sorted({" ".join(each) for each in found})) or "none answers"
            raise PatchScalerError(
                f"the cluster's workers compute differently ({kinds}). Hint: --device and --dtype"
            )
        self.compute_signature = found[0][1]
        self.workers = [answers[reference] for reference in ready]

    def map(self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """function(model, *call) for each call -> the results in order.

        Args:
            function: Of a module's top level.
            calls: Read as workers become free, a few ahead of the results.

        Raises:
            PatchScalerError: A call fails, or no worker is left.
        """
        todo, lost = enumerate(calls), deque[Any]()
        free = deque(self.workers * AHEAD)
        running: dict[Any, tuple[Any, Any]] = {}  # reference -> worker, call; None asks if it lives
        results: dict[int, Any] = {}
        following, limit = 0, 2 * len(free)
        try:
            while True:
                while free and len(running) + len(results) < limit:
                    call = lost.popleft() if lost else next(todo, None)
                    if call is None:
                        break
                    worker = free.popleft()
                    running[worker.run.remote(function, call[1])] = worker, call
                if lost and not running:
                    raise PatchScalerError("the cluster has no worker left")
                if not lost and all(call is None for _, call in running.values()):
                    return
                [reference], _ = self.ray.wait(list(running))
                worker, call = running.pop(reference)
                try:
                    result = self._result(reference)
                except self.ray.exceptions.RayActorError:  # the worker died; Ray may restart it
                    if call is not None:
                        lost.append(call)
                        alive = worker.describe.options(max_task_retries=-1).remote()
                        running[alive] = worker, None
                    continue
                free.append(worker)
                if call is not None:
                    results[call[0]] = result
                while following in results:
                    yield results.pop(following)
                    following += 1
        finally:
            for reference in running:
                self.ray.cancel(reference)

    def _result(self, reference: Any) -> Any:
        """Raises what the call raised, as PatchScalerError where it is of no known kind."""
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            if isinstance(cause, PatchScalerError | MemoryError):
                raise cause from None
            reason = f"{type(cause).__name__}: {cause}".splitlines()[0]
            raise PatchScalerError(f"a worker failed ({reason})") from error

    def close(self) -> None:
        """Let go of the workers, and of the cluster where this object connected to it."""
        for worker in self.workers:
            self.ray.kill(worker)
        if self.owned and self.ray.is_initialized():
            self.ray.shutdown()

    def __enter__(self) -> "RayExecutor":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


def import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise PatchScalerError(
            "a cluster needs the package ray. Hint: pip install 'patchscaler[cluster]'"
        ) from error
    return ray


def check_address(address: str) -> None:
    """Raises PatchScalerError where no one answers; Ray itself would wait for long."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise PatchScalerError(
            f"{address}: no address. Hint: give auto, HOST:PORT or ray://HOST:PORT"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), TIMEOUT).close()
    except (OSError, OverflowError) as error:
        raise PatchScalerError(f"{address}: no answer ({error}). Hint: ray start --head") from error
