"""A method over pairs of pictures -> results, scores, and everything that is needed to repeat them.

Resumable: every result and every score is one line of records.jsonl, found again by a hash of all
that
it depends on. What changed since (options, weights, a metric's protocol, a picture) is made anew.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.environment import environment
from patchscaler.evaluation.methods import Method, ResultFolder, code_hash
from patchscaler.evaluation.metrics import Metric, MetricUnavailable, get_metric
from patchscaler.evaluation.pairs import Failure, Pair, cut_to_multiple, find_partner, read_picture
from patchscaler.evaluation.sets import file_name
from patchscaler.images.write import save_image

Progress = Callable[[int, int, str], None]  # (pictures done, pictures in all, name of the last)
METRIC_SOURCES = (
    "evaluation/fidelity.py",
    "evaluation/learned.py",
    "evaluation/pyiqa_metrics.py",
    "evaluation/statistics.py",
    "models/perceptual.py",
)


@dataclass
class Row:
    """One picture's result. Hashes are of pixels, so that a file's format does not matter."""

    name: str
    scores: dict[str, float]
    seconds: float | None  # wall time of the method; None for finished pictures
    size: tuple[int, int]  # of the result, (width, height)
    file: str  # the result
    cost: dict[str, Any] = field(default_factory=dict)  # what the method says of its work
    input_hash: str = ""
    original_hash: str = ""
    result_hash: str = ""


@dataclass
class Evaluation:
    """One method on one set of pictures."""

    method: str
    description: dict[str, Any]
    metrics: list[Metric]
    rows: list[Row]
    unavailable: dict[str, str]  # metric -> reason and hint
    failures: list[Failure]
    data: dict[str, Any]
    environment: dict[str, Any]

    @property
    def means(self) -> dict[str, float]:
        """Of every metric over the pictures that have it."""
        values = {
            m.name: [r.scores[m.name] for r in self.rows if m.name in r.scores]
            for m in self.metrics
        }
        return {name: float(np.mean(v)) for name, v in values.items() if v}

    @property
    def counts(self) -> dict[str, int]:
        """How many pictures each mean is over."""
        return {m.name: sum(m.name in r.scores for r in self.rows) for m in self.metrics}

    @property
    def seconds(self) -> float | None:
        """Median wall time of the method on a picture."""
        times = [r.seconds for r in self.rows if r.seconds is not None]
        return float(np.median(times)) if times else None

    def worst_first(self, metric: str) -> list[Row]:
        """The rows that have this score, the worst one first."""
        judge = next(m for m in self.metrics if m.name == metric)
        return sorted(
            (r for r in self.rows if metric in r.scores),
            key=lambda r: -judge.badness(r.scores[metric]),
        )


def resolve_metrics(
    metrics: Sequence[str | Metric],
    crop_border: int = 0,
    *,
    device: str = "cpu",
    niqe_parameters: str | Path | None = None,
) -> tuple[list[Metric], dict[str, str]]:
    """Names -> metrics, and the reasons of those that are unavailable.

    Raises PatchScalerError for unknown names.
    """
    found: list[Metric] = []
    unavailable: dict[str, str] = {}
    for metric in dict.fromkeys(metrics):
        if isinstance(metric, Metric):
            found.append(metric)
            continue
        try:
            found.append(
                get_metric(metric, crop_border, device=device, niqe_parameters=niqe_parameters)
            )
        except MetricUnavailable as error:
            unavailable[metric] = f"{error.reason}; hint: {error.hint}"
    return found, unavailable


def evaluate(
    method: Method | ResultFolder,
    pairs: Sequence[Pair],
    metrics: Sequence[str | Metric],
    out: str | Path,
    *,
    crop_border: int = 0,
    device: str = "cpu",
    niqe_parameters: str | Path | None = None,
    failures: Sequence[Failure] = (),
    unavailable: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Enlarge each pair's LR, save it as out/METHOD/NAME.png, score it.

    metrics: names, or Metrics; crop_border, device (of their networks) and niqe_parameters go with
    names. failures, unavailable: what `load_pairs` could not use and `resolve_metrics` could not
    have, passed on. A picture or a score that fails is listed and the rest goes on.
    """
    resolved, missing = resolve_metrics(
        metrics, crop_border, device=device, niqe_parameters=niqe_parameters
    )
    unavailable = (unavailable or {}) | missing
    folder = Path(out) / file_name(method.name)
    records = Records(folder / "records.jsonl")
    description = method.describe()
    described = _key("method", method.name, description)
    code = code_hash(*METRIC_SOURCES)
    rows: list[Row] = []
    failed = list(failures)
    if pairs and not any(p.hr_file for p in pairs):
        for metric in resolved:
            if metric.needs_reference:
                unavailable[metric.name] = "needs originals to compare with; hint: give --hr"
        resolved = [m for m in resolved if not m.needs_reference]
    for done, pair in enumerate(pairs, 1):
        try:
            row, hr, picture = _result(method, pair, folder, described, records)
        except PatchScalerError as error:
            failed.append(Failure(pair.name, str(error)))
        else:
            failed += _score(row, picture, hr, resolved, code, records)
            rows.append(row)
        if progress:
            progress(done, len(pairs), pair.name)
    data: dict[str, Any] = {
        "pictures": len(pairs),
        "degradation": sorted({p.degradation for p in pairs if p.degradation}) or None,
        "seed": sorted({p.seed for p in pairs if p.degradation}) or None,
        "hash": _key("data", *((r.name, r.input_hash, r.original_hash) for r in rows)),
    }
    return Evaluation(
        method.name, description, resolved, rows, unavailable, failed, data, environment()
    )


