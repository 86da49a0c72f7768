"""`fidelity`: from 0, all that the diffusion invents, to 1, the coarse image, the most probable
one.

Below `TURN` the start timesteps fall to 0: less and less is invented, until nothing random is left.
Above it the result
moves to the coarse image. A model whose groups start at 0 has the second half alone, over the whole
dial.
"""

from dataclasses import replace

from patchscaler.config import GroupConfig
from patchscaler.errors import PatchScalerError

TURN = 0.5


def check_fidelity(fidelity: float) -> float:
    """Raises PatchScalerError for what is no number in 0..1."""
    number = isinstance(fidelity, int | float) and not isinstance(fidelity, bool)
    if not number or not 0 <= fidelity <= 1:
        raise PatchScalerError(
            f"fidelity {fidelity!r}: take a number from 0 (vivid) to 1 (faithful)"
        )
    return float(fidelity)


def turn_of(config: GroupConfig) -> float:
    """Where on the dial the start timesteps have come to 0."""
    return TURN if any(config.start_times) else 0.0


def with_fidelity(config: GroupConfig, fidelity: float, at_zero: int = 0) -> GroupConfig:
    """Earlier start timesteps, in the same numbers of steps where these fit.

    at_zero: evaluations of a group whose start has come to 0: one of a denoiser that reads the LR
    image, none of one that has only noise to take away.
    """
    turn = turn_of(config)
    if not turn or fidelity == 0:
        return config
    kept = max(0.0, 1 - fidelity / turn)
    first, second, third = (round(t * kept) for t in config.start_times)
    numbers = zip(config.num_inference_steps, (first, second, third), strict=True)
    n_1, n_2, n_3 = (min(n, t or at_zero) for n, t in numbers)
    return replace(config, start_times=(first, second, third), num_inference_steps=(n_1, n_2, n_3))


def coarse_weight(config: GroupConfig, fidelity: float) -> float:
    """Weight of the coarse image in the result, 0 to 1."""
    turn = turn_of(config)
    return max(0.0, (fidelity - turn) / (1 - turn))
