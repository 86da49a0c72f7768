"""Serving the page: where it listens, who may enter, and that nothing stays behind."""

import hmac
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from patchscaler.apps.web.limits import Limits
from patchscaler.errors import PatchScalerError
from patchscaler.pipeline import PatchScaler

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def read_passwords(file: str | Path) -> Callable[[str, str], bool]:
    """Lines of `name:password` -> a check. Raises PatchScalerError."""
    try:
        lines = Path(file).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PatchScalerError(
            f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from error
    pairs = dict(line.strip().split(":", 1) for line in lines if ":" in line)
    if not pairs or not all(name and password for name, password in pairs.items()):
        raise PatchScalerError(f"{file}: give a line of name:password for everybody who may enter")

    def check(name: str, password: str) -> bool:
        known = pairs.get(name)
        same = hmac.compare_digest((known or "-").encode(), password.encode())
        return same and known is not None

    return check


def check_open(host: str, share: bool, password: bool, everybody: bool) -> None:
    """Raises PatchScalerError where strangers could enter and nobody said that they may."""
    if (host not in LOOPBACK or share) and not password and not everybody:
        what = "--share" if share else f"--host {host}"
        raise PatchScalerError(
            f"{what} opens the page to others: give --password-file FILE, or --everybody if "
            "anyone may use it"
        )


def serve(
    scaler: PatchScaler,
    limits: Limits,
    host: str = "127.0.0.1",
    port: int | None = None,
    check: Callable[[str, str], bool] | None = None,
    share: bool = False,
    browser: bool = False,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Until it is interrupted; the command takes SIGTERM as that, too.

    Raises PatchScalerError for a port in use.
    """
    from patchscaler.apps.web.service import Service

    service = Service(scaler, limits)
    page = None
    try:
        page, address = launch(service, host, port, check, share, browser)
        if ready:
            ready(address)
        while True:
            time.sleep(60)
            service.folder.sweep()
    finally:
        if page is not None:
            page.close(verbose=False)
        service.folder.close()


def launch(
    service: Any,
    host: str = "127.0.0.1",
    port: int | None = None,
    check: Callable[[str, str], bool] | None = None,
    share: bool = False,
    browser: bool = False,
) -> tuple[Any, str]:
    """-> the running page, its address. Close the page and the service's folder when done."""
    # read when fields are made and files are asked for
    os.environ["GRADIO_TEMP_DIR"] = str(service.folder.path)
    os.environ["GRADIO_EXAMPLES_CACHE"] = str(service.folder.path / "examples")
    from starlette.middleware import Middleware

    from patchscaler.apps.web.guard import Bounded
    from patchscaler.apps.web.page import CSS, build, theme

    limits = service.limits
    page = build(service)
    try:
        _, address, shared = page.launch(
            server_name=host,
            server_port=port,
            share=share,
            auth=check,
            inbrowser=browser,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            max_file_size=limits.file_bytes or None,
            ssr_mode=False,
            run_history=False,
            enable_monitoring=False,
            footer_links=["api"],
            css=CSS,
            theme=theme(),
            app_kwargs={"middleware": [Middleware(Bounded, folder=service.folder, limits=limits)]},
        )
    except OSError as error:
        raise PatchScalerError(
            f"port {port or 7860} of {host}: {error}; choose another with --port"
        ) from error
    return page, shared or address
