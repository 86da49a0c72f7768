"""`--budget`: how much work a picture may cost, spent where the picture is hardest.

A picture of M patches costs at most M N_3 evaluations of the network, every patch in the hard
group. A budget between nothing and that is a point on a path on which no patch ever loses steps:
from all simple over the model's own groups to all hard. What a budget buys is counted on the
picture's own confidences.
"""

from dataclasses import dataclass, replace

import numpy as np

from patchscaler.config import GroupConfig
from patchscaler.errors import PatchScalerError

NAMES = ("fast", "balanced", "best")


@dataclass(frozen=True)
class Budget:
    """One of: a share of full sampling in [0, 1], seconds for the whole picture, or a name of
    NAMES.
    """

    share: float | None = None
    seconds: float | None = None
    name: str | None = None


@dataclass(frozen=True)
class Plan:
    """How a budget is spent: the group of each patch, and the groups' numbers."""

    groups: np.ndarray  # (M,) 0 simple, 1 medium, 2 hard
    config: GroupConfig

    @property
    def evaluations(self) -> int:
        return int(np.array(self.config.num_inference_steps)[self.groups].sum())


def parse_budget(text: str | float | Budget) -> Budget:
    """'.4' or '40%' of full sampling, '20s' or '2m', 'fast', 'balanced', 'best'.

    Raises PatchScalerError.
    """
    budget = text if isinstance(text, Budget) else _budget_of(str(text).strip())
    if _can_be(budget):
        return budget
    raise PatchScalerError(
        f"budget {text}: give a share from 0 to 1 (.4), seconds (20s), or {', '.join(NAMES)}"
    )


def _budget_of(word: str) -> Budget:
    """Nothing at all where it is no number with one unit, or none."""
    if word in NAMES:
        return Budget(name=word)
    unit = {"%": 0.01, "s": 1.0, "m": 60.0}.get(word[-1:])
    try:
        number = float(word[:-1]) * unit if unit else float(word)
    except ValueError:
        return Budget()
    return Budget(seconds=number) if word[-1:] in ("s", "m") else Budget(share=number)


def _can_be(budget: Budget) -> bool:
    given = (budget.share is not None, budget.seconds is not None, budget.name is not None)
    share, seconds = (
        n if isinstance(n, int | float) else np.nan for n in (budget.share, budget.seconds)
    )
    return sum(given) == 1 and given == (
        0 <= share <= 1,
        0 < seconds < np.inf,
        budget.name in NAMES,
    )


def spend(
    budget: Budget, scores: np.ndarray, config: GroupConfig, affordable: float | None = None
) -> Plan:
    """scores: (M,) mean confidences. affordable: evaluations that `budget.seconds` allow, as
    measured.

    Never further from the budget than half of N_3, half of what one patch costs at most.
    """
    first, second, third = config.num_inference_steps
    if not first <= second <= third:
        raise PatchScalerError(f"a budget needs steps that do not fall: {first}, {second}, {third}")
    own = (int((scores <= config.thresholds[0]).sum()), int((scores <= config.thresholds[1]).sum()))
    if budget.seconds is not None:
        if affordable is None:
            raise PatchScalerError("a budget in seconds needs the speed to be measured")
        target = min(max(affordable, 0.0), float(len(scores) * third))
    elif budget.share is not None:
        target = budget.share * len(scores) * third
    else:
        balanced = _cost(*own, len(scores), config)
        target = {"fast": balanced / 2, "balanced": balanced, "best": float(len(scores) * third)}[
            str(budget.name)
        ]
    order = hardest_first(scores)
    groups = np.zeros(len(scores), np.int64)
    if target < first * len(scores):
        return _fewer_steps(target, order, groups, config)
    sampled, hard = _on_the_path(target, own, len(scores), config)
    groups[order[:sampled]] = 1
    groups[order[:hard]] = 2
    return Plan(groups, config)


def hardest_first(scores: np.ndarray) -> np.ndarray:
    """(M,) indices by rising confidence.

    Equal ones are spread over the picture, not taken from the top.
    """
    spread = (np.arange(len(scores)) * 0.6180339887498949) % 1
    return np.lexsort((spread, scores))


def _cost(sampled: float, hard: float, count: int, config: GroupConfig) -> float:
    """Evaluations where `sampled` of `count` patches leave the simple group, `hard` of these the
    medium one.
    """
    first, second, third = config.num_inference_steps
    return first * (count - sampled) + second * (sampled - hard) + third * hard


def _on_the_path(
    target: float, own: tuple[int, int], count: int, config: GroupConfig
) -> tuple[int, int]:
    """(sampled, hard) of the point that costs `target`: (0, 0) -> the model's own -> (count,
    count).
    """

    def point(x: float) -> tuple[float, float]:
        ends = ((0, 0), own, (count, count))
        a, b = ends[int(x >= 1)], ends[int(x >= 1) + 1]
        part = x - int(x >= 1)
        return a[0] + part * (b[0] - a[0]), a[1] + part * (b[1] - a[1])

    low, high = 0.0, 2.0
    for _ in range(60):  # the cost rises along the path: the least x that reaches the target
        middle = (low + high) / 2
        low, high = (
            (low, middle) if _cost(*point(middle), count, config) >= target else (middle, high)
        )
    sampled, hard = point(high)
    return round(sampled), round(hard)


def _fewer_steps(target: float, order: np.ndarray, groups: np.ndarray, config: GroupConfig) -> Plan:
    """Less than the simple group's steps for all: k steps, and k + 1 for the hardest, all from its
    start.
    """
    k = int(target / len(groups))
    groups[order[: round(target - k * len(groups))]] = 2
    start = config.start_times[0]
    return Plan(
        groups,
        replace(config, num_inference_steps=(k, k + 1, k + 1), start_times=(start, start, start)),
    )
