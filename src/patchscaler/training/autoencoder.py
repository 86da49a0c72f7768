"""Stage `autoencoder`: fit the closed-form autoencoder."""

import argparse

import numpy as np

from patchscaler.config import ModelConfig
from patchscaler.errors import PatchScalerError
from patchscaler.models.autoencoder import PCAAutoencoder
from patchscaler.models.weights import save_module
from patchscaler.training.data.shards import PairShards
from patchscaler.training.folder import ModelFolder


def fit_autoencoder(config: ModelConfig, shards: PairShards, tiles: int = 2000) -> PCAAutoencoder:
    """Fit the principal components of the training tiles; deterministic."""
    autoencoder = PCAAutoencoder(config.autoencoder)
    rng = np.random.default_rng(0)
    side = min(shards.lr[0].shape[2], 32)
    return autoencoder.fit(shards.sample(16, side, rng)[1] for _ in range(max(1, tiles // 16)))


def run(args: argparse.Namespace) -> None:
    model = ModelFolder.from_args(args)
    if model.config.autoencoder.kind != "pca":
        raise PatchScalerError(
            f"{model.folder}: the autoencoder of '{model.config.name}' is not fitted. "
            "Hint: leave this stage out"
        )
    network = fit_autoencoder(model.config, PairShards(args.shards))
    save_module(model.path("autoencoder"), network, {"network": "autoencoder"}, half=False)
    print(f"{model.path('autoencoder')}: {network.channels} components of {network.basis.shape[1]}")
