"""The page: fields, and handlers that show what `Studio` gives."""

from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.exceptions import Error
from PIL import Image

from patchscaler.apps.web import words
from patchscaler.apps.web.api import add_api
from patchscaler.apps.web.jobs import Item, StoppedError, Studio, Visit
from patchscaler.apps.web.results import LOSSY, SUFFIXES, converted, forget, pack
from patchscaler.apps.web.words import dials_of, duration, say
from patchscaler.errors import PatchScalerError
from patchscaler.progress import Progress

MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
SIZES = [("Same size", 1), ("2 times", 2), ("4 times", 4), ("8 times", 8)]
AFTER = 0.03  # share of the bar for what comes behind the pipeline
UNASKED = 5.0  # seconds: a first part that takes longer waits for a click
SCROLL = "() => document.getElementById('view').scrollIntoView({block: 'nearest'})"
CSS = """
.gradio-container { max-width: 1500px !important; }
#list .wrap { flex-direction: column; align-items: stretch; }
#status { min-height: 5em; }
#status .wrap { background: var(--body-background-fill); }
#status .failed { color: var(--error-text-color); font-weight: 600; }
"""

Update = dict[Any, Any]  # of fields


class Page(gr.Blocks):
    """Blocks that fetch nothing: Gradio takes an address where a file is due."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *rest: Any) -> list[Any]:
        if any("://" in path for path in paths_in(inputs)):
            raise Error("that is an address. Hint: upload the image", print_exception=False)
        return await super().preprocess_data(block_fn, inputs, *rest)


def paths_in(data: Any) -> Iterator[str]:
    """All paths of files in what was sent."""
    if isinstance(data, dict):
        yield str(data.get("path"))
    if isinstance(data, dict | list | tuple):
        for value in data.values() if isinstance(data, dict) else data:
            yield from paths_in(value)


def theme() -> gr.themes.Base:
    """Gradio's, with the reader's own fonts and small text of enough contrast."""
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


def build(studio: Studio) -> Page:
    """The page and its API, not yet served."""
    keep = studio.limits.keep
    page = Page(title="PatchScaler", analytics_enabled=False, delete_cache=(min(600, keep), keep))
    with page:
        gr.Markdown("# PatchScaler\nMakes images larger, with detail where they lack it.")
        Screen(studio).listen(page)
        add_api(studio, MODEL)
        with gr.Accordion("About", open=False):
            gr.Markdown(words.about(studio.limits))
    page.queue(max_size=studio.limits.queue, default_concurrency_limit=4)
    return page


def kindly(handler: Callable[..., Update]) -> Callable[..., Update]:
    """Show what cannot be done as the status."""

    @wraps(handler)
    def shown(screen: "Screen", *values: Any) -> Update:
        try:
            return handler(screen, *values)
        except PatchScalerError as error:
            return {screen.status: say(str(error), failed=True)}

    return shown


class Screen:
    """The fields. A handler gives a new value for each that changes."""

    def __init__(self, studio: Studio):
        self.studio = studio
        self.visit = gr.State(Visit(), time_to_live=studio.limits.keep, delete_callback=forget)
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                self._images()
            with gr.Column(scale=1, min_width=300):
                self._dials()
        self.everything = [f for f in vars(self).values() if isinstance(f, gr.blocks.Block)]

    def _images(self) -> None:
        self.drop = gr.File(
            label="Images: drop or choose one or several", file_count="multiple", height=150
        )
        self.slider = gr.ImageSlider(
            strings(self.studio.example.view()),
            label="Before and after: an example",
            type="filepath",
            interactive=False,
            buttons=["fullscreen"],
            max_height=640,
            elem_id="view",
        )
        self.list = gr.Radio([], label="Images", visible=False, elem_id="list")
        self.clear = gr.Button("Clear the list", size="sm", visible=False)
        with gr.Row(visible=False, equal_height=True) as self.results:
            self.kind = gr.Dropdown(list(SUFFIXES), label="Format", min_width=110)
            self.quality = gr.Slider(1, 100, 95, step=1, label="Quality", visible=False)
            self.download = gr.DownloadButton("Download", variant="primary", min_width=160)
            self.zip = gr.DownloadButton("Download all", visible=False, min_width=160)
        with gr.Accordion("Try a part", open=False, visible=False) as self.trying:
            gr.Markdown("Click where to try it, or take the middle.")
            self.place = gr.Image(label="Your image", interactive=False, buttons=[], height=320)
            self.middle = gr.Button("Try the middle", size="sm")
        with gr.Accordion("Protect parts", open=False, visible=False) as self.protecting:
            gr.Markdown("Paint what must stay faithful, such as faces and text.")
            self.brush = gr.ImageEditor(
                label="Parts to protect",
                sources=(),
                transforms=(),
                layers=False,
                brush=gr.Brush(colors=["#ffffff"], color_mode="fixed"),
                buttons=[],
                height=420,
            )
        with gr.Accordion("Details", open=False, visible=False) as self.details:
            self.facts = gr.Markdown()

    def _dials(self) -> None:
        vivid = 1 - self.studio.pipeline.model.config.groups.fidelity
        self.scale = gr.Radio(SIZES, value=4, label="Size")
        self.detail = gr.Slider(0, 1, vivid, step=0.05, label="Detail", info="faithful … vivid")
        with gr.Accordion("Advanced", open=False):
            self.seed = gr.Number(0, label="Seed", precision=0, info="another makes other texture")
            self.size = gr.Textbox(
                label="Exact size",
                max_lines=1,
                info="in place of Size: 3000x (width), x2000 (height), 3000x2000 or 12mp",
            )
        self.start = gr.Button("Upscale", variant="primary", interactive=False)
        self.stop = gr.Button("Stop", variant="stop", visible=False)
        self.status = gr.HTML(say(words.FIRST), elem_id="status")

    def listen(self, page: Page) -> None:
        """Tie events to handlers."""
        dials = [self.scale, self.detail, self.seed, self.size]
        given = [self.visit, self.brush, *dials]
        export = [self.kind, self.quality]
        bar = {"api_visibility": "private", "show_progress_on": self.status} | MODEL
        busy, idle = [self.start, self.stop, self.status], [self.start, self.stop]

        chosen = self.drop.upload(
            self.add, [self.drop, *given, *export], self.everything, api_visibility="private"
        )
        tried = chosen.then(self.first, given, self.slider, **QUIET | MODEL)
        self.list.input(self.choose, [self.list, *given, *export], self.everything, **QUIET)
        self.clear.click(self.empty, [self.visit, *export], self.everything, **QUIET)
        for dial in dials:
            dial.change(self.estimate, [self.visit, *dials], self.status, queue=False, **QUIET)
        for field in export:
            event = field.release if field is self.quality else field.input
            event(self.deliver, [self.visit, *export], self.everything, **QUIET)

        parts = [
            self.place.select(self.clicked, given, [self.slider, self.status], **bar),
            self.middle.click(self.part, given, [self.slider, self.status], **bar),
        ]
        pressed = self.start.click(self.begin, None, busy, queue=False, **QUIET)
        work = pressed.then(self.run, [*given, *export], self.everything, **bar)
        work.success(None, None, None, js=SCROLL)
        work.failure(self.refused, None, self.status, queue=False, **QUIET)
        work.then(self.end, None, idle, queue=False, **QUIET)
        self.stop.click(
            self.halt, self.visit, [*busy, self.list], cancels=[work], queue=False, **QUIET
        )
        for part in (*parts, tried):
            part.success(None, None, None, js=SCROLL)
        page.unload(self.leave)

    # --- what is shown ------------------------------------------------------------------------

    def shown(self, visit: Visit, kind: str, quality: int) -> Update:
        """The image in view and all that belongs to it."""
        item = visit.item
        label = "Before and after"
        if item:
            label = f"{label if item.result else 'Not upscaled yet'}: {item.name}"
        return {
            self.slider: gr.ImageSlider(
                strings((item or self.studio.example).view()),
                label=label if item else f"{label}: an example",
            ),
            self.trying: gr.Accordion(visible=bool(item)),
            self.place: str(item.sketch) if item else None,
            self.protecting: gr.Accordion(visible=bool(item)),
            self.brush: words.painted(item),
            self.details: gr.Accordion(visible=bool(item and item.output)),
            self.facts: words.facts_of(item),
            self.start: gr.Button(interactive=bool(item)),
            **self.states(visit),
            **self.offered(visit, kind, quality),
        }

    def states(self, visit: Visit) -> Update:
        """The list, once it has two images."""
        lines = [(f"{item.name}: {item.state}", n) for n, item in enumerate(visit.items)]
        return {
            self.list: gr.Radio(lines, value=visit.current, visible=len(lines) > 1),
            self.clear: gr.Button(visible=len(lines) > 1),
        }

    def offered(self, visit: Visit, kind: str, quality: int) -> Update:
        """Format, quality, and the buttons that download."""
        item, done = visit.item, visit.done()
        file = converted(item, kind, int(quality)) if item and item.result else None
        several = pack(done, kind, int(quality)) if len(done) > 1 else None
        return {
            self.results: gr.Row(visible=bool(done)),
            self.quality: gr.Slider(visible=kind in LOSSY),
            self.download: gr.DownloadButton(
                f"Download ({megabytes(file)})" if file else "Download",
                value=str(file) if file else None,
                visible=bool(file),
            ),
            self.zip: gr.DownloadButton(
                f"Download all {len(done)} as zip ({megabytes(several)})" if several else "",
                value=str(several) if several else None,
                visible=bool(several),
            ),
        }

    def promise(self, visit: Visit, *dials: Any) -> str:
        """Size and time of what Upscale would do."""
        if visit.item is None:
            return words.FIRST
        chosen = dials_of(*dials)
        todo = visit.todo(chosen)
        seconds = duration(sum(self.studio.estimate(item.size, chosen) for item in todo))
        width, height = self.studio.target(visit.item, chosen)
        text = "{} × {} pixels become {} × {}".format(*visit.item.size, width, height)
        if len(todo) > 1:
            return f"{text}. The {len(todo)} images take about {seconds}."
        return f"{text}, in about {seconds}." if todo else f"{text}: done."

    # --- handlers -----------------------------------------------------------------------------

    @kindly
    def add(self, files: list[str], visit: Visit, sketch: Any, *values: Any) -> Update:
        """New files: the good ones join the list, the others are named."""
        remember_mask(visit, sketch)
        failed, new, most = [], list[Item](), self.studio.limits.files
        for file in files or []:
            try:
                if most and len(visit.items) + len(new) >= most:
                    raise PatchScalerError(f"up to {most} images are taken here")
                new.append(self.studio.add(Path(file)))
            except PatchScalerError as error:
                failed.append(str(error))
        if new:
            visit.current = len(visit.items)
            visit.items += new
        if failed:
            gr.Warning(". ".join(failed))  # seen wherever the page is scrolled to
        text = ". ".join(failed) or self.promise(visit, *values[:4])
        found = self.shown(visit, *values[4:]) if new else {}
        return {self.drop: None, self.visit: visit, self.status: say(text, bool(failed)), **found}

    @kindly
    def choose(self, number: int, visit: Visit, sketch: Any, *values: Any) -> Update:
        remember_mask(visit, sketch)
        visit.current = int(number)
        text = say(self.promise(visit, *values[:4]))
        return {self.status: text, **self.shown(visit, *values[4:])}

    @kindly
    def empty(self, request: gr.Request, visit: Visit, *export: Any) -> Update:
        self.studio.stop(str(request.session_hash))
        forget(visit)
        visit.items, visit.current = [], 0
        return {self.status: say(words.FIRST), **self.shown(visit, *export)}

    @kindly
    def estimate(self, visit: Visit, *dials: Any) -> Update:
        return {self.status: say(self.promise(visit, *dials))}

    @kindly
    def deliver(self, visit: Visit, *export: Any) -> Update:
        return self.offered(visit, *export)

    def first(self, visit: Visit, sketch: Any, *dials: Any) -> Update:
        """Try the middle of a new image where that is quick."""
        item, least = visit.item, (32, 32)
        if not item or item.result or self.studio.estimate(least, dials_of(*dials)) > UNASKED:
            return {self.slider: gr.skip()}
        return {self.slider: self._part(visit, dials, (0.5, 0.5))[self.slider]}

    @kindly
    def part(self, visit: Visit, sketch: Any, *dials: Any) -> Update:
        remember_mask(visit, sketch)
        return self._part(visit, dials, (0.5, 0.5))

    @kindly
    def clicked(self, event: gr.SelectData, visit: Visit, sketch: Any, *dials: Any) -> Update:
        remember_mask(visit, sketch)
        if visit.item is None:
            return {}
        with Image.open(visit.item.sketch) as image:
            width, height = image.size
        x, y = event.index
        return self._part(visit, dials, (x / width, y / height))

    def _part(self, visit: Visit, dials: tuple[Any, ...], place: tuple[float, float]) -> Update:
        if visit.item is None:
            raise PatchScalerError(words.FIRST)
        pair = self.studio.part(visit.item, dials_of(*dials), place)
        label = f"Before and after: a part of {visit.item.name}"
        text = f"A part. {self.promise(visit, *dials)}"
        return {self.slider: gr.ImageSlider(strings(pair), label=label), self.status: say(text)}

    def begin(self) -> Update:
        return {
            self.start: gr.Button(visible=False),
            self.stop: gr.Button(visible=True),
            self.status: say("Waiting for its turn."),
        }

    def end(self) -> Update:
        return {self.start: gr.Button(visible=True), self.stop: gr.Button(visible=False)}

    def run(
        self,
        visit: Visit,
        sketch: Any,
        scale: float,
        detail: float,
        seed: float,
        size: str,
        kind: str,
        quality: int,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (as Gradio asks for it)
    ) -> Iterator[Update]:
        """Upscale all that was not made with these dials."""
        remember_mask(visit, sketch)
        failed, began = [], 0.0
        try:
            dials = dials_of(scale, detail, seed, size)
            todo = visit.todo(dials)
            later = [self.studio.estimate(item.size, dials) for item in todo]
        except PatchScalerError as error:
            yield {self.status: say(str(error), failed=True)}
            return
        for n, item in enumerate(todo):

            def show(now: Progress, n: int = n, item: Item = item) -> None:
                left = (
                    "" if now.eta is None else f", {duration(now.eta + sum(later[n + 1 :]))} left"
                )
                which = f"{item.name} ({n + 1} of {len(todo)})" if len(todo) > 1 else item.name
                share = (n + (1 - AFTER) * now.done / now.total) / len(todo)
                progress(share, desc=f"{which}{left}")

            item.state = "in work"
            yield self.states(visit)
            try:
                self.studio.upscale(item, dials, self.studio.watch(str(request.session_hash), show))
                item.state = f"done in {duration(item.seconds)}"
                began += item.seconds
            except StoppedError:
                item.state = "waiting"
                yield {self.status: say("Stopped."), **self.states(visit)}
                return
            except PatchScalerError as error:
                item.state = f"failed: {error}"
                failed.append(str(error))
            if item in visit.items:
                visit.current = visit.items.index(item)
            yield self.shown(visit, kind, quality)
        text = ". ".join(failed) or f"Done in {duration(began)}."
        yield {self.status: say(text, bool(failed))}

    def refused(self, request: gr.Request) -> Update:
        if self.studio.stopped(str(request.session_hash)):
            return {self.status: say("Stopped.")}
        text = "Not done: too many images are waiting, or the server failed. Try again in a moment."
        return {self.status: say(text, failed=True)}

    def halt(self, visit: Visit, request: gr.Request) -> Update:
        self.studio.stop(str(request.session_hash))
        for item in visit.items:
            item.state = "waiting" if item.state == "in work" else item.state
        return {
            self.status: say("Stopped."),
            self.list: self.states(visit)[self.list],
            **self.end(),
        }

    def leave(self, request: gr.Request) -> None:
        self.studio.stop(str(request.session_hash))


def remember_mask(visit: Visit, sketch: Any) -> None:
    if visit.item:
        visit.item.mask = words.mask_of(sketch)


def strings(pair: tuple[Path, Path]) -> tuple[str, str]:
    return str(pair[0]), str(pair[1])


def megabytes(file: Path | None) -> str:
    return f"{file.stat().st_size / 1e6:.1f} MB" if file else ""
