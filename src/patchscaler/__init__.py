"""PatchScaler: a diffusion upscaler whose compute follows the image.

from patchscaler import PatchScaler
output = PatchScaler.from_pretrained()(image)
"""

from typing import TYPE_CHECKING, Any

from patchscaler._version import __version__
from patchscaler.errors import PatchScalerError

if TYPE_CHECKING:
    from patchscaler.files import upscale_file
    from patchscaler.images.sizes import TargetSize
    from patchscaler.pipeline import Output, PatchScaler
    from patchscaler.progress import Progress
    from patchscaler.texture_memory import TextureMemory

_PLACES = {
    "Output": "pipeline",
    "PatchScaler": "pipeline",
    "Progress": "progress",
    "TargetSize": "images.sizes",
    "TextureMemory": "texture_memory",
    "upscale_file": "files",
}
__all__ = [
    "Output",
    "PatchScaler",
    "PatchScalerError",
    "Progress",
    "TargetSize",
    "TextureMemory",
    "__version__",
    "upscale_file",
]


def __getattr__(name: str) -> Any:
    """Import torch only when it is needed: `patchscaler --help` should not wait for it."""
    if name not in _PLACES:
        raise AttributeError(f"module 'patchscaler' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"patchscaler.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
