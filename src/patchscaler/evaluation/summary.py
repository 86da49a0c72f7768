"""What several evaluations say together: means over common pictures, and the lines that belong
under a table.

Means are over the pictures that all of them have a score for, so that a method which failed on a
hard picture gains nothing by it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from patchscaler.evaluation.metric import Metric
from patchscaler.evaluation.run import Evaluation


def metrics_of(evaluations: Sequence[Evaluation]) -> list[Metric]:
    """Every metric of any evaluation, once, in order."""
    return list({m.name: m for e in evaluations for m in e.metrics}.values())


def common_means(
    evaluations: Sequence[Evaluation],
) -> tuple[list[dict[str, float]], dict[str, int]]:
    """Means of each evaluation over the pictures that all of them have, metric by metric, and how
    many those are.

    A metric that some evaluation has for no picture at all is left out of the comparison for that
    one only.
    """
    means: list[dict[str, float]] = [{} for _ in evaluations]
    counts: dict[str, int] = {}
    for metric in metrics_of(evaluations):
        scores = [
            {r.name: r.scores[metric.name] for r in e.rows if metric.name in r.scores}
            for e in evaluations
        ]
        having = [s for s in scores if s]
        names = sorted(set.intersection(*(set(s) for s in having))) if having else []
        counts[metric.name] = len(names)
        for mean, score in zip(means, scores, strict=True):
            if score and names:
                mean[metric.name] = float(np.mean([score[n] for n in names]))
    return means, counts


def notes(evaluations: Sequence[Evaluation]) -> list[str]:
    """Protocols, data, machine, what is unavailable, what failed: a line each."""
    metrics, (_, counts) = metrics_of(evaluations), common_means(evaluations)
    out = [f"{m.name}: {m.protocol}" for m in metrics]
    pictures = max((len(e.rows) for e in evaluations), default=0)
    for metric in metrics:
        if counts[metric.name] < pictures:
            out.append(
                f"{metric.name}: mean over {counts[metric.name]} of {pictures} pictures, those "
                "all methods have"
            )
    if any(e.seconds is not None for e in evaluations):
        out.append("s/picture: median wall time in this run, not a benchmark")
    out += [method_line(evaluation) for evaluation in evaluations]
    for evaluation in evaluations[:1]:
        out += [data_line(evaluation), machine_line(evaluation)]
    for name, reason in {n: r for e in evaluations for n, r in e.unavailable.items()}.items():
        out.append(f"unavailable: {name}: {reason}")
    shared = (
        set.intersection(*({str(f) for f in e.failures} for e in evaluations))
        if evaluations
        else set()
    )
    out += [f"failed: {text}" for text in sorted(shared)]
    for evaluation in evaluations:
        own = [f for f in evaluation.failures if str(f) not in shared]
        out += [f"failed: {evaluation.method}: {failure}" for failure in own]
    return out


def method_line(evaluation: Evaluation) -> str:
    """What a method says of itself: hashes shortened, long lists left to the JSON."""
    return f"{evaluation.method}: {', '.join(_told(evaluation.description))}"


def _told(description: dict[str, Any]) -> list[str]:
    out = []
    for key, value in description.items():
        if isinstance(value, dict):
            out += _told(value)
        elif value is None or value == "" or (isinstance(value, list | tuple) and len(value) > 3):
            continue
        else:
            text = "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            is_hash = len(text) == 64 and all(c in "0123456789abcdef" for c in text)
            out.append(f"{key} {text[:16] if is_hash else text}")
    return out


def data_line(evaluation: Evaluation) -> str:
    """What was measured on, in one line."""
    data = evaluation.data
    made = ""
    if data["degradation"]:
        seeds = ", ".join(map(str, data["seed"]))
        made = f", small ones made by '{', '.join(data['degradation'])}' with seed {seeds}"
    return f"data: {data['pictures']} pictures{made}, hash {data['hash'][:16]}"


def machine_line(evaluation: Evaluation) -> str:
    """Versions and machine, in one line."""
    e = evaluation.environment
    packages = e["packages"]
    where = e["gpu"] or e["processor"]
    commit = (
        f" ({e['commit'][:12]}{'-dirty' if e['commit'].endswith('-dirty') else ''})"
        if e["commit"]
        else ""
    )
    return (
        f"with: patchscaler {e['patchscaler']}{commit}, torch {packages.get('torch')}, numpy "
        f"{packages.get('numpy')}, "
        f"Python {e['python']}, {where}, {e['threads']} threads"
    )
