"""`patchscaler memory build | info` and `patchscaler info`."""

import argparse
from pathlib import Path
from typing import Any

from patchscaler._version import __version__
from patchscaler.apps.cli.common import load_model, model_options
from patchscaler.errors import PatchScalerError


def add_parsers(commands: Any) -> None:
    memory = commands.add_parser("memory", help="build a texture memory, or look into one")
    kinds = memory.add_subparsers(dest="kind", required=True, metavar="ACTION")
    build = kinds.add_parser("build", help="from a folder of sharp pictures")
    build.set_defaults(function=memory_build)
    build.add_argument("images", metavar="DIR")
    build.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="where to write (.safetensors)"
    )
    build.add_argument("--candidates", type=int, help="random crops to choose from")
    build.add_argument("--size", type=int, help="entries to keep")
    build.add_argument(
        "--include", default="", help="comma-separated prefixes of file names to use (default: all)"
    )
    build.add_argument(
        "--licence", default="own picture", help="of the pictures, kept with each entry"
    )
    build.add_argument(
        "--licences", metavar="FILE", help="lines of PREFIX<tab>LICENCE<tab>AUTHOR for file names"
    )
    build.add_argument("--quality", type=int, default=80, help="WebP quality of the stored crops")
    build.add_argument("--seed", type=int, default=0)
    model_options(build)
    show = kinds.add_parser("info", help="entries, origins and licences of a memory")
    show.set_defaults(function=memory_info)
    show.add_argument("file", metavar="FILE")

    info = commands.add_parser("info", help="what is installed: model, sizes, hashes, device")
    info.set_defaults(function=model_info)
    sums = info.add_mutually_exclusive_group()
    sums.add_argument(
        "--verify", action="store_true", help="compare every file of the model with its SHA256SUMS"
    )
    sums.add_argument(
        "--write-sums", action="store_true", help="new SHA256SUMS for a model changed on purpose"
    )
    model_options(info)


def memory_build(args: argparse.Namespace) -> int:
    from patchscaler.images.write import check_writable
    from patchscaler.memory_builder import build_from_folder

    target = Path(args.output)
    if target.suffix != ".safetensors" or not 1 <= args.quality <= 100:
        raise PatchScalerError(
            "name the memory something.safetensors, and take a --quality of 1 to 100"
        )
    check_writable(target)
    memory = build_from_folder(args)
    memory.save(args.output)
    size = Path(args.output).stat().st_size
    print(
        f"{args.output}: {len(memory)} textures of {len(set(memory.origins))} pictures, "
        f"{size / 1e6:.2f} MB"
    )
    return 0


def memory_info(args: argparse.Namespace) -> int:
    import json
    from collections import Counter

    from patchscaler.models.weights import load_tensors

    tensors, metadata = load_tensors(args.file)
    if "origins" not in tensors:
        raise PatchScalerError(f"{args.file}: not a texture memory")
    rows = json.loads(metadata["origins"])
    used = Counter(tensors["origins"].tolist())
    print(
        f"{args.file}: {len(tensors['keys'])} textures, keys of {tensors['keys'].shape[1]} numbers"
    )
    for i, n in used.most_common():
        source, licence, author = rows[i]
        print(f"{n:5d}  {source}  {licence}" + (f"  {author}" if author else ""))
    return 0


def verify_model(args: argparse.Namespace) -> int:
    """A line a file; 1 where one is not as it was saved."""
    from patchscaler.models.checksums import renew_sums, verify
    from patchscaler.models.folder import find_model, read_config

    folder = find_model(args.model)
    if args.write_sums:
        read_config(folder)  # a folder without a model gets no sums
        renew_sums(folder)
    states = verify(folder)
    for name, state in states.items():
        print(f"{state:8s} {name}")
    return int(set(states.values()) != {"ok"})


def model_info(args: argparse.Namespace) -> int:
    if args.verify or args.write_sums:
        return verify_model(args)
    import torch

    from patchscaler.config import GROUP_NAMES
    from patchscaler.models.folder import find_model
    from patchscaler.models.weights import file_hash

    model = load_model(args)
    folder = find_model(args.model)
    print(f"patchscaler {__version__}, torch {torch.__version__}, {model.compute_signature}")
    print(f"model {model.config.name} in {folder}")
    for file in sorted(folder.glob("*.safetensors")):
        print(
            f"  {file.name:28s} {file.stat().st_size / 1e6:6.2f} MB  sha256 {file_hash(file)[:16]}"
        )
    settings = zip(
        GROUP_NAMES,
        model.config.groups.start_times,
        model.config.groups.num_inference_steps,
        strict=True,
    )
    print("  " + "; ".join(f"{name} patches: {n} steps from t = {t}" for name, t, n in settings))
    print(
        "  confidence above {:.3f} is simple, above {:.3f} medium".format(
            *model.config.groups.thresholds
        )
    )
    return 0
