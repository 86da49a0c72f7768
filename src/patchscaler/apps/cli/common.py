"""What several commands share: the options that choose a model, and loading it."""

import argparse
import os
from typing import Any


class _Offline(argparse.Action):
    """Set before the hub's package is imported, which reads it once; so every part of the command
    keeps to it.
    """

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        namespace.offline = True


def model_options(parser: Any, engine: str = "torch") -> None:
    """engine: the default.

    What is measured or written down should not hang on what is installed.
    """
    parser.add_argument(
        "--model",
        default="compact",
        help="shipped name, folder, or hub id, OWNER/NAME or "
        "OWNER/NAME@REVISION (default: compact)",
    )
    parser.add_argument(
        "--offline", action=_Offline, nargs=0, default=False, help="fetch nothing from a hub"
    )
    parser.add_argument(
        "--autoencoder", metavar="DIR", help="local copy of the autoencoder of a 'paper' model"
    )
    parser.add_argument("--device", default="auto", help="auto, cuda, mps, cpu")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    parser.add_argument(
        "--engine",
        choices=("auto", "torch", "onnxruntime", "openvino"),
        default=engine,
        help="what runs the networks on a processor; auto: torch where it draws in bytes, OpenVINO "
        "where it is installed and was asked for once, else torch (default: %(default)s; "
        "docs/onnx.md)",
    )
    parser.add_argument(
        "--onnx-dir",
        metavar="DIR",
        help="export for --engine; made where it is missing (default: in the user's cache)",
    )


def load_model(args: argparse.Namespace, memory: str | None = None) -> Any:
    from patchscaler.pipeline import PatchScaler

    return PatchScaler.from_pretrained(
        args.model,
        device=args.device,
        dtype=args.dtype,
        memory=memory,
        autoencoder=args.autoencoder,
        engine=getattr(args, "engine", "torch"),
        onnx=getattr(args, "onnx_dir", None),
    )
