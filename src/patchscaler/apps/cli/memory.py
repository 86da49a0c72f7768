"""`patchscaler memory build | score | info`, and `patchscaler info`."""

import argparse
from pathlib import Path
from typing import Any

from patchscaler._version import __version__
from patchscaler.apps.cli.common import load_model, model_options
from patchscaler.errors import PatchScalerError


def add_parsers(commands: Any) -> None:
    memory = commands.add_parser("memory", help="build a texture memory, score or show one")
    kinds = memory.add_subparsers(dest="kind", required=True, metavar="ACTION")
    build = kinds.add_parser("build", help="from folders of sharp images")
    build.set_defaults(function=memory_build)
    build.add_argument("images", metavar="DIR", nargs="+")
    build.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="where to write (.safetensors)"
    )
    build.add_argument("--candidates", type=int, help="random crops to choose from")
    build.add_argument("--size", type=int, help="entries to keep")
    build.add_argument(
        "--include", default="", help="comma-separated prefixes of file names to use (default: all)"
    )
    build.add_argument(
        "--licence", default="own picture", help="of the images, kept with each entry"
    )
    build.add_argument(
        "--licences", metavar="FILE", help="lines of PREFIX<tab>LICENCE<tab>AUTHOR for file names"
    )
    build.add_argument("--quality", type=int, default=80, help="WebP quality of the stored crops")
    build.add_argument("--seed", type=int, default=0)
    model_options(build)
    score = kinds.add_parser(
        "score", help="accuracy and precision@4 of retrieval by class, on held-out images"
    )
    score.set_defaults(function=memory_score)
    score.add_argument("textures", metavar="DIR", help="one sub-folder a class")
    score.add_argument("--exclude", default="", help="comma-separated prefixes of file names")
    score.add_argument("--dtd-split", type=int, metavar="N", help="DTD's split N of ten")
    model_options(score)
    show = kinds.add_parser("info", help="entries, origins and licences of a memory")
    show.set_defaults(function=memory_info)
    show.add_argument("file", metavar="FILE")
    info = commands.add_parser("info", help="what is installed: model, sizes, hashes, device")
    info.set_defaults(function=model_info)
    model_options(info)


def memory_build(args: argparse.Namespace) -> int:
    from patchscaler.images.write import check_writable
    from patchscaler.training.memory import build_from_folders

    target = Path(args.output)
    if target.suffix != ".safetensors" or not 1 <= args.quality <= 100:
        raise PatchScalerError(
            "name the memory something.safetensors, and take a --quality of 1 to 100"
        )
    check_writable(target)
    memory = build_from_folders(args)
    memory.save(args.output)
    size = Path(args.output).stat().st_size
    print(
        f"{args.output}: {len(memory)} textures of {len(set(memory.origins))} images, "
        f"{size / 1e6:.2f} MB"
    )
    return 0


def memory_score(args: argparse.Namespace) -> int:
    from patchscaler.training.memory import score_folder

    score, classes = score_folder(args)
    print(f"{score.queries} crops of held-out images, {classes} classes (chance {1 / classes:.3f})")
    print(f"accuracy      {score.accuracy:.3f}")
    print(f"precision@4   {score.precision:.3f}")
    print(f"  of blurred  {score.blurred:.3f}")
    for name, precision in sorted(score.by_class.items(), key=lambda item: -item[1]):
        print(f"  {name:14s} {precision:.2f}")
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


def model_info(args: argparse.Namespace) -> int:
    import torch

    from patchscaler.config import GROUP_NAMES
    from patchscaler.model_folder import find_model
    from patchscaler.models.weights import file_hash

    model = load_model(args).model
    folder, groups = find_model(args.model, args.offline), model.config.groups
    print(f"patchscaler {__version__}, torch {torch.__version__}, {model.compute_signature}")
    print(f"model {model.config.name} in {folder}")
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size / 1e6
        print(f"  {file.name:28s} {size:6.2f} MB  sha256 {file_hash(file)[:16]}")
    settings = zip(GROUP_NAMES, groups.start_times, groups.num_inference_steps, strict=True)
    print("  " + "; ".join(f"{name} patches: {n} steps from t = {t}" for name, t, n in settings))
    simple, medium = groups.thresholds
    print(f"  confidence above {simple:.3f} is simple, above {medium:.3f} medium")
    return 0
