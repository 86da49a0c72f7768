"""What each `patchscaler train STAGE` does (`apps/cli/train.py` has the options), all working on
one model folder.

A model folder has the layout of `save_pretrained`; every stage reads what it needs from it and
writes its networks to it, and keeps its checkpoint in `training/STAGE` inside. When the last stage
is done, the folder is what `patchscaler upscale --model` takes.
"""

import argparse
import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import torch

from patchscaler.config import ModelConfig, preset
from patchscaler.devices import choose_device
from patchscaler.diffusion.groups import thresholds_for
from patchscaler.errors import PatchScalerError
from patchscaler.models.autoencoder import Autoencoder, PCAAutoencoder, build_autoencoder
from patchscaler.models.checksums import write_text
from patchscaler.models.folder import read_config, with_autoencoder
from patchscaler.models.grm import PixelGRM, build_grm
from patchscaler.models.patch_dit import PatchDiT, TextureEncoder
from patchscaler.models.quantized import find_ranges
from patchscaler.models.refiner import Refiner
from patchscaler.models.text_encoders import CAPTIONER, TEXT_ENCODER, Captioner, TextEncoder
from patchscaler.models.text_projection import TextProjection
from patchscaler.models.texture import TextureClassifier
from patchscaler.models.weights import file_hash, load_module, save_module
from patchscaler.sampling_options import numbers
from patchscaler.texture_memory import TextureMemory
from patchscaler.training.coarse import GRMStage, fit_autoencoder, patch_errors
from patchscaler.training.data.captions import write_captions
from patchscaler.training.data.coarse import CoarseShards, write_coarse, write_teacher
from patchscaler.training.data.shards import PairShards, ShardConfig, parse_mix, write_shards
from patchscaler.training.diffusion import (
    DiffusionStage,
    DiffusionTrainer,
    FrozenParts,
    TextTrainer,
)
from patchscaler.training.few_step import FewStepStage
from patchscaler.training.graft import grafted
from patchscaler.training.loop import LoopConfig, train
from patchscaler.training.picture_loss import WEIGHTS
from patchscaler.training.refining import DistilStage, RefiningStage, coarse_regions
from patchscaler.training.texture import ClassifierStage, LabelledTextures


class ModelFolder:
    """The networks of a model folder, each loaded where it is there and fresh where it is not."""

    def __init__(
        self, folder: str | Path, preset_name: str, device: str, autoencoder: str | None = None
    ):
        self.folder, self.device = Path(folder), device
        file = self.folder / "config.json"
        if not file.exists():
            config = preset(preset_name)
            self.save_config(with_autoencoder(config, Path(autoencoder)) if autoencoder else config)
        self.config = read_config(self.folder, autoencoder)

    def save_config(self, config: ModelConfig) -> None:
        self.config = config
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "config.json", config.to_json() + "\n")

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _fill(self, name: str, network: Any, needed: bool) -> Any:
        if self.path(name).exists():
            load_module(self.path(name), network)
        elif needed:
            raise PatchScalerError(
                f"{self.path(name)} is missing: run the stage that makes it first"
            )
        return network.to(self.device)

    def autoencoder(self, needed: bool = True) -> Autoencoder:
        network = build_autoencoder(self.config.autoencoder)
        return (
            self._fill("autoencoder", network, needed)
            if isinstance(network, PCAAutoencoder)
            else network
        )

    def grm(self, needed: bool = True) -> Any:
        return self._fill(
            "grm", build_grm(self.config.grm, self.config.autoencoder.channels), needed
        )

    def classifier(self, needed: bool = True) -> TextureClassifier:
        return self._fill(
            "classifier", TextureClassifier(self.config.texture, self.channels), needed
        )

    def patch_dit(self, needed: bool = True) -> PatchDiT:
        size = self.config.groups.latent_patch_size
        return self._fill("patch_dit", PatchDiT(self.config.patch_dit, self.channels, size), needed)

    def refiner(self) -> Refiner | None:
        return (
            self._fill("refiner", Refiner(self.config.refiner), True)
            if self.config.refiner.width
            else None
        )

    def texture_encoder(self, needed: bool = True) -> TextureEncoder:
        size = self.config.groups.latent_patch_size
        return self._fill(
            "texture_encoder", TextureEncoder(self.config.patch_dit, self.channels, size), needed
        )

    def memory(self, autoencoder: Autoencoder) -> TextureMemory:
        return TextureMemory.load(
            self.path("memory"), autoencoder, file_hash(self.path("classifier"))
        )

    @property
    def channels(self) -> int:
        return self.config.autoencoder.channels

    def frozen(self) -> FrozenParts:
        autoencoder = self.autoencoder()
        if self.config.text_width:
            return FrozenParts(self.config, autoencoder, None, None, self.device)
        return FrozenParts(
            self.config, autoencoder, self.classifier(), self.memory(autoencoder), self.device
        )

    def text_projection(self, needed: bool = True) -> TextProjection:
        network = TextProjection(self.config.text_width, self.config.patch_dit.hidden_size)
        return self._fill("text_projection", network, needed)

    def take_prompt(self, kind: str, text_width: int) -> None:
        """Settle on `texture` or `text` in the configuration.

        Raises PatchScalerError where the other was trained.
        """
        other = "texture_encoder" if kind == "text" else "text_projection"
        if self.path(other).exists():
            raise PatchScalerError(
                f"{self.folder} holds a model with another prompt ({self.path(other).name}): "
                "copy the folder as it was "
                f"before 'train diffusion', and train the {kind} prompt there"
            )
        if kind == "text":  # such a model retrieves nothing
            texture = dataclasses.replace(self.config.texture, memory_size=0)
            self.save_config(
                dataclasses.replace(self.config, text_width=text_width, texture=texture)
            )


