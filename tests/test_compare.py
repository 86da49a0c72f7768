"""Several methods side by side: what is measured, how crops are chosen, and what users do wrong."""

import csv
import json
import re

import numpy as np
import pytest
from common import CountingMethod
from PIL import Image

from patchscaler.apps.cli import main
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation import compare as comparing
from patchscaler.evaluation.compare import Timed, compare, cost_of, largest_input
from patchscaler.evaluation.comparison_report import side_by_side, terminal
from patchscaler.evaluation.cost.memory import ChildCost
from patchscaler.evaluation.crops import Crop, at_random, choose_crops, most_different
from patchscaler.evaluation.methods import Resize
from patchscaler.evaluation.metrics import get_metric
from patchscaler.evaluation.pairs import load_pairs
from patchscaler.evaluation.specs import Settings, parse_specs

METRICS = ["psnr-y", "sharpness"]


@pytest.fixture
def hr(tmp_path, picture):
    """Two originals of different size."""
    folder = tmp_path / "hr"
    folder.mkdir()
    picture(96, 128).save(folder / "a.png")
    picture(128, 160, 1).save(folder / "b.png")
    return folder


@pytest.fixture
def no_child(monkeypatch):
    """Peak memory without processes: what each was asked is kept."""
    asked = []

    def child(spec, picture, settings):
        asked.append((spec, picture.shape, settings))
        if spec == "lanczos":
            raise PatchScalerError("it burst")
        return ChildCost(1.0, 123.0, 0.0)

    monkeypatch.setattr(comparing, "method_cost", child)
    return asked


def settings(model_folder) -> Settings:
    return Settings(device="cpu", dtype="float32", model=str(model_folder))


# --- measuring ------------------------------------------------------------------------------------


def test_quality_and_cost_side_by_side(hr, model_folder, tmp_path, no_child):
    pairs, _ = load_pairs(hr=hr, degradation="bicubic")
    specs = parse_specs("ours,bicubic,lanczos,spandrel:no.pth")
    found = compare(specs, pairs, METRICS, tmp_path / "out", settings(model_folder))
    assert [e.method for e in found.evaluations] == ["ours", "bicubic", "lanczos"]
    assert list(found.unavailable) == ["spandrel:no"]
    bicubic = next(e for e in found.evaluations if e.method == "bicubic")
    for pair, row in zip(pairs, bicubic.rows, strict=True):
        assert row.scores["psnr-y"] == pytest.approx(
            get_metric("psnr-y")(Resize("bicubic").upscale(pair.lr), pair.hr)
        )
    ours = found.costs["ours"]
    evaluations = [row.cost["evaluations_total"] for row in found.evaluations[0].rows]
    assert ours.evaluations == np.mean(evaluations) and found.costs["bicubic"].evaluations is None
    assert ours.seconds > 0 and ours.warm_up > 0
    # Memory is asked for the largest picture, with the settings of the run.
    assert [(spec, shape) for spec, shape, _ in no_child] == [
        (m, (32, 40, 3)) for m in ("ours", "bicubic", "lanczos")
    ]
    assert no_child[0][2]["model"] == str(model_folder)
    assert ours.peak_mib == 123 and ours.cuda_mib is None
    assert found.costs["lanczos"].memory_failure == "it burst"
    text = terminal(found)
    assert "peak MiB" in text and "failed: lanczos: peak memory: it burst" in text
    assert re.search(r"unavailable: spandrel:no: .*no such weights file", text)
    head, rows = side_by_side(found)
    assert "GPU MiB" not in head and [row[0] for row in rows] == ["ours", "bicubic", "lanczos"]


def test_the_first_picture_warms_up_and_nothing_is_done_twice(hr, tmp_path, monkeypatch):
    method = CountingMethod()
    pairs, _ = load_pairs(hr=hr, degradation="bicubic")
    monkeypatch.setattr(comparing, "build_methods", lambda specs, settings: ([method], {}))
    found = compare([], pairs, METRICS, tmp_path / "out", Settings(), memory=False)
    assert method.calls == [(24, 32, 3), (24, 32, 3), (32, 40, 3)]
    rows = found.evaluations[0].rows
    assert [row.seconds for row in rows] == [row.cost["warm_seconds"] for row in rows]
    assert found.costs["mine"].warm_up == rows[0].cost["warm_up"] == rows[1].cost["warm_up"]
    again = compare([], pairs, METRICS, tmp_path / "out", Settings(), memory=False)
    assert len(method.calls) == 3 and again.costs == found.costs


