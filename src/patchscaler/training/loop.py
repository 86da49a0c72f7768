"""The one training loop: a stage gives batches and losses, the loop does the rest.

Every step draws from generators seeded by (seed, step, rank), so that a run that was killed goes on
with the losses it would have had. Checkpoints are written to a temporary file and renamed: a full
disk or a kill costs no earlier one. A log or an image that cannot be written costs nothing but
itself.
"""

import argparse
import csv
import errno
import io
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from patchscaler.errors import PatchScalerError
from patchscaler.training.optim import EMA, build_optimizers, rate_factor

Batch = dict[str, Any]


class Stage(Protocol):
    """What the loop needs. `trainables` are stepped in order on one batch; the first is averaged.

    A trainable's forward(batch) -> (loss, numbers to log).
    """

    trainables: dict[str, nn.Module]

    def batch(self, rng: np.random.Generator, generator: torch.Generator) -> Batch: ...

    def validate(self, model: nn.Module) -> dict[str, float]: ...

    def samples(self, model: nn.Module) -> list[list[Tensor]]:
        """Rows of held-out images side by side, each (3, H, W) in [-1, 1]; none where there is
        nothing to see.
        """
        ...

    def save(self, model: nn.Module, folder: Path) -> None: ...


@dataclass(frozen=True)
class LoopConfig:
    out: str
    steps: int = 0  # 0: no limit
    minutes: float = 0.0  # 0: no limit; of this run and those it resumes, together
    lr: float = 5e-4
    optimizer: str = "adamw"
    warmup: int = 100
    decay: float = 0.3
    ema: float = 0.999
    clip: float = 1.0
    bf16: bool = True
    seed: int = 0
    log_every: int = 50
    save_minutes: float = 5.0

    @classmethod
    def from_args(cls, args: argparse.Namespace, folder: Path, name: str) -> "LoopConfig":
        """What a command asks for; checkpoints go to `training/NAME` in the model folder."""
        names = {f.name for f in fields(cls)} & set(vars(args))
        return cls(str(folder / "training" / name), **{n: getattr(args, n) for n in names})


