"""The command as a whole: its list, its help, its mistakes, its end."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from patchscaler.apps.cli import COMMANDS, RESEARCH, main


def process(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    """`python -m patchscaler`, as its own process."""
    command = [sys.executable, "-m", "patchscaler", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def printed(capsys, *arguments: str) -> str:
    """Of a command that ends with exit code 0 in argparse."""
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 0
    return capsys.readouterr().out


def mistake(capsys, *arguments: object) -> str:
    """The one line on standard error of wrong usage."""
    with pytest.raises(SystemExit) as exit:
        main(list(map(str, arguments)))
    error = capsys.readouterr().err
    assert exit.value.code == 2 and error.count("\n") == 1 and "usage" not in error
    return error


def test_researchers_commands_are_a_group_of_their_own(capsys):
    text = printed(capsys, "--help")
    people, research = text.split("for researchers:")
    assert all(f"  {name} " in people for name in COMMANDS)
    assert all(f"  {name} " in research for name in RESEARCH)


@pytest.mark.parametrize("name", [*COMMANDS, *RESEARCH])
def test_every_command_has_help(capsys, name):
    assert f"patchscaler {name}" in printed(capsys, name, "--help")


def test_upscale_lists_a_dozen_options_and_all_on_demand(capsys):
    def options(text: str) -> set[str]:
        return {word.strip(",") for word in text.split() if word.startswith("--")}

    short = options(printed(capsys, "upscale", "--help"))
    whole = options(printed(capsys, "upscale", "--help-all"))
    assert len(short) <= 16 and short < whole
    assert {"--seed", "--budget", "--report", "--json", "--model", "--tile"} <= whole - short


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["upscal"], "did you mean upscale?"),
        (["upscale", "a.png", "--scael", "2"], "did you mean --scale?"),
        (["upscale", "a.png", "--overwrit"], "did you mean --overwrite?"),
        (["upscale", "a.png", "--scale", "big"], "--scale"),
        (["upscale", "a.png", "--quality", "500"], "1 to 100"),
        (["upscale", "a.png", "--crop", "1,2,3"], "X,Y,W,H"),
        (["upscale", "a.png", "--fidelity", "2"], "from 0 to 1"),
        (["upscale"], "INPUT"),
        ([], "--help"),
    ],
)
def test_a_mistake_is_one_line_with_a_hint(capsys, arguments, hint):
    assert hint in mistake(capsys, *arguments)


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["upscale", "--help"]])
def test_help_does_not_wait_for_torch(arguments):
    code = (
        "import sys; from patchscaler.apps.cli import main\n"
        f"try: main({arguments})\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    )
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - began < 5  # half a second on a machine that has nothing else to do


def test_models_that_cannot_be_loaded_are_named(capsys, photo, model_folder, tmp_path_factory):
    before = sorted(photo.parent.iterdir())

    def failing(source: object) -> str:
        assert main(["upscale", str(photo), "--model", str(source)]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and sorted(photo.parent.iterdir()) == before
        return error

    assert "compact" in failing("nothing")
    assert "config.json" in failing(tmp_path_factory.mktemp("empty"))
    broken = tmp_path_factory.mktemp("broken")
    shutil.copytree(model_folder, broken, dirs_exist_ok=True)
    weights = broken / "grm.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "grm.safetensors" in failing(broken)
    (broken / "config.json").write_text("{")
    assert "config.json" in failing(broken)


# --- its end --------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("after", [0.15, 0.5, 1.0, 2.0])
def test_ctrl_c_at_any_moment_has_no_traceback(photo, model_folder, after):
    before = sorted(photo.parent.iterdir())
    command = [sys.executable, "-m", "patchscaler", "upscale", photo, "--model", model_folder]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(after)
    running.send_signal(signal.SIGINT)
    out, error = running.communicate(timeout=60)
    assert "Traceback" not in error
    assert running.returncode in (0, 130, -signal.SIGINT)
    if "96x64 -> " not in out:  # else the image was written before the signal came
        assert sorted(photo.parent.iterdir()) == before


def test_ctrl_c_while_working_is_exit_code_130(command, photo, capsys, monkeypatch):
    def stopped(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("patchscaler.apps.cli.upscale.upscale_files", stopped)
    before = sorted(photo.parent.iterdir())
    assert command(photo) == 130
    error = capsys.readouterr().err
    assert error.startswith("patchscaler: interrupted") and error.count("\n") == 1
    assert sorted(photo.parent.iterdir()) == before


def test_the_pipeline_imports_no_extras():
    code = (
        "import sys, patchscaler.pipeline\n"
        "extras = {'diffusers', 'accelerate', 'tensorboard', 'huggingface_hub', 'scipy', "
        "'torchvision'}\n"
        "assert not extras & set(sys.modules), extras & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_installed_command_upscales_with_the_shipped_weights(photo):
    found = shutil.which("patchscaler", path=str(Path(sys.executable).parent))
    assert found, "the package is not installed in this environment"
    out = photo.with_name("out.png")
    done = subprocess.run([found, "upscale", photo, "-o", out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "96x64 -> 384x256" in done.stdout and out.exists()