# --- the stages -----------------------------------------------------------------------------------


def shards(args: argparse.Namespace) -> None:
    config = ShardConfig(
        args.images, args.tile, args.variants, parse_mix(args.mix), args.seed, exclude=args.exclude
    )
    device, validation = choose_device(args.device), args.split == "validation"
    n = write_shards(
        args.shards, config, validation=validation, workers=args.workers, device=device
    )
    print(f"{args.shards}: {n} tiles written")


def autoencoder(args: argparse.Namespace) -> None:
    model = folder(args)
    if model.config.autoencoder.kind != "pca":
        raise PatchScalerError(
            f"preset '{model.config.name}' takes its autoencoder ready-made: leave this stage out"
        )
    network = fit_autoencoder(model.config, PairShards(args.shards))
    save_module(model.path("autoencoder"), network, {"network": "autoencoder"}, half=False)
    print(f"{model.path('autoencoder')}: {network.channels} components of {network.basis.shape[1]}")


def grm(args: argparse.Namespace) -> None:
    model = folder(args)
    network = model.grm(needed=False)
    if args.init:
        if not isinstance(network, PixelGRM):
            raise PatchScalerError(
                "--init takes a Real-ESRGAN compact network, which fits the 'pixels' GRM only"
            )
        network.load_compact(_foreign(args.init))
    if args.squared and isinstance(network, PixelGRM):
        raise PatchScalerError(
            "--squared belongs to Eq. 1 on latents; the 'pixels' GRM has its L1 on pixels"
        )
    if args.head_only:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.startswith("confidence"))
    stage = GRMStage(
        network,
        model.autoencoder(),
        PairShards(args.shards),
        PairShards(args.validation),
        batch_size=args.batch_size,
        lr_size=args.lr_size,
        lam=args.lam,
        eta=args.eta,
        squared=args.squared,
        device=model.device,
    )
    name = "confidence" if args.head_only else "grm"
    print(train(stage, loop_config(args, model, name), model.folder))


def calibrate(args: argparse.Namespace) -> None:
    """Thresholds of the groups from the confidences of held-out pictures, by quantile."""
    if not 0 <= args.least <= 1:
        raise PatchScalerError(f"--least {args.least}: take a share of the first threshold, 0 to 1")
    model = folder(args)
    scores, errors = patch_errors(
        model.grm(), model.autoencoder(), PairShards(args.validation), model.device
    )
    thresholds = thresholds_for(scores, (args.simple, args.easy))
    table = torch.quantile(scores, torch.linspace(0, 1, 21)).tolist()
    groups = dataclasses.replace(
        model.config.groups,
        thresholds=thresholds,
        quantiles=(args.simple, args.easy),
        calibration=tuple(round(c, 5) for c in table),
        least_confidence=round(args.least * thresholds[0], 5),
    )
    model.save_config(dataclasses.replace(model.config, groups=groups))
    print(
        f"thresholds {thresholds[0]:.4f}, {thresholds[1]:.4f}; median squared error "
        f"{errors.median():.4f}"
    )


