"""The ComfyUI nodes, called as ComfyUI calls them: imported by path, inputs from INPUT_TYPES, links
from a workflow.
"""

import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from patchscaler.images.overlay import difficulty_mask

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "integrations" / "comfyui"


@pytest.fixture(scope="module")
def pack():
    """As ComfyUI's loader does: the folder is a module of any name, its parts found
    relative to it.
    """
    name = "custom_nodes.patchscaler-nodes"
    spec = importlib.util.spec_from_file_location(
        name, FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    yield module
    for loaded in [key for key in sys.modules if key.startswith(name)]:
        del sys.modules[loaded]


def inputs_of(node: type) -> dict[str, tuple]:
    kinds = node.INPUT_TYPES()
    return kinds["required"] | kinds.get("optional", {})


def call(pack, name: str, **given):
    """Check inputs against INPUT_TYPES as ComfyUI does, fill in the widgets' defaults, call
    FUNCTION.
    """
    node = pack.NODE_CLASS_MAPPINGS[name]
    values = {}
    for key, kind in inputs_of(node).items():
        options = kind[1] if len(kind) > 1 else {}
        default = kind[0][0] if isinstance(kind[0], list) else options.get("default")
        values[key] = given.pop(key, default)
        if isinstance(kind[0], list):
            assert values[key] in kind[0]
        elif kind[0] in ("INT", "FLOAT"):
            assert options["min"] <= values[key] <= options["max"]
    assert not given, f"{name} has no input {set(given)}"
    outputs = getattr(node(), node.FUNCTION)(**values)
    assert isinstance(outputs, tuple) and len(outputs) == len(node.RETURN_TYPES) == len(
        node.RETURN_NAMES
    )
    return outputs


@pytest.fixture
def images(picture) -> torch.Tensor:
    """(2, 33, 47, 3) floats in [0, 1]."""
    return torch.stack(
        [torch.tensor(np.asarray(picture(33, 47, seed))).float() / 255 for seed in (0, 1)]
    )


@pytest.fixture
def bars(monkeypatch):
    """ComfyUI's own modules, as far as the nodes use them -> the bars that were made."""
    made = []

    class ProgressBar:
        def __init__(self, total):
            self.total, self.values = total, []
            made.append(self)

        def update_absolute(self, value, total=None, preview=None):
            self.values.append(value)

    comfy, utils = types.ModuleType("comfy"), types.ModuleType("comfy.utils")
    comfy.utils, utils.ProgressBar = utils, ProgressBar
    monkeypatch.setitem(sys.modules, "comfy", comfy)
    monkeypatch.setitem(sys.modules, "comfy.utils", utils)
    return made


def test_what_comfyui_reads(pack):
    assert set(pack.NODE_CLASS_MAPPINGS) == set(pack.NODE_DISPLAY_NAME_MAPPINGS)
    simple = {"STRING", "INT", "FLOAT", "BOOLEAN", "IMAGE", "MASK", "PATCHSCALER"}
    for node in pack.NODE_CLASS_MAPPINGS.values():
        assert isinstance(node.CATEGORY, str) and callable(getattr(node, node.FUNCTION))
        assert set(node.RETURN_TYPES) <= simple
        for kind in inputs_of(node).values():
            assert isinstance(kind, tuple) and (isinstance(kind[0], list) or kind[0] in simple)


def test_images_and_masks(pack, tiny, images):
    big, mask = call(pack, "PatchScalerUpscale", model=tiny, image=images, seed=3)
    assert big.shape == (2, 132, 188, 3) and big.dtype == torch.float32
    assert mask.shape == (2, 132, 188) and mask.dtype == torch.float32
    assert big.min() >= 0 and big.max() <= 1 and mask.min() >= 0 and mask.max() <= 1
    for one, picture in zip(big, images, strict=True):  # what the pipeline itself makes of it
        result = tiny((picture.numpy() * 65535).round().astype(np.uint16), seed=3)
        assert np.array_equal((one.numpy() * 65535).round().astype(np.uint16), result.array)
    assert len(torch.unique(big)) > 256  # sixteen bits went through


def test_other_scales_alpha_and_tiles(pack, tiny, images):
    big, mask = call(pack, "PatchScalerUpscale", model=tiny, image=images[:1], scale=1.5)
    assert big.shape == (1, 50, 70, 3) and mask.shape == (1, 50, 70)
    glass = torch.cat([images, torch.ones_like(images[..., :1])], -1)
    assert call(pack, "PatchScalerUpscale", model=tiny, image=glass[:1])[0].shape == (
        1,
        132,
        188,
        4,
    )
    big, mask = call(
        pack, "PatchScalerUpscale", model=tiny, image=images[:1, :32, :32], tileable=True
    )
    assert big.shape == (1, 128, 128, 3) and mask.shape == (1, 128, 128)


def test_dials(pack, tiny, images):
    def made(**dials):
        return call(pack, "PatchScalerUpscale", model=tiny, image=images[:1], **dials)

    assert not torch.equal(made(seed=1)[0], made()[0])
    assert made(budget="all hard")[1].min() == 1
    faithful = made(fidelity="1 (faithful)")[0]
    coarse = tiny((images[0].numpy() * 65535).round().astype(np.uint16), fidelity=1)
    assert np.array_equal((faithful[0].numpy() * 65535).round().astype(np.uint16), coarse.array)
    white = torch.ones(1, 33, 47)
    assert float((made(fidelity_mask=white)[0] - faithful).abs().max()) < 0.01


def test_the_mask_is_the_groups(tiny, picture):
    result = tiny(picture(64, 64))
    mask = difficulty_mask(result)
    assert mask.shape == (256, 256) and len(set(result.groups.tolist())) > 1
    corner = result.groups[0] / 2  # the first patch alone covers the corner
    assert np.allclose(mask[:8, :8], corner, atol=1e-3)
    assert difficulty_mask(result, (10, 20)).shape == (10, 20)


def test_progress_and_cancel(pack, tiny, images, bars):
    call(pack, "PatchScalerUpscale", model=tiny, image=images, budget="all hard")
    (bar,) = bars
    assert bar.total == 2000 and bar.values[-1] == 2000
    assert bar.values == sorted(bar.values)

    # two passes
    call(pack, "PatchScalerUpscale", model=tiny, image=images[:1, :16, :16], scale=6.0)
    values = bars[1].values
    assert values == sorted(values) and values[-1] == 1000 and len(set(values)) > 2

    class InterruptProcessing(BaseException):  # ComfyUI raises from within its bar
        pass

    def cancel(self, value, total=None, preview=None):
        raise InterruptProcessing

    type(bar).update_absolute = cancel
    with pytest.raises(InterruptProcessing):
        call(pack, "PatchScalerUpscale", model=tiny, image=images)


def test_the_loader(pack, model_folder, monkeypatch):
    paths = types.ModuleType("folder_paths")
    paths.models_dir = str(model_folder.parent)
    monkeypatch.setitem(sys.modules, "folder_paths", paths)
    (model_folder.parent / "patchscaler").symlink_to(model_folder.parent)
    try:
        (model,) = call(pack, "PatchScalerLoader", model=model_folder.name, device="cpu")
        assert model.model.config.name == "tiny"
    finally:
        (model_folder.parent / "patchscaler").unlink()


def test_the_example_workflow_runs(pack, tiny, images):
    """Links are [node, output], as in ComfyUI's API format; its own nodes stand in for what they
    do.
    """
    workflow = json.loads((FOLDER / "example_workflow_api.json").read_text("utf-8"))
    saved, done = [], {}
    builtin = {
        "LoadImage": lambda image: (images[:1], torch.zeros(1, 33, 47)),
        "MaskToImage": lambda mask: (mask[..., None].expand(-1, -1, -1, 3),),
        "SaveImage": lambda images, filename_prefix: (
            saved.append((filename_prefix, images.shape)) or ()
        ),
    }
    node = next(n for n in workflow if workflow[n]["class_type"] == "PatchScalerUpscale")
    loader = next(n for n in workflow if workflow[n]["class_type"] == "PatchScalerLoader")
    for number in sorted(workflow):
        own = workflow[number]
        inputs = {
            k: done[v[0]][v[1]] if isinstance(v, list) else v for k, v in own["inputs"].items()
        }
        kind = own["class_type"]
        if number == loader:
            done[number] = (tiny,)
            continue
        done[number] = builtin[kind](**inputs) if kind in builtin else call(pack, kind, **inputs)
    assert node in done
    assert saved == [
        ("patchscaler", (1, 132, 188, 3)),
        ("patchscaler_difficulty", (1, 132, 188, 3)),
    ]
