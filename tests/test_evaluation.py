"""From folders of pictures to scores: what is paired, what is degraded, what is resumed, what
fails.
"""

import json

import numpy as np
import pytest
import torch
from common import save
from golden.pictures import made
from PIL import Image

from patchscaler.dials.record import weights_id, weights_of
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation import run as running
from patchscaler.evaluation.environment import environment
from patchscaler.evaluation.methods import PatchScalerMethod, ResultFolder
from patchscaler.evaluation.metrics import Metric, get_metric
from patchscaler.evaluation.pairs import Pair, degraded, find_partner, load_pairs
from patchscaler.evaluation.run import evaluate
from patchscaler.models.checksums import renew_sums
from patchscaler.pipeline import PatchScaler
from patchscaler.texture_memory import TextureMemory
from patchscaler.training.data.degradation import degrade

QUICK = ("psnr-y", "ssim-y", "sharpness")


@pytest.fixture
def hr(tmp_path):
    return save(tmp_path / "hr", a=made(64, 1), b=made(67, 2), c=made(96, 3))


class Repeat:
    """Each pixel sixteen times; counts what it is asked for, fails where the upper left pixel says
    so.
    """

    name = "repeat"
    option = 1

    def __init__(self):
        self.asked = 0
        self.cost = {}

    def upscale(self, lr):
        self.asked += 1
        self.cost = {"pixels": lr.size}
        return lr.repeat(4, 0).repeat(4, 1)

    def describe(self):
        return {"option": self.option, "weights": "none"}


# --- pairs ----------------------------------------------------------------------------------------


def test_degraded_pictures_depend_on_name_degradation_and_seed_alone(hr, tmp_path):
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


def test_pairs_are_matched_by_name(tmp_path):
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


def test_what_cannot_be_used_is_named_and_the_rest_goes_on(tmp_path):
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
    told = sorted(str(f) for f in failures)
    assert told[0].startswith("broken: ") and "damaged or cut off" in told[0]
    assert told[1:] == [
        "good_x4.png: another small picture belongs to good.png; rename one",
        f"part.png: no original of this name in {hr}",
        "small: sizes do not fit: 16x16 enlarged 4 times is 64x64, the original is 60x60",
        f"whole.png: no small picture of this name in {lr}",
    ]


def test_two_formats_of_one_name_and_tiny_originals_are_failures(hr):
    Image.fromarray(made(64)).save(hr / "a.bmp")
    save(hr, tiny=made(30))
    pairs, failures = load_pairs(hr=hr, degradation="mild")
    assert [p.name for p in pairs] == ["a", "b", "c"]
    assert sorted(map(str, failures)) == [
        "a.png: another picture of this name is there (a.bmp); rename one",
        "tiny: 28x28 is too small to be degraded; 32 or more a side",
    ]


def test_nothing_to_measure_is_an_error(tmp_path, hr):
    (tmp_path / "empty").mkdir()
    for options, message in (
        ({}, "give a folder of small pictures"),
        ({"lr": tmp_path / "empty"}, "empty: holds no pictures"),
        ({"lr": tmp_path / "none"}, "none: no such folder"),
        (
            {"hr": hr, "degradation": "foul"},
            "unknown degradation 'foul': choose from bicubic, mild",
        ),
        ({"lr": hr, "hr": hr, "degradation": "mild"}, "leave --lr out"),
    ):
        with pytest.raises(PatchScalerError, match=message):
            load_pairs(**options)


def test_pictures_of_every_kind_become_8_bit_colour(tmp_path):
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
            and row.cost == {"pixels": pair.lr.size}
        )
    assert evaluation.means["psnr-y"] == pytest.approx(
        np.mean([r.scores["psnr-y"] for r in evaluation.rows])
    )
    assert evaluation.counts == dict.fromkeys(QUICK, 3)
    assert evaluation.data["pictures"] == 3
    assert evaluation.data["degradation"] == ["bicubic"] and evaluation.data["seed"] == [0]
    worst = [r.scores["psnr-y"] for r in evaluation.worst_first("psnr-y")]
    assert worst == sorted(worst)


