"""Quality against steps: the rows are what `compare` says of the same steps, and the model's own
are marked.
"""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from patchscaler.apps.cli import main
from patchscaler.config import GroupConfig
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.compare import compare
from patchscaler.evaluation.metrics import get_metric
from patchscaler.evaluation.pairs import load_pairs
from patchscaler.evaluation.sets import open_sets
from patchscaler.evaluation.specs import Settings, parse_specs
from patchscaler.pipeline import PatchScaler
from patchscaler.reproduce import steps_quality
from patchscaler.reproduce.quality import Measuring
from patchscaler.reproduce.report import Row
from patchscaler.reproduce.steps_quality import Setting, plot, settings_of


@pytest.fixture
def hr(tmp_path, picture):
    folder = tmp_path / "hr"
    folder.mkdir()
    for seed in (0, 1):
        picture(96, 128, seed).save(folder / f"{seed}.png")
    return folder


def test_every_count_once_and_the_models_own():
    stored = GroupConfig(start_times=(0, 400, 400), num_inference_steps=(0, 1, 1))
    found = settings_of(stored, [4, 0, 4])
    assert [(s.name, s.shipped) for s in found] == [
        ("steps 0", False),
        ("steps 1", True),
        ("steps 4", False),
    ]
    assert [s.groups.num_inference_steps for s in found] == [(0, 0, 0), (0, 1, 1), (0, 4, 4)]
    assert {s.groups.start_times for s in found} == {(0, 400, 400)}
    uneven = settings_of(GroupConfig(), [20])
    assert [(s.name, s.steps, s.shipped) for s in uneven] == [
        ("steps 20", 20, False),
        ("steps 8/14/20", None, True),
    ]
    assert uneven[0].groups.num_inference_steps == (8, 20, 20)  # simple ones keep what they have
    with pytest.raises(PatchScalerError, match="401 steps from time 400"):
        settings_of(stored, [401])


def test_rows_are_what_compare_says(tiny, hr, model_folder, tmp_path, monkeypatch):
    sets = open_sets([], [("p", str(hr))], ["mild", "bicubic"])
    measuring = Measuring(tmp_path / "out", ("psnr-y",))
    report = steps_quality.steps_quality(tiny, sets, [3, 0], measuring)
    names = ["steps 0", "steps 3", "steps 0/1/2"]
    assert [row.label for row in report.rows] == [
        f"p, {d}: {n}" for d in ("mild", "bicubic") for n in names
    ]
    assert [row.note for row in report.rows] == ["", "", "as shipped"] * 2

    pairs, _ = load_pairs(hr=hr, degradation="bicubic")
    specs = parse_specs("ours:steps=0,0,0,ours:steps=0,3,3,ours")
    settings = Settings(device="cpu", dtype="float32", model=str(model_folder))
    found = compare(specs, pairs, ["psnr-y"], tmp_path / "own", settings, memory=False)
    for row, evaluation in zip(report.rows[3:], found.evaluations, strict=True):
        assert row.here["psnr-y ↑"] == pytest.approx(evaluation.means["psnr-y"], abs=1e-4)
        assert row.here["evaluations"] == found.costs[evaluation.method].evaluations
    assert report.rows[3].here["evaluations"] == 0 < report.rows[4].here["evaluations"]
    assert len({row.here["psnr-y ↑"] for row in report.rows}) == 6

    # Again: nothing is enlarged a second time. A model that draws says what its first step brings
    # besides.
    assert not any("drawn" in line for line in report.protocol)
    monkeypatch.setattr(PatchScaler, "upscale", None)
    monkeypatch.setattr(PatchScaler, "refiner", object())
    again = steps_quality.steps_quality(tiny, sets, [3, 0], measuring)
    assert [row.here for row in again.rows] == [row.here for row in report.rows]
    assert any("not drawn either" in line for line in again.protocol)


def test_the_plot_shows_every_value_and_marks_the_default():
    metrics = [get_metric("psnr-y"), get_metric("ssim-y")]
    groups = GroupConfig()
    settings = [Setting(f"steps {n}", n, groups, n == 1) for n in (0, 1, 4)]
    drawn = []

    def rows(best):
        return [Row("", {}, {"psnr-y ↑": best + n, "ssim-y ↑": 0.1 * n}) for n in range(3)]

    for shipped in (1, 4):
        marked = [replace(s, shipped=s.steps == shipped) for s in settings]
        drawn.append(np.asarray(plot(rows(20) + rows(22), ["a", "b"], marked, metrics)))
    assert drawn[0].shape == (360, 800, 3)
    assert (drawn[0] != drawn[1]).any()
    dashed = [*settings[::2], Setting("steps 8/14/20", None, groups, True)]
    assert np.asarray(plot(rows(20), ["a"], dashed, metrics)).shape == (360, 800, 3)


def test_the_command(hr, model_folder, tmp_path, capsys, monkeypatch):
    base = [
        "reproduce",
        "steps",
        "--hr",
        f"Mine={hr}",
        "--model",
        str(model_folder),
        "--device",
        "cpu",
    ]
    base += ["--metrics", "psnr-y", "-o", str(tmp_path / "out")]

    def fails(*more):
        assert main([*base, *more]) == 1
        error = capsys.readouterr().err
        assert error.startswith("patchscaler: ") and error.count("\n") == 1, error
        return error

    assert main([*base, "--steps", "0,1", "--limit", "1"]) == 0
    out = capsys.readouterr().out
    assert "not the paper's" in out and "Mine, mild: steps 1" in out and "as shipped" in out
    assert (
        out.count("psnr-y: PSNR in dB") == 1
        and "data: 1 pictures, small ones made by 'mild'" in out
    )
    assert Image.open(tmp_path / "out" / "steps.png").size == (400, 360)
    record = json.loads((tmp_path / "out" / "steps.json").read_text())
    assert [s["num_inference_steps"] for s in record["details"]["settings"]] == [
        [0, 0, 0],
        [0, 1, 1],
        [0, 1, 2],
    ]
    assert record["data"][0]["set"] == "Mine" and record["model"]["sha256"]
    (hr / "broken.png").write_bytes(b"no picture")
    assert main([*base, "--steps", "0"]) == 1
    assert "failed: Mine, mild: broken: " in capsys.readouterr().out

    assert "--steps 1,x: give numbers" in fails("--steps", "1,x")
    assert "--steps and --limit take 0 or more" in fails("--steps", "1,-2")
    assert "2000 steps from time" in fails("--steps", "2000", "--limit", "1")
    assert "unknown degradation 'x'" in fails("--degradation", "mild,x")
    assert "unknown metric 'x'" in fails("--metrics", "x")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install 'patchscaler[plots]'" in fails("--steps", "0", "--limit", "1")
