"""Evaluations on paper: the table, JSON, CSV, the page; and the command that makes them."""

import base64
import csv
import io
import json
import re
import sys

import numpy as np
import pytest
from common import save
from golden.pictures import blurred, made
from PIL import Image

from patchscaler.apps.cli import main
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation import report
from patchscaler.evaluation.html_report import CROP, interesting, write_html
from patchscaler.evaluation.methods import Resize, ResultFolder
from patchscaler.evaluation.pairs import Failure, Pair, load_pairs
from patchscaler.evaluation.run import evaluate
from patchscaler.evaluation.summary import common_means

QUICK = ("psnr-y", "ssim-y", "sharpness")
ENTRY = re.compile(r'<figure><img src="data:image/(png|jpeg);base64,([^"]+)" alt="([^"]*)">')


@pytest.fixture
def hr(tmp_path):
    return save(tmp_path / "hr", a=made(64, 1), b=blurred(blurred(made(64, 2))), c=made(192, 3))


@pytest.fixture
def two(hr, tmp_path):
    """Bicubic on three pictures, and finished ones that lack the third; with their pairs."""
    pairs, _ = load_pairs(hr=hr, degradation="bicubic")
    theirs = save(tmp_path / "<theirs>", a=made(64, 1), b=made(64, 5))
    out = tmp_path / "out"
    return [
        evaluate(m, pairs, QUICK, out) for m in (Resize("bicubic"), ResultFolder(theirs))
    ], pairs


# --- the table ------------------------------------------------------------------------------------


def test_means_are_over_the_pictures_that_all_have(two):
    evaluations, _ = two
    means, counts = common_means(evaluations)
    assert counts == dict.fromkeys(QUICK, 2)
    rows = evaluations[0].rows
    assert means[0]["psnr-y"] == pytest.approx(np.mean([r.scores["psnr-y"] for r in rows[:2]]))
    assert means[0]["psnr-y"] != evaluations[0].means["psnr-y"]
    assert means[1]["psnr-y"] == np.inf  # a is the original itself


def test_a_metric_that_one_lacks_is_still_compared_among_the_others(two):
    evaluations, _ = two
    evaluations[1].rows[0].scores.pop("ssim-y")
    evaluations[1].rows[1].scores.pop("ssim-y")
    means, counts = common_means(evaluations)
    assert counts["ssim-y"] == 3 and "ssim-y" not in means[1]
    assert means[0]["ssim-y"] == pytest.approx(evaluations[0].means["ssim-y"])


def test_the_table_has_protocols_data_machine_and_failures(two):
    evaluations, _ = two
    evaluations[0].unavailable["dists"] = "needs a package; hint: install it"
    for evaluation in evaluations:
        evaluation.failures.append(Failure("d", "unreadable"))
    text = report.terminal_table(evaluations)
    head, first, second, empty, *lines = text.splitlines()
    assert head.split() == [
        "method",
        "n",
        "psnr-y",
        "↑",
        "ssim-y",
        "↑",
        "sharpness",
        "→1",
        "s/picture",
    ]
    means, _ = common_means(evaluations)
    assert first.split()[:3] == ["bicubic", "3", f"{means[0]['psnr-y']:.2f}"]
    assert (
        second.split()[:3] == ["<theirs>", "2", "inf"] and second.split()[-1] == "-" and not empty
    )
    for metric in evaluations[0].metrics:
        assert f"{metric.name}: {metric.protocol}" in lines
    assert "psnr-y: mean over 2 of 3 pictures, those all methods have" in lines
    assert any(
        line.startswith("data: 3 pictures, small ones made by 'bicubic' with seed 0, hash ")
        for line in lines
    )
    assert any(line.startswith("with: patchscaler ") and "threads" in line for line in lines)
    assert "unavailable: dists: needs a package; hint: install it" in lines
    assert lines.count("failed: d: unreadable") == 1  # once, though both have it
    assert any(line.startswith("failed: <theirs>: c: no finished picture") for line in lines)
    assert any(line.startswith("bicubic: resampling bicubic") for line in lines)


# --- files ----------------------------------------------------------------------------------------


