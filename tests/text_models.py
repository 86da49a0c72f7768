"""Tiny random BLIP-2 and CLIP on disk, for the tests of the text prompt."""

from pathlib import Path

import torch
import transformers

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
