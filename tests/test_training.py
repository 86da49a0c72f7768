"""The training commands, end to end at tiny size, and the loop's promises: resume, NaN, full disk."""

import csv
import dataclasses
import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from patchscaler.cli import main
from patchscaler.config import preset
from patchscaler.data.shards import PairShards, ShardConfig, _tiles, oriented, parse_mix, write_shards
from patchscaler.data.sources import is_validation, iterate_images
from patchscaler.diffusion import Diffusion
from patchscaler.errors import PatchScalerError
from patchscaler.models.patch_dit import PatchDiT, TextureEncoder
from patchscaler.pipeline import PatchScaler
from patchscaler.training import loop
from patchscaler.training.coarse import rank_correlation
from patchscaler.training.diffusion import DiffusionTrainer
from patchscaler.training.loop import LoopConfig, train
from patchscaler.training.optim import EMA, build_optimizers, rate_factor


def picture(seed: int, side: int = 256) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (side // 8, side // 8, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC), np.int16)
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
            Image.fromarray(picture(10 + i, 160)).save(root / "textures" / label / f"t_{label}{i}_01.png")
    config = ShardConfig(str(root / "train"), variants=2, mix=(("mild", 1.0), ("bicubic", 1.0)), reduced=0.0)
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
    memory = ("--model", model, "-o", model / "memory.safetensors", "--candidates", 40, "--size", 12)
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


# --- the loop -------------------------------------------------------------------------------------


class Line(nn.Module):
    """y = w x, fitted to y = 3 x."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, batch):
        loss = (self.w * batch["x"] - 3 * batch["x"]).square().mean() * batch.get("poison", 1.0)
        return loss, {"loss": float(loss.detach())}


class LineStage:
    def __init__(self, poison_at: int = -1) -> None:
        self.trainables: dict[str, nn.Module] = {"line": Line()}
        self.poison_at, self.count = poison_at, 0

    def batch(self, rng, generator):
        self.count += 1
        poison = float("nan") if self.count == self.poison_at else 1.0
        return {"x": torch.from_numpy(rng.standard_normal(8)).float(), "poison": poison}

    def validate(self, model):
        return {"w": model.w.item()}

    def pictures(self, model):
        return [[torch.full((3, 2, 2), -1.0), torch.full((3, 2, 2), 1.0)]]

    def save(self, model, folder):
        (folder / "line.txt").write_text(f"{model.w.item()}")


def config(out: Path, **changes) -> LoopConfig:
    return LoopConfig(
        **(
            {"out": str(out), "steps": 20, "lr": 0.1, "warmup": 1, "decay": 0.0, "bf16": False, "log_every": 1}
            | changes
        )
    )


def losses(out: Path) -> list[str]:
    with (out / "log.csv").open() as file:
        return [row[3] for row in csv.reader(file) if row[2] == "line/loss"]


def test_it_learns_and_saves_the_average(tmp_path):
    result = train(LineStage(), config(tmp_path, steps=200, ema=0.9), tmp_path)
    assert result["w"] == pytest.approx(3, abs=0.05)
    assert float((tmp_path / "line.txt").read_text()) == result["w"]
    sheet = np.asarray(Image.open(tmp_path / "validation.png"))
    assert sheet.shape == (2, 4, 3) and sheet[0, 0, 0] == 0 and sheet[0, 3, 0] == 255


def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(tmp_path):
    train(LineStage(), config(tmp_path / "whole"), tmp_path)
    train(LineStage(), config(tmp_path / "parts", steps=9), tmp_path)
    train(LineStage(), config(tmp_path / "parts"), tmp_path)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_a_resumed_run_takes_todays_rate(tmp_path):
    train(LineStage(), config(tmp_path, steps=3), tmp_path)
    before = float((tmp_path / "line.txt").read_text())
    train(LineStage(), config(tmp_path, steps=6, lr=0.0), tmp_path)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 6
    assert float(state["models"]["line"]["w"]) == pytest.approx(
        0.1 * 3, abs=0.02
    )  # Adam moved .1 a step, three times only
    assert before < float((tmp_path / "line.txt").read_text())  # the average follows


def test_nan_stops_with_step_and_cause(tmp_path):
    with pytest.raises(PatchScalerError, match=r"line: the loss is not finite at step 4 \(loss nan\)"):
        train(LineStage(poison_at=5), config(tmp_path), tmp_path)


def test_a_full_disk_keeps_the_earlier_checkpoint(tmp_path, monkeypatch):
    train(LineStage(), config(tmp_path, steps=3), tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(state, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop.torch, "save", full)
    with pytest.raises(PatchScalerError, match="No space left"):
        train(LineStage(), config(tmp_path, steps=5), tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert not (tmp_path / "checkpoint.tmp").exists()


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    train(LineStage(), config(tmp_path, steps=2), tmp_path)
    other = LineStage()
    other.trainables = {"line": nn.Linear(1, 1)}
    with pytest.raises(PatchScalerError, match=f"another network or optimiser .*: move {tmp_path} away"):
        train(other, config(tmp_path, steps=4), tmp_path)


def test_a_log_that_cannot_be_written_costs_nothing_but_itself(tmp_path, capsys):
    if not Path("/dev/full").exists():
        pytest.skip("a device that is always full")
    for name in ("log.csv", "validation.tmp.png"):
        (tmp_path / name).symlink_to("/dev/full")
    result = train(LineStage(), config(tmp_path, steps=3), tmp_path)
    assert result and (tmp_path / "line.txt").exists() and (tmp_path / "checkpoint.pt").exists()
    said = capsys.readouterr().out
    assert "log.csv not written (No space left on device); training goes on" in said
    assert "validation.png not written (No space left on device)" in said


def test_half_a_line_of_the_log_is_taken_back(tmp_path, monkeypatch):
    loop._log(tmp_path, None, 1, 1.0, 0.0, {"loss": 0.5})
    before = (tmp_path / "log.csv").read_bytes()
    real = Path.open

    class Full:
        """A file that takes three more bytes."""

        def __init__(self, file):
            self.file, self.tell, self.truncate = file, file.tell, file.truncate

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data):
            return self.file.write(data[:3])

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *args, **kwargs: Full(real(*args, **kwargs)))
        loop._log(tmp_path, None, 2, 2.0, 0.0, {"loss": 0.25})
    assert (tmp_path / "log.csv").read_bytes() == before


def test_a_resume_forgets_what_was_logged_after_the_checkpoint(tmp_path):
    train(LineStage(), config(tmp_path, steps=4), tmp_path)
    with (tmp_path / "log.csv").open("a") as file:
        file.write("5,0.1,line/loss,99\n6,0.1,line/lo")  # a kill in the middle of a line
    train(LineStage(), config(tmp_path, steps=6), tmp_path)
    train(LineStage(), config(tmp_path / "whole", steps=6), tmp_path)
    assert losses(tmp_path) == losses(tmp_path / "whole")


def test_means_of_the_log_reach_across_a_resume(tmp_path):
    train(LineStage(), config(tmp_path / "whole", steps=8, log_every=4), tmp_path)
    for steps in (3, 8):
        train(LineStage(), config(tmp_path / "parts", steps=steps, log_every=4), tmp_path)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 2


def test_minutes_are_kept_to_and_waiting_is_told(tmp_path, capsys):
    class Slow(LineStage):
        def batch(self, rng, generator):
            time.sleep(0.02)
            return super().batch(rng, generator)

    began = time.monotonic()
    train(Slow(), config(tmp_path, steps=0, minutes=0.01, log_every=5), tmp_path)
    assert 0.6 <= time.monotonic() - began < 3
    share = re.findall(r"min, ([\d.]+)% waiting for data", capsys.readouterr().out)
    assert len(share) > 1 and 20 < float(share[-1]) <= 100
    began = time.monotonic()
    assert train(Slow(), config(tmp_path, steps=0, minutes=0.01), tmp_path) == {}
    assert time.monotonic() - began < 0.5  # its minutes are used up


def test_a_deadline_keeps_the_checkpoint_and_writes_no_network(tmp_path):
    watch = loop.Watch(deadline=time.monotonic() + 0.3)
    with loop.watched(watch):
        assert train(LineStage(), config(tmp_path, steps=10**9), tmp_path) == {}
    assert watch.out_of_time and watch.parameters == 1 and watch.minutes > 0
    assert (tmp_path / "checkpoint.pt").exists() and not (tmp_path / "line.txt").exists()
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert train(LineStage(), config(tmp_path, steps=state["step"] + 1), tmp_path)


@pytest.mark.slow
def test_a_stage_killed_in_the_middle_goes_on_with_the_losses_of_a_whole_one(data, tmp_path):
    shards = tmp_path / "shards"
    write_shards(shards, ShardConfig(str(data / "train"), tile=128, variants=1, mix=(("bicubic", 1.0),), reduced=0.0))

    def command(model: Path) -> list[str]:
        common = ["--model", str(model), "--preset", "tiny", "--no-bf16", "--device", "cpu", "--shards", str(shards)]
        limit = ["--steps", "12", "--batch-size", "2", "--lr-size", "16", "--log-every", "1", "--save-minutes", "0"]
        return ["train", "grm", *common, "--validation", str(shards), *limit]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for model in (whole, killed):
        run("train", "autoencoder", "--model", model, "--preset", "tiny", "--shards", shards)
    log = killed / "training" / "grm" / "log.csv"
    process = subprocess.Popen(
        [sys.executable, "-m", "patchscaler", *command(killed)],
        stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
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
    # Six digits are logged, of which the last may differ: sums in another order where memory lies otherwise.
    assert rows[0] == pytest.approx(rows[1], rel=2e-5, abs=2e-6)


def test_a_run_needs_a_limit(tmp_path):
    with pytest.raises(PatchScalerError, match="--steps or --minutes"):
        train(LineStage(), config(tmp_path, steps=0), tmp_path)


def test_rate_rises_stays_and_falls():
    assert rate_factor(0, 0.0, warmup=10) == pytest.approx(0.1)
    assert rate_factor(50, 0.5, warmup=10, decay=0.3) == 1.0
    assert rate_factor(50, 0.85, warmup=10, decay=0.3) == pytest.approx(0.5)
    assert rate_factor(50, 1.0, warmup=10, decay=0.3) == pytest.approx(0.01)


def test_ema_is_the_average():
    line = Line()
    ema = EMA(line, decay=0.5)
    line.w.data.fill_(1.0)
    ema.update(line, step=1000)
    assert float(ema.state_dict()["w"]) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_every_optimizer_takes_a_step(name):
    torch.manual_seed(0)
    dit = PatchDiT(preset("tiny").patch_dit, 8, 16)
    optimizers = build_optimizers(name, dit, 1e-2)
    before = [p.detach().clone() for p in dit.parameters()]
    for p in dit.parameters():
        p.grad = torch.randn_like(p)
    for optimizer in optimizers:
        optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, dit.parameters(), strict=True))


def test_a_trained_drawer_may_learn_more_slowly():
    network = torch.nn.ModuleDict({"patch_dit": Line(), "drawer": Line()})
    (optimizer,) = build_optimizers("adamw", network, 1e-2, drawer_rate=0.1)
    rates = {id(p): group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == sum(1 for _ in network.parameters())
    for name, parameter in network.named_parameters():
        assert rates[id(parameter)] == pytest.approx(1e-3 if name.startswith("drawer.") else 1e-2)


def test_unknown_optimizer():
    with pytest.raises(PatchScalerError, match="unknown optimiser 'sgd'"):
        build_optimizers("sgd", Line(), 1e-2)


# --- Eq. 8 ----------------------------------------------------------------------------------------


def test_eq_8_is_the_mean_squared_error_of_the_predicted_noise():
    config_ = preset("tiny").patch_dit
    trainer = DiffusionTrainer(PatchDiT(config_, 8, 16), TextureEncoder(config_, 8, 16))
    diffusion = Diffusion(dataclasses.replace(preset("tiny").diffusion, prediction_type="epsilon"))
    x_0, y_0, noise = torch.randn(3, 2, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([100, 900])
    batch = {
        "x_t": diffusion.q_sample(x_0, t, noise), "t": t, "coarse": y_0, "values": None, "scores": None,
        "target": diffusion.target(x_0, noise, t, y_0),
    }  # fmt: skip
    loss, logs = trainer(batch)
    # A fresh network says zero, so the loss is the mean square of the noise; low and high times apart.
    assert float(loss.detach()) == pytest.approx(float(noise.square().mean()), rel=1e-5)
    assert logs["low"] == pytest.approx(float(noise[0].square().mean()), rel=1e-5)
    assert logs["high"] == pytest.approx(float(noise[1].square().mean()), rel=1e-5)


# --- data -----------------------------------------------------------------------------------------


def test_shards_resume_and_refuse_other_settings(data, tmp_path):
    config_ = ShardConfig(str(data / "train"), variants=1, mix=(("bicubic", 1.0),), shard_size=2, reduced=0.0)
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
    inner = (slice(None), slice(None), slice(4, 12), slice(4, 12))  # the border of a crop sees other pixels
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
    assert len(list(_tiles(ShardConfig(str(tmp_path), tile=200, reduced=1.0), validation=False))) == 8


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


@pytest.mark.parametrize(("mix", "message"), [("fog:1", "unknown degradation 'fog'"), ("mild:x", "is no number")])
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


@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="several devices need accelerate")
def test_two_processes_train_together(data, tmp_path):
    model = tmp_path / "model"
    common = ["--model", str(model), "--preset", "tiny", "--no-bf16", "--device", "cpu"]
    run("train", "autoencoder", *common, "--shards", data / "shards")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["patchscaler", "train", "grm", *common, "--shards", str(data / "shards")]
    command += ["--validation", str(data / "validation"), "--steps", "2", "--batch-size", "2", "--lr-size", "32"]
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
