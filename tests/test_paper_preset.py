"""The `paper` preset end to end, its networks shrunk: KL autoencoder, U-Net GRM, epsilon, 8/14/20
steps.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from patchscaler.config import PATCH_DIT_SIZES, TextureConfig, preset
from patchscaler.dials.boxes import make_change
from patchscaler.dials.record import options_record, read_options
from patchscaler.dials.redo import Made, redo
from patchscaler.errors import PatchScalerError
from patchscaler.models.folder import build_networks
from patchscaler.pipeline import PatchScaler
from patchscaler.streaming import passes
from patchscaler.streaming.files import upscale_file
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
    return PatchScaler(config, networks, memory)


def test_it_upscales_with_the_papers_settings(paper):
    picture = np.random.default_rng(1).integers(0, 255, (64, 48, 3), dtype=np.uint8)
    groups = replace(paper.config.groups, thresholds=(0.52, 0.5))
    result = paper.upscale(picture, groups=groups)
    assert result.image.size == (192, 256)
    patches, evaluations = result.cost["patches"], result.cost["evaluations"]
    assert sum(patches.values()) == len(result.grid) == 3 * 2
    assert evaluations == {n: patches[n] * s for n, s in zip(patches, (8, 14, 20), strict=True)}
    assert np.asarray(result.image).std() > 0


def test_it_comes_back_from_a_folder(paper, tmp_path):
    paper.save_pretrained(tmp_path, half=False)
    # named in the configuration, not copied
    assert not (tmp_path / "autoencoder.safetensors").exists()
    again = PatchScaler.from_pretrained(tmp_path, device="cpu", dtype="float32")
    picture = np.random.default_rng(2).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    groups = replace(paper.config.groups, num_inference_steps=(1, 2, 3))
    a, b = (np.asarray(s.upscale(picture, groups=groups).image, np.int16) for s in (paper, again))
    assert np.abs(a - b).max() <= 1


def test_windows_leave_no_seams(paper, picture, tmp_path, monkeypatch):
    """Group norms and attention see a whole window, so windows do not agree with the whole: they
    are faded.
    """
    picture(96, 352).save(tmp_path / "in.png")
    groups = replace(paper.config.groups, num_inference_steps=(0, 0, 0), start_times=(0, 0, 0))
    whole = paper.upscale(
        Image.open(tmp_path / "in.png"), groups=groups, color="none"
    ).array.astype(int)

    def steps() -> np.ndarray:
        """From column to column, in what windows made different: largest at seams, where there are
        any.
        """
        made = upscale_file(
            paper,
            tmp_path / "in.png",
            tmp_path / "out.png",
            window=128,
            groups=groups,
            color="none",
        )
        assert made.estimate.windows == 3  # cores of 118 pixels: borders at 472 and 944
        difference = np.asarray(Image.open(tmp_path / "out.png")).astype(int) - whole
        assert difference.any()
        return np.abs(np.diff(difference, axis=1)).mean((0, 2))

    across = steps()
    monkeypatch.setattr(passes, "FADE", 0)
    cut = steps()
    assert across[[471, 943]].max() < 1.5 * np.median(across)
    assert cut[[471, 943]].max() > 2 * np.median(cut)  # what fading is for


def test_redo_is_refused(paper, picture):
    result = paper.upscale(picture(32, 32))
    made = Made(
        result.array, read_options(options_record(result.options)), result.groups, result.config
    )
    with pytest.raises(
        PatchScalerError, match="this model's networks see the whole picture at once"
    ):
        redo(paper, picture(32, 32), made, [make_change((0, 0, 9, 9), "hard")])
