"""Figures 5, 7, 8 and 9: what groups and memory look like with the weights that are there."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from patchscaler.config import GROUP_NAMES
from patchscaler.diffusion.groups import assign_groups
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.pairs import Failure, Pair
from patchscaler.images.overlay import COLORS, difficulty_overlay
from patchscaler.images.write import save_image
from patchscaler.model import Model
from patchscaler.pipeline import PatchScaler
from patchscaler.reproduce.ablations import eq2
from patchscaler.reproduce.chain import patch_images, restore
from patchscaler.reproduce.paper import ABOVE_70, DEFAULT_THRESHOLDS
from patchscaler.reproduce.report import WEIGHTS, Report, Row
from patchscaler.reproduce.sheet import Cell, sheet
from patchscaler.reproduce.sources import Source
from patchscaler.texture_memory import TextureMemory

FRAMES = [(int(r), int(g), int(b)) for r, g, b in COLORS]
Made = TypeVar("Made")


def each(
    source: Source, function: Callable[[np.ndarray], Made], failures: list[Failure]
) -> Iterator[tuple[Pair, Made]]:
    """Of every image; what fails is listed. Raises PatchScalerError where nothing works."""
    done = 0
    failures += source.failures
    for pair in source.pairs:
        try:
            made = function(pair.lr)
        except PatchScalerError as error:
            failures.append(Failure(pair.name, str(error)))
            continue
        done += 1
        yield pair, made
    if not done:
        raise PatchScalerError(f"{source.name}: no image can be used ({failures[0]})")


# --- Figure 5 -------------------------------------------------------------------------------------


def figure5(pipeline: PatchScaler, source: Source, out: Path, bins: int = 20) -> Report:
    """Share of the patches in each interval of confidence, and the groups that thresholds make of
    them, by Eq. 2 alone.
    """
    model, failures = pipeline.model, list[Failure]()
    groups = eq2(model.config.groups)
    restored = each(source, lambda lr: restore(model, lr, groups), failures)
    scores = torch.cat([r.scores for _, r in restored])  # (M of all images,)
    shares = (torch.histc(scores, bins, 0, 1) / len(scores)).tolist()
    edges = [i / bins for i in range(bins + 1)]
    title = f"Figure 5: {len(scores)} patches by mean confidence"
    column = "share of patches"
    report = Report("figure5", title, {column: 3})
    for i, share in enumerate(shares):
        if share:
            report.rows.append(Row(f"{edges[i]:.2f} to {edges[i + 1]:.2f}", {}, {column: share}))
    high = float((scores >= 0.7).float().mean())
    report.rows.append(Row(".70 to 1.00 in all", {column: ABOVE_70}, {column: high}))
    for label, thresholds in (("paper's", DEFAULT_THRESHOLDS), ("own", groups.thresholds)):
        parted = assign_groups(scores, thresholds)
        for g, name in enumerate(GROUP_NAMES):
            row = Row(f"{name}, {label} thresholds {thresholds[0]:.2f}, {thresholds[1]:.2f}")
            row.here[column] = float((parted == g).float().mean())
            report.rows.append(row)
    report.differs = [
        WEIGHTS,
        "Eq. 2 alone: least_confidence, by which this model never calls a patch with an unsure "
        "place simple, is off.",
        "Confidence is eta over the squared error (Eq. 1), so eta, which the paper does not "
        "give, moves every bar; a model's own thresholds are quantiles of held-out images for this "
        "reason.",
        f"{source.name} in place of RealSet110, which was not published.",
    ]
    report.details = {"edges": edges, "shares": shares, "patches": len(scores)}
    file = out / "figure5.png"
    report.figures.append(draw(_histogram(edges, shares, groups.thresholds), file))
    return finished(report, source, failures)


def _histogram(
    edges: list[float], shares: list[float], thresholds: tuple[float, float]
) -> Image.Image:
    """Bars with matplotlib. Raises PatchScalerError where it is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PatchScalerError(
            "the histogram needs matplotlib. Hint: pip install 'patchscaler[evaluate]'"
        ) from error
    figure = Figure(figsize=(7, 4), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    heights = [100 * s for s in shares]
    axes.bar(edges[:-1], heights, width=edges[1] - edges[0], align="edge", edgecolor="white")
    for value, name in zip(thresholds, ("γ₁", "γ₂"), strict=True):
        axes.axvline(value, color="black", linestyle="--", linewidth=1)
        place: Any = ("data", "axes fraction")
        axes.annotate(f"{name} {value:.2f}", (value, 1), xycoords=place, va="top", ha="left")
    axes.set(xlim=(0, 1), xlabel="mean confidence of a patch", ylabel="share of patches, %")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


# --- Figure 7 -------------------------------------------------------------------------------------


def figure7(pipeline: PatchScaler, source: Source, out: Path, seed: int = 0) -> Report:
    """Coarse image, confidence and groups of each image, side by side."""
    title = "Figure 7: groups over images (share of patches)"
    report = Report("figure7", title, dict.fromkeys(GROUP_NAMES, 3))
    rows, failures = [], list[Failure]()
    made = each(
        source, lambda lr: pipeline.upscale(lr, seed=seed, maps=True, max_pixels=0), failures
    )
    for pair, output in made:
        shares = {n: float((output.groups == g).mean()) for g, n in enumerate(GROUP_NAMES)}
        report.rows.append(Row(pair.name, {}, shares))
        assert output.coarse is not None
        coarse = Image.fromarray(output.coarse)
        confidence = Image.fromarray((output.confidence * 255).round().astype("uint8"))
        confidence = confidence.resize([8 * s for s in confidence.size], Image.Resampling.NEAREST)
        counts = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        rows.append(
            [
                Cell(coarse, "coarse"),
                Cell(
                    confidence.crop((0, 0, *coarse.size)),
                    f"confidence, mean {output.confidence.mean():.2f}",
                ),
                Cell(difficulty_overlay(output), counts),
            ]
        )
    report.differs = [
        WEIGHTS,
        f"Images are of {source.name}; the paper does not name its own.",
        "Simple is dark blue, medium orange, hard yellow; the coarse image is decoded by this "
        "model's own autoencoder.",
    ]
    labels = [row.label for row in report.rows]
    report.figures.append(draw(sheet(rows, labels, largest=400), out / "figure7.png"))
    return finished(report, source, failures)


# --- Figure 8 -------------------------------------------------------------------------------------


def figure8(pipeline: PatchScaler, out: Path, per_class: int = 10) -> Report:
    """The texture memory by class: the entries the classifier is surest of, and how many each class
    has.
    """
    model = pipeline.model
    memory, classes = memory_of(model), model.config.texture.classes
    if not classes:
        raise PatchScalerError(
            "this model's texture classifier names no classes. Hint: train it, or take another "
            "model"
        )
    best, label = class_probabilities(model, memory.values).max(1)  # (M,) each
    title = f"Figure 8: the {len(memory)} entries of the memory by class"
    report = Report("figure8", title, {"entries": 0, "p": 2})
    rows, labels = [], []
    for c, name in enumerate(classes):
        own = (label == c).nonzero()[:, 0]
        if not len(own):
            report.rows.append(Row(name, {}, {"entries": 0}))
            continue
        report.rows.append(Row(name, {}, {"entries": len(own), "p": float(best[own].mean())}))
        shown = own[best[own].argsort(descending=True)][:per_class]
        images = patch_images(model, memory.values[shown])
        rows.append([Cell(x, f"{name} {best[i]:.2f}") for x, i in zip(images, shown, strict=True)])
        labels.append(f"{name} {len(own)}")
    report.differs = [
        "The memory is this model's own, of openly licensed images; the paper's, of DIV2K, OST "
        "and Manga109, was not published.",
        f"{len(classes)} classes in place of DTD's 47, whose licence allows research only; p is "
        "the mean probability of the class that was named.",
        "The paper shows a choice of its own; here it is the entries of each class the "
        "classifier is surest of.",
    ]
    report.figures.append(draw(sheet(rows, labels, largest=128), out / "figure8.png"))
    report.details = {"key_model": memory.key_model}
    return finished(report)


# --- Figure 9 -------------------------------------------------------------------------------------


def figure9(
    pipeline: PatchScaler, source: Source, out: Path, patches: list[int] | None = None
) -> Report:
    """Coarse patches, and the textures the memory gives for each, with their scores.

    patches: numbers in each image, row by row over its grid; by default the least sure and the
    middle one.
    """
    model = pipeline.model
    memory, classes = memory_of(model), model.config.texture.classes
    k, f = model.top_k, model.factor
    columns = {f"score {i + 1}": 3 for i in range(k)}
    report = Report("figure9", f"Figure 9: the {k} most similar of {len(memory)} textures", columns)
    rows, failures = [], list[Failure]()
    for pair, restored in each(source, lambda lr: restore(model, lr), failures):
        order = restored.scores.argsort().tolist()
        chosen = [order[0], order[len(order) // 2]] if patches is None else patches
        if beyond := [p for p in chosen if not 0 <= p < len(order)]:
            reason = f"has no patch {beyond[0]}, only 0 to {len(order) - 1}"
            failures.append(Failure(pair.name, reason))
            continue
        y_0 = restored.coarse[chosen].to(model.device)  # (n, C, V, V)
        with torch.inference_mode():
            # (n, K, C, V, V), (n, K), (n, K)
            values, scores, entries = memory.lookup(model.classifier.keys(y_0), k)
        hr = pair.hr
        for i, number in enumerate(chosen):
            top, left = (f * side for side in restored.grid.corners()[number])
            frame = FRAMES[int(restored.groups[number])]
            row = [Cell(patch_images(model, y_0[i : i + 1])[0], f"at {left}, {top}", frame)]
            if hr is not None:
                side = f * restored.grid.size
                place = hr[top : top + side, left : left + side]
                row.append(Cell(Image.fromarray(place), "HR"))
            named = class_probabilities(model, values[i]).argmax(1).tolist()
            for j, image in enumerate(patch_images(model, values[i])):
                name = classes[named[j]] if classes else str(int(entries[i, j]))
                row.append(Cell(image, f"{scores[i, j]:.3f} {name}"))
            rows.append(row)
            here = {f"score {j + 1}": float(s) for j, s in enumerate(scores[i])}
            label = f"{pair.name} patch {number}"
            report.rows.append(Row(label, {}, here, f"entries {entries[i].tolist()}"))
    if not rows:
        raise PatchScalerError(f"{source.name}: no patch could be drawn ({failures[0]})")
    mean = float(memory.keys.mean(0).norm())
    report.differs = [
        WEIGHTS,
        f"The memory is this model's own. The mean of its keys has length {mean:.2f} (0 if they "
        "lay evenly), so that scores are high throughout; what matters is their order.",
        "The frame says the patch's group: dark blue simple, orange medium, yellow hard.",
    ]
    labels = [row.label for row in report.rows]
    report.figures.append(draw(sheet(rows, labels, largest=128), out / "figure9.png"))
    return finished(report, source, failures)


# --- shared ---------------------------------------------------------------------------------------


def memory_of(model: Model) -> TextureMemory:
    """The model's texture memory. Raises PatchScalerError where it has none."""
    if model.memory is None:
        raise PatchScalerError(
            f"{model.config.name}: has no texture memory. Hint: build one with 'patchscaler memory "
            "build'"
        )
    return model.memory


@torch.inference_mode()
def class_probabilities(model: Model, latents: torch.Tensor) -> torch.Tensor:
    """(n, C, V, V) -> (n, classes), on the CPU."""
    parts = [model.classifier(z.float().to(model.device)).float() for z in latents.split(256)]
    return torch.cat(parts).softmax(1).cpu()


def draw(image: Image.Image, file: Path) -> str:
    save_image(image, file)
    return str(file)


def finished(
    report: Report, source: Source | None = None, failures: list[Failure] | None = None
) -> Report:
    report.data = [source.described] if source else []
    report.failures = [str(f) for f in failures or []]
    return report
