"""The training loop's promises: resume, NaN, full disk, time; rates, averages, optimizers."""

import csv
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from patchscaler.config import preset
from patchscaler.errors import PatchScalerError
from patchscaler.models.patch_dit import PatchDiT
from patchscaler.training import loop
from patchscaler.training.loop import LoopConfig, train
from patchscaler.training.optim import EMA, build_optimizers, rate_factor


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

    def samples(self, model):
        return [[torch.full((3, 2, 2), -1.0), torch.full((3, 2, 2), 1.0)]]

    def save(self, model, folder):
        (folder / "line.txt").write_text(f"{model.w.item()}")


def config(out: Path, **changes) -> LoopConfig:
    return LoopConfig(
        **(
            {
                "out": str(out),
                "steps": 20,
                "lr": 0.1,
                "warmup": 1,
                "decay": 0.0,
                "bf16": False,
                "log_every": 1,
            }
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
    with pytest.raises(
        PatchScalerError, match=r"line: the loss is not finite at step 4 \(loss nan\)"
    ):
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
    with pytest.raises(
        PatchScalerError, match=f"another network or optimizer .*move {tmp_path} away"
    ):
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


def test_unknown_optimizer():
    with pytest.raises(PatchScalerError, match="unknown optimizer 'sgd'"):
        build_optimizers("sgd", Line(), 1e-2)
