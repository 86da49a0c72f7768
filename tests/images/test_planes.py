"""Pillow, arrays and tensors -> planes and back."""

import numpy as np
import pytest
import torch
from PIL import Image

from patchscaler.errors import PatchScalerError
from patchscaler.images.pixels import to_pil
from patchscaler.images.planes import Planes, bleed, finish, reflect_pad, to_planes


def levels(planes: Planes) -> np.ndarray:
    """rgb as (H, W, 3) in 0..255."""
    return ((planes.rgb + 1) * 127.5).round().byte().movedim(0, -1).numpy()


def alpha_levels(planes: Planes) -> np.ndarray:
    return (planes.alpha * 255).round().byte().numpy()


@pytest.fixture
def rgb(picture) -> Image.Image:
    return picture(9, 13)


@pytest.fixture
def alpha() -> Image.Image:
    """Clear on the left, half in the middle, opaque on the right."""
    values = np.repeat(np.array([0, 128, 255], np.uint8), [4, 3, 6])
    return Image.fromarray(np.tile(values, (9, 1)))


# --- modes ----------------------------------------------------------------------------------------


def test_rgb(rgb):
    planes = to_planes(rgb)
    assert planes.rgb.shape == (3, 9, 13) and planes.alpha is None and not planes.grey
    assert planes.rgb.min() >= -1 and planes.rgb.max() <= 1
    assert np.array_equal(levels(planes), np.asarray(rgb))


def test_grey(rgb):
    planes = to_planes(rgb.convert("L"))
    assert planes.grey and planes.alpha is None
    assert np.array_equal(levels(planes), np.repeat(np.asarray(rgb.convert("L"))[..., None], 3, -1))


def test_black_and_white():
    image = Image.fromarray(np.array([[True, False], [False, True]]))
    assert image.mode == "1"
    planes = to_planes(image)
    assert planes.grey and planes.rgb[0].tolist() == [[1, -1], [-1, 1]]


def test_rgba(rgb, alpha):
    image = rgb.copy()
    image.putalpha(alpha)
    planes = to_planes(image)
    assert not planes.grey
    assert np.array_equal(alpha_levels(planes), np.asarray(alpha))
    # Visible pixels, also half-transparent ones, keep their colour.
    seen = np.asarray(alpha) > 0
    assert np.array_equal(levels(planes)[seen], np.asarray(rgb)[seen])


def test_grey_with_alpha(rgb, alpha):
    image = rgb.convert("L")
    image.putalpha(alpha)
    assert image.mode == "LA"
    planes = to_planes(image)
    assert planes.grey and np.array_equal(alpha_levels(planes), np.asarray(alpha))
    assert np.array_equal(levels(planes)[:, 4:, 0], np.asarray(rgb.convert("L"))[:, 4:])


def test_palette(rgb):
    image = rgb.quantize(16)
    assert image.mode == "P"
    planes = to_planes(image)
    assert planes.alpha is None and not planes.grey
    assert np.array_equal(levels(planes), np.asarray(image.convert("RGB")))


def test_palette_with_transparency(rgb):
    image = rgb.quantize(16)
    indices = np.asarray(image)
    clear = int(indices[0, 0])
    image.info["transparency"] = clear
    planes = to_planes(image)
    assert np.array_equal(alpha_levels(planes), np.where(indices == clear, 0, 255))
    seen = indices != clear
    assert np.array_equal(levels(planes)[seen], np.asarray(rgb.quantize(16).convert("RGB"))[seen])


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_one_transparent_colour(mode):
    image = Image.new(mode, (4, 4), "white")
    image.putpixel((1, 2), 0 if mode == "L" else (0, 0, 0))
    image.info["transparency"] = 0 if mode == "L" else (0, 0, 0)
    planes = to_planes(image)
    assert planes.grey == (mode == "L")
    assert planes.alpha[2, 1] == 0 and planes.alpha.sum() == 15


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "LAB", "RGBX"])
def test_other_colours(rgb, mode):
    image = Image.frombytes(
        mode, (6, 3), rgb.tobytes()[: 18 * len(Image.new(mode, (1, 1)).getbands())]
    )
    assert np.array_equal(levels(to_planes(image)), np.asarray(image.convert("RGB")))


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.array([[0, 257, 32896], [65535, 256, 1000]], np.uint16)
    image = Image.fromarray(values)
    assert image.mode == "I;16"
    planes = to_planes(image)
    assert planes.grey
    torch.testing.assert_close(
        (planes.rgb[0] + 1) / 2, torch.from_numpy(values / 65535).float(), atol=1e-6, rtol=0
    )
    wide = to_planes(Image.fromarray(values.astype(np.int32)))
    assert torch.equal(wide.rgb, planes.rgb)


