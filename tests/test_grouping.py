"""Eq. 2: confidence of a patch -> simple, medium or hard."""

from dataclasses import replace

import pytest
import torch

from patchscaler.config import GroupConfig
from patchscaler.diffusion.groups import (
    HARD,
    MEDIUM,
    SIMPLE,
    assign_groups,
    check_groups,
    patch_confidence,
    thresholds_for,
    thresholds_from_table,
)
from patchscaler.errors import PatchScalerError
from patchscaler.patching import make_grid


def test_confidence_of_a_patch_is_its_mean():
    # Columns of 1, .5 and 0, eight wide: the patches see (1 + .5) / 2 and (.5 + 0) / 2.
    columns = torch.tensor([1, 0.5, 0]).repeat_interleave(8)
    confidence = columns.expand(1, 16, 24)
    scores = patch_confidence(confidence, make_grid(16, 24, overlap=8))
    assert scores.tolist() == [0.75, 0.25]


def test_a_patch_with_an_unsure_place_counts_as_no_surer_than_the_least():
    confidence = torch.full((1, 16, 56), 0.9)
    confidence[0, 3, 30] = 0.5  # in the second patch
    confidence[0, 3, 50] = 0.78
    grid = make_grid(16, 56, overlap=0)  # columns 0, 16, 32 and 40
    mean = (255 * 0.9 + 0.5) / 256
    assert patch_confidence(confidence, grid)[:2].tolist() == pytest.approx([0.9, mean])
    scores = patch_confidence(confidence, grid, least=0.78)
    assert scores.tolist() == pytest.approx([0.9, 0.78, 0.9, (255 * 0.9 + 0.78) / 256])
    assert assign_groups(scores, (0.8, 0.6)).tolist() == [SIMPLE, MEDIUM, SIMPLE, SIMPLE]
    confidence[0, :, 16:32] = 0.4  # one that is less sure than that already stays where it is
    assert patch_confidence(confidence, grid, least=0.78)[1].item() == pytest.approx(0.4)


def test_groups_by_hand():
    scores = torch.tensor([1.0, 0.951, 0.95, 0.9499, 0.751, 0.75, 0.7499, 0.0])
    # A score at a threshold belongs to the harder group: (gamma_1, 1], (gamma_2, gamma_1], [0,
    # gamma_2].
    expected = [SIMPLE, SIMPLE, MEDIUM, MEDIUM, MEDIUM, HARD, HARD, HARD]
    assert assign_groups(scores, (0.95, 0.75)).tolist() == expected


@pytest.mark.parametrize(
    ("thresholds", "expected"),
    [((0, 0), SIMPLE), ((1, 0), MEDIUM), ((1, 1), HARD), ((0.5, 0.5), SIMPLE)],
)
def test_extreme_thresholds_put_all_into_one_group(thresholds, expected):
    assert assign_groups(torch.tensor([0.6, 0.8, 1.0]), thresholds).tolist() == [expected] * 3


def test_equal_thresholds_leave_no_medium():
    assert assign_groups(torch.tensor([0.4, 0.5, 0.6]), (0.5, 0.5)).tolist() == [HARD, HARD, SIMPLE]


@pytest.mark.parametrize("shares", [(0.3, 0.65), (0.0, 0.5), (0.5, 0.5), (0.0, 0.0), (0.25, 0.99)])
def test_thresholds_give_the_asked_shares(shares):
    scores = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    groups = assign_groups(scores, thresholds_for(scores, shares))
    counts = groups.bincount(minlength=3).tolist()
    # Every patch falls into one group; the shares are met to within one patch.
    assert sum(counts) == 1000
    assert counts[0] == pytest.approx(1000 * shares[0], abs=1)
    assert counts[0] + counts[1] == pytest.approx(1000 * shares[1], abs=1)


def test_a_share_of_one_takes_every_patch():
    scores = torch.tensor([0.2, 0.4, 0.9])
    assert assign_groups(scores, thresholds_for(scores, (1.0, 1.0))).tolist() == [SIMPLE] * 3


@pytest.mark.parametrize("shares", [(0.5, 0.4), (-0.1, 0.5), (0.5, 1.1)])
def test_shares_that_cannot_be(shares):
    with pytest.raises(PatchScalerError, match="group shares"):
        thresholds_for(torch.rand(10), shares)


def test_good_groups_come_back():
    for config in (
        GroupConfig(),
        GroupConfig(start_times=(0, 400, 1000), num_inference_steps=(0, 400, 1)),
        GroupConfig(thresholds=(1.0, 0.0)),
    ):
        assert check_groups(config) is config


@pytest.mark.parametrize("thresholds", [(0.5, 0.6), (1.1, 0.5), (0.5, -0.1), (float("nan"), 0.5)])
def test_thresholds_that_cannot_be(thresholds):
    with pytest.raises(PatchScalerError, match="thresholds"):
        check_groups(GroupConfig(thresholds=thresholds))


@pytest.mark.parametrize("least", [-0.1, 1.1, float("nan")])
def test_a_least_confidence_that_cannot_be(least):
    with pytest.raises(PatchScalerError, match="least confidence"):
        check_groups(GroupConfig(least_confidence=least))


def test_thresholds_from_the_stored_table():
    table = (0.1, 0.3, 0.4, 0.8, 1.0)  # confidences of 0, 25, 50, 75, 100 % of held-out patches
    assert thresholds_from_table(table, (0.25, 0.5)) == pytest.approx((0.8, 0.4))
    # between the entries
    assert thresholds_from_table(table, (0.125, 0.875)) == pytest.approx((0.9, 0.2))
    assert thresholds_from_table(table, (0.0, 1.0)) == (1.0, 0.0)  # nobody, everybody
    with pytest.raises(PatchScalerError, match="stores no calibration"):
        thresholds_from_table((), (0.2, 0.5))
    with pytest.raises(PatchScalerError, match="they must rise"):
        thresholds_from_table(table, (0.6, 0.5))


@pytest.mark.parametrize(
    ("time", "steps", "message"),
    [
        (1001, 20, "start time 1001"),
        (-1, 1, "start time -1"),
        (0, 3, "3 steps from time 0"),
        (400, -2, "-2 steps"),
        (10, 11, "11 steps from time 10"),
    ],
)
@pytest.mark.parametrize("group", [0, 1, 2])
def test_times_and_steps_that_cannot_be(time, steps, message, group):
    times, numbers = [400, 700, 1000], [8, 14, 20]
    times[group], numbers[group] = time, steps
    config = replace(GroupConfig(), start_times=tuple(times), num_inference_steps=tuple(numbers))
    with pytest.raises(PatchScalerError, match=message):
        check_groups(config)


def test_unknown_sampler():
    with pytest.raises(PatchScalerError, match="unknown sampler 'heun': choose one of ddim, dpm"):
        check_groups(GroupConfig(sampler="heun"))
