"""Everything it takes to make a picture again, as JSON: what was asked for, of what, with which
weights, and how it went patch by patch.
"""

import hashlib
import html
import json
import platform
import re
from collections import Counter
from dataclasses import asdict, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import PIL
import torch

from patchscaler._version import __version__
from patchscaler.config import GroupConfig
from patchscaler.dials.boxes import Change
from patchscaler.dials.budget import Budget
from patchscaler.errors import PatchScalerError
from patchscaler.images.metadata import NAMESPACE
from patchscaler.models.weights import file_hash
from patchscaler.patching import PatchGrid

if TYPE_CHECKING:
    from patchscaler.jobs import Options
    from patchscaler.pipeline import PatchScaler

FORMAT = 1


class Run(Protocol):
    """What a `Result` and a streamed picture both know. M patches."""

    grid: PatchGrid
    groups: np.ndarray  # (M,)
    scores: np.ndarray  # (M,)
    textures: np.ndarray  # (M, K)
    cost: dict[str, Any]
    config: GroupConfig
    options: "Options | None"


def weights_of(scaler: "PatchScaler") -> dict[str, str]:
    """SHA-256 of every network's file and of the memory's; of its numbers, where it was never in a
    file.
    """
    found = {}
    for name, network in scaler.networks.items():
        if name in scaler.files:
            found[name] = _file_hash_once(scaler.files[name])
            continue
        digest = hashlib.sha256()
        for tensor in network.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
        found[name] = digest.hexdigest()
    if scaler.memory and "memory" in scaler.files:
        found["memory"] = _file_hash_once(scaler.files["memory"])
    elif scaler.memory:
        found["memory"] = hashlib.sha256(scaler.memory.keys.cpu().numpy().tobytes()).hexdigest()
    return found


def _file_hash_once(path: Path) -> str:
    """A folder of pictures asks for every one of them."""
    stat = path.stat()
    return _file_hash(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _file_hash(path: Path, size: int, mtime: int) -> str:
    return file_hash(path)


def weights_id(weights: dict[str, str]) -> str:
    """One short hash of all."""
    return hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest()[:16]


def options_record(options: "Options") -> dict[str, Any]:
    """The arguments of `PatchScaler.upscale` that decide about the picture, as JSON holds them."""
    return {
        "seed": options.seed,
        "groups": asdict(options.asked),
        "origin": list(options.origin),
        "prompt": options.prompt,
        "color": options.color,
        "period": options.period and list(options.period),
        "budget": options.budget and asdict(options.budget),
        "fidelity": options.fidelity,
        "changes": [asdict(change) for change in options.changes],
    }


def read_options(stored: dict[str, Any]) -> dict[str, Any]:
    """`options_record` -> keyword arguments of `PatchScaler.upscale`. Raises PatchScalerError."""
    try:
        return {
            "seed": int(stored["seed"]),
            "groups": group_config(stored["groups"]),
            "origin": tuple(stored["origin"]),
            "prompt": bool(stored["prompt"]),
            "color": str(stored["color"]),
            "period": tuple(stored["period"]) if stored["period"] else None,
            "budget": Budget(**stored["budget"]) if stored["budget"] else None,
            "fidelity": float(stored["fidelity"]),
            "changes": tuple(
                Change(tuple(c["box"]), c["group"], c["seed"]) for c in stored["changes"]
            ),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise PatchScalerError(f"the record of the earlier run is damaged ({error})") from error


def group_config(stored: dict[str, Any]) -> GroupConfig:
    known = {f.name for f in fields(GroupConfig)}
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in stored.items() if k in known
    }
    return GroupConfig(**values)


def make_record(
    scaler: "PatchScaler",
    run: Run,
    source: dict[str, Any],
    output: dict[str, Any],
    sampled: tuple[int, int],
    weights: dict[str, str],
) -> dict[str, Any]:
    """source, output: name, width, height and what else is known of the files. sampled: (width,
    height) at x4.
    """
    assert run.options is not None
    return {
        "format": FORMAT,
        "software": {
            "patchscaler": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "device": str(scaler.device),
            "dtype": str(scaler.dtype).removeprefix("torch."),
            "engine": scaler.engine,
        },
        "model": {"name": scaler.config.name, "id": weights_id(weights), "weights": weights},
        "input": source,
        "output": output,
        "options": options_record(run.options),
        "groups_used": asdict(run.config),
        "cost": run.cost,
        "grid": asdict(run.grid)
        | {"pixels_per_latent": scaler.autoencoder.factor, "sampled": list(sampled)},
        "patches": {
            "scores": [round(float(s), 5) for s in run.scores],
            "groups": run.groups.tolist(),
            "textures": [[int(i) for i in row if i >= 0] for row in run.textures],
        },
        "textures": textures_record(scaler, run.textures),
    }


def textures_record(scaler: "PatchScaler", textures: np.ndarray) -> dict[str, Any]:
    """Entries of the memory that fed a patch: where each came from, on what terms, and how many
    patches it fed.
    """
    used = Counter(int(i) for i in textures.ravel() if i >= 0)
    origins = scaler.memory.origins if scaler.memory else []
    return {str(i): asdict(origins[i]) | {"patches": n} for i, n in sorted(used.items())}


def provenance(
    scaler: "PatchScaler", options: "Options", weights: dict[str, str], input_hash: str
) -> dict[str, str]:
    """The same in a few words, for the output's own metadata."""
    return {
        "Software": f"PatchScaler {__version__}",
        "Model": scaler.config.name,
        "Weights": weights_id(weights),
        "Seed": str(options.seed),
        "Input": input_hash,
        "Options": json.dumps(options_record(options), separators=(",", ":")),
    }


def read_provenance(xmp: bytes | None) -> dict[str, str]:
    """What `provenance` said, from an XMP packet; empty where it says nothing of us."""
    text = (xmp or b"").decode("utf-8", "replace")
    if NAMESPACE not in text:
        return {}
    found = re.findall(r"""\bps:(\w+)=(?:"([^"]*)"|'([^']*)')""", text)
    return {name: html.unescape(double or single) for name, double, single in found}
