"""Table 3's two-device variant: one worker denoises the hard patches, the other the simple and
medium ones.

An executor: every step of `PatchScaler.upscale` runs in this process, but of each batch the patches
that are not hard go to a second one. Patches are independent, so the image is that of one process
that denoises the same two batches.
"""

import multiprocessing as mp
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchscaler.config import GroupConfig
from patchscaler.denoising import denoise_batch
from patchscaler.devices import choose_device, choose_dtype
from patchscaler.diffusion.groups import HARD
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.cost.timing import torch_threads
from patchscaler.model import Model
from patchscaler.pipeline import Output, PatchScaler
from patchscaler.reproduce.paper_networks import groups_with_shares, paper_model
from patchscaler.tiling import Executor, LocalExecutor

BATCH = 100_000  # patches: all of an image in one batch, so that both workers have their share
Batch = tuple[Any, ...]  # y_0, noise, groups, config, prompt


@dataclass(frozen=True)
class Job:
    """What both processes know. model: None for the paper's sizes with random weights."""

    images: list[np.ndarray]  # (h, w, 3) uint8 each
    devices: tuple[str, str] = ("cpu", "cpu")
    model: str | None = None
    autoencoder: str | None = None
    dtype: str = "auto"
    threads: int = 1  # of each process
    repeats: int = 1
    seed: int = 0
    shares: tuple[float, float] | None = None  # of simple and simple + medium; None: thresholds

    def build(self, rank: int) -> Model:
        device = self.devices[rank]
        if self.model is None:
            return paper_model(device, choose_dtype(self.dtype, device))
        return Model.from_pretrained(
            self.model, device=device, dtype=self.dtype, autoencoder=self.autoencoder
        )


@dataclass
class Timed:
    """One image. Seconds are medians after a run that warms up."""

    array: np.ndarray  # (4h, 4w, 3) uint8, of both workers together
    difference: int  # largest, in levels, from one process with the same two batches: 0
    rounding: int  # the same from one process with all patches in one batch
    alone: float  # one worker with its threads
    alone_all_threads: float | None  # one process with both workers' threads; None on GPUs
    together: float
    patches: dict[str, int]  # by worker, those with network evaluations

    @property
    def speed_up(self) -> float:
        return self.alone / self.together


class SplitExecutor:
    """Hard patches by this process's model, the others by `start`, at the same time.

    start: (y_0, noise, groups, config, prompt) -> a function that waits for the result.
    """

    def __init__(self, model: Model, start: Callable[[Batch], Callable[[], tuple[Tensor, Tensor]]]):
        self.model, self.start = model, start
        self.compute_signature = model.compute_signature
        self.patches = {"worker 0": 0, "worker 1": 0}

    @torch.inference_mode()
    def map(self, function: Callable[..., Any], calls: Iterable[Batch]) -> Iterator[Any]:
        for call in calls:
            if function is denoise_batch:
                yield self._denoise(*call)
            else:
                yield function(self.model, *call)

    def _denoise(
        self, y_0: Tensor, noise: Tensor, groups: Tensor, config: GroupConfig, prompt: bool
    ) -> tuple[Tensor, Tensor]:
        shares = [(groups == HARD).nonzero()[:, 0], (groups != HARD).nonzero()[:, 0]]
        parts = [(y_0[i], noise[i], groups[i], config, prompt) for i in shares]
        self.patches = {f"worker {rank}": len(i) for rank, i in enumerate(shares)}
        wait = self.start(parts[1]) if len(shares[1]) else None
        found = [denoise_batch(self.model, *parts[0])] if len(shares[0]) else []
        places = [shares[0]] if len(shares[0]) else []
        if wait is not None:
            found.append(wait())
            places.append(shares[1])
        order = torch.cat(places).argsort()
        return tuple(torch.cat(both)[order] for both in zip(*found, strict=True))  # type: ignore[return-value]


