"""The endpoint that programs call: `upscale` (docs/web.md)."""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.exceptions import Error

from patchscaler.apps.web.jobs import Dials, Studio
from patchscaler.apps.web.results import SUFFIXES, converted
from patchscaler.errors import PatchScalerError


def add_api(studio: Studio, model: dict[str, Any]) -> None:
    """Add it to the blocks at hand. model: how the queue takes events that compute."""

    def upscale(
        image: str | None,
        scale: float,
        size: str,
        fidelity: float,
        seed: float,
        format: str,
        quality: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (as Gradio asks for it)
    ) -> tuple[str, dict[str, Any]]:
        """Upscale an image: (result, details)."""
        try:
            if not image or format not in SUFFIXES:
                raise PatchScalerError(f"give an image, and a format of {', '.join(SUFFIXES)}")
            item = studio.add(Path(image))
            show = studio.watch(
                str(request.session_hash), lambda p: progress((p.done, p.total), p.stage)
            )
            studio.upscale(
                item, Dials(scale, size, None if fidelity < 0 else fidelity, int(seed)), show
            )
            file = converted(item, format, int(quality))
        except PatchScalerError as error:
            raise Error(str(error), print_exception=False) from error
        output = item.output
        assert output is not None
        return str(file), {
            "size": output.size,
            "patches": output.patches_by_group(),
            "nfe": output.nfe,
            "gmac": output.gmac,
            "gmac_uniform": output.gmac_uniform,
            "seconds": output.timings | {"all": item.seconds},
            "warnings": output.warnings,
        }

    with gr.Column(visible=False):
        fields = [
            gr.File(label="image"),
            gr.Number(4, label="scale, up to 64"),
            gr.Textbox("", label="size in place of scale: 3000x, x2000, 3000x2000, 12mp"),
            gr.Number(-1, label="fidelity, 0 (vivid) to 1; -1 for the model's"),
            gr.Number(0, label="seed", precision=0),
            gr.Textbox("PNG", label=f"format: {', '.join(SUFFIXES)}"),
            gr.Number(95, label="quality, 1 to 100", precision=0),
        ]
        gr.Button().click(
            upscale,
            fields,
            [gr.File(label="result"), gr.JSON(label="details")],
            api_name="upscale",
            **model,
        )
