"""What was measured, drawn with matplotlib: a panel for the methods, one for the stages, one for
each sweep.
"""

import importlib.util
from pathlib import Path
from typing import Any

from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.cost.report import KEYS
from patchscaler.images.write import check_writable, replacing

SUFFIXES = (".png", ".svg", ".pdf")


def check_plot(file: str | Path) -> None:
    """Before anything is measured: can it be drawn, and written? Raises PatchScalerError."""
    if importlib.util.find_spec("matplotlib") is None:
        raise PatchScalerError("--plot needs matplotlib: pip install 'patchscaler[plots]'")
    if Path(file).suffix.lower() not in SUFFIXES:
        raise PatchScalerError(f"{file}: plots are written as {', '.join(SUFFIXES)}")
    check_writable(Path(file))


def plot_benchmark(record: dict[str, Any], file: str | Path) -> None:
    """`record` of `cost.benchmark.benchmark`."""
    sweeps = record["sweeps"]
    panels = ["methods", "stages", *sweeps]
    figure, axes = _panels(len(panels))
    bars = {name: m["seconds"]["median"] for name, m in record["methods"].items()}
    _bars(axes[0], bars, f"{record['size']} to {4 * record['size']}, seconds")
    _bars(axes[1], record["stages"], "stages of ours, seconds")
    for axis, name in zip(axes[2:], sweeps, strict=False):
        _sweep(axis, name, sweeps[name], record["growth_exponents"])
    figure.suptitle(
        f"{record['environment']['processor']}, {record['device']}, {record['threads']} threads",
        size=9,
    )
    _save(figure, file)


def plot_paper(rows: list[dict[str, Any]], file: str | Path) -> None:
    """Table 3: measured (or extrapolated) seconds beside the paper's."""
    sizes = sorted({row["size"] for row in rows})
    figure, axes = _panels(len(sizes))
    for axis, size in zip(axes, sizes, strict=False):
        own = [row for row in rows if row["size"] == size]
        bars = {}
        for row in own:
            bars[f"{row['method']}, {'here' if row['how'] == 'measured' else 'extrapolated'}"] = (
                row["seconds"]
            )
            if row["paper_seconds"] is not None:
                bars[f"{row['method']}, paper (A100)"] = row["paper_seconds"]
        _bars(axis, bars, f"{size} to {4 * size}, seconds")
        axis.set_xscale("log")
        axis.set_xlim(right=4 * max(bars.values()))  # room for the last figure
    _save(figure, file)


def _panels(count: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    columns = min(3, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(5.2 * columns, 3.6 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes


def _bars(axis: Any, values: dict[str, float], title: str) -> None:
    names = list(values)
    bars = axis.barh(names, [values[n] for n in names])
    axis.bar_label(bars, fmt="{:,.4g}", padding=3, fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.18)
    axis.tick_params(axis="y", labelsize=8)
    axis.set_title(title, size=10)


def _sweep(axis: Any, name: str, rows: list[dict[str, Any]], exponents: dict[str, float]) -> None:
    """Bars, or for sizes a line a method on logarithmic axes."""
    if name != "sizes":
        texts = [row[KEYS[name]] for row in rows]
        labels = [",".join(map(str, t)) if isinstance(t, list) else str(t) for t in texts]
        _bars(
            axis,
            dict(zip(labels, [row["seconds"]["median"] for row in rows], strict=True)),
            f"{name}: seconds",
        )
        return
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        power = f" (power {exponents[method]:.2f})" if method in exponents else ""
        megapixels = [16 * row["size"] ** 2 / 1e6 for row in own]
        axis.loglog(
            megapixels, [row["seconds"]["median"] for row in own], "o-", label=method + power
        )
    axis.set_xlabel("megapixels of output")
    axis.set_title("sizes: seconds", size=10)
    axis.legend(fontsize=7)


def _save(figure: Any, file: str | Path) -> None:
    with replacing(Path(file)) as temporary:
        figure.savefig(temporary, dpi=110)
