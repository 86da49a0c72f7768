"""A recipe's stages for one step each, at the sizes of its networks: does it fit in here, before
days are spent on it?

Pictures are made up, models lie in a temporary folder, and each stage has a process of its own,
which tells its peak of memory and gives it back. Held-out measures and pictures are left out: they
look at hundreds of patches.
"""

import argparse
import contextlib
import io
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from pathlib import Path

import numpy as np
from PIL import Image

from patchscaler.config import preset
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.cost.memory import cuda_peak, process_peak
from patchscaler.training.data.sources import is_validation
from patchscaler.training.loop import Watch, watched
from patchscaler.training.recipe import LineParser, Recipe

# of pictures and tiles: one patch of 16 latents, and the least that the refiner's VGG takes
SIDE = 128
# One step, the smallest crops: 32 LR pixels are the 16 latents that four downsamplings need.
SMALLEST = {
    "steps": 1,
    "minutes": 0,
    "batch_size": 2,
    "lr_size": 32,
    "side": 16,
    "tile": SIDE,
    "variants": 1,
    "workers": 1,
    "candidates": 8,
    "size": 4,
    "regions": 4,
    "limit": 1,
    "log_every": 1,
}


@dataclass
class Tried:
    """One stage. parameters: that it trains, None without a loop. peak, cuda: MiB, of the process
    and on a GPU.
    """

    name: str
    parameters: int | None
    seconds: float
    peak: float
    cuda: float


def made_up(folder: Path) -> tuple[Path, Path]:
    """Three pictures to train on and one held out; two classes of textures -> their folders."""
    rng = np.random.default_rng(0)
    names = [f"made_{i:06x}_01.png" for i in range(1000)]
    held_out, others = ([n for n in names if is_validation(n) == held] for held in (True, False))
    for name in held_out[:1] + others[:3]:
        _save(folder / "images" / name, rng)
    held_out, others = (
        [n for n in names if is_validation(n, 0.15) == held] for held in (True, False)
    )
    for label in ("a", "b"):
        for name in held_out[:1] + others[:2]:
            _save(folder / "textures" / label / name, rng)
    return folder / "images", folder / "textures"


def _save(path: Path, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = Image.fromarray(rng.integers(0, 255, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.int16)
    noisy = smooth + rng.integers(-20, 20, (SIDE, SIDE, 3))
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)


def _random_autoencoder(recipe: Recipe, folder: Path) -> None:
    """Stable Diffusion's autoencoder with random weights, on disk, where the recipe would fetch the
    trained one.
    """
    presets = [
        args.preset
        for line in recipe.lines
        if "preset" in (args := recipe.arguments(line, eta="0.1"))
    ]
    config = preset(presets[0]).autoencoder if presets else None
    if config is None or config.kind != "kl" or "autoencoder" in recipe.shared:
        return
    from patchscaler.evaluation.cost.paper_networks import RandomAutoencoder

    RandomAutoencoder(config).model.save_pretrained(folder)
    recipe.shared["autoencoder"] = str(folder)


def _processes() -> BaseContext:
    """Fresh ones, which need not import torch again where the system can fork."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["patchscaler.training.commands"])
    return context


def _run(args: argparse.Namespace) -> tuple[Watch, float, float, float]:
    """In a process of its own -> what the loop told, seconds, peaks of memory."""
    watch = Watch(validates=False)
    began = time.monotonic()
    with watched(watch), contextlib.redirect_stdout(io.StringIO()):
        args.function(args)
    return watch, time.monotonic() - began, process_peak(), cuda_peak()


def dry_run(
    source: str, esrgan: str | None, parser: LineParser, shared: dict[str, str]
) -> list[Tried]:
    """Try each stage of a recipe, print a line for each.

    Raises PatchScalerError, naming the line that fails.
    """
    tried = []
    with tempfile.TemporaryDirectory(prefix="patchscaler-") as temporary:
        root = Path(temporary)
        images, textures = made_up(root)
        places = {
            "model": root / "model",
            "data": root / "data",
            "images": images,
            "textures": textures,
        }
        if esrgan:
            places["esrgan"] = Path(esrgan)
        recipe = Recipe(
            source, {name: str(path) for name, path in places.items()}, parser, dict(shared)
        )
        if recipe.left_out:
            print("left out: " + ", ".join(recipe.left_out), flush=True)
        _random_autoencoder(recipe, root / "autoencoder")
        print(
            f"{'line and stage':26s} {'trained':>9s} {'seconds':>8s} {'peak memory':>12s}",
            flush=True,
        )
        for line in recipe.lines:
            args = recipe.arguments(line, eta="0.1")
            vars(args).update({name: value for name, value in SMALLEST.items() if name in args})
            try:
                with ProcessPoolExecutor(1, _processes()) as pool:
                    watch, seconds, peak, cuda = pool.submit(_run, args).result()
            except PatchScalerError as error:
                raise recipe.wrong(line.number, str(error)) from error
            except BrokenProcessPool as error:
                raise recipe.wrong(
                    line.number, "the stage was killed: is there memory enough?"
                ) from error
            # a stage of the same name begins anew
            shutil.rmtree(root / "model" / "training", ignore_errors=True)
            tried.append(Tried(line.name, watch.parameters, seconds, peak, cuda))
            trained = "-" if watch.parameters is None else f"{watch.parameters / 1e6:.2f} M"
            on_gpu = f", {cuda / 1024:.2f} GiB on the GPU" if cuda else ""
            row = (
                f"{line.number:3d} {line.name:22s} {trained:>9s} {seconds:8.1f} "
                f"{peak / 1024:8.2f} GiB{on_gpu}"
            )
            print(row, flush=True)
    print(f"{len(tried)} stages, {sum(t.seconds for t in tried):.0f} seconds")
    return tried
