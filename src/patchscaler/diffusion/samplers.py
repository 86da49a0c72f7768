"""Samplers as pure functions of `denoise(x, t) -> x_0`, from x_tau in N steps.

Both are deterministic. One step is a function of its own, so that the pipeline can run all groups
in one loop; `sample` strings the steps together for one group. `tests/test_sampler.py` proves both
equal to diffusers' schedulers.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from patchscaler.diffusion.schedule import Diffusion
from patchscaler.errors import PatchScalerError

SAMPLERS = ("ddim", "dpm++")
Denoise = Callable[[Tensor, Tensor], Tensor]  # (N, C, V, V), (N,) -> x_0 (N, C, V, V)


@dataclass
class History:
    """What DPM-Solver++(2M) remembers of the step before: its x_0 and its time. DDIM needs none."""

    x_0: Tensor | None = None
    t: Tensor | None = None


def ddim_step(diffusion: Diffusion, x_t: Tensor, x_0: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """DDIM with eta = 0 (arXiv 2010.02502, eq. 12): the same noise, less of it. t, t_next: (N,),
    t_next < t.
    """
    noise = diffusion.noise_from(x_t, x_0, t)
    a = diffusion.alpha_bar(t_next)
    return a.sqrt() * x_0 + (1 - a).sqrt() * noise


def dpmpp_2m_step(
    diffusion: Diffusion,
    x_t: Tensor,
    x_0: Tensor,
    t: Tensor,
    t_next: Tensor,
    history: History,
    last: bool,
) -> Tensor:
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2), midpoint form; first order on the first and
    last step.
    """
    a, a_next = diffusion.alpha_bar(t), diffusion.alpha_bar(t_next)
    if last:  # to t = 0, where lambda is infinite: the limit is x_0 itself
        return a_next.sqrt() * x_0
    lam, lam_next = _half_log_snr(a), _half_log_snr(a_next)
    h = lam_next - lam
    d = x_0
    if history.x_0 is not None and history.t is not None:
        r = (lam - _half_log_snr(diffusion.alpha_bar(history.t))) / h
        d = x_0 + (x_0 - history.x_0) / (2 * r)
    return ((1 - a_next) / (1 - a)).sqrt() * x_t - a_next.sqrt() * torch.expm1(-h) * d


def _half_log_snr(a: Tensor) -> Tensor:
    return 0.5 * (torch.log(a) - torch.log1p(-a))


def sample(
    denoise: Denoise, x_t: Tensor, timesteps: list[int], diffusion: Diffusion, sampler: str = "ddim"
) -> Tensor:
    """x_tau (N, C, V, V) -> x_0. timesteps: [tau, ..., 0], see `group_timesteps`. sampler: ddim or
    dpm++.
    """
    if sampler not in SAMPLERS:
        raise PatchScalerError(f"unknown sampler '{sampler}': choose one of {', '.join(SAMPLERS)}")
    history = History()
    for now, then in itertools.pairwise(timesteps):
        t = torch.full((len(x_t),), now, device=x_t.device)
        t_next = torch.full_like(t, then)
        x_0 = denoise(x_t, t)
        if sampler == "ddim":
            x_t = ddim_step(diffusion, x_t, x_0, t, t_next)
        else:
            x_t = dpmpp_2m_step(diffusion, x_t, x_0, t, t_next, history, last=then == 0)
            history = History(x_0, t)
    return x_t
