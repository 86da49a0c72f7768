"""The drawer after `compact`'s Patch-DiT: where it draws, how it begins, what it learns from; a teacher's pictures."""

import ast
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from patchscaler.checkpoints import save_module
from patchscaler.cli import main
from patchscaler.config import DrawerConfig
from patchscaler.cost.flops import network_flops
from patchscaler.cost.measure import measure_picture, shares_of_peak
from patchscaler.data.coarse import CoarseShards, write_teacher
from patchscaler.dials import speed
from patchscaler.dials.boxes import Change, patches_in
from patchscaler.dials.redo import Made, redo
from patchscaler.drawing import CONTEXT, drawn_parts, latents_drawn, looked_at, sampled_share, tiles_of
from patchscaler.enlarge import enlarge
from patchscaler.errors import PatchScalerError
from patchscaler.models.drawer import Drawer
from patchscaler.patches import blended, make_grid
from patchscaler.pipeline import PatchScaler
from patchscaler.streaming.files import upscale_file
from patchscaler.training.commands import ModelFolder
from patchscaler.training.drawing import DistilTrainer
from patchscaler.training.few_step import FewStepStage

DRAWER = DrawerConfig(8, 1)


class Says(nn.Module):
    """A drawer that keeps what it was shown and draws a shade."""

    def __init__(self, shade: float = 0.5):
        super().__init__()
        self.shade, self.shown = shade, []

    def draw(self, pixels, small):
        self.shown.append((pixels, small))
        return torch.full((1, 3, *pixels.shape[-2:]), self.shade)


@pytest.fixture
def drawing(tiny) -> PatchScaler:
    """The tiny model with a random drawer. Its 8 channels of 192 do not hold a drawing; that is not the question."""
    torch.manual_seed(0)
    config = replace(tiny.config, drawer=DRAWER)
    return PatchScaler(config, tiny.networks | {"drawer": Drawer(DRAWER)}, tiny.memory)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- where it draws -------------------------------------------------------------------------------


def test_the_drawer_sees_pixels_as_the_autoencoder_decodes_them(drawing):
    says = drawing.networks["drawer"] = Says()
    latents, coarse = torch.randn(2, 8, 4, 5)
    small = torch.rand(3, 8, 10)
    added = drawing.draw(latents, coarse, small)
    pixels, shown = says.shown[0]
    assert torch.allclose(pixels[0, :3], drawing.autoencoder.decode(latents[None])[0], atol=1e-5)
    assert torch.allclose(pixels[0, 3:], drawing.autoencoder.decode(coarse[None])[0], atol=1e-5)
    assert torch.equal(shown[0], small)
    shade = drawing.autoencoder.encode(torch.full((1, 3, 32, 40), 0.5))[0]
    assert torch.allclose(coarse + added, shade, atol=1e-4)  # the drawing stands in place of the coarse picture


def test_a_sampled_share_is_what_fusing_gives_each_patch():
    grid = make_grid(30, 41, 16, 4)
    sampled = torch.rand(len(grid), generator=torch.Generator().manual_seed(1)) < 0.5
    whole = torch.from_numpy(blended(sampled.numpy().astype(np.float32), grid))
    assert torch.allclose(sampled_share(sampled, grid, slice(0, 30), slice(0, 41)), whole, atol=1e-6)
    assert torch.equal(
        sampled_share(sampled, grid, slice(7, 23), slice(11, 12)),
        sampled_share(sampled, grid, slice(0, 30), slice(0, 41))[7:23, 11:12],
    )


def test_only_what_holds_sampled_patches_is_drawn():
    grid = make_grid(96, 160, 16, 4)
    sampled = torch.zeros(len(grid), dtype=torch.bool)
    assert list(drawn_parts(sampled, grid)) == [] and latents_drawn(sampled, grid) == 0
    corner = grid.corners().index((24, 36))  # latents 24 to 40, 36 to 52
    sampled[corner] = True
    ((part, share),) = drawn_parts(sampled, grid)  # tiles of 48 x 54
    assert (part.rows.start, part.rows.stop, part.columns.start, part.columns.stop) == (24, 40, 36, 52)
    assert (part.rows.low, part.rows.high) == (24 - CONTEXT, 40 + CONTEXT)
    assert share[8, 8] == 1 and 0 < share[0, 0] < 0.5
    sampled[corner + 1] = True  # latents 48 to 64, over the edge of two tiles
    left, right = (part for part, _ in drawn_parts(sampled, grid))
    assert (left.columns.stop, right.columns.start) == (54, 54)
    assert right.columns.low == 54 - CONTEXT and latents_drawn(sampled, grid) == looked_at(left) + looked_at(right)
    sampled[:] = True
    assert sum(share.numel() for _, share in drawn_parts(sampled, grid)) == 96 * 160


