"""scripts/train_paper.sh against the paper's settings (4.1), field by field; both scripts parse."""

import argparse
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from patchscaler.apps.cli import memory, train
from patchscaler.config import GROUP_NAMES, preset
from patchscaler.training.data.shards import parse_mix

ROOT = Path(__file__).parents[2]

# What the paper says (4.1 and 3.3), by command. `None` stands for "not given".
FIXED_RATE = {"optimizer": "adam", "lr": 5e-5, "warmup": 0, "decay": 0, "batch_size": 6}
PAPER = {
    "train shards": {"mix": "real", "reduced": 0},  # Real-ESRGAN's degradation alone
    "train grm": FIXED_RATE | {"preset": "paper", "steps": 50_000, "eta": None, "minutes": 0},
    "train calibrate": {"keep_thresholds": True, "least": 0},
    "train classifier": FIXED_RATE | {"steps": 50_000, "dtd_split": 1, "minutes": 0},
    "memory build": {"candidates": 20_000, "size": 2_000, "include": ""},
    "train diffusion": FIXED_RATE
    | {
        "steps": 500_000,
        "minutes": 0,
        "whole_images": True,  # a batch of six images, all their patches
        "low_times": 0,  # t uniform
        "from_coarse": 0,  # x_t from x_0 alone
        "prompt": "texture",
    },
}


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser()
    commands = found.add_subparsers(dest="command")
    train.add_parser(commands)
    memory.add_parsers(commands)
    return found


def commands_of(script: str, *arguments: str) -> list[argparse.Namespace]:
    """Run a script whose commands only print themselves, and parse what they print."""
    out = subprocess.run(
        ["sh", str(ROOT / "scripts" / script), *arguments],
        env={"PATCHSCALER": "echo", "LAUNCH": "echo", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [parser().parse_args(shlex.split(line)) for line in out.splitlines()]


def name_of(args: argparse.Namespace) -> str:
    return f"{args.command} {args.stage if args.command == 'train' else args.kind}"


@pytest.fixture(scope="module")
def paper() -> list[argparse.Namespace]:
    return commands_of("train_paper.sh", "model", "lsdir", "dtd", "textures", "data")


def test_the_papers_stages_in_order(paper):
    assert [name_of(args) for args in paper] == [
        "train shards",
        "train shards",
        "train grm",
        "train calibrate",
        "train classifier",
        "memory build",
        "train diffusion",
    ]


@pytest.mark.parametrize("name", list(PAPER))
def test_its_settings_are_the_papers(paper, name):
    for args in paper:
        if name_of(args) == name:
            found = {field: getattr(args, field) for field in PAPER[name]}
            assert found == PAPER[name]


def test_its_data_are_the_papers(paper):
    shards, validation, grm, _, classifier, build, diffusion = paper
    assert parse_mix(shards.mix) == (("real", 1.0),)
    assert (shards.images, validation.images) == ("lsdir/train", "lsdir/val")
    assert (shards.held_out, validation.held_out) == (0, 1)  # LSDIR's own partition
    assert classifier.textures == "dtd" and build.images == ["textures"]
    assert (grm.shards, diffusion.shards) == ("data/train", "data/train")
    assert shards.tile == 4 * grm.lr_size  # whole images


def test_the_papers_preset_is_what_it_infers_with():
    config = preset("paper")
    groups = config.groups
    assert groups.latent_patch_size == 16 and groups.overlap == 8
    assert groups.thresholds == (0.95, 0.75) and groups.least_confidence == 0
    assert dict(zip(GROUP_NAMES, groups.start_times, strict=True)) == {
        "simple": 400,
        "medium": 700,
        "hard": 1000,
    }
    assert groups.num_inference_steps == (8, 14, 20)
    assert (config.autoencoder.channels, config.autoencoder.factor) == (4, 8)
    assert config.diffusion.prediction_type == "epsilon"
    assert config.texture.kind == "latents"
    assert (config.texture.candidates, config.texture.memory_size) == (20_000, 2_000)


def test_every_departure_names_an_option_that_there_is():
    """The table of docs/training.md: what the paper has, what is done here, why, and the option."""
    text = (ROOT / "docs" / "training.md").read_text()
    table = text[text.index("### Where it departs") :]
    rows = [row for row in table.splitlines() if row.startswith("| `")]
    assert len(rows) >= 6
    known = parser()
    stages = known._subparsers._group_actions[0].choices["train"]._subparsers._group_actions[0]
    for row in rows:
        stage, *_, option = (cell.strip() for cell in row.strip("|").split("|"))
        for name in re.findall(r"--[a-z-]+", option):
            assert name in stages.choices[stage.strip("`")]._option_string_actions, row


def test_the_compact_script_parses():
    names = [name_of(args) for args in commands_of("train_compact.sh", "model", "images", "data")]
    assert names[0] == "train shards" and names[-1] == "train early-exit"
    found = commands_of("train_compact.sh", "m", "i", "d", "start.safetensors")
    first = next(args for args in found if name_of(args) == "train grm")
    assert first.init == "start.safetensors"
