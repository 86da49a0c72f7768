from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from patchscaler import PatchScalerError
from patchscaler.images.planes import Planes
from patchscaler.model import Model
from patchscaler.pipeline import PatchScaler

BOTH = pytest.mark.parametrize("kind", ["tiny", "tiny_rrdb"])


@pytest.fixture
def scaler(kind, request) -> PatchScaler:
    return request.getfixturevalue(kind)


@BOTH
@pytest.mark.parametrize("size", [(8, 8), (33, 47), (64, 64), (70, 20)])
def test_four_times_the_size_exactly(scaler, picture, size):
    output = scaler(picture(*size))
    assert output.array.shape == (4 * size[0], 4 * size[1], 3) and output.array.dtype == np.uint8
    assert output.size == output.image.size == (4 * size[1], 4 * size[0])


@BOTH
def test_an_output_is_consistent(scaler, picture):
    output = scaler(picture(64, 96), maps=True)
    assert len(output.groups) == len(output.scores) == len(output.grid)
    assert len(set(output.groups)) > 1 and sum(output.patches_by_group().values()) == len(
        output.groups
    )
    steps = np.array(scaler.model.config.groups.num_inference_steps)
    assert output.nfe == steps[output.groups].sum()
    assert 0 < output.gmac <= output.gmac_uniform
    assert output.confidence.min() > 0 and output.confidence.max() <= 1
    assert output.coarse.shape == output.array.shape
    assert output.deviation.shape == output.confidence.shape and output.deviation.max() > 0
    assert set(output.timings) == {"restore", "denoise", "decode"}
    assert repr(output).startswith("Output(384x256, ") and output._repr_png_()[1:4] == b"PNG"


@BOTH
def test_the_same_seed_gives_the_same_image_and_another_does_not(scaler, picture):
    image = picture(64, 64)
    first, again, other = (scaler(image, seed=seed).array for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@BOTH
def test_lists_batches_tiles_and_threads_do_not_change_the_image(scaler, picture):
    images = [picture(64, 96), picture(33, 47, 1)]
    alone = [scaler(image).array.astype(int) for image in images]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        made = [[scaler(image).array for image in images]]
    finally:
        torch.set_num_threads(threads)
    made += [[output.array for output in scaler(images)]]
    made += [[output.array for output in scaler(images, batch_size=3)]]
    made += [[scaler(image, tile=32, memory_limit=64).array for image in images]]
    for found in made:
        assert max(np.abs(a - b).max() for a, b in zip(alone, found, strict=True)) <= 1
    assert scaler([]) == []


@BOTH
def test_fidelity_one_is_the_coarse_image(scaler, picture):
    image = picture(64, 96)
    coarse = scaler(image, maps=True).coarse.astype(int)
    assert np.abs(scaler(image, fidelity=1).array - coarse).max() <= 1
    distances = [
        np.abs(scaler(image, fidelity=f).array - coarse).mean() for f in (0, 0.25, 0.5, 0.75, 1)
    ]
    assert distances[0] > distances[2] >= distances[3] >= distances[4] < 1


@BOTH
def test_white_of_a_fidelity_mask_stays_coarse_and_black_does_not(scaler, picture):
    image = picture(64, 128)
    mask = np.zeros((128, 256), np.uint8)
    mask[:, :128] = 255
    plain, masked = scaler(image, maps=True), scaler(image, fidelity_mask=mask)
    own = masked.array.astype(int)
    assert np.abs(own - plain.coarse)[:, :200].max() <= 2  # colors are matched around there
    assert np.abs(own - plain.array)[:, -200:].max() <= 2
    with pytest.raises(PatchScalerError, match=r"fidelity_mask of 64x64: the image has 128x64"):
        scaler(image, fidelity_mask=np.zeros((64, 64), np.uint8))


@BOTH
@pytest.mark.parametrize("budget", [0, 0.2, 0.5, 0.8, 1])
def test_a_budget_is_a_share_of_the_compute(scaler, picture, budget):
    output = scaler(picture(128, 128), budget=budget)
    base = scaler(picture(128, 128), budget=0).gmac
    share = (output.gmac - base) / (output.gmac_uniform - base)
    assert budget - 0.1 <= share <= budget + 0.02
    assert budget < 1 or set(output.groups) == {2}


def test_the_prompt_changes_the_image(tiny, picture):
    image = picture(64, 64)
    output = tiny(image)
    assert not np.array_equal(output.array, tiny(image, prompt=False).array)
    sampled = output.groups > 0
    assert (output.textures[sampled] >= 0).all() and (output.textures[~sampled] == -1).all()
    bare = PatchScaler(Model(tiny.model.config, tiny.model.networks))
    assert np.array_equal(bare(image).array, tiny(image, prompt=False).array)


def test_groups_without_steps_stay_coarse(tiny, picture):
    groups = replace(tiny.model.config.groups, start_times=(0, 0, 0), num_inference_steps=(0, 0, 0))
    output = tiny(picture(64, 64), groups=groups, maps=True)
    assert output.nfe == 0 and np.abs(output.array.astype(int) - output.coarse).max() <= 1


@pytest.mark.parametrize(("sampler", "overlap"), [("dpm++", 8), ("ddim", 0), ("ddim", 12)])
def test_other_samplers_and_overlaps(tiny, picture, sampler, overlap):
    groups = replace(tiny.model.config.groups, sampler=sampler, overlap=overlap)
    assert tiny(picture(40, 40), groups=groups).size == (160, 160)


def test_a_crop_sees_the_noise_of_the_whole(tiny_rrdb, picture):
    image = picture(64, 128)
    groups = replace(tiny_rrdb.model.config.groups, thresholds=(1.0, 1.0), start_times=(0, 0, 300))
    whole = tiny_rrdb(image, groups=groups, color="none").array.astype(int)
    crop = tiny_rrdb(
        image.crop((64, 0, 128, 64)), groups=groups, origin=(0, 64), color="none"
    ).array
    other = tiny_rrdb(image.crop((64, 0, 128, 64)), groups=groups, color="none").array
    inner = slice(64, 192)
    own, foreign = (
        np.abs(whole[:, 256:][inner, inner] - x[inner, inner]).mean() for x in (crop, other)
    )
    assert own < 0.5 * foreign


def test_sizes_and_passes(tiny, picture):
    image = picture(24, 32)
    assert tiny(image, scale=2).size == (64, 48)
    assert tiny(image, scale=1).size == (32, 24)
    assert tiny(image, scale=6).size == (192, 144)
    assert tiny(image, size="100x").size == (100, 75)


def test_opposite_borders_of_a_tileable_texture_meet(tiny, picture):
    wave = 127 + 100 * np.sin(2 * np.pi * np.arange(48) / 48 + 0.7)
    image = np.repeat(wave[None, :, None], 48, 0).repeat(3, 2).astype(np.uint8)
    for tileable in (True, False):
        array = tiny(image, tileable=tileable, seed=3).array.astype(int)
        steps = np.abs(np.diff(array, axis=1)).mean((0, 2))
        step = np.abs(array[:, 0] - array[:, -1]).mean()
        assert (step <= steps.max()) or not tileable


def test_inputs(tiny, picture, tmp_path):
    image = picture(32, 40)
    array = tiny(image).array
    as_array = np.asarray(image)
    tensor = torch.from_numpy(as_array.copy()).movedim(-1, 0).float() / 255
    image.save(tmp_path / "a.png")
    for form in (as_array, tensor, tmp_path / "a.png", str(tmp_path / "a.png")):
        assert np.array_equal(tiny(form).array, array)
    assert tiny(as_array.astype(np.uint16) * 257).array.dtype == np.uint16
    assert tiny(image.convert("LA")).array.shape[2] == 2
    turned, exif = image.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise
    turned.save(tmp_path / "b.png", exif=exif)
    assert tiny(Image.open(tmp_path / "b.png")).size == (160, 128)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"seed": 1.5}, "seed"),
        ({"seed": True}, "seed"),
        ({"fidelity": "x"}, "fidelity"),
        ({"fidelity": 1.1}, "fidelity"),
        ({"fidelity": float("nan")}, "fidelity"),
        ({"budget": -1}, "budget"),
        ({"budget": "fast"}, "budget"),
        ({"batch_size": 0}, "batch_size"),
        ({"tile": -1}, "tile"),
        ({"memory_limit": 0}, "memory_limit"),
        ({"color": "adain"}, "color"),
        ({"scale": 0}, "scale"),
        ({"scale": 2, "size": "100x"}, "scale"),
        ({"size": "big"}, "size"),
        ({"max_pixels": 10}, "more than"),
    ],
)
def test_arguments_that_cannot_be(tiny, picture, options, name):
    with pytest.raises(PatchScalerError, match=name):
        tiny(picture(16, 16), **options)