def test_timed_keeps_what_the_method_says(monkeypatch):
    clock = iter([0, 7, 10, 11, 20, 23])
    monkeypatch.setattr(comparing.time, "perf_counter", lambda: next(clock))
    method = Resize("bicubic")
    method.cost = {"evaluations_total": 5}
    timed = Timed(method)
    timed.upscale(np.zeros((4, 4, 3), np.uint8))
    assert timed.cost == {"evaluations_total": 5, "warm_seconds": 1, "warm_up": 7}
    timed.upscale(np.zeros((4, 4, 3), np.uint8))
    assert timed.cost["warm_seconds"] == 3 and timed.cost["warm_up"] == 7
    assert timed.describe() == method.describe()


def test_finished_pictures_have_no_cost(hr, tmp_path):
    finished = tmp_path / "theirs"
    finished.mkdir()
    for file in hr.iterdir():
        Image.open(file).save(finished / f"{file.stem}_x4.png")
    pairs, _ = load_pairs(hr=hr, degradation="bicubic")
    found = compare(
        parse_specs(f"folder:Theirs={finished}"),
        pairs,
        METRICS,
        tmp_path / "out",
        Settings(),
        memory=True,
    )
    assert found.evaluations[0].means["psnr-y"] == np.inf
    cost = cost_of(found.evaluations[0])
    assert (cost.seconds, cost.warm_up, cost.megapixels_per_second, cost.evaluations) == (None,) * 4
    assert "s/picture" not in terminal(found).splitlines()[0]


def test_no_method_at_all(hr, tmp_path):
    pairs, _ = load_pairs(hr=hr, degradation="bicubic")
    with pytest.raises(PatchScalerError, match=r"spandrel:no: .*no such weights file"):
        compare(parse_specs("spandrel:no.pth"), pairs, METRICS, tmp_path / "out", Settings())
    assert not (tmp_path / "out").exists()


def test_largest_input(hr):
    pairs, _ = load_pairs(hr=hr, degradation="bicubic")
    assert largest_input(pairs).shape == (32, 40, 3)
    assert largest_input([]) is None


@pytest.mark.slow
def test_peak_memory_of_a_method_in_a_process_of_its_own(model_folder, picture):
    from dataclasses import asdict

    child = comparing.method_cost(
        "ours:steps=0,0,0", np.asarray(picture(16, 16)), asdict(settings(model_folder))
    )
    assert child.peak_mib > 100 and child.seconds > 0
    with pytest.raises(PatchScalerError, match="no such folder"):
        comparing.method_cost("ours:model=nowhere", np.asarray(picture(16, 16)), {})


# --- crops ----------------------------------------------------------------------------------------


def test_the_crop_is_where_methods_differ():
    a = np.full((60, 80, 3), 100, np.uint8)
    b, c = a.copy(), a.copy()
    b[31:41, 52:62] = 160
    c[5:9, 5:9] = 110
    crop = most_different([a, b, c], 10)
    assert (crop.top, crop.left, crop.side) == (31, 52, 10)
    assert most_different([a, b], 500).side == 60


def test_the_random_crop_depends_on_the_name_alone():
    first = Crop("", 0, 0, 20)
    crops = {name: at_random(name, 60, 80, 20, first) for name in "abcdef"}
    assert crops == {name: at_random(name, 60, 80, 20, first) for name in "abcdef"}
    assert len({(c.top, c.left) for c in crops.values()}) > 3
    for c in crops.values():
        assert 0 <= c.top <= 40 and 0 <= c.left <= 60
    overlap = [max(0, 20 - c.top) * max(0, 20 - c.left) for c in crops.values()]
    assert sum(overlap) == 0  # of eight draws, one lies elsewhere
    assert [c.label for c in choose_crops("a", [np.zeros((8, 8, 3), np.uint8)] * 2, 4)] == [
        "where methods differ most",
        "at random",
    ]


# --- the command ----------------------------------------------------------------------------------


def command(hr, model_folder, tmp_path, *more):
    base = [
        "compare",
        "--hr",
        hr,
        "--degradation",
        "bicubic",
        "-o",
        tmp_path / "out",
        "--model",
        model_folder,
    ]
    return main(
        [
            str(a)
            for a in [*base, "--device", "cpu", "--dtype", "float32", "--metrics", "psnr-y", *more]
        ]
    )


