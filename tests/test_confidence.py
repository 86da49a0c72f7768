"""`patchscaler evaluate --confidence`: does a model know where it is wrong?"""

import numpy as np
import pytest
import torch
from PIL import Image

from patchscaler.apps.cli import main
from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.confidence import confidence_lines, patch_errors
from patchscaler.evaluation.pairs import load_pairs
from patchscaler.patching import make_grid


class _Sure:
    """A model whose coarse picture is the enlarged small one, and which is less and less sure of it
    downwards.
    """

    def __init__(self, tiny):
        self.tiny = tiny
        for name in ("config", "device", "autoencoder", "padded_size"):
            setattr(self, name, getattr(tiny, name))

    def restore(self, lr):
        coarse = self.tiny.autoencoder.encode(
            torch.nn.functional.interpolate(lr, scale_factor=4, mode="nearest")
        )[0]
        rows = torch.arange(coarse.shape[1])[:, None] / coarse.shape[1]
        return coarse, (1 - rows).clamp(0.1).expand(1, *coarse.shape[1:])


def test_confidence_that_knows_and_that_does_not(tiny, tmp_path):
    """An original that leaves the enlarged small picture further and further downwards."""
    side, rng = 256, np.random.default_rng(0)
    smooth = np.full((side, side, 3), 128.0)
    noise = rng.normal(size=(side, side, 1)) * np.linspace(0, 40, side)[:, None, None]
    (tmp_path / "hr").mkdir(), (tmp_path / "lr").mkdir()
    Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8)).save(tmp_path / "hr" / "a.png")
    Image.fromarray(smooth[::4, ::4].astype(np.uint8)).save(tmp_path / "lr" / "a.png")
    pairs, _ = load_pairs(tmp_path / "lr", tmp_path / "hr")
    scores, errors = patch_errors(_Sure(tiny), pairs)
    count = len(make_grid(32, 32, tiny.config.groups.latent_patch_size, tiny.config.groups.overlap))
    assert scores.shape == (count,) and errors.shape == (3, count)
    lines = confidence_lines(scores, errors)
    assert lines[0].startswith(f"{count} patches; confidence ")
    assert all(float(line.rsplit(" ", 1)[1]) > 0.8 for line in lines[1:])
    assert all(
        float(line.rsplit(" ", 1)[1]) < -0.8 for line in confidence_lines(-scores, errors)[1:]
    )


def test_confidence_by_command(model_folder, tmp_path, capsys):
    Image.effect_noise((256, 160), 60).convert("RGB").save(tmp_path / "a.png")
    where = [
        "--hr",
        str(tmp_path),
        "--degradation",
        "bicubic",
        "--model",
        str(model_folder),
        "--device",
        "cpu",
    ]
    assert main(["evaluate", "--confidence", *where]) == 0
    assert (
        "rank correlation of low confidence and error (pixels, squared): "
        in capsys.readouterr().out
    )
    assert (
        main(["evaluate", "--confidence", "--lr", str(tmp_path), "--model", str(model_folder)]) == 1
    )
    assert "give --hr" in capsys.readouterr().err


def test_too_few_patches():
    with pytest.raises(PatchScalerError, match="2 patches are too few"):
        confidence_lines(torch.ones(2), torch.ones(3, 2))