def in_turn(model: Model) -> SplitExecutor:
    """The same two batches, one after the other in this process."""
    return SplitExecutor(model, lambda batch: lambda: denoise_batch(model, *batch))


class Worker:
    """The second process. Raises PatchScalerError where it cannot load its model."""

    def __init__(self, job: Job):
        context = mp.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, job), daemon=True)
        self.process.start()
        self._receive()  # the model is loaded

    def start(self, batch: Batch) -> Callable[[], tuple[Tensor, Tensor]]:
        y_0, noise, groups, *rest = batch
        self.connection.send(([x.cpu().numpy() for x in (y_0, noise, groups)], rest))
        return lambda: tuple(torch.from_numpy(x) for x in self._receive())  # type: ignore[return-value]

    def _receive(self) -> Any:
        try:
            answer = self.connection.recv()
        except EOFError as error:
            raise PatchScalerError("the second worker stopped") from error
        if isinstance(answer, PatchScalerError):
            raise PatchScalerError(f"the second worker failed: {answer}")
        return answer

    def close(self) -> None:
        self.connection.close()
        self.process.join(10)


def _serve(connection: Connection, job: Job) -> None:
    """Denoise what comes until the connection closes."""
    try:
        torch.set_num_threads(job.threads)
        model = job.build(1)
        connection.send(None)
        while True:
            arrays, rest = connection.recv()
            batch: Batch = (*map(torch.from_numpy, arrays), *rest)
            with torch.inference_mode():
                found = denoise_batch(model, *batch)
            connection.send([x.cpu().numpy() for x in found])
    except EOFError:
        return
    except Exception as error:  # it has no terminal of its own
        connection.send(PatchScalerError(f"{type(error).__name__}: {error}"))


def default_devices() -> tuple[str, str]:
    """Two GPUs where there are two, else one twice, else the processor twice."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ("cuda:0", f"cuda:{min(1, count - 1)}") if count else ("cpu", "cpu")


def default_threads() -> int:
    return max(1, (os.cpu_count() or 2) // 2)


def run_two_workers(job: Job) -> list[Timed]:
    """Measure one process and two, image by image.

    Raises:
        PatchScalerError: A device is missing, or the model has no Patch-DiT to share out.
    """
    for device in job.devices:
        choose_device(device)
    if job.repeats < 1 or job.threads < 1:
        raise PatchScalerError("take 1 or more repeats and threads")
    model = job.build(0)
    if model.denoiser is not None:
        raise PatchScalerError(
            f"{model.config.name}: its denoiser reads regions, not patches. Hint: --paper-size, or "
            "a model with Patch-DiT"
        )
    worker = Worker(job)
    try:
        with torch_threads(job.threads):
            return [_measure(model, worker, job, image) for image in job.images]
    finally:
        worker.close()


def _measure(model: Model, worker: Worker, job: Job, image: np.ndarray) -> Timed:
    pipeline, groups = PatchScaler(model), model.config.groups
    if job.shares:
        groups = groups_with_shares(model, image, job.shares)

    def run(executor: Executor, repeats: int) -> tuple[Output, float]:
        seconds = []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            output = pipeline.upscale(
                image,
                groups=groups,
                seed=job.seed,
                batch_size=BATCH,
                max_pixels=0,
                executor=executor,
            )
            seconds.append(time.perf_counter() - began)
        return output, statistics.median(seconds[1:] or seconds)

    split = SplitExecutor(model, worker.start)
    both, together = run(split, job.repeats)
    one, alone = run(LocalExecutor(model), job.repeats)
    all_threads = None
    if model.device.type == "cpu":
        with torch_threads(2 * job.threads):
            all_threads = run(LocalExecutor(model), job.repeats)[1]
    same, _ = run(in_turn(model), 0)
    difference, rounding = (
        int(np.abs(x.array.astype(int) - both.array).max()) for x in (same, one)
    )
    array = both.array
    return Timed(array, difference, rounding, alone, all_threads, together, dict(split.patches))
