"""From folders of images to scores: what is paired, what is degraded, what is resumed, what
fails.
"""

import json

import numpy as np
import pytest
import torch
from golden.pictures import made
from PIL import Image

from patchscaler.errors import PatchScalerError
from patchscaler.evaluation import run as running
from patchscaler.evaluation.environment import environment
from patchscaler.evaluation.methods import PatchScalerMethod, ResultFolder
from patchscaler.evaluation.metric import Metric, SetMetric
from patchscaler.evaluation.metrics import get_metric, resolve_metrics
from patchscaler.evaluation.pairs import Pair, degraded, find_partner, load_pairs
from patchscaler.evaluation.run import common_means
from patchscaler.training.data.degradation import degrade

QUICK = ("psnr-y", "ssim-y", "sharpness")


def evaluate(method, pairs, metrics, out, crop_border=0, **options):
    found, missing = resolve_metrics(metrics, crop_border)
    return running.evaluate(method, pairs, found, out, unavailable=missing, **options)


class Repeat:
    """Each pixel sixteen times; counts what it is asked for, fails where the upper left pixel says
    so.
    """

    name = "repeat"
    option = 1

    def __init__(self):
        self.calls = 0
        self.cost = {}

    def upscale(self, lr):
        self.calls += 1
        self.cost = {"nfe": 3, "gmac": 2.0}
        return lr.repeat(4, 0).repeat(4, 1)

    def describe(self):
        return {"option": self.option, "weights": "none"}


# --- pairs ----------------------------------------------------------------------------------------


def test_degraded_images_depend_on_name_degradation_and_seed_alone(hr, tmp_path, save):
    pairs, failures = load_pairs(hr=hr, degradation="real")
    assert [p.name for p in pairs] == ["a", "b", "c"] and not failures
    alone, _ = load_pairs(hr=save(tmp_path / "other", c=made(96, 3)), degradation="real")
    assert np.array_equal(alone[0].lr, pairs[2].lr)
    assert np.array_equal(pairs[2].lr, pairs[2].lr)
    limited, _ = load_pairs(hr=hr, degradation="real", limit=2)
    assert [p.name for p in limited] == ["a", "b"] and np.array_equal(limited[1].lr, pairs[1].lr)
    # 67 pixels are cut to 64
    assert pairs[1].hr.shape == (64, 64, 3) and pairs[1].lr.shape == (16, 16, 3)
    assert np.array_equal(pairs[1].hr, made(67, 2)[:64, :64])
    for other in (
        load_pairs(hr=hr, degradation="real", seed=1),
        load_pairs(hr=hr, degradation="mild"),
    ):
        assert not np.array_equal(other[0][0].lr, pairs[0].lr)
    renamed, _ = load_pairs(hr=save(tmp_path / "renamed", z=made(64, 1)), degradation="real")
    assert not np.array_equal(renamed[0].lr, pairs[0].lr)


def test_degraded_is_the_degradation_of_training(hr):
    x = torch.from_numpy(made(64, 1)).movedim(-1, 0)[None].float() / 255
    wanted = degrade(x, "bicubic", torch.Generator())[0].movedim(0, -1) * 255
    assert np.array_equal(degraded(made(64, 1), "bicubic", "a", 0), wanted.round().byte().numpy())


def test_pairs_are_matched_by_name(tmp_path, save):
    hr = save(tmp_path / "hr", **{"0001": made(64), "Canon_002_HR": made(32), "fox4": made(48)})
    lr = save(tmp_path / "lr", **{"0001x4": made(16), "Canon_002_LR4": made(8), "fox4": made(12)})
    pairs, failures = load_pairs(lr=lr, hr=hr)
    assert [(p.name, p.lr_file.stem) for p in pairs] == [
        ("0001", "0001x4"),
        ("Canon_002_HR", "Canon_002_LR4"),
        ("fox4", "fox4"),
    ]
    assert not failures
    assert pairs[0].lr.shape == (16, 16, 3) and pairs[0].hr.shape == (64, 64, 3)
    assert load_pairs(lr=lr)[0][0].hr is None
    files = {
        "a": hr / "a.png",
        "a_x4": hr / "a_x4.png",
        "b-x4": hr / "b-x4.png",
        "b_sr": hr / "b_sr.png",
    }
    # two could be meant
    assert find_partner("a", files) == files["a"] and find_partner("b", files) is None


