"""The Dockerfile: its linter is quiet, what it copies exists and is let through, its numbers are
the project's.
"""

import fnmatch
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def linter() -> str:
    """hadolint of the `lint` extra, beside this Python."""
    found = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which(
        "hadolint"
    )
    return found or pytest.skip("hadolint is not installed: pip install '.[lint]'")


def lint(file: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [linter(), "--no-color", str(file)], capture_output=True, text=True, timeout=60
    )


def test_hadolint_has_nothing_to_say(tmp_path):
    done = lint(ROOT / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")
    (tmp_path / "Dockerfile").write_text(TEXT.replace("WORKDIR /pictures", "WORKDIR pictures"))
    assert "DL3000" in lint(tmp_path / "Dockerfile").stdout  # and it can complain


def copied() -> list[str]:
    return [name for line in re.findall(r"^COPY (.+)$", TEXT, re.M) for name in line.split()[:-1]]


def test_what_is_copied_exists_and_passes_the_ignore_file():
    rules = [
        r
        for r in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        if r and not r.startswith("#")
    ]
    for name in copied():
        assert (ROOT / name).exists(), name
        ignored = False
        for rule in rules:  # the last that fits decides
            if fnmatch.fnmatch(name, rule.lstrip("!")):
                ignored = not rule.startswith("!")
        assert not ignored, name
    assert not any(
        fnmatch.fnmatch("runs", rule.lstrip("!")) for rule in rules if rule.startswith("!")
    )


def test_all_that_building_needs_is_copied():
    project = PROJECT["project"]
    assert {"pyproject.toml", "src", project["readme"], *project["license-files"]} == set(copied())


def test_versions_and_extras_are_the_projects():
    readme = re.search(r"torch==([\d.]+)", (ROOT / "README.md").read_text("utf-8"))[1]
    assert set(re.findall(r"ARG TORCH_VERSION=(.+)", TEXT)) == {readme}
    extras = re.search(r"ARG EXTRAS=(.+)", TEXT)[1].split(",")
    assert set(extras) <= set(PROJECT["project"]["optional-dependencies"])
    assert re.search(r"ARG VARIANT=(\w+)", TEXT)[1] in ("cpu", "cuda")
    assert {"torch-cpu", "torch-cuda"} <= set(re.findall(r"AS ([\w-]+)", TEXT))


def test_it_does_not_run_as_root():
    assert int(re.findall(r"^USER (\d+)", TEXT, re.M)[-1]) > 0
