"""The text of --methods -> methods: `ours`, `ours:steps=0,0,0`, `bicubic`, `spandrel:FILE`,
`folder:NAME=DIR` ...

A method is KIND, or KIND:ARGUMENT, and options NAME=VALUE after commas. In a list, separated by
commas too, a piece that is a number or NAME=VALUE belongs to the method before it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from patchscaler.config import GroupConfig
from patchscaler.diffusion.groups import check_groups, thresholds_from_table
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.methods import Method, PatchScalerMethod, Resize, ResultFolder

AnyMethod = Method | ResultFolder


@dataclass(frozen=True)
class Spec:
    """One method as it was asked for. name: what tables call it."""

    text: str
    kind: str
    argument: str
    options: dict[str, Any]
    name: str


@dataclass(frozen=True)
class Settings:
    """What all methods of one comparison share; a method's own options come first."""

    device: str = "auto"
    dtype: str = "auto"  # of ours; peers run in float32 unless their option says otherwise
    engine: str = "auto"  # of ours
    model: str = "compact"
    autoencoder: str | None = None
    seed: int = 0
    threads: int = 0  # of ncnn; 0 for as many as torch takes
    tile: int = 0  # of peers: largest side of the input that is run at once, 0 for whole images
    tile_overlap: int = 16


@dataclass(frozen=True)
class Kind:
    """One row of the table below. options: name -> how its text is read."""

    build: Callable[[Spec, Settings], AnyMethod]
    summary: str
    argument: str = ""  # what follows the colon
    argument_needed: bool = False
    options: dict[str, Callable[[str], Any]] = field(default_factory=dict)


# --- reading --------------------------------------------------------------------------------------


def split_specs(text: str) -> list[str]:
    """`a,b:x=1,2,c` -> `a`, `b:x=1,2`, `c`."""
    out: list[str] = []
    for piece in (p.strip() for p in text.split(",")):
        belongs = re.match(r"[a-z_]+=", piece) or re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)", piece)
        if belongs and out:
            out[-1] += "," + piece
        elif piece:
            out.append(piece)
    return out


def parse_specs(text: str) -> list[Spec]:
    """Read a list of methods. Raises PatchScalerError for what is unknown, double or empty."""
    specs = [parse_spec(piece) for piece in split_specs(text)]
    if not specs:
        raise PatchScalerError(f"no method is named: {known_methods()}")
    names = [spec.name for spec in specs]
    if double := [name for name in names if names.count(name) > 1]:
        raise PatchScalerError(f"two methods are called '{double[0]}': add ,name=ANOTHER to one")
    return specs


def parse_spec(text: str) -> Spec:
    """Read one method. Raises PatchScalerError naming what is known."""
    head = re.split("[:,]", text)[0]
    rest = text[len(head) + 1 :]
    if head not in KINDS:
        raise PatchScalerError(f"unknown method '{head}': {known_methods()}")
    kind = KINDS[head]
    pieces = rest.split(",") if rest else []
    argument = ""
    if pieces and kind.argument and (kind.argument_needed or "=" not in pieces[0]):
        argument, *pieces = pieces
    if kind.argument_needed and not argument:
        raise PatchScalerError(f"{text}: write {head}:{kind.argument}")
    texts: dict[str, str] = {}
    for piece in pieces:
        name, equals, value = piece.partition("=")
        if equals:
            texts[name] = value
        elif texts:
            texts[next(reversed(texts))] += "," + piece
        else:
            raise PatchScalerError(f"{text}: '{piece}' is no option; write NAME=VALUE")
    known = kind.options | {"name": str}
    options: dict[str, Any] = {}
    for name, value in texts.items():
        if name not in known:
            raise PatchScalerError(
                f"{text}: unknown option '{name}'; {head} takes {', '.join(known)}"
            )
        try:
            options[name] = known[name](value)
        except ValueError as error:
            raise PatchScalerError(f"{text}: {name}={value}: {error}") from error
    own_name = options.pop("name", None) or _default_name(head, argument, text)
    return Spec(text, head, argument, options, own_name)


def _default_name(kind: str, argument: str, text: str) -> str:
    """The text itself, without folders; of finished images, the name they were given."""
    if kind == "folder":
        name = argument.partition("=")[0]
        return name if "=" in argument else Path(argument).name
    if not argument:
        return text
    if not KINDS[kind].argument_needed:  # where the weights of a known model lie
        return text.replace(":" + argument, "")
    path = Path(argument)
    return text.replace(argument, path.stem if kind in ("spandrel", "ncnn") else path.name)


def known_methods() -> str:
    """For messages."""
    names = [f"{name}:{k.argument}" if k.argument_needed else name for name, k in KINDS.items()]
    return f"the known ones are {', '.join(names)}"


def build_method(spec: Spec, settings: Settings) -> AnyMethod:
    """Load it. Raises PatchScalerError with a hint where its packages or files are missing."""
    method = KINDS[spec.kind].build(spec, settings)
    method.name = spec.name
    return method


def build_methods(
    specs: Sequence[Spec], settings: Settings
) -> tuple[list[AnyMethod], dict[str, str]]:
    """Those that are available here, and of the others name -> reason and hint."""
    methods: list[AnyMethod] = []
    unavailable: dict[str, str] = {}
    for spec in specs:
        try:
            methods.append(build_method(spec, settings))
        except PatchScalerError as error:
            unavailable[spec.name] = str(error)
    return methods, unavailable


# --- building -------------------------------------------------------------------------------------


