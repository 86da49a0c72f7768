"""What programs call (docs/web.md): the same `Service`, with fields that nobody sees."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from gradio.exceptions import Error

from patchscaler._version import __version__
from patchscaler.apps.web.jobs import Job, Step
from patchscaler.apps.web.limits import read_dials, read_seed, whole
from patchscaler.apps.web.service import Service
from patchscaler.dials.boxes import make_change
from patchscaler.errors import PatchScalerError


def add_api(service: Service, model: dict[str, Any]) -> None:
    """model: how the queue takes events that compute."""

    def enlarge(
        picture: Any, scale: Any, fidelity: Any, budget: Any, seed: Any, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """Enlarge a picture: (result, maps, facts).

        While it goes on: (None, None, how far it is).
        """
        with _told():
            dials = read_dials(scale, fidelity, budget, seed)
            yield from _answers(service.enlarge(str(request.session_hash), path_of(picture), dials))

    def redo(
        picture: Any, result: Any, box: Any, group: Any, seed: Any, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """Make a box of a result again: (result, facts). box: [x, y, width, height] in pixels of
        the small picture. Give a group (simple, medium, hard), a seed, or both.
        """
        with _told():
            if not isinstance(box, list) or len(box) != 4:
                raise PatchScalerError(
                    "box: give [x, y, width, height] in pixels of the small picture"
                )
            change = make_change(
                [whole("box", number) for number in box], group or None, read_seed(seed)
            )
            steps = service.redo_files(
                str(request.session_hash), path_of(picture), path_of(result), change
            )
            for file, _, facts in _answers(steps):
                yield file, facts

    def batch(
        pictures: Any, scale: Any, fidelity: Any, budget: Any, seed: Any, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """Enlarge several pictures: (zip of the results, what became of each)."""
        with _told():
            if not isinstance(pictures, list):
                raise PatchScalerError("pictures: give a list of files")
            dials, paths = (
                read_dials(scale, fidelity, budget, seed),
                [path_of(picture) for picture in pictures],
            )
            for step in service.zip(str(request.session_hash), paths, dials):
                if isinstance(step, Step):
                    yield None, _progress(step)
                else:
                    done, failed = step.summary.done, step.summary.failed
                    yield str(step.file), {"done": done, "failed": failed, "seconds": step.seconds}

    def info() -> dict[str, Any]:
        """The model and the limits of this server; 0 is no limit."""
        limits = service.limits
        return {
            "version": __version__,
            "model": service.scaler.config.name,
            "max_pixels": limits.max_pixels,
            "seconds": limits.seconds,
            "file_bytes": limits.file_bytes,
            "files": limits.files,
            "queue": limits.queue,
        }

    with gr.Column(visible=False):
        trigger = gr.Button()
        small, large, several = (
            gr.File(label="picture"),
            gr.File(label="result"),
            gr.File(file_count="multiple"),
        )
        dials = [
            gr.Number(4, label="scale, 1 to 64"),
            gr.Number(0, label="fidelity, 0 to 1"),
            gr.Textbox(
                "", label="budget: a share (40%), seconds (20s), fast, balanced, best, or nothing"
            ),
            gr.Number(0, label="seed", precision=0),
        ]
        box = gr.JSON(label="box: [x, y, width, height]")
        change = [
            gr.Textbox("", label="group: simple, medium, hard, or nothing"),
            gr.Textbox("", label="seed: a whole number, or nothing"),
        ]
        file, maps, facts = (
            gr.File(label="result"),
            gr.File(label="maps", file_count="multiple"),
            gr.JSON(label="facts"),
        )
        work: dict[str, Any] = model | {"preprocess": False}
        trigger.click(enlarge, [small, *dials], [file, maps, facts], api_name="enlarge", **work)
        trigger.click(redo, [small, large, box, *change], [file, facts], api_name="redo", **work)
        trigger.click(batch, [several, *dials], [file, facts], api_name="batch", **work)
        trigger.click(info, None, facts, api_name="info", queue=False)


@contextmanager
def _told() -> Iterator[None]:
    """Our errors become Gradio's, which reach the client with their text."""
    try:
        yield
    except PatchScalerError as error:
        raise Error(str(error), print_exception=False) from error


def _answers(steps: Iterator[Step | Job]) -> Iterator[tuple[Any, ...]]:
    for step in steps:
        if isinstance(step, Step):
            yield None, None, _progress(step)
        else:
            maps = [
                str(path) for name, path in step.views.items() if name not in ("before", "after")
            ]
            yield str(step.result), maps, step.record | {"seconds": step.seconds}


def _progress(step: Step) -> dict[str, Any]:
    told = {
        "stage": step.stage,
        "done": step.done,
        "total": step.total,
        "seconds_left": step.left,
        "of_all_stages": step.whole,
    }
    return told | ({"picture": step.picture} if step.picture else {})


def path_of(file: Any) -> Any:
    """What was sent as a file -> its path, or whatever it is: `Folder.uploaded` checks it."""
    return file.get("path") if isinstance(file, dict) else file
