"""`patchscaler export`: a model for other programs."""

import argparse
from typing import Any

from patchscaler.apps.cli.common import load_model, model_options
from patchscaler.errors import PatchScalerError


def add_parser(commands: Any) -> None:
    export = commands.add_parser(
        "export", help="write a model as a folder for a hub, or as ONNX graphs"
    )
    export.set_defaults(function=export_model)
    export.add_argument(
        "--folder",
        metavar="DIR",
        help="config, weights, model card and hashes, as a hub takes them",
    )
    export.add_argument(
        "--onnx", metavar="DIR", help="a graph a network, each checked against torch (docs/onnx.md)"
    )
    export.add_argument(
        "--licence", default="unknown", help="of the weights, for the model card (apache-2.0, ...)"
    )
    export.add_argument(
        "--full", action="store_true", help="weights in float32, not in half precision"
    )
    model_options(export)


def export_model(args: argparse.Namespace) -> int:
    if not args.folder and not args.onnx:
        raise PatchScalerError("say what to write: --folder DIR, --onnx DIR, or both")
    model = load_model(args)
    if args.folder:
        model.save_pretrained(args.folder, half=not args.full, licence=args.licence)
        print(
            f"{args.folder}: {model.config.name}; upload it with 'hf upload OWNER/NAME "
            f"{args.folder}'"
        )
    if args.onnx:
        from patchscaler.engines.onnx.export import export_onnx

        for name, difference in export_onnx(model, args.onnx).items():
            print(
                f"{args.onnx}/{name}.onnx: differs from torch by {difference:.1g} of its largest "
                "number"
            )
    return 0