def _result(
    method: Method | ResultFolder, pair: Pair, folder: Path, described: str, records: "Records"
) -> tuple[Row, np.ndarray | None, np.ndarray]:
    """The row without scores, the original, and the enlarged picture: from the folder,
    or made now.
    """
    hr = pair.hr
    lr = pair.lr if pair.has_lr else None
    if isinstance(method, ResultFolder):
        picture = method.result(pair.name)
        if hr is not None and picture.shape != hr.shape:
            hr = cut_to_multiple(hr, pair.scale)  # as whoever made the result will have done
        seconds, cost, file = None, {}, find_partner(pair.name, method.files)
    else:
        if lr is None:
            raise PatchScalerError(
                "there is no small picture to enlarge; give --lr or --degradation"
            )
        key, file = _key("result", described, _pixels(lr)), folder / f"{pair.name}.png"
        record = records.find(key)
        stored = _read_if_good(file) if record else None
        if record and stored is not None and _pixels(stored) == record["pixels"]:
            picture, seconds, cost = stored, record["seconds"], record["cost"]
        else:
            began = time.perf_counter()
            picture = _enlarge(method, lr)
            seconds = time.perf_counter() - began
            cost = dict(getattr(method, "cost", {}))
            save_image(Image.fromarray(picture), file)
            records.add(
                {
                    "key": key,
                    "picture": pair.name,
                    "pixels": _pixels(picture),
                    "seconds": seconds,
                    "cost": cost,
                }
            )
    if lr is not None and picture.shape != (lr.shape[0] * pair.scale, lr.shape[1] * pair.scale, 3):
        wanted = f"{lr.shape[1] * pair.scale}x{lr.shape[0] * pair.scale}"
        raise PatchScalerError(f"the result is {picture.shape[1]}x{picture.shape[0]}, not {wanted}")
    if hr is not None and picture.shape != hr.shape:
        sizes = f"{picture.shape[1]}x{picture.shape[0]}, the original {hr.shape[1]}x{hr.shape[0]}"
        raise PatchScalerError(f"sizes do not fit: the result is {sizes}")
    size = (picture.shape[1], picture.shape[0])
    hashes = (_pixels(lr), _pixels(hr), _pixels(picture))
    return Row(pair.name, {}, seconds, size, str(file), cost, *hashes), hr, picture


def _enlarge(method: Method, lr: np.ndarray) -> np.ndarray:
    try:
        picture = method.upscale(lr)
    except PatchScalerError:
        raise
    except Exception as error:  # other people's methods raise every kind; the other pictures go on
        raise PatchScalerError(f"{method.name} failed ({type(error).__name__}: {error})") from error
    if (
        not isinstance(picture, np.ndarray)
        or picture.dtype != np.uint8
        or picture.ndim != 3
        or picture.shape[2] != 3
    ):
        raise PatchScalerError(f"{method.name} gave no (H, W, 3) uint8 picture")
    return picture


def _score(
    row: Row,
    picture: np.ndarray,
    hr: np.ndarray | None,
    metrics: Sequence[Metric],
    code: str,
    records: "Records",
) -> list[Failure]:
    """Fill `row.scores`; what could not be computed is returned. code: hash of the metrics'
    sources.
    """
    failed = []
    for metric in metrics:
        original = row.original_hash if metric.needs_reference else ""
        key = _key(
            "score", metric.name, metric.protocol, metric.weights, code, row.result_hash, original
        )
        record = records.find(key)
        if record:
            row.scores[metric.name] = float(record["value"])
            continue
        try:
            value = metric(picture, hr if metric.needs_reference else None)
        except PatchScalerError as error:
            failed.append(Failure(row.name, str(error)))
            continue
        except Exception as error:
            # memory that ran out, other people's networks: the other scores go on
            failed.append(
                Failure(row.name, f"{metric.name} failed ({type(error).__name__}: {error})")
            )
            continue
        row.scores[metric.name] = value
        records.add({"key": key, "picture": row.name, "metric": metric.name, "value": plain(value)})
    return failed


class Records:
    """Lines of JSON, each with its key; a line that a crash cut off is passed over."""

    def __init__(self, file: Path):
        self.file = file
        self.lines: dict[str, dict[str, Any]] = {}
        text = file.read_text("utf-8") if file.is_file() else ""
        for line in text.splitlines():
            try:
                record = json.loads(line)
                self.lines[record["key"]] = record
            except (ValueError, KeyError, TypeError):
                continue
        if text and not text.endswith("\n"):
            self._append("\n")

    def find(self, key: str) -> dict[str, Any] | None:
        return self.lines.get(key)

    def add(self, record: dict[str, Any]) -> None:
        self.lines[record["key"]] = record
        self._append(json.dumps(record) + "\n")

    def _append(self, text: str) -> None:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with open(self.file, "a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise PatchScalerError(
                f"{self.file}: cannot be written ({error.strerror or error})"
            ) from error


def plain(value: float) -> float | str:
    """JSON knows no infinity: equal pictures have "inf"."""
    return value if math.isfinite(value) else str(value)


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _pixels(picture: np.ndarray | None) -> str:
    if picture is None:
        return ""
    return hashlib.sha256(
        str(picture.shape).encode() + np.ascontiguousarray(picture).tobytes()
    ).hexdigest()


def _read_if_good(file: Path) -> np.ndarray | None:
    try:
        return read_picture(file)
    except PatchScalerError:
        return None
