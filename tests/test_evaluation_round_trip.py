"""`patchscaler evaluate --round-trip`: values that are known for autoencoders made for it."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from common import save

from patchscaler.apps.cli import main
from patchscaler.config import AutoencoderConfig
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation import round_trip as module
from patchscaler.evaluation.pairs import Pair, load_pairs
from patchscaler.evaluation.round_trip import (
    edge_sums,
    flat_blocks,
    noise_of,
    round_trip,
    round_trip_lines,
)
from patchscaler.models.autoencoder import Autoencoder, PCAAutoencoder


class Blocks(Autoencoder):
    """Pixels of 8x8 blocks are the latents, so nothing is lost, but for what `bend` does to a
    decoded picture.
    """

    channels, factor, reach, exact = 192, 8, 0, True

    def __init__(self, bend=lambda x: x):
        super().__init__()
        self.bend = bend

    def encode(self, images):
        return F.pixel_unshuffle(images, 8)

    def decode(self, latents):
        return self.bend(F.pixel_shuffle(latents, 8))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(module, "SIDE", 64)


@pytest.fixture
def noisy(tmp_path):
    """A picture whose grey deviates by 20 levels everywhere, of sides that are no
    multiples of 8.
    """
    rng = np.random.default_rng(0)
    picture = np.repeat(
        rng.normal(128, 20, (43, 50, 1)).round().clip(60, 200).astype(np.uint8), 3, 2
    )
    save(tmp_path / "hr", noisy=picture)
    return load_pairs(hr=tmp_path / "hr")[0]


def test_nothing_is_lost_by_an_autoencoder_that_loses_nothing(noisy):
    found = round_trip(Blocks(), noisy)
    assert found.psnr == [float("inf")] and found.shifts == [0] and found.names == ["noisy"]
    assert (
        found.edge_ratio(True, False) == found.edge_ratio(False, False) == pytest.approx(1, abs=0.1)
    )
    assert found.noise_psnr == [pytest.approx(26, abs=0.002)]
    assert found.noisy_psnr == [pytest.approx(26, abs=0.1)]
    assert (found.flat_blocks, found.blocks) == (0, 5 * 6) and np.isnan(
        found.edge_ratio(True, True)
    )
    lines = round_trip_lines(found)
    assert "there are no such gradients" in lines[3] and "mean 0.00 dB, most 0.00 dB" in lines[5]


def test_a_shifted_colour_and_its_psnr(noisy):
    shift = torch.tensor([2.0, -5.0, 0.0])[None, :, None, None] / 127.5
    found = round_trip(Blocks(lambda x: x + shift), noisy)
    assert found.shifts == [pytest.approx(5, abs=0.01)]
    assert found.psnr == [pytest.approx(10 * np.log10(255**2 / ((4 + 25 + 0) / 3)), abs=0.01)]
    # the same shift with noise and without
    assert found.noise_psnr == [pytest.approx(26, abs=0.002)]


def test_a_decoder_that_doubles_errors_loses_six_decibels(tmp_path):
    """Steep around a bright picture, though not around the middle, where the noise alone is
    decoded.
    """
    save(tmp_path, bright=np.full((64, 64, 3), 230, np.uint8))
    pairs, _ = load_pairs(hr=tmp_path)
    steep = Blocks(lambda x: torch.where(x < 0.4, x, 0.4 + 2 * (x - 0.4)))
    found = round_trip(steep, pairs)
    assert 26 - found.noise_psnr[0] == pytest.approx(20 * np.log10(2), abs=0.05)
    assert "most 6.0" in round_trip_lines(found)[5] and "(bright)" in round_trip_lines(found)[5]


def test_noise_is_26_decibels_whatever_the_scale_of_latents(tiny):
    latents = torch.zeros(1, 8, 8, 8)
    for autoencoder in (tiny.autoencoder, Blocks(lambda x: 3 * x + 0.2)):
        z = latents if autoencoder is tiny.autoencoder else torch.zeros(1, 192, 8, 8)
        noise = noise_of(autoencoder, z, seed=1)
        error = autoencoder.decode(noise) - autoencoder.decode(torch.zeros_like(z))
        assert float(10 * torch.log10(4 / error.square().mean())) == pytest.approx(26, abs=0.002)
        assert torch.equal(noise, noise_of(autoencoder, z, seed=1))
    with pytest.raises(PatchScalerError, match="is this autoencoder trained"):
        noise_of(Blocks(lambda x: 0 * x), torch.zeros(1, 192, 8, 8))


def test_edges_of_blocks_count_where_they_are():
    # steps of 1, sideways
    ramp = np.repeat(np.arange(24, dtype=np.uint8)[None, :, None], 16, 0).repeat(3, 2)
    sums = edge_sums(ramp, 8)
    # two borders, 21 steps elsewhere; downwards nothing
    assert sums[:, 0].tolist() == [2 * 16, 21 * 16]
    assert sums[:, 1].tolist() == [2 * 16 + 1 * 24, 21 * 16 + 14 * 24]
    stairs = ramp // 8 * 30
    assert edge_sums(stairs, 8)[:, 0].tolist() == [2 * 16 * 30, 0]
    # 0 ... 7 deviates by 2.29 from its mean, half of that by 1.15
    assert not flat_blocks(ramp, 8).any() and flat_blocks(ramp // 2, 8).all()
    flat = np.array([[True, True, False]] * 2)
    assert edge_sums(stairs, 8, flat).tolist() == [[16 * 30, 16 + 16], [0, 14 * 16 + 14 * 16]]
    # no border between blocks that are both flat, but for those downwards
    one = np.array([[True, False, True]] * 2)
    assert edge_sums(stairs, 8, one)[0].tolist() == [0, 16]


def test_seams_of_blocks_are_seen_in_flat_areas_first(tmp_path):
    """Decoding adds four levels to every other block: much where a picture is flat, little where it
    is not.
    """
    rng = np.random.default_rng(0)
    left = rng.normal(100, 1, (64, 64, 1))
    picture = (
        np.concatenate([left, rng.normal(100, 30, (64, 64, 1))], 1)
        .round()
        .clip(1, 250)
        .astype(np.uint8)
    )
    save(tmp_path, half=np.repeat(picture, 3, 2))

    def seams(x):
        rows, columns = (torch.arange(side) // 8 for side in x.shape[-2:])
        return x + (rows[:, None] + columns) % 2 * 4 / 127.5

    found = round_trip(Blocks(seams), load_pairs(hr=tmp_path)[0])
    assert (found.flat_blocks, found.blocks) == (64, 128)
    whole, flat = (found.edge_ratio(True, f) / found.edge_ratio(False, f) for f in (False, True))
    assert found.edge_ratio(False, True) == pytest.approx(1, abs=0.1)
    # |difference| of two such pixels is 1.13
    assert 1 < whole < 1.3 and flat == pytest.approx(4 / 1.13, abs=0.3)


def test_the_mean_of_blocks_alone(tmp_path, picture):
    """Principal components: with as many as there are pixels nothing is lost, with few, the picture
    is in blocks.
    """
    save(tmp_path, a=np.array(picture(64, 64)), b=np.array(picture(64, 64, 1)))
    pairs, _ = load_pairs(hr=tmp_path)
    images = [torch.tensor(p.hr).movedim(-1, 0)[None].float() / 127.5 - 1 for p in pairs]
    psnr = {}
    for channels in (1, 12):
        autoencoder = PCAAutoencoder(AutoencoderConfig(channels=channels, factor=2)).fit(images)
        found = round_trip(autoencoder, pairs)
        psnr[channels] = found.psnr
        assert found.noise_psnr == [pytest.approx(26, abs=0.01)] * 2 and found.block == 2
    assert min(psnr[12]) > 55 > max(psnr[1])
    assert found.edge_ratio(True, False) == pytest.approx(found.edge_ratio(False, False), abs=1e-3)


def test_the_command(model_folder, tmp_path, picture, capsys):
    save(tmp_path / "hr", a=np.array(picture(64, 72)), b=np.array(picture(64, 64, 1)))
    base = ["evaluate", "--round-trip", "--model", str(model_folder), "--device", "cpu"]
    assert main([*base, "--hr", str(tmp_path / "hr")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 pictures, encoded and decoded") and len(lines) == 7
    assert re.fullmatch(r"PSNR of RGB: mean [\d.]+ dB, worst [\d.]+ dB \([ab]\)", lines[1])
    assert re.search(r"grey levels \([ab]\)$", lines[4]) and re.search(
        r"in [\d.]+ s \(median of 5; cpu, ", lines[6]
    )
    (tmp_path / "hr" / "c.png").write_bytes(b"no picture")
    assert main([*base, "--hr", str(tmp_path / "hr")]) == 1
    assert "patchscaler: c: " in capsys.readouterr().err
    assert main([*base, "--hr", str(tmp_path / "hr"), "--degradation", "mild"]) == 1
    assert "give --hr, and nothing to enlarge" in capsys.readouterr().err
    with pytest.raises(PatchScalerError, match="x: has no original to encode"):
        round_trip(Blocks(), [Pair("x")])
