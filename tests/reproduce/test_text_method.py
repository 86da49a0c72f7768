"""Table 5's text prompt as a method: a caption of the LR image reaches the result."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from text_models import WIDTH, tiny_blip2, tiny_clip

from patchscaler.config import preset
from patchscaler.errors import PatchScalerError
from patchscaler.model import Model
from patchscaler.model_folder import build_networks, write_model
from patchscaler.models.text_encoders import Captioner, TextEncoder
from patchscaler.reproduce.text_method import TextPrompted, text_entry


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`model` with weights that all matter, `blip2`, `clip`."""
    root = tmp_path_factory.mktemp("text")
    tiny_blip2(root / "blip2")
    tiny_clip(root / "clip")
    torch.manual_seed(0)
    config = replace(preset("tiny"), text_width=WIDTH)
    config = replace(config, texture=replace(config.texture, memory_size=0))
    networks = build_networks(config)
    dit = networks["patch_dit"]
    torch.nn.init.normal_(dit.blocks[0].cross.proj.weight, std=1.0)
    for layer in (dit.out, dit.shared):
        torch.nn.init.normal_(layer.weight, std=0.2)
    write_model(root / "model", config, networks, None, half=False)
    return root


def helpers(folder: Path) -> tuple[Captioner, TextEncoder]:
    return Captioner(folder / "blip2", longest=6), TextEncoder(folder / "clip")


def test_the_caption_reaches_the_result(folder):
    model = Model.from_pretrained(folder / "model", device="cpu", dtype="float32")
    captioner, encoder = helpers(folder)
    method = TextPrompted(model, captioner, encoder)
    lr = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    result = method.upscale(lr)
    assert result.shape == (256, 256, 3) and np.array_equal(result, method.upscale(lr))
    assert method.cost["caption"] == captioner.captions([Image.fromarray(lr)])[0]
    captioner.captions = lambda images: ["something else"]  # type: ignore[method-assign]
    assert np.abs(result.astype(int) - method.upscale(lr)).max() > 1
    described = method.describe()
    assert (described["captioner"], described["text encoder"]) == ("blip2", "clip")


def test_table_5_has_its_row_or_a_reason(folder):
    names = (str(folder / "blip2"), str(folder / "clip"))
    row = text_entry(str(folder / "model"), *names, device="cpu", dtype="float32")
    assert row.paper["MUSIQ"] == 66.79 and row.method is not None
    assert text_entry(str(folder / "nowhere"), *names).reason


def test_a_model_of_textures_takes_no_text(folder, tmp_path):
    config = preset("tiny")
    config = replace(config, texture=replace(config.texture, memory_size=0))
    write_model(tmp_path, config, build_networks(config), None, half=False)
    model = Model.from_pretrained(tmp_path, device="cpu", dtype="float32")
    with pytest.raises(PatchScalerError, match="trained with textures"):
        TextPrompted(model, *helpers(folder))
