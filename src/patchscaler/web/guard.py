"""What reaches Gradio: uploads of bounded size, names of uploaded files. Nothing is fetched, nothing else is read."""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.exceptions import Error

from patchscaler.web.folder import Folder
from patchscaler.web.limits import Limits

BODY = 1_000_000  # bytes of a request that is no upload
FORM = 10_000  # bytes that an upload has beside each file
NO_ADDRESS = "that is an address, and nothing is fetched from elsewhere: download the picture and upload it"
NO_UPLOAD = "that is no uploaded file: upload the picture first"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Page(gr.Blocks):
    """Blocks that read uploaded files and nothing else.

    Gradio fetches an address that stands where a file is due, in any field whatever its kind; here it is refused.
    """

    upload_folder: Path

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *rest: Any, **keywords: Any) -> list[Any]:
        check_files(inputs, self.upload_folder)
        for block, value in zip(block_fn.inputs, inputs, strict=False):
            if isinstance(block, gr.File | gr.Image):
                check_are_files(value)
        try:
            return await super().preprocess_data(block_fn, inputs, *rest, **keywords)
        except (ValueError, TypeError, KeyError) as error:
            raise Error(
                "what was sent is not what this takes; docs/web.md says what is", print_exception=False
            ) from error


def check_files(data: Any, folder: Path) -> None:
    """Raises an error for whoever sent it, where something that looks like a file is no upload."""
    if isinstance(data, dict):
        for key in ("path", "url"):
            value = data.get(key)
            if _is_address(value):
                if key == "url" and isinstance(data.get("path"), str) and "/file=" in str(value):
                    continue  # the address that this server gave the upload; `path` counts
                raise Error(NO_ADDRESS, print_exception=False)
        path = data.get("path")
        if path is not None and not _is_inside(path, folder):
            raise Error(NO_UPLOAD, print_exception=False)
    for value in data.values() if isinstance(data, dict) else data if isinstance(data, list | tuple) else ():
        check_files(value, folder)


def check_are_files(value: Any) -> None:
    """Raises an error where something else stands for a file, or for several."""
    for file in value if isinstance(value, list) else [value]:
        meta = file.get("meta") if isinstance(file, dict) else None
        if file is not None and not (isinstance(meta, dict) and meta.get("_type") == "gradio.FileData"):
            raise Error(NO_ADDRESS if _is_address(file) else NO_UPLOAD, print_exception=False)


def _is_address(value: Any) -> bool:
    return isinstance(value, str) and value.strip().lower().startswith(("http:", "https:", "ftp:", "file:"))


def _is_inside(path: Any, folder: Path) -> bool:
    if not isinstance(path, str) or "\0" in path or not path:
        return False
    real = Path(os.path.realpath(path))
    return real.is_relative_to(folder) and real.is_file()


class Bounded:
    """ASGI: requests of bounded size, no upload above the folder's limit, no route that fetches addresses."""

    def __init__(self, app: Any, folder: Folder, limits: Limits):
        self.app, self.folder, self.limits = app, folder, limits
        self.uploading = 0  # bytes announced or received by uploads under way

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        if "/proxy=" in path or "/file=http:" in path or "/file=https:" in path:
            await _refuse(send, 403, NO_ADDRESS)
            return
        if scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        upload = path.rstrip("/").endswith("/upload")
        most = self._most() if upload else BODY
        length = dict(scope["headers"]).get(b"content-length", b"")
        if length.isdigit() and most is not None and int(length) > most:
            await _refuse(send, 413, self._too_large() if upload else "the request is too large")
            return
        if upload and self._is_full():
            await _refuse(send, 503, "there is no room for more pictures at the moment; try again later")
            return
        await self._counted(scope, receive, send, most, upload)

    async def _counted(self, scope: Message, receive: Receive, send: Send, most: int | None, upload: bool) -> None:
        taken, answered = 0, False

        async def counting() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            self.uploading += len(message.get("body", b"")) if upload else 0
            if most is not None and taken > most:
                raise _TooLarge
            return message

        async def answering(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self.app(scope, counting, answering)
        except _TooLarge:
            if not answered:
                await _refuse(send, 413, self._too_large() if upload else "the request is too large")
        finally:
            self.uploading -= taken if upload else 0

    def _most(self) -> int | None:
        """Bytes of one upload request: as many files as a zip may have."""
        if not self.limits.file_bytes or not self.limits.files:
            return None
        return max(1, self.limits.files) * (self.limits.file_bytes + FORM)

    def _is_full(self) -> bool:
        return bool(self.limits.disk_bytes) and self.folder.size() + self.uploading > self.limits.disk_bytes

    def _too_large(self) -> str:
        return f"files of up to {self.limits.file_bytes / 1e6:g} MB are taken"


class _TooLarge(Exception):  # noqa: N818 (it never leaves this file)
    """More bytes came than were announced."""


async def _refuse(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