def test_a_tile_is_cut_where_that_leaves_less_to_draw():
    grid = make_grid(64, 64, 16, 4)
    for chosen in ([0, 24], [0, 1, 2, 3, 4, 5, 10, 15, 20]):  # two corners; two edges
        sampled = torch.zeros(25, dtype=torch.bool)
        sampled[chosen] = True
        parts = list(drawn_parts(sampled, grid))
        total = torch.zeros(64, 64)
        for part, share in parts:
            total[part.rows.start : part.rows.stop, part.columns.start : part.columns.stop] += share
        assert len(parts) == 2 and torch.equal(total, sampled_share(sampled, grid, slice(0, 64), slice(0, 64)))
        assert sum(looked_at(part) for part, _ in parts) < 0.65 * 64**2
    assert len(list(drawn_parts(torch.ones(25, dtype=torch.bool), grid))) == 1


def test_a_budget_in_seconds_counts_the_drawing(drawing, monkeypatch):
    monkeypatch.setattr(speed, "seconds_per_evaluation", lambda *_: 1e-9)
    monkeypatch.setattr(speed, "seconds_of_decoding", lambda *_: 1.0)
    monkeypatch.setattr(speed, "seconds_per_drawn", lambda *_: 1.0)
    image, before = picture(150, 180), 0
    for seconds in (2, 1000, 4000, 9000):
        drawn = drawing.upscale(image, budget=f"{seconds}s").cost["latents_drawn"]
        assert drawn <= seconds - 1 and drawn >= before
        before = drawn
    assert before == drawing.upscale(image, budget=1.0).cost["latents_drawn"]  # all of it
    assert drawing.upscale(image, budget="4000s").cost["latents_drawn"] > 1500


def test_a_benchmark_counts_and_times_the_drawing(drawing):
    measured = measure_picture(drawing, picture(40, 48), 2)
    shares = shares_of_peak(network_flops(drawing, 40, 48), measured, 1e12)
    assert shares["drawing"] > 0 and measured.stages["drawing"] > 0


def test_a_dry_run_and_an_estimate_tell_of_the_drawing(drawing, tmp_path):
    Image.fromarray(picture(60, 60)).save(tmp_path / "in.png")
    dry = upscale_file(drawing, tmp_path / "in.png", tmp_path / "out.png", dry_run=True)
    assert list(dry.estimate.seconds) == ["restoring", "sampling", "drawing", "decoding"]
    assert list(speed.estimate(drawing, picture(60, 60), {}).seconds) == list(dry.estimate.seconds)


def test_simple_patches_are_not_drawn(drawing):
    image = picture(40, 48)
    config = replace(drawing.config.groups, thresholds=(1.0, 0.0), num_inference_steps=(0, 1, 1))
    nothing = drawing.upscale(image, groups=replace(config, thresholds=(0.0, 0.0)))
    assert nothing.cost["latents_drawn"] == 0
    drawing.networks["drawer"] = Says()
    again = drawing.upscale(image, groups=replace(config, thresholds=(0.0, 0.0)))
    assert np.array_equal(nothing.array, again.array) and not drawing.drawer.shown
    drawn = drawing.upscale(image, groups=config)
    assert drawn.cost["latents_drawn"] == 20 * 24 and not np.array_equal(nothing.array, drawn.array)


def test_operations_of_the_drawing_are_counted(drawing):
    result = drawing.upscale(picture(40, 48), groups=replace(drawing.config.groups, thresholds=(1.0, 0.0)))
    parts = network_flops(drawing, 40, 48).of_picture(result.cost)
    assert set(result.cost["seconds"]) == set(parts) - {"total"}
    small = 48 * 40  # features; the enlargement works on 4 and 16 times as many, on 68 rows where 64 are counted
    dense = 3 * sum((8 + 32 * i) * o for i, o in enumerate([32] * 4 + [8]))
    features, enlargement = 99 * 8 + dense + 8 * 8, 4 * 8 * 8 + 16 * (2 * 8 * 8 + 8 * 3)
    correction = 2 * 4 * (12 * 4 + 4 * 4 + 4 * 12)  # of the two decoded pictures, at half of their side
    changes_of_basis = 20 * 24 * 3 * 8 * 192  # two pictures decoded, one encoded
    counted = small * 9 * (features + enlargement * 68 / 64 + correction) + changes_of_basis
    assert parts["drawing"] == pytest.approx(2 * counted, rel=1e-3)


