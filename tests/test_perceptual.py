"""LPIPS and DISTS as losses: batches, gradients to the first picture only, half precision."""

import pytest
import torch
from golden.pictures import blurred, made

from patchscaler.errors import PatchScalerError
from patchscaler.models.packages import PackageMissing
from patchscaler.models.perceptual import DISTS, LPIPS

NETWORKS = {"alex": lambda: LPIPS("alex"), "vgg": lambda: LPIPS("vgg"), "dists": DISTS}


@pytest.fixture(params=NETWORKS)
def network(request):
    try:
        return NETWORKS[request.param]()
    except PackageMissing as error:
        pytest.skip(str(error))


def batch(*pictures):
    # (B, 3, H, W)
    return torch.stack([torch.from_numpy(p).movedim(-1, 0).float() / 255 for p in pictures])


def test_a_batch_is_its_pictures_one_by_one(network):
    a, b = batch(made(64, 1), blurred(made(64, 2))), batch(blurred(made(64, 1)), made(64, 2))
    together = network(a, b)
    assert together.shape == (2,)
    alone = torch.cat([network(a[i : i + 1], b[i : i + 1]) for i in range(2)])
    assert torch.allclose(together, alone, atol=1e-6)


def test_the_gradient_goes_to_the_first_picture_and_no_weight(network):
    a = batch(blurred(made(64))).requires_grad_(True)
    b = batch(made(64)).requires_grad_(True)
    distance = network(a, b)
    distance.sum().backward()
    assert b.grad is None and all(p.grad is None for p in network.parameters())
    step = a - 0.02 * a.grad / a.grad.norm()
    assert float(network(step.detach(), b)) < float(distance.detach())  # downhill


def test_half_precision_is_near(network):
    a, b = batch(blurred(made(64))), batch(made(64))
    wanted = float(network(a, b))
    with torch.autocast("cpu", torch.bfloat16):
        found = network(a, b)
    assert found.dtype == torch.float32 and float(found) == pytest.approx(wanted, rel=0.1, abs=2e-3)


def test_unknown_networks_are_named():
    with pytest.raises(PatchScalerError, match="unknown network 'squeeze': choose from alex, vgg"):
        LPIPS("squeeze")
