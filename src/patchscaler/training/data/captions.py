"""Captions of training pictures beside the shards, for the text prompt of the paper's 4.4.

`NNNN_captions.json`: one sentence a tile; `NNNN_text.npy` (n, L, W) float16: the text encoder's
tokens of it. The caption is of the small picture of a tile's first degradation, as at use, where
there is no large one. `captions.json` says which models made them.
"""

import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

from patchscaler.errors import PatchScalerError
from patchscaler.models.text_encoders import Captioner, TextEncoder


def write_captions(
    folder: str | Path, captioner: Captioner, encoder: TextEncoder, batch: int = 8
) -> int:
    """Write what is missing -> number of shards written.

    Raises PatchScalerError for captions of other models.
    """
    folder = Path(folder)
    shards = sorted(folder.glob("*_lr.npy"))
    if not shards:
        raise PatchScalerError(
            f"{folder}: no shards here; make them with 'patchscaler train shards'"
        )
    made_by = {"captioner": captioner.name, "text_encoder": encoder.name, "length": encoder.length}
    note = folder / "captions.json"
    if note.is_file() and (before := json.loads(note.read_text("utf-8"))) != made_by:
        names = f"{before['captioner']}, {before['text_encoder']}"
        raise PatchScalerError(
            f"{folder}: holds captions of other models ({names}); remove *_text.npy and {note.name}"
        )
    _write(note, json.dumps(made_by))
    written = 0
    for lr_file in shards:
        stem = str(lr_file).removesuffix("_lr.npy")
        if Path(f"{stem}_text.npy").exists():
            continue
        lr = np.load(lr_file, mmap_mode="r")[:, 0]  # (n, t, t, 3)
        captions: list[str] = []
        for i in range(0, len(lr), batch):
            captions += captioner.captions(
                [Image.fromarray(picture) for picture in lr[i : i + batch]]
            )
        tokens = np.concatenate(
            [
                encoder.tokens(captions[i : i + batch]).cpu().numpy()
                for i in range(0, len(lr), batch)
            ]
        )  # (n, L, W)
        _write(Path(f"{stem}_captions.json"), json.dumps(captions, indent=0))
        np.save(f"{stem}_text.tmp.npy", tokens.astype(np.float16))
        os.replace(f"{stem}_text.tmp.npy", f"{stem}_text.npy")
        written += 1
    return written


def _write(file: Path, text: str) -> None:
    temporary = file.with_suffix(".tmp")
    temporary.write_text(text, "utf-8")
    os.replace(temporary, file)


def open_tokens(folder: str | Path, shards: int) -> list[np.ndarray]:
    """The tokens of every shard, (n, L, W) float16 each.

    Raises PatchScalerError where some are missing.
    """
    files = sorted(Path(folder).glob("*_text.npy"))
    if len(files) != shards:
        raise PatchScalerError(
            f"{folder}: captions are missing; make them with 'patchscaler train captions'"
        )
    return [np.load(file, mmap_mode="r") for file in files]
