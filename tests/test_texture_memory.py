"""Reference Texture Memory: search, selection, and the file."""

import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from patchscaler.config import AutoencoderConfig, preset
from patchscaler.errors import PatchScalerError
from patchscaler.models.autoencoder import (
    DiffusersAutoencoder,
    PCAAutoencoder,
    build_autoencoder,
)
from patchscaler.models.texture import TextureClassifier
from patchscaler.models.weights import save_tensors
from patchscaler.texture_memory import (
    Origin,
    TextureMemory,
    build_memory,
    decode_image,
    encode_crops,
    encode_image,
    farthest_point_sampling,
    random_crops,
    sharpness,
)


def memory_of(keys: torch.Tensor) -> TextureMemory:
    """A memory whose values tell their index."""
    values = torch.arange(len(keys), dtype=torch.float16)[:, None, None, None].expand(-1, 2, 4, 4)
    return TextureMemory(keys, values, [Origin("a", "CC0-1.0")] * len(keys), [b""] * len(keys), "")


def unit(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(
        torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=-1
    )


# --- search ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 4, 50])
def test_search_equals_brute_force(k):
    keys, queries = unit(50, 8, 0), unit(7, 8, 1)
    scores, indices = memory_of(keys).search(queries, k)
    for n, query in enumerate(queries):
        similarity = [float(query.dot(key)) for key in keys]
        expected = sorted(range(50), key=lambda i: -similarity[i])[:k]
        assert indices[n].tolist() == expected
        assert scores[n].tolist() == pytest.approx([similarity[i] for i in expected], abs=1e-6)


def test_ties_go_to_the_lower_index():
    keys = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    scores, indices = memory_of(keys).search(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 4)
    assert indices.tolist() == [[1, 2, 4, 0], [0, 3, 1, 2]]
    assert scores.tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]
    # long enough for a sort that is not stable to show
    same = torch.tensor([[1.0, 0.0]]).expand(3000, -1)
    assert memory_of(same).search(same[:1], 100)[1].tolist() == [list(range(100))]


def test_lookup_brings_the_values_of_the_indices():
    values, scores, indices = memory_of(unit(20, 8, 0)).lookup(unit(3, 8, 1), 2)
    assert values.shape == (3, 2, 2, 4, 4) and values.dtype == torch.float32
    assert torch.equal(values[:, :, 0, 0, 0].long(), indices)
    assert scores.shape == (3, 2)


def test_more_than_there_is():
    with pytest.raises(PatchScalerError, match="top-6 of a texture memory of 5"):
        memory_of(unit(5, 8, 0)).search(unit(1, 8, 1), 6)


# --- selection ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 10, 30])
def test_farthest_point_sampling_equals_the_naive_way(count):
    points = unit(30, 5, 0)
    chosen = [0]
    while len(chosen) < count:
        nearest = [min(float((p - points[c]).square().sum()) for c in chosen) for p in points]
        chosen.append(nearest.index(max(nearest)))
    assert farthest_point_sampling(points, count).tolist() == chosen


def test_farthest_points_by_hand():
    points = torch.tensor([[0.0], [1.0], [10.0], [4.0], [11.0]])
    assert farthest_point_sampling(points, 4).tolist() == [0, 4, 3, 1]


def test_farthest_points_are_all_different():
    points = torch.tensor([[0.0], [0.0], [1.0], [1.0], [1.0]])
    assert sorted(farthest_point_sampling(points, 5).tolist()) == [0, 1, 2, 3, 4]
    with pytest.raises(PatchScalerError, match="6 of 5 points"):
        farthest_point_sampling(points, 6)


def test_two_thousand_of_twenty_thousand_take_less_than_twenty_seconds():
    points = unit(20_000, 256, 0)
    began = time.process_time()
    chosen = farthest_point_sampling(points, 2000)
    assert time.process_time() - began < 20
    assert len(set(chosen.tolist())) == 2000


def test_flat_crops_are_dropped():
    rng = np.random.default_rng(0)
    flat = np.full((200, 200, 3), 255, np.uint8)
    rough = rng.integers(0, 256, (200, 200, 3), dtype=np.uint8)
    small = rough[:100]
    got = list(random_crops([("flat", flat), ("rough", rough), ("small", small)], 128, 5, rng))
    assert [name for name, _ in got] == ["rough"] * 5
    assert all(crop.shape == (128, 128, 3) for _, crop in got)
    assert len({crop.tobytes() for _, crop in got}) == 5


def test_sharpness_by_hand():
    # Columns of 0 and 30: neighbours differ by 30 along rows and not at all along columns.
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, ::2] = 30
    assert sharpness(stripes) == pytest.approx(30)


# --- building and the file ------------------------------------------------------------------------


@dataclass
class Networks:
    autoencoder: PCAAutoencoder
    classifier: TextureClassifier


@pytest.fixture(scope="module")
def tiny() -> Networks:
    torch.manual_seed(0)
    config = preset("tiny")
    autoencoder = PCAAutoencoder(config.autoencoder).eval()
    classifier = TextureClassifier(config.texture, autoencoder.channels).eval()
    return Networks(autoencoder, classifier)


