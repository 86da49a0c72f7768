"""Methods over pairs of images -> results, scores, and everything that is needed to repeat them.

Resumable: every result and every score is one line of records.jsonl, found again by a hash of all
that it depends on. What changed since (options, weights, a metric's protocol, an image) is made
anew.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.environment import environment
from patchscaler.evaluation.methods import Method, ResultFolder, code_hash
from patchscaler.evaluation.metric import Measure, SetMetric
from patchscaler.evaluation.metrics import AnyMetric, resolve_metrics
from patchscaler.evaluation.pairs import Failure, Pair, cut_to_multiple, read_image
from patchscaler.evaluation.records import Records, key_of, plain
from patchscaler.evaluation.sets import ImageSet, file_name
from patchscaler.evaluation.specs import AnyMethod, Settings, Spec, build_methods
from patchscaler.images.write import save_image
from patchscaler.progress import Callback, Progress

METRIC_SOURCES = (
    "evaluation/fidelity.py",
    "evaluation/learned.py",
    "evaluation/niqe.py",
    "evaluation/patch_kid.py",
    "evaluation/pyiqa_metrics.py",
    "models/perceptual.py",
)


@dataclass
class Row:
    """One image's result. Hashes are of pixels, so that a file's format does not matter."""

    name: str
    scores: dict[str, float]
    seconds: float | None  # wall time of the method; None for finished images
    size: tuple[int, int]  # of the result, (width, height)
    file: str  # the result
    cost: dict[str, Any] = field(default_factory=dict)  # what the method knows of its work
    input_hash: str = ""
    reference_hash: str = ""
    result_hash: str = ""


@dataclass
class Evaluation:
    """One method on one set of images."""

    method: str
    description: dict[str, Any]
    metrics: list[Measure]
    rows: list[Row]
    set_scores: dict[str, float]  # of metrics of whole sets
    unavailable: dict[str, str]  # metric -> reason and hint
    failures: list[Failure]
    data: dict[str, Any]
    environment: dict[str, Any]

    @property
    def seconds(self) -> float | None:
        """Median wall time of the method on an image."""
        times = [r.seconds for r in self.rows if r.seconds is not None]
        return float(np.median(times)) if times else None

    def mean_cost(self, name: str) -> float | None:
        """Of a number in the rows' cost (nfe, gmac); None where the method has none."""
        values = [row.cost[name] for row in self.rows if name in row.cost]
        return float(np.mean(values)) if values else None


@dataclass
class Comparison:
    """Methods on one set, in the order they were named."""

    images: ImageSet
    evaluations: list[Evaluation]
    unavailable: dict[str, str] = field(default_factory=dict)  # method -> reason and hint


def metrics_of(evaluations: Sequence[Evaluation]) -> list[Measure]:
    """Every metric of any evaluation, once, in order."""
    return list({m.name: m for e in evaluations for m in e.metrics}.values())


def common_means(
    evaluations: Sequence[Evaluation],
) -> tuple[list[dict[str, float]], dict[str, int]]:
    """Means of each evaluation over the images that all of them have a score for, and their number.

    So a method that failed on a hard image gains nothing by it. A metric that an evaluation has for
    no image at all is left out for that one only.
    """
    means: list[dict[str, float]] = [dict(e.set_scores) for e in evaluations]
    counts: dict[str, int] = {}
    for metric in metrics_of(evaluations):
        if isinstance(metric, SetMetric):
            counts[metric.name] = min(
                (len(e.rows) for e in evaluations if metric.name in e.set_scores), default=0
            )
            continue
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


