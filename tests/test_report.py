"""Maps, records, provenance, and finished files redone: figures that can be checked by hand, and
damaged ones.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from patchscaler.dials.boxes import make_change
from patchscaler.dials.invention import cell_moments, invention
from patchscaler.dials.record import (
    make_record,
    options_record,
    provenance,
    read_options,
    read_provenance,
    weights_id,
    weights_of,
)
from patchscaler.dials.report import (
    COLORS,
    blended,
    draw,
    read_maps,
    read_report,
    steps_map,
    write_report,
)
from patchscaler.errors import PatchScalerError
from patchscaler.images.metadata import Metadata
from patchscaler.models.weights import file_hash
from patchscaler.pipeline import PatchScaler

# --- what was invented ----------------------------------------------------------------------------


def test_moments_of_a_known_difference():
    coarse = torch.zeros(3, 16, 20)
    image = coarse.clone()
    image[0, :8, :8] = 10 / 127.5  # one cell ten grey levels redder
    # a cut-off cell of texture
    image[:, 8:, 16:] += torch.tensor([[4.0, -4.0], [-4.0, 4.0]]).repeat(4, 2) / 127.5
    moments = cell_moments(image, coarse, 8)
    assert moments.shape == (4, 2, 3)
    assert moments[:, 0, 0].tolist() == pytest.approx([10, 0, 0, 100 / 3])
    assert moments[:, 1, 2].tolist() == pytest.approx([0, 0, 0, 16], abs=1e-5)
    assert moments[:, 0, 1:].abs().max() == 0


def test_bands_of_a_known_difference():
    moments = np.zeros((4, 30, 40), np.float32)
    moments[:3] = 6  # the whole picture six levels brighter: all low, no high
    moments[3] = 36
    found = invention(moments)
    assert found.low == pytest.approx(np.full((30, 40), 6), abs=1e-4) and found.high.max() < 0.02
    moments[:3] = 0  # texture without a mean: all high
    found = invention(moments)
    assert found.low.max() == 0 and found.high == pytest.approx(np.full((30, 40), 6), abs=1e-4)
    assert found.summary() == {"low_mean": 0, "low_95": 0, "high_mean": 6, "high_95": 6}


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 2), (700, 5)])
def test_bands_do_not_depend_on_the_strips(shape):
    moments = np.random.default_rng(0).random((4, *shape)).astype(np.float32)
    a, b = invention(moments), invention(moments, rows=7)
    assert a.low == pytest.approx(b.low, abs=1e-6) and a.high == pytest.approx(b.high, abs=1e-6)


def test_nothing_is_invented_where_nothing_was_sampled(tiny, picture):
    result = tiny.upscale(picture(64, 128), invention=True, color="none")
    assert result.moments.shape == (4, 32, 64)
    found = invention(result.moments)
    covered = blended((result.groups > 0).astype(float), result.grid)
    far = covered[:, 4:-4] == 0
    assert far.any() and found.low[:, 4:-4][far].max() < 0.5
    assert found.high[covered == 1].mean() > 1
    coarse = tiny.upscale(picture(64, 128), invention=True, color="none", budget=0)
    assert invention(coarse.moments).high.max() < 0.01
    matched = tiny.upscale(picture(64, 128), invention=True, color="wavelet", budget=0)
    assert invention(matched.moments).low.max() < 0.01  # colours that are matched are not invented
    assert tiny.upscale(picture(32, 32)).moments is None


# --- maps -----------------------------------------------------------------------------------------


def test_steps_are_blended_as_patches_are(tiny, picture):
    result = tiny.upscale(picture(64, 64))
    found = steps_map(result)
    assert found.shape == (32, 32)
    corner = {0: 0, 1: 0.5, 2: 1}[int(result.groups[0])]  # of at most two steps
    assert found[0, 0] == pytest.approx(corner)
    assert found.min() >= 0 and found.max() <= 1 + 1e-6
    ones = blended(np.ones(len(result.groups)), result.grid)
    assert ones == pytest.approx(np.ones((32, 32)), abs=1e-6)


def test_colours_rise_in_brightness():
    luma = COLORS.astype(float) @ [0.299, 0.587, 0.114]
    assert (np.diff(luma) >= -1.5).all() and luma[0] < 30 and luma[-1] > 220


def test_maps_are_as_large_as_the_picture_up_to_a_limit():
    values = np.zeros((20, 30))
    values[:, 15:] = 1
    image = draw(values, (236, 156), 8)  # the last cells are padding
    assert image.size == (236, 156)
    assert image.getpixel((0, 80)) == tuple(COLORS[0]) and image.getpixel((235, 80)) == tuple(
        COLORS[255]
    )
    assert draw(values, (20_000, 10_000), 8).size == (2048, 1024)


# --- records --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scaler(model_folder) -> PatchScaler:
    return PatchScaler.from_pretrained(model_folder, device="cpu", dtype="float32")


def test_options_survive_json(tiny):
    options = tiny.options(
        seed=7,
        fidelity=0.25,
        budget="20s",
        color="wavelet",
        prompt=False,
        origin=(2, 4),
        period=(32, 64),
        changes=(make_change((1, 2, 3, 4), "hard", 5),),
    )
    again = tiny.options(**read_options(json.loads(json.dumps(options_record(options)))))
    assert options_record(again) == options_record(options)
    assert again.groups == options.groups  # fidelity is applied once, not twice
    with pytest.raises(PatchScalerError, match="the record of the earlier run is damaged"):
        read_options({"seed": 1})


def test_hashes_are_those_of_the_files(scaler, model_folder, tiny):
    weights = weights_of(scaler)
    assert weights["patch_dit"] == file_hash(model_folder / "patch_dit.safetensors")
    assert weights["memory"] == file_hash(model_folder / "memory.safetensors") and set(weights) == {
        *scaler.networks,
        "memory",
    }
    assert weights_id(weights) == weights_id(weights_of(scaler)) != weights_id(weights_of(tiny))
    assert len(weights_of(tiny)["grm"]) == 64  # never in a file: of its numbers


def test_a_record_repeats_the_run(scaler, picture):
    image = picture(64, 96)
    result = scaler.upscale(
        image, seed=3, budget=0.5, fidelity=0.2, changes=[make_change((0, 0, 8, 8), "hard", 9)]
    )
    record = json.loads(
        json.dumps(make_record(scaler, result, {}, {}, (384, 256), weights_of(scaler)))
    )
    again = scaler.upscale(image, **read_options(record["options"]))
    assert np.array_equal(result.array, again.array)
    assert record["patches"]["groups"] == again.groups.tolist()
    assert record["cost"]["evaluations_total"] == result.cost["evaluations_total"]
    assert record["software"]["torch"] == torch.__version__ and record["grid"]["rows"] == list(
        result.grid.rows
    )


def test_a_record_names_the_textures(scaler, picture):
    result = scaler.upscale(picture(64, 96))
    record = make_record(scaler, result, {}, {}, (384, 256), {})
    used = result.textures[result.textures >= 0]
    assert sorted(map(int, record["textures"])) == sorted(set(used.tolist()))
    for number, entry in record["textures"].items():
        origin = scaler.memory.origins[int(number)]
        assert entry == {
            "source": origin.source,
            "licence": "CC0-1.0",
            "author": "",
            "patches": int((used == int(number)).sum()),
        }
    fed = [len(row) for row in record["patches"]["textures"]]
    assert fed == [0 if g == 0 else 2 for g in result.groups]


def test_provenance_comes_back_from_xmp(scaler):
    options = scaler.options(seed=5, changes=[make_change((1, 2, 3, 4), "hard")])
    facts = provenance(scaler, options, {"grm": "x"}, "abc")
    xmp = Metadata((8, 8)).with_provenance(facts).xmp
    assert read_provenance(xmp) == facts
    assert (
        json.loads(facts["Options"])["changes"][0]["box"] == [1, 2, 3, 4] and facts["Seed"] == "5"
    )
    assert read_provenance(None) == {} == read_provenance(b"<x:xmpmeta/>")


# --- reports --------------------------------------------------------------------------------------


def report_of(scaler: PatchScaler, image: Image.Image, folder: Path) -> dict:
    result = scaler.upscale(image, invention=True)
    h, w = result.array.shape[:2]
    record = make_record(
        scaler, result, {"name": "a"}, {"width": w, "height": h}, (w, h), weights_of(scaler)
    )
    write_report(folder, result, record, result.confidence, result.moments)
    return record


def test_a_report_is_complete(scaler, picture, tmp_path):
    record = report_of(scaler, picture(40, 70), tmp_path / "rep")
    names = [
        "difficulty.png",
        "invention_high.png",
        "invention_low.png",
        "maps.npz",
        "run.json",
        "steps.png",
    ]
    assert sorted(p.name for p in (tmp_path / "rep").iterdir()) == names
    for name in names:
        assert not name.endswith(".png") or Image.open(tmp_path / "rep" / name).size == (280, 160)
    stored = read_report(tmp_path / "rep")
    assert (
        stored["patches"] == record["patches"]
        and stored["invention"]["unit"] == "grey levels of 255"
    )
    confidence, moments = read_maps(tmp_path / "rep")
    assert confidence.shape == (20, 35) and moments.shape == (4, 20, 35)


def test_a_report_without_moments_has_no_invention(scaler, picture, tmp_path):
    result = scaler.upscale(picture(40, 70))
    record = make_record(scaler, result, {}, {}, (280, 160), {})
    written = write_report(tmp_path, result, record, result.confidence, None)
    assert sorted(p.name for p in written) == [
        "difficulty.png",
        "maps.npz",
        "run.json",
        "steps.png",
    ]
    assert read_maps(tmp_path)[1] is None and "invention" not in read_report(tmp_path)


def test_reports_that_cannot_be(scaler, picture, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PatchScalerError, match="the report cannot be written"):
        report_of(scaler, picture(32, 32), tmp_path / "file")
    with pytest.raises(PatchScalerError, match="holds no report"):
        read_report(tmp_path)
    for text in ("{", "[]", '{"a": 1}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(PatchScalerError, match="damaged; make the report again"):
            read_report(tmp_path)
    (tmp_path / "run.json").write_text('{"format": 99}')
    with pytest.raises(PatchScalerError, match="written by another version"):
        read_report(tmp_path)
    (tmp_path / "maps.npz").write_bytes(b"PK")
    with pytest.raises(PatchScalerError, match="missing or damaged"):
        read_maps(tmp_path)
