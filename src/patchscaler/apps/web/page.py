"""The page: fields and handlers.

Each handler calls `Service` and turns what it yields into what is shown.
"""

from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr

from patchscaler.apps.web.api import add_api, path_of
from patchscaler.apps.web.guard import Page
from patchscaler.apps.web.jobs import Job, Step
from patchscaler.apps.web.limits import read_dials, read_seed, whole
from patchscaler.apps.web.service import Service
from patchscaler.apps.web.widgets import STATIC, said, status, told, viewed, viewer
from patchscaler.config import GROUP_NAMES
from patchscaler.dials.boxes import make_change
from patchscaler.errors import PatchScalerError

MODEL = {"concurrency_id": "model", "concurrency_limit": 1}  # of every event that computes
# Fields hand on what was sent, as it was sent: only `Service`, which knows the limits, opens files.
WORK: dict[str, Any] = MODEL | {
    "preprocess": False,
    "api_visibility": "private",
    "show_progress": "hidden",
}
LIGHT: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
# What the browser says by itself: before the server has taken a job, and where it took none.
QUEUED = "() => ({stage: 'In the queue', count: '', share: null})"
STOPPED = (
    "() => { window.stopped = Date.now(); return {stage: 'Stopped', count: '', share: null}; }"
)
FAILED = """() => Date.now() - (window.stopped || 0) < 5000
? {stage: 'Stopped', count: '', share: null}
: {stage:
'Not done: too many pictures are waiting, or the server is gone. Try again in a moment.',
count: '', share: null, failed: true}"""
AS_IT_WAS = "as it was"
BUDGETS = [
    ("the model's own", ""),
    ("fast", "fast"),
    ("balanced", "balanced"),
    ("best", "best"),
    ("40 % of full sampling", "40%"),
    ("20 seconds", "20s"),
]
CSS = """
.gradio-container { max-width: 1280px !important; }
footer .divider { display: none; }
.ps-table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
.ps-table caption { text-align: left; padding: 4px 0; }
.ps-table th, .ps-table td { text-align: right; padding: 4px 10px; }
.ps-table tr { border-bottom: 1px solid var(--border-color-primary); }
.ps-table th:first-child { text-align: left; }
"""
ABOUT = """
Sky is passed on, foliage gets diffusion steps: the work follows the picture. The networks enlarge
four times; other scales are reached by further passes and reduction.

**Dials.** *Fidelity* goes from 0, all that the diffusion invents, to 1, the restored picture and
nothing invented. *Budget* bounds the work: a share of full sampling (`40%`), seconds (`20s`) or a
name. Another *seed* invents other fine texture; the same one gives the same picture.

**What it does not do well.** Fine texture stays soft, and blurred pictures stay softer than other
upscalers leave them. Faces and text are not treated specially: small letters stay unreadable. What
looks like detail may be made up; the maps of invention show where.

**Your pictures** are kept in a private folder of this server, removed when you leave the page and
after {keep} at the latest. Nothing is sent elsewhere. Taken here: {limits}.
"""


def build(service: Service) -> Page:
    """The page and its API, not yet served."""
    with Page(title="PatchScaler", analytics_enabled=False) as page:
        page.upload_folder = service.folder.path
        gr.Markdown("# PatchScaler\nAn upscaler whose compute follows the picture.")
        add_api(service, MODEL)
        with gr.Tab("One picture"):
            _one(service)
        with gr.Tab("Several"):
            _several(service)
        with gr.Tab("About"):
            keep = f"{service.limits.keep / 60:.0f} minutes"
            gr.Markdown(ABOUT.format(keep=keep, limits=service.limits.text()))
        page.unload(_leaving(service))
    page.queue(max_size=service.limits.queue, default_concurrency_limit=4)
    service.folder.pin()
    return page


def theme() -> gr.themes.Base:
    """Gradio's, with fonts of the reader's own machine and small text that can be read (4.5:1 and
    more).
    """
    return gr.themes.Default(primary_hue="indigo", font=["system-ui", "sans-serif"]).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
    )


