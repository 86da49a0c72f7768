"""What reaches Gradio: uploads of bounded size, names of uploaded files.

Nothing is fetched, nothing else is read.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.exceptions import Error

from patchscaler.apps.web.folder import Folder
from patchscaler.apps.web.limits import Limits

BODY = 1_000_000  # bytes of a request that is no upload
FORM = 10_000  # bytes that an upload has beside each file
# bytes reserved beyond what came of an upload of unknown length: not every chunk asks for the sizes
AHEAD = 1_000_000
# bytes and seconds for which what follows a refusal is taken and thrown away
REST = 32_000_000, 3.0
NO_ADDRESS = (
    "that is an address, and nothing is fetched from elsewhere: download the picture and upload it"
)
NO_UPLOAD = "that is no uploaded file: upload the picture first"
NO_ROOM = "there is no room for more pictures at the moment; try again later"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Page(gr.Blocks):
    """Blocks that read uploaded files and nothing else.

    Gradio fetches an address that stands where a file is due, in any field whatever its kind; here
    it is refused.
    """

    upload_folder: Path

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], *rest: Any, **keywords: Any
    ) -> list[Any]:
        check_files(inputs, self.upload_folder)
        for block, value in zip(block_fn.inputs, inputs, strict=False):
            if isinstance(block, gr.File | gr.Image):
                check_are_files(value)
        try:
            return await super().preprocess_data(block_fn, inputs, *rest, **keywords)
        except (ValueError, TypeError, KeyError) as error:
            raise Error(
                "what was sent is not what this takes; docs/web.md says what is",
                print_exception=False,
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
    for value in (
        data.values() if isinstance(data, dict) else data if isinstance(data, list | tuple) else ()
    ):
        check_files(value, folder)


def check_are_files(value: Any) -> None:
    """Raises an error where something else stands for a file, or for several."""
    for file in value if isinstance(value, list) else [value]:
        meta = file.get("meta") if isinstance(file, dict) else None
        if file is not None and not (
            isinstance(meta, dict) and meta.get("_type") == "gradio.FileData"
        ):
            raise Error(NO_ADDRESS if _is_address(file) else NO_UPLOAD, print_exception=False)


def _is_address(value: Any) -> bool:
    return isinstance(value, str) and value.strip().lower().startswith(
        ("http:", "https:", "ftp:", "file:")
    )


def _is_inside(path: Any, folder: Path) -> bool:
    if not isinstance(path, str) or "\0" in path or not path:
        return False
    real = Path(os.path.realpath(path))
    return real.is_relative_to(folder) and real.is_file()


class Bounded:
    """ASGI: requests of bounded size, no upload above the folder's limit, no route that fetches
    addresses.
    """

    def __init__(self, app: Any, folder: Folder, limits: Limits):
        self.app, self.folder, self.limits = app, folder, limits
        self.reserved = 0  # bytes that uploads under way announced, or sent without announcing them

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
        length = dict(scope["headers"]).get(b"content-length", b"")
        body = _Body(self, path.rstrip("/").endswith("/upload"))
        await self._counted(scope, receive, send, body, int(length) if length.isdigit() else 0)

    async def _counted(
        self, scope: Message, receive: Receive, send: Send, body: "_Body", announced: int
    ) -> None:
        answered = False

        async def counting() -> Message:
            message = await receive()
            body.take(len(message.get("body", b"")))
            return message

        async def answering(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            body.expect(announced)
            await self.app(scope, counting, answering)
        except _Refused as error:
            if not answered:
                await _thrown_away(receive)
                await _refuse(send, error.status, str(error))
        finally:
            body.release()


class _Body:
    """Of one request: bounded, and an upload's bytes are reserved in the folder until they lie
    there.
    """

    def __init__(self, bounded: Bounded, upload: bool):
        self.all, self.limits, self.upload = bounded, bounded.limits, upload
        self.taken = self.reserved = 0

    def expect(self, size: int, ahead: int = 0) -> None:
        """Bytes that are to come, all together, and those to be reserved beyond.

        Raises _Refused.
        """
        most = self._most() if self.upload else BODY
        if most is not None and size > most:
            large = f"files of up to {self.limits.file_bytes / 1e6:g} MB are taken"
            raise _Refused(413, large if self.upload else "the request is too large")
        if self.upload and size > self.reserved:
            self._reserve(size + ahead - self.reserved)

    def take(self, size: int) -> None:
        """Bytes that came, announced or not. Raises _Refused."""
        if self.taken + size > self.reserved:
            self.expect(self.taken + size, AHEAD)
        self.taken += size

    def release(self) -> None:
        self.all.reserved -= self.reserved

    def _most(self) -> int | None:
        """Bytes of one upload request: as many files as a zip may have."""
        if not self.limits.file_bytes or not self.limits.files:
            return None
        return self.limits.files * (self.limits.file_bytes + FORM)

    def _reserve(self, more: int) -> None:
        # What came of this one lies in the folder already; of others it counts twice, which errs on
        # the safe side.
        others = self.all.reserved - self.taken
        if (
            self.limits.disk_bytes
            and self.all.folder.size() + others + more > self.limits.disk_bytes
        ):
            raise _Refused(503, NO_ROOM)
        self.reserved += more
        self.all.reserved += more


class _Refused(Exception):  # noqa: N818 (it never leaves this file)
    """More bytes than are allowed, announced or not."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


async def _thrown_away(receive: Receive) -> None:
    """What is still on its way: a connection that is closed upon it is reset, and the answer may be
    lost with it.
    """
    left, end = REST[0], time.monotonic() + REST[1]
    with suppress(asyncio.TimeoutError):
        while left > 0:
            message = await asyncio.wait_for(receive(), end - time.monotonic())
            left -= len(message.get("body", b""))
            if not message.get("more_body"):
                return


async def _refuse(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
