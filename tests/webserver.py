"""What the tests of the page share: one that is served on this machine, requests by hand, its jobs
and their files.
"""

import http.client
import json
import os
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from PIL import Image

from patchscaler.apps.web import service as service_module
from patchscaler.apps.web.limits import Limits
from patchscaler.apps.web.server import launch
from patchscaler.apps.web.service import Service
from patchscaler.pipeline import PatchScaler


@contextmanager
def served(scaler: PatchScaler, parent: Any, **limits: Any) -> Iterator[tuple[Service, str]]:
    """-> the service, the page's address.

    Gradio's settings in the environment are those from before at the end.
    """
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


# --- jobs and their files -------------------------------------------------------------------------


def upload(
    service: Service, image: Image.Image | bytes, name: str = "in.png", place: str = "a"
) -> Path:
    """As Gradio leaves it: a folder named after the content, the file in it."""
    path = service.folder.path / place / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(image) if isinstance(image, bytes) else image.save(path)
    return path


def result_of(steps):
    return list(steps)[-1]


def jobs(service: Service) -> list[Path]:
    """Folders of jobs, which are those with long random names."""
    return [path for path in service.folder.path.iterdir() if len(path.name) == 32]


def waited(condition, seconds: float = 20) -> bool:
    """Did it come true?

    Asked once more after it did, a condition of another thread may be false again.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def working() -> bool:
    """Is any job's thread alive, be it before its work or behind it?"""
    return any(thread.name == "patchscaler-job" for thread in threading.enumerate())


def slow_work(monkeypatch: Any, steps: int) -> tuple[threading.Event, threading.Event]:
    """Pictures take so many steps of .05 s -> set when a step was told, set when the
    work is over.
    """
    reached, stopped = threading.Event(), threading.Event()

    def slow(*args: Any, watch: Any, **keywords: Any) -> None:
        try:
            for n in range(steps):
                watch("patch-steps", n, steps)
                reached.set()
                time.sleep(0.05)
        finally:
            stopped.set()

    monkeypatch.setattr(service_module, "upscale_file", slow)
    return reached, stopped


# --- requests by hand -----------------------------------------------------------------------------


def own(service) -> list[Path]:
    """What lies in the folder beside the page's own examples."""
    return [path for path in service.folder.path.iterdir() if path not in service.folder.pinned]


def request(
    address: str,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
):
    """-> (status, text)"""
    connection = http.client.HTTPConnection(urllib.parse.urlparse(address).netloc, timeout=30)
    try:
        # An answer may come before all is sent, and no more is taken then.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read().decode("utf-8", "replace")
    finally:
        connection.close()


def called(address: str, name: str, *values: object) -> str:
    """A call by hand, with whatever values -> all that the server said about it."""
    body = json.dumps({"data": values}).encode()
    status, text = request(
        address, "POST", f"/gradio_api/call/{name}", body, {"Content-Type": "application/json"}
    )
    if status != 200:
        return text
    return request(address, "GET", f"/gradio_api/call/{name}/{json.loads(text)['event_id']}")[1]


def multipart(data: bytes, name: str = "a.png") -> tuple[bytes, dict[str, str]]:
    head = (
        f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    )
    return head + data + b"\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}


def upload_of(path: str, **more: object) -> dict[str, object]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}
