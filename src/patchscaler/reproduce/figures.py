"""Figures 5, 7, 8 and 9: what groups and memory look like with the weights that are there."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from patchscaler.config import GROUP_NAMES
from patchscaler.diffusion.groups import assign_groups
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.pairs import Failure, Pair
from patchscaler.images.overlay import COLORS, difficulty_overlay
from patchscaler.images.write import save_image
from patchscaler.pipeline import PatchScaler
from patchscaler.reproduce.chain import patch_pictures, restore
from patchscaler.reproduce.paper import FIGURE_5_SHARE_ABOVE_70
from patchscaler.reproduce.pictures import Source
from patchscaler.reproduce.report import Report, Row
from patchscaler.reproduce.sheet import Cell, sheet
from patchscaler.texture_memory import TextureMemory

PAPER_THRESHOLDS = (0.95, 0.75)
FRAMES = [(int(r), int(g), int(b)) for r, g, b in COLORS]
WEIGHTS = "The weights are those of this model, not the paper's, which were never published."


# --- Figure 5 -------------------------------------------------------------------------------------


def figure5(model: PatchScaler, source: Source, out: Path, bins: int = 20) -> Report:
    """Share of the patches in each interval of confidence, and the groups that thresholds make of
    them.
    """
    restored, failures = [], list(source.failures)
    for pair in source.pairs:
        try:
            restored.append(restore(model, pair.lr))
        except PatchScalerError as error:
            failures.append(Failure(pair.name, str(error)))
    if not restored:
        raise PatchScalerError(f"{source.name}: no picture could be restored ({failures[0]})")
    scores = torch.cat([r.scores for r in restored])  # (M of all pictures,)
    shares = torch.histc(scores, bins, 0, 1) / len(scores)
    edges = [i / bins for i in range(bins + 1)]
    report = Report(
        "figure5", f"Figure 5: {len(scores)} patches by mean confidence", {"share of patches": 3}
    )
    for i, share in enumerate(shares.tolist()):
        if share:
            report.rows.append(
                Row(f"{edges[i]:.2f} to {edges[i + 1]:.2f}", {}, {"share of patches": share})
            )
    high = float((scores >= 0.7).float().mean())
    report.rows.append(
        Row(
            ".70 to 1.00 in all",
            {"share of patches": FIGURE_5_SHARE_ABOVE_70},
            {"share of patches": high},
        )
    )
    for label, thresholds in (
        ("paper's", PAPER_THRESHOLDS),
        ("own", model.config.groups.thresholds),
    ):
        groups = assign_groups(scores, thresholds)
        for g, name in enumerate(GROUP_NAMES):
            row = Row(f"{name}, {label} thresholds {thresholds[0]:.2f}, {thresholds[1]:.2f}")
            row.here["share of patches"] = float((groups == g).float().mean())
            report.rows.append(row)
    report.differs = [
        WEIGHTS,
        "Confidence is eta over the squared error (Eq. 1), so eta, which the paper does not "
        "give, moves every "
        "bar; a model's own thresholds are quantiles of held-out pictures for this reason.",
        f"{source.name} in place of RealSet110, which was not published.",
    ]
    report.details = {
        "edges": edges,
        "shares": shares.tolist(),
        "patches": len(scores),
        "mean": float(scores.mean()),
    }
    file = out / "figure5.png"
    save_image(_histogram(edges, shares.tolist(), model.config.groups.thresholds), file)
    report.figures.append(str(file))
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
            "the histogram needs matplotlib: pip install 'patchscaler[plots]'"
        ) from error
    figure = Figure(figsize=(7, 4), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.bar(
        edges[:-1],
        [100 * s for s in shares],
        width=edges[1] - edges[0],
        align="edge",
        edgecolor="white",
    )
    for value, name in zip(thresholds, ("γ₁", "γ₂"), strict=True):
        axes.axvline(value, color="black", linestyle="--", linewidth=1)
        axes.annotate(
            f"{name} {value:.2f}",
            (value, 1),
            xycoords=("data", "axes fraction"),
            va="top",
            ha="left",
        )
    axes.set(xlim=(0, 1), xlabel="mean confidence of a patch", ylabel="share of patches, %")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


# --- Figure 7 -------------------------------------------------------------------------------------


def figure7(model: PatchScaler, source: Source, out: Path, seed: int = 0) -> Report:
    """Coarse picture, confidence and groups of each picture, side by side."""
    report = Report(
        "figure7",
        "Figure 7: groups over pictures (share of patches)",
        dict.fromkeys(GROUP_NAMES, 3),
    )
    rows, labels, failures = [], [], list(source.failures)
    for pair in source.pairs:
        try:
            result = model.upscale(pair.lr, seed=seed, coarse=True, max_pixels=0)
        except PatchScalerError as error:
            failures.append(Failure(pair.name, str(error)))
            continue
        shares = {n: float((result.groups == g).mean()) for g, n in enumerate(GROUP_NAMES)}
        report.rows.append(Row(pair.name, {}, shares))
        confidence = Image.fromarray((result.confidence * 255).round().astype("uint8"))
        confidence = confidence.resize([8 * s for s in confidence.size], Image.Resampling.NEAREST)
        assert result.coarse is not None
        confidence = confidence.crop((0, 0, *result.coarse.size))
        counts = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        rows.append(
            [
                Cell(result.coarse, "coarse"),
                Cell(confidence, f"confidence, mean {result.confidence.mean():.2f}"),
                Cell(difficulty_overlay(result), counts),
            ]
        )
        labels.append(pair.name)
    if not rows:
        raise PatchScalerError(f"{source.name}: no picture could be drawn ({failures[0]})")
    report.differs = [
        WEIGHTS,
        f"Pictures are of {source.name}; the paper does not name its own.",
        "Simple is dark blue, medium orange, hard yellow; the coarse picture is decoded by this "
        "model's own "
        "autoencoder.",
    ]
    report.figures.append(draw(sheet(rows, labels, largest=400), out / "figure7.png"))
    return finished(report, source, failures)


# --- Figure 8 -------------------------------------------------------------------------------------


def figure8(model: PatchScaler, out: Path, per_class: int = 10) -> Report:
    """The texture memory by class: the entries the classifier is surest of, and how many each class
    has.
    """
    memory, classes = memory_of(model), model.config.texture.classes
    if not classes:
        raise PatchScalerError(
            "this model's texture classifier names no classes: train it, or take another model"
        )
    probabilities = class_probabilities(model, memory.values)  # (M, classes)
    best, label = probabilities.max(1)
    report = Report(
        "figure8",
        f"Figure 8: the {len(memory)} entries of the memory by class",
        {"entries": 0, "p": 2},
    )
    rows, labels = [], []
    for c, name in enumerate(classes):
        own = (label == c).nonzero()[:, 0]
        if not len(own):
            report.rows.append(Row(name, {}, {"entries": 0}))
            continue
        report.rows.append(Row(name, {}, {"entries": len(own), "p": float(best[own].mean())}))
        shown = own[best[own].argsort(descending=True)][:per_class]
        pictures = patch_pictures(model, memory.values[shown])
        rows.append(
            [Cell(p, f"{name} {best[i]:.2f}") for p, i in zip(pictures, shown, strict=True)]
        )
        labels.append(f"{name} {len(own)}")
    report.differs = [
        "The memory is this model's own, of openly licensed pictures; the paper's, of DIV2K, OST "
        "and Manga109, "
        "was not published.",
        f"{len(classes)} classes in place of DTD's 47, whose licence allows research only; p is "
        "the mean "
        "probability of the class that was named.",
        "The paper shows a choice of its own; here it is the entries of each class the "
        "classifier is surest of.",
    ]
    report.figures.append(draw(sheet(rows, labels, largest=128), out / "figure8.png"))
    report.details = {
        "classes": {row.label: row.here for row in report.rows},
        "key_model": memory.key_model,
    }
    return finished(report)


# --- Figure 9 -------------------------------------------------------------------------------------


def figure9(
    model: PatchScaler, source: Source, out: Path, patches: list[int] | None = None
) -> Report:
    """Coarse patches, and the textures the memory gives for each, with their scores.

    patches: numbers in each picture, row by row over its grid; by default the least sure and the
    middle one.
    """
    memory, classes = memory_of(model), model.config.texture.classes
    k = min(model.config.texture.top_k, len(memory))
    columns = {f"score {i + 1}": 3 for i in range(k)}
    report = Report("figure9", f"Figure 9: the {k} most similar of {len(memory)} textures", columns)
    rows, labels, failures = [], [], list(source.failures)
    for pair in source.pairs:
        try:
            restored = restore(model, pair.lr)
        except PatchScalerError as error:
            failures.append(Failure(pair.name, str(error)))
            continue
        order = restored.scores.argsort()
        chosen = [int(order[0]), int(order[len(order) // 2])] if patches is None else patches
        if beyond := [p for p in chosen if not 0 <= p < len(order)]:
            failures.append(
                Failure(pair.name, f"has no patch {beyond[0]}, only 0 to {len(order) - 1}")
            )
            continue
        y_0 = restored.coarse[chosen]  # (n, C, V, V)
        # (n, K, C, V, V), (n, K)
        values, scores, entries = memory.lookup(model.classifier.keys(y_0), k)
        for i, place in enumerate(chosen):
            corner = restored.grid.corners()[place]
            row = [
                Cell(
                    patch_pictures(model, y_0[i : i + 1])[0],
                    _where(corner),
                    FRAMES[int(restored.groups[place])],
                )
            ]
            if (
                truth := _truth(pair, corner, restored.grid.size * model.autoencoder.factor)
            ) is not None:
                row.append(Cell(truth, "original"))
            named = class_probabilities(model, values[i]).argmax(1).tolist()
            for j, picture in enumerate(patch_pictures(model, values[i])):
                name = classes[named[j]] if classes else str(int(entries[i, j]))
                row.append(Cell(picture, f"{scores[i, j]:.3f} {name}"))
            rows.append(row)
            labels.append(f"{pair.name} {place}")
            here = {f"score {j + 1}": float(s) for j, s in enumerate(scores[i])}
            report.rows.append(
                Row(f"{pair.name} patch {place}", {}, here, f"entries {entries[i].tolist()}")
            )
    if not rows:
        raise PatchScalerError(f"{source.name}: no patch could be drawn ({failures[0]})")
    report.differs = [
        WEIGHTS,
        "The memory is this model's own. The mean of its keys has length "
        f"{float(memory.keys.mean(0).norm()):.2f} "
        "(0 if they lay evenly), so that scores are high throughout; what matters is their order.",
        "The frame says the patch's group: dark blue simple, orange medium, yellow hard.",
    ]
    report.figures.append(draw(sheet(rows, labels, largest=128), out / "figure9.png"))
    return finished(report, source, failures)


def _where(corner: tuple[int, int]) -> str:
    return f"at {8 * corner[1]}, {8 * corner[0]}"


def _truth(pair: Pair, corner: tuple[int, int], side: int) -> Image.Image | None:
    """The same place of the original, where there is one."""
    hr = pair.hr
    if hr is None:
        return None
    top, left = (8 * c for c in corner)
    return Image.fromarray(hr[top : top + side, left : left + side])


# --- shared ---------------------------------------------------------------------------------------


def memory_of(model: PatchScaler) -> TextureMemory:
    """The model's texture memory. Raises PatchScalerError where it has none."""
    if model.memory is None:
        raise PatchScalerError(
            "this model has no texture memory: build one with 'patchscaler memory build'"
        )
    return model.memory


@torch.inference_mode()
def class_probabilities(model: PatchScaler, latents: torch.Tensor) -> torch.Tensor:
    """(n, C, V, V) -> (n, classes), on the CPU."""
    parts = [model.classifier(z.float().to(model.device)).float() for z in latents.split(256)]
    return torch.cat(parts).softmax(1).cpu()


def draw(picture: Image.Image, file: Path) -> str:
    save_image(picture, file)
    return str(file)


def finished(
    report: Report, source: Source | None = None, failures: list[Failure] | None = None
) -> Report:
    report.data = [source.described] if source else []
    report.failures = [str(f) for f in failures or []]
    return report