def _dials() -> list[gr.components.Component]:
    """Scale, fidelity, budget, seed."""
    return [
        gr.Slider(
            1, 8, 4, step=0.5, label="Scale", info="times as wide and as high; 1 restores only"
        ),
        gr.Slider(
            0,
            1,
            0,
            step=0.05,
            label="Fidelity",
            info="0: all texture is invented freely. 1: nothing is",
        ),
        gr.Dropdown(
            BUDGETS,
            value="",
            label="Budget",
            allow_custom_value=True,
            info="how much work: a name, a share (40%) or seconds (20s)",
        ),
        gr.Number(0, label="Seed", precision=0, info="another number invents other fine texture"),
    ]


# --- one picture ----------------------------------------------------------------------------------


def _one(service: Service) -> None:
    job = gr.State(None)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            drop = gr.Image(
                label="Picture: drop, paste or choose one",
                type="filepath",
                sources=["upload", "clipboard"],
                height=260,
            )
            with gr.Row():
                start = gr.Button("Enlarge", variant="primary", min_width=100)
                stop = gr.Button("Stop", min_width=100)
            line = status()
            dials = _dials()
            examples = [[str(STATIC / "cat.jpg")], [str(STATIC / "damaged.jpg")]]
            gr.Examples(
                examples,
                drop,
                label="Examples",
                example_labels=["A small picture", "A damaged one"],
            )
        with gr.Column(scale=5, min_width=300):
            view = viewer()
            file = gr.File(label="Result", interactive=False, visible=False)
            cost = gr.HTML(apply_default_css=False)
            with gr.Accordion("Make a box again", open=False):
                gr.Markdown(
                    "Of a picture enlarged four times. Press *Draw a box* above and drag over "
                    "the picture, or "
                    "give the box here, in pixels of the small picture."
                )
                with gr.Row():
                    box = [
                        gr.Number(value, label=name, precision=0, minimum=0, min_width=80)
                        for name, value in (
                            ("Left", None),
                            ("Top", None),
                            ("Width", None),
                            ("Height", None),
                        )
                    ]
                group = gr.Radio(
                    [AS_IT_WAS, *GROUP_NAMES],
                    value="hard",
                    label="Work",
                    info="simple: restored only. hard: the most work",
                )
                other = gr.Textbox(
                    "", label="Other seed", max_lines=1, info="empty: the one it was made with"
                )
                again = gr.Button("Make the box again")

    def enlarge(
        upload: Any, scale: Any, fidelity: Any, budget: Any, seed: Any, request: gr.Request
    ) -> Iterator[Any]:
        try:
            if not upload:
                raise PatchScalerError("choose a picture first")
            upload = path_of(upload)
            dials = read_dials(scale, fidelity, budget, seed)
            yield from shown(service.enlarge(str(request.session_hash), upload, dials))
        except PatchScalerError as error:
            yield said(str(error), failed=True), *[gr.skip()] * 4

    def redo(
        earlier: Job | None,
        x: Any,
        y: Any,
        width: Any,
        height: Any,
        group: Any,
        seed: Any,
        request: gr.Request,
    ) -> Iterator[Any]:
        try:
            if earlier is None:
                raise PatchScalerError("enlarge a picture first")
            if not width or not height:
                raise PatchScalerError("draw a box first")
            place = [whole("box", number or 0) for number in (x, y, width, height)]
            change = make_change(place, None if group == AS_IT_WAS else group, read_seed(seed))
            yield from shown(service.redo(str(request.session_hash), earlier, change))
        except PatchScalerError as error:
            yield said(str(error), failed=True), *[gr.skip()] * 4

    outputs = [line, view, file, cost, job]
    for pressed in (start, again):
        pressed.click(None, None, line, js=QUEUED)
    events = [
        start.click(enlarge, [drop, *dials], outputs, **WORK),
        again.click(redo, [job, *box, group, other], outputs, **WORK),
    ]
    for event in events:
        event.failure(None, None, line, js=FAILED)
    stop.click(None, None, line, js=STOPPED, cancels=events)
    view.box(_drawn, None, box, **LIGHT)


