"""`patchscaler web`."""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from patchscaler.apps.cli.common import load_model, model_options
from patchscaler.errors import PatchScalerError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def add_parser(commands: Any) -> None:
    web = commands.add_parser(
        "web",
        help="a page in the browser, and an API",
        description="A page in the browser, and an API (docs/web.md), for this machine alone "
        "unless --host or --share is given.",
    )
    web.set_defaults(function=serve)
    web.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)"
    )
    web.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    web.add_argument("--share", action="store_true", help="also at a public address of Gradio")
    who = web.add_mutually_exclusive_group()
    who.add_argument(
        "--password-file", metavar="FILE", type=Path, help="who may enter: lines of name:password"
    )
    who.add_argument(
        "--everybody", action="store_true", help="--host or --share without a password"
    )
    web.add_argument("--browser", action="store_true", help="open the page")
    web.add_argument("--memory", metavar="FILE", help="another texture memory")
    limits = web.add_argument_group(
        "limits",
        "0: none. The defaults in parentheses hold with --host or --share; on this machine alone "
        "only an image of 500 megapixels is too large.",
    )
    limits.add_argument("--max-pixels", type=int, metavar="N", help="of an image (4000000)")
    limits.add_argument("--max-seconds", type=float, metavar="S", help="of work an image (300)")
    limits.add_argument("--max-upload", type=float, metavar="MB", help="of a file (50)")
    limits.add_argument("--max-files", type=int, metavar="N", help="of a list (20)")
    limits.add_argument("--queue", type=int, metavar="N", help="jobs that may wait (8)")
    limits.add_argument("--keep", type=float, metavar="MIN", help="minutes, of files (60)")
    model_options(web.add_argument_group("model"), engine="auto")


def limits_of(args: argparse.Namespace) -> Any:
    """Those for strangers where the page is open to others, with what was given in their place.

    Raises:
        PatchScalerError: A limit is out of its range.
    """
    from patchscaler.apps.web.jobs import STRANGERS, Limits

    limits = Limits() if args.host in LOOPBACK and not args.share else STRANGERS
    given = {
        "pixels": args.max_pixels,
        "seconds": args.max_seconds,
        "file_bytes": None if args.max_upload is None else int(args.max_upload * 1e6),
        "files": args.max_files,
        "queue": args.queue,
        "keep": None if args.keep is None else int(args.keep * 60),
    }
    given = {name: value for name, value in given.items() if value is not None}
    if min(given.values(), default=0) < 0 or not (given.get("queue", 1) and given.get("keep", 1)):
        raise PatchScalerError("limits: take 0 or more; --queue and --keep: 1 or more")
    return replace(limits, **given)


def serve(args: argparse.Namespace) -> int:
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise PatchScalerError("the page needs gradio: pip install 'patchscaler[web]'") from error
    from patchscaler.apps.web.server import launched, read_passwords

    if (args.host not in LOOPBACK or args.share) and not (args.password_file or args.everybody):
        raise PatchScalerError(
            "--host and --share open the page to others. Hint: give --password-file FILE, or "
            "--everybody"
        )
    passwords = read_passwords(args.password_file) if args.password_file else None
    limits, pipeline = limits_of(args), load_model(args, args.memory)
    try:
        with launched(
            pipeline, limits, args.host, args.port, passwords, args.share, args.browser
        ) as address:
            print(f"{address}  (Ctrl-C ends it)", flush=True)
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        print("ended; all uploads and results are removed")
    return 0
