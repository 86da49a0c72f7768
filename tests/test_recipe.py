"""Recipes: what a line may say, what is done and what is left, and the dry run."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from patchscaler.apps.cli import main, memory, train
from patchscaler.config import preset
from patchscaler.errors import PatchScalerError
from patchscaler.training import dry_run as dry
from patchscaler.training.dry_run import dry_run, made_up
from patchscaler.training.recipe import RECIPES, LineParser, Log, Recipe, run_recipe

# The first stages at tiny size; bicubic alone is degraded in no time.
TINY = """
# a comment, and an empty line

train shards --images {images} --shards {data}/train --tile 128 --variants 1 --mix bicubic:1
train autoencoder --model {model} --preset tiny --shards {data}/train  # and here
train classifier --model {model} --textures {textures} --steps 2 --batch-size 2 --no-bf16
train grm --model {model} --shards {data}/train --validation {data}/train --steps 2 \\
    --batch-size 2 --lr-size 32 --no-bf16
train grm --model {model} --shards {data}/train --validation {data}/train --steps 2 \\
    --head-only --eta {eta} --batch-size 2 --lr-size 32 --no-bf16
"""


@pytest.fixture
def parser() -> LineParser:
    parser = LineParser(prog="patchscaler", add_help=False)
    commands = parser.add_subparsers(dest="command", required=True)
    train.add_parser(commands)
    memory.add_parsers(commands)
    return parser


@pytest.fixture
def made(tmp_path, parser):
    """text -> a recipe of it, in a folder of its own, with made-up pictures."""
    images, textures = made_up(tmp_path)

    def make(text: str, **options) -> Recipe:
        (tmp_path / "mine.txt").write_text(text)
        places = {
            "model": tmp_path / "model",
            "data": tmp_path / "data",
            "images": images,
            "textures": textures,
        }
        places |= options.pop("places", {})
        given = {name: str(path) for name, path in places.items() if path}
        return Recipe(str(tmp_path / "mine.txt"), given, parser, {"device": "cpu"}, **options)

    return make


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "train grm --model {models}",
            r"line 3: unknown placeholder \{models\}: choose from \{model\}",
        ),
        (
            "train graft --model {model} --esrgan {esrgan}",
            r"line 3: \{esrgan\} is wanted: add --esrgan",
        ),
        ("train grm --model {model}", "line 3: the following arguments are required: --shards"),
        ("train blur --model {model}", "line 3: .*invalid choice: 'blur'"),
        (
            "train grm --model {model} --shards a --validation b --lr fast",
            "line 3: .*invalid float value: 'fast'",
        ),
        (
            "upscale photo.jpg",
            "line 3: 'upscale photo.jpg': a line is 'train STAGE ...' or 'memory build ...'",
        ),
        ("memory info x", "line 3: 'memory info'"),
        ("train recipe paper", "line 3: 'train recipe'"),
        ("train", "line 3: 'train': a line is"),
        ("train grm --model 'a b", "line 3: No closing quotation"),
        ("train grm --help", "line 3: not a command that trains"),
        ("with esrgan train graft", "line 3: 'with esrgan': write 'with esrgan: train ...'"),
        ("without:", "line 3: 'without:': a line is|line 3: 'without:'"),
    ],
)
def test_bad_lines_are_found_before_anything_runs(made, tmp_path, line, message):
    with pytest.raises(PatchScalerError, match=message):
        made(f"# first\ntrain autoencoder --model {{model}} --shards {{data}}\n{line}")
    assert not (tmp_path / "model").exists()


def test_conditions_take_their_lines_or_leave_them_out(made):
    text = (
        "with esrgan: train graft --model {model} --esrgan {esrgan}\nwithout esrgan: train "
        "autoencoder --model x "
    )
    text += "--shards y"
    recipe = made(text)
    assert [line.name for line in recipe.lines] == ["train autoencoder"]
    assert recipe.left_out == ["train graft (with --esrgan only)"]
    recipe = made(text, places={"esrgan": "a file.safetensors"})
    # one word, whatever it holds
    assert recipe.arguments(recipe.lines[0]).esrgan == "a file.safetensors"
    assert recipe.left_out == ["train autoencoder (without --esrgan only)"]


def test_scale_and_shared_options(made):
    recipe = made(
        "train grm --model {model} --shards a --validation b --steps 100 --minutes 30", scale=0.25
    )
    args = recipe.arguments(recipe.lines[0])
    assert (args.steps, args.minutes, args.device, args.lr) == (25, 7.5, "cpu", 3e-4)
    assert recipe.key(recipe.lines[0]).startswith("train grm --model {model} --shards a")
    recipe = made(
        "train grm --model {model} --shards a --validation b --device mps --steps 1", scale=0.25
    )
    assert recipe.arguments(recipe.lines[0]).device == "mps"
    assert recipe.arguments(recipe.lines[0]).steps == 1
    with pytest.raises(PatchScalerError, match="--scale 0"):
        made("train autoencoder --model x --shards y", scale=0)


def test_unknown_and_empty_recipes(parser, made, tmp_path):
    with pytest.raises(
        PatchScalerError, match="unknown recipe 'nice': choose compact or paper, or name a file"
    ):
        Recipe("nice", {}, parser, {})
    with pytest.raises(PatchScalerError, match="no command in it"):
        made("# nothing\n")
    with pytest.raises(PatchScalerError, match="not a text file"):
        Recipe(str(tmp_path), {}, parser, {})


def test_it_runs_in_order_says_where_and_does_nothing_twice(made, tmp_path, capsys):
    assert run_recipe(made(TINY))
    said = capsys.readouterr().out
    assert [f"[{i}/5] train" in said for i in range(1, 6)] == [True] * 5
    assert re.search(r"7 train grm +\d+\.\d +\d+\.\d%", said)  # minutes and share of waiting
    assert re.search(r"4 train shards +\d+\.\d +-", said)
    median = float(re.search(r"val/median_error ([\d.]+)", said)[1])
    (eta,) = {args.eta for args in [made(TINY).arguments(made(TINY).lines[-1])]}
    assert eta == pytest.approx(1.25 * median, abs=1e-3)
    files = {
        p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and p.name != "mine.txt"
    }
    assert run_recipe(made(TINY))
    assert files == {p: p.stat().st_mtime_ns for p in files}
    assert "[1/5]" not in capsys.readouterr().out
    # Another line at the end runs, another one in the place of a finished one does not.
    assert run_recipe(made(TINY + "train calibrate --model {model} --validation {data}/train\n"))
    assert "[6/6] train calibrate" in capsys.readouterr().out
    with pytest.raises(
        PatchScalerError, match=r"line 6: .*recipe\.log says .* was done in its place"
    ):
        run_recipe(made(TINY.replace("--steps 2", "--steps 3")))


def test_an_interrupted_one_goes_on(made, tmp_path, monkeypatch, capsys):
    from patchscaler.training import commands

    def broken(args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(commands, "classifier", broken)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(made(TINY))
    assert [d.key.split()[1] for d in Log(str(tmp_path / "model")).read()] == [
        "shards",
        "autoencoder",
    ]
    capsys.readouterr()
    assert run_recipe(made(TINY))
    assert "[2/5]" not in (said := capsys.readouterr().out) and "[3/5]" in said


def test_the_time_of_the_whole_run_is_kept_to(made, tmp_path, capsys):
    text = TINY.replace("--steps 2 \\\n    --batch", "--minutes 60 --batch")
    prepared = "".join(text.splitlines(keepends=True)[:6])
    assert run_recipe(made(prepared))
    assert not run_recipe(made(text), minutes=0.05)
    said = capsys.readouterr().out
    assert "time is up in [4/5] train grm" in said and "the same command goes on" in said
    assert (tmp_path / "model" / "training" / "grm" / "checkpoint.pt").exists()
    assert not (tmp_path / "model" / "grm.safetensors").exists()
    assert len(Log(str(tmp_path / "model")).read()) == 3
    assert not run_recipe(made(text), minutes=1e-9)
    assert "resumed" in capsys.readouterr().out


def test_errors_of_a_stage_name_the_line(made):
    with pytest.raises(PatchScalerError, match=r"line 1: .*no such folder of pictures"):
        run_recipe(made("train shards --images {images}/nowhere --shards {data}"))


def test_a_broken_log_is_named(made, tmp_path):
    (tmp_path / "model" / "training").mkdir(parents=True)
    (tmp_path / "model" / "training" / "recipe.log").write_text("hello\n")
    with pytest.raises(PatchScalerError, match=r"recipe\.log: 'hello' is no line of it"):
        run_recipe(made(TINY))


@pytest.mark.parametrize("name", ["compact", "paper"])
@pytest.mark.parametrize("esrgan", [None, "x4plus.safetensors"])
def test_shipped_recipes_are_understood_and_are_what_the_documentation_says(parser, name, esrgan):
    places = {"model": "model", "data": "data", "images": "PICTURES", "textures": "TEXTURES"}
    recipe = Recipe(name, places | ({"esrgan": esrgan} if esrgan else {}), parser, {})
    first = [line for line in recipe.lines if "--preset" in line.words]
    assert [line.words[line.words.index("--preset") + 1] for line in first] == [name]
    stages = [
        args.stage
        for line in recipe.lines
        if "stage" in (args := recipe.arguments(line, eta="0.1"))
    ]
    assert ("refining" in stages) == (name == "compact" and esrgan is not None)
    if name == "paper":
        steps = {
            args.stage: args.steps
            for line in recipe.lines
            if (args := recipe.arguments(line)) and "steps" in args
        }
        assert steps == {"grm": 50_000, "classifier": 50_000, "diffusion": 500_000}
        assert preset(name).patch_dit.hidden_size == 768
    docs = (Path(__file__).parents[1] / "docs" / "training.md").read_text()
    for text in (RECIPES / f"{name}.txt").read_text().splitlines():
        if text and not text.startswith("#"):
            assert f"    {text}\n" in docs, f"docs/training.md does not have the line '{text}'"


@pytest.mark.slow
def test_the_dry_run_tries_each_stage_and_leaves_nothing(parser, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(dry.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "mine.txt").write_text(TINY.replace("--steps 2 --batch", "--minutes 900 --batch"))
    tried = dry_run(str(tmp_path / "mine.txt"), None, parser, {"device": "cpu"})
    assert [t.name.split()[1] for t in tried] == [
        "shards",
        "autoencoder",
        "classifier",
        "grm",
        "grm",
    ]
    assert [t.parameters is None for t in tried] == [True, True, False, False, False]
    assert tried[4].parameters < tried[3].parameters  # the head alone
    assert all(t.peak > 50 and t.seconds < 60 for t in tried)
    assert re.search(r"7 train grm +0\.\d\d M +\d+\.\d +\d\.\d\d GiB", capsys.readouterr().out)
    assert not list((tmp_path / "temporary").glob("patchscaler-*"))


def test_the_dry_run_names_the_line_that_fails(parser, tmp_path):
    (tmp_path / "mine.txt").write_text("train calibrate --model {model} --validation {data}")
    with pytest.raises(PatchScalerError, match=r"line 1: .*grm\.safetensors is missing"):
        dry_run(str(tmp_path / "mine.txt"), None, parser, {"device": "cpu"})


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("accelerate") is None, reason="several devices need accelerate"
)
def test_two_processes_run_a_recipe_together(tmp_path):
    images, _ = made_up(tmp_path)
    lines = [
        x
        for x in TINY.replace("\\\n", "").splitlines()
        if "classifier" not in x and "{eta}" not in x
    ]
    lines += ["train calibrate --model {model} --validation {data}/train"]
    (tmp_path / "mine.txt").write_text("\n".join(lines))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
    ]
    command += [
        "patchscaler",
        "train",
        "recipe",
        str(tmp_path / "mine.txt"),
        "--images",
        str(images),
    ]
    command += ["--model", str(tmp_path / "model"), "--device", "cpu", "--minutes", "30"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    # one process speaks
    assert [done.stdout.count(f"[{i}/4] train") for i in range(1, 5)] == [1] * 4
    assert len(Log(str(tmp_path / "model")).read()) == 4
    assert done.stdout.count("thresholds") == 1


def test_the_command(tmp_path, capsys):
    images, textures = made_up(tmp_path)
    (tmp_path / "mine.txt").write_text("\n".join(TINY.splitlines()[:6]))
    command = ["train", "recipe", str(tmp_path / "mine.txt"), "--model", str(tmp_path / "model")]
    assert main(command) == 1
    assert "line 4: {images} is wanted: add --images" in capsys.readouterr().err
    assert (
        main([*command, "--images", str(images), "--textures", str(textures), "--device", "cpu"])
        == 0
    )
    assert (tmp_path / "model" / "training" / "data" / "train" / "meta.json").exists()
    assert (tmp_path / "model" / "classifier.safetensors").exists()
    assert main(["train", "recipe", "compact"]) == 1
    assert "add --model DIR" in capsys.readouterr().err
