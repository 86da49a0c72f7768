"""A fidelity mask: a grey image of any size -> weights of the coarse image, by LR pixels."""

import torch.nn.functional as F
from torch import Tensor

from patchscaler.errors import PatchScalerError
from patchscaler.images.planes import Planes

ASPECT = 0.02  # relative difference of aspect that rounding a mask's size may make


def mask_weights(mask: Planes, size: tuple[int, int]) -> Tensor:
    """White keeps the coarse image, black the result of the dial.

    Args:
        mask: Any size of the image's aspect.
        size: (h, w) of the image in LR pixels.

    Returns:
        (h, w) in 0..1.

    Raises:
        PatchScalerError: The mask has another aspect.
    """
    height, width = mask.rgb.shape[-2:]
    if abs(height * size[1] / (width * size[0]) - 1) > max(ASPECT, 2 / min(size)):
        raise PatchScalerError(
            f"fidelity_mask of {width}x{height}: the image has {size[1]}x{size[0]}. "
            "Hint: give a mask of the same aspect"
        )
    grey = (mask.rgb.mean(0)[None, None] + 1) / 2  # (1, 1, height, width)
    return F.interpolate(grey, size=size, mode="bilinear", antialias=True)[0, 0].clamp(0, 1)