def test_json_has_what_it_takes_to_repeat_it(two, tmp_path):
    evaluations, _ = two
    report.write_json(evaluations, tmp_path / "new" / "r.json")
    text = (tmp_path / "new" / "r.json").read_text("utf-8")

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    record = json.loads(text, parse_constant=refuse)
    assert record["format"] == report.FORMAT
    first, second = record["evaluations"]
    assert second["rows"][0]["scores"]["psnr-y"] == "inf" and second["means"]["psnr-y"] == "inf"
    assert record["common"]["counts"]["psnr-y"] == 2
    row = first["rows"][2]
    assert (
        row["name"] == "c"
        and row["scores"] == evaluations[0].rows[2].scores
        and row["size"] == [192, 192]
    )
    assert all(
        re.fullmatch("[0-9a-f]{64}", row[k]) for k in ("input_hash", "original_hash", "result_hash")
    )
    assert first["data"] == evaluations[0].data and first["description"]["resampling"] == "bicubic"
    assert {"patchscaler", "commit", "packages", "threads", "processor", "command"} <= set(
        first["environment"]
    )
    metric = first["metrics"][0]
    assert (
        metric["name"] == "psnr-y" and metric["higher_is_better"] and "BT.601" in metric["protocol"]
    )
    assert second["failures"][0]["name"] == "c"


def test_csv_has_a_line_a_picture_below_its_notes(two, tmp_path):
    evaluations, _ = two
    report.write_csv(evaluations, tmp_path / "r.csv")
    text = (tmp_path / "r.csv").read_text("utf-8")
    notes = [line for line in text.splitlines() if line.startswith("#")]
    assert any("environment" in n and "commit" in n for n in notes) and any(
        "BT.601" in n for n in notes
    )
    rows = list(
        csv.DictReader(
            io.StringIO("\n".join(li for li in text.splitlines() if not li.startswith("#")))
        )
    )
    assert [(r["method"], r["picture"]) for r in rows] == [
        ("bicubic", "a"),
        ("bicubic", "b"),
        ("bicubic", "c"),
        ("<theirs>", "a"),
        ("<theirs>", "b"),
    ]
    assert float(rows[2]["ssim-y"]) == evaluations[0].rows[2].scores["ssim-y"]
    assert rows[3]["seconds"] == "" and float(rows[3]["psnr-y"]) == np.inf


def figures(page, section):
    """(label, picture) of a section of the page, as they are in it."""
    part = next(p for p in page.split("<section>") if p.startswith(f"<h3>{section}</h3>")).split(
        "</section>"
    )[0]
    found = ENTRY.findall(part)
    return [
        (label, np.asarray(Image.open(io.BytesIO(base64.b64decode(d))).convert("RGB")))
        for _, d, label in found
    ]


def test_the_page_shows_the_worst_first_with_the_same_crop_of_everything(two, tmp_path):
    evaluations, pairs = two
    write_html(evaluations, pairs, tmp_path / "r.html", title="A & B")
    page = (tmp_path / "r.html").read_text("utf-8")
    assert (
        "<title>A &amp; B</title>" in page and "&lt;theirs&gt;" in page and "<theirs>" not in page
    )
    assert re.findall("<h3>(.*?)</h3>", page) == [
        r.name for r in evaluations[0].worst_first("psnr-y")
    ]
    shown = figures(page, "c")
    assert [label for label, _ in shown] == ["of most error", "input", "bicubic", "original"]
    top, left, side = interesting(np.asarray(Image.open(evaluations[0].rows[2].file)), pairs[2].hr)
    assert side == CROP
    window = (slice(top, top + side), slice(left, left + side))
    assert np.array_equal(shown[3][1], pairs[2].hr[window])
    assert np.array_equal(shown[2][1], np.asarray(Image.open(evaluations[0].rows[2].file))[window])
    assert np.array_equal(shown[1][1], pairs[2].lr.repeat(4, 0).repeat(4, 1)[window])
    assert [label for label, _ in figures(page, "a")] == [
        "of most error",
        "input",
        "bicubic",
        "&lt;theirs&gt;",
        "original",
    ]
    # the better of two is bold
    assert f"<b>{evaluations[0].rows[1].scores['ssim-y']:.4f}</b>" in page


