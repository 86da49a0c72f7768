"""`patchscaler upscale --cluster ADDRESS`: who does the work (docs/cluster.md)."""

import argparse
from typing import Any

from patchscaler.apps.cli import dials
from patchscaler.errors import PatchScalerError


def add_options(up: Any) -> None:
    cluster = up.add_argument_group("more than one machine (docs/cluster.md)")
    cluster.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="spread a folder's pictures, a video's frames and a "
        "large picture's windows over a Ray cluster: auto, HOST:PORT or ray://HOST:PORT",
    )
    cluster.add_argument(
        "--cluster-threads",
        type=int,
        default=1,
        metavar="N",
        help="processor cores of one worker, where there are no GPUs (default: 1)",
    )


def check_options(args: argparse.Namespace) -> None:
    """Raises PatchScalerError for what a cluster cannot do, before anything is loaded."""
    if args.cluster_threads < 1:
        raise PatchScalerError("--cluster-threads takes 1 or more")
    if not args.cluster:
        return
    from patchscaler.apps.cluster import check_answers, import_ray

    if args.engine not in ("auto", "torch"):
        raise PatchScalerError(
            f"--engine {args.engine} is of one machine; workers of --cluster compute with torch"
        )
    if dials.in_seconds(args):
        raise PatchScalerError(
            "--budget in seconds is of one machine; with --cluster give a share of full sampling"
        )
    import_ray()
    check_answers(args.cluster)


def load(args: argparse.Namespace) -> Any:
    """-> the model.

    With `--cluster` the one here counts and puts together; `--device` is the workers'.
    """
    from patchscaler.apps.cli.common import load_model

    if not args.cluster:
        return load_model(args, args.memory)
    counting = vars(args) | {"device": "cpu", "dtype": "auto", "engine": "torch"}
    return load_model(argparse.Namespace(**counting), args.memory)


def executor_of(args: argparse.Namespace, model: Any) -> Any:
    """Who does the work: as a context, that lets go of the cluster at its end."""
    import contextlib

    from patchscaler.work import LocalExecutor

    if not args.cluster or args.dry_run:
        return contextlib.nullcontext(LocalExecutor(model))
    from patchscaler._version import __version__
    from patchscaler.apps.cluster import Cluster, ModelSpec
    from patchscaler.dials.record import weights_id, weights_of

    spec = ModelSpec(
        args.model,
        args.device,
        args.dtype,
        args.memory,
        args.autoencoder,
        args.cluster_threads,
        __version__,
        weights_id(weights_of(model)),
    )
    return Cluster(args.cluster, spec)
