"""Evaluations in print: the table, JSON, CSV, the page; and the command that makes them."""

import csv
import json
import sys

import numpy as np
import pytest
from golden.pictures import blurred, made

from patchscaler.apps.cli import main
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation import report
from patchscaler.evaluation.crops import choose_crops
from patchscaler.evaluation.methods import Resize, ResultFolder
from patchscaler.evaluation.metrics import resolve_metrics
from patchscaler.evaluation.pairs import Failure, load_pairs
from patchscaler.evaluation.run import Comparison, common_means, evaluate
from patchscaler.evaluation.sets import ImageSet
from patchscaler.evaluation.tables import number, table

QUICK = ("psnr-y", "ssim-y", "sharpness")


@pytest.fixture
def hr(tmp_path, save):
    return save(tmp_path / "hr", a=made(64, 1), b=blurred(blurred(made(64, 2))), c=made(192, 3))


@pytest.fixture
def two(hr, tmp_path, save):
    """Bicubic on three images, and finished ones that lack the third."""
    pairs, _ = load_pairs(hr=hr, degradation="bicubic")
    theirs = save(tmp_path / "<theirs>", a=made(64, 1), b=made(64, 5))
    metrics, _ = resolve_metrics(QUICK)
    methods = Resize("bicubic"), ResultFolder(theirs)
    found = [evaluate(m, pairs, metrics, tmp_path / "out") for m in methods]
    return Comparison(ImageSet("hr", "bicubic", pairs), found, {"ldm": "no such folder"})


# --- the table ------------------------------------------------------------------------------------


def test_the_printer_aligns_columns():
    assert table(["", "value"], [["a", "1.0"], ["long", number(None, 2)]]) == [
        "      value",
        "a       1.0",
        "long      -",
    ]


def test_a_metric_that_one_lacks_is_still_compared_among_the_others(two):
    for row in two.evaluations[1].rows:
        row.scores.pop("ssim-y")
    means, counts = common_means(two.evaluations)
    assert counts == {"psnr-y": 2, "ssim-y": 3, "sharpness": 2} and "ssim-y" not in means[1]
    assert means[1]["psnr-y"] == np.inf  # a is the HR image itself


def test_the_table_has_protocols_data_machine_and_failures(two):
    two.evaluations[0].unavailable["dists"] = "needs a package. Hint: install it"
    for evaluation in two.evaluations:
        evaluation.failures.append(Failure("d", "unreadable"))
    lines = report.terminal([two]).splitlines()
    head = ["method", "n", "psnr-y", "↑", "ssim-y", "↑", "sharpness", "→1", "s/image"]
    assert lines[0].split() == head
    assert lines[1].split()[:2] == ["bicubic", "3"] and lines[2].split()[-1] == "-"
    text = "\n".join(lines)
    for part in (
        "psnr-y: PSNR in dB, peak 255",
        "hr, bicubic: psnr-y: mean over 2 of 3 images, those all methods have",
        "unavailable: dists: needs a package. Hint: install it",
        "unavailable: ldm: no such folder",
        "failed: <theirs>: c: ",
    ):
        assert part in text
    assert text.count("failed: d: unreadable") == 1
    assert sum(line.startswith("data: hr, bicubic: images 3") for line in lines) == 1


# --- files ----------------------------------------------------------------------------------------


def test_json_has_what_it_takes_to_repeat_it(two, tmp_path):
    report.write_json([two], tmp_path / "x.json")
    record = json.loads((tmp_path / "x.json").read_text())
    assert record["format"] == report.FORMAT
    bicubic, theirs = record["sets"][0]["evaluations"]
    assert bicubic["description"]["resampling"] == "bicubic"
    assert bicubic["metrics"][0]["protocol"].startswith("PSNR in dB")
    assert bicubic["environment"]["packages"]["torch"]
    row = bicubic["rows"][0]
    assert all(len(row[h]) == 64 for h in ("input_hash", "reference_hash", "result_hash"))
    assert theirs["rows"][0]["scores"]["psnr-y"] == "inf"
    assert theirs["failures"][0]["name"] == "c"


def test_csv_has_a_line_an_image_below_its_notes(two, tmp_path):
    report.write_csv([two], tmp_path / "x.csv")
    lines = (tmp_path / "x.csv").read_text().splitlines()
    notes = [line for line in lines if line.startswith("# ")]
    rows = list(csv.DictReader(lines[len(notes) :]))
    assert [(r["method"], r["image"]) for r in rows] == [
        *[("bicubic", name) for name in "abc"],
        *[("<theirs>", name) for name in "ab"],
    ]
    assert float(rows[0]["psnr-y"]) == two.evaluations[0].rows[0].scores["psnr-y"]