def test_progress_counts_the_drawing(drawing):
    told = []
    drawing.upscale(picture(40, 48), progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] and [d for d, _ in told] == sorted(d for d, _ in told)


def test_a_picture_in_bands_is_the_picture():
    drawer = Drawer(DRAWER)
    pixels, small = torch.rand(1, 6, 304, 64), torch.rand(1, 3, 76, 16)  # three bands of features, the last one short
    with torch.inference_mode():
        assert torch.allclose(drawer.draw(pixels, small), drawer(pixels, small), atol=1e-5)


def test_windows_draw_what_memory_draws(drawing, tmp_path):
    """Windows that are no multiples of tiles, more than one tile, some of it simple."""
    image = Image.fromarray(picture(150, 180))
    image.save(tmp_path / "in.png")
    scores = drawing.upscale(image, groups=drawing.config.groups).scores
    groups = replace(
        drawing.config.groups, thresholds=(float(np.quantile(scores, 0.7)), 0.0), num_inference_steps=(0, 1, 1)
    )
    whole = drawing.upscale(image, groups=groups)
    upscale_file(drawing, tmp_path / "in.png", tmp_path / "out.png", window=44, groups=groups)
    windows = np.asarray(Image.open(tmp_path / "out.png"), int)
    assert len(tiles_of(whole.grid.height, whole.grid.width)) == 4
    assert np.abs(windows - whole.array).max() <= 2
    plain = drawing.upscale(image, groups=replace(groups, thresholds=(0.0, 0.0)))
    assert np.abs(plain.array.astype(int) - whole.array).max() > 20


def test_a_killed_run_goes_on_with_the_tiles_it_had_drawn(drawing, tmp_path, monkeypatch):
    Image.fromarray(picture(150, 180)).save(tmp_path / "in.png")
    call = lambda: upscale_file(drawing, tmp_path / "in.png", tmp_path / "out.png", window=60)  # noqa: E731
    call()
    whole = np.asarray(Image.open(tmp_path / "out.png"), int)
    (tmp_path / "out.png").unlink()
    drawn, draw = [], type(drawing).draw

    def killed(self, *arguments):
        drawn.append(1)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw(self, *arguments)

    monkeypatch.setattr(type(drawing), "draw", killed)
    with pytest.raises(KeyboardInterrupt):
        call()
    call()
    assert len(drawn) == 3 + 2  # of four tiles, two were kept
    assert np.abs(np.asarray(Image.open(tmp_path / "out.png"), int) - whole).max() <= 1


def test_a_box_made_again_is_what_a_whole_run_gives(drawing):
    image = Image.fromarray(picture(150, 180))
    whole = drawing.upscale(image, groups=drawing.config.groups)
    change = Change((20, 30, 40, 50), group=0)
    made = Made(
        whole.array, {"period": None, "colour": "wavelet", "changes": (), "groups": drawing.config.groups},
        whole.groups, whole.config,
    )  # fmt: skip
    told: list[tuple[int, int]] = []
    again = redo(drawing, image, made, [change], lambda *step: told.append(step))
    assert told[-1][0] == told[-1][1] > int((whole.groups > 0).sum())  # the drawing, too
    expected = drawing.upscale(image, groups=drawing.config.groups, changes=(change,))
    inside = np.zeros(whole.array.shape[:2], bool)
    for i in patches_in(change.box, whole.grid, drawing.step, (150, 180)):
        y, x = (8 * side for side in whole.grid.corners()[i])
        inside[y : y + 128, x : x + 128] = True
    assert np.abs(again.array.astype(int) - expected.array)[inside].max() <= 1
    assert (again.array != whole.array).any(-1)[inside].mean() > 0.3
    assert np.array_equal(again.array[~inside], whole.array[~inside])