def test_the_page_fetches_nothing_and_runs_nothing(two, tmp_path):
    evaluations, pairs = two
    write_html(evaluations, pairs, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "default-src 'none'" in page and "prefers-color-scheme: dark" in page
    assert not re.search(r'<script|<link|@import|\b(src|href)="(?!data:)|url\(', page)


def test_the_page_without_originals_or_small_pictures(tmp_path):
    results = save(tmp_path / "res", a=made(200, 1), b=blurred(made(200, 2)))
    names = [Pair("a"), Pair("b")]
    evaluation = evaluate(ResultFolder(results), names, ["niqe"], tmp_path / "out")
    write_html([evaluation], names, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text("utf-8")
    assert [label for label, _ in figures(page, "a")] == ["of most detail", "res"]
    assert re.findall("<h3>(.*?)</h3>", page)[0] == evaluation.worst_first("niqe")[0].name
    (results / "a.png").unlink()  # gone before the page is made: its scores stay
    write_html([evaluation], names, tmp_path / "r.html")
    assert "<h3>a</h3>" in (tmp_path / "r.html").read_text("utf-8")


def test_the_page_can_be_sorted_by_any_metric_there_is(two, tmp_path):
    evaluations, pairs = two
    write_html(evaluations, pairs, tmp_path / "r.html", worst_by="sharpness", shown=1)
    page = (tmp_path / "r.html").read_text("utf-8")
    assert re.findall("<h3>(.*?)</h3>", page) == [evaluations[0].worst_first("sharpness")[0].name]
    assert "The first 1 of 3 with crops." in page
    with pytest.raises(
        PatchScalerError, match="'lpips-alex' is not among the metrics: psnr-y, ssim-y, sharpness"
    ):
        write_html(evaluations, pairs, tmp_path / "r.html", worst_by="lpips-alex")


def test_the_crop_is_where_the_error_is():
    truth = np.zeros((300, 400, 3), np.uint8)
    picture = truth.copy()
    picture[150:170, 330:350] = 200
    top, left, side = interesting(picture, truth, 64)
    assert top <= 150 and top + side >= 170 and left <= 330 and left + side >= 350 and side == 64
    noisy = truth.copy()
    noisy[:40, :40] = made(64)[:40, :40]
    assert interesting(noisy, None, 64)[:2] == (0, 0)
    assert interesting(made(20), None, 64) == (0, 0, 20)


# --- the command ----------------------------------------------------------------------------------


def test_the_command_scores_a_method(hr, tmp_path, capsys):
    out = tmp_path / "out"
    files = [str(tmp_path / f"r.{kind}") for kind in ("json", "csv", "html")]
    command = [
        "evaluate",
        "--hr",
        str(hr),
        "--degradation",
        "mild",
        "--method",
        "bicubic",
        "--metrics",
    ]
    options = [
        "-o",
        str(out),
        "--seed",
        "4",
        "--json",
        files[0],
        "--csv",
        files[1],
        "--html",
        files[2],
    ]
    assert main([*command, "psnr-y,ssim-rgb", *options, "--crop-border", "4"]) == 0
    text = capsys.readouterr().out
    assert (
        text.startswith("method") and "border of 4 pixels cut off" in text and "with seed 4" in text
    )
    record = json.loads((tmp_path / "r.json").read_text("utf-8"))["evaluations"][0]
    assert record["method"] == "bicubic" and record["data"]["seed"] == [4]
    assert [m["name"] for m in record["metrics"]] == ["psnr-y", "ssim-rgb"]
    assert [m["crop_border"] for m in record["metrics"]] == [4, 4]
    assert "bicubic on hr, mild" in (tmp_path / "r.html").read_text("utf-8")
    assert (tmp_path / "r.csv").read_text("utf-8").count("\nbicubic,") == 3
    assert len(list(out.rglob("*.png"))) == 3


def test_ours_by_command(tiny, hr, tmp_path, capsys):
    tiny.save_pretrained(tmp_path / "model", half=False)
    command = [
        "evaluate",
        "--hr",
        str(hr),
        "--degradation",
        "bicubic",
        "--limit",
        "1",
        "--metrics",
        "psnr-y",
    ]
    command += ["-o", str(tmp_path / "out"), "--device", "cpu", "--dtype", "float32"]
    assert main([*command, "--model", str(tmp_path / "model")]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["ours", "1"]
    wanted = tiny.upscale(load_pairs(hr=hr, degradation="bicubic")[0][0].lr).image
    assert np.array_equal(
        np.asarray(Image.open(tmp_path / "out" / "ours" / "a.png")), np.asarray(wanted)
    )


def test_finished_pictures_by_command(hr, tmp_path, capsys):
    theirs = save(tmp_path / "theirs", a=made(64, 1), b=made(64, 2), d=made(64))
    command = [
        "evaluate",
        "--results",
        str(theirs),
        "--hr",
        str(hr),
        "--metrics",
        "psnr-y",
        "-o",
        str(tmp_path / "o"),
    ]
    assert main(command) == 1
    captured = capsys.readouterr()
    assert f"failed: d.png: a finished picture without a partner in {hr}" in captured.out
    assert "failed: c: no finished picture of this name" in captured.out
    assert captured.err == "patchscaler: 2 failed, listed above\n"
    assert main([*command, "--limit", "2"]) == 0


def test_the_exit_code_says_whether_something_was_missing(tmp_path, capsys):
    lr = save(tmp_path / "lr", a=made(64))
    command = [
        "evaluate",
        "--lr",
        str(lr),
        "--method",
        "lanczos",
        "-o",
        str(tmp_path / "o"),
        "--metrics",
    ]
    assert main([*command, "psnr-y,niqe"]) == 1  # asked for by name
    captured = capsys.readouterr()
    assert "unavailable: psnr-y: needs originals" in captured.out
    assert captured.err == "patchscaler: asked for but unavailable: psnr-y\n"
    assert main([*command, "default"]) == 0  # listed, but nobody asked for it
    assert "unavailable: psnr-y: needs originals" in capsys.readouterr().out
    (lr / "b.png").write_bytes(b"\x89PNG no")
    assert main([*command, "niqe"]) == 1
    assert "failed: b: " in capsys.readouterr().out


def test_metrics_can_be_listed_and_added(hr, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)  # not importable, whatever is installed
    assert main(["evaluate", "--list-metrics"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("* psnr-y         ↑  needs originals; PSNR in dB")
    assert any(
        re.match(r"  maniqa-pipal   unavailable: .*; hint: pip install 'patchscaler\[pyiqa\]'", li)
        for li in lines
    )
    command = [
        "evaluate",
        "--hr",
        str(hr),
        "--degradation",
        "bicubic",
        "--method",
        "bicubic",
        "--limit",
        "1",
    ]
    main([*command, "--metrics", "all", "-o", str(tmp_path / "o")])
    text = capsys.readouterr().out
    assert all(
        f"unavailable: {name}: " in text
        for name in ("musiq-koniq", "maniqa-koniq", "clipiqa", "clipiqa+")
    )


def test_niqe_is_fitted_and_used_by_command(tmp_path, capsys):
    good = save(tmp_path / "good", **{str(i): made(480, i) for i in range(6)})
    file = tmp_path / "mine.npz"
    assert main(["evaluate", "--fit-niqe", str(good), "-o", str(file)]) == 0
    assert re.search(
        r"mine\.npz: NIQE parameters of \d+ sharp blocks from 6 pictures", capsys.readouterr().out
    )
    lr = save(tmp_path / "lr", a=made(64))
    command = [
        "evaluate",
        "--lr",
        str(lr),
        "--method",
        "bicubic",
        "--metrics",
        "niqe",
        "-o",
        str(tmp_path / "o"),
    ]
    assert main([*command, "--niqe-parameters", str(file)]) == 0
    assert "niqe-mine ↓" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give pictures: --lr DIR"),
        (["--hr", "HR"], "--hr alone has nothing to enlarge: add --degradation"),
        (["--hr", "HR", "--degradation", "foul"], "unknown degradation 'foul'"),
        (
            ["--hr", "HR", "--degradation", "mild", "--metrics", "psnr"],
            "unknown metric 'psnr': choose from psnr-y",
        ),
        (["--hr", "HR", "--degradation", "mild", "--metrics", ","], "--metrics is empty"),
        (["--hr", "HR", "--degradation", "mild", "--method", "magic"], "unknown method 'magic'"),
        (
            ["--hr", "HR", "--degradation", "mild", "--limit", "-1"],
            "--limit and --crop-border take 0 or more",
        ),
        (
            ["--hr", "HR", "--degradation", "mild", "--worst-by", "niqe"],
            "--worst-by sorts the page",
        ),
        (["--results", "HR", "--method", "bicubic"], "leave --method out"),
        (["--lr", "EMPTY"], "holds no pictures"),
        (["--lr", "NONE"], "no such folder of pictures"),
        (["--hr", "HR", "--degradation", "mild", "--json", "HR"], "cannot write there"),
        (
            ["--hr", "HR", "--degradation", "mild", "--niqe-parameters", "NONE"],
            "no NIQE parameters",
        ),
        (["--fit-niqe", "HR", "-o", "x.txt"], "name it with -o, something.npz"),
        (["--fit-niqe", "HR", "-o", "x.npz"], "too few to fit NIQE"),
    ],
)
def test_wrong_usage_is_one_clear_line(options, message, hr, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    places = {"HR": str(hr), "EMPTY": "empty", "NONE": "none"}
    full = (
        options
        if "--method" in options or "--results" in options
        else [*options, "--method", "bicubic"]
    )
    assert main(["evaluate", *(places.get(o, o) for o in full)]) == 1
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "hr"]


def test_when_nothing_can_be_measured_each_reason_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr").mkdir()
    (tmp_path / "lr" / "a.png").write_bytes(b"")
    assert main(["evaluate", "--lr", "lr"]) == 1
    error = capsys.readouterr().err.splitlines()
    assert "the file is empty" in error[0] and error[1] == "patchscaler: no picture can be measured"