def test_the_page_shows_the_worst_first_and_runs_nothing(two, tmp_path):
    report.write_html([two], tmp_path / "x.html", title="A & B")
    page = (tmp_path / "x.html").read_text()
    names, by = report.ordered(two)
    scores = {r.name: r.scores["psnr-y"] for r in two.evaluations[0].rows}
    assert by == "the worst of bicubic first, by psnr-y"
    assert names == sorted(scores, key=scores.__getitem__)
    assert [page.index(f"<h3>{name}</h3>") for name in names] == sorted(
        page.index(f"<h3>{name}</h3>") for name in names
    )
    assert "<h1>A &amp; B</h1>" in page and "&lt;theirs&gt;" in page and "<theirs>" not in page
    assert "<script" not in page and "http://" not in page and "default-src 'none'" in page
    for label in ("LR", "bicubic", "HR"):
        assert page.count(f'alt="{label}"') == 2 * 3  # two crops of three images
    with pytest.raises(PatchScalerError, match="'vmaf' is not among the metrics"):
        report.write_html([two], tmp_path / "y.html", title="", worst_by="vmaf")


def test_the_page_needs_jinja2(two, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(PatchScalerError, match=r"pip install 'patchscaler\[evaluate\]'"):
        report.write_html([two], tmp_path / "x.html", title="")


def test_crops_are_where_methods_differ_and_by_the_name():
    flat = np.full((60, 90, 3), 100, np.uint8)
    other = flat.copy()
    other[40:50, 70:80] = 200
    differing, random = choose_crops("a", [flat, other], None, side=10)
    assert (differing.top, differing.left) == (40, 70)
    assert choose_crops("a", [flat, other], flat, side=10)[1] == random
    assert choose_crops("b", [flat, other], None, side=10)[1] != random
    error = choose_crops("a", [other], flat, side=10)[0]
    assert (error.label, error.top, error.left) == ("of most error", 40, 70)
    detail = choose_crops("a", [other], None, side=16)[0]
    assert detail.label == "of most detail" and 28 <= detail.top <= 42


# --- the command ----------------------------------------------------------------------------------


def run(*options) -> int:
    return main([str(option) for option in options])


def test_the_command_scores_a_method(hr, tmp_path, capsys):
    common = ("--hr", hr, "--degradation", "bicubic", "--metrics", "psnr-y", "-o", tmp_path / "out")
    assert run("evaluate", "--method", "bicubic", *common, "--json", tmp_path / "x.json") == 0
    assert capsys.readouterr().out.startswith("method ")
    assert json.loads((tmp_path / "x.json").read_text())["sets"][0]["degradation"] == "bicubic"
    assert (tmp_path / "out" / "bicubic" / "a.png").is_file()


def test_finished_images_by_command(hr, tmp_path, capsys, save):
    theirs = save(tmp_path / "theirs", a=made(64, 1), b=made(64, 5), c=made(192, 3))
    assert run("evaluate", "--results", theirs, "--hr", hr, "--metrics", "psnr-y", "-q") == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["results", "3"]
    alone = ("--results", theirs, "--metrics", "niqe", "-o", tmp_path / "alone")
    assert run("evaluate", *alone) == 1  # two are too small for NIQE
    assert "niqe ↓" in capsys.readouterr().out


def test_what_was_named_and_is_unavailable_fails(hr, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    common = ("--hr", hr, "--degradation", "bicubic", "-o", tmp_path / "out")
    options = ("--methods", "bicubic,folder:X=none", "--metrics", "psnr-y,clipiqa")
    assert run("compare", *common, *options) == 1
    assert "unavailable: X, clipiqa" in capsys.readouterr().err


def test_metrics_and_methods_can_be_listed(capsys):
    assert run("evaluate", "--list-metrics") == 0
    out = capsys.readouterr().out
    assert "* psnr-y" in out and "  ssim-rgb" in out and "patch-kid" in out
    assert run("compare", "--list-methods", "--model", "nowhere") == 0
    out = capsys.readouterr().out
    assert "spandrel:FILE" in out and "unavailable: " in out


def test_a_file_that_cannot_be_written_is_said_first(hr, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    common = ("--hr", hr, "--degradation", "bicubic", "--method", "bicubic", "-o", tmp_path / "out")
    assert run("evaluate", *common, "--json", tmp_path / "file" / "x.json") == 1
    assert "x.json" in capsys.readouterr().err and not (tmp_path / "out").exists()