def test_a_drawer_is_saved_and_loaded(drawing, tmp_path):
    drawing.save_pretrained(tmp_path, half=False)
    again = PatchScaler.from_pretrained(tmp_path, device="cpu")
    image = picture(40, 48)
    assert np.abs(again.upscale(image).array.astype(int) - drawing.upscale(image).array).max() <= 1  # halves in memory
    assert "drawer.safetensors" in (tmp_path / "README.md").read_text()


def test_the_last_stage_takes_gradients_into_patch_dit_and_drawer(tmp_path, tiny):
    folder = with_drawer(tmp_path, tiny)
    network, encoder, drawer = folder.patch_dit(), folder.texture_encoder(), folder.drawer()
    rng = np.random.default_rng(0)
    shards = tmp_path / "data"
    shards.mkdir()
    for name, shape in (("hr", (2, 160, 160, 3)), ("lr", (2, 1, 40, 40, 3)), ("coarse", (2, 1, 160, 160, 3))):
        np.save(shards / f"0000_{name}.npy", rng.integers(0, 256, shape, dtype=np.uint8))
    np.save(shards / "0000_confidence.npy", np.full((2, 1, 20, 20), 0.5, np.float16))
    data = CoarseShards(shards)
    weights = {"lpips": 0.0, "gan": 0.0, "pattern": 0.0}
    stage = FewStepStage(
        folder.frozen(), network, encoder, drawer, data, data, batch_size=1, side=20, weights=weights
    )  # fmt: skip
    batch = stage.batch(np.random.default_rng(0), torch.Generator().manual_seed(0))
    loss, _ = stage.generator(batch)
    loss.backward()
    assert network.out.weight.grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in drawer.parameters())


# --- the teacher ----------------------------------------------------------------------------------


def test_teacher_pictures_are_cut_and_turned_with_their_regions(tmp_path):
    rng = np.random.default_rng(0)
    n, tile = 3, 64
    for name, shape in (("hr", (n, tile, tile, 3)), ("lr", (n, 2, 16, 16, 3)), ("coarse", (n, 2, tile, tile, 3))):
        np.save(tmp_path / f"0000_{name}.npy", rng.integers(0, 256, shape, dtype=np.uint8))
    np.save(tmp_path / "0000_confidence.npy", np.full((n, 2, 8, 8), 0.5, np.float16))
    enlarge = lambda lr: lr.repeat(4, 0).repeat(4, 1)  # noqa: E731
    assert write_teacher(tmp_path, enlarge, 1, 0) == 1
    assert write_teacher(tmp_path, enlarge, 1, 0) == 0  # done already
    shards = CoarseShards(tmp_path)
    regions = shards.draw(40, 4, 8, np.random.default_rng(1))
    taught, (_, hr) = shards.taught(regions, 4, 8), shards.read(regions, 4, 8)
    assert taught.shape == (40, 3, 32, 32)
    for region, picture, truth in zip(regions, taught, hr, strict=True):
        if region.variant:  # only the first degradation was shown to the teacher
            assert torch.equal(picture, truth)
        else:
            blocks = picture.unflatten(1, (8, 4)).unflatten(3, (8, 4))
            assert torch.equal(blocks, blocks[:, :, :1, :, :1].expand_as(blocks)) and not torch.equal(picture, truth)


def test_a_tile_of_a_texture_is_drawn_with_itself_around(drawing):
    """Noise meets itself and so does what is drawn: rolled by the patches' stride, the picture is the result rolled."""
    stride = 2 * (drawing.config.groups.latent_patch_size - drawing.config.groups.overlap)
    tile = picture(2 * stride, 3 * stride)
    made = enlarge(drawing, tile, tileable=True, budget="best")
    assert made.array.shape == (8 * stride, 12 * stride, 3) and made.passes[0].cost["latents_drawn"] > 0
    across = [np.abs(np.diff(made.array.astype(int), axis=a, append=made.array.take([0], a))) for a in (0, 1)]
    assert across[0][-1].mean() <= 1.05 * across[0].mean((1, 2)).max()
    assert across[1][:, -1].mean() <= 1.05 * across[1].mean((0, 2)).max()


def test_sixteen_times_draws_in_each_pass(drawing):
    made = enlarge(drawing, picture(16, 20), 16.0, budget="best")
    assert made.array.shape == (256, 320, 3) and len(made.passes) == 2
    assert all(result.cost["latents_drawn"] > 0 for result in made.passes)


