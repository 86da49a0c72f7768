"""`patchscaler upscale --cluster`."""

import argparse
import sys

import pytest

from patchscaler.apps.cli import cluster
from patchscaler.errors import PatchScalerError


def arguments(*given: str, engine: str = "auto") -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cluster.add_options(parser)
    return parser.parse_args(given, argparse.Namespace(engine=engine))


def test_without_the_option_this_process_does_the_work(tiny):
    args = arguments()
    cluster.check_options(args)
    with cluster.executor_of(args, tiny) as executor:
        assert executor is None


def test_what_a_cluster_cannot_do_is_refused(monkeypatch):
    with pytest.raises(PatchScalerError, match="--cluster-threads 0"):
        cluster.check_options(arguments("--cluster-threads", "0"))
    with pytest.raises(PatchScalerError, match="--engine openvino"):
        cluster.check_options(arguments("--cluster", "auto", engine="openvino"))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PatchScalerError, match=r"pip install 'patchscaler\[cluster\]'"):
        cluster.check_options(arguments("--cluster", "auto"))
