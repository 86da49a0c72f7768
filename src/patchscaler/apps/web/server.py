"""Where the page listens, who may enter, and that nothing stays behind."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gradio.routes import templates
from jinja2.ext import Extension

from patchscaler.apps.web.jobs import Limits, Studio
from patchscaler.apps.web.page import CSS, build, theme
from patchscaler.errors import PatchScalerError
from patchscaler.pipeline import PatchScaler

ABOUT = "Makes images larger, with detail where they lack it."
HANDLE = Path(__file__).parent / "static" / "handle.js"


class SocialTags(Extension):
    """Put the project's tags into Gradio's page in place of Gradio's own."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        tags = {"og:type": "website", "og:title": "PatchScaler", "og:description": ABOUT}
        tags |= {"twitter:card": "summary", "description": ABOUT}
        mine = "".join(f'<meta name="{k}" property="{k}" content="{v}" />' for k, v in tags.items())
        source = re.sub(r'<meta\s+(property="og:|name="twitter:)[^>]*>', "", source)
        source = re.sub(r"<meta[^>]*(gradio-app/gradio|@Gradio)[^>]*>", "", source)
        return source.replace("</head>", f"{mine}</head>", 1)


def read_passwords(file: Path) -> list[tuple[str, str]]:
    """Lines of `name:password`. Raises PatchScalerError."""
    try:
        lines = file.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise PatchScalerError(f"{file}: cannot be read ({error})") from error
    pairs = [tuple(line.split(":", 1)) for line in lines]
    if not pairs or not all(len(pair) == 2 and all(pair) for pair in pairs):
        raise PatchScalerError(f"{file}: no password. Hint: write name:password in each line")
    return pairs  # type: ignore[return-value]


@contextmanager
def launched(
    pipeline: PatchScaler,
    limits: Limits,
    host: str = "127.0.0.1",
    port: int | None = None,
    passwords: list[tuple[str, str]] | None = None,
    share: bool = False,
    browser: bool = False,
) -> Iterator[str]:
    """Serve the page while the block runs. Yields its address; raises PatchScalerError."""
    with tempfile.TemporaryDirectory(prefix="patchscaler-web-") as folder:
        before = os.environ.get("GRADIO_TEMP_DIR")
        os.environ["GRADIO_TEMP_DIR"] = folder  # read when fields are made and files asked for
        templates.env.add_extension(SocialTags)
        page = build(Studio(pipeline, limits, Path(folder)))
        try:
            _, address, shared = page.launch(
                server_name=host,
                server_port=port,
                share=share,
                auth=passwords,
                inbrowser=browser,
                prevent_thread_lock=True,
                quiet=True,
                max_file_size=limits.file_bytes or None,
                ssr_mode=False,
                enable_monitoring=False,
                footer_links=["api"],
                css=CSS,
                js=HANDLE.read_text("utf-8"),
                theme=theme(),
            )
            yield shared or address
        except OSError as error:
            raise PatchScalerError(
                f"port {port or 7860} of {host}: {error}. Hint: choose another with --port"
            ) from error
        finally:
            page.close(verbose=False)
            os.environ.pop("GRADIO_TEMP_DIR")
            if before is not None:
                os.environ["GRADIO_TEMP_DIR"] = before
