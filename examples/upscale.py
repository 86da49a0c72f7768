"""Upscale one image four times: python examples/upscale.py [photo.jpg] [result.png]."""

import sys
from pathlib import Path

from patchscaler import PatchScaler

source = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("cat.jpg")
target = sys.argv[2] if len(sys.argv) > 2 else "result.png"
output = PatchScaler.from_pretrained()(source)
output.image.save(target)
print(f"{target}: {output}")
