import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from patchscaler import PatchScalerError
from patchscaler.config import DenoiserConfig
from patchscaler.models.denoiser import RRDBDenoiser

CONFIG = DenoiserConfig(width=8, growth=4, depth=3, exit_depth=1, exit_blocks=1)


def esrgan_weights(width=8, growth=4, depth=3) -> dict[str, torch.Tensor]:
    generator, weights = torch.Generator().manual_seed(0), {}

    def conv(name, inputs, outputs):
        weights[f"{name}.weight"] = 0.2 * torch.randn(outputs, inputs, 3, 3, generator=generator)
        weights[f"{name}.bias"] = 0.1 * torch.randn(outputs, generator=generator)

    conv("conv_first", 3, width)
    for block in range(depth):
        for dense in (1, 2, 3):
            for k in range(5):
                name = f"body.{block}.rdb{dense}.conv{k + 1}"
                conv(name, width + k * growth, growth if k < 4 else width)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        conv(name, width, width)
    conv("conv_last", width, 3)
    return weights


def esrgan(x: torch.Tensor, w: dict[str, torch.Tensor], depth=3) -> torch.Tensor:
    """Real-ESRGAN's network in a few lines: [0, 1] -> [0, 1]."""

    def conv(name, x):
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)

    first = h = conv("conv_first", x)
    for block in range(depth):
        whole = h
        for dense in (1, 2, 3):
            maps = [h]
            for k in range(1, 5):
                name = f"body.{block}.rdb{dense}.conv{k}"
                maps.append(F.leaky_relu(conv(name, torch.cat(maps, 1)), 0.2))
            h = h + 0.2 * conv(f"body.{block}.rdb{dense}.conv5", torch.cat(maps, 1))
        h = whole + 0.2 * h
    h = first + conv("conv_body", h)
    for name in ("conv_up1", "conv_up2"):
        h = F.leaky_relu(conv(name, F.interpolate(h, scale_factor=2)), 0.2)
    return conv("conv_last", F.leaky_relu(conv("conv_hr", h), 0.2))


@pytest.fixture
def network() -> RRDBDenoiser:
    torch.manual_seed(0)
    found = RRDBDenoiser(CONFIG)
    found.load_esrgan(esrgan_weights(), (2,))
    return found.eval().requires_grad_(False)


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    lr = torch.rand(2, 3, 10, 12, generator=generator) * 2 - 1
    return torch.randn(2, 3, 40, 48, generator=generator), lr


@pytest.mark.parametrize("tau", [0, 1, 500, 1000])
def test_it_starts_as_the_esrgan_at_every_timestep(network, inputs, tau):
    y_tau, lr = inputs
    image = network(y_tau, torch.full((2,), tau), lr)
    expected = 2 * esrgan((lr + 1) / 2, esrgan_weights()) - 1
    assert image.shape == (2, 3, 40, 48) and torch.allclose(image, expected, atol=1e-5)


def test_the_diffused_image_and_the_timestep_matter_once_trained(network, inputs):
    y_tau, lr = inputs
    torch.nn.init.normal_(network.modulation.linear2.weight, std=0.1)
    for conv in (network.conv_y, network.conv_y_hr):
        torch.nn.init.normal_(conv.weight, std=0.1)
        base = network(y_tau, torch.zeros(2, dtype=torch.long), lr)
        assert not torch.allclose(base, network(0 * y_tau, torch.zeros(2, dtype=torch.long), lr))
        assert not torch.allclose(base, network(y_tau, torch.tensor([0, 400]), lr)[:, :, :1], 0, 0)
        torch.nn.init.zeros_(conv.weight)
    a, b = (network(y_tau, torch.full((2,), tau), lr) for tau in (0, 400))
    assert float((a - b).abs().max()) > 1e-3


def test_the_early_exit_has_blocks_of_its_own(network, inputs):
    y_tau, lr = inputs
    tau = torch.zeros(2, dtype=torch.long)
    early, whole = (network(y_tau, tau, lr, early=e) for e in (True, False))
    assert early.shape == whole.shape and not torch.allclose(early, whole)
    network.blocks[2].dense[0].convs[0].weight.add_(1)
    assert torch.equal(network(y_tau, tau, lr, early=True), early)
    network.exit.blocks[0].dense[0].convs[0].weight.add_(1)
    assert not torch.equal(network(y_tau, tau, lr, early=True), early)
    with pytest.raises(PatchScalerError, match="no early exit"):
        RRDBDenoiser(DenoiserConfig(width=8, growth=4, depth=2))(y_tau, tau, lr, early=True)


@pytest.mark.parametrize("early", [False, True])
def test_multiply_adds_are_those_that_torch_counts(network, inputs, early):
    y_tau, lr = inputs
    with FlopCounterMode(display=False) as counter:
        network(y_tau, torch.zeros(2, dtype=torch.long), lr, early=early)
    linear = sum(m.weight.numel() for m in network.modulation.modules() if hasattr(m, "weight"))
    assert network.macs(early) * lr[:, 0].numel() == counter.get_total_flops() / 2 - 2 * linear


def test_weights_of_another_size_are_refused():
    with pytest.raises(PatchScalerError, match="does not fit"):
        RRDBDenoiser(CONFIG).load_esrgan(esrgan_weights(width=16), (2,))
    with pytest.raises(PatchScalerError, match="does not fit"):
        RRDBDenoiser(CONFIG).load_esrgan({}, (2,))
    with pytest.raises(PatchScalerError, match="exit_depth"):
        RRDBDenoiser(DenoiserConfig(width=8, depth=2, exit_depth=2))
