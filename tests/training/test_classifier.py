"""Texture classifier: labelled images and their split, the fit in closed form, its scores."""

import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from patchscaler.config import AutoencoderConfig, TextureConfig, preset
from patchscaler.errors import PatchScalerError
from patchscaler.models.autoencoder import build_autoencoder
from patchscaler.models.packages import PackageMissing
from patchscaler.models.perceptual import LPIPS
from patchscaler.models.texture import PixelFeatures, TextureClassifier
from patchscaler.models.weights import load_module, save_module
from patchscaler.training.classifier import discriminants, fit_pixels, score_classifier
from patchscaler.training.data.textures import LabelledTextures

UNSHUFFLE = AutoencoderConfig(kind="pixel_unshuffle", channels=192)


def stripes(seed: int, direction: str, side: int = 160) -> np.ndarray:
    """Stripes of random period, phase and colors."""
    rng = np.random.default_rng(seed)
    wave = np.sin(np.arange(side) * rng.uniform(0.4, 0.9) + rng.uniform(0, 6))
    pattern = np.broadcast_to(wave[:, None] if direction == "rows" else wave[None, :], (side, side))
    color = rng.uniform(40, 100, 3)
    return (128 + color * pattern[..., None]).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of ten sources with two tiles each."""
    root = tmp_path_factory.mktemp("stripes")
    for label in ("columns", "rows"):
        (root / label).mkdir()
        for i in range(10):
            for tile in (1, 2):
                image = Image.fromarray(stripes(100 * i + tile + (label == "rows"), label))
                image.save(root / label / f"{label}_{i:06x}_{tile:02d}.png")
    return root


# --- the data -------------------------------------------------------------------------------------


def test_folders_and_tar_files_give_the_same(folder, tmp_path):
    with tarfile.open(tmp_path / "textures.tar", "w") as tar:
        tar.add(folder, "textures")
    for source in (folder, tmp_path / "textures.tar"):
        textures = LabelledTextures(source)
        assert textures.classes == ("columns", "rows")
        assert len(textures.train) == 32 and len(textures.validation) == 8
    assert len(LabelledTextures(folder, "columns_000001").train) <= 32
    with pytest.raises(PatchScalerError, match="two or more classes"):
        LabelledTextures(folder / "rows")


def test_tiles_of_one_source_are_on_one_side(folder):
    textures = LabelledTextures(folder)
    train = {image.tobytes() for image, _ in textures.train}
    for label in textures.classes:
        for i in range(10):
            tiles = [
                np.asarray(Image.open(folder / label / f"{label}_{i:06x}_{tile:02d}.png"))
                for tile in (1, 2)
            ]
            assert len({tile.tobytes() in train for tile in tiles}) == 1
    assert {label for _, label in textures.validation} == {0, 1}  # every class is scored


def test_crops_to_score_are_the_same_every_time(folder):
    textures = LabelledTextures(folder)
    first, again = (list(textures.crops(True, 64, 3)) for _ in range(2))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, again, strict=True))
    blurred = next(textures.crops(True, 64, 3, blurred=True))[0]
    assert float(blurred.diff(dim=-1).abs().mean()) < float(first[0][0].diff(dim=-1).abs().mean())


# --- closed form ----------------------------------------------------------------------------------


def test_discriminants_find_the_axis_between_two_classes():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(2000) % 2
    x = torch.randn(2000, 6, generator=g) * torch.tensor([1.0, 20, 1, 1, 1, 1])
    x[:, 2] += 3 * y
    weight, bias, means = discriminants(x, y, 2)
    z = x @ weight.T + bias
    assert weight.shape == (1, 6)
    assert abs(float(weight[0, 2])) > 5 * float(weight[0, [0, 1, 3, 4, 5]].abs().max())
    for c in (0, 1):
        assert float(z[y == c].mean()) == pytest.approx(float(means[c]), abs=1e-3)
        assert float(z[y == c].std()) == pytest.approx(1, abs=0.25)
    nearest = (z - means.T).abs().argmin(1)
    assert float((nearest == y).float().mean()) > 0.9


def test_the_fitted_classifier_keeps_textures_together(folder, tmp_path):
    try:
        LPIPS.files("alex")
    except PackageMissing as error:
        pytest.skip(str(error))
    data = LabelledTextures(folder)
    autoencoder = build_autoencoder(UNSHUFFLE)
    config = TextureConfig(kind="pixels", classes=data.classes)
    classifier = TextureClassifier(config, 192).eval()
    fit_pixels(classifier, autoencoder, data, 128)
    score = score_classifier(classifier, autoencoder, data, 128)
    assert score.accuracy > 0.9 and score.precision > 0.9 and score.blurred > 0.9
    assert set(score.by_class) == {"columns", "rows"} and score.queries == 48
    save_module(tmp_path / "c.safetensors", classifier, {"network": "classifier"})
    again = TextureClassifier(config, 192).eval()
    load_module(tmp_path / "c.safetensors", again)  # eight bits a weight
    stored = score_classifier(again, autoencoder, data, 128)
    assert stored.precision == pytest.approx(score.precision, abs=0.05)
    assert (tmp_path / "c.safetensors").stat().st_size < 3e6


def test_statistics_are_alexnets_of_the_image():
    classifier = TextureClassifier(TextureConfig(kind="pixels", classes=("a", "b", "c")), 192)
    body = classifier.body
    assert isinstance(body, PixelFeatures) and body.size == 2
    autoencoder = build_autoencoder(UNSHUFFLE)
    image = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        found = body.statistics(autoencoder.encode(image))
        x = torch.relu(body.convs[0]((image - body.shift) / body.scale))
    assert found.shape == (2, 2304)
    torch.testing.assert_close(found[:, :64].square(), x.mean((2, 3)), atol=1e-5, rtol=1e-4)
    keys = classifier.keys(autoencoder.encode(image))
    assert keys.norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)


def test_latents_that_are_no_pixels_are_refused():
    with pytest.raises(PatchScalerError, match="pixel_unshuffle"):
        TextureClassifier(TextureConfig(kind="pixels"), 4)
    with pytest.raises(PatchScalerError, match="choose latents or pixels"):
        TextureClassifier(replace(preset("tiny").texture, kind="words"), 4)


# --- the command ----------------------------------------------------------------------------------


def test_the_command_prints_accuracy_and_precision(data, command, tmp_path, capsys):
    model = tmp_path / "model"
    common = ("--model", model, "--preset", "tiny", "--no-bf16", "--device", "cpu")
    textures = data / "textures"
    command("train", "autoencoder", *common, "--shards", data / "shards")
    limit = ("--steps", 2, "--batch-size", 2)
    command("train", "classifier", *common, *limit, "--textures", textures)
    capsys.readouterr()
    command("memory", "score", textures, "--model", model, "--device", "cpu")
    lines = dict(line.rsplit(None, 1) for line in capsys.readouterr().out.splitlines()[1:])
    assert 0 <= float(lines["accuracy"]) <= 1 and 0 <= float(lines["precision@4"]) <= 1
    assert {"  brick", "  grass"} <= set(lines)
