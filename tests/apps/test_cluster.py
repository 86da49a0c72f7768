"""A Ray cluster of worker processes on this machine: the same bytes, also when a worker dies.

Slow, and only where ray is installed: pytest -m slow tests/apps/test_cluster.py
"""

import os
import signal
import socket
from dataclasses import replace

import numpy as np
import pytest
import torch
from clips import make_clip

from patchscaler import __version__
from patchscaler.apps.cluster import ModelSpec, RayExecutor, check_address
from patchscaler.apps.video import upscale_video
from patchscaler.errors import PatchScalerError
from patchscaler.model import Model
from patchscaler.pipeline import PatchScaler
from patchscaler.progress import Progress

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def address():
    """Of a cluster of two workers, on this machine and gone afterwards."""
    ray = pytest.importorskip("ray")
    os.environ.setdefault("RAY_worker_niceness", "0")  # 15 would starve where other things run
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")]
    )
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
def pipeline(model_folder) -> PatchScaler:
    torch.set_num_threads(1)
    return PatchScaler.from_pretrained(model_folder, device="cpu", dtype="float32", engine="torch")


@pytest.fixture
def spec(pipeline, model_folder) -> ModelSpec:
    return ModelSpec(
        source=str(model_folder),
        device="cpu",
        dtype="float32",
        memory=None,
        autoencoder=None,
        offline=False,
        threads=1,
        version=__version__,
        weights=pipeline.model.weights_hash(),
    )


def echo(model: Model, number: int) -> tuple[int, int]:
    return number, os.getpid()


def fail(model: Model, number: int) -> None:
    raise ValueError(f"call {number}")


def die_once(model: Model, number: int, marker: str) -> int:
    """The worker that gets call 5 first dies with it."""
    if number == 5 and not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@slow
def test_results_come_in_order_from_all_workers(address, spec):
    with RayExecutor(address, spec) as executor:
        found = list(executor.map(echo, ((n,) for n in range(20))))
        assert executor.compute_signature == "cpu float32 torch"
        assert [number for number, _ in found] == list(range(20))
        assert len({pid for _, pid in found}) == 2
        assert list(executor.map(echo, [])) == []


@slow
def test_calls_are_read_a_few_ahead_of_the_results(address, spec):
    read = []

    def calls():
        for n in range(100):
            read.append(n)
            yield (n,)

    with RayExecutor(address, spec) as executor:
        results = executor.map(echo, calls())
        next(results)
        assert len(read) < 20
        results.close()


@slow
def test_a_call_of_a_worker_that_died_is_made_again(address, spec, tmp_path):
    marker = str(tmp_path / "died")
    with RayExecutor(address, spec) as executor:
        calls = ((n, marker) for n in range(20))
        assert list(executor.map(die_once, calls)) == list(range(20))
        assert os.path.exists(marker)
        assert len(list(executor.map(echo, ((n,) for n in range(8))))) == 8  # as before


@slow
def test_what_a_call_raises_is_raised(address, spec):
    with (
        RayExecutor(address, spec) as executor,
        pytest.raises(PatchScalerError, match=r"a worker failed \(ValueError: call 0\)"),
    ):
        list(executor.map(fail, [(0,)]))


@slow
def test_tiles_of_an_image_are_the_same_bytes(address, spec, pipeline, picture):
    image = picture(150, 200)
    with RayExecutor(address, spec) as executor:
        there = pipeline(image, tile=64, batch_size=7, executor=executor)
    here = pipeline(image, tile=64, batch_size=7)
    assert np.array_equal(there.array, here.array)


@slow
def test_frames_of_a_video_are_the_same_bytes(address, spec, pipeline, tmp_path):
    source = make_clip(tmp_path / "in.mp4", count=7)
    stages: list[Progress] = []
    with RayExecutor(address, spec) as executor:
        upscale_video(
            pipeline, source, tmp_path / "there.mp4", callback=stages.append, executor=executor
        )
    upscale_video(pipeline, source, tmp_path / "here.mp4")
    assert (tmp_path / "here.mp4").read_bytes() == (tmp_path / "there.mp4").read_bytes()
    assert [progress.done for progress in stages] == list(range(1, 8))


@slow
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": "99.0"}, "has patchscaler .*, not 99.0"),
        ({"weights": "abc"}, "has weights .*, not abc"),
        ({"source": "/nothing"}, "nothing"),
        ({"threads": 64}, "no machine with 64 CPU"),
    ],
)
def test_what_does_not_fit_is_refused(address, spec, changes, reason):
    with pytest.raises(PatchScalerError, match=reason):
        RayExecutor(address, replace(spec, **changes))


def test_addresses_without_an_answer_are_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]  # bound, and not listening
        with pytest.raises(PatchScalerError, match="no answer"):
            check_address(f"127.0.0.1:{port}")
    for address in ("here", "host:x", ":1", "ray://"):
        with pytest.raises(PatchScalerError, match="no address"):
            check_address(address)
    check_address("auto")
