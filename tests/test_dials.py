"""Budget, fidelity and boxes: monotone, kept, and nothing changes where nothing was asked for."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from patchscaler.config import GroupConfig, preset
from patchscaler.dials import speed
from patchscaler.dials.budget import Budget, hardest_first, parse_budget, spend
from patchscaler.dials.fidelity import detail_kept, start_later, sureness, towards_coarse
from patchscaler.errors import PatchScalerError
from patchscaler.models.folder import SHIPPED
from patchscaler.pipeline import PatchScaler

PAPER = preset("paper").groups  # 8, 14, 20 steps
COMPACT = preset("compact").groups  # 0, 1, 1


def luma(array: np.ndarray) -> np.ndarray:
    return array[..., :3].astype(float) @ [0.299, 0.587, 0.114]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(luma(a) - luma(b)).mean()))


def sharpness(a: np.ndarray) -> float:
    y = luma(a)
    return float(np.abs(np.diff(y, axis=0)).mean() + np.abs(np.diff(y, axis=1)).mean())


# --- budget ---------------------------------------------------------------------------------------


def steps(plan) -> np.ndarray:
    return np.array(plan.config.num_inference_steps)[plan.groups]


@pytest.mark.parametrize("config", [PAPER, COMPACT, replace(PAPER, num_inference_steps=(0, 4, 9))])
@pytest.mark.parametrize("count", [9, 100, 961])
def test_a_share_is_kept_and_no_patch_loses_steps(config, count):
    scores = np.random.default_rng(0).beta(5, 2, count).astype(np.float32)
    config = replace(config, thresholds=(0.8, 0.6))
    full, before = count * config.num_inference_steps[2], np.zeros(count, int)
    for share in np.linspace(0, 1, 41):
        plan = spend(Budget(share=float(share)), scores, config)
        assert (steps(plan) >= before).all()  # every single patch
        assert abs(plan.evaluations - share * full) <= config.num_inference_steps[2] / 2
        if count > 9 and share >= 0.1:  # a patch is indivisible: of nine, one is more than a tenth
            assert plan.evaluations == pytest.approx(share * full, rel=0.1)
        before = steps(plan)
    assert (before == config.num_inference_steps[2]).all()


def test_the_hardest_come_first():
    scores = np.array([0.9, 0.1, 0.5, 0.3], np.float32)
    config = replace(COMPACT, thresholds=(0.6, 0.2))
    assert steps(spend(Budget(share=0.25), scores, config)).tolist() == [0, 1, 0, 0]
    assert steps(spend(Budget(share=0.5), scores, config)).tolist() == [0, 1, 0, 1]
    # the model's own groups
    assert spend(Budget(share=0.75), scores, config).groups.tolist() == [0, 2, 1, 1]


def test_names_go_around_the_models_own_groups():
    scores = np.random.default_rng(1).random(200).astype(np.float32)
    for config in (replace(PAPER, thresholds=(0.9, 0.4)), replace(COMPACT, thresholds=(0.9, 0.4))):
        fast, balanced, best = (
            spend(Budget(name=n), scores, config) for n in ("fast", "balanced", "best")
        )
        own = (scores <= 0.9).astype(int) + (scores <= 0.4)
        assert balanced.groups.tolist() == own.tolist()
        assert fast.evaluations == pytest.approx(balanced.evaluations / 2, rel=0.1)
        assert best.evaluations == 200 * config.num_inference_steps[2]
        assert (steps(fast) <= steps(balanced)).all() and (steps(balanced) <= steps(best)).all()


def test_less_than_the_simple_groups_steps_for_all():
    scores = np.linspace(0.1, 0.9, 10, dtype=np.float32)
    plan = spend(Budget(share=0.13), scores, PAPER)  # 26 evaluations for ten patches
    assert plan.evaluations == 26 and plan.config.num_inference_steps == (2, 3, 3)
    assert set(plan.config.start_times) == {400} and steps(plan).tolist() == [3] * 6 + [2] * 4


def test_equal_patches_are_spread_over_the_picture():
    chosen = hardest_first(np.full(400, 0.5, np.float32))[:100]
    assert 30 < (chosen < 200).sum() < 70


def test_seconds_are_what_the_speed_allows(tiny, picture, monkeypatch):
    monkeypatch.setattr(speed, "seconds_per_evaluation", lambda *_: 0.5)
    monkeypatch.setattr(speed, "seconds_of_decoding", lambda *_: 1.0)
    image, work = picture(97, 141), []
    for seconds in (1, 5, 10, 20, 400):
        work.append(tiny.upscale(image, budget=f"{seconds}s").cost["evaluations_total"])
    full = len(tiny.upscale(image, budget=0).groups) * 2
    assert work[0] == 0 and work[-1] == full and work == sorted(work)
    for seconds, evaluations in list(zip((1, 5, 10, 20), work, strict=False))[1:]:
        # restoring takes some of it, too
        assert evaluations == pytest.approx((seconds - 1) / 0.5, abs=2.5)


def test_measuring_the_speed_costs_a_small_part_of_the_work(tiny, picture, monkeypatch):
    sampled = []
    real = tiny.sample

    def sample(jobs, *rest):
        sampled.append(int(jobs[0].todo.sum()))
        real(jobs, *rest)

    monkeypatch.setattr(tiny, "sample", sample)
    options = tiny.options()
    job = tiny.restored(picture(96, 96), options)
    with torch.inference_mode():
        assert speed.seconds_per_evaluation(tiny, job, options) > 0
    assert sampled == [1, len(job.grid) // 8] and sum(sampled) < len(job.grid) / 6


def test_speed_is_measured_on_this_picture(tiny, picture):
    options = tiny.options(budget="1s")
    job = tiny.restored(picture(64, 64), options)
    with torch.inference_mode():
        each, decoding = (
            speed.seconds_per_evaluation(tiny, job, options),
            speed.seconds_of_decoding(tiny, job),
        )
    assert 0 < each < 1 and 0 < decoding < 1
    assert (job.textures == -1).all() and not job.groups.any()  # the trial leaves no trace
    assert float(job.canvas.weight.max()) == 0


def test_a_budget_changes_the_picture_and_its_cost(tiny, picture):
    image = picture(97, 141)
    costs = [tiny.upscale(image, budget=b).cost["evaluations_total"] for b in (0, 0.25, 0.5, 1)]
    assert costs[0] == 0 and costs == sorted(set(costs))
    balanced, plain = tiny.upscale(image, budget="balanced"), tiny.upscale(image)
    assert np.array_equal(balanced.array, plain.array)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (".4", Budget(share=0.4)),
        ("40%", Budget(share=0.4)),
        ("0", Budget(share=0.0)),
        ("20s", Budget(seconds=20)),
        ("1.5m", Budget(seconds=90)),
        ("best", Budget(name="best")),
        (1, Budget(share=1.0)),
    ],
)
def test_budgets_in_words(text, expected):
    assert parse_budget(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "-1",
        "1.1",
        "120%",
        "much",
        "0s",
        "-5s",
        "nan",
        "infs",
        "nans",
        "500ms",
        "20%s",
        "20ss",
        "20sm",
        "40%%",
        "%",
    ],
)
def test_budgets_that_are_none(text):
    with pytest.raises(
        PatchScalerError, match=r"give a share from 0 to 1 \(.4\), seconds \(20s\), or fast"
    ):
        parse_budget(text)


@pytest.mark.parametrize(
    "budget",
    [
        Budget(),
        Budget(name="nonsense"),
        Budget(share=1.5),
        Budget(seconds=-1),
        Budget(seconds=float("inf")),
        Budget(share=0.5, name="fast"),
        Budget(share="0.5"),
    ],
)
def test_budgets_that_are_none_as_they_are_kept(budget):
    with pytest.raises(PatchScalerError, match=r"^budget Budget\(.*: give a share from 0 to 1"):
        parse_budget(budget)


def test_steps_that_fall_have_no_budget():
    with pytest.raises(PatchScalerError, match="steps that do not fall: 3, 2, 1"):
        spend(Budget(share=0.5), np.ones(3), replace(PAPER, num_inference_steps=(3, 2, 1)))


# --- fidelity -------------------------------------------------------------------------------------

DIAL = (0, 0.15, 0.3, 0.5, 0.7, 0.85, 1)


def test_the_ends_of_the_dial(tiny, picture):
    image = picture(97, 141)
    plain = tiny.upscale(image, coarse=True)
    assert np.array_equal(tiny.upscale(image, fidelity=0).array, plain.array)
    faithful = tiny.upscale(image, fidelity=1.0)
    assert np.abs(faithful.array.astype(int) - np.asarray(plain.coarse)).max() <= 1
    assert faithful.cost["evaluations_total"] == 0  # what would be taken back is not made


def test_the_dial_leads_to_the_coarse_picture(tiny, picture):
    image = picture(97, 141)
    coarse = np.asarray(tiny.upscale(image, coarse=True).coarse)
    near = [psnr(tiny.upscale(image, fidelity=f).array, coarse) for f in DIAL[:-1]]
    assert all(b > a + 0.1 for a, b in pairwise(near)), near


@pytest.fixture(scope="module")
def shipped() -> PatchScaler:
    return PatchScaler.from_pretrained(SHIPPED / "compact", device="cpu", dtype="float32")


def real_picture() -> Image.Image:
    return Image.open("examples/cat.jpg").convert("RGB").crop((80, 40, 336, 232))


def synthetic_picture() -> Image.Image:
    """Stripes of all widths and noise, in colour."""
    y, x = np.mgrid[:192, :256]
    waves = np.stack([np.sin(x**2 / (300 + 80 * c)) * np.cos(y / 9) for c in range(3)], -1)
    noise = np.random.default_rng(0).normal(0, 0.15, (192, 256, 1)) * (x > 128)[..., None]
    return Image.fromarray((127.5 + 90 * (waves + noise)).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module", params=[real_picture, synthetic_picture])
def dialled(shipped, request) -> tuple[np.ndarray, list[np.ndarray]]:
    """A picture, and what comes of it, reduced, at each stop of the dial."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(request.config.rootpath)
        truth = request.param()
    small = truth.resize((truth.width // 4, truth.height // 4), Image.Resampling.BICUBIC)
    everything = replace(shipped.config.groups, thresholds=(1.0, 1.0))
    return np.asarray(truth), [
        shipped.upscale(small, fidelity=f, groups=everything).array for f in DIAL
    ]


def test_the_dial_gives_back_what_inventing_costs(dialled):
    truth, results = dialled
    quality = [psnr(r, truth) for r in results]
    assert all(b > a - 0.02 for a, b in pairwise(quality)) and quality[-1] > quality[0], quality


def test_each_stop_of_the_dial_is_nearer_to_the_coarse_picture(dialled):
    results = [r.astype(float) for r in dialled[1]]
    apart = [np.abs(r - results[-1]).mean() for r in results]
    assert all(b < a for a, b in pairwise(apart)) and apart[-1] == 0, apart


def test_each_stop_of_the_dial_is_softer(dialled):
    sharp = [sharpness(r) for r in dialled[1]]
    assert all(b < a for a, b in pairwise(sharp)), sharp


def test_sure_places_turn_first():
    confidence = torch.tensor([[[0.2, 0.5, 0.8]]])
    table = (0.2, 0.5, 0.8)
    assert sureness(confidence, table).flatten().tolist() == pytest.approx([0, 0.5, 1], abs=1e-5)
    kept = detail_kept(confidence, table, 0.5)[0, 0]
    assert kept.tolist() == pytest.approx([0.5**0.5, 0.5, 0.25], abs=1e-5)
    assert detail_kept(confidence, table, 0.0).unique().tolist() == [1.0]
    assert detail_kept(confidence, table, 1.0).unique().tolist() == [0.0]
    latents, coarse = torch.ones(2, 1, 3), torch.zeros(2, 1, 3)
    assert towards_coarse(latents, coarse, confidence, table, 0.5)[1].tolist() == [kept.tolist()]
    assert sureness(confidence, ()).tolist() == confidence.tolist()


def test_start_times_follow_the_dial():
    assert start_later(PAPER, 0) is PAPER
    assert start_later(PAPER, 0.5).start_times == (300, 525, 750)
    assert start_later(PAPER, 0.5).num_inference_steps == (8, 14, 20)
    # a step each
    assert start_later(replace(PAPER, start_times=(10, 20, 30)), 0.9).start_times == (8, 14, 20)
    assert start_later(PAPER, 1).num_inference_steps == (0, 0, 0)


@pytest.mark.parametrize("fidelity", [-0.1, 1.01, float("nan")])
def test_fidelities_that_are_none(tiny, picture, fidelity):
    with pytest.raises(PatchScalerError, match=r"take 0 \(vivid\) to 1"):
        tiny.upscale(picture(32, 32), fidelity=fidelity)


def test_groups_of_a_config_without_steps(tiny, picture):
    none = GroupConfig(start_times=(0, 0, 0), num_inference_steps=(0, 0, 0))
    result = tiny.upscale(picture(64, 64), groups=none, budget="best")
    assert result.cost["evaluations_total"] == 0