def train(stage: Stage, config: LoopConfig, folder: str | Path) -> dict[str, float]:
    """Run a stage to its limit, save its averaged networks to `folder` -> the last validation.

    Resumes from `out`/checkpoint.pt where there is one.
    """
    if not config.steps and not config.minutes:
        raise PatchScalerError("no limit given. Hint: --steps or --minutes")
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    rank, distributed = 0, None
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        distributed = _accelerator(config, _device(stage).type == "cpu")
        rank = distributed.process_index
    device = distributed.device if distributed else _device(stage)
    optimizers = {
        n: build_optimizers(config.optimizer, m, config.lr) for n, m in stage.trainables.items()
    }
    main = next(iter(stage.trainables))
    ema = EMA(stage.trainables[main], config.ema)
    losses: dict[str, list[float]] = {}  # since the last log
    step, seconds = _resume(out, stage, optimizers, ema, losses)
    if (config.steps and step >= config.steps) or (
        config.minutes and seconds >= 60 * config.minutes
    ):
        print(f"{out}: already at its limit; nothing is written", flush=True)
        return {}
    modules = dict(stage.trainables)
    if distributed:
        modules = {n: distributed.prepare(m) for n, m in modules.items()}
    writer = _tensorboard(out) if rank == 0 else None
    began, saved, waited = time.monotonic() - seconds, time.monotonic(), 0.0
    if rank == 0:
        _trim_log(out, step)

    def progress() -> float:
        """Share of the stage that is done."""
        by_steps = step / config.steps if config.steps else 0.0
        by_time = (time.monotonic() - began) / (60 * config.minutes) if config.minutes else 0.0
        if distributed and config.minutes:  # one clock, or one process would stop and the rest wait
            clock = torch.tensor(by_time, device=device)
            torch.distributed.broadcast(clock, 0)
            by_time = float(clock)
        return max(by_steps, by_time)

    while (done := progress()) < 1:
        factor = rate_factor(step, done, config.warmup, config.decay)
        mark = time.monotonic()
        rng = np.random.default_rng([config.seed, step, rank])
        generator = torch.Generator().manual_seed(hash((config.seed, step, rank)) % 2**63)
        batch = stage.batch(rng, generator)
        waited += time.monotonic() - mark
        for name, module in modules.items():
            module.train()
            for optimizer in optimizers[name]:
                optimizer.zero_grad(set_to_none=True)
                for group in optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * factor
            with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
                loss, logs = module(batch)
            if not math.isfinite(float(loss.detach())):
                terms = ", ".join(f"{k} {v:.3g}" for k, v in logs.items())
                raise PatchScalerError(
                    f"{name}: the loss is not finite at step {step} ({terms}); lower --lr"
                )
            distributed.backward(loss) if distributed else loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), config.clip)
            for optimizer in optimizers[name]:
                optimizer.step()
            for k, v in logs.items():
                losses.setdefault(f"{name}/{k}", []).append(v)
        ema.update(stage.trainables[main], step)
        step += 1
        elapsed = time.monotonic() - began
        if rank == 0 and step % config.log_every == 0:
            means = {k: float(np.mean(v)) for k, v in losses.items()}
            _log(out, writer, step, elapsed, waited / max(1e-9, elapsed - seconds), means)
        if step % config.log_every == 0:
            losses.clear()
        if rank == 0 and time.monotonic() - saved > 60 * config.save_minutes:
            _save(out, stage, optimizers, ema, step, elapsed, losses)
            with ema.applied(stage.trainables[main]) as averaged:
                _show(out, writer, step, stage.samples(averaged))
            saved = time.monotonic()
    result: dict[str, float] = {}
    elapsed = time.monotonic() - began
    if rank == 0:
        _save(out, stage, optimizers, ema, step, elapsed, losses)
        with ema.applied(stage.trainables[main]) as averaged:
            result = stage.validate(averaged)
            _show(out, writer, step, stage.samples(averaged))
            stage.save(averaged, Path(folder))
        waiting = waited / max(1e-9, elapsed - seconds)
        _log(out, writer, step, elapsed, waiting, {f"val/{k}": v for k, v in result.items()})
    # one that leaves while another still saves can be torn down with its connections open
    if distributed:
        distributed.wait_for_everyone()
    return result


def _device(stage: Stage) -> torch.device:
    return next(next(iter(stage.trainables.values())).parameters()).device


def _accelerator(config: LoopConfig, processor: bool) -> Any:
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError as error:
        raise PatchScalerError(
            "several devices need accelerate: pip install 'patchscaler[train]'"
        ) from error
    # A dropped prompt leaves the texture encoder without gradient on that step.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    # `cpu` is needed: accelerate 1.15 otherwise takes each process for the only one.
    return Accelerator(
        cpu=processor, mixed_precision="bf16" if config.bf16 else "no", kwargs_handlers=[unused]
    )


