"""The paper's figures on tiny random networks: the values they print, what they draw, what they
refuse.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from patchscaler.apps.cli import main
from patchscaler.errors import PatchScalerError
from patchscaler.model import Model
from patchscaler.pipeline import PatchScaler
from patchscaler.reproduce import figures, steps_figure
from patchscaler.reproduce.chain import patch_images, restore
from patchscaler.reproduce.report import Report, Row, table_lines
from patchscaler.reproduce.sheet import Cell, sheet
from patchscaler.reproduce.sources import open_source

# --- reports --------------------------------------------------------------------------------------


def test_the_paper_stands_beside_ours():
    rows = [
        Row("text prompt", {"MUSIQ": 66.79}),
        Row("texture prompt", {"MUSIQ": 68.27}, {"MUSIQ": 50.5, "niqe": 4.0}, "a note"),
    ]
    lines = table_lines({"MUSIQ": 2, "niqe": 1, "psnr-y": 2}, rows)
    assert lines[0].split() == ["MUSIQ,", "paper", "MUSIQ", "niqe"]
    assert lines[1].split() == ["text", "prompt", "66.79", "-", "-"]
    assert lines[2].split() == ["texture", "prompt", "68.27", "50.50", "4.0", "a", "note"]


def test_a_report_is_saved_with_what_repeats_it(tmp_path):
    rows = [Row("a", {"x": 1.0}, {"x": float("inf")})]
    report = Report("table5", "Table 5", {"x": 1}, rows, ["nothing"])
    record = json.loads(report.save(tmp_path).read_text())
    assert record["rows"][0]["here"] == {"x": "inf"} and record["differs"] == ["nothing"]
    assert record["environment"]["packages"]["torch"] == torch.__version__
    (tmp_path / "file").write_text("")
    with pytest.raises(PatchScalerError, match="cannot be written"):
        report.save(tmp_path / "file")


def test_a_sheet_holds_its_images_at_their_place():
    red, blue = (Image.new("RGB", (40, 20), c) for c in ((255, 0, 0), (0, 0, 255)))
    drawn = sheet([[Cell(red, "a"), Cell(blue, "b", frame=(0, 255, 0))]], largest=20)
    assert drawn.getpixel((6 + 5, 6 + 5)) == (255, 0, 0)
    assert drawn.getpixel((6 + 20 + 6 + 10, 6 + 5)) == (0, 0, 255)
    assert drawn.getpixel((6 + 20 + 6, 6)) == (0, 255, 0)


# --- figures --------------------------------------------------------------------------------------


def test_figure_5_counts_every_patch_once(tiny, small_pictures, tmp_path):
    report = figures.figure5(tiny, open_source(str(small_pictures)), tmp_path)
    scores = np.concatenate(
        [tiny.upscale(Image.open(f)).scores for f in sorted(small_pictures.iterdir())]
    )
    assert report.details["patches"] == len(scores)
    assert sum(report.details["shares"]) == pytest.approx(1)
    row = next(r for r in report.rows if r.label.startswith(".70"))
    assert row.paper == {"share of patches": 0.5}
    assert row.here["share of patches"] == pytest.approx(float((scores >= 0.7).mean()))
    own = [r.here["share of patches"] for r in report.rows if "own thresholds" in r.label]
    assert sum(own) == pytest.approx(1) and min(own) > 0
    assert Image.open(tmp_path / "figure5.png").width == 700


def test_figure_7_shows_the_groups_of_the_pipeline(tiny, small_pictures, tmp_path):
    (small_pictures / "c.png").write_bytes(b"damaged")
    report = figures.figure7(tiny, open_source(str(small_pictures)), tmp_path)
    result = tiny.upscale(Image.open(small_pictures / "a.png"))
    shares = {
        name: float((result.groups == g).mean())
        for g, name in enumerate(("simple", "medium", "hard"))
    }
    assert report.rows[0].here == pytest.approx(shares)
    assert [r.label for r in report.rows] == ["a", "b"] and report.failures[0].startswith("c: ")
    assert Path(report.figures[0]).is_file()


def test_figure_8_names_every_entry_of_the_memory(tiny, tmp_path):
    report = figures.figure8(tiny, tmp_path, per_class=2)
    assert sum(r.here["entries"] for r in report.rows) == len(tiny.model.memory)
    assert {r.label for r in report.rows} == {"a", "b"}
    nameless = dataclasses.replace(
        tiny.model.config, texture=dataclasses.replace(tiny.model.config.texture, classes=())
    )
    with pytest.raises(PatchScalerError, match="names no classes"):
        figures.figure8(
            PatchScaler(Model(nameless, tiny.model.networks, tiny.model.memory)), tmp_path
        )


def test_figure_9_shows_what_the_pipeline_retrieves(tiny, small_pictures, tmp_path):
    report = figures.figure9(tiny, open_source(str(small_pictures), limit=1), tmp_path, [0, 5])
    result = tiny.upscale(Image.open(small_pictures / "a.png"))
    assert report.rows[0].here["score 1"] >= report.rows[0].here["score 2"]
    for row, place in zip(report.rows, (0, 5), strict=True):
        if result.groups[place]:  # simple patches retrieve nothing in the pipeline
            assert row.note == f"entries {result.textures[place].tolist()}"
    with pytest.raises(PatchScalerError, match="has no patch 99, only 0 to 8"):
        figures.figure9(tiny, open_source(str(small_pictures), limit=1), tmp_path, [99])
    with pytest.raises(PatchScalerError, match="has no texture memory"):
        figures.figure9(
            PatchScaler(Model(tiny.model.config, tiny.model.networks)),
            open_source(str(small_pictures)),
            tmp_path,
        )


def test_figure_1a_ends_where_sampling_ends(tiny, small_pictures, tmp_path):
    source = open_source(str(small_pictures), limit=1)
    report = steps_figure.figure1a(tiny, source, tmp_path, start=1000, steps=4)
    first, own = report.rows[0].here, report.rows[1].here
    assert set(first) == {"1", "2", "3", "4"} and first["4"] == 0 and first["1"] > 0
    assert set(own) == {"1", "2", "4", "8"} and own["8"] == 0
    assert len(report.rows) == 6 and Path(report.figures[0]).is_file()
    with pytest.raises(PatchScalerError, match="5 steps from timestep 4: take 1 to 4"):
        steps_figure.figure1a(tiny, source, tmp_path, start=4, steps=5)


def test_the_last_step_of_a_trajectory_is_the_pipelines_patch(tiny, picture):
    model = tiny.model
    restored = restore(model, np.asarray(picture(64, 64)))
    hard = (restored.groups == 2).nonzero()[:2, 0]
    groups = model.config.groups
    start, steps = groups.start_times[2], groups.num_inference_steps[2]
    way = steps_figure.after_steps(model, restored, hard, start, steps, [1, steps])
    y_0, noise = restored.coarse[hard], restored.noise[hard]
    x_0, _ = model.denoise_patches(y_0, noise, restored.groups[hard], groups)
    expected = patch_images(model, x_0)
    difference = np.asarray(way.images[1][0], int) - np.asarray(expected[0], int)
    assert np.abs(difference).max() <= 1


def test_figure_5_is_of_eq_2_alone(tiny, small_pictures, tmp_path, monkeypatch):
    source = open_source(str(small_pictures), limit=1)
    plain = figures.figure5(tiny, source, tmp_path)
    groups = dataclasses.replace(tiny.model.config.groups, least_confidence=0.99)
    config = dataclasses.replace(tiny.model.config, groups=groups)
    monkeypatch.setattr(tiny.model, "config", config)
    capped = figures.figure5(tiny, source, tmp_path)
    assert capped.details["shares"] == plain.details["shares"]
    assert any(line.startswith("Eq. 2 alone") for line in capped.differs)


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (8, 20)])
def test_what_is_restored_is_what_the_pipeline_restores(tiny, picture, size):
    image = np.asarray(picture(*size))
    restored, output = restore(tiny.model, image), tiny.upscale(image)
    assert np.allclose(restored.scores, output.scores, atol=1e-6)
    assert (restored.groups.numpy() == output.groups).all()


def test_easiest_middle_hardest():
    scores = torch.tensor([0.2, 0.9, 0.5, 0.7])
    assert steps_figure.easiest_middle_hardest(scores).tolist() == [1, 2, 0]
    assert steps_figure.easiest_middle_hardest(scores[:1]).tolist() == [0]


# --- the commands ---------------------------------------------------------------------------------


def command(*args: object) -> int:
    return main(["reproduce", *(str(a) for a in args)])


def test_commands_draw_print_and_save(model_folder, small_pictures, tmp_path, capsys):
    common = (
        "--model",
        model_folder,
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "-o",
        tmp_path / "out",
    )
    assert command("figure9", "--data", small_pictures, "--patches", "0", *common) == 0
    out = capsys.readouterr().out
    assert "What differs from the paper:" in out and "figure9.json" in out
    record = json.loads((tmp_path / "out" / "figure9.json").read_text())
    assert len(record["model"]["weights"]) == 64 and record["model"]["name"] == "tiny"
    assert command("figure8", *common) == 0
    assert command("figure7", "--data", small_pictures, "--limit", 1, *common) == 0
    assert command("figure1a", "--data", small_pictures, "--limit", 1, "--steps", 2, *common) == 0
    (small_pictures / "a.png").write_bytes(b"damaged")
    assert command("figure7", "--data", small_pictures, *common) == 1  # b went on, a is named
    assert "failed: a: " in capsys.readouterr().out


def test_bad_options_are_one_line(small_pictures, capsys):
    for args, message in [
        (
            ("table4", "--data", small_pictures, "--metrics", "vmaf"),
            "unknown metric 'vmaf': choose from",
        ),
        (("table2", "--data", small_pictures, "--methods", "magic"), "unknown method 'magic'"),
        (("table3", "--sizes", "256,x"), "--sizes 256,x: give whole numbers"),
        (("table3", "--sizes", "33"), "even numbers of 32 or more"),
        (("table3-two", "--devices", "cpu"), "--devices cpu: give two"),
        (("figure5", "--data", "a", "--data", "b"), "figure5 takes one --data at a time"),
        (("figure7", "--data", small_pictures, "--limit", -1), "--limit -1: take 0 (all) or more"),
        (
            ("figure9", "--data", small_pictures, "--patches", "one"),
            "--patches one: give whole numbers",
        ),
        (("figure8", "--per-class", 0), "--per-class takes 1 or more"),
        (("figure7", "--data", "realsr=nowhere"), "no such folder; RealSR version 3"),
    ]:
        assert command(*args) == 1
        assert message in capsys.readouterr().err
