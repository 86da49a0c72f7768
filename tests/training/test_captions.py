"""The text prompt on tiny random BLIP-2 and CLIP: caption -> tokens -> training."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from text_models import LENGTH, WIDTH, tiny_blip2, tiny_clip

from patchscaler.apps.cli import main
from patchscaler.config import preset
from patchscaler.errors import PatchScalerError
from patchscaler.model_folder import build_networks, read_config
from patchscaler.models.text_encoders import Captioner, TextEncoder
from patchscaler.models.text_projection import TextProjection
from patchscaler.training.captions import write_captions
from patchscaler.training.coarse import write_coarse
from patchscaler.training.data.coarse import CoarseShards
from patchscaler.training.data.shards import PairShards, ShardConfig, write_shards


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("models")
    tiny_blip2(root / "blip2")
    tiny_clip(root / "clip")
    return root


def picture(seed: int, side: int = 256) -> np.ndarray:
    small = np.random.default_rng(seed).integers(
        0, 255, (side // 16, side // 16, 3), dtype=np.uint8
    )
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    (root / "pictures").mkdir()
    for i in range(3):
        Image.fromarray(picture(i)).save(root / "pictures" / f"set_{i:06x}_01.png")
    for name in ("train", "validation"):
        write_shards(
            root / name,
            ShardConfig(str(root / "pictures"), variants=1, mix=(("bicubic", 1.0),), reduced=0.0),
        )
    return root


def test_captions_follow_the_picture_and_stay_the_same(models):
    captioner = Captioner(models / "blip2", longest=6)
    pictures = [
        Image.new("RGB", (40, 30), "white"),
        Image.new("RGB", (64, 64)),
        Image.fromarray(picture(0, 64)),
    ]
    first = captioner.captions(pictures)
    assert all(first) and len(set(first)) > 1
    assert captioner.captions(pictures) == first
    assert captioner.captions(pictures[1:2]) == first[1:2]


def test_tokens_are_clips_last_layer(models):
    encoder = TextEncoder(models / "clip")
    tokens = encoder.tokens(["a cat", "a text that is longer than all the tokens there are"])
    assert tokens.shape == (2, LENGTH, WIDTH) and (encoder.length, encoder.width) == (LENGTH, WIDTH)
    clip = transformers.CLIPTextModel.from_pretrained(models / "clip")
    ids = encoder.tokenizer(["a cat"], padding="max_length", max_length=LENGTH, return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(tokens[:1], clip(**ids).last_hidden_state, atol=1e-6)
    assert torch.equal(encoder.tokens(["a cat"]), tokens[:1]) and not torch.equal(
        tokens[0], tokens[1]
    )


def test_what_cannot_be_loaded_is_one_line(models, tmp_path):
    with pytest.raises(
        PatchScalerError, match=r"nowhere' cannot be loaded as CLIPTokenizer .*local copy"
    ):
        TextEncoder(tmp_path / "nowhere")
    with pytest.raises(PatchScalerError, match="cannot be loaded as Blip2Processor"):
        Captioner(tmp_path)


def test_captions_are_written_once_and_for_one_pair_of_models(models, shards, tmp_path):
    captioner, encoder = Captioner(models / "blip2", longest=4), TextEncoder(models / "clip")
    assert write_captions(shards / "validation", captioner, encoder, batch=2) == 1
    assert write_captions(shards / "validation", captioner, encoder) == 0
    captions = json.loads((shards / "validation" / "0000_captions.json").read_text())
    tokens = PairShards(shards / "validation", text=True).text[0]
    assert len(captions) == 3 and tokens.shape == (3, LENGTH, WIDTH) and tokens.dtype == np.float16
    assert np.allclose(tokens, encoder.tokens(captions).numpy(), atol=2e-3)
    lr = np.load(shards / "validation" / "0000_lr.npy")
    assert captions[1] == captioner.captions([Image.fromarray(lr[1, 0])])[0]
    other = TextEncoder(tiny_clip(tmp_path / "other"))
    with pytest.raises(PatchScalerError, match=r"holds captions of other models \(blip2, clip\)"):
        write_captions(shards / "validation", captioner, other)
    with pytest.raises(PatchScalerError, match="no shards here"):
        write_captions(tmp_path, captioner, encoder)


def test_the_projection_stands_in_the_texture_encoders_place():
    config = preset("tiny")
    networks = build_networks(config)
    assert "texture_encoder" in networks and "text_projection" not in networks
    networks = build_networks(type(config)(**{**vars(config), "text_width": WIDTH}))
    assert "texture_encoder" not in networks and isinstance(
        networks["text_projection"], TextProjection
    )
    context = networks["text_projection"](torch.randn(2, LENGTH, WIDTH))
    assert context.shape == (2, LENGTH, config.patch_dit.hidden_size)


def test_one_option_trains_the_text_prompt(models, shards, tmp_path, capsys):
    """Every stage before is the texture prompt's."""
    model = tmp_path / "model"
    common = ("--model", model, "--preset", "tiny", "--no-bf16", "--device", "cpu")
    pairs = ("--shards", shards / "train", "--validation", shards / "validation")
    limit = ("--steps", 2, "--batch-size", 2, "--log-every", 1)

    def run(*args: object) -> int:
        return main(["train", *(str(a) for a in args)])

    assert run("autoencoder", *common, "--shards", shards / "train") == 0
    assert run("grm", *common, *pairs, *limit, "--lr-size", 32) == 0
    for split in ("train", "validation"):
        assert run("coarse", *common, "--shards", shards / split, "--variants", 1) == 0
    assert run("diffusion", *common, *pairs, *limit, "--prompt", "text") == 1
    assert "captions are missing" in capsys.readouterr().err
    helpers = ("--captioner", models / "blip2", "--text-encoder", models / "clip")
    for split in ("train", "validation"):
        (shards / split / "captions.json").unlink(missing_ok=True)
        assert run("captions", "--shards", shards / split, *helpers, "--device", "cpu") == 0
    assert run("diffusion", *common, *pairs, *limit, "--prompt", "text") == 0
    assert (model / "text_projection.safetensors").is_file()
    assert not (model / "texture_encoder.safetensors").exists()
    assert read_config(model).text_width == WIDTH
    assert run("diffusion", *common, *pairs, *limit, "--prompt", "text", "--whole-images") == 0
    assert run("diffusion", *common, *pairs, *limit) == 1
    assert "another prompt (text_projection.safetensors)" in capsys.readouterr().err


def test_regions_bring_the_caption_of_their_tile(models, shards, tmp_path):
    folder = tmp_path / "shards"
    shutil.copytree(shards / "train", folder)
    networks = build_networks(preset("tiny"))
    write_coarse(folder, networks["grm"], networks["autoencoder"], variants=1, bf16=False)
    for file in folder.glob("*_text.npy"):
        file.unlink()
    (folder / "captions.json").unlink(missing_ok=True)
    with pytest.raises(PatchScalerError, match="captions are missing"):
        CoarseShards(folder, text=True)
    write_captions(folder, Captioner(models / "blip2", longest=4), TextEncoder(models / "clip"))
    loaded = CoarseShards(folder, text=True)
    regions = loaded.draw(6, 16, 8, np.random.default_rng(0))
    tokens = loaded.tokens([(r.shard, r.tile) for r in regions])
    assert tokens.shape == (6, LENGTH, WIDTH) and len({r.tile for r in regions}) > 1
    for region, own in zip(regions, tokens, strict=True):
        assert np.array_equal(
            own.numpy(), np.asarray(loaded.text[region.shard][region.tile], np.float32)
        )
