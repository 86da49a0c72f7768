"""What people say of the groups, as texts (`--steps 0,1,2`, `ours:steps=0,1,2`), over a
checkpoint's own numbers.
"""

from collections.abc import Callable
from typing import Any

from patchscaler.errors import PatchScalerError

SAMPLING = ("preset", "steps", "start_times", "thresholds", "shares", "overlap", "sampler")


def group_settings(
    *,
    preset: str | None = None,
    steps: str | None = None,
    start_times: str | None = None,
    thresholds: str | None = None,
    shares: str | None = None,
    overlap: int | None = None,
    sampler: str | None = None,
) -> Callable[[Any], Any]:
    """-> the function from a checkpoint's `GroupConfig` to the one to use.

    Raises PatchScalerError for no numbers.
    """
    from dataclasses import replace

    from patchscaler.config import GroupConfig
    from patchscaler.config import preset as named
    from patchscaler.diffusion.groups import check_groups, thresholds_from_table

    base = named(preset).groups if preset else None
    if shares and thresholds:
        raise PatchScalerError("--shares and --thresholds say the same: give one of them")
    changes: dict[str, Any] = {}
    if steps:
        changes["num_inference_steps"] = numbers("--steps", steps, 3, int)
    if start_times:
        changes["start_times"] = numbers("--start-times", start_times, 3, int)
    if thresholds:
        changes["thresholds"] = numbers("--thresholds", thresholds, 2, float)
    shared = numbers("--shares", shares, 2, float) if shares else None
    if overlap is not None:
        changes["overlap"] = overlap
    if sampler:
        changes["sampler"] = sampler

    def settings(stored: GroupConfig) -> GroupConfig:
        config = stored
        # thresholds belong to the weights: a preset's would mean nothing to another confidence
        if base:
            config = replace(
                stored, start_times=base.start_times, num_inference_steps=base.num_inference_steps
            )
        if shared:
            config = replace(config, thresholds=thresholds_from_table(stored.calibration, shared))
        config = replace(config, **changes)
        if not start_times:  # a group that was passed on as it is starts where the next one does
            starts, counts = list(config.start_times), config.num_inference_steps
            for g in (1, 0):
                starts[g] = starts[g + 1] if counts[g] and not starts[g] else starts[g]
            config = replace(config, start_times=(starts[0], starts[1], starts[2]))
        return check_groups(config)

    return settings


def numbers(option: str, text: str, count: int | None, kind: Any) -> tuple[Any, ...]:
    """'1,2,3' -> (1, 2, 3). count: how many there have to be, None for any.

    Raises PatchScalerError.
    """
    wanted = "numbers" if count is None else f"{count} numbers"
    try:
        values = tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        raise PatchScalerError(f"{option} {text}: give {wanted} separated by commas") from error
    if count is not None and len(values) != count:
        raise PatchScalerError(f"{option} {text}: give {wanted} separated by commas")
    return values
