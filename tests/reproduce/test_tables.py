"""Tables 1, 2, 4, 5 and 6 on tiny random networks and small images."""

import dataclasses
import json
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from PIL import Image

from patchscaler.apps.cli import main
from patchscaler.config import preset
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.metrics import METRICS as OUR_METRICS
from patchscaler.evaluation.metrics import get_metric
from patchscaler.evaluation.specs import Settings
from patchscaler.model import Model
from patchscaler.models.text_projection import TextProjection
from patchscaler.reproduce import ablations, quality, report
from patchscaler.reproduce.measuring import DEFAULT_METRICS, Measuring
from patchscaler.reproduce.paper import METRICS, TABLE_1
from patchscaler.reproduce.report import Row
from patchscaler.reproduce.sources import open_source
from patchscaler.reproduce.text_method import TextPrompted, text_entry
from patchscaler.texture_memory import TextureMemory


def measuring(out: Path, *metrics: str) -> Measuring:
    return Measuring(out, metrics or ("niqe", "psnr-y", "musiq-koniq"))


def test_every_metric_of_the_paper_is_one_of_ours():
    assert set(METRICS.values()) < set(OUR_METRICS) and set(DEFAULT_METRICS) < set(OUR_METRICS)
    assert set(TABLE_1["PASD"]) == set(METRICS) and TABLE_1["PatchScaler"]["MUSIQ"] == 72.17


def test_table_1_measures_on_degraded_hr_images(picture, tmp_path, monkeypatch):
    folder = tmp_path / "large"
    folder.mkdir()
    picture(128, 128).save(folder / "a.png")
    source = open_source(str(folder), originals=True)
    specs = "bicubic,lanczos,name=BSRGAN,spandrel:nowhere.pth"
    table = quality.table1(specs, Settings(), [source], measuring(tmp_path, "psnr-y", "ssim-y"))
    rows = {row.label: row for row in table.rows}
    assert list(rows)[:2] == ["bicubic", "spandrel:nowhere"] and set(TABLE_1) <= set(rows)
    pair = source.pairs[0]
    bicubic = np.asarray(Image.fromarray(pair.lr).resize((128, 128), Image.Resampling.BICUBIC))
    assert rows["bicubic"].here["PSNR"] == pytest.approx(get_metric("psnr-y")(bicubic, pair.hr))
    # found by its name
    assert rows["BSRGAN"].here["SSIM"] > 0 and rows["BSRGAN"].paper == TABLE_1["BSRGAN"]
    assert (
        rows["spandrel:nowhere"].note.startswith("not here: ") and not rows["spandrel:nowhere"].here
    )
    assert (
        rows["PASD"].note == "not here: not among --methods" and rows["PASD"].paper["PSNR"] == 21.02
    )
    assert any(line.startswith("Other images than LSDIR's") for line in table.differs)


def test_table_2_takes_realsr_for_realsr_and_others_for_realset110(small_pictures, tmp_path):
    realsr = open_source(str(small_pictures))
    realsr.name, realsr.described = "realsr", {"collection": "realsr"}
    others = open_source(str(small_pictures))
    table = quality.table2("bicubic", Settings(), [realsr, others], measuring(tmp_path, "niqe"))
    rows = {row.label: row for row in table.rows}
    assert (
        rows["realsr, LDM"].paper["MUSIQ"] == 47.72 and rows["small, LDM"].paper["MUSIQ"] == 55.01
    )
    assert rows["small, bicubic"].here == rows["realsr, bicubic"].here | {"seconds": ANY}
    assert any("beside the paper's RealSet110" in line for line in table.differs)


def test_order_is_spearmans():
    rows = [
        Row(str(i), {"MUSIQ": p}, {"MUSIQ": h})
        for i, (p, h) in enumerate([(1, 5), (2, 7), (3, 6), (4, 9)])
    ]
    assert report.order_lines(rows, ["MUSIQ"]) == [
        "order of 4 rows by MUSIQ: rank correlation 0.80"
    ]
    assert report.order_lines(rows[:2], ["MUSIQ"]) == []


