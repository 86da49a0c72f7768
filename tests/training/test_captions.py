"""The text prompt end to end on tiny random BLIP-2 and CLIP: caption -> tokens -> training ->
sampling.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from patchscaler.training.data.captions import open_tokens, write_captions
from PIL import Image

from patchscaler.apps.cli import main
from patchscaler.config import preset
from patchscaler.errors import PatchScalerError
from patchscaler.models.folder import build_networks
from patchscaler.models.text_encoders import Captioner, TextEncoder
from patchscaler.models.text_projection import TextProjection
from patchscaler.pipeline import PatchScaler
from patchscaler.reproduce.text_method import TextPrompted, text_entry
from patchscaler.training.data.coarse import CoarseShards, write_coarse
from patchscaler.training.data.shards import ShardConfig, write_shards

LENGTH, WIDTH = 12, 16
LETTERS = [chr(i) for i in range(33, 127)]


def tiny_blip2(folder: Path) -> Path:
    """Blip2ForConditionalGeneration with its processor, random weights that say more
    than nothing.
    """
    words = {w: i for i, w in enumerate(["<s>", "<pad>", "</s>", "<unk>", "\u0120", *LETTERS])}
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = transformers.GPT2Tokenizer(vocab=words, merges=[], **special)
    images = transformers.BlipImageProcessorPil(size={"height": 32, "width": 32})
    processor = transformers.Blip2Processor(
        image_processor=images, tokenizer=tokenizer, num_query_tokens=4
    )
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Blip2Config(
        vision_config=small | {"intermediate_size": 32, "image_size": 32, "patch_size": 8},
        qformer_config=small
        | {"intermediate_size": 32, "encoder_hidden_size": 16, "vocab_size": 20},
        text_config=small
        | {
            "model_type": "opt",
            "ffn_dim": 32,
            "vocab_size": 104,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 16,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
        num_query_tokens=4,
    )
    torch.manual_seed(2)
    model = transformers.Blip2ForConditionalGeneration(config)
    # or all pictures had one caption
    torch.nn.init.normal_(model.language_projection.weight, std=5)
    torch.nn.init.normal_(model.vision_model.embeddings.patch_embedding.weight, std=0.5)
    model.config.image_token_index = tokenizer.convert_tokens_to_ids("<image>")
    model.generation_config.suppress_tokens = [0, 1, 2, 3]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def tiny_clip(folder: Path, width: int = WIDTH) -> Path:
    words = [*LETTERS, *(f"{c}</w>" for c in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[])
    config = transformers.CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
    )
    torch.manual_seed(0)
    transformers.CLIPTextModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


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
    tokens = open_tokens(shards / "validation", 1)[0]
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


def test_train_with_one_option_then_sample(models, shards, tmp_path, capsys):
    """Every stage before is the texture prompt's; `--prompt text` is all that differs."""
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
    assert (
        "captions are missing; make them with 'patchscaler train captions'"
        in capsys.readouterr().err
    )
    for split in ("train", "validation"):
        options = (
            "--captioner",
            models / "blip2",
            "--text-encoder",
            models / "clip",
            "--device",
            "cpu",
        )
        (shards / split / "captions.json").unlink(missing_ok=True)
        assert run("captions", "--shards", shards / split, *options) == 0
    (tmp_path / "textures" / "x").mkdir(parents=True)
    (tmp_path / "textures" / "y").mkdir()
    for label in ("x", "y"):
        Image.fromarray(picture(7, 160)).save(tmp_path / "textures" / label / f"t_{label}_01.png")
    assert run("classifier", *common, *limit, "--textures", tmp_path / "textures") == 0
    assert run("diffusion", *common, *pairs, *limit, "--prompt", "text") == 0
    assert (model / "text_projection.safetensors").is_file() and not (
        model / "texture_encoder.safetensors"
    ).exists()
    assert run("diffusion", *common, *pairs, *limit) == 1
    assert (
        "holds a model with another prompt (text_projection.safetensors)" in capsys.readouterr().err
    )

    scaler = PatchScaler.from_pretrained(model, device="cpu", dtype="float32")
    assert scaler.config.text_width == WIDTH and scaler.memory is None
    cross = scaler.patch_dit.blocks[0].cross.proj
    # two steps leave it near zero, where no prompt matters
    torch.nn.init.normal_(cross.weight, std=1.0)
    torch.nn.init.normal_(scaler.patch_dit.out.weight, std=0.2)
    torch.nn.init.normal_(scaler.patch_dit.shared.weight, std=0.2)
    captioner, encoder = Captioner(models / "blip2", longest=6), TextEncoder(models / "clip")
    method = TextPrompted(scaler, model, captioner, encoder)
    lr = picture(99, 64)
    result = method.upscale(lr)
    assert result.shape == (256, 256, 3) and np.array_equal(result, method.upscale(lr))
    assert method.cost["caption"] == captioner.captions([Image.fromarray(lr)])[0]
    without = np.asarray(scaler.upscale(lr).image)
    assert np.abs(result.astype(int) - without).max() > 1  # the caption reaches the picture
    captioner.captions = lambda pictures: ["something else"]  # type: ignore[method-assign]
    assert np.abs(result.astype(int) - method.upscale(lr)).max() > 1
    described = method.describe()
    assert (described["captioner"], described["text encoder"]) == ("blip2", "clip")

    helpers = (str(models / "blip2"), str(models / "clip"))
    row = text_entry(str(model), *helpers, device="cpu", dtype="float32")  # Table 5's
    assert row.paper["MUSIQ"] == 66.79 and row.method.upscale(lr).shape == (256, 256, 3)
    assert "no such folder" in text_entry(str(tmp_path / "nowhere"), *helpers).reason


def test_a_model_of_textures_takes_no_text(models, tiny):
    with pytest.raises(
        PatchScalerError, match="trained with textures, the text encoder gives 16; train it with"
    ):
        TextPrompted(tiny, "m", Captioner(models / "blip2"), TextEncoder(models / "clip"))


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
    tokens = loaded.tokens(regions)
    assert tokens.shape == (6, LENGTH, WIDTH) and len({r.tile for r in regions}) > 1
    for region, own in zip(regions, tokens, strict=True):
        assert np.array_equal(
            own.numpy(), np.asarray(loaded.text[region.shard][region.tile], np.float32)
        )
    coarse, hr = loaded.read(regions, 16, 8)
    again = loaded.regions(6, 16, 8, np.random.default_rng(0))
    assert torch.equal(coarse, again[0]) and torch.equal(hr, again[1])
