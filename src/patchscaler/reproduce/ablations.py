"""Tables 4, 5 and 6: one model with other start timesteps and steps, prompts, thresholds.

Every table has two kinds of rows. The paper's settings are run literally, on whatever weights there
are. A model that was trained for few steps is also asked at its own scale: the same experiment with
its own start timesteps and steps in the place of 400/700/1000 and 8/14/20.
"""

import zlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from patchscaler.config import GROUP_NAMES, GroupConfig
from patchscaler.diffusion.groups import thresholds_from_table
from patchscaler.evaluation.methods import PatchScalerMethod
from patchscaler.model import Model
from patchscaler.pipeline import PatchScaler
from patchscaler.reproduce.measuring import COLUMNS, Entry, Measuring, measure
from patchscaler.reproduce.paper import (
    ABOVE_70,
    DEFAULT_STEPS,
    DEFAULT_TIMES,
    NO_REFERENCE,
    TABLE_4,
    TABLE_5,
    TABLE_6,
    VARIANTS,
    Three,
)
from patchscaler.reproduce.report import WEIGHTS, Report, order_lines
from patchscaler.reproduce.sources import Source
from patchscaler.texture_memory import TextureMemory


def setting_name(times: Three, steps: Three) -> str:
    return f"T {'/'.join(map(str, times))} N {'/'.join(map(str, steps))}"


def is_paper_scale(groups: GroupConfig) -> bool:
    return groups.start_times == DEFAULT_TIMES and groups.num_inference_steps == DEFAULT_STEPS


def eq2(groups: GroupConfig) -> GroupConfig:
    """Eq. 2 alone: groups by mean confidence, without our cap on patches with an unsure place."""
    return replace(groups, least_confidence=0.0)


def literal(groups: GroupConfig) -> GroupConfig:
    """The paper's start timesteps and steps."""
    return replace(groups, start_times=DEFAULT_TIMES, num_inference_steps=DEFAULT_STEPS)


# --- Table 4 --------------------------------------------------------------------------------------


def own_settings(groups: GroupConfig) -> list[tuple[Three, Three]]:
    """Table 4 at a model's own scale: its numbers for 400/700/1000 and 8/14/20; no row twice."""
    own_times = dict(zip(DEFAULT_TIMES, groups.start_times, strict=True))
    own_steps = dict(zip(DEFAULT_STEPS, groups.num_inference_steps, strict=True))
    found: dict[tuple[Three, Three], None] = {}
    for setting in TABLE_4:
        pairs = [
            _fit(own_times[t], own_steps[n])
            for t, n in zip(setting.times, setting.steps, strict=True)
        ]
        found[_three([t for t, _ in pairs]), _three([n for _, n in pairs])] = None
    return list(found)


def _fit(time: int, steps: int) -> tuple[int, int]:
    """A group that stays coarse has neither a start nor steps."""
    return (time, min(time, steps)) if time and steps else (0, 0)


def _three(values: Sequence[int]) -> Three:
    return values[0], values[1], values[2]


def table4(pipeline: PatchScaler, source: Source, measuring: Measuring, seed: int = 0) -> Report:
    report = Report(
        "table4", "Table 4: start timesteps T and steps N of simple, medium and hard", COLUMNS
    )
    stored = pipeline.model.config.groups
    entries = []

    def add(label: str, paper: dict[str, float], times: Three, steps: Three) -> None:
        groups = replace(stored, start_times=times, num_inference_steps=steps)
        note = "as shipped" if groups == stored else ""
        method = PatchScalerMethod(pipeline, label, groups=groups, seed=seed)
        entries.append(Entry(label, paper, method, note=note))

    for setting in TABLE_4:
        label = setting_name(setting.times, setting.steps)
        add(label, setting.scores, setting.times, setting.steps)
    if not is_paper_scale(stored):
        for times, steps in own_settings(stored):
            add(f"own: {setting_name(times, steps)}", {}, times, steps)
    measure(report, entries, source, measuring)
    report.differs = [
        *_differs(pipeline.model, source),
        "Groups are by this model's own thresholds {:.3f}, {:.3f}, quantiles of its confidence: "
        "where eta is another, .95 and .75 mean other shares (see figure5).".format(
            *stored.thresholds
        ),
        *order_lines(report.rows, NO_REFERENCE),
    ]
    return report


# --- Table 5 --------------------------------------------------------------------------------------


class RandomMemory(TextureMemory):
    """The same entries, any of them: a prompt that has nothing to do with its patch.

    Scores are those of the entries that were drawn. A patch draws by its own query, whatever the
    batch.
    """

    def search(self, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        scores = queries.float() @ self.keys.T.float()  # (N, M)
        drawn = torch.stack([self._draw(query, top_k) for query in queries]).to(scores.device)
        order = torch.sort(scores.gather(1, drawn), dim=1, descending=True, stable=True)  # (N, K)
        return order.values, drawn.gather(1, order.indices)

    def _draw(self, query: Tensor, top_k: int) -> Tensor:
        seed = zlib.crc32(query.half().cpu().numpy().tobytes())
        return torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:top_k]