def test_order_by_niqe_where_the_papers_metrics_are_not_here():
    """So that Table 4 shares a column with the paper on any machine."""
    rows = [
        Row(str(i), {"MUSIQ": p}, {"niqe": h}) for i, (p, h) in enumerate([(1, 9), (2, 8), (3, 7)])
    ]
    assert report.order_lines(rows, ["MUSIQ"]) == [
        "order of 3 rows by MUSIQ, ours by niqe in its place: rank correlation 1.00"
    ]
    rows = [Row("", {"x": 1.0}, {"x": v}) for v in (1.0, 2.0, 3.0)]
    assert "nan" in report.order_lines(rows, ["x"])[0]
    assert report.rank_correlation([1, 1, 2], [1, 1, 5]) == pytest.approx(1)  # ties share a rank


def test_table_4_runs_the_papers_settings_and_the_models_own(tiny, small_pictures, tmp_path):
    source = open_source(str(small_pictures), limit=1)
    table = ablations.table4(tiny, source, measuring(tmp_path, "niqe", "musiq-koniq"))
    rows = {row.label: row for row in table.rows}
    assert len(rows) == len(table.rows) >= 9 + 3
    literal = rows["T 400/700/1000 N 8/14/20"]
    groups = dataclasses.replace(
        tiny.model.config.groups, start_times=(400, 700, 1000), num_inference_steps=(8, 14, 20)
    )
    nfe = tiny.upscale(Image.open(small_pictures / "a.png"), groups=groups).nfe
    assert literal.here["NFE"] == nfe and literal.paper["MUSIQ"] == 68.27
    assert literal.here["niqe"] > 0 and "MUSIQ" not in literal.here  # its weights are not here
    assert any(line.startswith("unavailable: musiq-koniq") for line in table.protocol)
    assert any("by MUSIQ, ours by niqe in its place" in line for line in table.differs)
    shipped = next(row for row in table.rows if row.note == "as shipped")
    assert shipped.here["NFE"] == tiny.upscale(Image.open(small_pictures / "a.png")).nfe
    assert not shipped.paper


def test_a_models_own_rows_of_table_4():
    compact = dataclasses.replace(
        preset("paper").groups, start_times=(0, 400, 400), num_inference_steps=(0, 1, 1)
    )
    assert ablations.own_settings(compact) == [
        ((400, 400, 400), (1, 1, 1)),
        ((0, 400, 400), (0, 1, 1)),
        ((0, 0, 0), (0, 0, 0)),
    ]
    assert ablations.is_paper_scale(preset("paper").groups) and not ablations.is_paper_scale(
        compact
    )


def test_table_5_has_a_random_prompt_and_none(tiny, small_pictures, tmp_path):
    source = open_source(str(small_pictures), limit=1)
    text = text_entry(None, "b", "c")
    table = ablations.table5(tiny, source, measuring(tmp_path, "niqe"), text)
    rows = {row.label: row for row in table.rows}
    assert (
        rows["text prompt"].paper["MUSIQ"] == 66.79
        and "train diffusion --prompt text" in rows["text prompt"].note
    )
    assert rows["texture prompt"].paper["MUSIQ"] == 68.27 and not rows["no prompt"].paper
    values = {rows[name].here["niqe"] for name in ("texture prompt", "random prompt", "no prompt")}
    assert len(values) == 3
    assert "random prompt, T 400/700/1000 N 8/14/20" in rows


class Fixed:
    """A captioner and a text encoder in one: tokens that depend on the caption's length."""

    name, width = "fixed", 6

    def __init__(self, caption):
        self.caption = caption

    def captions(self, images):
        return [self.caption] * len(images)

    def tokens(self, captions):
        generator = torch.Generator().manual_seed(len(captions[0]))
        return torch.randn(1, 5, self.width, generator=generator)


@pytest.fixture
def text_model(tiny):
    """`tiny` with a text projection in the place of texture encoder and memory."""
    config = dataclasses.replace(tiny.model.config, text_width=Fixed.width)
    projection = TextProjection(Fixed.width, config.patch_dit.hidden_size)
    torch.nn.init.normal_(next(projection.parameters()), std=1.0)
    networks = {n: m for n, m in tiny.model.networks.items() if n != "texture_encoder"}
    return Model(config, networks | {"text_projection": projection})


