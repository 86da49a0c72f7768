"""`patchscaler web`."""

import argparse
from typing import Any

from patchscaler.apps.cli.common import load_model, model_options
from patchscaler.errors import PatchScalerError


def add_parser(commands: Any) -> None:
    web = commands.add_parser(
        "web",
        help="a page in the browser, and an API",
        description="A page in the browser, and an API (docs/web.md). "
        "It listens on this machine alone unless told otherwise.",
    )
    web.set_defaults(function=serve)
    web.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, this machine)",
    )
    web.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    web.add_argument(
        "--password-file", metavar="FILE", help="who may enter: lines of name:password"
    )
    web.add_argument(
        "--share", action="store_true", help="also at a public address, through Gradio's tunnel"
    )
    web.add_argument(
        "--everybody", action="store_true", help="--host and --share without a password"
    )
    web.add_argument("--browser", action="store_true", help="open the page")
    web.add_argument(
        "--memory", metavar="FILE", help="textures of your own (patchscaler memory build)"
    )
    limits = web.add_argument_group("limits (0: none)")
    limits.add_argument(
        "--max-pixels", type=int, default=4_000_000, help="of a picture (default: 4000000)"
    )
    limits.add_argument(
        "--max-seconds",
        type=float,
        default=300,
        help="of a picture's or a zip's work (default: 300)",
    )
    limits.add_argument(
        "--max-upload", type=float, default=50, metavar="MB", help="of a file (default: 50)"
    )
    limits.add_argument("--max-files", type=int, default=20, help="of a zip (default: 20)")
    limits.add_argument(
        "--max-disk", type=float, default=4000, metavar="MB", help="of all files (default: 4000)"
    )
    limits.add_argument(
        "--queue", type=int, default=8, help="pictures that may wait (default: 8, at least 1)"
    )
    limits.add_argument(
        "--keep",
        type=float,
        default=60,
        metavar="MINUTES",
        help="after which the files of a page that stays open are removed (default: 60)",
    )
    model_options(web.add_argument_group("for those who know the paper"), engine="auto")


def serve(args: argparse.Namespace) -> int:
    numbers = (args.max_pixels, args.max_seconds, args.max_upload, args.max_files, args.max_disk)
    if min(numbers) < 0 or args.queue < 1 or not args.keep > 0:
        raise PatchScalerError("limits take 0 or more, --queue 1 or more, --keep more than 0")
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise PatchScalerError("the page needs gradio: pip install 'patchscaler[web]'") from error
    from patchscaler.apps.web.limits import Limits
    from patchscaler.apps.web.server import check_open, read_passwords
    from patchscaler.apps.web.server import serve as run

    check_open(args.host, args.share, args.password_file is not None, args.everybody)
    check = read_passwords(args.password_file) if args.password_file else None
    limits = Limits(
        args.max_pixels,
        args.max_seconds,
        int(args.max_upload * 1e6),
        args.max_files,
        args.queue,
        int(args.max_disk * 1e6),
        args.keep * 60,
    )
    model = load_model(args, args.memory)
    try:
        run(
            model,
            limits,
            args.host,
            args.port,
            check,
            args.share,
            args.browser,
            lambda address: print(f"{address}  (Ctrl-C ends it)", flush=True),
        )
    except KeyboardInterrupt:
        print("ended; all uploads and results are removed")
    return 0