def test_a_run_goes_on_where_it_stopped(hr, tmp_path):
    pairs, _ = load_pairs(hr=hr, degradation="bicubic")
    method, out = Repeat(), tmp_path / "out"
    first = evaluate(method, pairs[:2], ["psnr-y"], out)
    assert method.asked == 2
    records = out / "repeat" / "records.jsonl"
    with records.open("a") as file:
        file.write('{"key": "cut o')  # as a crash leaves it
    again = evaluate(method, pairs, ["psnr-y", "ssim-y"], out)
    assert method.asked == 3
    assert [r.scores["psnr-y"] for r in again.rows[:2]] == [r.scores["psnr-y"] for r in first.rows]
    assert [r.seconds for r in again.rows[:2]] == [r.seconds for r in first.rows]
    assert all("ssim-y" in r.scores for r in again.rows)
    before = records.read_text()
    evaluate(method, pairs, ["psnr-y", "ssim-y"], out)
    assert method.asked == 3 and records.read_text() == before
    assert (
        sum(line.startswith("{") and line.endswith("}") for line in before.splitlines())
        == 3 + 3 + 3
    )


def test_what_changed_is_made_anew(hr, tmp_path, monkeypatch):
    pairs, _ = load_pairs(hr=hr, degradation="bicubic")
    method, out = Repeat(), tmp_path / "out"
    evaluate(method, pairs, QUICK, out)
    method.option = 2  # other options
    evaluate(method, pairs, QUICK, out)
    assert method.asked == 6
    save(hr, a=made(64, 9))  # another picture of the same name
    evaluate(method, pairs, QUICK, out)
    assert method.asked == 7
    Image.fromarray(made(64)).save(out / "repeat" / "b.png")  # a result somebody touched
    row = evaluate(method, pairs, QUICK, out).rows[1]
    assert method.asked == 8 and row.scores == evaluate(method, pairs, QUICK, out).rows[1].scores
    (out / "repeat" / "c.png").unlink()
    evaluate(method, pairs, QUICK, out)
    assert method.asked == 9
    called = []
    monkeypatch.setattr(
        running.Metric, "__call__", lambda self, *a: called.append(self.name) or 1.0
    )
    evaluate(method, pairs, QUICK, out)
    assert called == []
    evaluate(method, pairs, QUICK, out, crop_border=2)  # another protocol
    assert len(called) == 9
    monkeypatch.setattr(running, "code_hash", lambda *patterns: "changed")
    evaluate(method, pairs, QUICK, out)
    assert len(called) == 18 and method.asked == 9


def test_a_picture_that_fails_does_not_stop_the_others(hr, tmp_path):
    pairs, _ = load_pairs(hr=hr, degradation="bicubic")

    class Poor(Repeat):
        def upscale(self, lr):
            made = super().upscale(lr)
            if self.asked == 1:
                raise RuntimeError("no such kernel")
            return made[:-4] if self.asked == 2 else made

    (tmp_path / "hr" / "c.png").rename(tmp_path / "hr" / "d.png")
    save(hr, c=made(96, 3))
    pairs, _ = load_pairs(hr=hr, degradation="bicubic")
    (hr / "c.png").unlink()  # after it was listed
    evaluation = evaluate(
        Poor(), pairs, QUICK, tmp_path / "out", failures=[running.Failure("z", "was unreadable")]
    )
    assert [r.name for r in evaluation.rows] == ["d"]
    told = [str(f) for f in evaluation.failures]
    assert told[:3] == [
        "z: was unreadable",
        "a: repeat failed (RuntimeError: no such kernel)",
        "b: the result is 64x60, not 64x64",
    ]
    assert told[3].startswith("c: ") and told[3].endswith("no such file") and len(told) == 4


def test_a_score_that_fails_leaves_the_others(hr, tmp_path):
    pairs, _ = load_pairs(hr=hr, degradation="bicubic")
    evaluation = evaluate(Repeat(), pairs, ["psnr-y", "niqe"], tmp_path / "out")
    assert evaluation.counts == {"psnr-y": 3, "niqe": 0} and "niqe" not in evaluation.means
    told = [str(f) for f in evaluation.failures]
    assert told[0] == "a: niqe: the picture is 64x64; it takes 96 or more a side"
    # one block has no covariance
    assert told[2] == "c: niqe: has no value for this picture (too flat?)"