def test_a_caption_reaches_every_patch(text_model, picture):
    lr = np.asarray(picture(64, 64))
    method = TextPrompted(text_model, Fixed("a cat"), Fixed(""))
    image = method.upscale(lr)
    assert method.cost["caption"] == "a cat" and np.array_equal(image, method.upscale(lr))
    assert (image != TextPrompted(text_model, Fixed("a long caption"), Fixed("")).upscale(lr)).any()
    assert method.describe()["captioner"] == "fixed"


def test_a_model_of_textures_takes_no_text(tiny):
    with pytest.raises(PatchScalerError, match="trained with textures, the text encoder gives 6"):
        TextPrompted(tiny.model, Fixed(""), Fixed(""))
    reason = text_entry("nowhere", "b", "c").reason
    assert "no such folder" in reason


def test_a_random_memory_draws_by_the_patch_and_not_by_the_batch(tiny):
    memory = ablations.with_random_memory(tiny).model.memory
    queries = torch.nn.functional.normalize(
        torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), dim=1
    )
    scores, entries = memory.search(queries, 3)
    assert torch.equal(memory.search(queries[2:4], 3)[1], entries[2:4])
    assert torch.allclose(scores, (queries @ tiny.model.memory.keys.T).gather(1, entries))
    assert (scores.diff(dim=1) <= 0).all() and all(len(set(row)) == 3 for row in entries.tolist())
    assert not torch.equal(entries, tiny.model.memory.search(queries, 3)[1])
    assert type(tiny.model.memory) is TextureMemory  # the model keeps its own


def test_table_6_says_how_the_thresholds_part_the_patches(tiny, small_pictures, tmp_path):
    source = open_source(str(small_pictures))
    table = ablations.table6(tiny, source, measuring(tmp_path, "niqe"))
    rows = {row.label: row for row in table.rows}
    first = rows["gamma 0.95 0.75"]
    assert first.paper["seconds"] == 3.41 and first.here["simple"] + first.here[
        "medium"
    ] + first.here["hard"] == (pytest.approx(1))
    eq2 = dataclasses.replace(tiny.model.config.groups, least_confidence=0.0)
    groups = np.concatenate(
        [tiny.upscale(Image.open(f), groups=eq2).groups for f in sorted(small_pictures.iterdir())]
    )
    assert rows["own default"].here["hard"] == pytest.approx(float((groups == 2).mean()))
    assert rows["own, shares of gamma 1.00 0.85"].here["simple"] == 0
    assert ablations.shares_of((0.95, 0.75)) == pytest.approx((1 / 12, 5 / 12))
    assert ablations.shares_of((1.0, 0.85)) == pytest.approx((0, 0.25))


def test_eq_2_alone_decides_the_groups_of_table_6(tiny, small_pictures, tmp_path, monkeypatch):
    """Our cap on patches with an unsure place is off; the model keeps it."""
    groups = dataclasses.replace(tiny.model.config.groups, least_confidence=0.99)
    config = dataclasses.replace(tiny.model.config, groups=groups)
    monkeypatch.setattr(tiny.model, "config", config)
    source = open_source(str(small_pictures), limit=1)
    table = ablations.table6(tiny, source, measuring(tmp_path, "niqe"))
    assert all(record["groups"]["least_confidence"] == 0 for record in table.details.values())
    assert any(line.startswith("Eq. 2 alone") for line in table.differs)
    assert tiny.model.config.groups.least_confidence == 0.99


def test_tables_by_command(model_folder, small_pictures, tmp_path, capsys):
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
    common = (*common, "--data", small_pictures, "--limit", 1, "--metrics", "niqe")
    assert main(["reproduce", *map(str, ("table2", "--methods", "bicubic,ours", *common))]) == 0
    out = capsys.readouterr().out
    assert "small, PatchScaler" in out and "0.5040" in out and "niqe: " in out
    assert main(["reproduce", *map(str, ("table5", *common))]) == 0
    record = json.loads((tmp_path / "out" / "table5.json").read_text())
    assert record["details"]["no prompt"]["options"]["prompt"] is False
    assert record["data"][0]["used"] == 1 and record["data"][0]["hash of pixels"]
