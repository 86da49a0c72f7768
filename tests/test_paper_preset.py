"""The `paper` preset end to end, its networks shrunk: KL autoencoder, U-Net GRM, epsilon, 8/14/20
steps.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from patchscaler.config import PATCH_DIT_SIZES, TextureConfig, preset
from patchscaler.model import Model
from patchscaler.model_folder import build_networks
from patchscaler.pipeline import PatchScaler
from patchscaler.texture_memory import Origin, build_memory

diffusers = pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def paper(tmp_path_factory) -> PatchScaler:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vae")
    kl = diffusers.AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    kl.save_pretrained(folder)
    config = preset("paper")
    config = replace(
        config,
        autoencoder=replace(config.autoencoder, model_id=str(folder), revision=""),
        grm=replace(config.grm, width=8),
        texture=TextureConfig(widths=(8, 8), classes=("a", "b"), top_k=2),
        patch_dit=replace(
            PATCH_DIT_SIZES["tiny"], shared_modulation=False, depthwise_mlp=False, cross_size=0
        ),
    )
    networks = build_networks(config)
    for name in ("out", "final_modulation"):
        torch.nn.init.normal_(getattr(networks["patch_dit"], name).weight, std=0.05)
    torch.nn.init.normal_(networks["grm"].confidence_head.weight, std=0.5)
    crops = list(np.random.default_rng(0).integers(0, 255, (6, 128, 128, 3), dtype=np.uint8))
    memory = build_memory(
        crops,
        [Origin("made", "CC0")] * 6,
        networks["autoencoder"],
        networks["classifier"].eval(),
        4,
        "",
    )
    return PatchScaler(Model(config, networks, memory))


def test_it_upscales_with_the_papers_settings(paper):
    image = np.random.default_rng(1).integers(0, 255, (64, 48, 3), dtype=np.uint8)
    groups = replace(paper.model.config.groups, thresholds=(0.52, 0.5))
    output = paper(image, groups=groups)
    assert output.image.size == (192, 256)
    patches = output.patches_by_group()
    assert output.nfe == 8 * patches["simple"] + 14 * patches["medium"] + 20 * patches["hard"]
    assert output.gmac > 0


def test_it_comes_back_from_a_folder(paper, tmp_path):
    paper.save_pretrained(tmp_path, half=False)
    again = PatchScaler.from_pretrained(tmp_path, device="cpu", dtype="float32")
    image = np.random.default_rng(2).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(again(image).array, paper(image).array)


def test_tiles_leave_no_seams(paper, picture):
    """The networks see a whole tile at once; fading keeps the steps at borders those of
    elsewhere.
    """
    image = picture(96, 160)
    groups = replace(paper.model.config.groups, num_inference_steps=(0, 0, 0))
    whole = paper(image, groups=groups, tile=0).array.astype(int)
    tiled = paper(image, groups=groups, tile=64, memory_limit=1).array.astype(int)
    steps = [np.abs(np.diff(x, axis=1)).mean((0, 2)) for x in (whole, tiled)]
    assert (steps[1] - steps[0]).max() < 0.5 * steps[0].std() + 2