def test_floats():
    unit = to_planes(Image.fromarray(np.array([[0, 0.25, 1.0]], np.float32)))
    assert unit.rgb[0, 0].tolist() == [-1, -0.5, 1]
    # Floats say nothing of their range; it is guessed from a list, never from the brightest pixel.
    wide = to_planes(Image.fromarray(np.array([[0, 127.5, 255.0]], np.float32)))
    assert wide.rgb[0, 0].tolist() == [-1, 0, 1]
    flat = to_planes(Image.fromarray(np.full((1, 2), 51.0, np.float32)))
    assert flat.rgb[0, 0].tolist() == pytest.approx([-0.6, -0.6])


# --- arrays and tensors ---------------------------------------------------------------------------


def test_arrays(rgb):
    array = np.asarray(rgb)
    expected = to_planes(rgb).rgb
    assert torch.equal(to_planes(array).rgb, expected)
    torch.testing.assert_close(to_planes(array / 255).rgb, expected, atol=1e-6, rtol=0)
    # negative strides
    torch.testing.assert_close(to_planes(array[::-1, ::-1]).rgb, expected.flip(1, 2))
    grey = to_planes(array[..., 0])
    assert (
        grey.grey
        and torch.equal(grey.rgb, to_planes(array[..., :1]).rgb)
        and grey.rgb.shape == (3, 9, 13)
    )
    four = to_planes(np.dstack([array, np.full((9, 13), 51, np.uint8)]))
    assert four.alpha.unique().tolist() == pytest.approx([0.2])


def test_tensors(rgb):
    tensor = torch.from_numpy(np.array(rgb)).movedim(-1, 0).float() / 255
    torch.testing.assert_close(to_planes(tensor).rgb, to_planes(rgb).rgb)
    assert to_planes(tensor.double()).rgb.dtype == torch.float32


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 5)),
        np.zeros(4),
        np.zeros((1, 3, 4, 4)),
        np.zeros((0, 4, 3)),
        np.zeros((4, 4), np.int32),
    ],
    ids=["5 channels", "1-D", "4-D", "empty", "int32"],
)
def test_arrays_that_cannot_be(array):
    with pytest.raises(PatchScalerError, match="array of"):
        to_planes(array)


@pytest.mark.parametrize("shape", [(4, 4), (1, 3, 4, 4), (4, 8, 8), (8, 8, 3), (3, 0, 5)])
def test_tensors_that_cannot_be(shape):
    with pytest.raises(PatchScalerError, match="tensor of shape"):
        to_planes(torch.zeros(shape))


def test_integer_tensors_are_not_taken_for_white():
    with pytest.raises(PatchScalerError):
        to_planes(torch.full((3, 4, 4), 128, dtype=torch.uint8))


@pytest.mark.parametrize("make", [np.full, torch.full])
def test_numbers_that_are_none(make):
    with pytest.raises(PatchScalerError):
        to_planes(make((3, 3, 3), float("nan")))
    with pytest.raises(PatchScalerError):
        to_planes(make((3, 3, 3), float("inf")))


@pytest.mark.parametrize("thing", ["photo.png", None, 3])
def test_things_that_are_no_picture(thing):
    with pytest.raises(PatchScalerError):
        to_planes(thing)


