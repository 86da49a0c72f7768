"""Tables 4, 5 and 6: one model with other start times and steps, prompts, thresholds.

Every table has two kinds of rows. The paper's settings are run literally, on whatever weights there
are. A model that was trained for few steps is also asked at its own scale: the same experiment with
its own start times and steps in the place of 400/700/1000 and 8/14/20.
"""

import zlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from patchscaler.config import GROUP_NAMES, GroupConfig
from patchscaler.diffusion.groups import thresholds_from_table
from patchscaler.evaluation.cost.paper_size import ABOVE_70
from patchscaler.evaluation.methods import PatchScalerMethod
from patchscaler.pipeline import PatchScaler
from patchscaler.reproduce.paper import (
    DEFAULT_STEPS,
    DEFAULT_TIMES,
    NO_REFERENCE,
    TABLE_4,
    TABLE_5,
    TABLE_6,
    Three,
)
from patchscaler.reproduce.pictures import Source
from patchscaler.reproduce.quality import (
    COLUMNS,
    VARIANTS,
    WEIGHTS,
    Entry,
    Measuring,
    measure,
    order_lines,
)
from patchscaler.reproduce.report import Report
from patchscaler.texture_memory import TextureMemory


def setting_name(times: Three, steps: Three) -> str:
    return f"T {'/'.join(map(str, times))} N {'/'.join(map(str, steps))}"


def is_paper_scale(groups: GroupConfig) -> bool:
    return groups.start_times == DEFAULT_TIMES and groups.num_inference_steps == DEFAULT_STEPS


# --- Table 4 --------------------------------------------------------------------------------------


def own_settings(groups: GroupConfig) -> list[tuple[Three, Three]]:
    """Table 4 at a model's own scale: its numbers for 400/700/1000 and 8/14/20, and its steps
    doubled; no row twice.
    """
    own_times = dict(zip(DEFAULT_TIMES, groups.start_times, strict=True))
    own_steps = dict(zip(DEFAULT_STEPS, groups.num_inference_steps, strict=True))
    found: dict[tuple[Three, Three], None] = {}
    for setting in TABLE_4:
        pairs = [
            _fit(own_times[t], own_steps[n])
            for t, n in zip(setting.times, setting.steps, strict=True)
        ]
        found[_three([t for t, _ in pairs]), _three([n for _, n in pairs])] = None
    for factor in (2, 4):
        steps = [
            min(t, factor * n)
            for t, n in zip(groups.start_times, groups.num_inference_steps, strict=True)
        ]
        found[groups.start_times, _three(steps)] = None
    return list(found)


def _fit(time: int, steps: int) -> tuple[int, int]:
    """A group that is passed on as it is has neither time nor steps."""
    return (time, min(time, steps)) if time and steps else (0, 0)


def _three(values: Sequence[int]) -> Three:
    return values[0], values[1], values[2]


def table4(model: PatchScaler, source: Source, measuring: Measuring, seed: int = 0) -> Report:
    report = Report(
        "table4", "Table 4: start times T and steps N of simple, medium and hard patches", COLUMNS
    )
    stored = model.config.groups
    entries = []
    for setting in TABLE_4:
        label = setting_name(setting.times, setting.steps)
        groups = replace(stored, start_times=setting.times, num_inference_steps=setting.steps)
        entries.append(
            Entry(label, setting.scores, PatchScalerMethod(model, label, groups=groups, seed=seed))
        )
    if not is_paper_scale(stored):
        for times, steps in own_settings(stored):
            label = f"own: {setting_name(times, steps)}"
            groups = replace(stored, start_times=times, num_inference_steps=steps)
            note = (
                "as shipped"
                if (times, steps) == (stored.start_times, stored.num_inference_steps)
                else ""
            )
            entries.append(
                Entry(
                    label, {}, PatchScalerMethod(model, label, groups=groups, seed=seed), note=note
                )
            )
    measure(report, entries, source, measuring, one_model=True)
    report.differs = _differs(model, source)
    report.differs.append(
        "Groups are by this model's own thresholds {:.3f}, {:.3f}, quantiles of its confidence: "
        "where eta is another, "
        ".95 and .75 mean other shares (see figure5).".format(*stored.thresholds)
    )
    report.differs += order_lines(report.rows)
    return report


# --- Table 5 --------------------------------------------------------------------------------------


class RandomMemory(TextureMemory):
    """The same entries, any of them: what a prompt brings that has nothing to do with its patch.

    Scores are those of the entries that were drawn. A patch draws by its own query, whatever the
    batch.
    """

    def search(self, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        scores = queries.float() @ self.keys.T.float()  # (N, M)
        # (N, K)
        drawn = torch.stack([self._draw(query, top_k) for query in queries]).to(scores.device)
        order = torch.sort(scores.gather(1, drawn), dim=1, descending=True, stable=True)
        return order.values, drawn.gather(1, order.indices)

    def _draw(self, query: Tensor, top_k: int) -> Tensor:
        seed = zlib.crc32(query.half().cpu().numpy().tobytes())
        return torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:top_k]


