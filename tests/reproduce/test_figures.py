"""The paper's experiments on tiny random networks: the values they print, what they draw, what they
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
from patchscaler.evaluation.cost.paper_size import PaperRow
from patchscaler.pipeline import PatchScaler
from patchscaler.reproduce import figures, speed, steps_figure
from patchscaler.reproduce.chain import fuse, refine, restore, texture_prompts
from patchscaler.reproduce.pictures import choose_lsdir_test, lsdir_test, open_source
from patchscaler.reproduce.report import Report, Row, table_lines
from patchscaler.reproduce.sheet import Cell, sheet
from patchscaler.reproduce.two_workers import Job, Timed, run_two_workers, share_of
from patchscaler.training.data import collections
from patchscaler.training.data.collections import COLLECTIONS, open_collection

# --- the chain ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("size", [(64, 64), (33, 47), (8, 20)])
def test_the_chain_and_the_pipeline_give_one_picture(tiny, picture, prompt, size):
    image = picture(*size)
    restored = restore(tiny, image, seed=3)
    patches = refine(
        tiny, restored, prompt_of=texture_prompts(tiny) if prompt else None, max_patches=4
    )
    own = np.asarray(fuse(tiny, restored, patches), int)
    theirs = np.asarray(tiny.upscale(image, seed=3, prompt=prompt).image, int)
    assert own.shape == theirs.shape and np.abs(own - theirs).max() <= 1


def test_a_subset_of_patches_is_refined_as_in_the_whole(tiny, picture):
    restored = restore(tiny, picture(64, 64))
    whole = refine(tiny, restored, prompt_of=texture_prompts(tiny))
    index = torch.tensor([8, 0, 3])
    assert torch.allclose(
        refine(tiny, restored, index, texture_prompts(tiny)), whole[index], atol=1e-5
    )
    simple = restored.groups == 0
    assert simple.any() and torch.equal(whole[simple], restored.coarse[simple])
    # none of them takes a step
    alone = refine(tiny, restored, simple.nonzero()[:, 0], texture_prompts(tiny))
    assert torch.equal(alone, restored.coarse[simple])


# --- data -----------------------------------------------------------------------------------------


def test_a_folder_is_small_pictures_or_originals(small_pictures):
    small = open_source(str(small_pictures))
    assert [p.name for p in small.pairs] == ["a", "b"] and not small.has_originals
    large = open_source(str(small_pictures), originals=True, limit=1, seed=5)
    pair = large.pairs[0]
    assert (pair.name, pair.degradation, pair.seed) == ("a", "mild", 5) and pair.lr.shape == (
        16,
        16,
        3,
    )
    assert large.described["used"] == 1 and large.described["degradation"] == "mild"


def test_what_is_no_source_is_one_line(small_pictures, tmp_path):
    with pytest.raises(
        PatchScalerError, match=r"unknown data set 'set5': choose from lsdir, .*, or give a folder"
    ):
        open_source(f"set5={small_pictures}")
    with pytest.raises(PatchScalerError, match="no such folder"):
        open_source(str(tmp_path / "nowhere"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"no")
    with pytest.raises(PatchScalerError, match="no picture can be used"):
        open_source(str(tmp_path / "bad"))


@pytest.fixture
def lsdir(tmp_path, monkeypatch, picture):
    """LSDIR in miniature: two validation pictures, four training ones, the last validation one too
    small.
    """
    release = COLLECTIONS["lsdir"]
    counts = {"val": 2, "test": 1, "train": 4}
    parts = {p: dataclasses.replace(s, count=counts[p]) for p, s in release.parts.items()}
    monkeypatch.setitem(collections.COLLECTIONS, "lsdir", dataclasses.replace(release, parts=parts))
    for name, side in [("val1/HR/val/0000001", 520), ("val1/HR/val/0000002", 300)]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(side, 530).save(tmp_path / f"{name}.png")
    for i in range(1, 5):
        (tmp_path / "train/0001000").mkdir(parents=True, exist_ok=True)
        picture(512, 512, i).save(tmp_path / f"train/0001000/{i:07d}.png")
    return tmp_path


def test_lsdir_test_is_validation_and_training_pictures_chosen_by_name(lsdir):
    collection = open_collection("lsdir", lsdir)
    names = [name for name, _ in choose_lsdir_test(collection, 4)]
    assert names[2:] == ["val_0000001", "val_0000002"] and all(
        n.startswith("train_") for n in names[:2]
    )
    assert names == [name for name, _ in choose_lsdir_test(collection, 4)]
    assert len(choose_lsdir_test(collection, 2)) == 2 and len(choose_lsdir_test(collection)) == 6
    more = {name for name, _ in choose_lsdir_test(collection, 5)}
    assert set(names) < more  # a larger choice holds the smaller


def test_lsdir_test_crops_the_centre_and_degrades_by_name(lsdir, tmp_path):
    collection = open_collection("lsdir", lsdir)
    pairs, failed = lsdir_test(collection, tmp_path / "crops")
    assert [str(f) for f in failed] == [
        "val_0000002: 0000002.png is 530x300: smaller than the crop of 512"
    ]
    pair = next(p for p in pairs if p.name == "val_0000001")
    whole = np.asarray(Image.open(lsdir / "val1/HR/val/0000001.png"))
    assert np.array_equal(pair.hr, whole[4:516, 9:521])
    assert pair.lr.shape == (128, 128, 3)
    alone = next(
        p
        for p in open_source(f"lsdir={lsdir}", out=tmp_path, limit=5).pairs
        if p.name == "val_0000001"
    )
    assert np.array_equal(alone.lr, pair.lr)  # whatever else is in the set


# --- reports --------------------------------------------------------------------------------------


def test_the_paper_stands_beside_ours():
    rows = [
        Row("text prompt", {"MUSIQ": 66.79}),
        Row("texture prompt", {"MUSIQ": 68.27}, {"MUSIQ": 50.5, "niqe": 4.0}),
    ]
    lines = table_lines({"MUSIQ": 2, "niqe": 1, "psnr-y": 2}, rows)
    assert lines[0].split() == ["MUSIQ", "niqe"]
    assert lines[1].split() == ["paper", "here", "here"]
    assert lines[2].split() == ["text", "prompt", "66.79", "-", "-"]
    assert lines[3].split() == ["texture", "prompt", "68.27", "50.50", "4.0"]


def test_a_report_is_saved_with_what_repeats_it(tmp_path):
    report = Report(
        "table5", "Table 5", {"x": 1}, [Row("a", {"x": 1.0}, {"x": float("inf")})], ["nothing"]
    )
    record = json.loads(report.save(tmp_path).read_text())
    assert record["rows"][0]["here"] == {"x": "inf"} and record["differs"] == ["nothing"]
    assert record["environment"]["packages"]["torch"] == torch.__version__
    (tmp_path / "file").write_text("")
    with pytest.raises(PatchScalerError, match="cannot be written"):
        report.save(tmp_path / "file")


def test_a_sheet_holds_its_pictures_at_their_place():
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
    assert sum(r.here["entries"] for r in report.rows) == len(tiny.memory)
    assert {r.label for r in report.rows} == {"a", "b"}
    nameless = dataclasses.replace(
        tiny.config, texture=dataclasses.replace(tiny.config.texture, classes=())
    )
    with pytest.raises(PatchScalerError, match="names no classes"):
        figures.figure8(PatchScaler(nameless, tiny.networks, tiny.memory), tmp_path)


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
            PatchScaler(tiny.config, tiny.networks, None),
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
    with pytest.raises(PatchScalerError, match="5 steps from time 4: take 1 to 4"):
        steps_figure.figure1a(tiny, source, tmp_path, start=4, steps=5)


def test_the_last_step_of_a_trajectory_is_the_pipelines_patch(tiny, picture):
    restored = restore(tiny, picture(64, 64))
    hard = (restored.groups == 2).nonzero()[:2, 0]
    start, steps = tiny.config.groups.start_times[2], tiny.config.groups.num_inference_steps[2]
    way = steps_figure.after_each_step(tiny, restored, hard, start, steps, [1, steps])
    wanted = refine(tiny, restored, hard, texture_prompts(tiny))
    pixels = (
        tiny.autoencoder.decode(wanted).clamp(-1, 1).add(1).mul(127.5).round().byte().movedim(1, -1)
    )
    assert np.abs(np.asarray(way.pictures[0][1], int) - pixels[0].numpy().astype(int)).max() <= 1


def test_easiest_middle_hardest():
    scores = torch.tensor([0.2, 0.9, 0.5, 0.7])
    assert steps_figure.easiest_middle_hardest(scores).tolist() == [1, 2, 0]
    assert steps_figure.easiest_middle_hardest(scores[:1]).tolist() == [0]


# --- two workers ----------------------------------------------------------------------------------


def test_two_workers_give_the_picture_of_one(model_folder, tiny, picture):
    pictures = [np.asarray(picture(64, 64)), np.asarray(picture(33, 47))]
    timed = run_two_workers(Job(pictures, model=str(model_folder), dtype="float32", seed=3))
    for small, result in zip(pictures, timed, strict=True):
        one = tiny.upscale(small, seed=3)
        assert result.difference == 0 and result.rounding <= 1
        assert np.abs(np.asarray(one.image, int) - result.picture).max() <= 1
        sampled = np.isin(one.groups, [1, 2])  # simple patches take no steps
        assert sum(result.patches.values()) == sampled.sum()
        assert result.patches["worker 0"] == (one.groups == 2).sum()
        assert min(result.alone, result.together, result.alone_all_threads) > 0


def test_what_fails_in_a_worker_is_one_line(picture, tmp_path):
    with pytest.raises(
        PatchScalerError, match=r"a worker failed: model '.*nowhere': no such folder"
    ):
        run_two_workers(Job([np.asarray(picture(32, 32))], model=str(tmp_path / "nowhere")))
    with pytest.raises(PatchScalerError, match="device 'cuda:7' is unknown"):
        run_two_workers(Job([np.asarray(picture(32, 32))], devices=("cpu", "cuda:7")))


def test_workers_part_the_sampled_patches(tiny, picture):
    restored = restore(tiny, picture(64, 64))
    hard, rest = share_of(0, restored), share_of(1, restored)
    assert set(restored.groups[hard].tolist()) == {2} and set(restored.groups[rest].tolist()) == {1}
    assert len(hard) + len(rest) == int((restored.groups > 0).sum())


def test_table_3_puts_the_papers_seconds_beside_ours(monkeypatch):
    row = PaperRow(256, "PatchScaler", 2.0, "measured", 4 * 10**12, 1.29, share_of_peak=0.5)
    monkeypatch.setattr(
        speed, "paper_rows", lambda *args: ([row], {"LDM": "needs diffusers"}, 4e12)
    )
    report = speed.table3([256], "cpu", "float32", 1)
    first = report.rows[0]
    assert first.paper == {"seconds": 1.29} and first.here == {
        "seconds": 2.0,
        "TFLOP": 4.0,
        "share of peak": 0.5,
    }
    others = {r.label: r for r in report.rows[1:]}
    assert (
        others["256 -> 1024, ResShift"].paper == {"seconds": 1.44}
        and not others["256 -> 1024, ResShift"].here
    )
    assert "LDM: needs diffusers" in report.differs
    with pytest.raises(PatchScalerError, match="even numbers of 32 or more"):
        speed.table3([33], "cpu", "float32", 1)


def test_table_3_on_two_devices_says_both_times(monkeypatch):
    timed = [
        Timed(
            np.zeros((1024, 1024, 3), np.uint8), 0, 0, 2.0, 1.5, 1.0, {"worker 0": 5, "worker 1": 4}
        )
    ]
    monkeypatch.setattr(speed, "run_two_workers", lambda job: timed)
    report = speed.table3_two(Job([np.zeros((256, 256, 3), np.uint8)], shares=(0.1, 0.4)))
    one, everything, two = report.rows
    assert one.here == {"seconds": 2.0, "of one worker": 1.0} and two.here == {
        "seconds": 1.0,
        "of one worker": 0.5,
    }
    assert one.paper == {"seconds": 1.29, "of one worker": 1.0}
    assert two.paper["of one worker"] == pytest.approx(0.88 / 1.29)
    assert (
        everything.here["seconds"] == 1.5 and "worker 0 5 patches, worker 1 4 patches" in two.note
    )


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
    assert set(record["model"]["sha256"]) >= {
        "config.json",
        "patch_dit.safetensors",
        "memory.safetensors",
    }
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
            "unknown metric 'vmaf': choose from psnr-y",
        ),
        (("table2", "--data", small_pictures, "--methods", "magic"), "unknown method 'magic'"),
        (("table3", "--sizes", "256,x"), "--sizes 256,x: give numbers separated by commas"),
        (("table3", "--runs", 0), "--runs takes 1 or more"),
        (("table3-two", "--devices", "cpu"), "--devices cpu: give two"),
        (("figure5", "--data", "a", "--data", "b"), "figure5 takes one --data at a time"),
        (("figure7", "--data", small_pictures, "--limit", -1), "--limit -1: take 0 (all) or more"),
        (("figure9", "--data", small_pictures, "--patches", "one"), "--patches one: give numbers"),
        (("figure8", "--per-class", 0), "--per-class takes 1 or more"),
        (("figure7", "--data", "realsr=nowhere"), "no such folder; RealSR version 3"),
    ]:
        assert command(*args) == 1
        assert message in capsys.readouterr().err