def test_what_cannot_be_used_is_named_and_the_rest_goes_on(tmp_path, save):
    hr = save(
        tmp_path / "hr",
        good=made(64),
        small=made(60),
        whole=made(64),
        broken=made(64),
        cut=made(66),
    )
    lr = save(
        tmp_path / "lr", good=made(16), small=made(16), part=made(16), broken=made(16), cut=made(16)
    )
    save(lr, good_x4=made(16))
    (lr / "broken.png").write_bytes((lr / "broken.png").read_bytes()[:300])
    (lr / "notes.txt").write_text("not a picture")
    (lr / ".hidden.png").write_bytes(b"")
    pairs, failures = load_pairs(lr=lr, hr=hr)
    assert [p.name for p in pairs] == ["cut", "good"]
    found = sorted(str(f) for f in failures)
    assert found[0].startswith("broken: ") and "damaged or cut off" in found[0]
    assert found[1:] == [
        "good_x4.png: another LR image belongs to good.png; rename one",
        f"part.png: no HR image of this name in {hr}",
        "small: sizes do not fit: 16x16 upscaled 4 times is 64x64, the HR image is 60x60",
        f"whole.png: no LR image of this name in {lr}",
    ]


def test_two_formats_of_one_name_and_tiny_hr_images_are_failures(hr, save):
    Image.fromarray(made(64)).save(hr / "a.bmp")
    save(hr, tiny=made(30))
    pairs, failures = load_pairs(hr=hr, degradation="mild")
    assert [p.name for p in pairs] == ["a", "b", "c"]
    assert sorted(map(str, failures)) == [
        "a.png: another image of this name is there (a.bmp); rename one",
        "tiny: 28x28 is too small to be degraded; 32 or more a side",
    ]


def test_nothing_to_measure_is_an_error(tmp_path, hr):
    (tmp_path / "empty").mkdir()
    for options, message in (
        ({}, "give a folder of LR images"),
        ({"lr": tmp_path / "empty"}, "empty: holds no images"),
        ({"lr": tmp_path / "none"}, "none: no such folder"),
        (
            {"hr": hr, "degradation": "foul"},
            "unknown degradation 'foul': choose from bicubic, mild",
        ),
        ({"lr": hr, "hr": hr, "degradation": "mild"}, "leave --lr out"),
    ):
        with pytest.raises(PatchScalerError, match=message):
            load_pairs(**options)


