"""Table 3's two-device variant: one worker takes the hard patches, the other the simple and medium
ones.

Two processes with torch.distributed (gloo). Both restore the picture, which costs no time when it
happens at once; each samples its own groups; the second sends its patches to the first, which fuses
and decodes. Patches are independent, so the picture is that of one process.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image
from torch import Tensor

from patchscaler.config import GroupConfig
from patchscaler.devices import choose_device, choose_dtype
from patchscaler.diffusion.group_sampling import steps_of
from patchscaler.diffusion.groups import HARD
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.cost.paper_networks import paper_model
from patchscaler.evaluation.cost.paper_size import groups_with_shares
from patchscaler.pipeline import PatchScaler
from patchscaler.reproduce.chain import Restored, fuse, refine, restore, texture_prompts


@dataclass(frozen=True)
class Job:
    """What both processes are told. model: None for the paper's sizes with random weights."""

    pictures: list[np.ndarray]  # (h, w, 3) uint8 each
    devices: tuple[str, str] = ("cpu", "cpu")
    model: str | None = "compact"
    autoencoder: str | None = None
    dtype: str = "auto"
    threads: int = 1  # of each process
    runs: int = 1
    seed: int = 0
    # of simple and of simple + medium; None: the model's thresholds
    shares: tuple[float, float] | None = None

    def build(self, rank: int) -> PatchScaler:
        device = self.devices[rank]
        if self.model is None:
            return paper_model(device, choose_dtype(self.dtype, device))
        return PatchScaler.from_pretrained(
            self.model, device=device, dtype=self.dtype, autoencoder=self.autoencoder
        )


@dataclass
class Timed:
    """One picture. Seconds are medians after a run that warms up."""

    picture: np.ndarray  # (4h, 4w, 3) uint8, of both workers together
    difference: int  # largest, in grey levels, from one process that samples both shares in turn: 0
    # the same from one process with all patches in one batch, where sums round differently
    rounding: int
    alone: float  # one worker with its threads
    alone_all_threads: float | None  # one process with both workers' threads; None on GPUs
    together: float
    patches: dict[str, int]  # by worker, those that are sampled


def default_devices() -> tuple[str, str]:
    """Two GPUs where there are two, else one twice, else the processor twice."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ("cuda:0", f"cuda:{min(1, count - 1)}") if count else ("cpu", "cpu")


def run_two_workers(job: Job) -> list[Timed]:
    """Start both processes, wait, collect. Raises PatchScalerError where one of them failed."""
    for device in job.devices:
        choose_device(device)
    if job.runs < 1 or job.threads < 1:
        raise PatchScalerError("take 1 or more runs and threads")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            mp.spawn(_worker, (job, scratch), nprocs=2)
        except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
            told = Path(scratch) / "error.txt"  # the other worker only sees that a connection broke
            lines = [line for line in str(error).splitlines() if line.strip()]
            reason = told.read_text("utf-8") if told.is_file() else lines[-1].strip()
            raise PatchScalerError(f"a worker failed: {reason}") from error
        return torch.load(Path(scratch) / "timed.pt", weights_only=False)


def _worker(rank: int, job: Job, scratch: str) -> None:
    try:
        torch.set_num_threads(job.threads)
        model = job.build(rank)
        # both processes are on this machine, whatever its name resolves to
        if sys.platform == "linux":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group(
            "gloo", init_method=f"file://{scratch}/rendezvous", rank=rank, world_size=2
        )
        timed = [_measure(rank, model, job, picture) for picture in job.pictures]
        if rank == 0:
            torch.save(timed, Path(scratch) / "timed.pt")
        dist.barrier()
    except PatchScalerError as error:
        (Path(scratch) / "error.txt").write_text(str(error), "utf-8")
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _measure(rank: int, model: PatchScaler, job: Job, picture: np.ndarray) -> Timed | None:
    groups = groups_with_shares(model, picture, job.shares) if job.shares else model.config.groups
    result, together = _median(
        lambda: upscale_together(rank, model, picture, groups, job.seed), job.runs
    )
    if rank == 1:  # the first times itself alone, on a machine at rest
        dist.barrier()
        return None
    whole, alone = _median(
        lambda: upscale_alone(model, picture, groups, job.seed), job.runs, alone=True
    )
    everything = None
    if model.device.type == "cpu":
        torch.set_num_threads(2 * job.threads)
        _, everything = _median(
            lambda: upscale_alone(model, picture, groups, job.seed), job.runs, alone=True
        )
        torch.set_num_threads(job.threads)
    dist.barrier()
    restored = restore(model, picture, groups, job.seed)
    patches = {f"worker {r}": len(share_of(r, restored)) for r in (0, 1)}
    in_turn = restored.coarse.clone()
    for share in (share_of(0, restored), share_of(1, restored)):
        in_turn[share] = refine(model, restored, share, _prompts(model))
    two = np.asarray(result)
    difference, rounding = (
        int(np.abs(np.asarray(one, int) - two).max())
        for one in (fuse(model, restored, in_turn), whole)
    )
    return Timed(two, difference, rounding, alone, everything, together, patches)


def upscale_together(
    rank: int, model: PatchScaler, picture: np.ndarray, groups: GroupConfig, seed: int
) -> Image.Image | None:
    """Called by both; the picture on rank 0, None on rank 1."""
    restored = restore(model, picture, groups, seed)
    # Two devices may round differently: the first one's groups hold for both.
    dist.broadcast(restored.groups, 0)
    mine, theirs = share_of(rank, restored), share_of(1 - rank, restored)
    sampled = refine(model, restored, mine, _prompts(model))  # (n, C, V, V)
    if rank == 1:
        if len(mine):
            dist.send(sampled.cpu().contiguous(), 0)
        return None
    patches = restored.coarse.clone()  # (M, C, V, V): those of no steps stay as they are
    patches[mine] = sampled
    if len(theirs):
        received = torch.empty(len(theirs), *patches.shape[1:])
        dist.recv(received, 1)
        patches[theirs] = received.to(patches)
    return fuse(model, restored, patches)


def upscale_alone(
    model: PatchScaler, picture: np.ndarray, groups: GroupConfig, seed: int
) -> Image.Image:
    """The same in one process."""
    restored = restore(model, picture, groups, seed)
    return fuse(model, restored, refine(model, restored, prompt_of=_prompts(model)))


def share_of(rank: int, restored: Restored) -> Tensor:
    """Numbers of the patches a worker samples: 0 the hard ones, 1 the others; none of
    zero steps.
    """
    sampled = steps_of(restored.groups, restored.config) > 0
    return (sampled & ((restored.groups == HARD) == (rank == 0))).nonzero()[:, 0]


def _prompts(model: PatchScaler) -> Any:
    return texture_prompts(model) if model.memory else None


def _median(function: Callable[[], Any], runs: int, alone: bool = False) -> tuple[Any, float]:
    """The result and the median seconds after one run that warms up.

    Both workers start together unless alone.
    """
    seconds, result = [], None
    for _ in range(runs + 1):
        if not alone:
            dist.barrier()
        began = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - began)
    return result, float(np.median(seconds[1:]))
