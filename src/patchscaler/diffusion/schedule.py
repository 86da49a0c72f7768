"""The diffusion process: schedule, forward process, conversions. No network, no torch.nn.

Symbols of the paper (3.2) and their names here:
    beta_t           betas            alpha-bar_t      alphas_cumprod
    x_0, x_t         x_0, x_t         y_0, y_tau       coarse, `start_from_coarse(coarse, ...)`
    epsilon          noise            tau, T_g         start_times of a group

t counts from 1, arrays from 0 (`alphas_cumprod[t - 1]`).
"""

import torch
from torch import Tensor

from patchscaler.config import DiffusionConfig
from patchscaler.errors import PatchScalerError

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction", "residual")


def make_betas(config: DiffusionConfig) -> Tensor:
    """(T,) float64.

    `linear`: DDPM and DiT; `scaled_linear`: linear in the square root, as Stable Diffusion.
    """
    n = config.num_train_timesteps
    if config.schedule == "linear":
        return torch.linspace(config.beta_start, config.beta_end, n, dtype=torch.float64)
    if config.schedule == "scaled_linear":
        return (
            torch.linspace(config.beta_start**0.5, config.beta_end**0.5, n, dtype=torch.float64)
            ** 2
        )
    raise PatchScalerError(f"unknown schedule '{config.schedule}': choose linear or scaled_linear")


class Diffusion:
    """Schedule and conversions among x_0, noise and v.

    Times are integers in 0..T; 0 is the clean picture.
    """

    def __init__(self, config: DiffusionConfig):
        if config.prediction_type not in PREDICTION_TYPES:
            raise PatchScalerError(
                f"unknown prediction type '{config.prediction_type}': choose one of "
                f"{', '.join(PREDICTION_TYPES)}"
            )
        self.config = config
        self.num_train_timesteps = config.num_train_timesteps
        self.alphas_cumprod = torch.cumprod(1 - make_betas(config), 0)  # (T,) float64

    def alpha_bar(self, t: Tensor) -> Tensor:
        """alpha-bar at integer times, (N,) -> (N, 1, 1, 1) float32; 1 at t = 0."""
        table = torch.cat([self.alphas_cumprod.new_ones(1), self.alphas_cumprod])
        return table[t.cpu()].float().to(t.device)[:, None, None, None]

    def q_sample(self, x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Eq. 4: x_t = sqrt(alpha-bar) x_0 + sqrt(1 - alpha-bar) noise. x_0, noise: (N, C, V, V);
        t: (N,).
        """
        a = self.alpha_bar(t)
        return a.sqrt() * x_0 + (1 - a).sqrt() * noise

    def start_from_coarse(self, coarse: Tensor, tau: Tensor, noise: Tensor) -> Tensor:
        """Eq. 7, the shortcut: y_tau stands for x_tau where delta x_0 = x_0 - y_0 is small enough
        (Eq. 6).
        """
        return self.q_sample(coarse, tau, noise)

    def to_x_0(self, output: Tensor, x_t: Tensor, t: Tensor, coarse: Tensor) -> Tensor:
        """What the network said -> x_0, by prediction type. `residual` is x_0 - y_0."""
        a = self.alpha_bar(t)
        kind = self.config.prediction_type
        if kind == "residual":
            x_0 = coarse + output
        elif kind == "sample":
            x_0 = output
        elif kind == "epsilon":
            x_0 = (x_t - (1 - a).sqrt() * output) / a.sqrt()
        else:
            x_0 = a.sqrt() * x_t - (1 - a).sqrt() * output
        bound = self.config.clip_sample
        return x_0.clamp(-bound, bound) if bound else x_0

    def target(self, x_0: Tensor, noise: Tensor, t: Tensor, coarse: Tensor) -> Tensor:
        """What the network should say: the inverse of `to_x_0` for x_t = q_sample(x_0,
        t, noise).
        """
        a = self.alpha_bar(t)
        kind = self.config.prediction_type
        if kind == "residual":
            return x_0 - coarse
        if kind == "sample":
            return x_0
        return noise if kind == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * x_0

    def noise_from(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """The epsilon that makes x_t of this x_0: (x_t - sqrt(alpha-bar) x_0) / sqrt(1 -
        alpha-bar).
        """
        a = self.alpha_bar(t)
        return (x_t - a.sqrt() * x_0) / (1 - a).sqrt()


def group_timesteps(start_time: int, num_inference_steps: int) -> list[int]:
    """[tau, ..., 0] in N equal strides: N + 1 integer times. (400, 8) -> 400, 350, ..., 50, 0. ([0]
    for N = 0.)
    """
    if num_inference_steps == 0:
        return [0]
    if not 0 < num_inference_steps <= start_time:
        raise PatchScalerError(
            f"{num_inference_steps} steps from time {start_time}: take 1 to {start_time} steps"
        )
    return [
        round(start_time * (num_inference_steps - i) / num_inference_steps)
        for i in range(num_inference_steps + 1)
    ]