def _tensorboard(out: Path) -> Any:
    """A writer of loss curves, or None where the extra is missing: log.csv holds the
    same numbers.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "tensorboard"))


def _log(
    out: Path, writer: Any, step: int, elapsed: float, wait: float, numbers: dict[str, float]
) -> None:
    text = " ".join(f"{k} {v:.4f}" for k, v in numbers.items())
    print(f"step {step} {elapsed / 60:.1f} min, {wait:.1%} waiting for data: {text}", flush=True)
    lines = io.StringIO(newline="")
    csv.writer(lines, lineterminator="\n").writerows(
        [step, f"{elapsed:.1f}", k, f"{v:.6g}"] for k, v in numbers.items()
    )
    data = lines.getvalue().encode()
    with _not_vital(out / "log.csv"), (out / "log.csv").open("ab", buffering=0) as file:
        before = file.tell()
        try:
            if file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with suppress(OSError):  # half a line would spoil the next one
                file.truncate(before)
            raise
    if writer:
        with _not_vital(out / "tensorboard"):
            for k, v in numbers.items():
                writer.add_scalar(k, v, step)


def _trim_log(out: Path, step: int) -> None:
    """Drop what a killed run logged after its last checkpoint: those steps are made, and logged,
    again.
    """
    path = out / "log.csv"
    if not path.is_file():
        return
    with _not_vital(path):
        lines = path.read_text().splitlines(keepends=True)
        kept = [
            x
            for x in lines
            if x.endswith("\n") and x.partition(",")[0].isdigit() and int(x.split(",")[0]) <= step
        ]
        if kept != lines:
            temporary = out / "log.tmp"
            temporary.write_text("".join(kept))
            os.replace(temporary, path)


def _show(out: Path, writer: Any, step: int, rows: list[list[Tensor]]) -> None:
    """Rows of images -> validation.png (the latest) and TensorBoard."""
    if not rows:
        return
    sheet = torch.cat([torch.cat([p.cpu() for p in row], 2) for row in rows], 1)  # (3, H, W)
    sheet = ((sheet.float().clamp(-1, 1) + 1) * 127.5).round().byte()
    with _not_vital(out / "validation.png"):
        temporary = out / "validation.tmp.png"
        try:
            Image.fromarray(sheet.movedim(0, -1).numpy()).save(temporary)
            os.replace(temporary, out / "validation.png")
        finally:
            temporary.unlink(missing_ok=True)
    if writer:
        with _not_vital(out / "tensorboard"):
            writer.add_image("validation", sheet, step)


@contextmanager
def _not_vital(path: Path) -> Iterator[None]:
    """A full disk at something that training does not need: one line, and training goes on."""
    try:
        yield
    except OSError as error:
        print(
            f"{path} not written ({error.strerror or error}); training goes on, make room",
            flush=True,
        )


def _save(
    out: Path,
    stage: Stage,
    optimizers: dict[str, Any],
    ema: EMA,
    step: int,
    elapsed: float,
    losses: dict[str, list[float]],
) -> None:
    state = {
        "models": {n: m.state_dict() for n, m in stage.trainables.items()},
        "optimizers": {n: [o.state_dict() for o in os_] for n, os_ in optimizers.items()},
        "ema": ema.state_dict(),
        "step": step,
        "seconds": elapsed,
        "losses": losses,  # not logged yet: a mean over all its steps comes after the resume
    }
    temporary = out / "checkpoint.tmp"
    try:
        torch.save(state, temporary)
        os.replace(temporary, out / "checkpoint.pt")
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise PatchScalerError(
            f"checkpoint not written to {out} ({error}); the one before it is kept"
        ) from error


def _resume(
    out: Path, stage: Stage, optimizers: dict[str, Any], ema: EMA, losses: dict[str, list[float]]
) -> tuple[int, float]:
    """Fill all of them from the checkpoint, where there is one -> steps and seconds so far."""
    path = out / "checkpoint.pt"
    if not path.exists():
        return 0, 0.0
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    try:
        for name, module in stage.trainables.items():
            module.load_state_dict(state["models"][name])
            for optimizer, saved in zip(optimizers[name], state["optimizers"][name], strict=True):
                # today's --lr counts
                rates = [group["initial_lr"] for group in optimizer.param_groups]
                optimizer.load_state_dict(saved)
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["initial_lr"] = rate
        ema.load_state_dict(state["ema"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise PatchScalerError(
            f"{path}: of another network or optimizer ({str(error).splitlines()[0]}). "
            f"Hint: move {out} away to start again"
        ) from error
    losses.update(state.get("losses", {}))
    print(f"resumed {path} at step {state['step']}", flush=True)
    return int(state["step"]), float(state["seconds"])


def mean_psnr(a: Tensor, b: Tensor) -> float:
    """Mean over images of 10 log10(4 / mse) for values in [-1, 1], clamped."""
    mse = (a.clamp(-1, 1) - b.clamp(-1, 1)).square().flatten(1).mean(1)
    return float((10 * torch.log10(4 / mse.clamp_min(1e-10))).mean().detach())
