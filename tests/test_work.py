"""Pieces of work done elsewhere: pickled there and back, several at once, the same picture comes
out.
"""

import pickle
import sys
import types
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from patchscaler.apps.cli import main
from patchscaler.errors import PatchScalerError
from patchscaler.images.planes import to_planes
from patchscaler.images.sizes import TargetSize
from patchscaler.streaming.files import upscale_file
from patchscaler.work import WORK, LocalExecutor, batch, portable, sample


class Elsewhere:
    """Hands that see nothing but bytes, take three pieces ahead and do them last one first."""

    def __init__(self, scaler):
        self.scaler, self.compute_signature, self.done = scaler, "cpu torch.float32", 0

    def map(self, name, calls):
        waiting = deque()
        for arguments in calls:
            waiting.append(pickle.dumps([portable(a) for a in arguments]))
            if len(waiting) == 3:
                yield from self._all(name, waiting)
        yield from self._all(name, waiting)

    def _all(self, name, waiting):
        results = deque()
        while waiting:
            arguments = pickle.loads(waiting.pop())
            results.appendleft(pickle.loads(pickle.dumps(WORK[name](self.scaler, *arguments))))
            self.done += 1
        yield from results


@pytest.mark.parametrize("color", ["wavelet", "adain"])
def test_windows_done_elsewhere_are_the_same_bytes(tiny, tmp_path, picture, color):
    picture(150, 200).save(tmp_path / "in.png")
    for name, executor in (("here", None), ("there", Elsewhere(tiny))):
        upscale_file(
            tiny,
            tmp_path / "in.png",
            tmp_path / f"{name}.png",
            window=64,
            color=color,
            max_patches=7,
            executor=executor,
        )
    assert executor.done > 20
    assert (tmp_path / "here.png").read_bytes() == (tmp_path / "there.png").read_bytes()


def test_windows_that_are_faded_into_each_other(tiny, tmp_path, picture, monkeypatch):
    """Their order counts: the later one is laid over the earlier one, whoever was done first."""
    picture(150, 200).save(tmp_path / "in.png")
    monkeypatch.setattr(type(tiny.autoencoder), "exact", False, raising=False)
    for name, executor in (("here", None), ("there", Elsewhere(tiny))):
        upscale_file(
            tiny, tmp_path / "in.png", tmp_path / f"{name}.png", window=64, executor=executor
        )
    assert (tmp_path / "here.png").read_bytes() == (tmp_path / "there.png").read_bytes()


def test_a_run_that_was_stopped_here_goes_on_there(tiny, tmp_path, picture):
    picture(150, 200).save(tmp_path / "in.png")

    def watch(stage: str, done: int, total: int) -> None:
        if stage == "patch-steps" and done > total // 2:
            raise KeyboardInterrupt

    executor = LocalExecutor(tiny)
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        upscale_file(
            tiny,
            tmp_path / "in.png",
            tmp_path / "out.png",
            window=64,
            watch=watch,
            executor=executor,
        )
    upscale_file(
        tiny, tmp_path / "in.png", tmp_path / "out.png", window=64, executor=Elsewhere(tiny)
    )
    upscale_file(tiny, tmp_path / "in.png", tmp_path / "whole.png", window=64)
    results = [
        np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in ("out", "whole")
    ]
    assert np.abs(results[0] - results[1]).max() <= 1


def test_a_batch_too_large_for_the_memory_is_halved(tiny, monkeypatch):
    options, calls = tiny.options(prompt=False), []
    c, v = tiny.autoencoder.channels, tiny.config.groups.latent_patch_size
    y_0, noise = torch.randn(5, c, v, v), torch.randn(5, c, v, v)
    groups = torch.tensor([2, 2, 2, 1, 1])
    whole, entries = sample(tiny, y_0, noise, groups, options.groups, options)
    original = tiny.sample_batch

    def small(y_0, *rest):
        calls.append(len(y_0))
        if len(y_0) > 2:
            raise MemoryError
        return original(y_0, *rest)

    monkeypatch.setattr(tiny, "sample_batch", small)
    halved, again = sample(tiny, y_0, noise, groups, options.groups, options)
    assert calls == [5, 2, 3, 1, 2] and (entries == again).all()
    assert torch.allclose(whole, halved, atol=1e-5)


def test_one_picture_of_a_lot_that_fails_does_not_take_the_others_along(tiny, picture):
    planes = [to_planes(picture(40, 40)), to_planes(picture(64, 64))]
    made = batch(tiny, planes, TargetSize(scale=4.0), {"max_pixels": 2000})
    # limits are the reader's
    assert [m.array.shape for m in made] == [(160, 160, 3), (256, 256, 3)]
    [alone] = batch(tiny, planes[1:], TargetSize(scale=4.0), {"max_pixels": 2000})
    assert isinstance(alone, PatchScalerError)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", "nobody answers there"),
        ("nowhere", "give auto, HOST:PORT or ray://HOST:PORT"),
        ("ray://127.0.0.1:2", "nobody answers there"),
        ("no.such.host.invalid:6379", "nobody answers there"),
    ],
)
def test_addresses_where_nobody_is(photo, capsys, monkeypatch, address, reason):
    # whether it is installed or not
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    assert main(["upscale", str(photo(32, 32)), "--cluster", address]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"patchscaler: --cluster {address}: {reason}") and said.count("\n") == 1


def test_a_cluster_without_ray_and_a_budget_in_seconds(photo, capsys, monkeypatch):
    path = str(photo(32, 32))
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["upscale", path, "--cluster", "auto"]) == 1
    assert "pip install 'patchscaler[cluster]'" in capsys.readouterr().err
    assert main(["upscale", path, "--cluster", "auto", "--budget", "20s"]) == 1
    assert "--budget in seconds is of one machine" in capsys.readouterr().err
    assert main(["upscale", path, "--cluster", "auto", "--engine", "openvino"]) == 1
    assert "workers of --cluster compute with torch" in capsys.readouterr().err
    assert main(["upscale", path, "--cluster-threads", "0"]) == 1
    assert "takes 1 or more" in capsys.readouterr().err and not list(
        Path(path).parent.glob("*_x4*")
    )