def test_the_command_writes_all_its_reports(hr, model_folder, tmp_path, capsys, no_child):
    files = {kind: tmp_path / f"c.{kind}" for kind in ("json", "csv", "html")}
    options = [part for kind, file in files.items() for part in (f"--{kind}", file)]
    methods = "ours,ours:steps=0,0,0,name=coarse,bicubic"
    assert command(hr, model_folder, tmp_path, "--methods", methods, *options) == 0
    first = capsys.readouterr().out.splitlines()[0].split()
    assert (
        first[:4] == ["method", "n", "psnr-y", "↑"]
        and "s/picture" in first
        and "evaluations" in first
    )
    record = json.loads(files["json"].read_text())
    assert record["format"] == "patchscaler-comparison-1" and list(record["costs"]) == [
        "ours",
        "coarse",
        "bicubic",
    ]
    assert (
        record["costs"]["coarse"]["evaluations"] == 0 and record["costs"]["ours"]["peak_mib"] == 123
    )
    assert record["evaluations"][1]["description"]["groups"]["num_inference_steps"] == [0, 0, 0]
    rows = list(
        csv.DictReader(x for x in files["csv"].read_text().splitlines() if not x.startswith("#"))
    )
    assert [row["method"] for row in rows] == ["ours", "coarse", "bicubic"]
    assert float(rows[2]["psnr-y"]) == record["common"]["means"]["bicubic"]["psnr-y"]
    assert rows[2]["evaluations"] == "" and float(rows[0]["seconds"]) > 0
    page = files["html"].read_text()
    strips = re.findall(r'<div class="row">(.*?)</div>', page)
    assert len(strips) == 4  # two pictures, two crops each
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", strips[0])
    assert captions == [
        "where methods differ most",
        "input",
        "ours",
        "coarse",
        "bicubic",
        "original",
    ]
    assert "at random" in strips[1] and 'src="http' not in page and "href" not in page


def test_exit_codes(hr, model_folder, tmp_path, capsys, no_child, monkeypatch):
    # What nobody asked for by name may be missing ...
    monkeypatch.setattr("patchscaler.evaluation.specs.DEFAULT_METHODS", "bicubic,realsr-jpeg")
    assert command(hr, model_folder, tmp_path) == 0
    assert "unavailable: realsr-jpeg: " in capsys.readouterr().out
    # ... what was asked for, not.
    assert command(hr, model_folder, tmp_path, "--methods", f"bicubic,realsr-jpeg:{tmp_path}") == 1
    out = capsys.readouterr()
    assert "bicubic" in out.out and "asked for but unavailable: realsr-jpeg" in out.err
    assert command(hr, model_folder, tmp_path, "--methods", "lanczos") == 1
    assert "peak memory could not be measured: lanczos" in capsys.readouterr().err
    (hr / "broken.png").write_bytes(b"no picture")
    assert command(hr, model_folder, tmp_path, "--methods", "bicubic") == 1
    out = capsys.readouterr()
    assert "broken" in out.out and "1 failed, listed above" in out.err


def test_what_users_do_wrong(hr, model_folder, tmp_path, capsys):
    def fails(*more):
        assert command(hr, model_folder, tmp_path, *more) == 1
        error = capsys.readouterr().err
        assert error.startswith("patchscaler: ") and error.count("\n") == 1, error
        return error

    assert "unknown method 'magic': the known ones are ours" in fails("--methods", "magic")
    assert "unknown metric 'x'" in fails("--metrics", "x")
    assert "more than twice --tile-overlap" in fails("--tile", "20")
    assert "--limit, --crop-border and --threads take 0 or more" in fails("--threads", "-1")
    assert "add --html FILE" in fails("--worst-by", "psnr-y")
    assert "cannot write there" in fails("--json", tmp_path)
    assert "leave --lr out" in fails("--lr", hr)
    assert main(["compare", "--hr", str(hr)]) == 1
    assert "nothing to enlarge" in capsys.readouterr().err
    assert main(["compare"]) == 1
    assert "give pictures" in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no pictures" in fails("--hr", empty)


def test_list_methods(model_folder, capsys):
    assert main(["compare", "--list-methods", "--model", str(model_folder), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    for words in (
        "ours",
        "realsr-jpeg",
        "spandrel:FILE",
        "folder:NAME=DIR",
        "options: tile, tile_overlap, name",
    ):
        assert words in out
