"""The command line as a user meets it: a subprocess, exit codes, one line for each mistake."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchscaler.apps.cli import main
from patchscaler.models.folder import SHIPPED


def patchscaler(*args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The installed command, next to the interpreter that runs the tests."""
    command = shutil.which("patchscaler", path=str(Path(sys.executable).parent))
    assert command, "the package is not installed in this environment"
    return subprocess.run(
        [command, *map(str, args)], capture_output=True, text=True, cwd=cwd, timeout=300
    )


@pytest.fixture(scope="module")
def model(tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny.save_pretrained(folder)
    return folder


@pytest.fixture
def photo(tmp_path) -> Path:
    ramp = np.linspace(0, 255, 40 * 56 * 3).reshape(40, 56, 3).astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# --- it works -------------------------------------------------------------------------------------


def test_installed_command_upscales_with_the_shipped_weights(photo):
    done = patchscaler(
        "upscale", photo, "-o", photo.parent / "out.png", "--save-difficulty", "--save-coarse"
    )
    assert done.returncode == 0, done.stderr
    assert "56x40 -> 224x160" in done.stdout
    assert "network evaluations" in done.stdout
    for name in ("out.png", "out_difficulty.png", "out_coarse.png"):
        assert Image.open(photo.parent / name).size == (224, 160)
    assert leftovers(photo.parent) == [
        "out.png",
        "out_coarse.png",
        "out_difficulty.png",
        "photo.png",
    ]


def test_default_name_lies_beside_the_input(model, photo, capsys):
    assert main(["upscale", str(photo), "--model", str(model)]) == 0
    assert Image.open(photo.with_name("photo_x4.png")).size == (224, 160)
    assert capsys.readouterr().out.startswith(str(photo.with_name("photo_x4.png")))


def test_several_inputs_go_to_a_folder_and_a_bad_one_does_not_stop_them(model, photo, capsys):
    bad = photo.with_name("bad.png")
    bad.write_bytes(b"not a picture")
    second = photo.with_name("second.jpg")
    Image.open(photo).save(second)
    out = photo.parent / "out"
    assert (
        main(["upscale", str(photo), str(bad), str(second), "-o", str(out), "--model", str(model)])
        == 1
    )
    assert leftovers(out) == ["photo_x4.png", "second_x4.jpg"]
    error = capsys.readouterr().err
    assert "bad.png: not a picture" in error and "1 of 3 pictures failed" in error


def test_overrides_reach_the_sampler(model, photo, capsys):
    base = ["upscale", str(photo), "--model", str(model), "-o", str(photo.with_name("o.png"))]
    assert (
        main([*base, "--thresholds", "1,1", "--steps", "1,2,3", "--start-times", "100,200,300"])
        == 0
    )
    # 40x56 -> 20x28 latents: 2 x 3 patches at overlap 8, all hard, three steps each
    assert "0 simple, 0 medium, 6 hard, 18 network evaluations" in capsys.readouterr().out
    assert main([*base, "--overlap", "0", "--thresholds", "1,1", "--preset", "paper"]) == 0
    assert "4 hard, 80 network evaluations" in capsys.readouterr().out


def test_no_steps_and_more_steps_for_simple_patches(model, photo, capsys):
    base = ["upscale", str(photo), "--model", str(model), "-o", str(photo.with_name("o.png"))]
    assert main([*base, "--steps", "0,0,0"]) == 0
    assert " 0 network evaluations" in capsys.readouterr().out
    # the simple group has no start of its own: medium's
    assert main([*base, "--steps", "1,1,1"]) == 0
    assert " 6 network evaluations" in capsys.readouterr().out


def test_shares_set_the_thresholds(model, photo, capsys):
    base = ["upscale", str(photo), "--model", str(model), "-o", str(photo.with_name("o.png"))]
    assert main([*base, "--shares", "0,0"]) == 0
    assert "0 simple, 0 medium, 6 hard" in capsys.readouterr().out
    assert main([*base, "--shares", "1,1"]) == 0
    assert "6 simple, 0 medium, 0 hard" in capsys.readouterr().out


def test_an_input_is_never_overwritten(model, photo, capsys):
    first = photo.with_name("photo_x4.png")
    shutil.copy(photo, first)
    before = first.read_bytes()
    assert main(["upscale", str(photo), str(first), "--model", str(model)]) == 1
    assert "output and input are the same file" in capsys.readouterr().err
    assert first.read_bytes() == before
    assert Image.open(photo.with_name("photo_x4_x4.png")).size == (224, 160)


def test_colour_profile_goes_with_the_picture(model, photo):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.open(photo).save(photo, icc_profile=profile)
    assert main(["upscale", str(photo), "--model", str(model), "-q"]) == 0
    assert Image.open(photo.with_name("photo_x4.png")).info["icc_profile"] == profile


def test_transparent_picture_named_jpg_becomes_png_by_default(model, tmp_path):
    Image.new("RGBA", (32, 32), (255, 0, 0, 128)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "glass.jpg")
    assert main(["upscale", str(tmp_path / "glass.jpg"), "--model", str(model), "-q"]) == 0
    assert Image.open(tmp_path / "glass_x4.png").mode == "RGBA"


def test_seed_changes_the_picture_and_repeats_it(model, photo):
    def run(seed: int) -> bytes:
        out = photo.with_name(f"{seed}.png")
        args = [
            "upscale",
            str(photo),
            "--model",
            str(model),
            "-o",
            str(out),
            "-q",
            "--seed",
            str(seed),
        ]
        assert main([*args, "--thresholds", "1,1"]) == 0
        return out.read_bytes()

    assert run(1) == run(1) != run(2)


def test_memory_build_and_info(model, tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "mine").mkdir()
    for i in range(3):
        picture = rng.integers(0, 255, (160, 160, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "mine" / f"p{i}.png")
    file = tmp_path / "mine.safetensors"
    options = ["--candidates", "30", "--size", "8", "--licence", "CC0", "--model", str(model)]
    assert main(["memory", "build", str(tmp_path / "mine"), "-o", str(file), *options]) == 0
    assert main(["memory", "info", str(file)]) == 0
    out = capsys.readouterr().out
    assert "8 textures" in out and "p0.png  CC0" in out
    Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / "in.png")
    arguments = [
        "upscale",
        str(tmp_path / "in.png"),
        "--model",
        str(model),
        "--memory",
        str(file),
        "-q",
    ]
    assert main(arguments) == 0


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_every_degradation_is_named(command, photo, capsys):
    from patchscaler.training.data.degradation import DEGRADATIONS

    with pytest.raises(SystemExit):
        main([command, "--help"])
    told = " ".join(capsys.readouterr().out.split())
    told = told[told.index("--degradation KIND make") :].split("--limit")[0]
    error = fails(capsys, photo, command, "--hr", photo)
    assert all(kind in told and kind in error for kind in DEGRADATIONS)


def test_info_names_hashes(model, capsys):
    assert main(["info", "--model", str(model)]) == 0
    out = capsys.readouterr().out
    assert "patch_dit.safetensors" in out and "sha256" in out


def test_benchmark_prints_and_writes(model, tmp_path, capsys):
    file = tmp_path / "b.json"
    assert (
        main(
            ["benchmark", "--model", str(model), "--size", "32", "--runs", "1", "--json", str(file)]
        )
        == 0
    )
    record = json.loads(file.read_text())
    assert record["evaluations"]["uniform"] >= record["evaluations"]["adaptive"]
    assert "network evaluations: adaptive" in capsys.readouterr().out


# --- what users do wrong --------------------------------------------------------------------------


def fails(capsys, photo: Path, *args: object) -> str:
    """Exit code 1, one line on standard error, nothing written."""
    before = leftovers(photo.parent)
    assert main([str(a) for a in args]) == 1
    error = capsys.readouterr().err
    assert error.startswith("patchscaler: ") and error.count("\n") == 1, error
    assert leftovers(photo.parent) == before
    return error


def test_bad_inputs(model, photo, capsys):
    folder = photo.parent

    def upscale(name: str, *more: object) -> str:
        return fails(capsys, photo, "upscale", folder / name, "--model", model, *more)

    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("hello")
    (folder / "cut.png").write_bytes(photo.read_bytes()[:-200])
    assert "missing.png: no such file" in upscale("missing.png")
    assert "empty.png: the file is empty" in upscale("empty.png")
    assert "text.png: not a picture" in upscale("text.png")
    assert "cut.png: damaged or cut off" in upscale("cut.png")
    assert "is a folder" in fails(capsys, photo, "upscale", folder, "--model", model)
    assert "--max-pixels 2240" in upscale("photo.png", "--max-pixels", 100)
    assert "same file" in upscale("photo.png", "-o", photo)
    assert "cannot write '.xyz'" in upscale("photo.png", "-o", folder / "o.xyz")
    assert "cannot write there" in upscale("photo.png", "-o", photo / "o.png")


def test_bad_options(model, photo, capsys):
    def upscale(*more: object) -> str:
        return fails(capsys, photo, "upscale", photo, "--model", model, *more)

    assert "unknown preset 'huge'" in upscale("--preset", "huge")
    assert "device 'tpu'" in upscale("--device", "tpu")
    assert "unknown dtype 'int3'" in upscale("--dtype", "int3")
    assert "--steps 1,2: give 3 numbers" in upscale("--steps", "1,2")
    assert "--thresholds a,b: give 2 numbers" in upscale("--thresholds", "a,b")
    assert "they must fall" in upscale("--thresholds", ".2,.9")
    assert "500 steps from time 400" in upscale("--steps", "0,1,500", "--start-times", "0,400,400")
    assert "give one of them" in upscale("--shares", "0,0", "--thresholds", "1,1")
    assert "must rise" in upscale("--shares", ".6,.2")
    assert "--quality takes 1 to 100" in upscale("--quality", 500)
    assert "overlap 16" in upscale("--overlap", 16)
    assert "no such weights file" in upscale("--memory", photo.parent / "no.safetensors")


def test_bad_models(model, photo, tmp_path_factory, capsys):
    def upscale(source: object) -> str:
        return fails(capsys, photo, "upscale", photo, "--model", source)

    assert "no such folder, and the shipped ones are compact" in upscale("nothing")
    assert "no config.json" in upscale(tmp_path_factory.mktemp("empty"))
    broken = tmp_path_factory.mktemp("broken")
    shutil.copytree(model, broken, dirs_exist_ok=True)
    weights = broken / "grm.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert "grm.safetensors: not the file that was saved" in upscale(broken)
    (broken / "SHA256SUMS").unlink()
    assert "grm.safetensors: corrupt" in upscale(broken)
    weights.write_bytes((broken / "classifier.safetensors").read_bytes())
    assert "weights do not fit the configuration" in upscale(broken)
    weights.write_bytes(whole)
    (broken / "config.json").write_text("{")
    assert "config.json: not a PatchScaler configuration" in upscale(broken)


def test_two_inputs_with_one_name(model, photo, capsys):
    twin = photo.parent / "sub" / "photo.png"
    twin.parent.mkdir()
    shutil.copy(photo, twin)
    error = fails(
        capsys, photo, "upscale", photo, twin, "--model", model, "-o", photo.parent / "out"
    )
    assert "another input would also be written" in error


def test_two_formats_of_one_name_are_two_outputs(model, photo, capsys):
    with Image.open(photo) as image:
        for suffix in (".jpg", ".tif"):
            image.convert("RGB").save(photo.with_suffix(suffix))
    both = [photo, photo.with_suffix(".jpg"), photo.with_suffix(".tif")]
    assert (
        main(["upscale", *map(str, both), "--model", str(model), "-o", str(photo.parent / "out")])
        == 0
    )
    assert leftovers(photo.parent / "out") == [f"photo_x4{s}" for s in (".jpg", ".png", ".tif")]
    error = fails(
        capsys,
        photo,
        "upscale",
        *both,
        "--format",
        "webp",
        "--model",
        model,
        "-o",
        photo.parent / "out",
    )
    assert "another input would also be written" in error


def test_transparency_does_not_go_into_a_jpeg(model, photo, capsys):
    Image.new("RGBA", (32, 32), (255, 0, 0, 128)).save(photo.parent / "glass.png")
    error = fails(
        capsys,
        photo,
        "upscale",
        photo.parent / "glass.png",
        "-o",
        photo.parent / "o.jpg",
        "--model",
        model,
    )
    assert "no transparency" in error


@pytest.mark.parametrize(
    "said, told", [((), "interrupted; nothing"), (("a.png: 3 of 4 done",), "a.png: 3 of 4 done")]
)
def test_ctrl_c_is_told_and_leaves_nothing(model, photo, capsys, monkeypatch, said, told):
    def stopped(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt(*said)

    monkeypatch.setattr("patchscaler.apps.cli.upscale.upscale_one", stopped)
    before = leftovers(photo.parent)
    assert main(["upscale", str(photo), "--model", str(model)]) == 130
    assert capsys.readouterr().err.startswith(f"patchscaler: {told}")
    assert leftovers(photo.parent) == before


def test_wrong_usage_is_exit_code_2():
    done = patchscaler("upscale")
    assert done.returncode == 2 and "INPUT" in done.stderr


# --- starting up ----------------------------------------------------------------------------------


def test_help_and_version_do_not_wait_for_torch():
    code = (
        "import sys; from patchscaler.apps import cli\n"
        "try: cli.main(['--version'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("patchscaler 0.")


def test_the_pipeline_imports_no_extras():
    code = (
        "import sys, patchscaler.pipeline\n"
        "extras = {'diffusers', 'accelerate', 'tensorboard', 'huggingface_hub', 'scipy', "
        "'torchvision'}\n"
        "assert not extras & set(sys.modules), extras & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_shipped_weights_keep_their_limits():
    sizes = {p.name: p.stat().st_size for p in (SHIPPED / "compact").glob("*.safetensors")}
    memory = sizes.pop("memory.safetensors")
    assert sum(sizes.values()) <= 16e6, sizes
    assert memory <= 8e6
