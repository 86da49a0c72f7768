"""docs/paper_map.md points at things that exist, each row with a test, and covers the paper."""

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAP = (ROOT / "docs" / "paper_map.md").read_text("utf-8")
REPRODUCTION = (ROOT / "docs" / "reproduction.md").read_text("utf-8")
NAMES = sorted(set(re.findall(r"`(patchscaler[\w.]*):([\w.]+)`", MAP)))
TESTS = sorted(set(re.findall(r"`(test_\w+\.py)::(\w+)`", MAP)))


@pytest.mark.parametrize(("module", "name"), NAMES, ids=[f"{m}:{n}" for m, n in NAMES])
def test_every_name_of_the_map_exists(module, name):
    thing = importlib.import_module(module)
    for part in name.split("."):
        thing = getattr(thing, part)


@cache
def names_in(file: str) -> set[str]:
    """Of a file: functions that pytest runs, unless they are marked to be skipped."""
    (path,) = (ROOT / "tests").rglob(file)  # file names are unique
    tree = ast.parse(path.read_text("utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            marks = {ast.unparse(decorator) for decorator in node.decorator_list}
            if not any(re.search(r"\bmark\.(skip|xfail)\b", mark) for mark in marks):
                found.add(node.name)
    return found


@pytest.mark.parametrize(("file", "name"), TESTS, ids=[f"{f}::{n}" for f, n in TESTS])
def test_every_test_of_the_map_exists(file, name):
    assert name in names_in(file)


def rows_of(text: str) -> list[list[str]]:
    """Cells of the tables above "Where the paper is silent", heads and rules left out."""
    lines = text.split("## Where the paper")[0].splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"
    ]
    return [row for row in rows if row[0] != "paper" and set(row[0]) != {"-"}]


def test_every_row_of_the_map_names_a_test_or_says_that_it_has_none():
    rows = rows_of(MAP)
    assert len(rows) > 30
    for row in rows:
        assert "::test_" in row[-1] or row[-1].startswith("not held: "), row


def numbers_in(text: str) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {kind: set() for kind in ("Eq", "Table", "Figure")}
    for match in re.findall(r"(?:Eq\.|Tables?|Figures?) [\d, ab]+", text):
        kind = next(k for k in found if match.startswith(k))
        found[kind] |= set(map(int, re.findall(r"\d+", match)))
    return found


def test_the_map_covers_equations_tables_and_figures():
    found = numbers_in(MAP)
    assert found["Eq"] >= set(range(1, 9))
    assert found["Table"] >= set(range(1, 7))
    assert found["Figure"] >= set(range(1, 11))


def test_every_table_and_figure_has_a_command_and_what_it_needs():
    table = REPRODUCTION.split("## All tables and figures")[1].split("\n## ")[0]
    rows = rows_of(table)
    assert numbers_in(" ".join(row[0] for row in rows)) | {"Eq": set()} == {
        "Eq": set(),
        "Table": set(range(1, 7)),
        "Figure": {1, *range(4, 11)},
    }
    for _, command, weights, _ in rows:
        assert command.startswith("`patchscaler ") and weights


def test_version_is_the_same_everywhere():
    from patchscaler import __version__

    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.search(r"^## ([\d.]+)", changelog, re.M).group(1) == __version__
    assert re.search(r"^version: ([\d.]+)", citation, re.M).group(1) == __version__


def test_words_of_the_old_dialect_are_gone():
    """docs/glossary.md has the field's words."""
    words = re.compile(r"\b(drawer|drawn anew|mend|nobody|sureness|hands|told)\b")
    pages = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.py"), ROOT / "README.md"]
    found = {
        (page.name, match[0]) for page in pages for match in words.finditer(page.read_text("utf-8"))
    }
    assert not found