def test_onnx_runtime_draws_the_same(drawing, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from patchscaler.onnx.engine import use_engine

    drawing.save_pretrained(tmp_path / "model", half=False)
    other = PatchScaler.from_pretrained(tmp_path / "model", device="cpu", dtype="float32")
    use_engine(other, "onnxruntime", tmp_path / "onnx")
    other.drawer.features = None  # torch would fail
    a, b = (scaler.upscale(picture(33, 47), budget="best") for scaler in (drawing, other))
    assert a.cost["latents_drawn"] == b.cost["latents_drawn"] > 0
    assert np.abs(a.array.astype(int) - b.array).max() <= 1


# --- from an ESRGAN -------------------------------------------------------------------------------


def esrgan(width: int = 8, blocks: int = 2) -> dict[str, torch.Tensor]:
    """Random weights of an ESRGAN with such names."""
    generator = torch.Generator().manual_seed(1)

    def conv(name: str, inside: int, outside: int) -> dict[str, torch.Tensor]:
        weight = torch.randn(outside, inside, 3, 3, generator=generator) / (3 * inside**0.5)
        return {f"{name}.weight": weight, f"{name}.bias": torch.randn(outside, generator=generator) / 9}

    weights = conv("conv_first", 3, width) | conv("conv_last", width, 3)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        weights |= conv(name, width, width)
    for b in range(blocks):
        for r in range(1, 4):
            for k in range(1, 6):
                weights |= conv(f"body.{b}.rdb{r}.conv{k}", width + 32 * (k - 1), width if k == 5 else 32)
    return weights


def reference(weights: dict[str, torch.Tensor], x: torch.Tensor, blocks: tuple[int, ...]) -> torch.Tensor:
    """ESRGAN by its paper: x (N, 3, h, w) in [0, 1] -> (N, 3, 4h, 4w) in [0, 1]."""

    def conv(name: str, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)

    def bent(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.leaky_relu(x, 0.2)

    first = h = conv("conv_first", x)
    for b in blocks:
        inner = h
        for r in range(1, 4):
            maps = [inner]
            for k in range(1, 5):
                maps.append(bent(conv(f"body.{b}.rdb{r}.conv{k}", torch.cat(maps, 1))))
            inner = inner + 0.2 * conv(f"body.{b}.rdb{r}.conv5", torch.cat(maps, 1))
        h = h + 0.2 * inner
    h = first + conv("conv_body", h)
    for name in ("conv_up1", "conv_up2"):
        h = bent(conv(name, nn.functional.interpolate(h, scale_factor=2, mode="nearest")))
    return conv("conv_last", bent(conv("conv_hr", h)))


def test_a_drawer_from_an_esrgan_is_that_esrgan_on_the_small_picture():
    """Outside of the picture an ESRGAN sees black and the drawer grey: first without blocks, where that stays near."""
    small, weights = torch.rand(2, 3, 8, 8), esrgan()
    given = torch.rand(2, 6, 32, 32), 2 * small - 1  # what x_0 and y_0 are does not matter at the start
    shallow = Drawer(DrawerConfig(8, 0))
    shallow.load_esrgan(weights, ())
    drawn, expected = shallow(*given), 2 * reference(weights, small, ()) - 1
    assert drawn.shape == (2, 3, 32, 32)
    assert torch.allclose(drawn[..., 14:-14, 14:-14], expected[..., 14:-14, 14:-14], atol=1e-5)
    # Then with blocks, on what the biases alone make of any picture.
    weights["conv_first.weight"].zero_()
    deep = Drawer(DrawerConfig(8, 2))
    deep.load_esrgan(weights, (1, 0))
    assert torch.allclose(deep(*given), 2 * reference(weights, small, (1, 0)) - 1, atol=1e-5)
    assert not torch.allclose(deep(*given), 2 * reference(weights, small, (0, 1)) - 1, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"width": 12}, {"blocks": 1}])
def test_another_esrgan_does_not_fit(wrong):
    with pytest.raises(PatchScalerError, match="the ESRGAN network does not fit"):
        Drawer(DrawerConfig(8, 2)).load_esrgan(esrgan(**wrong), (0, 1))