def compare(
    specs: Sequence[Spec],
    sets: Sequence[ImageSet],
    metrics: Sequence[str | AnyMetric],
    out: str | Path,
    settings: Settings,
    *,
    crop_border: int = 0,
    device: str = "cpu",
    callback: Callback | None = None,
) -> list[Comparison]:
    """Run every method over every set.

    Args:
        specs: Methods, of `parse_specs`.
        sets: Of `open_sets`.
        metrics: Names, or metrics.
        out: One set has its results in `out`, several each in a folder of its own there.
        settings: What all methods share.
        crop_border: Pixels cut off each side before scoring.
        device: Where the metrics' networks run.
        callback: Called after every image.

    Raises:
        PatchScalerError: No method is available.
    """
    methods, unavailable = build_methods(specs, settings)
    if not methods:
        raise PatchScalerError("; ".join(f"{name}: {why}" for name, why in unavailable.items()))
    # Their networks are built once, and not for every method.
    found, missing = resolve_metrics(metrics, crop_border, device=device)
    comparisons = []
    for images in sets:
        folder = Path(out) if len(sets) == 1 else Path(out) / images.folder
        evaluations = [
            evaluate(
                method,
                images.pairs,
                found,
                folder,
                failures=images.failures,
                unavailable=missing,
                callback=callback,
            )
            for method in methods
        ]
        comparisons.append(Comparison(images, evaluations, unavailable))
    return comparisons


def evaluate(
    method: AnyMethod,
    pairs: Sequence[Pair],
    metrics: Sequence[AnyMetric],
    out: str | Path,
    *,
    failures: Sequence[Failure] = (),
    unavailable: dict[str, str] | None = None,
    callback: Callback | None = None,
) -> Evaluation:
    """Upscale each pair's LR image, save it as out/METHOD/NAME.png, score it.

    An image or a score that fails is listed and the rest goes on.

    Args:
        method: What upscales, or a folder of finished images.
        pairs: Of `load_pairs`.
        metrics: Of `resolve_metrics`.
        out: Folder of results and records.
        failures: What `load_pairs` could not use, passed on.
        unavailable: Metrics that `resolve_metrics` could not build, passed on.
        callback: Called after every image.
    """
    unavailable = dict(unavailable or {})
    folder = Path(out) / file_name(method.name)
    records = Records(folder / "records.jsonl")
    description = method.describe()
    described = key_of("method", method.name, description)
    code = code_hash(*METRIC_SOURCES)
    failed = list(failures)
    if not any(p.hr_file for p in pairs):
        for metric in metrics:
            if metric.needs_reference:
                unavailable[metric.name] = "needs HR images to compare with. Hint: give --hr"
        metrics = [m for m in metrics if not m.needs_reference]
    rows: list[Row] = []
    sets = {m.name: _SetScore(m) for m in metrics if isinstance(m, SetMetric)}
    for done, pair in enumerate(pairs, 1):
        try:
            row, hr, image = _result(method, pair, folder, described, records)
        except PatchScalerError as error:
            failed.append(Failure(pair.name, str(error)))
        else:
            rows.append(row)
            for metric in metrics:
                try:
                    if isinstance(metric, SetMetric):
                        sets[metric.name].add(image, hr)
                    else:
                        row.scores[metric.name] = _score(metric, row, image, hr, code, records)
                except PatchScalerError as error:
                    failed.append(Failure(pair.name, str(error)))
                except Exception as error:  # memory, other people's networks: the others go on
                    reason = f"{metric.name} failed ({type(error).__name__}: {error})"
                    failed.append(Failure(pair.name, reason))
        if callback:
            callback(Progress(f"{method.name}: {pair.name}", done, len(pairs)))
    degradations = sorted({p.degradation for p in pairs if p.degradation})
    data = {
        "images": len(pairs),
        "degradation": degradations or None,
        "seed": sorted({p.seed for p in pairs if p.degradation}) or None,
        "hash": key_of("data", *((r.name, r.input_hash, r.reference_hash) for r in rows)),
    }
    return Evaluation(
        method=method.name,
        description=description,
        metrics=list(metrics),
        rows=rows,
        set_scores={name: score.value() for name, score in sets.items() if score.real},
        unavailable=unavailable,
        failures=failed,
        data=data,
        environment=environment(),
    )


