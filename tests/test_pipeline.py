"""The whole, on random weights: sizes, determinism, batches, modes, costs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from patchscaler.batches import patches_within
from patchscaler.config import GRMConfig, GroupConfig, preset
from patchscaler.diffusion.noise import noise_field
from patchscaler.errors import PatchScalerError
from patchscaler.models.folder import build_networks
from patchscaler.pipeline import PatchScaler

COARSE_ONLY = GroupConfig(start_times=(0, 0, 0), num_inference_steps=(0, 0, 0))


def difference(a: Image.Image, b: Image.Image) -> int:
    """The largest, in grey values; pictures of two sizes or modes are no match at all."""
    assert (a.size, a.mode) == (b.size, b.mode)
    return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max())


# --- sizes and what comes with the picture --------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (9, 13), (33, 47), (64, 64), (5, 70)])
def test_four_times_the_size_exactly(tiny, picture, size):
    result = tiny.upscale(picture(*size), coarse=True)
    assert result.image.size == result.coarse.size == (4 * size[1], 4 * size[0])
    # 16x16 latents are 32x32 pixels, the least; odd sides are padded to whole latents.
    latents = tuple(max(16, -(-side // 2)) for side in size)
    assert (result.grid.height, result.grid.width) == latents == result.confidence.shape
    assert len(result.groups) == len(result.scores) == len(result.textures) == len(result.grid)


def test_result_is_consistent(tiny, picture):
    result = tiny.upscale(picture(64, 64))
    assert sorted(set(result.groups.tolist())) == [0, 1, 2]  # or the other tests would test less
    g1, g2 = tiny.config.groups.thresholds
    assert result.groups.tolist() == [0 if s > g1 else 1 if s > g2 else 2 for s in result.scores]
    means = [result.confidence[r : r + 16, c : c + 16].mean() for r, c in result.grid.corners()]
    assert result.scores.tolist() == pytest.approx(means, rel=1e-5)
    assert result.confidence.min() > 0 and result.confidence.max() <= 1
    # Two memory entries fed each patch that was sampled, none the simple ones.
    assert result.textures.shape == (9, 2)
    simple = result.groups == 0
    assert (result.textures[simple] == -1).all()
    assert (result.textures[~simple] >= 0).all() and (result.textures < len(tiny.memory)).all()
    assert (result.textures[~simple][:, 0] != result.textures[~simple][:, 1]).all()


def test_cost_is_patches_times_steps(tiny, picture):
    result = tiny.upscale(picture(64, 64))
    counts = np.bincount(result.groups, minlength=3)
    patches, evaluations = result.cost["patches"], result.cost["evaluations"]
    assert patches == dict(zip(("simple", "medium", "hard"), counts.tolist(), strict=True))
    assert evaluations == {"simple": 0, "medium": counts[1], "hard": 2 * counts[2]}
    assert result.cost["evaluations_total"] == counts[1] + 2 * counts[2]
    assert set(result.cost["seconds"]) == {"coarse", "prompt", "sampling", "decode"}
    assert all(seconds >= 0 for seconds in result.cost["seconds"].values())


@pytest.mark.parametrize("max_patches", [1, 4, 64])
def test_progress_counts_to_the_total(tiny, picture, max_patches):
    calls = []
    result = tiny.upscale(
        picture(64, 64), max_patches=max_patches, progress=lambda *call: calls.append(call)
    )
    total = result.cost["evaluations_total"]
    done = [d for d, _ in calls]
    assert calls[-1] == (total, total) and {t for _, t in calls} == {total}
    assert done == sorted(set(done)) and done[0] > 0


def test_only_what_is_needed_is_evaluated(tiny, picture, monkeypatch):
    real, rows = tiny.patch_dit.forward, []

    def counting(x_t, t, coarse, prompt):
        rows.append(len(x_t))
        # a prompt in every call
        assert all(len(k) == len(v) == len(x_t) for k, v in prompt.keys_values)
        return real(x_t, t, coarse, prompt)

    monkeypatch.setattr(tiny.patch_dit, "forward", counting)
    result = tiny.upscale(picture(64, 64))
    assert sum(rows) == result.cost["evaluations_total"]
    assert len(rows) == 2  # one batch, max(N) calls


# --- determinism ----------------------------------------------------------------------------------


def test_seeds(tiny, picture):
    image = picture(33, 47)
    first = tiny.upscale(image, seed=1, coarse=True)
    assert difference(first.image, tiny.upscale(image, seed=1).image) == 0
    other = tiny.upscale(image, seed=2, coarse=True)
    assert difference(first.image, other.image) > 1
    assert difference(first.coarse, other.coarse) == 0


@pytest.mark.parametrize("max_patches", [1, 3])
def test_batch_size_does_not_matter(tiny, picture, max_patches):
    image = picture(64, 64)
    whole, parts = tiny.upscale(image, max_patches=64), tiny.upscale(image, max_patches=max_patches)
    assert difference(whole.image, parts.image) <= 1
    assert np.array_equal(whole.textures, parts.textures)


def test_a_list_equals_one_by_one(tiny, picture):
    images = [picture(64, 64, 0), picture(9, 13, 1), picture(33, 47, 2).convert("L")]
    together = tiny.upscale_many(images, seed=3)
    assert isinstance(together, list)
    for image, result in zip(images, together, strict=True):
        alone = tiny.upscale(image, seed=3)
        assert difference(result.image, alone.image) <= 1
        assert np.array_equal(result.groups, alone.groups) and np.array_equal(
            result.textures, alone.textures
        )
        assert result.cost["evaluations"] == alone.cost["evaluations"]


def test_an_empty_list(tiny):
    assert tiny.upscale_many([]) == []


def test_number_of_threads_does_not_matter(tiny, picture):
    one = tiny.upscale(picture(33, 47))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        two = tiny.upscale(picture(33, 47))
    finally:
        torch.set_num_threads(before)
    assert difference(one.image, two.image) <= 1


def test_a_crop_sees_the_noise_of_the_whole(tiny, picture, monkeypatch):
    seen = []

    def remember(*window):
        seen.append((window, noise_field(*window)))
        return seen[-1][1]

    monkeypatch.setattr("patchscaler.pipeline.noise_field", remember)
    tiny.upscale(picture(64, 96), seed=7)
    tiny.upscale(picture(40, 48), seed=7, origin=(16, 32))
    (_, whole), (window, crop) = seen
    assert window[:6] == (7, 8, 8, 16, 20, 24)  # two pixels of the small picture are one latent
    assert torch.equal(crop, whole[:, 8:28, 16:40])


@pytest.mark.parametrize(
    "make", [np.asarray, lambda i: torch.from_numpy(np.array(i)).movedim(-1, 0) / 255]
)
def test_arrays_and_tensors_give_the_same_picture(tiny, picture, make):
    image = picture(33, 47)
    assert difference(tiny.upscale(make(image)).image, tiny.upscale(image).image) <= 1


# --- settings -------------------------------------------------------------------------------------


def test_prompt_changes_the_picture(tiny, picture):
    image = picture(64, 64)
    with_prompt, without = (
        tiny.upscale(image, prompt=prompt, coarse=True) for prompt in (True, False)
    )
    assert difference(with_prompt.image, without.image) > 1
    assert (without.textures == -1).all()
    assert difference(with_prompt.coarse, without.coarse) == 0


def test_nothing_retrieved_is_no_prompt(tiny, picture, monkeypatch):
    expected = tiny.upscale(picture(33, 47), prompt=False)
    monkeypatch.setattr(
        tiny, "config", replace(tiny.config, texture=replace(tiny.config.texture, top_k=0))
    )
    assert difference(tiny.upscale(picture(33, 47)).image, expected.image) == 0


def test_without_a_memory(tiny, picture):
    bare = PatchScaler(tiny.config, tiny.networks, None)
    image = picture(33, 47)
    assert difference(bare.upscale(image).image, tiny.upscale(image, prompt=False).image) == 0


def test_no_steps_give_the_coarse_picture(tiny, picture):
    calls = []
    progress = lambda *call: calls.append(call)  # noqa: E731
    result = tiny.upscale(picture(64, 64), groups=COARSE_ONLY, progress=progress, coarse=True)
    assert difference(result.image, result.coarse) <= 1
    assert not calls and result.cost["evaluations_total"] == 0


def test_simple_patches_stay_coarse(tiny, picture):
    all_simple = replace(tiny.config.groups, thresholds=(0.0, 0.0))
    result = tiny.upscale(picture(33, 47), groups=all_simple, coarse=True)
    assert not result.groups.any() and difference(result.image, result.coarse) <= 1
    sampled = tiny.upscale(picture(33, 47), coarse=True)
    assert sampled.groups.any() and difference(sampled.image, sampled.coarse) > 1


def test_coarse_picture_comes_only_when_asked_for(tiny, picture):
    assert tiny.upscale(picture(8, 8)).coarse is None


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
@pytest.mark.parametrize("overlap", [0, 4, 12])
def test_other_samplers_and_overlaps(tiny, picture, sampler, overlap):
    groups = replace(
        preset("paper").groups, sampler=sampler, overlap=overlap, num_inference_steps=(1, 2, 3)
    )
    result = tiny.upscale(picture(33, 47), groups=groups, coarse=True)
    assert result.image.size == (188, 132) and result.grid.overlap == overlap
    assert difference(result.image, result.coarse) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"thresholds": (0.5, 0.9)}, "thresholds"),
        ({"start_times": (0, 400, 1200)}, "start time 1200"),
        ({"num_inference_steps": (0, -1, 2)}, "-1 steps from time 400"),
        ({"overlap": 16}, "overlap 16"),
        ({"sampler": "euler"}, "unknown sampler 'euler'"),
        (
            {"latent_patch_size": 8, "overlap": 4},
            "patches of 8 latents: this model was trained for 16",
        ),
    ],
)
def test_settings_that_cannot_be(tiny, picture, change, message):
    with pytest.raises(PatchScalerError, match=message):
        tiny.upscale(picture(33, 47), groups=replace(tiny.config.groups, **change))


@pytest.mark.parametrize("max_patches", [0, -1])
def test_batches_of_nothing(tiny, picture, max_patches):
    with pytest.raises(PatchScalerError, match=f"max_patches {max_patches}: take 1 or more"):
        tiny.upscale(picture(64, 64), max_patches=max_patches)


def test_batches_follow_the_memory_limit(tiny, picture, monkeypatch):
    expected, real, rows = tiny.upscale(picture(64, 64)), tiny.patch_dit.forward, []
    monkeypatch.setattr(
        tiny.patch_dit, "forward", lambda x, *args: rows.append(len(x)) or real(x, *args)
    )
    numbers = [patches_within(tiny, mebibytes) for mebibytes in (0, 1, 10, 20, 512)]
    assert numbers[0] == 1 and numbers == sorted(numbers)
    assert numbers[3] == pytest.approx(2 * numbers[2], abs=1)
    assert difference(tiny.upscale(picture(64, 64), memory_limit=0).image, expected.image) <= 1
    assert max(rows) == 1


def test_limit_of_pixels(tiny, picture):
    assert tiny.upscale(picture(10, 20), max_pixels=200).image.size == (80, 40)
    with pytest.raises(PatchScalerError, match="the picture: 20x10 is more than"):
        tiny.upscale(picture(10, 20), max_pixels=199)


# --- modes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("L", "L"), ("LA", "LA"), ("RGB", "RGB"), ("RGBA", "RGBA"), ("CMYK", "RGB"), ("1", "L")],
)
def test_modes(tiny, picture, mode, expected):
    assert tiny.upscale(picture(20, 20).convert(mode)).image.mode == expected


def test_palettes(tiny, picture):
    image = picture(20, 20).quantize(8)
    assert tiny.upscale(image).image.mode == "RGB"
    image.info["transparency"] = 0
    assert tiny.upscale(image).image.mode == "RGBA"


def test_opaque_alpha_changes_nothing(tiny, picture):
    image = picture(20, 20)
    plain, opaque = tiny.upscale(image).image, tiny.upscale(image.convert("RGBA")).image
    assert difference(opaque.convert("RGB"), plain) <= 1
    assert np.asarray(opaque)[..., 3].min() == 255


def test_a_network_of_the_papers_kind(tiny, picture):
    # The U-Net on latents in the place of the one on pixels, in the same pipeline.
    torch.manual_seed(0)
    config = replace(preset("tiny"), grm=GRMConfig(kind="unet", width=8))
    networks = build_networks(config)
    networks["autoencoder"].load_state_dict(tiny.autoencoder.state_dict())
    for size in ((8, 8), (33, 47)):
        result = PatchScaler(config, networks, None).upscale(picture(*size), coarse=True)
        assert result.image.size == (4 * size[1], 4 * size[0])
        # Untrained, it returns the enlarged picture, as far as eight channels can tell it.
        enlarged = picture(*size).resize(result.image.size, Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(result.coarse, int) - np.asarray(enlarged, int)).mean() < 20
