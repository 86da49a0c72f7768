"""The documentation: its commands parse, its pictures are made by its script, its pages are
reachable.
"""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from patchscaler.apps import cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def commands(page: Path) -> list[str]:
    """Indented lines that call the program; continued lines joined, comments and what follows cut
    off.

    Left out: output that begins with the program's name, and lines with shell variables or words to
    be replaced.
    """
    text = page.read_text("utf-8").replace("\\\n", " ")
    found = re.findall(r"^    (?:\$ )?patchscaler ([a-z].+)$", text, re.M)
    lines = [re.split(r"\s+#|\s+[|>]\s|;", line)[0].strip() for line in found]
    return [line for line in lines if not re.search(r"\$|\bETA\b|^data NAME", line)]


COMMANDS = sorted({(page.name, command) for page in PAGES for command in commands(page)})


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{p}:{c[:40]}" for p, c in COMMANDS])
def test_every_command_parses(page, command):
    words = shlex.split(command)
    try:
        cli._parser().parse_args(words)
    except SystemExit:
        pytest.fail(f"{page}: patchscaler {command}")


def test_commands_were_found():
    assert len(COMMANDS) > 60


def test_every_page_is_in_the_menu():
    menu = set(re.findall(r"([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M))
    assert menu == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}


def test_pictures_are_made_by_the_script(tiny, tmp_path):
    spec = importlib.util.spec_from_file_location("make_images", DOCS / "make_images.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.make(tiny, tmp_path)
    made = {file.name for file in tmp_path.iterdir()}
    assert made == {file.name for file in (DOCS / "images").iterdir()}
    for name in made:
        assert Image.open(tmp_path / name).size == Image.open(DOCS / "images" / name).size
        assert (DOCS / "images" / name).stat().st_size < 100_000
    shown = {
        name for page in PAGES for name in re.findall(r"images/([\w.]+)\)", page.read_text("utf-8"))
    }
    assert shown == made