def with_random_memory(model: PatchScaler) -> PatchScaler:
    m = model.memory
    assert m is not None
    memory = RandomMemory(m.keys, m.values, m.origins, m.pictures, m.key_model)
    scaler = PatchScaler(model.config, model.networks, memory, str(model.device), model.dtype)
    scaler.engine = model.engine
    return scaler


def table5(
    model: PatchScaler,
    source: Source,
    measuring: Measuring,
    text: Entry | None = None,
    seed: int = 0,
) -> Report:
    """text: the row of the text prompt, with its method or the reason why there is none."""
    report = Report("table5", "Table 5: prompts", COLUMNS)
    stored = model.config.groups
    scales = [("", stored)]
    if not is_paper_scale(stored):
        literal = replace(stored, start_times=DEFAULT_TIMES, num_inference_steps=DEFAULT_STEPS)
        scales.append((f", {setting_name(DEFAULT_TIMES, DEFAULT_STEPS)}", literal))
    entries = [text] if text else []
    for suffix, groups in scales:
        rows: list[tuple[str, PatchScaler, bool]] = [
            ("texture prompt", model, True),
            ("no prompt", model, False),
        ]
        if model.memory:
            rows.insert(1, ("random prompt", with_random_memory(model), True))
        for name, scaler, prompt in rows:
            label = name + suffix
            method = PatchScalerMethod(scaler, label, groups=groups, prompt=prompt, seed=seed)
            entries.append(Entry(label, TABLE_5.get(label, {}), method))
    measure(report, entries, source, measuring, one_model=True)
    report.differs = [
        *_differs(model, source),
        "'No prompt' and 'random prompt' (entries of the memory drawn at random) are rows of "
        "ours: without them a gain "
        "could come from training with any prompt at all.",
        "The paper trained a model for each prompt; 'no prompt' here is the texture model with "
        "its prompt left out, "
        "as it was for a tenth of its training.",
    ]
    return report


# --- Table 6 --------------------------------------------------------------------------------------


def shares_of(thresholds: tuple[float, float]) -> tuple[float, float]:
    """Shares of simple and of simple + medium: half above .70, spread evenly, and as densely on
    below it.
    """
    simple, easy = (min(1.0, ABOVE_70 * (1 - t) / (1 - 0.70)) for t in thresholds)
    return simple, easy


def table6(model: PatchScaler, source: Source, measuring: Measuring, seed: int = 0) -> Report:
    report = Report(
        "table6", "Table 6: thresholds of the groups", COLUMNS | dict.fromkeys(GROUP_NAMES, 2)
    )
    stored = model.config.groups
    literal = replace(stored, start_times=DEFAULT_TIMES, num_inference_steps=DEFAULT_STEPS)
    entries = []
    for thresholds, scores in TABLE_6.items():
        label = "gamma {:.2f} {:.2f}".format(*thresholds)
        method = PatchScalerMethod(
            model, label, groups=replace(literal, thresholds=thresholds), seed=seed
        )
        entries.append(Entry(label, scores, method))
    own = [("own default", stored.thresholds, "as shipped")]
    if stored.calibration:
        for thresholds in TABLE_6:
            shares = shares_of(thresholds)
            label = "own, shares of gamma {:.2f} {:.2f}".format(*thresholds)
            own.append(
                (
                    label,
                    thresholds_from_table(stored.calibration, shares),
                    "{:.0%}, {:.0%}".format(*shares),
                )
            )
    for label, thresholds, note in own:
        method = PatchScalerMethod(
            model, label, groups=replace(stored, thresholds=thresholds), seed=seed
        )
        note = f"gamma {thresholds[0]:.3f} {thresholds[1]:.3f}, {note}"
        entries.append(Entry(label, {}, method, note=note))
    measure(report, entries, source, measuring, one_model=True)
    report.differs = [
        *_differs(model, source),
        "The paper's gamma are run with its T 400/700/1000 and N 8/14/20. Confidence is eta over "
        "the squared error, "
        "and the paper gives no eta, so its gamma part other patches here. Rows 'own' take "
        "quantiles that give the "
        "paper's shares of groups (.5 of the patches above .70, spread evenly: ours), and this "
        "model's T and N.",
        "Seconds are the median of the pictures here; the paper's are of one 512 -> 2048 on an "
        "A100.",
        *order_lines(report.rows, (*NO_REFERENCE, "seconds")),
    ]
    return report


def _differs(model: PatchScaler, source: Source) -> list[str]:
    groups = model.config.groups
    lines = [WEIGHTS, VARIANTS, f"{source.name} in place of RealSet110, which was not published."]
    if not is_paper_scale(groups):
        own = setting_name(groups.start_times, groups.num_inference_steps)
        lines.append(
            f"This model was trained for {own}: the paper's settings are run on it literally, "
            "outside of what it was "
            "made for; the other rows are the experiment at its own scale."
        )
    return lines
