"""Other programs load the denoiser's trunk as an ESRGAN and compute the same."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from patchscaler.config import DenoiserConfig
from patchscaler.engines.esrgan import export_esrgan
from patchscaler.models.denoiser import RRDBDenoiser


def esrgan_sized() -> RRDBDenoiser:
    """Of the width that spandrel expects, as at the start of training."""
    torch.manual_seed(1)
    return RRDBDenoiser(DenoiserConfig(width=64, growth=32, depth=1)).eval()


def random_(module: nn.Module, std: float = 0.1) -> None:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)


@pytest.fixture
def loaded():
    """`loaded(file)` -> spandrel's model of it."""
    if not (find_spec("spandrel") and find_spec("einops")):
        pytest.skip("spandrel is not installed")
    from patchscaler.evaluation.peers.spandrel_models import import_spandrel

    spandrel = import_spandrel()
    return lambda file: spandrel.ModelLoader(device="cpu").load_from_file(file)


@torch.inference_mode()
def test_spandrel_reads_the_trunk_as_an_esrgan(loaded, tmp_path):
    denoiser = esrgan_sized()
    assert export_esrgan(denoiser, tmp_path / "esrgan.safetensors") == 0
    model = loaded(tmp_path / "esrgan.safetensors")
    assert (model.architecture.name, model.scale) == ("ESRGAN", 4)
    image = torch.rand(1, 3, 17, 24)
    y_0, tau = torch.randn(1, 3, 68, 96), torch.tensor([0])
    expected = ((denoiser(y_0, tau, 2 * image - 1) + 1) / 2).clamp(0, 1)
    assert (model(image) - expected).abs().max() < 1e-5 and expected.std() > 0.01


@torch.inference_mode()
def test_modulation_around_the_blocks_goes_into_the_weights(loaded, tmp_path):
    denoiser = esrgan_sized()
    random_(denoiser.modulation, std=0.02)
    denoiser.modulation.linear2.weight[:64] = 0  # of the block
    denoiser.modulation.linear2.bias[:64] = 0
    assert export_esrgan(denoiser, tmp_path / "esrgan.safetensors") == 0
    image, tau = torch.rand(1, 3, 17, 24), torch.tensor([0])
    y_0 = torch.zeros(1, 3, 68, 96)
    expected = ((denoiser(y_0, tau, 2 * image - 1) + 1) / 2).clamp(0, 1)
    plain = ((esrgan_sized()(y_0, tau, 2 * image - 1) + 1) / 2).clamp(0, 1)
    found = loaded(tmp_path / "esrgan.safetensors")(image)
    assert (found - expected).abs().max() < 1e-5 < (found - plain).abs().max()


@pytest.mark.parametrize("name", ["conv_y", "conv_y_hr", "modulation"])
def test_what_an_esrgan_cannot_hold_is_reported(tmp_path, name):
    denoiser = esrgan_sized()
    random_(getattr(denoiser, name))
    assert export_esrgan(denoiser, tmp_path / "esrgan.safetensors") > 0.05
