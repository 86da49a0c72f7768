"""Stage 2, the texture prompt's side: the texture classifier, whose features are the memory's keys
(3.3).
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor, nn

from patchscaler.config import ModelConfig
from patchscaler.errors import PatchScalerError
from patchscaler.models.autoencoder import Autoencoder
from patchscaler.models.texture import TextureClassifier
from patchscaler.models.weights import save_module
from patchscaler.training.data.shards import to_unit
from patchscaler.training.data.sources import is_validation, iterate_images
from patchscaler.training.loop import Batch


class LabelledTextures:
    """Folder = class, on disk or in a tar.

    Held in memory; `exclude` leaves out names with these prefixes.
    """

    def __init__(self, folder: str | Path, exclude: str = ""):
        self.train: list[tuple[np.ndarray, int]] = []
        self.validation: list[tuple[np.ndarray, int]] = []
        pictures = [(Path(name), picture) for name, picture in iterate_images(folder, exclude)]
        self.classes = tuple(sorted({path.parent.name for path, _ in pictures}))
        if len(self.classes) < 2:
            raise PatchScalerError(
                f"{folder}: needs at least two sub-folders of pictures, one a class"
            )
        for path, picture in pictures:
            part = self.validation if is_validation(path.name, 0.15) else self.train
            part.append((picture, self.classes.index(path.parent.name)))

    def sample(self, batch: int, side: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Crops at random scale, flipped, half of them blurred as a coarse picture is -> (B, 3, s,
        s), (B,).
        """
        crops, labels = [], []
        for pick in rng.integers(len(self.train), size=batch):
            picture, label = self.train[pick]
            crops.append(_augment(random_crop(picture, side, rng), side, rng))
            labels.append(label)
        return to_unit(np.stack(crops).transpose(0, 3, 1, 2)), torch.tensor(labels)


def random_crop(picture: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A square of one to two times `side` (as the picture allows), reduced to it."""
    size = round(side * min(rng.uniform(1, 2), min(picture.shape[:2]) / side))
    y, x = rng.integers(picture.shape[0] - size + 1), rng.integers(picture.shape[1] - size + 1)
    crop = Image.fromarray(picture[y : y + size, x : x + size])
    return np.asarray(crop.resize((side, side), Image.Resampling.BOX))


def _augment(crop: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.5:  # the query is a coarse patch: keys must not hang on the finest detail
        small = max(8, round(side / rng.uniform(1.5, 5)))
        image = Image.fromarray(crop).resize((small, small), Image.Resampling.BOX)
        crop = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
    flip = rng.integers(4)
    crop = crop[::-1] if flip & 1 else crop
    crop = crop[:, ::-1] if flip & 2 else crop
    gain = rng.uniform(0.7, 1.3, size=3) * rng.uniform(0.8, 1.2)
    return (crop * gain).clip(0, 255).astype(np.uint8)


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
    """Trains the texture classifier on latents of labelled crops."""

    def __init__(
        self,
        config: ModelConfig,
        classifier: TextureClassifier,
        autoencoder: Autoencoder,
        data: LabelledTextures,
        *,
        batch_size: int = 64,
        device: str = "cpu",
    ):
        self.data, self.batch_size, self.device = data, batch_size, device
        self.autoencoder = autoencoder.to(device)
        self.side = config.groups.latent_patch_size * autoencoder.factor
        self.trainables: dict[str, nn.Module] = {
            "classifier": ClassifierTrainer(classifier).to(device)
        }

    @torch.no_grad()
    def batch(self, rng: np.random.Generator, generator: Generator) -> Batch:
        crops, labels = self.data.sample(self.batch_size, self.side, rng)
        return {
            "latents": self.autoencoder.encode(crops.to(self.device)),
            "labels": labels.to(self.device),
        }

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Accuracy on crops of pictures not trained on."""
        assert isinstance(model, ClassifierTrainer)
        rng = np.random.default_rng(0)
        hits = [0.0]
        for picture, label in self.data.validation:
            crops = np.stack([random_crop(picture, self.side, rng) for _ in range(8)])
            x = to_unit(crops.transpose(0, 3, 1, 2)).to(self.device)
            hits += (
                (model.classifier(self.autoencoder.encode(x)).argmax(1) == label).float().tolist()
            )
        return {"accuracy": sum(hits) / max(1, len(hits) - 1), "chance": 1 / len(self.data.classes)}

    def pictures(self, model: nn.Module) -> list[list[Tensor]]:
        return []

    def save(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, ClassifierTrainer)
        save_module(folder / "classifier.safetensors", model.classifier, {"network": "classifier"})