@pytest.mark.parametrize(
    "image", [np.full((16, 16, 3), np.nan), np.full((16, 16, 3), 200.0), np.zeros((2, 2, 2, 2)), 7]
)
def test_images_that_cannot_be(tiny, image):
    with pytest.raises(PatchScalerError):
        tiny(image)


def test_progress_never_falls_and_ends_at_its_total(tiny, picture):
    seen = []
    tiny(picture(64, 64), callback=seen.append)
    done = [progress.done for progress in seen]
    assert done == sorted(done) and done[-1] == seen[-1].total and done.count(done[-1]) == 1
    assert [p.stage for p in seen] == sorted(
        [p.stage for p in seen], key=["restore", "denoise", "decode"].index
    )
    assert seen[-1].eta == 0.0


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory")])
def test_batches_are_halved_where_memory_runs_out(tiny, picture, monkeypatch, error):
    image, real, sizes = picture(64, 64), Model.denoise_patches, []
    expected = tiny(image).array

    def tight(self, y_0, *arguments):
        sizes.append(len(y_0))
        if len(y_0) > 2:
            raise error
        return real(self, y_0, *arguments)

    monkeypatch.setattr(Model, "denoise_patches", tight)
    assert np.abs(tiny(image).array.astype(int) - expected).max() <= 1 and max(sizes) > 2

    def never(self, *arguments):
        raise error

    monkeypatch.setattr(Model, "denoise_patches", never)
    with pytest.raises(PatchScalerError, match="not enough memory"):
        tiny(image)


def test_other_errors_are_not_hidden(tiny, picture, monkeypatch):
    def broken(self, *arguments):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(Model, "denoise_patches", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        tiny(picture(32, 32))


def test_planes_pass_through(tiny, picture):
    planes = Planes(torch.zeros(3, 16, 16))
    assert tiny(planes).size == (64, 64)