@pytest.fixture(scope="module")
def crops() -> list[np.ndarray]:
    """Smooth colors with noise on them."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (5, 16, 16, 3), dtype=np.uint8)
    smooth = [np.asarray(Image.fromarray(x).resize((128, 128)), np.int16) for x in small]
    noise = rng.integers(-20, 20, (5, 128, 128, 3))
    return list((np.stack(smooth) + noise).clip(0, 255).astype(np.uint8))


def build(tiny, crops, size=3, key_model="classifier-1") -> TextureMemory:
    origins = [Origin(f"{i}.png", "CC-BY-4.0", f"author {i}") for i in range(len(crops))]
    return build_memory(crops, origins, tiny.autoencoder, tiny.classifier, size, key_model)


def test_built_memory_finds_its_own_entries(tiny, crops):
    memory = build(tiny, crops)
    assert len(memory) == 3 and memory.values.shape == (3, 8, 16, 16)
    values, scores, indices = memory.lookup(tiny.classifier.keys(memory.values.float()), 1)
    assert indices[:, 0].tolist() == [0, 1, 2]
    assert scores.min() > 0.999
    # The value is what its origin's crop gives, but for the loss of compression.
    first = next(i for i in range(5) if memory.origins[0].source == f"{i}.png")
    assert (encode_crops([crops[first]], tiny.autoencoder) - values[0, 0]).abs().mean() < 0.1


@pytest.mark.parametrize("size", [1, 4, 5])
def test_a_memory_has_exactly_the_entries_asked_for(tiny, crops, size):
    memory = build(tiny, crops, size)
    assert len(memory) == size == len({o.source for o in memory.origins})


@pytest.mark.parametrize("found", [0, 5])
def test_fewer_candidates_than_asked_for_are_an_error(tiny, crops, found):
    with pytest.raises(PatchScalerError, match=f"6 textures asked for, and {found} crops"):
        build(tiny, crops[:found], size=6)


def test_the_digest_follows_keys_and_images(tiny, crops):
    memory = build(tiny, crops)
    assert memory.digest() == build(tiny, crops).digest()
    memory.pictures[1] = memory.pictures[0]
    assert memory.digest() != build(tiny, crops).digest()


def test_file_round_trip(tiny, crops, tmp_path):
    memory = build(tiny, crops)
    memory.save(tmp_path / "memory.safetensors")
    loaded = TextureMemory.load(tmp_path / "memory.safetensors", tiny.autoencoder, "classifier-1")
    assert torch.equal(loaded.keys, memory.keys)
    assert torch.equal(loaded.values, memory.values)
    assert loaded.origins == memory.origins
    assert loaded.pictures == memory.pictures
    assert loaded.key_model == "classifier-1"


def test_keys_of_another_classifier_are_refused(tiny, crops, tmp_path):
    build(tiny, crops).save(tmp_path / "memory.safetensors")
    with pytest.raises(PatchScalerError, match="another texture classifier"):
        TextureMemory.load(tmp_path / "memory.safetensors", tiny.autoencoder, "classifier-2")


def test_missing_file(tiny, tmp_path):
    with pytest.raises(PatchScalerError, match="no such weights file"):
        TextureMemory.load(tmp_path / "memory.safetensors", tiny.autoencoder)


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_file_cut_short(tiny, crops, tmp_path, share):
    path = tmp_path / "memory.safetensors"
    build(tiny, crops).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(PatchScalerError, match="corrupt"):
        TextureMemory.load(path, tiny.autoencoder)


def test_file_of_something_else(tiny, tmp_path):
    save_tensors(tmp_path / "x.safetensors", {"keys": torch.zeros(2, 2)}, {})
    with pytest.raises(
        PatchScalerError, match=r"not a texture memory \(lengths, origins, pictures missing"
    ):
        TextureMemory.load(tmp_path / "x.safetensors", tiny.autoencoder)


def test_pictures_that_cannot_be_decoded(tiny, crops, tmp_path):
    memory = build(tiny, crops)
    memory.pictures = [b"\0" * len(p) for p in memory.pictures]
    memory.save(tmp_path / "memory.safetensors")
    with pytest.raises(PatchScalerError):
        TextureMemory.load(tmp_path / "memory.safetensors", tiny.autoencoder)


def test_images_survive_compression(crops):
    crop = np.asarray(Image.fromarray(crops[0]).resize((64, 64)).resize((128, 128)))
    decoded = decode_image(encode_image(crop))
    assert decoded.shape == crop.shape and decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - crop).mean() < 8
    assert len(encode_image(crop)) < crop.size / 4


def test_encoding_in_batches_equals_one_by_one(tiny, crops):
    together = encode_crops(crops, tiny.autoencoder, batch=2)
    alone = torch.cat([encode_crops([crop], tiny.autoencoder) for crop in crops])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["kl", "pixel_unshuffle"])
def test_autoencoders_without_buffers_encode_too(kind):
    """Stable Diffusion's has parameters only, unshuffled pixels have neither."""
    if kind == "kl":
        diffusers = pytest.importorskip("diffusers")
        autoencoder = DiffusersAutoencoder.__new__(DiffusersAutoencoder)
        torch.nn.Module.__init__(autoencoder)
        autoencoder.model = diffusers.AutoencoderKL(
            block_out_channels=(4,) * 4,
            layers_per_block=1,
            norm_num_groups=2,
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
        autoencoder.scaling_factor = 1.0
    else:
        autoencoder = build_autoencoder(AutoencoderConfig(kind=kind, channels=192))
    channels = 4 if kind == "kl" else 192
    crop = np.zeros((128, 128, 3), np.uint8)
    assert encode_crops([crop], autoencoder).shape == (1, channels, 16, 16)
