"""A Ray cluster of worker processes on this machine: the same bytes, also when a worker is killed.

Slow (a cluster takes half a minute to start) and only where ray is installed: pytest -m slow
tests/test_cluster.py
"""

import contextlib
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from patchscaler import __version__
from patchscaler.apps.cluster import Cluster, ModelSpec
from patchscaler.config import RefinerConfig
from patchscaler.dials.record import weights_id, weights_of
from patchscaler.errors import PatchScalerError
from patchscaler.models.refiner import Refiner
from patchscaler.pipeline import PatchScaler
from patchscaler.streaming.files import upscale_file

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address():
    """Of a cluster of two workers, on this machine and gone afterwards."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # 15 would starve where other things run
    context = ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=2**28,
    )
    yield context.address_info["gcs_address"]
    ray.shutdown()


@pytest.fixture(scope="module")
def scaler(model_folder) -> PatchScaler:
    torch.set_num_threads(1)
    return PatchScaler.from_pretrained(model_folder, device="cpu", dtype="float32")


@pytest.fixture
def spec(scaler, model_folder) -> ModelSpec:
    weights = weights_id(weights_of(scaler))
    return ModelSpec(str(model_folder), "cpu", "float32", None, None, 1, __version__, weights)


def test_windows_of_a_picture(address, spec, scaler, tmp_path, picture):
    picture(150, 200).save(tmp_path / "in.png")
    with Cluster(address, spec) as executor:
        assert executor.workers == 2 and executor.compute_signature == "cpu torch.float32"
        upscale_file(
            scaler,
            tmp_path / "in.png",
            tmp_path / "there.png",
            window=64,
            max_patches=7,
            executor=executor,
        )
    upscale_file(scaler, tmp_path / "in.png", tmp_path / "here.png", window=64, max_patches=7)
    assert (tmp_path / "here.png").read_bytes() == (tmp_path / "there.png").read_bytes()


@pytest.fixture(scope="module")
def refining(tiny, tmp_path_factory) -> tuple[PatchScaler, Path]:
    """The tiny model with a refiner, and its folder."""
    folder, refiner = tmp_path_factory.mktemp("refining"), RefinerConfig(8, 1)
    config = replace(tiny.config, refiner=refiner)
    PatchScaler(config, tiny.networks | {"refiner": Refiner(refiner)}, tiny.memory).save_pretrained(
        folder
    )
    return PatchScaler.from_pretrained(folder, device="cpu", dtype="float32"), folder


@pytest.mark.parametrize(
    "stage", ["windows restored", "patch-steps", "tiles refined", "strips decoded"]
)
def test_a_worker_that_is_killed_loses_nothing(
    address, spec, scaler, refining, tmp_path, picture, stage
):
    if stage == "tiles refined":
        scaler, folder = refining
        spec = replace(spec, source=str(folder), weights=weights_id(weights_of(scaler)))
    picture(150, 200).save(tmp_path / "in.png")
    killed: list[int] = []

    def watch(now: str, done: int, total: int) -> None:
        if now == stage and done and not killed:
            killed.append(worker_at_work())
            os.kill(killed[0], signal.SIGKILL)

    with Cluster(address, spec) as executor:
        upscale_file(
            scaler,
            tmp_path / "in.png",
            tmp_path / "there.png",
            window=64,
            max_patches=7,
            executor=executor,
            watch=watch,
        )
    assert killed
    upscale_file(scaler, tmp_path / "in.png", tmp_path / "here.png", window=64, max_patches=7)
    assert (tmp_path / "here.png").read_bytes() == (tmp_path / "there.png").read_bytes()


def worker_at_work() -> int:
    """A process that does our work at this moment, of the cluster that this test started."""
    import psutil

    for _ in range(2000):
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if process.cmdline()[:1] == ["ray::do"]:
                    return process.pid
        time.sleep(0.005)
    raise AssertionError("no worker is at work")


def test_folders_by_the_command(address, model_folder, scaler, tmp_path, picture, monkeypatch):
    """Through another process, that comes to a cluster which is there."""
    from test_cli import patchscaler

    # as a worker: more threads may add up in another order
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "in").mkdir()
    for n in range(5):
        picture(40 + 8 * n, 56, n).save(tmp_path / "in" / f"{n}.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    fixed = ["--model", model_folder, "--dtype", "float32", "--device", "cpu", "--no-provenance"]
    there = patchscaler(
        "upscale", tmp_path / "in", "-o", tmp_path / "there", *fixed, "--cluster", address
    )
    assert there.returncode == 1 and "5 enlarged, 0 done before, 1 failed" in there.stderr
    here = patchscaler("upscale", tmp_path / "in", "-o", tmp_path / "here", *fixed)
    assert "5 enlarged" in here.stderr
    for path in sorted((tmp_path / "here").glob("*.png")):
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes()
    again = patchscaler(
        "upscale", tmp_path / "in", "-o", tmp_path / "there", *fixed, "--cluster", address
    )
    assert "0 enlarged, 5 done before, 1 failed" in again.stderr


def test_other_versions_and_weights_are_refused(address, spec, tmp_path):
    with pytest.raises(
        PatchScalerError, match=r"has patchscaler .*, this machine 99.0; install the same"
    ):
        Cluster(address, replace(spec, version="99.0"))
    with pytest.raises(
        PatchScalerError, match=r"has other weights \(.*\) than this machine \(abc\)"
    ):
        Cluster(address, replace(spec, weights="abc"))
    with pytest.raises(PatchScalerError, match=r"worker on .*: "):
        Cluster(address, replace(spec, source=str(Path(tmp_path) / "nothing")))


def test_more_than_the_cluster_has(address, spec):
    with pytest.raises(PatchScalerError, match="no machine with 64 CPU"):
        Cluster(address, replace(spec, threads=64))
