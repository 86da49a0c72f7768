"""Stage `captions`: captions of training tiles beside the shards, for the text prompt (4.4).

`NNNN_captions.json`: one sentence a tile; `NNNN_text.npy` (n, L, W) float16: the text encoder's
tokens of it. The caption is of the LR image of a tile's first degradation, as at inference.
`captions.json` names the models that made them.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

from patchscaler.devices import choose_device
from patchscaler.errors import PatchScalerError
from patchscaler.models.text_encoders import CAPTIONER, TEXT_ENCODER, Captioner, TextEncoder


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
            f"{folder}: no shards here. Hint: make them with 'patchscaler train shards'"
        )
    made_by = {"captioner": captioner.name, "text_encoder": encoder.name, "length": encoder.length}
    note = folder / "captions.json"
    if note.is_file() and (before := json.loads(note.read_text("utf-8"))) != made_by:
        names = f"{before['captioner']}, {before['text_encoder']}"
        raise PatchScalerError(
            f"{folder}: holds captions of other models ({names}). "
            f"Hint: remove *_text.npy and {note.name}"
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
            captions += captioner.captions([Image.fromarray(image) for image in lr[i : i + batch]])
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


def run(args: argparse.Namespace) -> None:
    device = choose_device(args.device)
    captioner = Captioner(args.captioner or CAPTIONER, device)
    encoder = TextEncoder(args.text_encoder or TEXT_ENCODER, device)
    written = write_captions(args.shards, captioner, encoder)
    print(f"{args.shards}: captions of {written} shards written")
