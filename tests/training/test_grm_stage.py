"""Eq. 1 trained: where the confidence ends, and what measures it."""

import pytest
import torch

from patchscaler.config import GRMConfig
from patchscaler.models.autoencoder import Autoencoder
from patchscaler.models.grm import PixelGRM, grm_loss
from patchscaler.training.calibrate import rank_correlation
from patchscaler.training.grm import ETA_OF_MEDIAN, GRMTrainer

ETA = 0.1
FIELD = (0.05, 0.2, 0.4, 0.8)  # e^2 of four bands, the first below eta


def bands() -> tuple[torch.Tensor, torch.Tensor]:
    """An LR image of four grey bands, and the squared error that a coarse image has on each."""
    grey = torch.tensor([-0.75, -0.25, 0.25, 0.75]).repeat_interleave(32)
    error = torch.tensor(FIELD).repeat_interleave(16)
    return grey.expand(1, 3, 32, 128).clone(), error.expand(1, 1, 16, 64).clone()


def test_the_trained_head_reaches_eta_over_the_squared_error():
    """Tolerance: 5 % inside each band, away from the borders that a convolution sees."""
    torch.manual_seed(0)
    grm = PixelGRM(GRMConfig(kind="pixels", width=16, num_plain_convs=1, num_res_blocks=1), 4)
    lr, e2 = bands()
    target = torch.zeros(1, 4, 16, 64)
    coarse = e2.sqrt().expand_as(target)
    head = [p for name, p in grm.named_parameters() if name.startswith("confidence")]
    optimizer = torch.optim.Adam(head, lr=2e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, 400)
    for _ in range(400):
        _, confidence = grm.restore(lr)
        _, term = grm_loss(coarse, target, confidence, lam=1.0, eta=ETA)
        optimizer.zero_grad()
        term.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        confidence = grm.restore(lr)[1][0, 0, 4:12]  # (8, 64)
    for i, error in enumerate(FIELD):
        inside = confidence[:, 16 * i + 5 : 16 * i + 11]
        expected = min(1.0, ETA / error)
        assert inside.mean().item() == pytest.approx(expected, rel=0.05), f"e^2 {error}"
        assert (inside - expected).abs().max().item() < 0.1 * expected


class Blocks(Autoencoder):
    """Means of blocks of 8 pixels."""

    channels, factor, reach, exact = 3, 8, 0, True

    def encode(self, images):
        return torch.nn.functional.avg_pool2d(images, 8)

    def decode(self, latents):
        return latents.repeat_interleave(8, 2).repeat_interleave(8, 3)


def test_automatic_eta_follows_the_median_error_of_patches():
    grm = PixelGRM(GRMConfig(kind="pixels", width=8, num_res_blocks=1), 3)
    trainer = GRMTrainer(grm, Blocks(), lam=0.1, eta=None, squared=False)
    lr = torch.zeros(3, 3, 32, 32)  # a fresh network repeats pixels: the coarse image is zero
    hr = torch.ones(3, 3, 128, 128) * torch.tensor([0.2, 0.5, 0.9])[:, None, None, None]
    _, logs = trainer(batch := {"lr": lr, "hr": hr})
    assert logs["eta"] == pytest.approx(ETA_OF_MEDIAN * 0.5**2, rel=1e-4)
    for _ in range(5):
        trainer(batch)
    again = GRMTrainer(grm, Blocks(), lam=0.1, eta=None, squared=False)
    again.load_state_dict(trainer.state_dict())
    assert again.eval()(batch)[1]["eta"] == pytest.approx(logs["eta"], rel=1e-4)


def test_rank_correlation_by_hand():
    a = torch.tensor([0.1, 0.5, 0.3, 0.9])
    assert rank_correlation(a, a**3) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    # ranks 0 2 1 3 against 1 0 2 3: 1 - 6 * (1 + 4 + 1 + 0) / (4 * 15)
    assert rank_correlation(a, torch.tensor([2.0, 1.0, 3.0, 4.0])) == pytest.approx(0.4)
