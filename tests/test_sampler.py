"""DDIM and DPM-Solver++(2M), held against diffusers' schedulers on the same alpha-bars
and times.
"""

import pytest
import torch

from patchscaler.config import DiffusionConfig
from patchscaler.diffusion.samplers import History, ddim_step, dpmpp_2m_step, sample
from patchscaler.diffusion.schedule import Diffusion, group_timesteps
from patchscaler.errors import PatchScalerError

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # inside diffusers

SCHEDULES = {
    "linear": DiffusionConfig(),
    "scaled_linear": DiffusionConfig(schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
}


def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A nonlinear stand-in for a trained network, whose answer depends on every pixel, its
    neighbour and the time.
    """
    return torch.tanh(x + 0.5 * x.roll(1, -1)) * (
        0.3 + t[:, None, None, None] / 2000
    ) + 0.1 * torch.sin(3 * x)


def start(seed: int = 0, rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def ours(config: DiffusionConfig, times: list[int], sampler: str) -> torch.Tensor:
    diffusion = Diffusion(config)

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return diffusion.to_x_0(network(x, t), x, t, torch.zeros_like(x))

    return sample(denoise, start(), times, diffusion, sampler)


def theirs(scheduler, timesteps: list[int]) -> torch.Tensor:
    """diffusers counts times from 0 where we count from 1: its t is ours minus one."""
    x = start()
    for t in timesteps:
        output = network(x, torch.full((len(x),), int(t) + 1))
        x = scheduler.step(output, t, x).prev_sample
    return x


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize(("tau", "steps"), [(1000, 20), (700, 14), (400, 8), (50, 1)])
def test_ddim_equals_diffusers(schedule, kind, tau, steps):
    diffusers = pytest.importorskip("diffusers")
    config = SCHEDULES[schedule]
    config = DiffusionConfig(
        config.schedule, config.beta_start, config.beta_end, prediction_type=kind
    )
    scheduler = diffusers.DDIMScheduler(
        beta_schedule=config.schedule,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        prediction_type=kind,
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    # The same products in double precision, so that only the sampler can make a difference.
    scheduler.alphas_cumprod = Diffusion(config).alphas_cumprod.float()
    scheduler.set_timesteps(20)  # 999, 949, ..., 49; a later start takes the tail
    expected = theirs(scheduler, scheduler.timesteps[20 - steps :])
    torch.testing.assert_close(
        ours(config, group_timesteps(tau, steps), "ddim"), expected, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize(
    ("tau", "steps"), [(1000, 20), (700, 14), (400, 8), (1000, 7), (437, 5), (400, 2), (400, 1)]
)
def test_dpm_solver_equals_diffusers(schedule, kind, tau, steps):
    diffusers = pytest.importorskip("diffusers")
    config = SCHEDULES[schedule]
    config = DiffusionConfig(
        config.schedule, config.beta_start, config.beta_end, prediction_type=kind
    )
    scheduler = diffusers.DPMSolverMultistepScheduler(
        beta_schedule=config.schedule,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        prediction_type=kind,
        algorithm_type="dpmsolver++",
        solver_type="midpoint",
        solver_order=2,
        final_sigmas_type="zero",  # the last step goes to t = 0, where it must be of first order
        lower_order_final=False,  # and it alone: no other step may fall back
    )
    scheduler.alphas_cumprod = Diffusion(config).alphas_cumprod.float()
    times = group_timesteps(tau, steps)
    scheduler.set_timesteps(timesteps=[t - 1 for t in times[:-1]])
    expected = theirs(scheduler, scheduler.timesteps)
    torch.testing.assert_close(ours(config, times, "dpm++"), expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
@pytest.mark.parametrize(("tau", "steps"), [(1000, 20), (400, 8), (400, 2), (1, 1)])
def test_perfect_denoiser_returns_x_0_exactly(sampler, tau, steps):
    x_0 = start(seed=7)
    got = sample(
        lambda x, t: x_0,
        start(),
        group_timesteps(tau, steps),
        Diffusion(DiffusionConfig()),
        sampler,
    )
    assert torch.equal(got, x_0)


def test_both_steps_stay_on_the_trajectory_of_a_perfect_denoiser():
    # With x_0 known, x_t = sqrt(a) x_0 + sqrt(1 - a) noise keeps its noise from time to time.
    diffusion = Diffusion(DiffusionConfig())
    x_0, noise = start(1, rows=3), start(2, rows=3)
    t, t_next = torch.tensor([900, 400, 50]), torch.tensor([850, 100, 1])
    x_t = diffusion.q_sample(x_0, t, noise)
    expected = diffusion.q_sample(x_0, t_next, noise)
    torch.testing.assert_close(
        ddim_step(diffusion, x_t, x_0, t, t_next), expected, atol=1e-5, rtol=1e-4
    )
    for history in (History(), History(x_0, torch.tensor([1000, 500, 100]))):
        got = dpmpp_2m_step(diffusion, x_t, x_0, t, t_next, history, last=False)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_history_changes_a_step():
    diffusion = Diffusion(DiffusionConfig())
    x_t, x_0, before = start(0), start(1), start(2)
    t, t_next = torch.tensor([400, 400]), torch.tensor([350, 350])
    first = dpmpp_2m_step(diffusion, x_t, x_0, t, t_next, History(), last=False)
    second = dpmpp_2m_step(
        diffusion, x_t, x_0, t, t_next, History(before, torch.tensor([450, 450])), last=False
    )
    assert (first - second).abs().max() > 0.01


# A full loop, so that no change of the arithmetic goes unseen: sum and mean square after 20 steps
# from t = 1000.
@pytest.mark.parametrize(
    ("sampler", "total", "square"), [("ddim", 3.278759, 0.383743), ("dpm++", 3.723951, 0.492015)]
)
def test_golden_numbers(sampler, total, square):
    x = ours(DiffusionConfig(prediction_type="v_prediction"), group_timesteps(1000, 20), sampler)
    assert x.sum().item() == pytest.approx(total, abs=1e-3)
    assert x.square().mean().item() == pytest.approx(square, rel=1e-4)


def test_no_steps_leave_the_start_untouched():
    x = start()
    assert sample(network, x, [0], Diffusion(DiffusionConfig())) is x


def test_unknown_sampler():
    with pytest.raises(PatchScalerError, match="unknown sampler 'euler': choose one of ddim, dpm"):
        sample(network, start(), [50, 0], Diffusion(DiffusionConfig()), "euler")