# --- transparency ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(9, 13), (1, 100), (64, 3), (1, 1)])
def test_bleed_leaves_opaque_pixels_alone(size):
    g = torch.Generator().manual_seed(0)
    colors = torch.rand(3, *size, generator=g)
    alpha = (torch.rand(size, generator=g) < 0.3).float()
    alpha.view(-1)[0] = 1
    out = bleed(colors, alpha)
    assert out.shape == colors.shape
    torch.testing.assert_close(out[:, alpha == 1], colors[:, alpha == 1])
    assert torch.equal(bleed(colors, torch.ones(size)), colors)


def test_bleed_makes_no_dark_fringe():
    # A white disc on clear black, as cut-outs are saved: enlarging would draw the black into the
    # edge.
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    alpha = ((x - 20) ** 2 + (y - 20) ** 2 < 100).float()
    out = bleed(alpha.expand(3, 40, 40), alpha)
    assert out.min() > 0.99


def test_bleed_takes_the_nearest_colour():
    colors, alpha = torch.zeros(3, 8, 64), torch.zeros(8, 64)
    alpha[:, :8] = alpha[:, -8:] = 1
    colors[0, :, :8] = 1  # red at the left, blue at the right
    colors[2, :, -8:] = 1
    out = bleed(colors, alpha)
    assert out[0, 4, 10] > 0.9 and out[2, 4, 10] < 0.1
    assert out[2, 4, 53] > 0.9 and out[0, 4, 53] < 0.1


def test_wholly_clear_picture():
    out = bleed(torch.rand(3, 5, 6), torch.zeros(5, 6))
    assert out.isfinite().all()


# --- padding and back -----------------------------------------------------------------------------


def test_reflect_pad_by_hand():
    x = torch.tensor([[1.0, 2.0, 3.0]])
    assert reflect_pad(x, 1, 9).tolist() == [[1, 2, 3, 2, 1, 2, 3, 2, 1]]
    assert reflect_pad(torch.tensor([[5.0]]), 2, 3).tolist() == [[5, 5, 5]] * 2
    assert reflect_pad(torch.tensor([[1.0, 2.0]]), 1, 5).tolist() == [[1, 2, 1, 2, 1]]


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 8), (8, 8), (31, 5)])
def test_reflect_pad_keeps_the_picture_and_its_values(size):
    x = torch.rand(3, *size)
    padded = reflect_pad(x, 32, 32)
    assert padded.shape == (3, 32, 32)
    assert torch.equal(padded[:, : size[0], : size[1]], x)
    expected = np.pad(x.numpy(), ((0, 0), (0, 32 - size[0]), (0, 32 - size[1])), mode="reflect")
    assert np.array_equal(padded.numpy(), expected)


def test_no_padding():
    x = torch.rand(3, 7, 9)
    assert torch.equal(reflect_pad(x, 7, 9), x)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_finish_gives_the_mode_and_values_back(rgb, mode):
    image = rgb.convert(mode)  # wholly opaque where there is alpha
    back = to_pil(finish(to_planes(image).rgb, to_planes(image)))
    assert back.mode == mode
    assert np.array_equal(np.asarray(back), np.asarray(image))


def test_finish_enlarges_alpha(rgb, alpha):
    image = rgb.copy()
    image.putalpha(alpha)
    big = to_pil(finish(torch.zeros(3, 36, 52), to_planes(image)))
    assert big.size == (52, 36)
    a = np.asarray(big)[..., 3]
    # two pixels away from an edge nothing changes
    assert (a[:, :8] == 0).all() and (a[:, -16:] == 255).all()
    assert 110 < a[18, 22] < 145


def test_finish_cuts_off_what_is_out_of_range():
    planes = Planes(torch.zeros(3, 1, 2))
    out = np.asarray(finish(torch.tensor([[[-3.0, 3.0]]]).expand(3, 1, 2), planes))
    assert out.tolist() == [[[0] * 3, [255] * 3]]