def test_distilling_weighs_an_error_as_the_enlargement_shows_it():
    drawer = Drawer(DrawerConfig(8, 0))
    drawer.load_esrgan(esrgan(), ())
    trainer = DistilTrainer(drawer)
    error = torch.zeros(1, 8, 9, 9)
    error[0, :, 4, 4] = torch.randn(8)
    enlarged = nn.functional.interpolate(error, scale_factor=2.0)
    shown = nn.functional.conv2d(enlarged, drawer.conv_up1.weight, padding=1).square().sum()
    weighed = nn.functional.conv2d(error, trainer.reads[..., None, None]).square().sum()
    assert torch.allclose(weighed, shown, rtol=1e-4)


def test_the_drawer_is_put_there_distilled_and_trained(tmp_path, tiny, capsys):
    """Each stage leaves a model that loads; features come nearer to the whole network's, pictures to the truth."""
    folder, data = tmp_path / "model", tmp_path / "data"
    tiny.save_pretrained(folder)
    save_file(esrgan(blocks=3), tmp_path / "esrgan.safetensors")
    rng = np.random.default_rng(0)
    data.mkdir()
    lr = rng.integers(0, 256, (4, 1, 16, 16, 3), dtype=np.uint8)
    large = lr.repeat(4, 2).repeat(4, 3)
    for name, array in (("lr", lr), ("hr", large[:, 0]), ("coarse", large)):
        np.save(data / f"0000_{name}.npy", array)
    np.save(data / "0000_confidence.npy", np.full((4, 1, 8, 8), 0.5, np.float16))
    common = ["--model", str(folder), "--device", "cpu"]
    network = ["--esrgan", str(tmp_path / "esrgan.safetensors")]
    shards = ["--shards", str(data), "--validation", str(data), "--side", "8", "--batch-size", "2", "--warmup", "1"]
    assert main(["train", "distil", *common, *network, *shards, "--steps", "1"]) == 1
    assert "no drawer; 'patchscaler train graft' puts it there" in capsys.readouterr().err
    assert main(["train", "graft", *common, *network, "--drawer-blocks", "0,2"]) == 0

    def figures(stage: str, steps: int, *options: str) -> dict[str, float]:
        assert main(["train", stage, *common, *shards, "--steps", str(steps), "--no-bf16", *options]) == 0
        return ast.literal_eval(capsys.readouterr().out.splitlines()[-1])

    first = figures("distil", 1, *network, "--lr", "1e-3")["error"]
    assert figures("distil", 30, *network, "--lr", "1e-3")["error"] < 0.8 * first
    losses = ["--lpips", "0", "--gan", "0", "--pattern", "0", "--lr", "3e-3"]
    first = figures("drawing", 1, *losses)["psnr_drawn"]
    assert figures("drawing", 40, *losses)["psnr_drawn"] > first + 1
    assert PatchScaler.from_pretrained(folder, device="cpu").config.drawer.depth == 2


def with_drawer(tmp_path, tiny) -> ModelFolder:
    tiny.save_pretrained(tmp_path, half=False)
    folder = ModelFolder(tmp_path, "tiny", "cpu")
    folder.save_config(replace(folder.config, drawer=DRAWER))
    network, drawer = folder.patch_dit(), Drawer(DRAWER)
    torch.nn.init.normal_(network.out.weight, std=0.1)
    save_module(folder.path("patch_dit"), network, {"network": "patch_dit"}, half=False)
    save_module(folder.path("drawer"), drawer, {"network": "drawer"}, half=False)
    return folder


def test_training_in_a_copy_of_a_saved_model_renews_its_sums(tmp_path, tiny):
    with_drawer(tmp_path, tiny)
    with pytest.raises(PatchScalerError, match="not the file that was saved"):  # this test changed it by hand
        PatchScaler.from_pretrained(tmp_path, device="cpu")
    assert main(["train", "graft", "--model", str(tmp_path), "--device", "cpu", "--keep", "1"]) == 0
    assert len(PatchScaler.from_pretrained(tmp_path, device="cpu").patch_dit.blocks) == 1


def test_a_graft_that_keeps_one_block(tmp_path, tiny):
    folder = with_drawer(tmp_path, tiny)
    old = folder.patch_dit()
    assert main(["train", "graft", "--model", str(tmp_path), "--device", "cpu", "--keep", "1"]) == 0
    new = ModelFolder(tmp_path, "tiny", "cpu").patch_dit()
    assert len(new.blocks) == 1
    assert torch.allclose(new.blocks[0].attention.qkv.weight, old.blocks[1].attention.qkv.weight, atol=1e-3)
    assert torch.equal(folder.drawer().conv_hr.weight, ModelFolder(tmp_path, "tiny", "cpu").drawer().conv_hr.weight)


