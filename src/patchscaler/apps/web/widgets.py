"""What Gradio has not, a viewer and a line of progress (static/), and what they show."""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from patchscaler.apps.web.jobs import Job, Step
from patchscaler.streaming.cost import duration

STATIC = Path(__file__).parent / "static"
STAGES = {  # as `upscale_file` names them
    "windows restored": (1, "restoring"),
    "patch-steps": (2, "adding texture"),
    "tiles refined": (3, "refining"),
    "strips decoded": (4, "decoding"),
    "file written": (5, "writing"),
    "views": (5, "writing"),
    "redo": (0, "making the box again"),
}


def _static(name: str) -> str:
    return (STATIC / name).read_text("utf-8")


def viewer() -> gr.HTML:
    """Before and after, maps, zoom; the event `box` tells of a drawn box, in pixels of the small
    picture.
    """
    return gr.HTML(
        html_template=_static("viewer.html"),
        css_template=_static("viewer.css"),
        js_on_load=_static("viewer.js"),
        apply_default_css=False,
    )


def status() -> gr.HTML:
    """One line: stage, bar, time left."""
    return gr.HTML(
        html_template=_static("status.html"),
        css_template=_static("status.css"),
        js_on_load=_static("status.js"),
        apply_default_css=False,
    )


def viewed(job: Job) -> dict[str, Any]:
    """What a viewer shows."""
    files = {name: FileData(path=str(path)).model_dump() for name, path in job.views.items()}
    width, height = job.record["output"]["width"], job.record["output"]["height"]
    return files | {
        "name": job.source.name,
        "width": job.size[0],
        "height": job.size[1],
        "full": width,
        "full_height": height,
    }


def told(step: Step) -> dict[str, Any]:
    """What a status shows of a job that goes on."""
    if step.stage == "waiting":
        return {"stage": "Waiting for the picture before", "count": "", "share": None}
    number, name = STAGES[step.stage]
    stage = f"Step {number} of 5: {name}" if number else name.capitalize()
    count = (
        f"{step.done} of {step.total} patch-steps"
        if step.stage in ("patch-steps", "redo") and step.done
        else ""
    )
    if step.left is not None:
        count += (
            f"{', ' if count else ''}about {duration(step.left)} "
            f"left{'' if step.whole else ' of this step'}"
        )
    share = step.done / step.total if step.total > 1 else None
    return {
        "stage": f"{step.picture}: {stage}" if step.picture else stage,
        "count": count,
        "share": share,
    }


def said(text: str, failed: bool = False) -> dict[str, Any]:
    """What a status shows when nothing goes on."""
    return {
        "stage": f"Not done: {text}" if failed else text,
        "count": "",
        "share": None,
        "failed": failed,
    }
