"""The refiner after `compact`'s Patch-DiT: where it draws, what that costs, the same picture by
every path.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from patchscaler.config import RefinerConfig
from patchscaler.dials import speed
from patchscaler.dials.boxes import Change, patches_in
from patchscaler.dials.redo import Made, redo
from patchscaler.enlarge import upscale_to_size
from patchscaler.evaluation.cost.flops import network_flops
from patchscaler.evaluation.cost.measure import measure_picture, shares_of_peak
from patchscaler.models.refiner import Refiner
from patchscaler.patching import blended, make_grid
from patchscaler.pipeline import PatchScaler
from patchscaler.refining import (
    CONTEXT,
    latents_refined,
    looked_at,
    refine_tile,
    refined_parts,
    sampled_share,
    tiles_of,
)
from patchscaler.streaming.files import upscale_file

REFINER = RefinerConfig(8, 1)


class Says(nn.Module):
    """A refiner that keeps what it was shown and draws a shade."""

    def __init__(self, shade: float = 0.5):
        super().__init__()
        self.shade, self.shown = shade, []

    def refine(self, pixels, small):
        self.shown.append((pixels, small))
        return torch.full((1, 3, *pixels.shape[-2:]), self.shade)


@pytest.fixture
def refining(tiny) -> PatchScaler:
    """The tiny model with a random refiner.

    Its 8 channels of 192 do not hold a drawing; that is not the question.
    """
    torch.manual_seed(0)
    config = replace(tiny.config, refiner=REFINER)
    return PatchScaler(config, tiny.networks | {"refiner": Refiner(REFINER)}, tiny.memory)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- where it draws -------------------------------------------------------------------------------


def test_the_refiner_sees_pixels_as_the_autoencoder_decodes_them(refining):
    says = refining.networks["refiner"] = Says()
    latents, coarse = torch.randn(2, 8, 4, 5)
    small = torch.rand(3, 8, 10)
    added = refine_tile(refining, latents, coarse, small)
    pixels, shown = says.shown[0]
    assert torch.allclose(pixels[0, :3], refining.autoencoder.decode(latents[None])[0], atol=1e-5)
    assert torch.allclose(pixels[0, 3:], refining.autoencoder.decode(coarse[None])[0], atol=1e-5)
    assert torch.equal(shown[0], small)
    shade = refining.autoencoder.encode(torch.full((1, 3, 32, 40), 0.5))[0]
    # the drawing stands in place of the coarse picture
    assert torch.allclose(coarse + added, shade, atol=1e-4)


def test_a_sampled_share_is_what_fusing_gives_each_patch():
    grid = make_grid(30, 41, 16, 4)
    sampled = torch.rand(len(grid), generator=torch.Generator().manual_seed(1)) < 0.5
    whole = torch.from_numpy(blended(sampled.numpy().astype(np.float32), grid))
    assert torch.allclose(
        sampled_share(sampled, grid, slice(0, 30), slice(0, 41)), whole, atol=1e-6
    )
    assert torch.equal(
        sampled_share(sampled, grid, slice(7, 23), slice(11, 12)),
        sampled_share(sampled, grid, slice(0, 30), slice(0, 41))[7:23, 11:12],
    )


def test_only_what_holds_sampled_patches_is_drawn():
    grid = make_grid(96, 160, 16, 4)
    sampled = torch.zeros(len(grid), dtype=torch.bool)
    assert list(refined_parts(sampled, grid)) == [] and latents_refined(sampled, grid) == 0
    corner = grid.corners().index((24, 36))  # latents 24 to 40, 36 to 52
    sampled[corner] = True
    ((part, share),) = refined_parts(sampled, grid)  # tiles of 48 x 54
    assert (part.rows.start, part.rows.stop, part.columns.start, part.columns.stop) == (
        24,
        40,
        36,
        52,
    )
    assert (part.rows.low, part.rows.high) == (24 - CONTEXT, 40 + CONTEXT)
    assert share[8, 8] == 1 and 0 < share[0, 0] < 0.5
    sampled[corner + 1] = True  # latents 48 to 64, over the edge of two tiles
    left, right = (part for part, _ in refined_parts(sampled, grid))
    assert (left.columns.stop, right.columns.start) == (54, 54)
    assert right.columns.low == 54 - CONTEXT and latents_refined(sampled, grid) == looked_at(
        left
    ) + looked_at(right)
    sampled[:] = True
    assert sum(share.numel() for _, share in refined_parts(sampled, grid)) == 96 * 160


def test_a_tile_is_cut_where_that_leaves_less_to_draw():
    grid = make_grid(64, 64, 16, 4)
    for chosen in ([0, 24], [0, 1, 2, 3, 4, 5, 10, 15, 20]):  # two corners; two edges
        sampled = torch.zeros(25, dtype=torch.bool)
        sampled[chosen] = True
        parts = list(refined_parts(sampled, grid))
        total = torch.zeros(64, 64)
        for part, share in parts:
            total[part.rows.start : part.rows.stop, part.columns.start : part.columns.stop] += share
        assert len(parts) == 2 and torch.equal(
            total, sampled_share(sampled, grid, slice(0, 64), slice(0, 64))
        )
        assert sum(looked_at(part) for part, _ in parts) < 0.65 * 64**2
    assert len(list(refined_parts(torch.ones(25, dtype=torch.bool), grid))) == 1


def test_a_budget_in_seconds_counts_the_drawing(refining, monkeypatch):
    monkeypatch.setattr(speed, "seconds_per_evaluation", lambda *_: 1e-9)
    monkeypatch.setattr(speed, "seconds_of_decoding", lambda *_: 1.0)
    monkeypatch.setattr(speed, "seconds_per_refined", lambda *_: 1.0)
    image, before = picture(150, 180), 0
    for seconds in (2, 1000, 4000, 9000):
        drawn = refining.upscale(image, budget=f"{seconds}s").cost["latents_refined"]
        assert drawn <= seconds - 1 and drawn >= before
        before = drawn
    assert before == refining.upscale(image, budget=1.0).cost["latents_refined"]  # all of it
    assert refining.upscale(image, budget="4000s").cost["latents_refined"] > 1500


def test_a_benchmark_counts_and_times_the_drawing(refining):
    measured = measure_picture(refining, picture(40, 48), 2)
    shares = shares_of_peak(network_flops(refining, 40, 48), measured, 1e12)
    assert shares["refining"] > 0 and measured.stages["refining"] > 0


def test_a_dry_run_and_an_estimate_tell_of_the_drawing(refining, tmp_path):
    Image.fromarray(picture(60, 60)).save(tmp_path / "in.png")
    dry = upscale_file(refining, tmp_path / "in.png", tmp_path / "out.png", dry_run=True)
    assert list(dry.estimate.seconds) == ["restoring", "sampling", "refining", "decoding"]
    assert list(speed.estimate(refining, picture(60, 60), {}).seconds) == list(dry.estimate.seconds)


def test_simple_patches_are_not_drawn(refining):
    image = picture(40, 48)
    config = replace(refining.config.groups, thresholds=(1.0, 0.0), num_inference_steps=(0, 1, 1))
    nothing = refining.upscale(image, groups=replace(config, thresholds=(0.0, 0.0)))
    assert nothing.cost["latents_refined"] == 0
    refining.networks["refiner"] = Says()
    again = refining.upscale(image, groups=replace(config, thresholds=(0.0, 0.0)))
    assert np.array_equal(nothing.array, again.array) and not refining.refiner.shown
    drawn = refining.upscale(image, groups=config)
    assert drawn.cost["latents_refined"] == 20 * 24 and not np.array_equal(
        nothing.array, drawn.array
    )


def test_operations_of_the_drawing_are_counted(refining):
    result = refining.upscale(
        picture(40, 48), groups=replace(refining.config.groups, thresholds=(1.0, 0.0))
    )
    parts = network_flops(refining, 40, 48).of_picture(result.cost)
    assert set(result.cost["seconds"]) == set(parts) - {"total"}
    # features; the enlargement works on 4 and 16 times as many, on 68 rows where 64 are counted
    small = 48 * 40
    dense = 3 * sum((8 + 32 * i) * o for i, o in enumerate([32] * 4 + [8]))
    features, enlargement = 99 * 8 + dense + 8 * 8, 4 * 8 * 8 + 16 * (2 * 8 * 8 + 8 * 3)
    # of the two decoded pictures, at half of their side
    correction = 2 * 4 * (12 * 4 + 4 * 4 + 4 * 12)
    changes_of_basis = 20 * 24 * 3 * 8 * 192  # two pictures decoded, one encoded
    counted = small * 9 * (features + enlargement * 68 / 64 + correction) + changes_of_basis
    assert parts["refining"] == pytest.approx(2 * counted, rel=1e-3)


def test_progress_counts_the_drawing(refining):
    told = []
    refining.upscale(picture(40, 48), progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] and [d for d, _ in told] == sorted(d for d, _ in told)


def test_a_picture_in_bands_is_the_picture():
    refiner = Refiner(REFINER)
    # three bands of features, the last one short
    pixels, small = torch.rand(1, 6, 304, 64), torch.rand(1, 3, 76, 16)
    with torch.inference_mode():
        assert torch.allclose(refiner.refine(pixels, small), refiner(pixels, small), atol=1e-5)


def test_windows_draw_what_memory_draws(refining, tmp_path):
    """Windows that are no multiples of tiles, more than one tile, some of it simple."""
    image = Image.fromarray(picture(150, 180))
    image.save(tmp_path / "in.png")
    scores = refining.upscale(image, groups=refining.config.groups).scores
    groups = replace(
        refining.config.groups,
        thresholds=(float(np.quantile(scores, 0.7)), 0.0),
        num_inference_steps=(0, 1, 1),
    )
    whole = refining.upscale(image, groups=groups)
    upscale_file(refining, tmp_path / "in.png", tmp_path / "out.png", window=44, groups=groups)
    windows = np.asarray(Image.open(tmp_path / "out.png"), int)
    assert len(tiles_of(whole.grid.height, whole.grid.width)) == 4
    assert np.abs(windows - whole.array).max() <= 2
    plain = refining.upscale(image, groups=replace(groups, thresholds=(0.0, 0.0)))
    assert np.abs(plain.array.astype(int) - whole.array).max() > 20


def test_a_killed_run_goes_on_with_the_tiles_it_had_drawn(refining, tmp_path, monkeypatch):
    Image.fromarray(picture(150, 180)).save(tmp_path / "in.png")
    call = lambda: upscale_file(refining, tmp_path / "in.png", tmp_path / "out.png", window=60)  # noqa: E731
    call()
    whole = np.asarray(Image.open(tmp_path / "out.png"), int)
    (tmp_path / "out.png").unlink()
    drawn = []

    def killed(*arguments):
        drawn.append(1)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return refine_tile(*arguments)

    monkeypatch.setattr("patchscaler.refining.refine_tile", killed)
    with pytest.raises(KeyboardInterrupt):
        call()
    call()
    assert len(drawn) == 3 + 2  # of four tiles, two were kept
    assert np.abs(np.asarray(Image.open(tmp_path / "out.png"), int) - whole).max() <= 1


def test_a_box_made_again_is_what_a_whole_run_gives(refining):
    image = Image.fromarray(picture(150, 180))
    whole = refining.upscale(image, groups=refining.config.groups)
    change = Change((20, 30, 40, 50), group=0)
    made = Made(
        whole.array,
        {"period": None, "color": "wavelet", "changes": (), "groups": refining.config.groups},
        whole.groups,
        whole.config,
    )
    told: list[tuple[int, int]] = []
    again = redo(refining, image, made, [change], lambda *step: told.append(step))
    assert told[-1][0] == told[-1][1] > int((whole.groups > 0).sum())  # the drawing, too
    expected = refining.upscale(image, groups=refining.config.groups, changes=(change,))
    inside = np.zeros(whole.array.shape[:2], bool)
    for i in patches_in(change.box, whole.grid, refining.step, (150, 180)):
        y, x = (8 * side for side in whole.grid.corners()[i])
        inside[y : y + 128, x : x + 128] = True
    assert np.abs(again.array.astype(int) - expected.array)[inside].max() <= 1
    assert (again.array != whole.array).any(-1)[inside].mean() > 0.3
    assert np.array_equal(again.array[~inside], whole.array[~inside])


def test_a_refiner_is_saved_and_loaded(refining, tmp_path):
    refining.save_pretrained(tmp_path, half=False)
    again = PatchScaler.from_pretrained(tmp_path, device="cpu")
    image = picture(40, 48)
    # halves in memory
    assert np.abs(again.upscale(image).array.astype(int) - refining.upscale(image).array).max() <= 1
    assert "refiner.safetensors" in (tmp_path / "README.md").read_text()


def test_a_tile_of_a_texture_is_drawn_with_itself_around(refining):
    says = refining.networks["refiner"] = Says()
    height, width = 32, 32
    made = upscale_to_size(refining, picture(height, width), tileable=True, budget="best")
    assert made.array.shape == (4 * height, 4 * width, 3)
    parts = [small for _, small in says.shown]  # tiles of the picture with itself around
    wider = [small for small in parts if small.shape[-2] > height and small.shape[-1] > width]
    assert wider and sum(small[0].numel() for small in parts) > 4 * height * width
    for small in wider:
        assert torch.equal(small[..., height:, :], small[..., :-height, :])
        assert torch.equal(small[..., width:], small[..., :-width])
    says.shown.clear()
    upscale_to_size(refining, picture(height, width), budget="best")
    assert says.shown[0][1].shape[-2:] == (height, width)  # and a picture is drawn alone


def test_sixteen_times_draws_in_each_pass(refining):
    made = upscale_to_size(refining, picture(16, 20), 16.0, budget="best")
    assert made.array.shape == (256, 320, 3) and len(made.passes) == 2
    assert all(result.cost["latents_refined"] > 0 for result in made.passes)


def test_onnx_runtime_draws_the_same(refining, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from patchscaler.engines.onnx.engine import use_engine

    refining.save_pretrained(tmp_path / "model", half=False)
    other = PatchScaler.from_pretrained(tmp_path / "model", device="cpu", dtype="float32")
    use_engine(other, "onnxruntime", tmp_path / "onnx")
    other.refiner.features = None  # torch would fail
    a, b = (scaler.upscale(picture(33, 47), budget="best") for scaler in (refining, other))
    assert a.cost["latents_refined"] == b.cost["latents_refined"] > 0
    assert np.abs(a.array.astype(int) - b.array).max() <= 1
