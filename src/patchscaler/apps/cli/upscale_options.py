"""The options of `patchscaler upscale` (docs/upscaling.md)."""

import argparse
from collections.abc import Callable
from typing import Any

from patchscaler.apps.cli import cluster, video
from patchscaler.apps.cli.common import model_options
from patchscaler.apps.cli.parser import HelpAll, Parser

Box = tuple[int, int, int, int]


def add_parser(commands: Any) -> None:
    up: Parser = commands.add_parser(
        "upscale",
        description="Upscale images, x4 by default.",
        usage="patchscaler upscale INPUT... [-o OUT] [options]",
    )
    up.set_defaults(module="patchscaler.apps.cli.upscale")
    add = up.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="images, a folder, or - for standard input")
    add("-o", "--output", metavar="OUT", help="file, folder, or - (default: NAME_x4 beside INPUT)")
    add("--scale", type=_above_zero, metavar="S", help="times as large; 1 only restores")
    add("--size", metavar="SIZE", help="in place of --scale: 3000x (width), x2000, 3000x2000, 12mp")
    add("--fidelity", type=_share, metavar="F", help="0 vivid to 1 faithful (default: the model's)")
    add("--fidelity-mask", metavar="FILE", help="grey image: white stays faithful, black as F says")
    add("--onto", metavar="RESULT", help="make only the mask's black regions of RESULT again")
    add("--crop", type=_box, metavar="X,Y,W,H", help="only this region of the input, to try")
    add("--format", metavar="F", help="png, jpg, webp, tif, ... (default: the input's)")
    add("--quality", type=_quality, metavar="Q", help="1 to 100, or lossless")
    add("--recursive", action="store_true", help="go into the folders of a folder")
    add("--overwrite", action="store_true", help="replace outputs that a folder has already")
    add("--dry-run", action="store_true", help="print sizes and an estimate, write nothing")
    add("-q", "--quiet", action="store_true", help="print nothing but errors")
    add("--help-all", action=HelpAll, help="list experts' options too")
    _add_experts(up)


def _add_experts(up: Parser) -> None:
    add = up.experts_group("result").add_argument
    add("--seed", type=int, default=0, metavar="N", help="of the noise")
    add("--budget", type=_share, metavar="B", help="share of the work of every patch hard, 0 to 1")
    add("--no-prompt", action="store_true", help="leave the texture prompt out")
    add("--memory", metavar="FILE", help="another texture memory")
    add("--color", choices=("wavelet", "none"), default="wavelet", help="keep the input's colors")
    add("--tileable", action="store_true", help="a texture whose opposite borders meet")
    add = up.experts_group("files").add_argument
    add("--bits", type=int, choices=(8, 16), help="a channel (default: the input's)")
    add("--suffix", metavar="TEXT", help="behind the input's name (default: _x4, or the size)")
    add("--report", metavar="DIR", help="maps, coarse image and run.json of each image")
    add("--json", action="store_true", help="print lines of JSON: progress, results, errors")
    add("--no-provenance", action="store_true", help="do not note model and options in metadata")
    add = up.experts_group("limits").add_argument
    add("--max-pixels", type=_not_negative, metavar="N", help="of an input, 0 for none")
    add("--max-frames", type=_not_negative, metavar="N", help="of an animation, 0 for none")
    add("--tile", type=_not_negative, metavar="N", help="side in input pixels, 0 for no tiles")
    add("--memory-limit", type=_above_zero, default=512.0, metavar="MIB", help="of the networks")
    add = up.experts_group("group sampling").add_argument
    add("--steps", metavar="N1,N2,N3", help="of simple, medium and hard patches; 0: coarse")
    add("--start-times", metavar="T1,T2,T3", help="start timestep of each group, 0 to 1000")
    add("--thresholds", metavar="G1,G2", help="confidence above G1 is simple, above G2 medium")
    add("--shares", metavar="S,E", help="share of simple patches, and of simple and medium ones")
    add("--overlap", type=int, metavar="N", help="of patches, in latents")
    model_options(up.experts_group("model"), engine="auto")
    for title, options in (("videos", video.add_options), ("cluster", cluster.add_options)):
        options(_OneGroup(up.experts_group(title)))


class _OneGroup:
    """A parser's interface for `add_options` of other commands, in a group that is there."""

    def __init__(self, group: Any):
        self.group = group

    def add_argument_group(self, *title: str) -> Any:
        return self.group

    def add_argument(self, *names: str, **options: Any) -> Any:
        return self.group.add_argument(*names, **options)


# --- types ----------------------------------------------------------------------------------------


def _number(
    text: str, kind: Callable[[str], Any], allowed: Callable[[Any], bool], take: str
) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not allowed(value):
        raise argparse.ArgumentTypeError(f"{text}: take {take}")
    return value


def _share(text: str) -> float:
    return float(_number(text, float, lambda x: 0 <= x <= 1, "a number from 0 to 1"))


def _above_zero(text: str) -> float:
    return float(_number(text, float, lambda x: 0 < x < 1e12, "a number above 0"))


def _not_negative(text: str) -> int:
    return int(_number(text, int, lambda x: x >= 0, "a whole number, 0 or more"))


def _quality(text: str) -> int | str:
    if text == "lossless":
        return text
    return int(_number(text, int, lambda x: 1 <= x <= 100, "1 to 100, or lossless"))


def _box(text: str) -> Box:
    def box(text: str) -> Box:
        x, y, w, h = (int(part) for part in text.split(","))
        return x, y, w, h

    take = "X,Y,W,H in pixels of the input, as 100,80,256,256"
    found: Box = _number(text, box, lambda b: min(b[:2]) >= 0 and min(b[2:]) > 0, take)
    return found
