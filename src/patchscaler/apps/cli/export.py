"""`patchscaler export`: a model for other programs (docs/export.md)."""

import argparse
from pathlib import Path
from typing import Any

from patchscaler.apps.cli.common import load_model, model_options
from patchscaler.errors import PatchScalerError


def add_parser(commands: Any) -> None:
    export = commands.add_parser("export", description="Write a model for other programs.")
    export.set_defaults(function=export_model)
    add = export.add_argument
    add("--folder", metavar="DIR", help="config, weights and model card, as a hub takes them")
    add("--onnx", metavar="DIR", help="ONNX graphs, and weights that ESRGAN loaders read")
    add("--license", default="unknown", help="of the weights, for the model card")
    add("--full", action="store_true", help="weights of --folder in float32, not in half precision")
    model_options(export)


def export_model(args: argparse.Namespace) -> int:
    if not args.folder and not args.onnx:
        raise PatchScalerError("nothing to write. Hint: give --folder DIR, --onnx DIR, or both")
    pipeline = load_model(args)
    if args.folder:
        pipeline.save_pretrained(args.folder, half=not args.full, license=args.license)
        print(f"{args.folder}: {pipeline.model.config.name}")
    if args.onnx:
        _export_onnx(pipeline.model, Path(args.onnx))
    return 0


def _export_onnx(model: Any, folder: Path) -> None:
    from patchscaler.engines.esrgan import ESRGAN, export_esrgan
    from patchscaler.engines.export import export_onnx

    for name, difference in export_onnx(model.config, model.networks, folder).items():
        print(f"{folder / name}.onnx: differs from torch by {difference:.1g} of its largest number")
    if model.denoiser is not None:
        left_out = export_esrgan(model.denoiser, folder / ESRGAN)
        exact = "exact at tau 0" if left_out == 0 else f"leaves out weights up to {left_out:.2g}"
        print(f"{folder / ESRGAN}: {exact}")
