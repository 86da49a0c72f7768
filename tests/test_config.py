"""Presets, and configurations to JSON and back."""

import json
from dataclasses import FrozenInstanceError

import pytest

from patchscaler.config import PATCH_DIT_SIZES, PRESETS, ModelConfig, preset
from patchscaler.diffusion.groups import check_groups
from patchscaler.diffusion.schedule import Diffusion, group_timesteps
from patchscaler.errors import PatchScalerError


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name):
    config = preset(name)
    text = config.to_json()
    assert config.name == name
    assert ModelConfig.from_json(text) == config
    # Lists of JSON become tuples again, or the dataclass could not be hashed.
    assert hash(ModelConfig.from_json(text)) == hash(config)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_consistent(name):
    config = preset(name)
    assert check_groups(config.groups) is config.groups
    assert len(Diffusion(config.diffusion).alphas_cumprod) == config.diffusion.num_train_timesteps
    dit, v = config.patch_dit, config.groups.latent_patch_size
    assert (
        dit.hidden_size % dit.num_heads == 0
        and (dit.cross_size or dit.hidden_size) % dit.num_heads == 0
    )
    assert v % dit.patch_size == 0 and v % dit.context_patch_size == 0
    texture = config.texture
    assert texture.memory_size <= texture.candidates
    assert not texture.memory_size or texture.top_k <= texture.memory_size


def test_numbers_of_the_paper():
    config = preset("paper")
    groups, dit, autoencoder, texture = (
        config.groups,
        config.patch_dit,
        config.autoencoder,
        config.texture,
    )
    assert config.scale == 4
    assert (groups.latent_patch_size, groups.overlap) == (16, 8)
    assert groups.start_times == (400, 700, 1000)
    assert groups.num_inference_steps == (8, 14, 20)
    assert groups.thresholds == (0.95, 0.75)
    assert (texture.candidates, texture.memory_size) == (20_000, 2_000)
    # DiT-B/2
    assert (dit.depth, dit.hidden_size, dit.num_heads, dit.patch_size) == (12, 768, 12, 2)
    assert not (dit.shared_modulation or dit.depthwise_mlp or dit.cross_size) and dit.mlp_ratio == 4
    assert (autoencoder.kind, autoencoder.factor, autoencoder.channels) == ("kl", 8, 4)
    assert autoencoder.scaling_factor == 0.18215
    assert len(autoencoder.revision) == 40  # a commit, not a branch that may move
    assert (
        config.diffusion.num_train_timesteps == 1000
        and config.diffusion.prediction_type == "epsilon"
    )
    assert config.grm.kind == "unet" and config.grm.num_res_blocks == 2
    assert len(config.grm.channel_mults) == 5  # four downsamplings
    assert group_timesteps(groups.start_times[0], groups.num_inference_steps[0])[1] == 350


@pytest.mark.parametrize(
    ("size", "depth", "width", "heads"),
    [("S", 12, 384, 6), ("B", 12, 768, 12), ("L", 24, 1024, 16), ("XL", 28, 1152, 16)],
)
def test_sizes_are_those_of_dit(size, depth, width, heads):
    config = PATCH_DIT_SIZES[size]
    assert (config.depth, config.hidden_size, config.num_heads) == (depth, width, heads)


def test_missing_settings_take_their_defaults():
    config = ModelConfig.from_json('{"name": "x", "groups": {"overlap": 4}}')
    assert config.groups.overlap == 4
    assert config.groups.start_times == (400, 700, 1000)
    assert config.autoencoder == ModelConfig("y").autoencoder


def test_a_configuration_cannot_be_changed_by_accident():
    with pytest.raises(FrozenInstanceError):
        preset("tiny").groups.overlap = 0


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ((), "unknown setting color in ModelConfig"),
        (("groups",), "unknown setting color in GroupConfig"),
        (("patch_dit",), "unknown setting color in PatchDiTConfig"),
    ],
)
def test_unknown_settings_are_refused(where, message):
    values = json.loads(preset("tiny").to_json())
    target = values
    for key in where:
        target = target[key]
    target["color"] = 1
    with pytest.raises(PatchScalerError, match=message):
        ModelConfig.from_json(json.dumps(values))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '"paper"', "{}", '{"name": "x", "groups": 3}']
)
def test_text_that_is_no_configuration(text):
    with pytest.raises(PatchScalerError):
        ModelConfig.from_json(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "x", "groups": {"thresholds": "ab"}}',
        '{"name": "x", "groups": {"num_inference_steps": [0, 1]}}',
        '{"name": "x", "patch_dit": {"hidden_size": "32"}}',
        # the networks enlarge four times; another scale would cut the picture
        '{"name": "x", "scale": 2}',
    ],
)
def test_values_that_cannot_be(text):
    with pytest.raises(PatchScalerError):
        ModelConfig.from_json(text)


def test_unknown_preset():
    with pytest.raises(PatchScalerError, match="unknown preset 'huge': choose paper or compact"):
        preset("huge")
