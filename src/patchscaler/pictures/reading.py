"""Files -> pictures, with one clear line for each that cannot be read."""

from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from patchscaler.errors import PatchScalerError

MAX_PIXELS = 4_000_000  # of the input; sixteen times as many come out, and take about 6 GB on the way


def load_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read, check and turn upright. Raises PatchScalerError naming the file and the mend."""
    path = Path(path)
    if not path.exists():
        raise PatchScalerError(f"{path}: no such file")
    if path.is_dir():
        raise PatchScalerError(f"{path}: is a folder; name the pictures in it")
    # Pillow's own limit has no override by file; ours is checked before anything is decoded.
    pillow_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        if path.stat().st_size == 0:
            raise PatchScalerError(f"{path}: the file is empty")
        with Image.open(path) as image:
            check_pixels(image.width, image.height, max_pixels, str(path))
            image.load()
            return ImageOps.exif_transpose(image)
    except PatchScalerError:
        raise
    except UnidentifiedImageError as error:
        raise PatchScalerError(f"{path}: not a picture in a format that can be read") from error
    except PermissionError as error:
        raise PatchScalerError(f"{path}: no permission to read it") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise PatchScalerError(f"{path}: damaged or cut off ({error})") from error
    finally:
        Image.MAX_IMAGE_PIXELS = pillow_limit


def check_pixels(width: int, height: int, max_pixels: int, name: str) -> None:
    """Raises PatchScalerError where a picture has more pixels than allowed."""
    if max_pixels and width * height > max_pixels:
        raise PatchScalerError(
            f"{name}: {width}x{height} is more than the limit of {max_pixels / 1e6:g} megapixels; "
            f"allow it with --max-pixels {width * height} (max_pixels in Python) if memory suffices"
        )