def shown(steps: Iterator[Step | Job]) -> Iterator[tuple[Any, ...]]:
    """Of a job that goes on, and of its result: status, viewer, file, cost, state."""
    for step in steps:
        if isinstance(step, Step):
            yield told(step), *[gr.skip()] * 4
        else:
            width, height = step.record["output"]["width"], step.record["output"]["height"]
            text = (
                f"Done: {step.size[0]}×{step.size[1]} became {width}×{height} "  # noqa: RUF001
                f"in {step.seconds:.1f} s"
            )
            yield (
                said(text),
                viewed(step),
                gr.File(str(step.result), visible=True),
                table(step),
                step,
            )


def table(job: Job) -> str:
    """The cost of each group."""
    total = job.record["cost"]["evaluations_total"]
    rows = "".join(
        f'<tr><th scope="row">{group}</th><td>{patches}</td><td>{work}</td></tr>'
        for group, patches, work in job.cost()
    )
    return (
        f'<table class="ps-table"><caption>{total} network evaluations, {job.share():.0%} of '
        "full sampling</caption>"
        '<tr><th scope="col">patches that were</th><th scope="col">count</th><th '
        'scope="col">evaluations</th></tr>'
        f"{rows}</table>"
    )


def _drawn(event: gr.EventData) -> tuple[int, ...]:
    data = event._data if isinstance(event._data, dict) else {}
    return tuple(whole("box", data.get(name)) for name in ("x", "y", "width", "height"))


# --- several --------------------------------------------------------------------------------------


def _several(service: Service) -> None:
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            most = f"up to {service.limits.files}" if service.limits.files else "several"
            files = gr.File(label=f"Pictures: drop {most}", file_count="multiple", height=220)
            with gr.Row():
                start = gr.Button("Enlarge all", variant="primary", min_width=100)
                stop = gr.Button("Stop", min_width=100)
            line = status()
            dials = _dials()
        with gr.Column(scale=5, min_width=300):
            gr.Markdown(
                "Several pictures with the same dials, and one zip of what came out. "
                "A picture that fails is named; the others go on."
            )
            file = gr.File(label="Results in a zip", interactive=False, visible=False)
            failures = gr.HTML()

    def enlarge(
        uploads: Any, scale: Any, fidelity: Any, budget: Any, seed: Any, request: gr.Request
    ) -> Iterator[Any]:
        try:
            dials = read_dials(scale, fidelity, budget, seed)
            for step in service.zip(
                str(request.session_hash), [path_of(file) for file in uploads or []], dials
            ):
                if isinstance(step, Step):
                    yield told(step), gr.skip(), gr.skip()
                else:
                    done, failed = step.summary.done, step.summary.failed
                    text = (
                        f"Done: {len(done)} enlarged, {len(failed)} failed, in {step.seconds:.1f} s"
                    )
                    lines = "".join(
                        f"<li>{escape(f['source'])}: {escape(f['error'])}</li>" for f in failed
                    )
                    yield (
                        said(text),
                        gr.File(str(step.file), visible=True),
                        f"<ul>{lines}</ul>" if lines else "",
                    )
        except PatchScalerError as error:
            yield said(str(error), failed=True), gr.skip(), gr.skip()

    start.click(None, None, line, js=QUEUED)
    event = start.click(enlarge, [files, *dials], [line, file, failures], **WORK)
    event.failure(None, None, line, js=FAILED)
    stop.click(None, None, line, js=STOPPED, cancels=[event])


def _leaving(service: Service) -> Any:
    def leave(request: gr.Request) -> None:
        service.folder.left(str(request.session_hash))

    return leave
