"""A page that is served on this machine, for the tests of its API and in a browser."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from patchscaler.pipeline import PatchScaler
from patchscaler.web.limits import Limits
from patchscaler.web.server import launch
from patchscaler.web.service import Service


@contextmanager
def served(scaler: PatchScaler, parent: Any, **limits: Any) -> Iterator[tuple[Service, str]]:
    """-> the service, the page's address. Gradio's settings in the environment are those from before at the end."""
    names = ("GRADIO_TEMP_DIR", "GRADIO_EXAMPLES_CACHE", "GRADIO_ANALYTICS_ENABLED")
    before = {name: os.environ.get(name) for name in names}
    check = limits.pop("check", None)
    service = Service(scaler, Limits(**({"max_pixels": 40_000, "seconds": 60} | limits)), parent)
    page, address = launch(service, check=check)
    try:
        yield service, address
    finally:
        page.close(verbose=False)
        service.folder.close()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
