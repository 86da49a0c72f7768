"""`budget`: a share of the work of refining every patch as a hard one, spent where the confidence
is lowest.

Any budget is a point on a path on which no patch ever loses work: from all simple over the model's
own groups to all
hard. The work of a patch is that of its group, so that the share is one of compute.
"""

from dataclasses import dataclass

import numpy as np

from patchscaler.config import GroupConfig
from patchscaler.errors import PatchScalerError


@dataclass(frozen=True)
class GroupWork:
    """Work of a patch of each group, in any unit."""

    simple: float
    medium: float
    hard: float

    def of(self, groups: np.ndarray) -> float:
        """(M,) groups -> the work of all."""
        return float(np.array([self.simple, self.medium, self.hard])[groups].sum())


def check_budget(budget: float) -> float:
    """Raises PatchScalerError for what is no number in 0..1."""
    number = isinstance(budget, int | float) and not isinstance(budget, bool)
    if not number or not 0 <= budget <= 1:
        raise PatchScalerError(f"budget {budget!r}: take a share of the whole work, 0 to 1")
    return float(budget)


def spend(budget: float, scores: np.ndarray, config: GroupConfig, work: GroupWork) -> np.ndarray:
    """Assign groups so that they cost about `budget` of all patches hard.

    Args:
        budget: Share in 0..1.
        scores: (M,) mean confidences.
        config: The model's groups, through which the path leads.
        work: Of a patch of each group.

    Returns:
        (M,) groups; their work is within that of one patch of the budget.
    """
    count = len(scores)
    own = tuple(int((scores <= threshold).sum()) for threshold in config.thresholds)
    target = budget * count * work.hard

    def cost(sampled: float, hard: float) -> float:
        return work.simple * (count - sampled) + work.medium * (sampled - hard) + work.hard * hard

    def point(x: float) -> tuple[float, float]:
        ends = ((0, 0), own, (count, count))
        a, b = ends[int(x >= 1)], ends[int(x >= 1) + 1]
        part = x - int(x >= 1)
        return a[0] + part * (b[0] - a[0]), a[1] + part * (b[1] - a[1])

    low, high = 0.0, 2 - 1e-9
    for _ in range(60):  # the cost rises along the path: the least x that reaches the target
        middle = (low + high) / 2
        low, high = (low, middle) if cost(*point(middle)) >= target else (middle, high)
    sampled, hard = (round(n) for n in point(high))
    groups, order = np.zeros(count, np.int64), hardest_first(scores)
    groups[order[:sampled]] = 1
    groups[order[:hard]] = 2
    return groups


def hardest_first(scores: np.ndarray) -> np.ndarray:
    """(M,) indices by rising confidence. Equal ones are spread over the image, not taken from its
    top.
    """
    spread = (np.arange(len(scores)) * 0.6180339887498949) % 1
    return np.lexsort((spread, scores))
