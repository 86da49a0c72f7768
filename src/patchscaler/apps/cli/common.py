"""What several commands share: the options that choose a model, and loading it."""

import argparse
import os
from typing import Any


class _Offline(argparse.Action):
    """Set before the hub's package is imported, which reads it once."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        namespace.offline = True


def model_options(parser: Any, engine: str = "torch") -> None:
    """Add the options that choose a model.

    Args:
        parser: A parser or a group of one.
        engine: The default. What is measured should not depend on what is installed.
    """
    add = parser.add_argument
    add("--model", default="compact", help="shipped name, folder, or hub id OWNER/NAME[@REVISION]")
    add("--offline", action=_Offline, nargs=0, default=False, help="fetch nothing from a hub")
    add("--autoencoder", metavar="DIR", help="local copy of the autoencoder of a 'paper' model")
    add("--device", default="auto", help="auto, cuda, mps, cpu")
    add("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    add("--engine", default=engine, help="auto, torch, openvino (default: %(default)s)")


def load_model(args: argparse.Namespace, memory: str | None = None) -> Any:
    """Load the model of `model_options`.

    Args:
        args: Parsed arguments.
        memory: A texture memory in place of the model's own.
    """
    from patchscaler.pipeline import PatchScaler

    return PatchScaler.from_pretrained(
        args.model,
        device=args.device,
        dtype=args.dtype,
        engine=args.engine,
        memory=memory,
        autoencoder=args.autoencoder,
        offline=args.offline,
    )
