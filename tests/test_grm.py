"""Global Restoration Module: Eq. 1, the confidence map, both networks."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from patchscaler.config import AutoencoderConfig, GRMConfig, preset
from patchscaler.errors import PatchScalerError
from patchscaler.models.autoencoder import PCAAutoencoder
from patchscaler.models.grm import (
    PixelGRM,
    ResBlock,
    UNetGRM,
    bounded_confidence,
    build_grm,
    grm_loss,
    mirror_pad,
)

UNET = GRMConfig(kind="unet", width=8)
PIXELS = GRMConfig(kind="pixels", width=8, num_plain_convs=1, num_res_blocks=1)


def random_grm(config: GRMConfig, channels: int = 4) -> UNetGRM | PixelGRM:
    """With weights in the layers that start at zero."""
    torch.manual_seed(0)
    grm = build_grm(config, channels)
    for layer in [m for m in grm.modules() if isinstance(m, nn.Conv2d) and not m.weight.any()]:
        nn.init.normal_(layer.weight, std=0.1)
    return grm


# --- Eq. 1 ----------------------------------------------------------------------------------------


def test_loss_by_hand():
    # Two channels, two places: errors (1, 3) and (0, 2).
    target = torch.zeros(1, 2, 1, 2)
    coarse = torch.tensor([[[[1.0, 0.0]], [[-3.0, 2.0]]]])
    confidence = torch.tensor([[[[0.5, 1.0]]]])
    fidelity, certainty = grm_loss(coarse, target, confidence, lam=0.2, eta=0.3)
    assert fidelity.item() == pytest.approx((1 + 3 + 0 + 2) / 4)
    # e^2, mean of the channels: 5 and 2; C e^2 - eta log C: .5 * 5 + .3 * .693147 and 1 * 2 - 0
    assert certainty.item() == pytest.approx(0.2 * (2.5 + 0.3 * 0.693147 + 2) / 2)


def test_squared_loss_by_hand():
    coarse, target = torch.full((1, 1, 2, 2), 3.0), torch.zeros(1, 1, 2, 2)
    assert grm_loss(coarse, target, torch.ones(1, 1, 2, 2), squared=True)[
        0
    ].item() == pytest.approx(9)


def test_confidence_is_bounded():
    logits = torch.tensor([-1e4, 0.0, 1e4])
    assert bounded_confidence(logits, 1e-3).tolist() == pytest.approx([1e-3, 0.5005, 1])
    assert bounded_confidence(logits, 1e-3).log().isfinite().all()


def test_confidence_reaches_eta_over_squared_error():
    # A free map of logits under the loss alone: it must find min(1, eta / e^2) place by place.
    g = torch.Generator().manual_seed(0)
    e = torch.rand(1, 1, 12, 12, generator=g) * 0.9 + 0.2  # e^2 from .04 to 1.21
    # mean of squares: e^2
    coarse = e * torch.tensor([0.5, 1.0, 1.0, (4 - 2.25) ** 0.5])[None, :, None, None]
    eta = 0.1
    logits = torch.zeros(1, 1, 12, 12, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.2)
    for _ in range(300):
        _, certainty = grm_loss(
            coarse, torch.zeros_like(coarse), bounded_confidence(logits, 1e-3), eta=eta
        )
        optimizer.zero_grad()
        certainty.backward()
        optimizer.step()
    expected = (eta / e.square()).clamp(max=1)
    assert (expected == 1).any() and (expected < 0.15).any()
    torch.testing.assert_close(
        bounded_confidence(logits, 1e-3).detach(), expected, rtol=0.03, atol=0
    )


@pytest.mark.parametrize("config", [UNET, PIXELS], ids=["unet", "pixels"])
def test_confidence_loss_sends_no_gradient_to_the_coarse_branch(config):
    grm, autoencoder = random_grm(config), PCAAutoencoder(AutoencoderConfig(channels=4))
    lr = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    coarse, confidence = grm(lr, autoencoder)
    coarse.retain_grad()
    _, certainty = grm_loss(coarse, torch.zeros_like(coarse), confidence)
    certainty.backward()
    assert coarse.grad is None
    assert (grm.coarse_head if config is UNET else grm.conv_out).weight.grad is None
    assert grm.confidence_head.weight.grad.abs().max() > 0
    if config is PIXELS:  # there the head reads the features without shaping them
        assert all(p.grad is None for p in (*grm.stem.parameters(), *grm.blocks.parameters()))


# --- the U-Net ------------------------------------------------------------------------------------


def test_unet_has_the_layout_of_the_paper():
    grm = build_grm(preset("paper").grm, 4)
    assert len(grm.downsamplers) == len(grm.upsamplers) == 4
    assert all(conv.stride == (2, 2) for conv in grm.downsamplers)
    scales = [*grm.down_blocks, *grm.up_blocks]
    assert [len(blocks) for blocks in scales] == [2] * 9
    assert all(isinstance(block, ResBlock) for blocks in scales for block in blocks)


def test_unet_narrows_to_a_sixteenth():
    grm, sizes = random_grm(UNET), []
    grm.down_blocks[-1].register_forward_hook(
        lambda module, args, out: sizes.append(out.shape[-2:])
    )
    grm.restore(torch.randn(1, 4, 48, 32))
    assert sizes == [(3, 2)]


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (33, 16), (40, 64)])
def test_unet_takes_any_size(size):
    y_lr = torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(0))
    coarse, confidence = random_grm(UNET).restore(y_lr)
    assert coarse.shape == y_lr.shape and confidence.shape == (2, 1, *size)
    assert 1e-3 <= confidence.min() < confidence.max() <= 1
    assert (coarse - y_lr).abs().max() > 0.01


def test_unet_starts_from_the_enlarged_picture():
    autoencoder = PCAAutoencoder(AutoencoderConfig(channels=4))
    lr = torch.rand(1, 3, 32, 34, generator=torch.Generator().manual_seed(0)) * 2 - 1
    coarse, confidence = build_grm(UNET, 4)(lr, autoencoder)
    enlarged = F.interpolate(lr, size=(128, 136), mode="bicubic").clamp(-1, 1)
    assert coarse.shape == (1, 4, 16, 17)
    torch.testing.assert_close(coarse, autoencoder.encode(enlarged))
    torch.testing.assert_close(confidence, torch.full((1, 1, 16, 17), 0.5005))


def test_unet_skips_matter():
    grm = random_grm(UNET)
    nn.init.zeros_(grm.upsamplers[-1].weight)  # cuts off everything deeper than the first scale
    a, b = torch.zeros(1, 4, 16, 16), torch.zeros(1, 4, 16, 16)
    b[..., 8, 8] = 1
    assert (grm.restore(a)[1] - grm.restore(b)[1]).abs().max() > 1e-4


# --- the network on pixels ------------------------------------------------------------------------


def test_pixel_network_starts_as_nearest_neighbours():
    lr = torch.rand(1, 3, 32, 34, generator=torch.Generator().manual_seed(0)) * 2 - 1
    image, confidence = build_grm(PIXELS, 4).restore(lr)
    torch.testing.assert_close(image, lr.repeat_interleave(4, -1).repeat_interleave(4, -2))
    torch.testing.assert_close(confidence, torch.full((1, 1, 16, 17), 0.5005))


def test_pixel_network_gives_latents_of_its_picture():
    grm, autoencoder = random_grm(PIXELS), PCAAutoencoder(AutoencoderConfig(channels=4))
    lr = torch.rand(2, 3, 32, 36, generator=torch.Generator().manual_seed(0)) * 2 - 1
    image, confidence = grm.restore(lr)
    coarse, same = grm(lr, autoencoder)
    assert image.shape == (2, 3, 128, 144) and coarse.shape == (2, 4, 16, 18)
    assert confidence.shape == (2, 1, 16, 18)
    assert 1e-3 <= confidence.min() < confidence.max() <= 1
    # `forward` mirrors the picture at its border, where `restore` sees zeros: equal out of the
    # network's reach.
    inside = (..., slice(grm.reach // 2, -grm.reach // 2), slice(grm.reach // 2, -grm.reach // 2))
    torch.testing.assert_close(
        coarse[inside], autoencoder.encode(image)[inside], atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(same[inside], confidence[inside])
    mirrored, around = grm.restore(mirror_pad(lr, 4))
    torch.testing.assert_close(coarse, autoencoder.encode(mirrored[..., 16:-16, 16:-16]))
    torch.testing.assert_close(same, around[..., 2:-2, 2:-2])


def srvgg(width: int, convs: int) -> dict[str, torch.Tensor]:
    """Random weights named as in a Real-ESRGAN compact network: conv, PReLU, ..., conv to 48."""
    g = torch.Generator().manual_seed(0)
    weights, channels = {}, 3
    for i in range(convs + 1):
        weights[f"body.{2 * i}.weight"] = torch.randn(width, channels, 3, 3, generator=g) * 0.2
        weights[f"body.{2 * i}.bias"] = torch.randn(width, generator=g) * 0.1
        weights[f"body.{2 * i + 1}.weight"] = torch.rand(width, generator=g)
        channels = width
    weights[f"body.{2 * convs + 2}.weight"] = torch.randn(48, width, 3, 3, generator=g) * 0.2
    weights[f"body.{2 * convs + 2}.bias"] = torch.randn(48, generator=g) * 0.1
    return weights


def test_load_compact_reproduces_the_network():
    weights = srvgg(width=8, convs=2)
    grm = build_grm(replace(PIXELS, num_plain_convs=2), 4)
    grm.load_compact(weights)
    lr = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    # By hand, in 0..1 as those networks work.
    h = lr
    for i in range(3):
        h = F.conv2d(h, weights[f"body.{2 * i}.weight"], weights[f"body.{2 * i}.bias"], padding=1)
        h = F.prelu(h, weights[f"body.{2 * i + 1}.weight"])
    h = F.conv2d(h, weights["body.6.weight"], weights["body.6.bias"], padding=1)
    expected = F.pixel_shuffle(h, 4) + F.interpolate(lr, scale_factor=4, mode="nearest")
    image, _ = grm.restore(lr * 2 - 1)
    torch.testing.assert_close((image + 1) / 2, expected, atol=1e-5, rtol=1e-4)


def test_load_compact_of_another_depth():
    with pytest.raises(PatchScalerError, match="the compact network has 4 layers, the stem 2"):
        build_grm(PIXELS, 4).load_compact(srvgg(width=8, convs=3))


def test_load_compact_of_another_width():
    with pytest.raises(PatchScalerError):
        build_grm(PIXELS, 4).load_compact(srvgg(width=16, convs=1))


def test_pixel_network_needs_a_factor_of_eight():
    autoencoder = PCAAutoencoder(AutoencoderConfig(channels=4, factor=4))
    with pytest.raises(PatchScalerError, match="use an f8 autoencoder"):
        build_grm(PIXELS, 4)(torch.zeros(1, 3, 32, 32), autoencoder)


def test_unknown_kind():
    with pytest.raises(PatchScalerError, match="unknown GRM 'swin': choose one of unet, pixels"):
        build_grm(GRMConfig(kind="swin"), 4)
