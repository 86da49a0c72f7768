"""Patch-adaptive Group Sampling (3.2): every patch from its group's start in its group's number of
steps.

All groups end together, so a group of N steps joins the loop N iterations before its end: one loop
whose batch grows. With the paper's numbers (400/8, 700/14, 1000/20) all patches then stand at the
same time.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from patchscaler.config import GroupConfig
from patchscaler.diffusion.samplers import History, ddim_step, dpmpp_2m_step
from patchscaler.diffusion.schedule import Diffusion, group_timesteps

# (x_t (n, C, V, V), t (n,), index (n,) of the rows of `coarse`) -> x_0 (n, C, V, V)
GroupDenoise = Callable[[Tensor, Tensor, Tensor], Tensor]


def steps_of(groups: Tensor, config: GroupConfig) -> Tensor:
    """(M,) groups -> (M,) numbers of steps."""
    return torch.tensor(config.num_inference_steps)[groups.cpu()]


def sample_groups(
    denoise: GroupDenoise,
    coarse: Tensor,
    noise: Tensor,
    groups: Tensor,
    config: GroupConfig,
    diffusion: Diffusion,
    on_step: Callable[[int], None] = lambda evaluated: None,
) -> Tensor:
    """coarse y_0, noise: (M, C, V, V); groups: (M,) of 0, 1, 2 -> x_0 (M, C, V, V).

    Patches of a group with zero steps come back as they are. on_step: given how many patches each
    step took.
    """
    device = coarse.device
    groups = groups.cpu()
    steps = steps_of(groups, config)  # (M,)
    longest = int(steps.max()) if len(steps) else 0
    # right-aligned: column `longest` is t = 0
    times = torch.zeros(3, longest + 1, dtype=torch.long)
    for g, (start, n) in enumerate(
        zip(config.start_times, config.num_inference_steps, strict=True)
    ):
        if n <= longest:
            times[g, longest - n :] = torch.tensor(group_timesteps(start, n))
    x = coarse.clone()
    last_x_0, last_t = torch.zeros_like(coarse), torch.zeros(len(coarse), dtype=torch.long)
    for i in range(longest):
        joining = (steps == longest - i).nonzero()[:, 0]
        active = (steps >= longest - i).nonzero()[:, 0]
        if len(joining):
            tau = times[groups[joining], i].to(device)
            x[joining] = diffusion.start_from_coarse(coarse[joining], tau, noise[joining])  # Eq. 7
        t, t_next = times[groups[active], i].to(device), times[groups[active], i + 1].to(device)
        x_t = x[active]
        x_0 = denoise(x_t, t, active)
        if config.sampler == "ddim":
            x[active] = ddim_step(diffusion, x_t, x_0, t, t_next)
        else:
            # A joiner has no step before: with its own x_0 as history the correction is zero.
            last_x_0[joining], last_t[joining] = (
                x_0[torch.isin(active, joining)],
                times[groups[joining], i] - 1,
            )
            history = History(last_x_0[active], last_t[active].to(device))
            x[active] = dpmpp_2m_step(
                diffusion, x_t, x_0, t, t_next, history, last=i + 1 == longest
            )
            last_x_0[active], last_t[active] = x_0, t.cpu()
        on_step(len(active))
    return x
