"""docs/paper_map.md points at things that exist, and covers the paper."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAP = (ROOT / "docs" / "paper_map.md").read_text("utf-8")
NAMES = sorted(set(re.findall(r"`(patchscaler[\w.]*):([\w.]+)`", MAP)))


@pytest.mark.parametrize(("module", "name"), NAMES, ids=[f"{m}:{n}" for m, n in NAMES])
def test_every_name_of_the_map_exists(module, name):
    thing = importlib.import_module(module)
    for part in name.split("."):
        thing = getattr(thing, part)


def test_the_map_covers_equations_tables_and_figures():
    numbers = re.findall(r"(?:Eq\.|Tables?|Figures?) [\d, a]+", MAP)
    found = {kind: set() for kind in ("Eq", "Table", "Figure")}
    for text in numbers:
        kind = next(k for k in found if text.startswith(k))
        found[kind] |= set(map(int, re.findall(r"\d+", text)))
    assert found["Eq"] >= set(range(1, 9))
    assert found["Table"] >= set(range(1, 7))
    assert found["Figure"] >= set(range(1, 11))


def test_files_the_map_names_exist():
    for name in set(re.findall(r"`(tests/\w+\.py)`", MAP)):
        assert (ROOT / name).is_file(), name


def test_version_is_the_same_everywhere():
    from patchscaler import __version__

    assert (
        re.search(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M).group(1)
        == __version__
    )
    assert (
        re.search(r"^version: ([\d.]+)", (ROOT / "CITATION.cff").read_text("utf-8"), re.M).group(1)
        == __version__
    )