def test_images_of_every_kind_become_8_bit_color(tmp_path, save):
    grey = made(32)[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(np.dstack([made(32), grey])).save(tmp_path / "alpha.png")
    pairs, failures = load_pairs(lr=tmp_path)
    by_name = {p.name: p.lr for p in pairs}
    assert not failures and all(
        x.shape == (32, 32, 3) and x.dtype == np.uint8 for x in by_name.values()
    )
    assert np.array_equal(by_name["grey"], np.dstack([grey] * 3)) and np.array_equal(
        by_name["deep"], by_name["grey"]
    )
    assert np.array_equal(by_name["alpha"], made(32))


# --- a run ----------------------------------------------------------------------------------------


def test_scores_are_those_of_the_saved_results(hr, tmp_path):
    pairs, _ = load_pairs(hr=hr, degradation="bicubic")
    evaluation = evaluate(Repeat(), pairs, QUICK, tmp_path / "out")
    assert not evaluation.failures and [r.name for r in evaluation.rows] == ["a", "b", "c"]
    for row, pair in zip(evaluation.rows, pairs, strict=True):
        stored = np.asarray(Image.open(tmp_path / "out" / "repeat" / f"{row.name}.png"))
        assert np.array_equal(stored, pair.lr.repeat(4, 0).repeat(4, 1))
        assert row.scores == {name: get_metric(name)(stored, pair.hr) for name in QUICK}
        assert (
            row.size == stored.shape[1::-1]
            and row.seconds >= 0
            and row.cost == {"nfe": 3, "gmac": 2.0}
        )
    means, counts = common_means([evaluation])
    mean = np.mean([r.scores["psnr-y"] for r in evaluation.rows])
    assert means[0]["psnr-y"] == pytest.approx(mean) and counts == dict.fromkeys(QUICK, 3)
    assert evaluation.mean_cost("nfe") == 3
    assert evaluation.data["images"] == 3
    assert evaluation.data["degradation"] == ["bicubic"] and evaluation.data["seed"] == [0]


def test_a_run_goes_on_where_it_stopped(hr, tmp_path):
    pairs, _ = load_pairs(hr=hr, degradation="bicubic")
    method, out = Repeat(), tmp_path / "out"
    first = evaluate(method, pairs[:2], ["psnr-y"], out)
    assert method.calls == 2
    records = out / "repeat" / "records.jsonl"
    with records.open("a") as file:
        file.write('{"key": "cut o')  # as a crash leaves it
    again = evaluate(method, pairs, ["psnr-y", "ssim-y"], out)
    assert method.calls == 3
    assert [r.scores["psnr-y"] for r in again.rows[:2]] == [r.scores["psnr-y"] for r in first.rows]
    assert [r.seconds for r in again.rows[:2]] == [r.seconds for r in first.rows]
    assert all("ssim-y" in r.scores for r in again.rows)
    before = records.read_text()
    evaluate(method, pairs, ["psnr-y", "ssim-y"], out)
    assert method.calls == 3 and records.read_text() == before
    assert (
        sum(line.startswith("{") and line.endswith("}") for line in before.splitlines())
        == 3 + 3 + 3
    )


def test_what_changed_is_made_anew(hr, tmp_path, monkeypatch, save):
    pairs, _ = load_pairs(hr=hr, degradation="bicubic")
    method, out = Repeat(), tmp_path / "out"
    evaluate(method, pairs, QUICK, out)
    method.option = 2  # other options
    evaluate(method, pairs, QUICK, out)
    assert method.calls == 6
    save(hr, a=made(64, 9))  # another picture of the same name
    evaluate(method, pairs, QUICK, out)
    assert method.calls == 7
    Image.fromarray(made(64)).save(out / "repeat" / "b.png")  # a result somebody touched
    row = evaluate(method, pairs, QUICK, out).rows[1]
    assert method.calls == 8 and row.scores == evaluate(method, pairs, QUICK, out).rows[1].scores
    (out / "repeat" / "c.png").unlink()
    evaluate(method, pairs, QUICK, out)
    assert method.calls == 9
    called = []
    monkeypatch.setattr(Metric, "__call__", lambda self, *a: called.append(self.name) or 1.0)
    evaluate(method, pairs, QUICK, out)
    assert called == []
    evaluate(method, pairs, QUICK, out, crop_border=2)  # another protocol
    assert len(called) == 9
    monkeypatch.setattr(running, "code_hash", lambda *patterns: "changed")
    evaluate(method, pairs, QUICK, out)
    assert len(called) == 18 and method.calls == 9


def test_a_image_that_fails_does_not_stop_the_others(hr, tmp_path, save):
    pairs, _ = load_pairs(hr=hr, degradation="bicubic")

    class Poor(Repeat):
        def upscale(self, lr):
            made = super().upscale(lr)
            if self.calls == 1:
                raise RuntimeError("no such kernel")
            return made[:-4] if self.calls == 2 else made

    (tmp_path / "hr" / "c.png").rename(tmp_path / "hr" / "d.png")
    save(hr, c=made(96, 3))
    pairs, _ = load_pairs(hr=hr, degradation="bicubic")
    (hr / "c.png").unlink()  # after it was listed
    evaluation = evaluate(
        Poor(), pairs, QUICK, tmp_path / "out", failures=[running.Failure("z", "was unreadable")]
    )
    assert [r.name for r in evaluation.rows] == ["d"]
    found = [str(f) for f in evaluation.failures]
    assert found[:3] == [
        "z: was unreadable",
        "a: repeat failed (RuntimeError: no such kernel)",
        "b: sizes do not fit: the result is 64x60, 4 times the LR image 64x64",
    ]
    assert found[3].startswith("c: ") and found[3].endswith("no such file") and len(found) == 4


def test_a_score_that_fails_leaves_the_others(hr, tmp_path):
    pairs, _ = load_pairs(hr=hr, degradation="bicubic")
    evaluation = evaluate(Repeat(), pairs, ["psnr-y", "niqe"], tmp_path / "out")
    means, counts = common_means([evaluation])
    assert counts == {"psnr-y": 3, "niqe": 0} and "niqe" not in means[0]
    found = [str(f) for f in evaluation.failures]
    assert found[0] == "a: niqe: the image is 64x64; it takes 96 or more a side"
    # one block has no covariance
    assert found[2] == "c: niqe: has no value for this image (too flat?)"


def test_a_network_that_breaks_costs_one_score(hr, tmp_path):
    def score(picture, reference):
        raise torch.OutOfMemoryError("no memory left")

    pairs, _ = load_pairs(hr=hr, degradation="bicubic", limit=1)
    heavy = Metric("heavy", True, False, "of nothing", score=score)
    evaluation = evaluate(Repeat(), pairs, [heavy, "psnr-y"], tmp_path / "out")
    assert list(evaluation.rows[0].scores) == ["psnr-y"]
    assert [str(f) for f in evaluation.failures] == [
        "a: heavy failed (OutOfMemoryError: no memory left)"
    ]


def test_without_hr_images_only_no_reference_scores(tmp_path, save):
    save(tmp_path / "lr", a=made(60))
    pairs, _ = load_pairs(lr=tmp_path / "lr")
    evaluation = evaluate(Repeat(), pairs, ["psnr-y", "niqe"], tmp_path / "out")
    assert list(evaluation.rows[0].scores) == ["niqe"] and not evaluation.failures
    assert evaluation.unavailable == {"psnr-y": "needs HR images to compare with. Hint: give --hr"}


def test_finished_images_are_scored_where_they_lie(hr, tmp_path, save):
    results = save(tmp_path / "theirs", a_x4=made(64, 5), b=made(64, 6), extra=made(64))
    pairs, _ = load_pairs(hr=hr)
    evaluation = evaluate(ResultFolder(results), pairs, QUICK, tmp_path / "out")
    assert evaluation.method == "theirs"
    # b's original has 67 pixels, the result those of 64
    assert [r.name for r in evaluation.rows] == ["a", "b"]
    assert evaluation.rows[1].scores["psnr-y"] == get_metric("psnr-y")(
        made(64, 6), made(67, 2)[:64, :64]
    )
    assert [str(f) for f in evaluation.failures] == [
        f"c: {results}: no finished image of this name"
    ]
    assert evaluation.seconds is None and not list((tmp_path / "out").rglob("*.png"))
    alone = evaluate(ResultFolder(results), [Pair("extra")], ["niqe"], tmp_path / "out")
    assert [str(f) for f in alone.failures] == [
        "extra: niqe: the image is 64x64; it takes 96 or more a side"
    ]


def test_a_metric_of_the_whole_set(hr, tmp_path):
    """Distances between features of all HR images and all results."""
    metric = SetMetric(
        "spread",
        False,
        True,
        "of means",
        features=lambda image: image.reshape(-1, 3).mean(0, keepdims=True),
        distance=lambda real, fake: float(np.abs(real - fake).sum() + 100 * len(real)),
        least=65,
    )
    pairs, _ = load_pairs(hr=hr, degradation="bicubic")
    evaluation = running.evaluate(Repeat(), pairs, [metric], tmp_path / "out")
    assert set(evaluation.set_scores) == {"spread"}
    assert 100 < evaluation.set_scores["spread"] < 200  # one image is large enough
    assert [f.name for f in evaluation.failures] == ["a", "b"]
    means, counts = common_means([evaluation])
    assert means == [evaluation.set_scores] and counts == {"spread": 3}


def test_means_are_over_the_images_that_all_have(hr, tmp_path):
    class Poor(Repeat):
        name = "poor"

        def upscale(self, lr):
            if lr.shape[0] == 24:
                raise RuntimeError("too large")
            return super().upscale(lr)

    pairs, _ = load_pairs(hr=hr, degradation="bicubic")
    both = [evaluate(m, pairs, ["psnr-y"], tmp_path / "out") for m in (Repeat(), Poor())]
    means, counts = common_means(both)
    assert counts == {"psnr-y": 2} and means[0] == means[1]


def test_ours_is_a_method(tiny, hr, tmp_path):
    method = PatchScalerMethod(tiny, seed=3)
    pairs, _ = load_pairs(hr=hr, degradation="mild", limit=1)
    evaluation = evaluate(method, pairs, ["psnr-y"], tmp_path / "out")
    output = tiny.upscale(pairs[0].lr, seed=3)
    stored = np.asarray(Image.open(evaluation.rows[0].file))
    assert np.array_equal(stored, np.asarray(output.image.convert("RGB")))
    cost = evaluation.rows[0].cost
    assert (cost["nfe"], cost["gmac"]) == (output.nfe, output.gmac)
    assert sum(cost["groups"].values()) == len(output.groups)
    described = evaluation.description
    assert described["options"]["seed"] == 3
    assert described["weights"] == tiny.model.weights_hash()
    json.dumps(described)


def test_a_folder_that_cannot_be_written_to_is_named(hr, tmp_path):
    pairs, _ = load_pairs(hr=hr, degradation="bicubic", limit=1)
    (tmp_path / "out").write_text("a file")
    evaluation = evaluate(Repeat(), pairs, QUICK, tmp_path / "out")
    assert not evaluation.rows and "out/repeat/a.png: cannot be written" in str(
        evaluation.failures[0]
    )


def test_the_environment_says_what_a_number_was_measured_with():
    found = environment()
    assert (
        found["packages"]["torch"] == torch.__version__
        and found["threads"] == torch.get_num_threads()
    )
    assert found["commit"] is None or len(found["commit"].removesuffix("-dirty")) == 40
    assert found["processor"].endswith("cores")
