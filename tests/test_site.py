"""The documentation: its commands parse, its pages are
reachable.
"""

import re
import shlex
from pathlib import Path

import pytest

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
        cli._parse(words)
    except SystemExit as error:
        if not error.code:
            return
        pytest.fail(f"{page}: patchscaler {command}")


def test_commands_were_found():
    assert len(COMMANDS) > 40


def test_every_page_is_in_the_menu():
    menu = set(re.findall(r"([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M))
    assert menu == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
