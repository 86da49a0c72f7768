"""Table 3 and its two-device variant, as reports.

The measuring is done in `patchscaler.evaluation.cost` and `two_workers.py`.
"""

from collections.abc import Sequence
from typing import Any

from patchscaler.devices import choose_device, choose_dtype
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.cost.paper_size import (
    PAPER_SECONDS,
    assumptions,
    paper_rows,
    paper_shares,
)
from patchscaler.evaluation.cost.pictures import synthetic_photo
from patchscaler.reproduce.report import Report, Row
from patchscaler.reproduce.two_workers import Job, run_two_workers

A100 = "The paper's seconds are of one NVIDIA A100 (two in the two-device rows); these are of {}."


def table3(
    sizes: Sequence[int], device: str, dtype: str, runs: int, extrapolate_from: int = 0
) -> Report:
    """Seconds of a picture: the paper's sizes with random weights, beside SwinIR-GAN and LDM."""
    check_sizes(sizes)
    where = choose_device(device)
    precision = choose_dtype(dtype, where)
    rows, unavailable, peak = paper_rows(sizes, where, precision, runs, extrapolate_from)
    report = Report(
        "table3", "Table 3: seconds of one picture", {"seconds": 2, "TFLOP": 2, "share of peak": 2}
    )
    for row in rows:
        paper = {} if row.paper_seconds is None else {"seconds": row.paper_seconds}
        here = {
            "seconds": row.seconds,
            "TFLOP": row.flops / 1e12,
            "share of peak": row.share_of_peak,
        }
        report.rows.append(Row(f"{row.size} -> {4 * row.size}, {row.method}", paper, here, row.how))
    measured = {(row.size, row.method) for row in rows}
    for size in sizes:
        for method, seconds in PAPER_SECONDS.get(size, {}).items():
            if (size, method) not in measured:
                report.rows.append(Row(f"{size} -> {4 * size}, {method}", {"seconds": seconds}))
    report.differs = [
        A100.format(f"{where} in {precision}, median of {runs}"),
        *assumptions(paper_shares()),
    ]
    report.differs += [f"{name}: {reason}" for name, reason in unavailable.items()]
    report.differs.append(
        "Methods without a figure here have no network in this repository's packages; compare "
        "them by their own "
        "programs on one machine. Two devices: patchscaler reproduce table3-two."
    )
    report.details = {
        "matmul peak, FLOP/s": peak,
        "device": where,
        "dtype": str(precision),
        "runs": runs,
    }
    return report


def table3_two(job: Job) -> Report:
    """Seconds of one worker and of two, at the sizes of the job's pictures."""
    timed = run_two_workers(job)
    report = Report(
        "table3-two",
        "Table 3 on two devices: hard patches on one, simple and medium on the other",
        {"seconds": 3, "of one worker": 2},
    )
    for picture, result in zip(job.pictures, timed, strict=True):
        size = picture.shape[0]
        paper = PAPER_SECONDS.get(size, {})
        one, two = paper.get("PatchScaler"), paper.get("PatchScaler, two devices")
        named = f"{picture.shape[1]}x{size} -> {4 * picture.shape[1]}x{4 * size}"
        rows: list[tuple[str, float | None, float | None, str]] = [
            ("one worker", one, result.alone, ""),
            ("two workers", two, result.together, _patches(result.patches)),
        ]
        if result.alone_all_threads is not None:
            threads = f"{2 * job.threads} threads"
            rows.insert(1, (f"one process, {threads}", None, result.alone_all_threads, ""))
        for label, theirs, ours, note in rows:
            row = Row(f"{named}, {label}", note=note)
            if theirs is not None and one:
                row.paper = {"seconds": theirs, "of one worker": theirs / one}
            if ours is not None:
                row.here = {"seconds": ours, "of one worker": ours / result.alone}
            report.rows.append(row)
        report.rows[-1].note += (
            f"; largest difference from one process {result.difference} grey levels, "
            f"{result.rounding} with all patches in one batch"
        )
    first, second = job.devices
    where = f"{first} and {second}" + (
        f", {job.threads} threads each" if "cpu" in job.devices else ""
    )
    report.differs = [A100.format(f"{where}, median of {job.runs} after one")]
    if first == second and first != "cpu":
        report.differs.append(
            f"Both workers share {first}: there is one GPU here, so no gain is to be expected."
        )
    report.differs += (
        assumptions(job.shares)
        if job.model is None and job.shares
        else [
            "A model's own size and steps in place of the paper's (which --paper-size takes); "
            "groups by the shares of "
            "the paper."
        ]
    )
    report.differs.append(
        "Both workers restore the whole picture, so that only patches travel between them."
    )
    report.details = {
        "devices": job.devices,
        "threads": job.threads,
        "runs": job.runs,
        "shares": job.shares,
    }
    return report


def _patches(patches: dict[str, int]) -> str:
    return ", ".join(f"{name} {count} patches" for name, count in patches.items())


def check_sizes(sizes: Sequence[int]) -> None:
    """Raises PatchScalerError for sides that cannot be."""
    if not sizes or any(size < 32 or size % 2 for size in sizes):
        raise PatchScalerError(
            "--sizes takes even numbers of 32 or more: a patch is 32 pixels of the input"
        )


def pictures_of(sizes: Sequence[int]) -> list[Any]:
    """Made by code, so that everybody has the same."""
    check_sizes(sizes)
    return [synthetic_photo(size) for size in sizes]
