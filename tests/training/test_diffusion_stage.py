"""Eq. 8: the loss with weights that all matter, and the batches that the stage makes itself."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from patchscaler.config import preset
from patchscaler.diffusion.schedule import Diffusion
from patchscaler.errors import PatchScalerError
from patchscaler.model_folder import build_networks
from patchscaler.models.patch_dit import PatchDiT, TextureEncoder
from patchscaler.texture_memory import Origin, TextureMemory
from patchscaler.training.coarse import write_coarse
from patchscaler.training.data.coarse import CoarseShards
from patchscaler.training.data.shards import PairShards, oriented, to_unit
from patchscaler.training.diffusion import (
    DiffusionStage,
    Regions,
    TextureTrainer,
    WholeImages,
    disjoint,
)

TINY = preset("tiny")
EPSILON = dataclasses.replace(
    TINY, diffusion=dataclasses.replace(TINY.diffusion, prediction_type="epsilon")
)
CHANNELS, SIZE = TINY.autoencoder.channels, TINY.groups.latent_patch_size


def random_trainer() -> TextureTrainer:
    """All weights random: a fresh network outputs zero, whatever it is given."""
    config = TINY.patch_dit
    trainer = TextureTrainer(
        PatchDiT(config, CHANNELS, SIZE), TextureEncoder(config, CHANNELS, SIZE)
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in trainer.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return trainer


def random_batch(n: int = 6) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    x_0, y_0, noise = torch.randn(3, n, CHANNELS, SIZE, SIZE, generator=g)
    t = torch.tensor([1, 100, 300, 500, 700, 1000])
    diffusion = Diffusion(EPSILON.diffusion)
    return {
        "x_t": diffusion.q_sample(x_0, t, noise),
        "t": t,
        "coarse": y_0,
        "values": torch.randn(n, 2, CHANNELS, SIZE, SIZE, generator=g),
        "scores": torch.rand(n, 2, generator=g),
        "target": diffusion.target(x_0, noise, t, y_0),
    }


# --- the loss -------------------------------------------------------------------------------------


def eq_8(trainer: TextureTrainer, batch: dict[str, Tensor]) -> float:
    """E |eps - f(x_t, y_0, t, prompt)|^2, written out once more."""
    dit = trainer.patch_dit
    prompt = dit.prepare(trainer.texture_encoder(batch["values"], batch["scores"]))
    predicted = dit(batch["x_t"], batch["t"], batch["coarse"], prompt)
    return float((batch["target"] - predicted).square().mean().detach())


def test_the_loss_is_eq_8():
    trainer, batch = random_trainer(), random_batch()
    loss, logs = trainer(batch)
    assert float(loss.detach()) == pytest.approx(eq_8(trainer, batch), rel=1e-5)
    assert logs["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert min(logs["low"], logs["high"]) < logs["loss"] < max(logs["low"], logs["high"])


@pytest.mark.parametrize("wrong", ["x_t zeroed", "y_0 random", "no prompt", "another time"])
def test_every_input_of_eq_8_changes_the_loss(wrong):
    trainer, batch = random_trainer(), random_batch()
    right = eq_8(trainer, batch)
    changes = {
        "x_t zeroed": {"x_t": torch.zeros_like(batch["x_t"])},
        "y_0 random": {"coarse": torch.randn_like(batch["coarse"])},
        "no prompt": {"values": None, "scores": None},
        "another time": {"t": batch["t"].flip(0)},
    }
    with torch.no_grad():
        loss, _ = trainer(batch | changes[wrong])
    assert abs(float(loss) - right) > 1e-3 * right


def test_its_gradient_reaches_every_weight():
    trainer = random_trainer()
    trainer(random_batch())[0].backward()
    silent = [n for n, p in trainer.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


# --- the batches ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    networks = build_networks(EPSILON)
    for network in networks.values():
        network.eval()
    for head in (networks["grm"].conv_out, networks["grm"].confidence_head):
        nn.init.normal_(head.weight, std=0.05)
    return networks


@pytest.fixture(scope="module")
def memory(networks) -> TextureMemory:
    g = torch.Generator().manual_seed(2)
    values = torch.randn(9, CHANNELS, SIZE, SIZE, generator=g)
    keys = networks["classifier"].keys(values).detach()
    return TextureMemory(keys, values, [Origin("a", "CC0")] * 9, [b""] * 9, "")


@pytest.fixture(scope="module")
def shards(data, networks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("coarse") / "shards"
    shutil.copytree(data / "shards", folder)
    write_coarse(folder, networks["grm"], networks["autoencoder"], 1, bf16=False)
    return folder


def stage_of(kind: str, shards, networks, memory, **options) -> DiffusionStage:
    autoencoder = networks["autoencoder"]
    if kind == "regions":
        source = Regions(CoarseShards(shards), EPSILON, autoencoder, "cpu")
    else:
        pairs = PairShards(shards)
        source = WholeImages(pairs, networks["grm"], EPSILON, autoencoder, "cpu")
    classifier = networks["classifier"]
    return DiffusionStage(
        random_trainer(), EPSILON, source, source, classifier, memory, batch_size=4, **options
    )


def batch_of(stage: DiffusionStage, seed: int = 0, **options):
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    return stage.make_batch(stage.source, 16, rng, generator, drop=0.0, **options)


@pytest.mark.parametrize("kind", ["regions", "whole"])
def test_x_t_is_eq_4_of_x_0_and_the_target_its_noise(kind, shards, networks, memory):
    batch = batch_of(stage_of(kind, shards, networks, memory))
    a = Diffusion(EPSILON.diffusion).alphas_cumprod[batch["t"] - 1].float()[:, None, None, None]
    again = a.sqrt() * batch["x_0"] + (1 - a).sqrt() * batch["target"]
    torch.testing.assert_close(batch["x_t"], again, atol=1e-4, rtol=1e-4)
    for noise in batch["target"]:  # of each patch: a start from anything but x_0 leaves more
        assert float(noise.mean()) == pytest.approx(0, abs=0.1)
        assert float(noise.std()) == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize("kind", ["regions", "whole"])
def test_the_prompt_is_what_the_memory_has_nearest_to_y_0(kind, shards, networks, memory):
    batch = batch_of(stage_of(kind, shards, networks, memory))
    keys = networks["classifier"].keys(batch["coarse"])
    for query, values, scores in zip(keys, batch["values"], batch["scores"], strict=True):
        similarity = (memory.keys @ query).tolist()
        nearest = sorted(range(9), key=lambda i: -similarity[i])[: TINY.texture.top_k]
        assert torch.equal(values, memory.values[nearest])
        assert scores.tolist() == pytest.approx([similarity[i] for i in nearest], abs=1e-5)


def test_whole_images_give_all_their_disjoint_patches(shards, networks, memory):
    stage = stage_of("whole", shards, networks, memory)
    assert stage.source.per_image == 4  # 256 pixels, 32 latents
    rng = np.random.default_rng(3)
    patches = stage.source.draw(4, rng)
    lr, hr, places = PairShards(shards).tiles(4, np.random.default_rng(3))
    y_0, _ = networks["grm"](lr, networks["autoencoder"])
    x_0 = networks["autoencoder"].encode(hr)
    assert len(patches.x_0) == 16 and patches.places == [p for p in places for _ in range(4)]
    for i, (y, x) in enumerate([(0, 0), (0, 16), (16, 0), (16, 16)]):
        area = (slice(None), slice(y, y + 16), slice(x, x + 16))
        torch.testing.assert_close(patches.x_0[i], x_0[0][area])
        torch.testing.assert_close(patches.coarse[i], y_0[0][area], atol=1e-5, rtol=1e-4)


def test_regions_are_cut_from_the_cached_coarse_image_and_its_original(shards, networks, memory):
    stage = stage_of("regions", shards, networks, memory)
    patches = stage.source.draw(5, np.random.default_rng(3))
    found = CoarseShards(shards)
    for i, r in enumerate(found.draw(5, SIZE, 8, np.random.default_rng(3))):
        area = (slice(8 * r.top, 8 * r.top + 128), slice(8 * r.left, 8 * r.left + 128))
        cached = found.coarse[r.shard][r.tile, r.variant][area]
        for image, latents in (
            (cached, patches.coarse),
            (found.hr[r.shard][r.tile][area], patches.x_0),
        ):
            expected = networks["autoencoder"].encode(to_unit(oriented(image, r.way))[None])[0]
            torch.testing.assert_close(latents[i], expected, atol=1e-5, rtol=1e-4)
        assert patches.places[i] == (r.shard, r.tile)


def test_disjoint_patches_leave_a_rest_out():
    latents = torch.arange(2 * 20 * 36).view(1, 2, 20, 36).float()
    patches = disjoint(latents, 16)
    assert patches.shape == (2, 2, 16, 16)
    assert torch.equal(patches[1], latents[0, :, :16, 16:32])


def test_regions_are_drawn_evenly(shards):
    found = CoarseShards(shards)
    drawn = found.draw(4000, SIZE, 8, np.random.default_rng(0))
    tiles = np.bincount([r.tile for r in drawn])
    assert tiles.min() / tiles.max() > 0.8
    corners = np.bincount([r.top for r in drawn], minlength=17)
    assert corners.min() / corners.max() > 0.7
    with pytest.raises(PatchScalerError, match="--tile"):
        found.draw(1, 64, 8, np.random.default_rng(0))


def test_times_are_uniform_unless_low_ones_are_asked_for(shards, networks, memory):
    stage = stage_of("regions", shards, networks, memory)
    generator = torch.Generator().manual_seed(0)
    batch = stage.make_batch(stage.source, 2000, np.random.default_rng(0), generator, drop=1.0)
    t = batch["t"].float()
    assert t.min() >= 1 and t.max() <= 1000
    assert float(t.mean()) == pytest.approx(500.5, rel=0.03)
    assert float(t.std()) == pytest.approx(1000 / 12**0.5, rel=0.03)
    assert batch["values"] is None
    low = stage_of("regions", shards, networks, memory, low_times=1.0)
    assert int(batch_of(low)["t"].max()) <= 500


def test_a_share_may_start_from_y_0_with_the_target_still_x_0(shards, networks, memory):
    batch = batch_of(stage_of("regions", shards, networks, memory, from_coarse=1.0))
    a = Diffusion(EPSILON.diffusion).alphas_cumprod[batch["t"] - 1].float()[:, None, None, None]
    noise = (batch["x_t"] - a.sqrt() * batch["coarse"]) / (1 - a).sqrt()
    assert float(noise.std()) == pytest.approx(1, abs=0.1)
    x_0 = (batch["x_t"] - (1 - a).sqrt() * batch["target"]) / a.sqrt()
    late = batch["t"] < 900
    torch.testing.assert_close(x_0[late], batch["x_0"][late], atol=1e-2, rtol=1e-2)
