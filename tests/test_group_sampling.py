"""One loop for all groups, held against sampling each group on its own."""

from dataclasses import replace

import pytest
import torch

from patchscaler.config import DiffusionConfig, GroupConfig
from patchscaler.diffusion.group_sampling import sample_groups, steps_of
from patchscaler.diffusion.samplers import sample
from patchscaler.diffusion.schedule import Diffusion, group_timesteps

DIFFUSION = Diffusion(DiffusionConfig())
GROUPS = torch.tensor([2, 0, 1, 1, 2, 0, 2])
g = torch.Generator().manual_seed(0)
COARSE, NOISE = (torch.randn(len(GROUPS), 2, 4, 4, generator=g) for _ in range(2))

SETTINGS = [  # start times, numbers of steps
    ((400, 700, 1000), (8, 14, 20)),  # the paper's
    ((0, 400, 800), (0, 1, 2)),  # coarse as it is, one, two
    ((0, 400, 400), (0, 1, 2)),
    ((400, 400, 800), (1, 2, 3)),  # times that share no grid
    ((1000, 1000, 1000), (20, 20, 20)),  # unified sampling
    ((900, 500, 100), (3, 2, 1)),  # the simple group the longest
    ((2, 437, 1000), (2, 5, 7)),  # down to neighbouring times
    ((0, 0, 0), (0, 0, 0)),
]


def answer(x_t: torch.Tensor, t: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
    """A nonlinear x_0 that depends on the noisy patch, on its own coarse patch and on the time."""
    return torch.tanh(x_t) * 0.5 + torch.sin(2 * coarse) * (1 - t[:, None, None, None] / 2000)


def denoise(x_t: torch.Tensor, t: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return answer(x_t, t, COARSE[index])


def one_by_one(config: GroupConfig) -> torch.Tensor:
    """The definition: each group alone, from its start in its number of steps."""
    out = COARSE.clone()
    for group, (tau, steps) in enumerate(
        zip(config.start_times, config.num_inference_steps, strict=True)
    ):
        rows = torch.eq(GROUPS, group)
        if steps:
            coarse = COARSE[rows]
            x = DIFFUSION.start_from_coarse(coarse, torch.full((len(coarse),), tau), NOISE[rows])
            times = group_timesteps(tau, steps)
            out[rows] = sample(
                lambda x, t, y=coarse: answer(x, t, y), x, times, DIFFUSION, config.sampler
            )
    return out


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
@pytest.mark.parametrize(("times", "steps"), SETTINGS)
def test_one_loop_equals_group_by_group(times, steps, sampler):
    config = GroupConfig(start_times=times, num_inference_steps=steps, sampler=sampler)
    got = sample_groups(denoise, COARSE, NOISE, GROUPS, config, DIFFUSION)
    torch.testing.assert_close(got, one_by_one(config), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
@pytest.mark.parametrize(("times", "steps"), SETTINGS)
def test_calls_and_evaluations(times, steps, sampler):
    config = GroupConfig(start_times=times, num_inference_steps=steps, sampler=sampler)
    sizes, told, seen = [], [], []

    def counting(x_t: torch.Tensor, t: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x_t))
        seen.extend(zip(GROUPS[index].tolist(), t.tolist(), strict=True))
        return denoise(x_t, t, index)

    sample_groups(counting, COARSE, NOISE, GROUPS, config, DIFFUSION, told.append)
    assert len(sizes) == max(steps)
    assert told == sizes
    assert sum(told) == sum(steps[group] for group in GROUPS.tolist())
    assert sizes == sorted(sizes)  # the batch only grows
    # Every patch of a group sees exactly its group's times.
    for group, (tau, n) in enumerate(zip(times, steps, strict=True)):
        count = GROUPS.tolist().count(group)
        expected = sorted(t for t in group_timesteps(tau, n)[:-1] for _ in range(count))
        assert sorted(t for which, t in seen if which == group) == expected


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_order_of_rows_does_not_matter(sampler):
    config = GroupConfig(sampler=sampler)
    order = torch.tensor([3, 6, 0, 5, 1, 4, 2])

    def shuffled(x_t: torch.Tensor, t: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return answer(x_t, t, COARSE[order][index])

    expected = sample_groups(denoise, COARSE, NOISE, GROUPS, config, DIFFUSION)[order]
    got = sample_groups(shuffled, COARSE[order], NOISE[order], GROUPS[order], config, DIFFUSION)
    torch.testing.assert_close(got, expected)


def test_patches_without_steps_come_back_untouched():
    config = GroupConfig(start_times=(0, 400, 800), num_inference_steps=(0, 1, 2))
    before = COARSE.clone()
    got = sample_groups(denoise, COARSE, NOISE, GROUPS, config, DIFFUSION)
    simple = GROUPS == 0
    assert torch.equal(got[simple], before[simple])
    assert (got[~simple] - before[~simple]).flatten(1).abs().amax(1).min() > 0.1
    assert torch.equal(COARSE, before)  # nor is the input written to


def test_a_group_without_members_costs_nothing():
    config = GroupConfig()  # the hard group would take 20 steps
    told = []
    groups = torch.tensor([0, 1])
    sample_groups(denoise, COARSE[:2], NOISE[:2], groups, config, DIFFUSION, told.append)
    assert len(told) == 14 and sum(told) == 8 + 14


def test_noise_matters_only_at_the_start():
    # Unified sampling with a denoiser that ignores x_t gives the same picture whatever the noise.
    config = replace(GroupConfig(), start_times=(400,) * 3, num_inference_steps=(4,) * 3)
    blind = lambda x_t, t, index: COARSE[index] * 2  # noqa: E731
    a = sample_groups(blind, COARSE, NOISE, GROUPS, config, DIFFUSION)
    b = sample_groups(blind, COARSE, -NOISE, GROUPS, config, DIFFUSION)
    assert torch.equal(a, b) and torch.equal(a, COARSE * 2)
    c = sample_groups(denoise, COARSE, NOISE, GROUPS, config, DIFFUSION)
    d = sample_groups(denoise, COARSE, -NOISE, GROUPS, config, DIFFUSION)
    assert (c - d).abs().max() > 0.1


def test_steps_of_groups():
    assert steps_of(torch.tensor([2, 0, 1]), GroupConfig()).tolist() == [20, 8, 14]
