"""`patchscaler train STAGE`: the stages in order, and their options."""

import argparse
from typing import Any


def _run(args: argparse.Namespace) -> None:
    from pathlib import Path

    from patchscaler.models.checksums import read_sums, renew_sums
    from patchscaler.training import commands  # torch

    getattr(commands, args.stage.replace("-", "_"))(args)
    folder = Path(args.model) if "model" in args else None
    if folder and read_sums(folder):  # a copy of a saved model: its files were meant to change
        renew_sums(folder)


def _recipe(args: argparse.Namespace) -> None:
    from patchscaler.apps.cli import memory
    from patchscaler.errors import PatchScalerError
    from patchscaler.training.dry_run import dry_run  # torch
    from patchscaler.training.recipe import LineParser, Recipe, run_recipe

    parser = LineParser(prog="patchscaler", add_help=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_parser(commands)
    memory.add_parsers(commands)
    shared = {name: value for name in ("device", "autoencoder") if (value := getattr(args, name))}
    if args.dry_run:
        dry_run(args.recipe, args.esrgan, parser, shared)
        return
    if not args.model:
        raise PatchScalerError("which model folder? add --model DIR (made where it is missing)")
    given = {name: getattr(args, name) for name in ("images", "textures", "esrgan")}
    places = {"model": args.model, "data": args.data or f"{args.model}/training/data"}
    places |= {name: value for name, value in given.items() if value}
    run_recipe(Recipe(args.recipe, places, parser, shared, args.scale), args.minutes)


def add_parser(commands: Any) -> None:
    """Add `train` and its stages to the command line."""
    parser = commands.add_parser("train", help="train a model, stage by stage (docs/training.md)")
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")

    def stage(name: str, text: str, *, loop: tuple[float, int] | None = None) -> Any:
        p = stages.add_parser(name, help=text, description=text)
        p.set_defaults(function=_run)
        p.add_argument("--seed", type=int, default=0)
        if name not in ("shards", "captions", "teacher"):
            p.add_argument(
                "--model",
                required=True,
                metavar="DIR",
                help="model folder, made where it is missing",
            )
            p.add_argument(
                "--preset", default="compact", help="configuration of a new model folder"
            )
            p.add_argument(
                "--autoencoder",
                metavar="DIR",
                help="local copy of the autoencoder of a 'paper' model",
            )
            p.add_argument("--device", default="auto")
            p.add_argument("--no-bf16", dest="bf16", action="store_false", help="train in float32")
        if loop:
            p.add_argument("--steps", type=int, default=0, help="stop after so many steps")
            p.add_argument(
                "--minutes",
                type=float,
                default=0,
                help="stop after so many minutes, resumed ones included",
            )
            p.add_argument("--lr", type=float, default=loop[0])
            p.add_argument("--batch-size", type=int, default=loop[1])
            p.add_argument("--optimizer", default="adamw", help="adam, adamw or muon")
            p.add_argument("--ema", type=float, default=0.999)
            p.add_argument(
                "--warmup", type=int, default=100, metavar="STEPS", help="of a rising learning rate"
            )
            p.add_argument(
                "--decay",
                type=float,
                default=0.3,
                help="share of the run with a falling one; 0: fixed",
            )
            p.add_argument("--log-every", type=int, default=50, metavar="STEPS")
            p.add_argument("--save-minutes", type=float, default=5)
        return p

    def data(p: Any, validation: bool = True) -> None:
        p.add_argument("--shards", required=True, metavar="DIR")
        if validation:
            p.add_argument(
                "--validation", required=True, metavar="DIR", help="shards of held-out pictures"
            )

    def losses(p: Any) -> None:
        # By their gradients on the picture (docs/training.md), LPIPS is 50 times as strong as L1 at
        # equal weights.
        p.add_argument("--l1", type=float, default=3.0)
        p.add_argument("--lpips", type=float, default=1.0)
        p.add_argument(
            "--vgg",
            type=float,
            default=0.0,
            help="LPIPS on VGG-16, of a random quarter of each region",
        )
        p.add_argument("--gan", type=float, default=0.15)
        p.add_argument(
            "--teacher",
            type=float,
            default=0.0,
            metavar="SHARE",
            help="of the steps that aim at the "
            "teacher's pictures in place of the truth ('train teacher' makes them)",
        )
        p.add_argument("--side", type=int, default=24, metavar="LATENTS", help="of the regions")
        p.add_argument(
            "--pattern", type=float, default=20.0, help="against a fixed weave on flat areas"
        )
        p.add_argument(
            "--grid",
            type=float,
            default=0.0,
            help="against steps at the borders of pixels and blocks",
        )

    p = stage("shards", "degrade pictures into pairs on disk")
    p.add_argument(
        "--images", required=True, metavar="DIR", help="folder of pictures, or tar shards"
    )
    p.add_argument("--shards", required=True, metavar="DIR", help="where to write")
    p.add_argument("--split", choices=("train", "validation"), default="train")
    p.add_argument(
        "--mix",
        default="real:.4,stable:.1,mild:.35,bicubic:.15",
        help="degradations and their shares",
    )
    p.add_argument("--tile", type=int, default=256)
    p.add_argument("--variants", type=int, default=4, help="degradations a tile")
    p.add_argument("--exclude", default="", help="comma-separated prefixes of file names")
    p.add_argument(
        "--workers", type=int, default=1, help="processes; more than one on the processor only"
    )
    p.add_argument("--device", default="cpu", help="where to degrade")

    p = stage("autoencoder", "fit the closed-form autoencoder")
    data(p, validation=False)

    p = stage("grm", "train the Global Restoration Module (Eq. 1)", loop=(3e-4, 8))
    data(p)
    p.add_argument(
        "--init", metavar="FILE", help="start from a Real-ESRGAN compact network (safetensors)"
    )
    p.add_argument("--head-only", action="store_true", help="train the confidence head alone")
    p.add_argument("--lr-size", type=int, default=48, help="side of the LR crops")
    p.add_argument("--lam", type=float, default=0.1, help="lambda of Eq. 1")
    p.add_argument(
        "--eta",
        type=float,
        default=0.1,
        help="eta of Eq. 1: about 1.25 of the median squared error",
    )
    p.add_argument("--squared", action="store_true", help="square the L1 term, as Eq. 1 is printed")

    p = stage("calibrate", "set the groups' thresholds by quantile on held-out pictures")
    p.add_argument("--validation", required=True, metavar="DIR")
    p.add_argument("--simple", type=float, default=0.3, help="share of simple patches")
    p.add_argument(
        "--easy", type=float, default=0.65, help="share of simple and medium patches together"
    )
    p.add_argument(
        "--least",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of the first threshold: a patch with a "
        "place less sure than that is not simple (0: Eq. 2)",
    )

    p = stage("classifier", "train the texture classifier", loop=(1e-3, 64))
    p.add_argument("--textures", required=True, metavar="DIR", help="one sub-folder a class")
    p.add_argument("--exclude", default="", help="comma-separated prefixes of file names")

    p = stage("coarse", "cache the GRM's coarse pictures beside the shards")
    data(p, validation=False)
    p.add_argument("--variants", type=int, default=2, help="of the degradations of each tile")

    p = stage(
        "captions", "caption the tiles of shards and encode the captions, for the text prompt"
    )
    data(p, validation=False)
    p.add_argument("--captioner", help="folder or hub id (default: BLIP-2)")
    p.add_argument("--text-encoder", help="folder or hub id (default: CLIP)")
    p.add_argument("--device", default="auto")

    p = stage(
        "teacher", "cache what another upscaler makes of the shards, as targets of the last stage"
    )
    p.add_argument("--shards", required=True, metavar="DIR")
    p.add_argument(
        "--method",
        default="realesrgan-x4plus",
        metavar="METHOD",
        help="as in 'patchscaler compare'",
    )
    p.add_argument("--variants", type=int, default=1, help="of the degradations of each tile")
    p.add_argument(
        "--limit", type=int, default=0, metavar="SHARDS", help="only so many of them (0: all)"
    )
    p.add_argument("--device", default="auto")

    p = stage("diffusion", "train Patch-DiT and the texture encoder (Eq. 8)", loop=(5e-4, 32))
    data(p)
    p.add_argument(
        "--prompt",
        choices=("texture", "text"),
        default="texture",
        help="text: the paper's ablation (4.4)",
    )
    p.add_argument(
        "--from-coarse",
        type=float,
        help="share of starts built from y_0 (0: the paper; default .3, or 0 "
        "where noise or v is predicted)",
    )
    p.add_argument(
        "--low-times",
        type=float,
        default=0.6,
        help="share of times drawn from 1..500 only (0: uniform)",
    )

    p = stage(
        "graft",
        "keep some blocks of a trained Patch-DiT, and put an ESRGAN's blocks after it as the "
        "refiner",
    )
    p.add_argument(
        "--keep", default="", metavar="N,N,...", help="blocks of Patch-DiT, from 0 (default: all)"
    )
    esrgan = "an ESRGAN's weights (safetensors, names as body.0.rdb1.conv1.weight)"
    p.add_argument("--esrgan", metavar="FILE", help=esrgan)
    p.add_argument(
        "--refiner-blocks", default="0,1,4,21,22", metavar="N,N,...", help="which of its blocks"
    )
    p.add_argument(
        "--more", action="store_true", help="put them behind the refiner's own, silent at first"
    )
    p.add_argument(
        "--refiner-bits", type=int, choices=(8, 16), help="of a weight of the refiner on disk"
    )

    p = stage("distil", "teach the refiner the features of the whole ESRGAN", loop=(3e-4, 4))
    data(p)
    p.add_argument("--esrgan", required=True, metavar="FILE", help=esrgan)
    p.add_argument("--side", type=int, default=32, metavar="LATENTS", help="of the regions")

    p = stage("refining", "train the refiner alone on coarse pictures", loop=(1.5e-4, 6))
    data(p)
    losses(p)
    p.add_argument(
        "--esrgan", metavar="FILE", help="the teacher itself, asked at each step: " + esrgan
    )

    p = stage("ranges", "find what the refiner's channels reach, so that it may draw in bytes")
    data(p, validation=False)
    p.add_argument("--regions", type=int, default=128, help="that are looked at")
    p.add_argument("--side", type=int, default=24, metavar="LATENTS", help="of the regions")

    p = stage("few-step", "fine-tune for one to four steps through the decoder", loop=(2e-4, 4))
    data(p)
    losses(p)
    p.add_argument(
        "--refiner-rate",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="of --lr, for a refiner that 'refining' has trained already",
    )

    p = stages.add_parser(
        "recipe",
        help="all stages of a recipe, one after another",
        description="All stages of a "
        "recipe, one after another; killed at any point, the same command goes on.",
    )
    p.set_defaults(function=_recipe)
    p.add_argument(
        "recipe",
        metavar="NAME_OR_FILE",
        help="compact, paper, or a file of commands (docs/training.md)",
    )
    p.add_argument("--model", metavar="DIR", help="model folder, made where it is missing")
    p.add_argument("--images", metavar="DIR", help="folder of sharp pictures, or tar shards")
    p.add_argument("--textures", metavar="DIR", help="one sub-folder a class")
    p.add_argument("--esrgan", metavar="FILE", help=esrgan)
    p.add_argument(
        "--data",
        metavar="DIR",
        help="where to write degraded pairs (default: training/data in the model)",
    )
    p.add_argument(
        "--autoencoder", metavar="DIR", help="local copy of the autoencoder of a 'paper' model"
    )
    p.add_argument(
        "--minutes",
        type=float,
        default=0,
        help="stop after so many, to go on another time (0: no limit)",
    )
    p.add_argument(
        "--scale", type=float, default=1, help="multiplies the steps and minutes of every stage"
    )
    p.add_argument(
        "--dry-run",
        action="store_true",
        help="each stage for one step on made-up pictures, in a "
        "temporary folder: parameters, seconds, memory",
    )
    p.add_argument("--device", default="auto")