def classifier(args: argparse.Namespace) -> None:
    model = folder(args)
    data = LabelledTextures(args.textures, args.exclude)
    model.save_config(
        dataclasses.replace(
            model.config, texture=dataclasses.replace(model.config.texture, classes=data.classes)
        )
    )
    stage = ClassifierStage(
        model.config,
        model.classifier(needed=False),
        model.autoencoder(),
        data,
        batch_size=args.batch_size,
        device=model.device,
    )
    print(train(stage, loop_config(args, model, "classifier"), model.folder))


def coarse(args: argparse.Namespace) -> None:
    model = folder(args)
    network = model.grm().to(memory_format=torch.channels_last).eval()
    n = write_coarse(
        args.shards, network, model.autoencoder(), args.variants, model.device, args.bf16
    )
    print(f"{args.shards}: coarse pictures of {n} shards written")


def captions(args: argparse.Namespace) -> None:
    device = choose_device(args.device)
    captioner = Captioner(args.captioner or CAPTIONER, device)
    encoder = TextEncoder(args.text_encoder or TEXT_ENCODER, device)
    n = write_captions(args.shards, captioner, encoder)
    print(f"{args.shards}: captions of {n} shards written")


def teacher(args: argparse.Namespace) -> None:
    """What another upscaler makes of the shards' pictures, for the last stage."""
    from patchscaler.evaluation.methods import ResultFolder
    from patchscaler.evaluation.specs import Settings, build_method, parse_spec

    device = choose_device(args.device)
    method = build_method(parse_spec(args.method), Settings(device=device))
    if isinstance(method, ResultFolder):
        raise PatchScalerError(
            f"--method {args.method}: a method that upscales is wanted, not a folder of results"
        )
    n = write_teacher(args.shards, method.upscale, args.variants, args.limit)
    print(f"{args.shards}: pictures of {method.name} for {n} shards written")


def diffusion(args: argparse.Namespace) -> None:
    model = folder(args)
    text = args.prompt == "text"
    pairs, validation = CoarseShards(args.shards, text), CoarseShards(args.validation, text)
    model.take_prompt(args.prompt, pairs.text[0].shape[-1] if text else 0)
    network: DiffusionTrainer | TextTrainer
    if text:
        network = TextTrainer(model.patch_dit(needed=False), model.text_projection(needed=False))
    else:
        network = DiffusionTrainer(
            model.patch_dit(needed=False), model.texture_encoder(needed=False)
        )
    share = args.from_coarse
    if share is None:  # near t = 0 the noise that leads from y_0 to x_0 grows without bound
        share = 0.3 if model.config.diffusion.prediction_type in ("residual", "sample") else 0.0
    stage = DiffusionStage(
        network,
        model.frozen(),
        pairs,
        validation,
        batch_size=args.batch_size,
        from_coarse=share,
        low_times=args.low_times,
    )
    print(train(stage, loop_config(args, model, "diffusion"), model.folder))


def graft(args: argparse.Namespace) -> None:
    """Another depth of Patch-DiT and a refiner from an ESRGAN: a start for `distil`, `refining` and
    `few-step`.
    """
    model = folder(args)
    weights = _foreign(args.esrgan) if args.esrgan else None
    keep = numbers("--keep", args.keep, None, int) if args.keep else ()
    blocks = numbers("--refiner-blocks", args.refiner_blocks, None, int)
    config, refining = grafted(model, keep, weights, blocks, args.more, args.refiner_bits)
    print(f"{model.folder}: {config.depth} blocks, refiner of {refining.depth}")


def distil(args: argparse.Namespace) -> None:
    model = folder(args)
    network = _refiner(model)
    stage = DistilStage(
        network,
        _whole_esrgan(model, args.esrgan),
        CoarseShards(args.shards),
        CoarseShards(args.validation),
        batch_size=args.batch_size,
        side=args.side,
        device=model.device,
    )
    print(train(stage, loop_config(args, model, "distil"), model.folder))


