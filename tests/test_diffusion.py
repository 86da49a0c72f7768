"""Schedule, forward process (Eq. 4 and 7) and conversions."""

from itertools import pairwise

import pytest
import torch

from patchscaler.config import DiffusionConfig
from patchscaler.diffusion.schedule import PREDICTION_TYPES, Diffusion, group_timesteps
from patchscaler.errors import PatchScalerError

LINEAR = DiffusionConfig()
SCALED = DiffusionConfig(schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
# Two times only, so that everything can be done by hand: alpha is .64, .25, alpha-bar .64, .16.
BY_HAND = DiffusionConfig(num_train_timesteps=2, beta_start=0.36, beta_end=0.75)


def column(*values: float) -> torch.Tensor:
    """(N, 1, 1, 1)."""
    return torch.tensor(values, dtype=torch.float32)[:, None, None, None]


TABLE = [  # schedule, t, alpha-bar, half a unit of its last digit
    (LINEAR, 100, 0.8970, 5e-5),
    (LINEAR, 250, 0.5241, 5e-5),
    (LINEAR, 400, 0.1951, 5e-5),
    (LINEAR, 700, 0.00697, 5e-6),
    (LINEAR, 1000, 4.0e-5, 5e-7),
    (SCALED, 100, 0.8955, 5e-5),
    (SCALED, 250, 0.6754, 5e-5),
    (SCALED, 400, 0.4261, 5e-5),
    (SCALED, 700, 0.0831, 5e-5),
    (SCALED, 1000, 0.00466, 5e-6),
]


@pytest.mark.parametrize(("config", "t", "expected", "tolerance"), TABLE)
def test_alpha_bar_of_both_schedules(config, t, expected, tolerance):
    a = Diffusion(config).alpha_bar(torch.tensor([t]))
    assert a.shape == (1, 1, 1, 1)
    assert a.item() == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(
    ("config", "roots"),
    [(LINEAR, (0.442, 0.0835, 0.0064)), (SCALED, (0.653, 0.288, 0.068))],
    ids=["linear", "scaled_linear"],
)
def test_share_of_the_coarse_picture_left_at_the_starts(config, roots):
    a = Diffusion(config).alpha_bar(torch.tensor([400, 700, 1000])).sqrt().flatten()
    torch.testing.assert_close(a, torch.tensor(roots), atol=5e-4, rtol=0)


def test_times_count_from_one():
    d = Diffusion(BY_HAND)
    assert d.alphas_cumprod.tolist() == pytest.approx([0.64, 0.16])
    assert d.alpha_bar(torch.tensor([0, 1, 2])).flatten().tolist() == pytest.approx([1, 0.64, 0.16])


def test_forward_process_by_hand():
    d = Diffusion(BY_HAND)
    x_0, noise, t = column(2, 2, 2), column(1, 1, -1), torch.tensor([0, 1, 2])
    # t = 1: .8 * 2 + .6 * 1; t = 2: .4 * 2 - sqrt(.84) * 1
    torch.testing.assert_close(d.q_sample(x_0, t, noise), column(2, 2.2, -0.116515))


def test_start_from_the_coarse_picture_by_hand():
    # Eq. 7: the same process with y_0 in the place of x_0.
    got = Diffusion(BY_HAND).start_from_coarse(column(5, -1), torch.tensor([1, 2]), column(0.5, 2))
    torch.testing.assert_close(got, column(0.8 * 5 + 0.6 * 0.5, -0.4 + 0.916515 * 2))


def test_start_approaches_the_true_trajectory_as_the_time_grows():
    # Eq. 6: the two differ by sqrt(alpha-bar) (x_0 - y_0), here with a difference of one.
    d = Diffusion(LINEAR)
    t, noise = torch.tensor([400, 700, 1000]), torch.zeros(3, 1, 1, 1)
    gap = d.q_sample(column(1, 1, 1), t, noise) - d.start_from_coarse(column(0, 0, 0), t, noise)
    torch.testing.assert_close(
        gap.flatten(), torch.tensor([0.442, 0.0835, 0.0064]), atol=5e-4, rtol=0
    )


@pytest.mark.parametrize(
    ("kind", "expected"),
    # x_0 = 2, noise = 1, coarse = 1.5, t = 1: v = .8 * 1 - .6 * 2
    [("epsilon", 1.0), ("sample", 2.0), ("v_prediction", -0.4), ("residual", 0.5)],
)
def test_targets_by_hand(kind, expected):
    d = Diffusion(
        DiffusionConfig(num_train_timesteps=2, beta_start=0.36, beta_end=0.75, prediction_type=kind)
    )
    assert d.target(column(2), column(1), torch.tensor([1]), column(1.5)).item() == pytest.approx(
        expected
    )


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("schedule", [LINEAR, SCALED], ids=["linear", "scaled_linear"])
def test_to_x_0_undoes_target(kind, schedule):
    d = Diffusion(
        DiffusionConfig(
            schedule.schedule, schedule.beta_start, schedule.beta_end, prediction_type=kind
        )
    )
    g = torch.Generator().manual_seed(0)
    x_0, coarse, noise = (torch.randn(5, 4, 8, 8, generator=g) for _ in range(3))
    t = torch.tensor([1, 100, 400, 700, 1000])
    x_t = d.q_sample(x_0, t, noise)
    got = d.to_x_0(d.target(x_0, noise, t, coarse), x_t, t, coarse)
    # From epsilon at t = 1000, rounding errors are divided by .0064.
    torch.testing.assert_close(got, x_0, atol=2e-4 if kind == "epsilon" else 1e-5, rtol=0)


def test_noise_from_undoes_q_sample():
    d = Diffusion(LINEAR)
    g = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(3, 4, 8, 8, generator=g), torch.randn(3, 4, 8, 8, generator=g)
    t = torch.tensor([10, 400, 1000])
    torch.testing.assert_close(
        d.noise_from(d.q_sample(x_0, t, noise), x_0, t), noise, atol=1e-4, rtol=0
    )


def test_clip_bounds_x_0_only_where_asked():
    t, output = torch.tensor([1, 1, 1]), column(-9, 0.5, 9)
    clipped = Diffusion(DiffusionConfig(prediction_type="sample", clip_sample=4.0))
    free = Diffusion(DiffusionConfig(prediction_type="sample"))
    assert clipped.to_x_0(output, output, t, output).flatten().tolist() == [-4, 0.5, 4]
    assert free.to_x_0(output, output, t, output).flatten().tolist() == [-9, 0.5, 9]


def test_groups_of_the_paper_share_one_grid():
    simple, medium, hard = (
        group_timesteps(400, 8),
        group_timesteps(700, 14),
        group_timesteps(1000, 20),
    )
    assert simple == [400, 350, 300, 250, 200, 150, 100, 50, 0]
    assert medium == [700, 650, 600, 550, 500, 450, *simple]
    assert hard == [1000, 950, 900, 850, 800, 750, *medium]


@pytest.mark.parametrize(
    ("start", "steps"), [(1000, 7), (437, 5), (10, 10), (999, 998), (5, 4), (1, 1)]
)
def test_times_fall_strictly_to_zero(start, steps):
    times = group_timesteps(start, steps)
    assert len(times) == steps + 1 and times[0] == start and times[-1] == 0
    assert all(a > b for a, b in pairwise(times))


def test_no_steps():
    assert group_timesteps(0, 0) == [0]


@pytest.mark.parametrize(("start", "steps"), [(400, 401), (400, -1), (0, 1)])
def test_steps_that_cannot_be(start, steps):
    with pytest.raises(PatchScalerError, match=f"{steps} steps from time {start}"):
        group_timesteps(start, steps)


def test_unknown_schedule_and_prediction_type():
    with pytest.raises(PatchScalerError, match="unknown schedule 'cosine'"):
        Diffusion(DiffusionConfig(schedule="cosine"))
    with pytest.raises(PatchScalerError, match="unknown prediction type 'flow'"):
        Diffusion(DiffusionConfig(prediction_type="flow"))
