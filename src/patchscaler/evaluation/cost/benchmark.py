"""`patchscaler benchmark`: ours beside Real-ESRGAN x4plus at its fastest, in one run.

Same image, same threads, repeats in alternation, medians, warm-up apart. The fastest runtime of
x4plus is *the* x4plus row; all are shown, those that are not here with the reason.
"""

import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.cost import x4plus
from patchscaler.evaluation.cost.images import square_of, synthetic_photo
from patchscaler.evaluation.cost.timing import Timing, alternate, median_seconds, torch_threads
from patchscaler.evaluation.environment import environment, processor_flags
from patchscaler.evaluation.fidelity import psnr
from patchscaler.evaluation.methods import cost_of
from patchscaler.evaluation.tables import number, table

if TYPE_CHECKING:
    from patchscaler.pipeline import Output, PatchScaler

FORMAT = "patchscaler-benchmark-1"
OURS, HARD = "ours", "ours, every patch hard"
PEER = "x4plus"
EVERY_HARD = (1.0, 1.0)  # thresholds that no confidence is above


@dataclass(frozen=True)
class Plan:
    """What to measure.

    images: Files whose middle square, reduced to `size`, is upscaled; none for one made by code.
    size: Side of the LR image. repeats: 5 or more for a result. threads: 0 for as many as torch
    takes. int8_graph: x4plus quantized, an OpenVINO .xml. peers: also run x4plus. cold_start: also
    start the command twice, as processes of their own, with these options.
    """

    images: Sequence[str] = ()
    size: int = 128
    repeats: int = 5
    threads: int = 0
    int8_graph: str | None = None
    peers: bool = True
    cold_start: Sequence[str] | None = None


class Recorded:
    """`PatchScaler.upscale` with fixed options, its outputs' timings kept."""

    def __init__(self, pipeline: "PatchScaler", **options: Any):
        self.pipeline, self.options = pipeline, options
        self.timings: list[dict[str, float]] = []
        self.output: Output | None = None

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        self.output = self.pipeline.upscale(lr, max_pixels=0, **self.options)
        self.timings.append(self.output.timings)
        return self.output.array

    def stages(self) -> dict[str, float]:
        """Medians, warm-up left out; and of encoding a PNG, which is no part of the whole."""
        assert self.output is not None
        warm, image = self.timings[1:] or self.timings, self.output.image
        found = {name: statistics.median(t.get(name, 0.0) for t in warm) for name in warm[0]}
        return found | {"encode": median_seconds(lambda: image.save(io.BytesIO(), "PNG"), 3)}