class _SetScore:
    """Features of all images so far. Those of HR images are kept for the methods that follow."""

    known: dict[tuple[str, str], np.ndarray] = {}  # noqa: RUF012 - one cache for all

    def __init__(self, metric: SetMetric):
        self.metric = metric
        self.real: list[np.ndarray] = []
        self.fake: list[np.ndarray] = []

    def add(self, image: np.ndarray, hr: np.ndarray | None) -> None:
        if hr is None:
            raise PatchScalerError(f"{self.metric.name}: needs the HR image")
        key = self.metric.protocol, _pixels(hr)
        if key not in self.known:
            self.known[key] = self.metric.of_image(hr, "the HR image")
        fake = self.metric.of_image(image)
        self.real.append(self.known[key])
        self.fake.append(fake)

    def value(self) -> float:
        return self.metric.distance(np.concatenate(self.real), np.concatenate(self.fake))


def _result(
    method: AnyMethod, pair: Pair, folder: Path, described: str, records: Records
) -> tuple[Row, np.ndarray | None, np.ndarray]:
    """The row without scores, the HR image, and the result: from the folder, or made now."""
    hr = pair.hr
    lr = pair.lr if pair.has_lr else None
    seconds, cost = None, {}
    if isinstance(method, ResultFolder):
        image, file = method.result(pair.name)
        if hr is not None and image.shape != hr.shape:
            hr = cut_to_multiple(hr, pair.scale)  # as whoever made the result will have done
    else:
        if lr is None:
            raise PatchScalerError("no LR image to upscale. Hint: give --lr or --degradation")
        key, file = key_of("result", described, _pixels(lr)), folder / f"{pair.name}.png"
        record = records.find(key)
        stored = _read_if_good(file) if record else None
        if record and stored is not None and _pixels(stored) == record["pixels"]:
            image, seconds, cost = stored, record["seconds"], record["cost"]
        else:
            began = time.perf_counter()
            image = _upscale(method, lr)
            seconds = time.perf_counter() - began
            cost = dict(getattr(method, "cost", {}))
            save_image(Image.fromarray(image), file)
            entry = {"key": key, "image": pair.name, "pixels": _pixels(image)}
            records.add(entry | {"seconds": seconds, "cost": cost})
    expected = None if lr is None else (lr.shape[0] * pair.scale, lr.shape[1] * pair.scale, 3)
    for other, which in ((expected, "4 times the LR image"), (hr, "the HR image")):
        shape = getattr(other, "shape", other)
        if shape is not None and image.shape != shape:
            sizes = f"{image.shape[1]}x{image.shape[0]}, {which} {shape[1]}x{shape[0]}"
            raise PatchScalerError(f"sizes do not fit: the result is {sizes}")
    hashes = (_pixels(lr), _pixels(hr), _pixels(image))
    size = (image.shape[1], image.shape[0])
    return Row(pair.name, {}, seconds, size, str(file), cost, *hashes), hr, image


def _upscale(method: Method, lr: np.ndarray) -> np.ndarray:
    try:
        image = method.upscale(lr)
    except PatchScalerError:
        raise
    except Exception as error:  # other people's methods raise every kind; the other images go on
        raise PatchScalerError(f"{method.name} failed ({type(error).__name__}: {error})") from error
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
        raise PatchScalerError(f"{method.name} gave no (H, W, 3) uint8 image")
    return image


def _score(
    metric: AnyMetric,
    row: Row,
    image: np.ndarray,
    hr: np.ndarray | None,
    code: str,
    records: Records,
) -> float:
    """From the records, or computed now. code: hash of the metrics' sources."""
    reference = row.reference_hash if metric.needs_reference else ""
    parts = (metric.name, metric.protocol, metric.weights, code, row.result_hash, reference)
    key = key_of("score", *parts)
    record = records.find(key)
    if record:
        return float(record["value"])
    assert not isinstance(metric, SetMetric)
    value = metric(image, hr if metric.needs_reference else None)
    records.add({"key": key, "image": row.name, "metric": metric.name, "value": plain(value)})
    return value


def _pixels(image: np.ndarray | None) -> str:
    if image is None:
        return ""
    data = str(image.shape).encode() + np.ascontiguousarray(image).tobytes()
    return hashlib.sha256(data).hexdigest()


def _read_if_good(file: Path) -> np.ndarray | None:
    try:
        return read_image(file)
    except PatchScalerError:
        return None
