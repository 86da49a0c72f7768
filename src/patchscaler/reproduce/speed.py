"""Table 3 and its two-device variant, as reports."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from patchscaler.devices import choose_device, choose_dtype
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.cost.images import synthetic_photo
from patchscaler.evaluation.cost.timing import matmul_peak, median_seconds
from patchscaler.pipeline import PatchScaler
from patchscaler.reproduce.paper import TABLE_3
from patchscaler.reproduce.paper_networks import (
    PAPER_METHODS,
    assumptions,
    groups_with_shares,
    paper_model,
    paper_shares,
)
from patchscaler.reproduce.report import Report, Row
from patchscaler.reproduce.two_workers import Job, run_two_workers

A100 = "The paper's seconds are of one NVIDIA A100 (two in the two-device rows); these are of {}."


def table3(sizes: Sequence[int], device: str, dtype: str, repeats: int) -> Report:
    """Seconds of an image: the paper's sizes with random weights, beside SwinIR-GAN and LDM."""
    check_sizes(sizes)
    where = choose_device(device)
    precision = choose_dtype(dtype, where)
    report = Report("table3", "Table 3: seconds of one image", {"seconds": 2, "TFLOP": 2})
    here: dict[tuple[int, str], tuple[dict[str, float], str]] = {}
    pipeline = PatchScaler(paper_model(where, precision))
    for size in sizes:
        lr = synthetic_photo(size)
        groups = groups_with_shares(pipeline.model, lr, paper_shares())
        options = {"groups": groups, "max_pixels": 0, "tile": 0, "batch_size": 64}
        run = partial(pipeline.upscale, lr, **options)
        output = run()  # this warms up, too
        seconds = median_seconds(run, repeats, where)
        values = {"seconds": seconds, "TFLOP": 2 * output.gmac / 1e3}
        stages = ", ".join(f"{name} {s:.2f}" for name, s in output.timings.items())
        here[size, "PatchScaler"] = values, f"{output.nfe} NFE; {stages}"
    del pipeline
    for name, build in PAPER_METHODS.items():
        try:
            parts = build()
        except PatchScalerError as error:
            report.differs.append(f"{name}: {error}")
            continue
        seconds_of = dict.fromkeys(sizes, 0.0)
        for part in parts:
            part.network.to(where)
            for size in sizes:
                once = partial(part.run, size, where, precision)
                seconds_of[size] += median_seconds(once, repeats, where)
        for part in parts:
            part.network.to("meta")  # now it is only counted
        for size in sizes:
            flops = sum(part.flops(size) for part in parts)
            here[size, name] = {"seconds": seconds_of[size], "TFLOP": flops / 1e12}, ""
    for size in sizes:
        for method in dict.fromkeys([*TABLE_3.get(size, {}), *(m for s, m in here if s == size)]):
            paper = TABLE_3.get(size, {})
            row = Row(f"{size} -> {4 * size}, {method}")
            row.paper = {"seconds": paper[method]} if method in paper else {}
            row.here, row.note = here.get((size, method), ({}, ""))
            report.rows.append(row)
    report.differs += [
        A100.format(f"{where} in {precision}, median of {repeats}"),
        *assumptions(paper_shares()),
        "Methods without a number here have no network in this repository's packages; compare "
        "them by their own programs on one machine. Two devices: patchscaler reproduce table3-two.",
    ]
    peak = matmul_peak(where, precision)
    report.details = {
        "matmul peak, FLOP/s": peak,
        "device": where,
        "dtype": str(precision),
        "repeats": repeats,
    }
    return report


def table3_two(job: Job) -> Report:
    """Seconds of one worker and of two, at the sizes of the job's images."""
    timed = run_two_workers(job)
    report = Report(
        "table3-two",
        "Table 3 on two devices: hard patches on one, simple and medium on the other",
        {"seconds": 3, "speed-up": 2},
    )
    for lr, result in zip(job.images, timed, strict=True):
        size = lr.shape[0]
        named = f"{lr.shape[1]}x{size} -> {4 * lr.shape[1]}x{4 * size}"
        paper = TABLE_3.get(size, {})
        one, two = paper.get("PatchScaler"), paper.get("PatchScaler, two devices")
        rows = [("one worker", one, result.alone)]
        if result.alone_all_threads is not None:
            rows.append((f"one process, {2 * job.threads} threads", None, result.alone_all_threads))
        rows.append(("two workers", two, result.together))
        for label, theirs, ours in rows:
            row = Row(f"{named}, {label}")
            row.here = {"seconds": ours, "speed-up": result.alone / ours}
            if theirs is not None and one:
                row.paper = {"seconds": theirs, "speed-up": one / theirs}
            report.rows.append(row)
        shares = ", ".join(f"{name} {count} patches" for name, count in result.patches.items())
        report.rows[-1].note = (
            f"{shares}; largest difference from one process: {result.difference} levels with the "
            f"same two batches, {result.rounding} with one"
        )
    first, second = job.devices
    threads = f", {job.threads} threads each" if "cpu" in job.devices else ""
    report.differs = [A100.format(f"{first} and {second}{threads}, median of {job.repeats}")]
    if first == second and first != "cpu":
        report.differs.append(
            f"Both workers share {first}: there is one GPU here, so no gain is to be expected."
        )
    if job.model is None and job.shares:
        report.differs += assumptions(job.shares)
    else:
        report.differs.append(
            "A model's own size and steps in place of the paper's (which --paper-size takes)."
        )
    report.differs.append("The first worker restores and decodes; only patches travel.")
    report.details = {
        "devices": job.devices,
        "threads": job.threads,
        "repeats": job.repeats,
        "shares": job.shares,
        "speed-up": [result.speed_up for result in timed],
    }
    return report


def check_sizes(sizes: Sequence[int]) -> None:
    """Raises PatchScalerError for sides that cannot be."""
    if not sizes or any(size < 32 or size % 2 for size in sizes):
        raise PatchScalerError("--sizes takes even numbers of 32 or more, as 256,512")


def images_of(sizes: Sequence[int]) -> list[np.ndarray]:
    check_sizes(sizes)
    return [synthetic_photo(size) for size in sizes]
