"""What the tests share: random pictures made by code, and a whole PatchScaler that runs in
milliseconds.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from patchscaler.config import preset
from patchscaler.diffusion.groups import thresholds_for
from patchscaler.model import Model
from patchscaler.model_folder import build_networks
from patchscaler.pipeline import PatchScaler
from patchscaler.texture_memory import Origin, build_memory, random_crops

torch.set_num_threads(1)
# read when the hub's package is first imported: no test may reach a network
os.environ["HF_HUB_OFFLINE"] = "1"

Picture = Callable[..., Image.Image]


def smooth_picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """RGB: smooth colours everywhere, fine detail that grows from left to right, so that patches
    differ.
    """
    rng = np.random.default_rng(seed)
    colors = torch.from_numpy(
        rng.random((1, 3, height // 16 + 2, width // 16 + 2), dtype=np.float32)
    )
    image = F.interpolate(colors, size=(height, width), mode="bicubic", align_corners=True)[
        0
    ].movedim(0, -1)
    detail = rng.normal(size=(height, width, 1)) * np.linspace(0, 0.2, width)[None, :, None]
    return Image.fromarray(((image.numpy() + detail).clip(0, 1) * 255).round().astype(np.uint8))


@pytest.fixture(scope="session")
def picture() -> Picture:
    """`picture(height, width, seed=0)` -> PIL image."""
    return smooth_picture


def wake_up(networks: dict[str, torch.nn.Module]) -> None:
    """Small random weights for every layer that starts at zero: otherwise whole paths could not
    fail a test.
    """
    dit, grm = networks["patch_dit"], networks["grm"]
    layers = [dit.out, dit.final_modulation, dit.shared, grm.conv_out, grm.confidence_head]
    layers += [block.cross.proj for block in dit.blocks] + [
        block.mlp.depthwise for block in dit.blocks
    ]
    layers += [block.conv2 for block in grm.blocks] + [networks["autoencoder"].correction.conv_out]
    for layer in layers:
        torch.nn.init.normal_(layer.weight, std=0.05)
        torch.nn.init.normal_(layer.bias, std=0.05)
    # larger: the confidence of patches must differ
    torch.nn.init.normal_(grm.confidence_head.weight, std=0.3)


@pytest.fixture(scope="session")
def tiny() -> PatchScaler:
    """`preset('tiny')` with random weights that all matter, a texture memory, and patches in all
    three groups.

    Shared by all tests, so each must leave it as it was: use monkeypatch.
    """
    torch.manual_seed(0)
    config = preset("tiny")
    networks = build_networks(config)
    pictures = [(f"{seed}.png", np.array(smooth_picture(192, 192, seed))) for seed in range(4)]
    tensors = [torch.from_numpy(p).movedim(-1, 0)[None].float() / 127.5 - 1 for _, p in pictures]
    networks["autoencoder"].fit(tensors)
    wake_up(networks)
    candidates = list(random_crops(pictures, 128, 10, np.random.default_rng(0)))
    memory = build_memory(
        [crop for _, crop in candidates],
        [Origin(name, "CC0-1.0") for name, _ in candidates],
        networks["autoencoder"].eval(),
        networks["classifier"].eval(),
        config.texture.memory_size,
        "tiny",
    )
    scaler = PatchScaler(Model(config, networks, memory))
    images = [smooth_picture(64, 64), smooth_picture(33, 47)]
    outputs = scaler(images, prompt=False)
    scores = torch.cat([torch.from_numpy(output.scores) for output in outputs])
    table = tuple(torch.quantile(scores, torch.linspace(0, 1, 5)).tolist())
    groups = replace(
        config.groups, thresholds=thresholds_for(scores, (0.3, 0.65)), calibration=table
    )
    scaler.model.config = replace(config, groups=groups)
    return scaler


@pytest.fixture(scope="session")
def tiny_rrdb() -> PatchScaler:
    """`preset('tiny-rrdb')` with random weights that all matter, and patches in all three
    groups.
    """
    torch.manual_seed(1)
    config = preset("tiny-rrdb")
    networks = build_networks(config)
    denoiser, grm = networks["denoiser"], networks["grm"]
    for layer in (denoiser.conv_y, denoiser.conv_y_hr, denoiser.modulation.linear2):
        torch.nn.init.normal_(layer.weight, std=0.05)
    for layer in [grm.conv_out, *[block.conv2 for block in grm.blocks]]:
        torch.nn.init.normal_(layer.weight, std=0.05)
    torch.nn.init.normal_(grm.confidence_head.weight, std=0.3)
    scaler = PatchScaler(Model(config, networks))
    outputs = scaler([smooth_picture(64, 64), smooth_picture(48, 80)])
    scores = torch.cat([torch.from_numpy(output.scores) for output in outputs])
    groups = replace(config.groups, thresholds=thresholds_for(scores, (0.3, 0.65)))
    scaler.model.config = replace(config, groups=groups)
    return scaler


@pytest.fixture
def photo(tmp_path: Path) -> Callable[..., Path]:
    """`photo(height, width, mode="RGB")` -> a PNG of this size, alone in its folder."""

    def make(height: int, width: int, mode: str = "RGB") -> Path:
        smooth_picture(height, width).convert(mode).save(tmp_path / "in.png")
        return tmp_path / "in.png"

    return make


@pytest.fixture
def small_pictures(tmp_path: Path) -> Path:
    """A folder of two small pictures, a.png and b.png."""
    folder = tmp_path / "small"
    folder.mkdir()
    for name, height, width, seed in (("a", 64, 64, 0), ("b", 33, 47, 1)):
        smooth_picture(height, width, seed).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="session")
def model_folder(tiny: PatchScaler, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny` in a folder, as `--model` takes it. Shared by all tests."""
    folder = tmp_path_factory.mktemp("model")
    tiny.save_pretrained(folder, half=False)
    return folder
