"""What was measured, for the terminal and as JSON."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from patchscaler.evaluation.cost.paper_size import PAPER_SECONDS, PaperRow
from patchscaler.images.write import replacing

Record = dict[str, Any]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Aligned columns, the first to the left, the others to the right."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def terminal(record: Record) -> list[str]:
    """Lines of `patchscaler benchmark`."""
    size, methods = record["size"], record["methods"]
    lines = [
        f"{size}x{size} -> {4 * size}x{4 * size}, {record['threads']} threads, "
        f"{record['compute_signature']}, "
        f"median of {record['runs']}"
    ]
    for name, m in methods.items():
        seconds = m["seconds"]
        lines.append(
            f"{name:32s} {seconds['median']:8.3f} s   ours takes {m['ours_takes']:.2f} of it   "
            f"{m['megapixels_per_second']:.2f} MP/s   warm-up {seconds['warm_up']:.3f} s"
        )
    lines.append(
        "stages: " + ", ".join(f"{name} {s:.3f} s" for name, s in record["stages"].items())
    )
    evaluations, patches = record["evaluations"], record["patches"]
    ours, theirs = evaluations["adaptive"], evaluations["uniform"]
    lines.append(
        f"network evaluations: adaptive {ours}, uniform {theirs}, ratio {theirs / max(1, ours):.2f}"
    )
    groups = ", ".join(
        f"{n} {name} ({evaluations['by_group'][name]} evaluations)" for name, n in patches.items()
    )
    lines.append(f"patches: {groups}")
    flops, calls = record["flops"]["per_picture"], record["flops"]["per_call"]
    lines.append(
        f"GFLOP: {flops['total'] / 1e9:.4g} a picture ("
        + ", ".join(f"{k} {v / 1e9:.4g}" for k, v in flops.items() if k != "total")
        + f"), {calls['prompt'] / 1e9:.4g} a prompt, {calls['evaluation'] / 1e9:.4g} an "
        "evaluation; "
        f"uniform {record['flops']['uniform_per_picture']['total'] / 1e9:.4g}"
    )
    shares = ", ".join(f"{name} {share:.0%}" for name, share in record["share_of_peak"].items())
    lines.append(
        f"share of the matmul peak of {record['peak_flops_per_second'] / 1e9:.0f} GFLOP/s: {shares}"
    )
    cold, large = record["command"]["cold_start"], record["command"]["four_times_larger"]
    lines.append(
        f"the command from a cold start: {cold['seconds']:.1f} s, peak memory {_peak(cold)}"
    )
    big = f"{4 * size}x{4 * size} -> {16 * size}x{16 * size}"
    lines.append(f"the command, {big}: {large['seconds']:.1f} s, peak memory {_peak(large)}")
    for name, rows in record["sweeps"].items():
        lines += ["", *sweep_table(name, rows)]
    for method, exponent in record["growth_exponents"].items():
        lines.append(f"{method}: seconds grow with the pixels to the power of {exponent:.2f}")
    return lines


def _peak(child: Record) -> str:
    cuda = f", {child['cuda_mib']:.0f} MiB on the GPU" if child["cuda_mib"] else ""
    return f"{child['peak_mib']:.0f} MiB{cuda}"


KEYS = {
    "sizes": "size",
    "overlaps": "overlap",
    "steps": "steps",
    "batch sizes": "batch_size",
    "dtypes": "dtype",
    "threads": "threads",
}


def sweep_table(name: str, rows: Sequence[Record]) -> list[str]:
    """One sweep, a row a value."""
    body = []
    for row in rows:
        value = row[KEYS[name]]
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        if name == "sizes":
            text = f"{value}->{4 * value} {row['method']}"
        patches = row.get("patches")
        body.append(
            [
                text,
                f"{row['seconds']['median']:.3f}",
                f"{row['seconds']['warm_up']:.3f}",
                f"{row['megapixels_per_second']:.2f}",
                str(sum(patches.values())) if patches else "-",
                str(row.get("evaluations_total", "-")),
            ]
        )
    return table([name, "seconds", "warm-up", "MP/s", "patches", "evaluations"], body)


# --- Table 3 --------------------------------------------------------------------------------------


def paper_table(rows: Sequence[PaperRow], unavailable: dict[str, str], peak: float) -> list[str]:
    """Ours beside the paper's figures."""
    body, ours = [], {row.size: row.seconds for row in rows if row.method == "PatchScaler"}
    for row in rows:
        paper = PAPER_SECONDS.get(row.size, {})
        body.append(
            [
                f"{row.size}->{4 * row.size} {row.method}",
                f"{row.seconds:.2f}",
                f"{row.seconds / ours[row.size]:.2f}",
                f"{row.flops / 1e12:.2f}",
                f"{row.share_of_peak:.0%}",
                "-" if row.paper_seconds is None else f"{row.paper_seconds:.2f}",
                "-"
                if row.paper_seconds is None
                else f"{row.paper_seconds / paper['PatchScaler']:.2f}",
            ]
        )
    header = ["", "seconds", "/ ours", "TFLOP", "of peak", "paper (A100)", "/ its own"]
    lines = table(header, body)
    for row in rows:
        if row.patches:
            groups = ", ".join(
                f"{n} {name} ({row.evaluations[name]} evaluations)"
                for name, n in row.patches.items()
            )
            stages = ", ".join(f"{name} {s:.2f}" for name, s in row.stages.items())
            lines += [f"{row.size}->{4 * row.size}: patches {groups}; seconds: {stages}"]
    lines += [f"{how}" for how in dict.fromkeys(row.how for row in rows if row.how != "measured")]
    for size, paper in PAPER_SECONDS.items():
        if size in ours:
            others = ", ".join(
                f"{n} {s:.2f}" for n, s in paper.items() if n not in {r.method for r in rows}
            )
            lines.append(f"{size}->{4 * size} in the paper besides: {others}")
    lines += [f"{name}: unavailable: {reason}" for name, reason in unavailable.items()]
    lines.append(f"matmul peak {peak / 1e12:.3f} TFLOP/s")
    return lines


def paper_record(rows: Sequence[PaperRow], unavailable: dict[str, str], peak: float) -> Record:
    """For JSON."""
    return {
        "rows": [asdict(row) for row in rows],
        "unavailable": unavailable,
        "peak_flops_per_second": peak,
    }


# --- files ----------------------------------------------------------------------------------------


def save_json(record: Record, file: str | Path) -> None:
    """Raises PatchScalerError where it cannot be written; nothing half-written is left."""
    with replacing(Path(file)) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
