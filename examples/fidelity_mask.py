"""Keep one region faithful and let the rest be vivid: python examples/fidelity_mask.py."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from patchscaler import PatchScaler

image = Image.open(Path(__file__).with_name("cat.jpg"))
mask = np.zeros((image.height, image.width), np.uint8)  # black: as `fidelity` says
height, width = mask.shape
mask[height // 4 : height // 2, width // 4 : width // 2] = 255  # white: the faithful result
soft = Image.fromarray(mask).filter(ImageFilter.GaussianBlur(8))
output = PatchScaler.from_pretrained()(image, scale=2, fidelity=0, fidelity_mask=soft)
output.image.save("faithful_region.png")