def test_a_network_that_breaks_costs_one_score(hr, tmp_path):
    def score(picture, reference):
        raise torch.OutOfMemoryError("no memory left")

    pairs, _ = load_pairs(hr=hr, degradation="bicubic", limit=1)
    heavy = Metric("heavy", True, False, "of nothing", score)
    evaluation = evaluate(Repeat(), pairs, [heavy, "psnr-y"], tmp_path / "out")
    assert list(evaluation.rows[0].scores) == ["psnr-y"]
    assert [str(f) for f in evaluation.failures] == [
        "a: heavy failed (OutOfMemoryError: no memory left)"
    ]


def test_without_originals_only_no_reference_scores(tmp_path):
    save(tmp_path / "lr", a=made(60))
    pairs, _ = load_pairs(lr=tmp_path / "lr")
    evaluation = evaluate(Repeat(), pairs, ["psnr-y", "niqe"], tmp_path / "out")
    assert list(evaluation.rows[0].scores) == ["niqe"] and not evaluation.failures
    assert evaluation.unavailable == {"psnr-y": "needs originals to compare with; hint: give --hr"}


def test_finished_pictures_are_scored_where_they_lie(hr, tmp_path):
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
        f"c: no finished picture of this name in {results}"
    ]
    assert evaluation.seconds is None and not list((tmp_path / "out").rglob("*.png"))
    alone = evaluate(ResultFolder(results), [Pair("extra")], ["niqe"], tmp_path / "out")
    assert [str(f) for f in alone.failures] == [
        "extra: niqe: the picture is 64x64; it takes 96 or more a side"
    ]


def test_ours_is_a_method(tiny, hr, tmp_path):
    folder = tmp_path / "model"
    tiny.save_pretrained(folder)
    tiny = PatchScaler.from_pretrained(folder, device="cpu", dtype="float32")
    method = PatchScalerMethod(tiny, seed=3)
    pairs, _ = load_pairs(hr=hr, degradation="mild", limit=1)
    evaluation = evaluate(method, pairs, ["psnr-y"], tmp_path / "out")
    wanted = tiny.upscale(pairs[0].lr, seed=3)
    assert np.array_equal(
        np.asarray(Image.open(evaluation.rows[0].file)), np.asarray(wanted.image.convert("RGB"))
    )
    assert evaluation.rows[0].cost["evaluations"] == wanted.cost["evaluations"]
    described = evaluation.description
    assert (
        described["options"]["seed"] == 3
        and len(described["configuration"]) == len(described["code"]) == 64
    )
    assert described["weights"] == weights_id(weights_of(tiny))
    json.dumps(described)


def test_what_decides_about_our_pictures_is_in_the_description(tiny, tmp_path):
    """Or a run would take results of another model, or of another texture memory, for its own."""
    folder, other = tmp_path / "model", tmp_path / "mine.safetensors"
    tiny.save_pretrained(folder)
    memory = TextureMemory.load(folder / "memory.safetensors", tiny.autoencoder)
    memory.keys = memory.keys.flip(0)
    memory.save(other)
    load = lambda **options: PatchScaler.from_pretrained(folder, device="cpu", **options)  # noqa: E731
    first, mine = (PatchScalerMethod(load(**o)).describe() for o in ({}, {"memory": other}))
    assert first["weights"] != mine["weights"] and first["configuration"] == mine["configuration"]
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"sampler": "ddim"', '"sampler": "dpm++"'))
    renew_sums(folder)
    again = PatchScalerMethod(load()).describe()
    assert again["weights"] == first["weights"] and again["configuration"] != first["configuration"]


def test_a_folder_that_cannot_be_written_to_is_named(hr, tmp_path):
    pairs, _ = load_pairs(hr=hr, degradation="bicubic", limit=1)
    (tmp_path / "out").write_text("a file")
    evaluation = evaluate(Repeat(), pairs, QUICK, tmp_path / "out")
    assert not evaluation.rows and "out/repeat/a.png: cannot be written" in str(
        evaluation.failures[0]
    )


def test_the_environment_says_what_a_figure_was_measured_with():
    found = environment()
    assert (
        found["packages"]["torch"] == torch.__version__
        and found["threads"] == torch.get_num_threads()
    )
    assert found["commit"] is None or len(found["commit"].removesuffix("-dirty")) == 40
    assert found["processor"].endswith("cores")
