"""PatchScaler: a diffusion upscaler whose compute follows the picture.

from patchscaler import PatchScaler
result = PatchScaler.from_pretrained().upscale(image)
"""

from typing import TYPE_CHECKING, Any

from patchscaler._version import __version__
from patchscaler.errors import PatchScalerError

if TYPE_CHECKING:
    from patchscaler.pipeline import PatchScaler, Result

__all__ = ["PatchScaler", "PatchScalerError", "Result", "__version__"]


def __getattr__(name: str) -> Any:
    """Import torch only when the pipeline is asked for: `patchscaler --help` should not wait for
    it.
    """
    if name in ("PatchScaler", "Result"):
        from patchscaler import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module 'patchscaler' has no attribute '{name}'")
