"""`patchscaler upscale --cluster ADDRESS`: where the networks run (docs/cluster.md)."""

import argparse
import contextlib
from typing import Any

from patchscaler.errors import PatchScalerError


def add_options(parser: Any) -> None:
    add = parser.add_argument_group("cluster").add_argument
    add("--cluster", metavar="ADDRESS", help="a Ray cluster: auto, HOST:PORT or ray://HOST:PORT")
    add("--cluster-threads", type=int, default=1, metavar="N", help="cores of a worker without GPU")


def check_options(args: argparse.Namespace) -> None:
    """Raises PatchScalerError for what a cluster cannot do, before anything is loaded."""
    if args.cluster_threads < 1:
        raise PatchScalerError(f"--cluster-threads {args.cluster_threads}: take 1 or more")
    if not args.cluster:
        return
    from patchscaler.apps.cluster import check_address, import_ray

    if args.engine not in ("auto", "torch"):
        raise PatchScalerError(f"--engine {args.engine}: workers of --cluster run torch")
    import_ray()
    check_address(args.cluster)


def load(args: argparse.Namespace) -> Any:
    """The model here; with `--cluster` it only counts, and `--device` is that of the workers."""
    from patchscaler.apps.cli.common import load_model

    if args.cluster:
        here = {"device": "cpu", "dtype": "float32", "engine": "torch"}
        args = argparse.Namespace(**(vars(args) | here))
    return load_model(args, args.memory)


def executor_of(args: argparse.Namespace, pipeline: Any) -> Any:
    """A context that gives the executor, and lets go of the cluster at its end."""
    if not args.cluster:
        return contextlib.nullcontext()
    from patchscaler._version import __version__
    from patchscaler.apps.cluster import ModelSpec, RayExecutor

    spec = ModelSpec(
        source=args.model,
        device=args.device,
        dtype=args.dtype,
        memory=args.memory,
        autoencoder=args.autoencoder,
        offline=args.offline,
        threads=args.cluster_threads,
        version=__version__,
        weights=pipeline.model.weights_hash(),
    )
    return RayExecutor(args.cluster, spec)
