"""Memory: how large tiles and batches may be for a limit, and whether what is asked for fits the
machine.
"""

from pathlib import Path

from patchscaler.errors import PatchScalerError
from patchscaler.model import Model
from patchscaler.patching import FADE
from patchscaler.regions import CONTEXT, TILE
from patchscaler.tiling import TileSizes

WHOLE = 1_000_000  # LR pixels; a larger image is cut into tiles unless `tile` says otherwise
MEBIBYTE = 2**20


def size_text(number: float) -> str:
    """Bytes for people."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def restoring_bytes(model: Model) -> int:
    """Working memory of the GRM and the encoder, a LR pixel."""
    c, latents = model.config.grm, model.autoencoder.channels
    pixels = 4 * model.scale**2 * 3  # an upscaled image in floats, a LR pixel
    features = c.width * (1 if c.kind == "pixels" else 4) * 4
    return 5 * features + 6 * pixels + 4 * latents


def decoding_bytes(model: Model) -> int:
    """Of blending, decoding and matching colors, a latent."""
    return 18 * 4 * 3 * model.factor**2 + 16 * model.autoencoder.channels


def denoising_bytes(model: Model) -> int:
    """Of the RRDB denoiser on the largest region."""
    if model.denoiser is None:
        return 0
    config = model.config.denoiser
    side = (TILE + 2 * CONTEXT) * model.step
    dense = side**2 * 4 * (config.width + 5 * config.growth) * 2
    return dense + 3 * 4 * config.width * (side * model.scale) ** 2


def tile_sizes(
    model: Model, size: tuple[int, int], tile: int | None, memory_limit: float
) -> TileSizes:
    """Tiles of an image.

    Args:
        size: (h, w) in LR pixels.
        tile: LR pixels of a tile's side; 0 for one tile, None for what the limit holds where the
        image is large.
        memory_limit: MiB.

    Raises:
        PatchScalerError: A tile is smaller than the network can be cut.
    """
    if tile == 0 or (tile is None and size[0] * size[1] <= WHOLE):
        return TileSizes()
    room = int(memory_limit * MEBIBYTE)
    reach, multiple = model.grm.reach, -(-model.grm.multiple // model.step)
    if tile is None:
        side = int((room / restoring_bytes(model)) ** 0.5) - 2 * reach
        tile = max(side, 64, 2 * reach)
    core = tile // model.step // multiple * multiple
    if core < 1:
        raise PatchScalerError(f"tile {tile}: take {multiple * model.step} LR pixels or more, or 0")
    # A decoded strip lies in memory across the whole image; tiles within it have the rest.
    row = 3 * 4 * model.factor * size[1] * model.scale  # bytes of a decoded row of latents
    rows = max(1, min(core, room // 4 // row))
    rows = rows if model.autoencoder.exact else max(rows, 2 * FADE)
    around = 2 * (model.autoencoder.reach + 9)
    columns = max(around, room // 2 // decoding_bytes(model) // (rows + around) - around)
    return TileSizes(core, rows, min(columns, max(core, around)))


def batch_size_within(model: Model, memory_limit: float) -> int:
    """How many patches a batch of Patch-DiT should have: an estimate from above.

    Raises:
        PatchScalerError: `memory_limit` is no number of MiB.
    """
    if (
        isinstance(memory_limit, bool)
        or not isinstance(memory_limit, int | float)
        or not 0 < memory_limit < 2**40
    ):
        raise PatchScalerError(f"memory_limit {memory_limit!r}: take a number of MiB, as 512")
    if model.denoiser is not None:
        return 1
    c, k, v = (
        model.config.patch_dit,
        model.config.texture.top_k,
        model.config.groups.latent_patch_size,
    )
    latents = model.autoencoder.channels * v**2
    tokens = (v // c.patch_size) ** 2
    context = k * (v // c.context_patch_size) ** 2
    floats = (12 + 2 * k) * latents + tokens * c.hidden_size * (8 + 3 * c.mlp_ratio)
    cross = 2 * c.depth * (c.cross_size or c.hidden_size)
    floats += context * (c.hidden_size * (8 + 2 * c.mlp_ratio) + cross)
    return max(1, int(memory_limit * MEBIBYTE / (4 * floats)))


def in_memory_bytes(model: Model, height: int, width: int) -> int:
    """Peak of an image whose arrays lie in memory, over the model's own, from above."""
    arrays = (4 + 2 + 2) * model.autoencoder.channels / model.step**2 + 4 * model.scale**2
    tiles = min(height * width, WHOLE) * (
        restoring_bytes(model) + decoding_bytes(model) / model.step**2
    )
    return int(arrays * height * width + tiles + denoising_bytes(model))


def free_memory() -> int | None:
    """Bytes that a process may still take, of the machine or its container; None where that is
    unknown.
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
    """Raises PatchScalerError where `needed` bytes are more than are free."""
    free = free_memory()
    if free is not None and needed > free:
        raise PatchScalerError(
            f"{what} takes about {size_text(needed)} of memory and {size_text(free)} are free. "
            "Hint: lower --memory-limit, or close other programs"
        )
