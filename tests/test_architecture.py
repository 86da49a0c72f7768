"""Imports go downwards through the rooms, and files stay short."""

import ast
from pathlib import Path

import pytest

import patchscaler

SOURCE = Path(patchscaler.__file__).parent
# Lower rooms know nothing of higher ones.
LAYERS = [
    ("_version", "errors", "config", "devices"),
    ("patching", "diffusion", "progress"),
    ("models",),
    ("texture_memory", "storage"),
    ("images",),
    ("model_card", "model_folder"),
    ("model",),
    ("engines",),
    ("regions", "tiling"),
    ("denoising",),
    ("work", "resources"),
    ("pipeline",),
    ("files", "folders"),
    ("batch",),
    ("training",),
    ("evaluation",),
    ("reproduce",),
    ("apps",),
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
OPEN = {"__init__", "__main__"}  # the package's own door
LONG = {"pipeline.py": 620, "apps/web/page.py": 440}  # one page with a long signature; the page


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "patchscaler" and len(parts) > 1 else None


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {room for module in found if (room := room_of(module)) in LEVEL}


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(SOURCE).as_posix())
def test_imports_go_downwards(file):
    own = file.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own in OPEN:
        return
    assert own in LEVEL, f"{own}: name its layer"
    higher = {room for room in imports(file) if LEVEL[room] > LEVEL[own]}
    same = {room for room in imports(file) if room != own and LEVEL[room] == LEVEL[own]}
    assert not higher, f"imports {higher}"
    assert len(LAYERS[LEVEL[own]]) > 1 or not same


def test_files_stay_short():
    for file in FILES:
        name = file.relative_to(SOURCE).as_posix()
        lines = len(file.read_text("utf-8").splitlines())
        assert lines <= LONG.get(name, 400), f"{name}: {lines} lines"


def test_public_names_are_importable():
    for name in patchscaler.__all__:
        assert getattr(patchscaler, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = patchscaler.nothing
