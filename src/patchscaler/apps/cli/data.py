"""`patchscaler data`: check that a data set is as it was published."""

import argparse
from typing import Any

NAMES = (
    "lsdir",
    "realsr",
    "realsr-crops",
    "drealsr-crops",
    "div2k-crops",
    "realset65",
    "realset80",
    "div2k",
    "ost",
    "manga109",
    "dtd",
)


def add_parser(commands: Any) -> None:
    data = commands.add_parser(
        "data", help="check a public data set: counts, sizes, hash of the list"
    )
    data.set_defaults(function=check)
    data.add_argument("name", choices=NAMES)
    data.add_argument("folder", metavar="DIR")
    data.add_argument(
        "--unchecked", action="store_true", help="go on where it differs from the release"
    )


def check(args: argparse.Namespace) -> int:
    from patchscaler.training.data.collections import open_collection

    found = open_collection(args.name, args.folder, unchecked=args.unchecked)
    counts = ", ".join(f"{part} {len(files)}" for part, files in found.parts.items() if files)
    print(f"{found.release.title} ({found.release.terms}): {counts}")
    print(f"hash {found.hash}")
    for problem in found.problems:
        print(f"differs: {problem}")
    return 0
