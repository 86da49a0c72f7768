"""What a picture says of its making is anybody's word: it is followed where it can be, and else
told in one line.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchscaler.dials.boxes import Change, make_change
from patchscaler.dials.record import provenance, read_provenance, weights_id, weights_of
from patchscaler.dials.report import RECORD
from patchscaler.dials.saved import MOST_CHANGES, find_saved, redo_file
from patchscaler.errors import PatchScalerError
from patchscaler.images.read import load_picture
from patchscaler.images.write import save_picture
from patchscaler.models.weights import file_hash

SOURCE, RESULT = "in.png", "out.png"
HARD = make_change((0, 0, 5, 5), "hard")


@pytest.fixture
def folder(tiny, picture, tmp_path) -> Path:
    """A picture, and what was made of it."""
    picture(64, 96).save(tmp_path / SOURCE)
    result = tiny.upscale(Image.open(tmp_path / SOURCE))
    assert result.options is not None
    facts = provenance(tiny, result.options, weights_of(tiny), file_hash(tmp_path / SOURCE))
    metadata = load_picture(tmp_path / SOURCE).metadata.with_provenance(facts)
    save_picture(result.array, tmp_path / RESULT, metadata)
    return tmp_path


def craft(folder: Path, text: str | None = None, **changed: object) -> Path:
    """The result, with another word about its options."""
    picture = load_picture(folder / RESULT, 0)
    facts = read_provenance(picture.metadata.xmp)
    options = text if text is not None else json.dumps(json.loads(facts["Options"]) | changed)
    metadata = picture.metadata.with_provenance(facts | {"Options": options})
    save_picture(np.asarray(picture.pixels), folder / RESULT, metadata)
    return folder / RESULT


def redone(tiny, folder: Path, *changes: Change) -> np.ndarray:
    assert redo_file(tiny, folder / SOURCE, folder / RESULT, changes) is not None
    return np.asarray(Image.open(folder / RESULT)).astype(int)


def box(group: object = 2, seed: object = None, place: object = (0, 0, 5, 5)) -> dict[str, object]:
    return {"box": place, "group": group, "seed": seed}


GROUPS = {
    "latent_patch_size": 16,
    "overlap": 8,
    "thresholds": [0.9, 0.5],
    "quantiles": [0, 0],
    "calibration": [],
    "start_times": [0, 500, 500],
    "num_inference_steps": [0, 1, 2],
    "sampler": "ddim",
}
DAMAGED = [
    ({"origin": [2**70, 0]}, "origin"),
    ({"origin": [0]}, "origin"),
    ({"origin": ["0", 0]}, "origin"),
    ({"period": [0, 2]}, "period"),
    ({"period": [1.5, 2]}, "period"),
    ({"seed": float("inf")}, "infinity"),
    ({"fidelity": 3}, "fidelity 3"),
    ({"fidelity": float("nan")}, "fidelity nan"),
    ({"color": "pink"}, "unknown color 'pink'"),
    ({"budget": {"share": None, "seconds": None, "name": "nonsense"}}, "budget Budget"),
    ({"budget": {"share": 7, "seconds": None, "name": None}}, "give a share from 0 to 1"),
    ({"budget": [1]}, "damaged"),
    ({"changes": [box(7)]}, "unknown group '7'"),
    ({"changes": [box("easy")]}, "unknown group 'easy'"),
    ({"changes": [box(None)]}, "a group or a seed"),
    ({"changes": [box(2, "1")]}, "seed 1: give a whole number"),
    ({"changes": [box(2, None, [0, 0, 5])]}, "box 0,0,5: give"),
    ({"changes": [box(2, None, [0, 0, 5, 2**40])]}, "give x,y,width,height"),
    ({"changes": [5]}, "damaged"),
    ({"changes": 5}, "no len"),
    ({"groups": []}, "no attribute"),
    (
        {"changes": [box()] * (MOST_CHANGES + 1)},
        "1001 boxes were made again in it, more than 1000: enlarge it anew",
    ),
    ({"groups": GROUPS | {"overlap": "8"}}, "numbers of groups"),
    ({"groups": GROUPS | {"start_times": [1]}}, "numbers of groups"),
    ({"groups": GROUPS | {"num_inference_steps": [0, 1.5, 2]}}, "numbers of groups"),
    ({"groups": GROUPS | {"thresholds": [float("inf"), 0]}}, "numbers of groups"),
    ({"groups": GROUPS | {"calibration": ["a"]}}, "real number"),
    ({"groups": GROUPS | {"sampler": ["x"]}}, "sampler"),
    ({"groups": GROUPS | {"num_inference_steps": [0, 1, 9999]}}, "9999 steps"),
]


@pytest.mark.parametrize(("changed", "text"), DAMAGED)
def test_what_no_run_can_have_been_asked_for(tiny, folder, changed, text):
    before = craft(folder, **changed).read_bytes()
    with pytest.raises(
        PatchScalerError, match=rf"out\.png: what it says of its making cannot be followed .*{text}"
    ) as told:
        redo_file(tiny, folder / SOURCE, folder / RESULT, [HARD])
    assert "\n" not in str(told.value) and (folder / RESULT).read_bytes() == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "5",
        "{}",
        pytest.param("[" * 100_000, id="deep"),
        pytest.param("9" * 5000, id="long"),
    ],
)
def test_what_is_no_record(tiny, folder, text):
    craft(folder, text)
    with pytest.raises(
        PatchScalerError,
        match=r"^\S*out\.png: what it says of its making cannot be followed \(.+\)$",
    ):
        redo_file(tiny, folder / SOURCE, folder / RESULT, [HARD])


def test_groups_that_fit_no_picture_or_model(tiny, folder):
    craft(folder, groups=GROUPS | {"overlap": 16})
    with pytest.raises(PatchScalerError, match="overlap 16 of patches of 16: take 0 to 15"):
        redo_file(tiny, folder / SOURCE, folder / RESULT, [HARD])
    craft(folder, groups=GROUPS | {"latent_patch_size": 1, "overlap": 0})
    with pytest.raises(
        PatchScalerError, match="patches of 1 latents: this model was trained for 16"
    ):
        redo_file(tiny, folder / SOURCE, folder / RESULT, [HARD])


def test_the_groups_of_earlier_boxes_are_found_again(tiny, folder):
    craft(folder, changes=[box(2, None, [0, 0, 96, 64]), box(0)])
    made = redo_file(
        tiny, folder / SOURCE, folder / RESULT, [make_change((95, 63, 1, 1), "medium")]
    )
    assert made is not None and made.groups.tolist() == [0] + [2] * 13 + [1]


def test_boxes_made_anew_again_and_again_leave_only_the_last(tiny, folder):
    first = (folder / RESULT).read_bytes()
    for seed in (1, 2, 3):
        last = redone(tiny, folder, make_change((40, 20, 9, 9), "hard", seed))
    found = find_saved(None, folder / RESULT)
    assert found is not None and len(found.options["changes"]) == 2  # the one before, and the last
    (folder / RESULT).write_bytes(first)
    assert np.abs(redone(tiny, folder, make_change((40, 20, 9, 9), "hard", 3)) - last).max() <= 1


def test_noise_is_made_for_what_still_shows(tiny, folder, monkeypatch):
    calls, real = [], tiny.noise
    monkeypatch.setattr(tiny, "noise", lambda *args: calls.append(args) or real(*args))
    craft(folder, changes=[box(None, seed, [0, 0, 96, 64]) for seed in range(MOST_CHANGES)])
    redone(tiny, folder, HARD)
    assert len(calls) < 2 * 15 + 3  # of 15 patches, once; before, a thousand times, and twice over


def test_noise_is_made_once_a_patch_however_boxes_lie(tiny, folder, monkeypatch):
    calls, real = [], tiny.noise
    monkeypatch.setattr(tiny, "noise", lambda *args: calls.append(args) or real(*args))
    # some of each sixty still shows
    shrinking = [box(None, n, [0, 0, 96, 64 - n % 60]) for n in range(MOST_CHANGES)]
    craft(folder, changes=shrinking)
    redone(tiny, folder, HARD)
    assert len(calls) < 2 * 15 + 3


def test_a_report_of_another_output(tiny, folder):
    report = folder / "rep"
    report.mkdir()
    options = json.loads(read_provenance(load_picture(folder / RESULT, 0).metadata.xmp)["Options"])
    model, source = {"id": weights_id(weights_of(tiny))}, {"sha256": file_hash(folder / SOURCE)}
    record = {
        "format": 1,
        "options": options,
        "model": model,
        "input": source,
        "output": {"sha256": "0"},
    }
    (report / RECORD).write_text(json.dumps(record))
    before = (folder / RESULT).read_bytes()
    with pytest.raises(
        PatchScalerError,
        match=r"out\.png: is not the file that \S*rep tells of; leave --report out",
    ):
        redo_file(tiny, folder / SOURCE, folder / RESULT, [HARD], report)
    (report / RECORD).write_text(json.dumps(record | {"output": None}))
    with pytest.raises(PatchScalerError, match=r"rep: what the report says cannot be followed"):
        redo_file(tiny, folder / SOURCE, folder / RESULT, [HARD], report)
    assert (folder / RESULT).read_bytes() == before
