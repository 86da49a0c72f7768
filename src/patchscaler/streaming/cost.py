"""What a picture costs, told before it is paid: disk and memory before the first step, patch-steps
after the GRM.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from patchscaler.errors import PatchScalerError
from patchscaler.jobs import Job
from patchscaler.models.refiner import BAND, GROWTH, REACH, SCALE
from patchscaler.refining import CONTEXT, TILE
from patchscaler.streaming.windows import FADE, Sizes

if TYPE_CHECKING:
    from patchscaler.pipeline import PatchScaler

IN_MEMORY = 1_000_000  # LR pixels; above, `--window auto` cuts windows
MEBIBYTE = 2**20
SPARE = 0.02  # of the disk, that stays free


@dataclass(frozen=True)
class Cost:
    """Exact counts; bytes from above; seconds as this machine was measured to take, or None."""

    size: tuple[int, int]  # of the output, (width, height)
    patches: dict[str, int]
    evaluations: dict[str, int]
    disk: int
    memory: int
    windows: int  # 0: all in memory
    seconds: dict[str, float] | None = None

    @property
    def total(self) -> int:
        return sum(self.evaluations.values())

    def lines(self) -> list[str]:
        """For people, a line a thing."""
        work = ", ".join(
            f"{n} {name} ({self.evaluations[name]} steps)" for name, n in self.patches.items()
        )
        windows = (
            f"{self.windows} windows, {size_of(self.disk)} of disk" if self.windows else "in memory"
        )
        lines = [
            f"output {self.size[0]}x{self.size[1]}, {windows}, about {size_of(self.memory)} of "
            "memory",
            f"patches: {work}; {self.total} patch-steps in all",
        ]
        if self.seconds:
            stages = ", ".join(f"{name} {s:.0f}" for name, s in self.seconds.items())
            lines.append(f"about {duration(sum(self.seconds.values()))} here ({stages} s)")
        return lines


def size_of(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


# --- memory ---------------------------------------------------------------------------------------


def restoring_bytes(scaler: "PatchScaler") -> int:
    """Working memory of the GRM and the encoder, a LR pixel."""
    c, latents = scaler.config.grm, scaler.autoencoder.channels
    pixels = 4 * scaler.config.scale**2 * 3  # an enlarged picture in floats, a LR pixel
    features = c.width * (1 if c.kind == "pixels" else 4) * 4
    return 5 * features + 6 * pixels + 4 * latents


def decoding_bytes(scaler: "PatchScaler") -> int:
    """Of fusing, decoding and matching colours, a latent."""
    pixels = 4 * 3 * scaler.autoencoder.factor**2
    return 18 * pixels + 16 * scaler.autoencoder.channels


def refining_bytes(scaler: "PatchScaler") -> int:
    """Of drawing a tile."""
    if scaler.refiner is None:
        return 0
    side, width = TILE + 2 * CONTEXT, scaler.config.refiner.width
    # the maps of a dense block, and joined
    features = (side * scaler.step) ** 2 * 4 * (width + 5 * GROWTH) * 2
    rows = (
        (BAND + 2 * REACH) * SCALE
        if scaler.engine.startswith("torch")
        else side * scaler.autoencoder.factor
    )
    band = rows * side * scaler.autoencoder.factor * 4 * width * 3  # an engine enlarges all at once
    return features + band + 6 * 3 * 4 * (side * scaler.autoencoder.factor) ** 2


def window_sizes(scaler: "PatchScaler", width: int, window: int | None, limit: float) -> Sizes:
    """width: of the picture, in LR pixels. window: LR pixels of a core's side, or None: as limit
    (MiB) allows.
    """
    step, room = scaler.step, int(limit * MEBIBYTE)
    reach = scaler.grm.reach
    multiple = -(-scaler.grm.multiple // step)
    if window is None:
        side = int((room / restoring_bytes(scaler)) ** 0.5) - 2 * reach
        window = max(side, 64, 2 * reach)
    core = window // step // multiple * multiple
    if core < 1:
        raise PatchScalerError(f"window {window}: take {multiple * step} pixels or more")
    # A finished strip lies in memory across the whole picture; windows within it have the rest.
    # bytes of a row of latents, decoded
    row = 3 * 4 * scaler.autoencoder.factor * (width * scaler.config.scale)
    rows = max(1, min(core, room // 4 // row))
    rows = rows if scaler.autoencoder.exact else max(rows, 2 * FADE)
    around = 2 * (scaler.autoencoder.reach + 9)
    columns = max(around, room // 2 // decoding_bytes(scaler) // (rows + around) - around)
    return Sizes(core, rows, min(columns, max(core, around)))


def in_memory_bytes(scaler: "PatchScaler", height: int, width: int) -> int:
    """Peak of the path without windows, over the model's own memory, from above."""
    per_pixel = restoring_bytes(scaler) + decoding_bytes(scaler) // scaler.step**2
    return per_pixel * height * width + refining_bytes(scaler)


def free_memory() -> int | None:
    """Bytes that a process may still take, of the machine or of its container; None where nobody
    tells.
    """
    found = []
    try:
        text = Path("/proc/meminfo").read_text()
        found.append(int(text.split("MemAvailable:")[1].split()[0]) * 1024)
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            used = int(Path("/sys/fs/cgroup/memory.current").read_text())
            found.append(int(limit) - used)
    except (OSError, IndexError, ValueError):
        pass
    return min(found, default=None)


def check_memory(needed: int, what: str) -> None:
    free = free_memory()
    if free is not None and needed > free:
        raise PatchScalerError(
            f"{what} takes about {size_of(needed)} of memory and {size_of(free)} are free; lower "
            "--memory-limit, "
            "or close other programs"
        )


# --- disk -----------------------------------------------------------------------------------------


def disk_bytes(
    scaler: "PatchScaler",
    size: tuple[int, int],
    channels: int,
    bits: int,
    sampled: int,
    moments: bool,
) -> int:
    """Of the job folder, and of a file as large as the picture's pixels, twice while it is made.

    size: (h, w) of the small picture. sampled: patches that have steps.
    """
    h, w = size
    c, v = scaler.autoencoder.channels, scaler.config.groups.latent_patch_size
    latents = (h / scaler.step + v) * (w / scaler.step + v)
    picture = h * w * scaler.config.scale**2 * channels * bits // 8
    refined = 2 * c if scaler.refiner else 0
    return int(
        16 * h * w
        + latents * (4 * c + 4 + 16 * moments + refined)
        + 2 * sampled * c * v * v
        + 3 * picture
    )


def check_disk(needed: int, folder: Path, kept: int = 0) -> None:
    """kept: bytes that a killed run already took there.

    Raises PatchScalerError where the disk is too full.
    """
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    free = usage.free - int(SPARE * usage.total) if os.name == "posix" else usage.free
    if needed - kept > free:
        raise PatchScalerError(
            f"{folder}: the picture and its intermediate data take {size_of(needed)} of disk, "
            f"{size_of(max(0, free))} "
            "are free; free some, or write to another disk with -o"
        )


def cost_of(job: Job, size: tuple[int, int], disk: int, memory: int, windows: int) -> Cost:
    counted = job.cost()
    return Cost(size, counted["patches"], counted["evaluations"], disk, memory, windows)
