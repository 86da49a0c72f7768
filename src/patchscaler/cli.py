"""The command line: `patchscaler upscale | memory | info | benchmark | train`. Thin; torch is imported late."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from patchscaler._version import __version__
from patchscaler.errors import PatchScalerError


def main(argv: Sequence[str] | None = None) -> int:
    """-> exit code: 0 fine, 1 something failed, 2 wrong usage, 130 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = _parser(training=argv[:1] == ["train"]).parse_args(argv)
    try:
        return int(args.function(args) or 0)
    except PatchScalerError as error:
        print(f"patchscaler: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("patchscaler: interrupted; nothing half-written is left", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"patchscaler: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
    except MemoryError:
        print("patchscaler: not enough memory; use a smaller picture or --memory-limit", file=sys.stderr)
    return 1


def _parser(training: bool) -> argparse.ArgumentParser:
    # The stages' options are read only when they are asked for: they import torch.
    parser = argparse.ArgumentParser(prog="patchscaler", description="Enlarge pictures four times.")
    parser.add_argument("--version", action="version", version=f"patchscaler {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    up = commands.add_parser("upscale", help="enlarge pictures x4", description="Enlarge pictures x4.")
    up.set_defaults(function=upscale)
    up.add_argument("inputs", nargs="+", metavar="INPUT", help="pictures")
    up.add_argument("-o", "--output", metavar="OUT", help="file, or folder for several (default: NAME_x4.png beside)")
    up.add_argument("--seed", type=int, default=0, help="another number invents other fine texture")
    up.add_argument("--shares", metavar="S,E", help="S of the patches left as restored, up to E refined briefly, the "
                    "rest longer: .25,.6 of typical pictures by default; 0,0 is slowest, 1,1 fastest")  # fmt: skip
    up.add_argument("--no-prompt", action="store_true", help="do not look textures up in the memory")
    up.add_argument("--memory", metavar="FILE", help="textures of your own (patchscaler memory build)")
    up.add_argument("--save-difficulty", action="store_true", help="also write NAME_difficulty.png: dark blue patches "
                    "were easy, orange medium, yellow hard")  # fmt: skip
    up.add_argument("--save-coarse", action="store_true", help="also write NAME_coarse.png: restored, nothing invented")
    up.add_argument("--max-pixels", type=int, help="limit of the input's pixels, 0 for none (default: 4 megapixels)")
    up.add_argument("--quality", type=int, default=95, help="of JPEG and WebP output, 1 to 100")
    up.add_argument("-q", "--quiet", action="store_true")
    fine = up.add_argument_group("for those who know the paper")
    fine.add_argument("--preset", help="start times and steps of a preset (compact, paper) with the same weights")
    fine.add_argument("--steps", metavar="N1,N2,N3", help="steps of simple, medium, hard patches; 0: coarse as it is")
    fine.add_argument("--start-times", metavar="T1,T2,T3", help="where each group enters the diffusion, 0..1000")
    fine.add_argument("--thresholds", metavar="G1,G2", help="confidence above G1 is simple, above G2 medium")
    fine.add_argument("--overlap", type=int, help="of patches, 0..15 latents of 8 pixels each")
    fine.add_argument("--sampler", choices=("ddim", "dpm++"), help="ddim, or DPM-Solver++(2M)")
    fine.add_argument("--memory-limit", type=float, default=512, metavar="MIB", help="working memory of one batch")
    _model_options(fine)

    memory = commands.add_parser("memory", help="build a texture memory, or look into one")
    kinds = memory.add_subparsers(dest="kind", required=True, metavar="ACTION")
    build = kinds.add_parser("build", help="from a folder of sharp pictures")
    build.set_defaults(function=memory_build)
    build.add_argument("images", metavar="DIR")
    build.add_argument("-o", "--output", required=True, metavar="FILE", help="where to write (.safetensors)")
    build.add_argument("--candidates", type=int, help="random crops to choose from")
    build.add_argument("--size", type=int, help="entries to keep")
    build.add_argument("--include", default="", help="comma-separated prefixes of file names to use (default: all)")
    build.add_argument("--licence", default="own picture", help="of the pictures, kept with each entry")
    build.add_argument("--licences", metavar="FILE", help="lines of PREFIX<tab>LICENCE<tab>AUTHOR for file names")
    build.add_argument("--quality", type=int, default=80, help="WebP quality of the stored crops")
    build.add_argument("--seed", type=int, default=0)
    _model_options(build)
    show = kinds.add_parser("info", help="entries, origins and licences of a memory")
    show.set_defaults(function=memory_info)
    show.add_argument("file", metavar="FILE")

    info = commands.add_parser("info", help="what is installed: model, sizes, hashes, device")
    info.set_defaults(function=model_info)
    _model_options(info)

    bench = commands.add_parser("benchmark", help="seconds by stage, adaptive against uniform, beside Real-ESRGAN")
    bench.set_defaults(function=benchmark)
    bench.add_argument("--size", type=int, default=128, help="side of the input")
    bench.add_argument("--image", metavar="FILE", help="a picture to cut the input from (default: made by code)")
    bench.add_argument("--runs", type=int, default=5)
    bench.add_argument("--threads", type=int, default=0, help="processor threads (default: all)")
    bench.add_argument("--json", metavar="FILE")
    _model_options(bench)

    if training:
        from patchscaler.training.commands import add_parser

        add_parser(commands)
    else:
        commands.add_parser("train", help="train a model, stage by stage (docs/training.md)")
    return parser


def _model_options(parser: Any) -> None:
    parser.add_argument("--model", default="compact", help="shipped name, folder, or hub id (default: compact)")
    parser.add_argument("--autoencoder", metavar="DIR", help="local copy of the autoencoder of a 'paper' model")
    parser.add_argument("--device", default="auto", help="auto, cuda, mps, cpu")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")


def _load(args: argparse.Namespace, memory: str | None = None) -> Any:
    from patchscaler.pipeline import PatchScaler

    return PatchScaler.from_pretrained(
        args.model, device=args.device, dtype=args.dtype, memory=memory, autoencoder=args.autoencoder
    )


# --- upscale --------------------------------------------------------------------------------------


def upscale(args: argparse.Namespace) -> int:
    """Every input in turn; one that fails is named and the rest go on."""
    from patchscaler.images import MAX_PIXELS, check_alpha, check_output, check_side, load_image

    limit = MAX_PIXELS if args.max_pixels is None else args.max_pixels
    if limit < 0 or not args.memory_limit > 0 or not 1 <= args.quality <= 100:
        raise PatchScalerError("--max-pixels takes 0 or more, --memory-limit more than 0, --quality 1 to 100")
    settings = group_settings(args)
    model: Any = None
    failed = 0
    targets = upscale_targets(args.inputs, args.output)
    for source, target in targets:
        try:
            image = load_image(source, limit)
            target = target or source.with_name(f"{source.stem}_x4{_default_suffix(source, image)}")
            if any(target.resolve() == other.resolve() for other, _ in targets):
                raise PatchScalerError(f"{target}: output and input are the same file; name another with -o")
            check_output(target)
            check_side(target, image.width * 4, image.height * 4)
            check_alpha(target, image)
        except PatchScalerError as error:
            if len(targets) == 1:
                raise
            failed += 1
            print(f"patchscaler: {error}", file=sys.stderr)
            continue
        if model is None:  # errors of the model or the options concern all inputs alike
            model = _load(args, args.memory)
            groups = settings(model.config.groups)
        _upscale_one(model, image, source, target, groups, limit, args)
    if failed:
        print(f"patchscaler: {failed} of {len(targets)} pictures failed", file=sys.stderr)
    return 1 if failed else 0


def upscale_targets(inputs: Sequence[str], output: str | None) -> list[tuple[Path, Path | None]]:
    """(input, output) of each picture; None: beside the input, by its default name."""
    folder = len(inputs) > 1 or (output is not None and (output.endswith("/") or Path(output).is_dir()))
    targets: list[tuple[Path, Path | None]] = []
    for name in inputs:
        source = Path(name)
        if output is None:
            targets.append((source, None))
            continue
        target = Path(output)
        if folder:
            target = target / f"{source.stem}_x4{_default_suffix(source)}"
        if target in {t for _, t in targets}:
            raise PatchScalerError(f"{name}: another input would also be written to {target}; rename one")
        targets.append((source, target))
    return targets


def _default_suffix(source: Path, image: Any = None) -> str:
    """The input's own, or .png where that cannot be written or has no room for transparency."""
    from patchscaler.images import FORMATS, has_alpha

    suffix = source.suffix.lower()
    no_room = image is not None and FORMATS.get(suffix) in ("JPEG", "BMP") and has_alpha(image)
    return ".png" if suffix not in FORMATS or no_room else suffix


def _upscale_one(
    model: Any, image: Any, source: Path, target: Path, groups: Any, limit: int, args: argparse.Namespace
) -> None:
    from patchscaler.images import save_image
    from patchscaler.overlay import difficulty_overlay

    bar = Progress(source.name, quiet=args.quiet)
    began = time.perf_counter()
    result = model.upscale(
        image, seed=args.seed, groups=groups, prompt=not args.no_prompt, memory_limit=args.memory_limit,
        max_pixels=limit, progress=bar, coarse=args.save_coarse,
    )  # fmt: skip
    bar.close()
    extras = {}
    if args.save_difficulty:
        extras["difficulty"] = difficulty_overlay(result)
    if args.save_coarse:
        extras["coarse"] = result.coarse
    save_image(result.image, target, args.quality)
    for name, picture in extras.items():
        save_image(picture, target.with_name(f"{target.stem}_{name}.png"))
    if not args.quiet:
        patches = ", ".join(f"{n} {name}" for name, n in result.cost["patches"].items())
        stages = ", ".join(f"{name} {s:.2f}" for name, s in result.cost["seconds"].items())
        print(
            f"{target}: {image.width}x{image.height} -> {result.image.width}x{result.image.height}, "
            f"patches {patches}, {result.cost['evaluations_total']} network evaluations, "
            f"{time.perf_counter() - began:.2f} s ({stages})"
        )


def group_settings(args: argparse.Namespace) -> Any:
    """The options that override sampling -> a function from the checkpoint's GroupConfig to the one to use."""
    from dataclasses import replace

    from patchscaler.config import GroupConfig, preset
    from patchscaler.grouping import check_groups, thresholds_from_table

    base = preset(args.preset).groups if args.preset else None
    changes: dict[str, Any] = {}
    if args.steps:
        changes["num_inference_steps"] = _numbers("--steps", args.steps, 3, int)
    if args.start_times:
        changes["start_times"] = _numbers("--start-times", args.start_times, 3, int)
    if args.thresholds:
        changes["thresholds"] = _numbers("--thresholds", args.thresholds, 2, float)
    if args.shares and args.thresholds:
        raise PatchScalerError("--shares and --thresholds say the same: give one of them")
    shares = _numbers("--shares", args.shares, 2, float) if args.shares else None
    if args.overlap is not None:
        changes["overlap"] = args.overlap
    if args.sampler:
        changes["sampler"] = args.sampler

    def settings(stored: GroupConfig) -> GroupConfig:
        config = stored
        if base:  # thresholds belong to the weights: a preset's would mean nothing to another confidence
            config = replace(stored, start_times=base.start_times, num_inference_steps=base.num_inference_steps)
        if shares:
            config = replace(config, thresholds=thresholds_from_table(stored.calibration, shares))
        config = replace(config, **changes)
        if not args.start_times:  # a group that was passed on as it is starts where the next one does
            starts, steps = list(config.start_times), config.num_inference_steps
            for g in (1, 0):
                starts[g] = starts[g + 1] if steps[g] and not starts[g] else starts[g]
            config = replace(config, start_times=(starts[0], starts[1], starts[2]))
        return check_groups(config)

    return settings


def _numbers(option: str, text: str, count: int, kind: Any) -> tuple[Any, ...]:
    try:
        values = tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        raise PatchScalerError(f"{option} {text}: give {count} numbers separated by commas") from error
    if len(values) != count:
        raise PatchScalerError(f"{option} {text}: give {count} numbers separated by commas")
    return values


class Progress:
    """A line on standard error that counts patch-steps; the time left is their measured speed."""

    def __init__(self, name: str, quiet: bool):
        self.name, self.began, self.shown = name, time.perf_counter(), False
        self.live = not quiet and sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        if self.live:
            left = (time.perf_counter() - self.began) / done * (total - done)
            print(f"\r{self.name}: {done}/{total} patch-steps, {left:.0f} s left \033[K", end="", file=sys.stderr)
            self.shown = True

    def close(self) -> None:
        if self.shown:
            print("\r\033[K", end="", file=sys.stderr)


# --- memory, info, benchmark ----------------------------------------------------------------------


def memory_build(args: argparse.Namespace) -> int:
    from patchscaler.images import check_writable
    from patchscaler.memory_builder import build_from_folder

    target = Path(args.output)
    if target.suffix != ".safetensors" or not 1 <= args.quality <= 100:
        raise PatchScalerError("name the memory something.safetensors, and take a --quality of 1 to 100")
    check_writable(target)
    memory = build_from_folder(args)
    memory.save(args.output)
    size = Path(args.output).stat().st_size
    print(f"{args.output}: {len(memory)} textures of {len(set(memory.origins))} pictures, {size / 1e6:.2f} MB")
    return 0


def memory_info(args: argparse.Namespace) -> int:
    import json
    from collections import Counter

    from patchscaler.checkpoints import load_tensors

    tensors, metadata = load_tensors(args.file)
    if "origins" not in tensors:
        raise PatchScalerError(f"{args.file}: not a texture memory")
    rows = json.loads(metadata["origins"])
    used = Counter(tensors["origins"].tolist())
    print(f"{args.file}: {len(tensors['keys'])} textures, keys of {tensors['keys'].shape[1]} numbers")
    for i, n in used.most_common():
        source, licence, author = rows[i]
        print(f"{n:5d}  {source}  {licence}" + (f"  {author}" if author else ""))
    return 0


def model_info(args: argparse.Namespace) -> int:
    import torch

    from patchscaler.checkpoints import file_hash
    from patchscaler.config import GROUP_NAMES
    from patchscaler.model_folder import find_model

    model = _load(args)
    folder = find_model(args.model)
    print(f"patchscaler {__version__}, torch {torch.__version__}, {model.device}, {model.dtype}")
    print(f"model {model.config.name} in {folder}")
    for file in sorted(folder.glob("*.safetensors")):
        print(f"  {file.name:28s} {file.stat().st_size / 1e6:6.2f} MB  sha256 {file_hash(file)[:16]}")
    settings = zip(GROUP_NAMES, model.config.groups.start_times, model.config.groups.num_inference_steps, strict=True)
    print("  " + "; ".join(f"{name} patches: {n} steps from t = {t}" for name, t, n in settings))
    print("  confidence above {:.3f} is simple, above {:.3f} medium".format(*model.config.groups.thresholds))
    return 0


def benchmark(args: argparse.Namespace) -> int:
    from patchscaler.benchmark import run_benchmark
    from patchscaler.images import check_writable
    from patchscaler.model_folder import find_model

    if args.size < 8 or args.runs < 1 or args.threads < 0:
        raise PatchScalerError("--size takes 8 or more, --runs 1 or more, --threads 0 or more")
    if args.json:
        check_writable(Path(args.json))
    return run_benchmark(_load(args), find_model(args.model), args.size, args.image, args.runs, args.threads, args.json)
