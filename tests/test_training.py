"""The training commands, end to end at tiny size; a stage that is killed; pairs on disk."""

import csv
import dataclasses
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from patchscaler.apps.cli import main
from patchscaler.config import preset
from patchscaler.diffusion.schedule import Diffusion
from patchscaler.errors import PatchScalerError
from patchscaler.models.patch_dit import PatchDiT, TextureEncoder
from patchscaler.pipeline import PatchScaler
from patchscaler.training.coarse import rank_correlation
from patchscaler.training.data.shards import (
    PairShards,
    ShardConfig,
    _tiles,
    oriented,
    parse_mix,
    write_shards,
)
from patchscaler.training.data.sources import is_validation, iterate_images
from patchscaler.training.diffusion import DiffusionTrainer


def picture(seed: int, side: int = 256) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (side // 8, side // 8, 3), dtype=np.uint8)
    smooth = np.asarray(
        Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC), np.int16
    )
    return (smooth + rng.integers(-20, 20, (side, side, 3))).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Folders `train` and `textures` of pictures, shards made from them."""
    root = tmp_path_factory.mktemp("data")
    (root / "train").mkdir()
    for i in range(6):
        Image.fromarray(picture(i)).save(root / "train" / f"set_{i:06x}_01.png")
    for label in ("brick", "grass"):
        (root / "textures" / label).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(picture(10 + i, 160)).save(
                root / "textures" / label / f"t_{label}{i}_01.png"
            )
    config = ShardConfig(
        str(root / "train"), variants=2, mix=(("mild", 1.0), ("bicubic", 1.0)), reduced=0.0
    )
    for name in ("shards", "validation"):
        write_shards(root / name, config)
    return root


def run(*args: object) -> None:
    assert main([str(a) for a in args]) == 0


def test_every_stage_in_order_makes_a_model_that_upscales(data, tmp_path):
    model = tmp_path / "model"
    common = ("--model", model, "--preset", "tiny", "--no-bf16", "--device", "cpu")
    pairs = ("--shards", data / "shards", "--validation", data / "validation")
    limit = ("--steps", 2, "--batch-size", 2, "--log-every", 1)
    run("train", "autoencoder", *common, "--shards", data / "shards")
    run("train", "grm", *common, *pairs, *limit, "--lr-size", 32)
    run("train", "grm", *common, *pairs, *limit, "--lr-size", 32, "--head-only", "--eta", 0.2)
    run("train", "calibrate", *common, "--validation", data / "validation", "--least", 0.9)
    run("train", "classifier", *common, *limit, "--textures", data / "textures")
    memory = (
        "--model",
        model,
        "-o",
        model / "memory.safetensors",
        "--candidates",
        40,
        "--size",
        12,
    )
    run("memory", "build", data / "train", *memory)
    for split in ("shards", "validation"):
        run("train", "coarse", *common, "--shards", data / split, "--variants", 1)
    run("train", "diffusion", *common, *pairs, *limit)
    run("train", "teacher", "--shards", data / "shards", "--method", "lanczos")
    run("train", "few-step", *common, *pairs, *limit, "--lpips", 0, "--teacher", 0.5)
    scaler = PatchScaler.from_pretrained(model, device="cpu", dtype="float32")
    assert scaler.config.texture.classes == ("brick", "grass")
    g1, g2 = scaler.config.groups.thresholds
    assert 0 < g2 <= g1 <= 1
    assert scaler.config.groups.least_confidence == pytest.approx(0.9 * g1, abs=1e-5)
    result = scaler.upscale(picture(99, 64))
    assert result.image.size == (256, 256)
    assert sum(result.cost["patches"].values()) == 9


@pytest.mark.slow
def test_a_stage_killed_in_the_middle_goes_on_with_the_losses_of_a_whole_one(data, tmp_path):
    shards = tmp_path / "shards"
    write_shards(
        shards,
        ShardConfig(
            str(data / "train"), tile=128, variants=1, mix=(("bicubic", 1.0),), reduced=0.0
        ),
    )

    def command(model: Path) -> list[str]:
        common = [
            "--model",
            str(model),
            "--preset",
            "tiny",
            "--no-bf16",
            "--device",
            "cpu",
            "--shards",
            str(shards),
        ]
        limit = [
            "--steps",
            "12",
            "--batch-size",
            "2",
            "--lr-size",
            "16",
            "--log-every",
            "1",
            "--save-minutes",
            "0",
        ]
        return ["train", "grm", *common, "--validation", str(shards), *limit]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for model in (whole, killed):
        run("train", "autoencoder", "--model", model, "--preset", "tiny", "--shards", shards)
    log = killed / "training" / "grm" / "log.csv"
    process = subprocess.Popen(
        [sys.executable, "-m", "patchscaler", *command(killed)],
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        while not log.exists() or log.read_text().count("grm/l1_pixels") < 4:
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert not (killed / "grm.safetensors").exists()  # it was in the middle
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for model in (killed, whole):
            run(*command(model))
    finally:
        torch.set_num_threads(threads)
    rows = []
    for model in (killed, whole):
        with (model / "training" / "grm" / "log.csv").open() as file:
            rows.append({(step, name): float(value) for step, _, name, value in csv.reader(file)})
    assert len(rows[0]) == 12 * 4 + 4
    # Six digits are logged, of which the last may differ: sums in another order where memory lies
    # otherwise.
    assert rows[0] == pytest.approx(rows[1], rel=2e-5, abs=2e-6)


# --- Eq. 8 ----------------------------------------------------------------------------------------


def test_eq_8_is_the_mean_squared_error_of_the_predicted_noise():
    config_ = preset("tiny").patch_dit
    trainer = DiffusionTrainer(PatchDiT(config_, 8, 16), TextureEncoder(config_, 8, 16))
    diffusion = Diffusion(dataclasses.replace(preset("tiny").diffusion, prediction_type="epsilon"))
    x_0, y_0, noise = torch.randn(3, 2, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([100, 900])
    batch = {
        "x_t": diffusion.q_sample(x_0, t, noise),
        "t": t,
        "coarse": y_0,
        "values": None,
        "scores": None,
        "target": diffusion.target(x_0, noise, t, y_0),
    }
    loss, logs = trainer(batch)
    # A fresh network says zero, so the loss is the mean square of the noise; low and high times
    # apart.
    assert float(loss.detach()) == pytest.approx(float(noise.square().mean()), rel=1e-5)
    assert logs["low"] == pytest.approx(float(noise[0].square().mean()), rel=1e-5)
    assert logs["high"] == pytest.approx(float(noise[1].square().mean()), rel=1e-5)


# --- data -----------------------------------------------------------------------------------------


def test_shards_resume_and_refuse_other_settings(data, tmp_path):
    config_ = ShardConfig(
        str(data / "train"), variants=1, mix=(("bicubic", 1.0),), shard_size=2, reduced=0.0
    )
    n = write_shards(tmp_path / "s", config_)
    assert n == len(PairShards(tmp_path / "s"))
    first = (tmp_path / "s" / "0000_lr.npy").read_bytes()
    (tmp_path / "s" / "0000_hr.npy").unlink()
    assert write_shards(tmp_path / "s", config_) == 2
    assert (tmp_path / "s" / "0000_lr.npy").read_bytes() == first
    with pytest.raises(PatchScalerError, match="other settings"):
        write_shards(tmp_path / "s", dataclasses.replace(config_, seed=9))


def test_pairs_are_aligned(data, tmp_path):
    config_ = ShardConfig(str(data / "train"), variants=1, mix=(("bicubic", 1.0),), reduced=0.0)
    write_shards(tmp_path / "s", config_)
    lr, hr = PairShards(tmp_path / "s").sample(8, 16, np.random.default_rng(0))
    assert lr.shape == (8, 3, 16, 16) and hr.shape == (8, 3, 64, 64)
    small = nn.functional.interpolate(hr, scale_factor=0.25, mode="bicubic", antialias=True)
    # the border of a crop sees other pixels
    inner = (slice(None), slice(None), slice(4, 12), slice(4, 12))
    assert float((small[inner] - lr[inner]).abs().mean()) < 0.01


def test_a_share_of_the_pictures_is_used_smaller_too(tmp_path):
    for i in range(8):
        Image.fromarray(picture(i, 200)).save(tmp_path / f"set_{i:06x}_01.png")

    def tiles(**changes) -> list[np.ndarray]:
        return list(_tiles(ShardConfig(str(tmp_path), tile=64, **changes), validation=False))

    plain, some, all_ = tiles(reduced=0.0), tiles(reduced=0.5), tiles(reduced=1.0)
    assert len(plain) == 8 * 9  # a grid over 200 pixels
    assert len(plain) < len(some) < len(all_) <= 2 * len(plain)
    assert len(all_) - len(plain) >= 8  # at least one tile of each
    assert [t.tobytes() for t in some] == [t.tobytes() for t in tiles(reduced=0.5)]  # seeded
    assert {t.tobytes() for t in plain} <= {t.tobytes() for t in all_}
    # A picture of one tile has no smaller one.
    assert (
        len(list(_tiles(ShardConfig(str(tmp_path), tile=200, reduced=1.0), validation=False))) == 8
    )


def test_a_corrupt_picture_is_skipped_and_named(tmp_path):
    Image.fromarray(picture(0, 32)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG broken")
    with pytest.warns(UserWarning, match=r"skipped bad\.png"):
        assert [name for name, _ in iterate_images(tmp_path)] == ["good.png"]


def test_tar_shards_are_read(tmp_path):
    import tarfile

    Image.fromarray(picture(0, 32)).save(tmp_path / "a.png")
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(tmp_path / "a.png", "in/a.png")
    names = [name for name, _ in iterate_images(tmp_path / "set.tar")]
    assert names == ["set.tar/in/a.png"]


def test_tiles_of_one_picture_stay_on_one_side_of_the_split():
    sides = {is_validation(f"src_abc{i // 5:03d}_{i % 5:02d}.webp", 0.3) for i in range(5)}
    assert len(sides) == 1
    share = np.mean([is_validation(f"src_{i:06x}_01.webp", 0.3) for i in range(2000)])
    assert share == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize(
    ("mix", "message"), [("fog:1", "unknown degradation 'fog'"), ("mild:x", "is no number")]
)
def test_bad_mixes(mix, message):
    with pytest.raises(PatchScalerError, match=message):
        parse_mix(mix)


def test_missing_data_is_named(tmp_path):
    with pytest.raises(PatchScalerError, match="no shards here"):
        PairShards(tmp_path)
    with pytest.raises(PatchScalerError, match="holds no pictures"):
        list(iterate_images(tmp_path))
    with pytest.raises(PatchScalerError, match="no such folder"):
        list(iterate_images(tmp_path / "nowhere"))


def test_rank_correlation_by_hand():
    a = torch.tensor([0.1, 0.5, 0.3, 0.9])
    assert rank_correlation(a, a**3) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    # ranks 0 2 1 3 against 1 0 2 3: 1 - 6 * (1 + 4 + 1 + 0) / (4 * 15)
    assert rank_correlation(a, torch.tensor([2.0, 1.0, 3.0, 4.0])) == pytest.approx(0.4)


# --- several processes ----------------------------------------------------------------------------


@pytest.mark.skipif(
    importlib.util.find_spec("accelerate") is None, reason="several devices need accelerate"
)
def test_two_processes_train_together(data, tmp_path):
    model = tmp_path / "model"
    common = ["--model", str(model), "--preset", "tiny", "--no-bf16", "--device", "cpu"]
    run("train", "autoencoder", *common, "--shards", data / "shards")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
    ]
    command += ["patchscaler", "train", "grm", *common, "--shards", str(data / "shards")]
    command += [
        "--validation",
        str(data / "validation"),
        "--steps",
        "2",
        "--batch-size",
        "2",
        "--lr-size",
        "32",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (model / "grm.safetensors").is_file()
    assert done.stdout.count("val/psnr ") == 1  # one process reports


def test_labelled_textures_from_folders_and_from_a_tar(data, tmp_path):
    import tarfile

    from patchscaler.training.texture import LabelledTextures

    with tarfile.open(tmp_path / "textures.tar", "w") as tar:
        tar.add(data / "textures", "textures")
    for source in (data / "textures", tmp_path / "textures.tar"):
        textures = LabelledTextures(source)
        assert textures.classes == ("brick", "grass")
        assert len(textures.train) + len(textures.validation) == 8
    assert len(LabelledTextures(data / "textures", "t_brick0").train) < 8
    with pytest.raises(PatchScalerError, match="at least two sub-folders"):
        LabelledTextures(data / "textures" / "brick")


def test_the_eight_orientations_differ_and_keep_the_pixels():
    picture_ = np.arange(27).reshape(3, 3, 3)
    ways = {oriented(picture_, way).tobytes() for way in range(8)}
    assert len(ways) == 8
    assert all(sorted(oriented(picture_, way).ravel()) == list(range(27)) for way in range(8))
    assert np.array_equal(oriented(picture_, 4)[0], picture_[..., 0].T)