def test_a_new_drawer_has_the_esrgans_weights(tmp_path, tiny):
    with_drawer(tmp_path, tiny)
    save_file(esrgan(12, 3), tmp_path / "esrgan.safetensors")
    options = ["--model", str(tmp_path), "--device", "cpu", "--esrgan", str(tmp_path / "esrgan.safetensors")]
    assert main(["train", "graft", *options, "--drawer-blocks", "0,2"]) == 0
    folder = ModelFolder(tmp_path, "tiny", "cpu")
    assert folder.config.drawer == DrawerConfig(12, 2)
    pixels, small = torch.rand(1, 6, 32, 32), torch.rand(1, 3, 8, 8) * 2 - 1
    expected = Drawer(DrawerConfig(12, 2))
    expected.load_esrgan(esrgan(12, 3), (0, 2))
    assert torch.allclose(folder.drawer()(pixels, small), expected(pixels, small), atol=0.05)  # half precision
    assert not folder.patch_dit().out.weight.any()  # the transformer says nothing at first


def test_more_blocks_change_nothing_until_they_are_trained(tmp_path, tiny):
    folder = with_drawer(tmp_path, tiny)
    given = torch.rand(1, 6, 32, 32), torch.rand(1, 3, 8, 8) * 2 - 1
    before, said = folder.drawer()(*given), folder.patch_dit().out.weight
    save_file(esrgan(8, 3), tmp_path / "esrgan.safetensors")
    options = ["--model", str(tmp_path), "--device", "cpu", "--esrgan", str(tmp_path / "esrgan.safetensors")]
    assert main(["train", "graft", *options, "--drawer-blocks", "1,2", "--more"]) == 0
    grown = ModelFolder(tmp_path, "tiny", "cpu")
    assert grown.config.drawer == DrawerConfig(8, 3)
    assert torch.allclose(grown.drawer()(*given), before, atol=0.02)  # half precision
    assert torch.allclose(grown.patch_dit().out.weight, said, atol=1e-3)
    source = esrgan(8, 3)["body.2.rdb1.conv1.weight"]
    assert torch.allclose(grown.drawer().blocks[2][0].convs[0].weight, source, atol=1e-3)


def test_a_drawer_in_eight_bits_draws_nearly_the_same(tmp_path, tiny):
    folder = with_drawer(tmp_path, tiny)
    given = torch.rand(1, 6, 32, 32), torch.rand(1, 3, 8, 8) * 2 - 1
    before, size = folder.drawer()(*given), folder.path("drawer").stat().st_size
    assert main(["train", "graft", "--model", str(tmp_path), "--device", "cpu", "--drawer-bits", "8"]) == 0
    after = PatchScaler.from_pretrained(tmp_path, device="cpu", dtype="float32")
    assert after.config.drawer.bits == 8 and folder.path("drawer").stat().st_size < size / 3
    error = (after.drawer(*given) - before).square().mean() / before.var()
    assert 0 < error < 1e-3
    after.save_pretrained(tmp_path / "again")  # what was rounded once is not rounded to anything else
    assert (tmp_path / "again" / "drawer.safetensors").read_bytes() == folder.path("drawer").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--more"], "--more: give --esrgan, whose blocks are put behind the drawer's own"),
        (["--keep", "7"], "--keep 7: Patch-DiT has the blocks 0 to 1"),
        (["--keep", "a"], "--keep a: give numbers separated by commas"),
        (["--esrgan", "other"], "--esrgan: give --drawer-blocks, and weights that have 'conv_first.weight'"),
    ],
)
def test_grafts_that_cannot_be(tmp_path, tiny, capsys, monkeypatch, options, message):
    with_drawer(tmp_path, tiny)
    monkeypatch.chdir(tmp_path)
    save_file({"a": torch.zeros(1)}, "other")
    before = (tmp_path / "patch_dit.safetensors").read_bytes()
    assert main(["train", "graft", "--model", str(tmp_path), "--device", "cpu", *options]) == 1
    assert message in capsys.readouterr().err
    assert (tmp_path / "patch_dit.safetensors").read_bytes() == before