def refining(args: argparse.Namespace) -> None:
    model = folder(args)
    network = _refiner(model)
    stage = RefiningStage(
        network,
        CoarseShards(args.shards),
        CoarseShards(args.validation),
        _whole_esrgan(model, args.esrgan) if args.esrgan else None,
        batch_size=args.batch_size,
        side=args.side,
        weights=_loss_weights(args),
        device=model.device,
    )
    print(train(stage, loop_config(args, model, "refining"), model.folder))


def ranges(args: argparse.Namespace) -> None:
    """Last, once the refiner is trained."""
    if args.regions < 1:
        raise PatchScalerError(f"--regions {args.regions}: take 1 or more")
    model = folder(args)
    trained, config = _refiner(model), dataclasses.replace(model.config.refiner, ranges=True)
    network = Refiner(config).to(model.device)
    network.load_state_dict(trained.state_dict(), strict=False)
    find_ranges(
        network,
        coarse_regions(CoarseShards(args.shards), args.regions, args.side, model.device, args.seed),
    )
    save_module(model.path("refiner"), network, {"network": "refiner"})
    model.save_config(dataclasses.replace(model.config, refiner=config))
    print(f"{model.folder}: the refiner's ranges on {args.regions} regions")


def few_step(args: argparse.Namespace) -> None:
    model = folder(args)
    refiner = _refiner(model) if model.config.refiner.width else None
    stage = FewStepStage(
        model.frozen(),
        model.patch_dit(),
        model.texture_encoder(),
        refiner,
        CoarseShards(args.shards),
        CoarseShards(args.validation),
        batch_size=args.batch_size,
        weights=_loss_weights(args),
        side=args.side,
    )
    print(train(stage, loop_config(args, model, "few-step"), model.folder))


# --- arguments ------------------------------------------------------------------------------------


def folder(args: argparse.Namespace) -> ModelFolder:
    torch.manual_seed(args.seed)
    device = choose_device(args.device)
    if device == "cuda":  # one process a device: torchrun and accelerate say which
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return ModelFolder(args.model, args.preset, device, args.autoencoder)


def loop_config(args: argparse.Namespace, model: ModelFolder, name: str) -> LoopConfig:
    return LoopConfig(
        out=str(model.folder / "training" / name),
        steps=args.steps,
        minutes=args.minutes,
        lr=args.lr,
        optimizer=args.optimizer,
        ema=args.ema,
        warmup=args.warmup,
        decay=args.decay,
        bf16=args.bf16,
        seed=args.seed,
        log_every=args.log_every,
        save_minutes=args.save_minutes,
        refiner_rate=getattr(args, "refiner_rate", 1.0),
    )


def _loss_weights(args: argparse.Namespace) -> dict[str, float]:
    return {name: getattr(args, name) for name in WEIGHTS}


def _whole_esrgan(model: ModelFolder, file: str) -> Refiner:
    """All of its blocks as a refiner, a teacher of the model's own."""
    weights = _foreign(file)
    blocks = sorted({int(name.split(".")[1]) for name in weights if re.match(r"body\.\d+\.", name)})
    teacher = Refiner(dataclasses.replace(model.config.refiner, depth=len(blocks)))
    teacher.load_esrgan(weights, tuple(blocks))
    return teacher


def _refiner(model: ModelFolder) -> Refiner:
    """To be trained: its ranges, which will no longer be true, are taken out of the folder."""
    network = model.refiner()
    if network is None:
        raise PatchScalerError(
            f"{model.folder}: this model has no refiner; 'patchscaler train graft' puts it there"
        )
    if not model.config.refiner.ranges:
        return network
    config = dataclasses.replace(model.config.refiner, ranges=False)
    plain = Refiner(config).to(model.device)
    plain.load_state_dict(
        {k: v for k, v in network.state_dict().items() if not k.startswith("ranges")}
    )
    save_module(model.path("refiner"), plain, {"network": "refiner"})
    model.save_config(dataclasses.replace(model.config, refiner=config))
    return plain


def _foreign(path: str) -> dict[str, torch.Tensor]:
    """A safetensors file that PatchScaler did not write."""
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # safetensors and file errors
        raise PatchScalerError(f"{path}: cannot be read as safetensors ({error})") from error
