"""Pictures that lie on disk -> files, in memory that does not grow with them.

PNG, TIFF and JPEG are written by rows; pyramids by libvips, which reads the pixels where they lie.
All other formats have encoders that want the whole picture at once.
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from patchscaler.errors import PatchScalerError
from patchscaler.images.deep import import_vips, vips_errors
from patchscaler.images.deep_writing import save_deep
from patchscaler.images.jpeg_writing import write_jpeg
from patchscaler.images.metadata import Metadata
from patchscaler.images.write import (
    check_alpha,
    check_quality,
    check_side,
    fitting,
    format_of,
    replacing,
    save_options,
    save_picture,
)

BY_ROWS = ("PNG", "TIFF", "JPEG")
MAX_IN_MEMORY = 400_000_000  # bytes of pixels that are handed to an encoder at once


class PixelFile(Protocol):
    """(h, w, 1..4) uint8 or uint16 in a file of its own, nothing else in it:
    `streaming.disk.DiskArray`.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    nbytes: int

    def __getitem__(self, key: Any) -> np.ndarray: ...


def check_large(path: Path, nbytes: int, pyramid: bool = False) -> None:
    """Before any work: is there a way to write so many bytes of pixels in this format?

    Raises PatchScalerError.
    """
    kind = format_of(path)
    if pyramid and kind != "TIFF":
        raise PatchScalerError(f"{path}: pyramids are written as .tif")
    if pyramid:
        import_vips(f"{path}: a pyramid")
    elif kind not in BY_ROWS and nbytes > MAX_IN_MEMORY:
        raise PatchScalerError(
            f"{path}: {kind} wants all of {nbytes / 1e9:.1f} GB of pixels in memory at once; use "
            ".png, .tif or .jpg"
        )


def save_large(
    pixels: PixelFile,
    path: str | Path,
    metadata: Metadata | None = None,
    quality: int | None = None,
    lossless: bool = False,
    pyramid: bool = False,
) -> list[str]:
    """As `save_picture` does it, from pixels on disk. pyramid: a tiled TIFF that holds smaller
    copies of itself.
    """
    path = Path(path)
    height, width, channels = pixels.shape
    kind = format_of(path)
    check_side(path, width, height)
    check_alpha(path, channels in (2, 4))
    check_quality(path, quality, lossless)
    check_large(path, pixels.nbytes, pyramid)
    if not pyramid and kind not in BY_ROWS:
        return save_picture(pixels[:], path, metadata, quality, lossless)
    notes: list[str] = []
    data = fitting(metadata or Metadata((width, height)), kind, notes).enlarged(width, height)
    with replacing(path) as temporary:
        options = save_options(kind, pixels.shape, data, quality, lossless)
        if pyramid:
            with vips_errors(path):
                _write_pyramid(pixels, temporary, data)
        elif kind == "JPEG":
            write_jpeg(pixels, temporary, options)
        else:
            save_deep(pixels, temporary, kind, data, options)  # type: ignore[arg-type]
    return notes


def _vips_image(pixels: PixelFile) -> Any:
    vips = import_vips("a pyramid")
    height, width, channels = pixels.shape
    deep = pixels.dtype == np.uint16
    image = vips.Image.rawload(
        str(pixels.path), width, height, channels, format="ushort" if deep else "uchar"
    )
    kinds = ("grey16", "rgb16") if deep else ("b-w", "srgb")
    return image.copy(interpretation=kinds[channels > 2])


def _write_pyramid(pixels: PixelFile, path: Path, data: Metadata) -> None:
    vips, image = import_vips("a pyramid"), _vips_image(pixels)
    blocks = {"icc-profile-data": data.icc_profile, "xmp-data": data.xmp, "iptc-data": data.iptc}
    for name, block in blocks.items():
        if block:
            image.set_type(vips.GValue.blob_type, name, block)
    density = (data.dpi or (72, 72))[0] / 25.4  # libvips counts in pixels a millimetre
    image.copy(xres=density, yres=density).tiffsave(
        str(path),
        tile=True,
        tile_width=256,
        tile_height=256,
        pyramid=True,
        subifd=False,
        compression="deflate",
        predictor="horizontal",
        bigtiff=pixels.nbytes > 2e9,
    )