def numbers(kind: type, count: int) -> Callable[[str], tuple[Any, ...]]:
    """-> a reader of `1,2,3`, which raises ValueError."""

    def read(text: str) -> tuple[Any, ...]:
        values = tuple(kind(part) for part in text.split(","))
        if len(values) != count:
            raise ValueError(f"give {count} numbers")
        return values

    return read


def group_options(options: dict[str, Any], stored: GroupConfig) -> GroupConfig:
    """Take what belongs to the groups out of a method's options -> the model's groups with it."""
    names = {"steps": "num_inference_steps", "start_times": "start_times"}
    names |= {"thresholds": "thresholds", "sampler": "sampler", "overlap": "overlap"}
    changes = {field: options.pop(name) for name, field in names.items() if name in options}
    if "shares" in options:
        changes["thresholds"] = thresholds_from_table(stored.calibration, options.pop("shares"))
    return check_groups(replace(stored, **changes))


def _ours(spec: Spec, settings: Settings) -> AnyMethod:
    from patchscaler.pipeline import PatchScaler

    options = dict(spec.options)
    pipeline = PatchScaler.from_pretrained(
        options.pop("model", settings.model),
        device=settings.device,
        dtype=options.pop("dtype", settings.dtype),
        engine=options.pop("engine", settings.engine),
        memory=options.pop("memory", None),
        autoencoder=options.pop("autoencoder", settings.autoencoder),
    )
    options["groups"] = group_options(options, pipeline.model.config.groups)
    return PatchScalerMethod(pipeline, **({"seed": settings.seed} | options))


def _resize(spec: Spec, settings: Settings) -> AnyMethod:
    return Resize(spec.kind)


def _folder(spec: Spec, settings: Settings) -> AnyMethod:
    return ResultFolder(spec.argument.partition("=")[2] or spec.argument)


def _peer_options(spec: Spec, settings: Settings) -> dict[str, Any]:
    options = {"tile": settings.tile, "tile_overlap": settings.tile_overlap} | spec.options
    return {"overlap" if name == "tile_overlap" else name: v for name, v in options.items()}


def _ncnn(spec: Spec, settings: Settings) -> AnyMethod:
    from patchscaler.evaluation.peers.ncnn_models import NcnnMethod, ncnn_method

    options: dict[str, Any] = {"threads": settings.threads} | _peer_options(spec, settings)
    if spec.kind == "ncnn":
        return NcnnMethod(spec.name, spec.argument, **options)
    return ncnn_method(spec.kind, spec.argument or None, **options)


def _spandrel(spec: Spec, settings: Settings) -> AnyMethod:
    from patchscaler.evaluation.peers.spandrel_models import SpandrelMethod

    return SpandrelMethod(spec.argument, device=settings.device, **_peer_options(spec, settings))


def _ldm(spec: Spec, settings: Settings) -> AnyMethod:
    from patchscaler.evaluation.peers.latent_diffusion import LatentDiffusionMethod

    options = {"seed": settings.seed} | _peer_options(spec, settings)
    return LatentDiffusionMethod(spec.argument, device=settings.device, **options)


def _yes(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError("say yes or no")
    return text == "yes"


_TILES: dict[str, Callable[[str], Any]] = {"tile": int, "tile_overlap": int}
_OURS: dict[str, Callable[[str], Any]] = {
    "model": str,
    "memory": str,
    "autoencoder": str,
    "dtype": str,
    "engine": str,
    "seed": int,
    "prompt": _yes,
    "steps": numbers(int, 3),
    "start_times": numbers(int, 3),
    "thresholds": numbers(float, 2),
    "shares": numbers(float, 2),
    "overlap": int,
    "sampler": str,
    "memory_limit": float,
    "color": str,
    "budget": float,
    "fidelity": float,
}
_REALESRGAN = "Real-ESRGAN, weights from a package"
KINDS = {
    "ours": Kind(_ours, "PatchScaler with any model and options of `upscale`", options=_OURS),
    "bicubic": Kind(_resize, "Pillow's bicubic"),
    "lanczos": Kind(_resize, "Pillow's Lanczos"),
    "realesrgan-x4plus": Kind(_ncnn, _REALESRGAN, "FOLDER", options=_TILES),
    "realesrgan-x4plus-anime": Kind(_ncnn, _REALESRGAN, "FOLDER", options=_TILES),
    "realesr-animevideov3": Kind(_ncnn, _REALESRGAN, "FOLDER", options=_TILES),
    "realsr-jpeg": Kind(
        _ncnn, "RealSR (DF2K_JPEG), weights from a package", "FOLDER", options=_TILES
    ),
    "realsr-df2k": Kind(_ncnn, "RealSR (DF2K), weights from a package", "FOLDER", options=_TILES),
    "ncnn": Kind(_ncnn, "any ncnn network for RGB x4", "FILE.param", True, _TILES),
    "spandrel": Kind(
        _spandrel, "any network spandrel knows", "FILE", True, _TILES | {"dtype": str}
    ),
    "ldm": Kind(
        _ldm,
        "diffusers' LDM upscaler",
        "DIR",
        True,
        _TILES | {"steps": int, "eta": float, "seed": int, "dtype": str},
    ),
    "folder": Kind(_folder, "finished images of another program", "NAME=DIR", True),
}
# What is compared by default: all that need no file of the user's.
DEFAULT_METHODS = ",".join(name for name, kind in KINDS.items() if not kind.argument_needed)
