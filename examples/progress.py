"""Progress, groups and timings of one upscaling: python examples/progress.py photo.jpg."""

import sys

from patchscaler import PatchScaler, Progress


def show(progress: Progress) -> None:
    """Print how far the image is."""
    left = "" if progress.eta is None else f", {progress.eta:.0f} s left"
    print(f"{progress.stage}: {progress.done / progress.total:.0%}{left}")


output = PatchScaler.from_pretrained()(sys.argv[1], budget=0.5, callback=show)
print(output.patches_by_group(), f"{output.gmac:.0f} of {output.gmac_uniform:.0f} GMAC")
print({stage: round(seconds, 2) for stage, seconds in output.timings.items()})
