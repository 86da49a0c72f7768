"""The pieces of work that a picture, or many, are made of, and hands that do them: here, or on
other machines.

Each piece depends on its arguments and the model alone, so it may be done anywhere, and again where
it was lost. Letters: C channels, H, W latents of a window, n patches of a batch, V a patch's side,
K textures a prompt.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from patchscaler import refining
from patchscaler.config import GroupConfig
from patchscaler.devices import is_out_of_memory
from patchscaler.enlarge import Upscaled, upscale_to_size
from patchscaler.errors import PatchScalerError
from patchscaler.images.color import enlarge as enlarge_plain
from patchscaler.images.planes import Planes
from patchscaler.images.sizes import TargetSize
from patchscaler.jobs import Clock, Options, Picture

if TYPE_CHECKING:
    from patchscaler.pipeline import PatchScaler


def restore(scaler: "PatchScaler", lr: Tensor) -> tuple[Tensor, Tensor]:
    """(1, 3, h, w) -> coarse latents (C, H, W), confidence (1, H, W)."""
    coarse, confidence = scaler.restore(lr.to(scaler.device))
    return coarse.cpu(), confidence.cpu()


def sample(
    scaler: "PatchScaler",
    y_0: Tensor,
    noise: Tensor | None,
    groups: Tensor,
    config: GroupConfig,
    options: Options,
) -> tuple[Tensor, Tensor]:
    """A batch of one configuration, in halves where memory runs out: see
    `PatchScaler.sample_batch`.
    """
    try:
        patches, entries = scaler.sample_batch(
            y_0, noise, groups, config, options, Clock(scaler.device), lambda evaluated: None
        )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or len(y_0) == 1:
            raise
        n = len(y_0) // 2
        halves = [
            sample(
                scaler,
                y_0[part],
                None if noise is None else noise[part],
                groups[part],
                config,
                options,
            )
            for part in (slice(n), slice(n, None))
        ]
        return torch.cat([patches for patches, _ in halves]), torch.cat(
            [entries for _, entries in halves]
        )
    return patches.cpu(), entries


def refine_tile(scaler: "PatchScaler", latents: Tensor, coarse: Tensor, small: Tensor) -> Tensor:
    """Of a tile: see `refining.refine_tile`."""
    added = refining.refine_tile(
        scaler, latents.to(scaler.device), coarse.to(scaler.device), small.to(scaler.device)
    )
    return added.cpu()


def decode(
    scaler: "PatchScaler",
    latents: Tensor,
    coarse: Tensor,
    confidence: Tensor,
    lr: Tensor,
    options: Options,
) -> tuple[Tensor, Tensor, Tensor]:
    """(C, H, W) twice, (1, H, W), (3, h, w) -> result, coarse picture if wanted, enlarged input for
    AdaIN: (3, 4h, 4w).

    AdaIN's colours hang on the whole picture and are not matched here.
    """
    device = scaler.device
    local = replace(options, color="none") if options.color == "adain" else options
    lr = lr.to(device)
    image, plain = scaler.picture(
        latents.to(device), coarse.to(device), confidence.to(device), lr, local
    )
    enlarged = (
        enlarge_plain(lr, (image.shape[1], image.shape[2])) if options.color == "adain" else image
    )
    return image.cpu(), plain.cpu(), enlarged.cpu()


def one(
    scaler: "PatchScaler",
    picture: Picture,
    target_size: TargetSize,
    tileable: bool,
    keywords: dict[str, Any],
) -> Upscaled:
    """A picture or a frame, whole."""
    return _light(upscale_to_size(scaler, picture, target_size, tileable=tileable, **keywords))


def batch(
    scaler: "PatchScaler", pictures: list[Planes], target_size: TargetSize, keywords: dict[str, Any]
) -> list[Upscaled | PatchScalerError]:
    """Pictures that share batches, if there are several; where that cannot be, one by one, each
    with its own error.
    """
    if len(pictures) > 1:
        try:
            results = scaler.upscale_many(pictures, **(keywords | {"max_pixels": 0}))
            return [
                _light(Upscaled(result.array, [result], result.icc_profile)) for result in results
            ]
        except (PatchScalerError, MemoryError):
            pass
    made: list[Upscaled | PatchScalerError] = []
    for picture in pictures:
        try:
            made.append(one(scaler, picture, target_size, False, keywords))
        except PatchScalerError as error:
            made.append(error)
        except MemoryError:
            made.append(
                PatchScalerError(
                    "not enough memory for this picture; make it in windows (--window)"
                )
            )
    return made


def _light(made: Upscaled) -> Upscaled:
    """Without what only this process can use."""
    for result in made.passes:
        if result.options is not None:
            result.options = replace(result.options, progress=None)
    return made


WORK: dict[str, Callable[..., Any]] = {
    f.__name__: f for f in (restore, sample, refine_tile, decode, one, batch)
}


def portable(argument: Any) -> Any:
    """Without what only this process can use."""
    if isinstance(argument, Options):
        return replace(argument, progress=None)
    if isinstance(argument, dict):
        return {key: value for key, value in argument.items() if key != "progress"}
    return argument


class Executor(Protocol):
    """Who does the work."""

    compute_signature: str  # see `PatchScaler.compute_signature`

    def map(self, name: str, calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """WORK[name] on each tuple of arguments -> what comes out, in their order."""


class LocalExecutor:
    """One piece after the other, here."""

    def __init__(self, scaler: "PatchScaler"):
        self.scaler = scaler
        self.compute_signature = scaler.compute_signature

    @torch.inference_mode()
    def map(self, name: str, calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        for arguments in calls:
            yield WORK[name](self.scaler, *arguments)