def benchmark(
    pipeline: "PatchScaler", plan: Plan, progress: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Measure everything.

    Args:
        pipeline: Ours.
        plan: What to measure.
        progress: Called with what is about to run.

    Returns:
        Plain values for JSON.
    """
    if plan.size < 8 or plan.repeats < 1:
        raise PatchScalerError("--size takes 8 or more, --repeats 1 or more")
    lrs = [square_of(file, plan.size) for file in plan.images] or [synthetic_photo(plan.size)]
    with torch_threads(plan.threads) as threads:
        device = str(pipeline.model.device)
        peers, skipped = _peers(lrs[0], threads, device, plan, progress) if plan.peers else ({}, {})
        images = []
        for name, lr in zip(plan.images or ["made by code"], lrs, strict=True):
            progress(f"image {name}")
            images.append({"image": name} | _one_image(pipeline, lr, peers, plan.repeats, progress))
    rows = _mean_rows(images)
    fastest = min(
        (name for name in rows if name.startswith(PEER)), key=_seconds_in(rows), default=None
    )
    for row in rows.values():
        row["of_fastest"] = row["median"] / rows[fastest]["median"] if fastest else None
    record = {
        "format": FORMAT,
        "size": plan.size,
        "repeats": plan.repeats,
        "threads": threads,
        "compute": pipeline.model.compute_signature,
        "model": pipeline.model.config.name,
        "flags": processor_flags(),
        "rows": rows,
        "fastest": fastest,
        "skipped": skipped,
        "images": images,
        "environment": environment(),
    }
    if plan.cold_start is not None:
        progress("the command from a cold start")
        record["cold_start"] = cold_start(lrs[0], plan.cold_start)
    return record


def _seconds_in(rows: dict[str, Any]) -> Callable[[str], float]:
    return lambda name: rows[name]["median"]


def _peers(
    lr: np.ndarray, threads: int, device: str, plan: Plan, progress: Callable[[str], None]
) -> tuple[dict[str, tuple[x4plus.Upscale, float]], dict[str, str]]:
    """Runtimes that work here with the seconds of building and warming them up, and the reasons of
    the others.
    """
    found: dict[str, tuple[x4plus.Upscale, float]] = {}
    skipped: dict[str, str] = {}
    for runtime, build in x4plus.runtimes(plan.int8_graph).items():
        name = f"{PEER}, {runtime}"
        progress(f"building {name}")
        began = time.perf_counter()
        try:
            upscale = build(lr, threads, device)
            upscale(lr)  # torch.compile compiles here, and fails here without a compiler
        except Exception as error:  # compilers and runtimes raise every kind
            skipped[name] = (str(error).strip().splitlines() or [type(error).__name__])[0]
            continue
        found[name] = upscale, time.perf_counter() - began
    return found, skipped


def _one_image(
    pipeline: "PatchScaler",
    lr: np.ndarray,
    peers: dict[str, tuple[x4plus.Upscale, float]],
    repeats: int,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    groups = pipeline.model.config.groups
    ours = {OURS: Recorded(pipeline)}
    ours[HARD] = Recorded(pipeline, groups=replace(groups, thresholds=EVERY_HARD))
    functions: dict[str, Callable[[np.ndarray], np.ndarray]] = dict(ours)
    functions |= {name: upscale for name, (upscale, _) in peers.items()}
    results: dict[str, np.ndarray] = {}

    def run(name: str) -> Callable[[], None]:
        return lambda: results.update({name: functions[name](lr)})

    calls = {name: run(name) for name in functions}
    timings = alternate(calls, repeats, pipeline.model.device, progress)
    reference = results.get(f"{PEER}, torch f32")
    rows = {}
    for name, timing in timings.items():
        rows[name] = asdict(timing) | {"db": None}
        if name in peers:
            rows[name]["warm_up"] = peers[name][1]
        peer = name.startswith(PEER) and results[name] is not reference
        if peer and reference is not None:
            rows[name]["db"] = psnr(results[name], reference, "rgb")
    found: dict[str, Any] = {"rows": rows}
    for name, method in ours.items():
        assert method.output is not None
        found[name] = {"stages": method.stages()} | cost_of(method.output)
    return found


def _mean_rows(images: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Means over the images of each image's median."""
    rows = {}
    for name in images[0]["rows"]:
        own = [image["rows"][name] for image in images]
        fields = (*Timing.__dataclass_fields__, "db")
        rows[name] = {
            f: None if own[0][f] is None else float(np.mean([row[f] for row in own]))
            for f in fields
        }
        # only the first image's is a cold one
        rows[name]["warm_up"] = own[0]["warm_up"]
    return rows


def cold_start(lr: np.ndarray, options: Sequence[str]) -> dict[str, float]:
    """Seconds of the command as a process of its own, twice, and of its imports alone."""
    command = [sys.executable, "-m", "patchscaler", "upscale"]
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch) / "in.png", Path(scratch) / "out.png"
        Image.fromarray(lr).save(source)
        whole = [*command, str(source), "-o", str(target), "-q", *options]
        first, second = (_process_seconds(whole) for _ in range(2))
        imports = _process_seconds([sys.executable, "-c", "import patchscaler.pipeline"])
    return {"first": first, "second": second, "imports": imports}


def _process_seconds(command: list[str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise PatchScalerError(f"{' '.join(command[:4])} ...: {reason}")
    return time.perf_counter() - began


# --- the terminal ---------------------------------------------------------------------------------


def lines(record: dict[str, Any]) -> list[str]:
    """For people."""
    size, machine = record["size"], record["environment"]
    count = len(record["images"])
    of = f"mean of {count} images" if count > 1 else record["images"][0]["image"]
    out = [
        f"{size}x{size} -> {4 * size}x{4 * size}, {of}, {record['threads']} threads, medians of "
        f"{record['repeats']} alternating repeats",
        f"{machine['gpu'] or machine['processor']}; flags: {' '.join(record['flags']) or 'none'}",
        f"ours: {record['model']}, {record['compute']}; torch {torch.__version__}",
        "",
    ]
    body = []
    for name, row in record["rows"].items():
        fastest = " *" if name == record["fastest"] else ""
        cells = [number(row[f], 3) for f in ("median", "low", "cpu", "warm_up")]
        ratio = number(row["of_fastest"], 2)
        body.append([name + fastest, *cells, ratio, number(row["db"], 1)])
    out += table(["", "s", "least", "CPU s", "warm-up s", "/ x4plus", "dB"], body)
    if record["fastest"]:
        out.append("* the fastest x4plus: / x4plus is of it; dB: from torch f32 of x4plus")
    out += [f"skipped: {name}: {reason}" for name, reason in record["skipped"].items()]
    for name in (OURS, HARD):
        first = [image[name] for image in record["images"]]
        stages = {s: float(np.mean([i["stages"][s] for i in first])) for s in first[0]["stages"]}
        text = ", ".join(f"{stage} {seconds:.3f}" for stage, seconds in stages.items())
        groups = ", ".join(f"{sum(i['groups'][g] for i in first)} {g}" for g in first[0]["groups"])
        gmac = float(np.mean([i["gmac"] for i in first]))
        out.append(f"{name}: {text} s (encode apart); patches {groups}; {gmac:.1f} GMAC an image")
    if "cold_start" in record:
        c = record["cold_start"]
        out.append(
            f"the command from start to file: {c['first']:.1f} s, again {c['second']:.1f} s; "
            f"its imports {c['imports']:.1f} s"
        )
    return out
