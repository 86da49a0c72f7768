"""Upscale the images of a folder, with a line for each: python examples/folder.py IN OUT."""

import sys
from pathlib import Path

from patchscaler import PatchScaler
from patchscaler.batch import Done, upscale_files
from patchscaler.folders import find_images

folder, out = Path(sys.argv[1]), Path(sys.argv[2])
items = [(path, out / f"{path.stem}.png") for path in find_images(folder).images]


def show(done: Done) -> None:
    """Print what became of an image."""
    print(f"{done.target}: {done.output}, {done.seconds:.1f} s")


upscale_files(
    PatchScaler.from_pretrained(),
    items,
    options={"size": "12mp"},
    on_done=show,
    on_error=lambda path, error: print(f"{path}: {error}", file=sys.stderr),
)