def with_random_memory(pipeline: PatchScaler) -> PatchScaler:
    model = pipeline.model
    m = model.memory
    assert m is not None
    memory = RandomMemory(m.keys, m.values, m.origins, m.pictures, m.key_model)
    return PatchScaler(Model(model.config, model.networks, memory, str(model.device), model.dtype))


def table5(
    pipeline: PatchScaler,
    source: Source,
    measuring: Measuring,
    text: Entry | None = None,
    seed: int = 0,
) -> Report:
    """text: the row of the text prompt, with its method or the reason why there is none."""
    report = Report("table5", "Table 5: prompts", COLUMNS)
    model = pipeline.model
    scales = [("", model.config.groups)]
    if not is_paper_scale(model.config.groups):
        name = setting_name(DEFAULT_TIMES, DEFAULT_STEPS)
        scales.append((f", {name}", literal(model.config.groups)))
    entries = [text] if text else []
    for suffix, groups in scales:
        rows = [("texture prompt", pipeline, True), ("no prompt", pipeline, False)]
        if model.memory:
            rows.insert(1, ("random prompt", with_random_memory(pipeline), True))
        for name, asked, prompt in rows:
            label = name + suffix
            method = PatchScalerMethod(asked, label, groups=groups, prompt=prompt, seed=seed)
            entries.append(Entry(label, TABLE_5.get(label, {}), method))
    measure(report, entries, source, measuring)
    report.differs = [
        *_differs(model, source),
        "'No prompt' and 'random prompt' (entries of the memory drawn at random) are rows of "
        "ours: without them a gain could come from training with any prompt at all.",
        "The paper trained a model for each prompt; 'no prompt' here is the texture model with "
        "its prompt left out, as it was for a tenth of its training.",
    ]
    if model.denoiser is not None:
        report.differs.append(
            "This model's denoiser reads no texture prompt: its rows are equal. The experiment "
            "needs a model with Patch-DiT."
        )
    return report


# --- Table 6 --------------------------------------------------------------------------------------


def shares_of(thresholds: tuple[float, float]) -> tuple[float, float]:
    """Shares of simple and of simple + medium: half above .70, spread evenly, and as densely on
    below it.
    """
    simple, easy = (min(1.0, ABOVE_70 * (1 - t) / (1 - 0.70)) for t in thresholds)
    return simple, easy


def table6(pipeline: PatchScaler, source: Source, measuring: Measuring, seed: int = 0) -> Report:
    columns = COLUMNS | dict.fromkeys(GROUP_NAMES, 2)
    report = Report("table6", "Table 6: thresholds of the groups", columns)
    stored = eq2(pipeline.model.config.groups)
    rows = []
    for thresholds, scores in TABLE_6.items():
        label = "gamma {:.2f} {:.2f}".format(*thresholds)
        rows.append((label, scores, replace(literal(stored), thresholds=thresholds)))
    rows.append(("own default", {}, stored))
    if stored.calibration:
        for thresholds in TABLE_6:
            label = "own, shares of gamma {:.2f} {:.2f}".format(*thresholds)
            own = thresholds_from_table(stored.calibration, shares_of(thresholds))
            rows.append((label, {}, replace(stored, thresholds=own)))
    entries = []
    for label, scores, groups in rows:
        method = PatchScalerMethod(pipeline, label, groups=groups, seed=seed)
        note = "" if scores else "gamma {:.3f} {:.3f}".format(*groups.thresholds)
        entries.append(Entry(label, scores, method, note=note))
    measure(report, entries, source, measuring)
    report.differs = [
        *_differs(pipeline.model, source),
        "Eq. 2 alone: least_confidence, by which this model never calls a patch with an unsure "
        "place simple, is off in all rows.",
        "The paper's gamma are run with its T 400/700/1000 and N 8/14/20. Confidence is eta over "
        "the squared error, and the paper gives no eta, so its gamma part other patches here. Rows "
        "'own' take quantiles that give the paper's shares of groups (.5 of the patches above .70, "
        "spread evenly: ours), and this model's T and N.",
        "Seconds are the median of the images here; the paper's are of one 512 -> 2048 on an A100.",
        *order_lines(report.rows, (*NO_REFERENCE, "seconds")),
    ]
    return report


def _differs(model: Model, source: Source) -> list[str]:
    groups = model.config.groups
    lines = [WEIGHTS, VARIANTS, f"{source.name} in place of RealSet110, which was not published."]
    if not is_paper_scale(groups):
        own = setting_name(groups.start_times, groups.num_inference_steps)
        lines.append(
            f"This model was trained for {own}: the paper's settings are run on it literally, "
            "outside of what it was made for; the other rows are the experiment at its own scale."
        )
    return lines
