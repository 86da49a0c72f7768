"""Every number of the system in frozen dataclasses, read from and written to JSON, and the presets.

The word *patch* has two meanings here: `latent_patch_size` is the unit that is grouped and sampled
(V in the paper, 16 latents a side = 128 pixels), `patch_size` is Patch-DiT's token, a square of
latents.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args, get_origin

from patchscaler.errors import PatchScalerError

GROUP_NAMES = ("simple", "medium", "hard")
Config = TypeVar("Config")


@dataclass(frozen=True)
class AutoencoderConfig:
    """`pixel_unshuffle` rearranges pixels, `pca` is linear and in closed form, `kl` is
    diffusers'.
    """

    kind: str = "pca"
    channels: int = 64
    factor: int = 8
    scale_power: float = 1.0  # pca: latents are divided by std ** scale_power; 1 is unit variance
    correction_channels: int = 0  # pca: width of the decoder's learned correction, 0 for none
    model_id: str = ""  # kl: hub id or local folder
    revision: str = ""  # kl: pinned commit of the hub id
    scaling_factor: float = 1.0  # kl


@dataclass(frozen=True)
class GRMConfig:
    """Global Restoration Module. `unet` reads latents (the paper, A.1), `pixels` the LR picture."""

    kind: str = "unet"
    width: int = 64
    channel_mults: tuple[int, ...] = (1, 2, 4, 4, 4)  # unet: one a scale; four downsamplings
    num_res_blocks: int = 2  # unet: a scale; pixels: in all
    num_plain_convs: int = 0  # pixels: convolutions of the stem after its first
    confidence_floor: float = 1e-3
    bits: int = 16  # of a weight on disk: 8 or 16


@dataclass(frozen=True)
class TextureConfig:
    """Texture classifier (key of the memory) and what is retrieved."""

    kind: str = "latents"  # latents (the paper's), or pixels of unshuffled latents
    widths: tuple[int, ...] = (64, 128, 256)  # latents: convolutions; the last is a key's length
    classes: tuple[str, ...] = ()
    top_k: int = 4
    candidates: int = 20_000
    memory_size: int = 2_000


@dataclass(frozen=True)
class PatchDiTConfig:
    """Patch-DiT and its similarity-aware texture encoder (A.2, A.3)."""

    hidden_size: int = 768
    depth: int = 12
    num_heads: int = 12
    patch_size: int = 2  # latents a token's side
    context_patch_size: int = 2  # latents a context token's side, in the texture encoder
    mlp_ratio: float = 4.0
    cross_size: int = 0  # inner width of the cross-attention; 0: hidden_size
    shared_modulation: bool = False  # one adaLN for all blocks plus a table for each
    depthwise_mlp: bool = False  # 3x3 depth-wise convolution inside the MLP, for locality
    prompt_dropout: float = 0.1


@dataclass(frozen=True)
class DenoiserConfig:
    """The RRDB denoiser of `compact` (`models/denoiser.py`): Real-ESRGAN's trunk, modulated by the
    timestep.
    """

    width: int = 0  # channels of the trunk; 0: no such denoiser, Patch-DiT denoises latents
    growth: int = 32  # channels that each convolution of a dense block adds
    depth: int = 23  # residual-in-residual dense blocks
    exit_depth: int = 0  # blocks before the early exit; 0: none
    exit_blocks: int = 0  # blocks of the early exit's own
    bits: int = 8  # of a weight on disk: 8 or 16


@dataclass(frozen=True)
class DiffusionConfig:
    """Noise schedule (`linear` of DDPM and DiT, `scaled_linear` of SD) and what the network
    predicts.
    """

    schedule: str = "linear"
    beta_start: float = 1e-4
    beta_end: float = 2e-2
    num_train_timesteps: int = 1000
    prediction_type: str = "epsilon"  # epsilon, sample, v_prediction, residual
    clip_sample: float = 0.0  # bound of |x_0| while sampling, 0 for none


@dataclass(frozen=True)
class GroupConfig:
    """Patch-adaptive Group Sampling (3.2): numbers of the groups simple, medium, hard, in this
    order.
    """

    latent_patch_size: int = 16  # V
    overlap: int = 8
    thresholds: tuple[float, float] = (0.95, 0.75)  # gamma_1, gamma_2 of Eq. 2
    # Shares of simple and of simple + medium patches that the thresholds were calibrated for.
    quantiles: tuple[float, float] = (0.0, 0.0)
    # Mean confidences of held-out patches at even quantiles, 0 to 100 %.
    calibration: tuple[float, ...] = ()
    # A patch with a place less confident than this counts as no more confident itself; 0: Eq. 2.
    least_confidence: float = 0.0
    start_times: tuple[int, int, int] = (400, 700, 1000)  # T_1, T_2, T_3
    num_inference_steps: tuple[int, int, int] = (8, 14, 20)  # N_1, N_2, N_3; 0: stays coarse
    sampler: str = "ddim"  # ddim, dpm++
    fidelity: float = 0.0  # default of the dial


@dataclass(frozen=True)
class ModelConfig:
    """A whole PatchScaler."""

    name: str
    scale: int = 4
    text_width: int = (
        0  # of a text encoder's tokens: the text prompt of 4.4; 0 is the texture prompt
    )
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    grm: GRMConfig = field(default_factory=GRMConfig)
    texture: TextureConfig = field(default_factory=TextureConfig)
    patch_dit: PatchDiTConfig = field(default_factory=PatchDiTConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    groups: GroupConfig = field(default_factory=GroupConfig)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> "ModelConfig":
        """Raises PatchScalerError for text that is not a configuration."""
        try:
            config = _build(ModelConfig, json.loads(text))
            if config.scale != 4:
                raise PatchScalerError(f"scale {config.scale}: the networks enlarge four times")
            if config.denoiser.width and config.autoencoder.kind != "pixel_unshuffle":
                raise PatchScalerError("denoiser: it needs the autoencoder 'pixel_unshuffle'")
            if config.denoiser.bits not in (8, 16):
                raise PatchScalerError(f"denoiser: {config.denoiser.bits} bits: take 8 or 16")
            return config
        except (json.JSONDecodeError, TypeError, AttributeError) as error:
            raise PatchScalerError(f"not a PatchScaler configuration: {error}") from error


def _build(cls: type[Config], values: dict[str, Any]) -> Config:
    """A dataclass from JSON values: nested dataclasses rebuilt, lists as tuples, unknown names
    refused.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(fields)):
        raise PatchScalerError(
            f"unknown setting {', '.join(unknown)} in {cls.__name__}: is the file of another "
            "version?"
        )
    out: dict[str, Any] = {}
    for name, value in values.items():
        kind = fields[name].type
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            value = _build(kind, value)
        out[name] = _checked(f"{cls.__name__}.{name}", kind, value)
    return cls(**out)


def _checked(name: str, kind: Any, value: Any) -> Any:
    """A JSON value as the field's type says: int and float mix, lists become tuples of the right
    length.
    """
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if not isinstance(value, list) or (kinds[-1] is not Ellipsis and len(value) != len(kinds)):
            raise PatchScalerError(f"{name} is {value!r}: it takes a list like {kind}")
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        return tuple(_checked(name, k, v) for k, v in zip(kinds, value, strict=True))
    allowed: Any = (int, float) if kind is float else kind
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise PatchScalerError(f"{name} is {value!r}: it takes a value of type {kind.__name__}")
    return value


# --- presets --------------------------------------------------------------------------------------

# DiT's own table (arXiv 2212.09748), tokens of 2x2 latents, and ours for two processor cores.
PATCH_DIT_SIZES = {
    "S": PatchDiTConfig(hidden_size=384, depth=12, num_heads=6),
    "B": PatchDiTConfig(hidden_size=768, depth=12, num_heads=12),
    "L": PatchDiTConfig(hidden_size=1024, depth=24, num_heads=16),
    "XL": PatchDiTConfig(hidden_size=1152, depth=28, num_heads=16),
    "tiny": PatchDiTConfig(
        hidden_size=32,
        depth=2,
        num_heads=2,
        context_patch_size=4,
        mlp_ratio=2.0,
        cross_size=16,
        shared_modulation=True,
        depthwise_mlp=True,
    ),
}

PRESETS = {
    # Every number the paper gives; where it is silent, docs/paper_map.md says what was chosen.
    "paper": ModelConfig(
        name="paper",
        autoencoder=AutoencoderConfig(
            kind="kl",
            channels=4,
            model_id="stabilityai/sd-vae-ft-mse",
            revision="31f26fdeee1355a5c34592e401dd41e45d25a493",
            scaling_factor=0.18215,
        ),
        grm=GRMConfig(kind="unet", width=64),
        patch_dit=PATCH_DIT_SIZES["B"],
        diffusion=DiffusionConfig(clip_sample=4.0),
    ),
    # What ships: a GRM on LR pixels, and an RRDB denoiser in place of Patch-DiT (docs/training.md).
    "compact": ModelConfig(
        name="compact",
        autoencoder=AutoencoderConfig(kind="pixel_unshuffle", channels=192),
        grm=GRMConfig(kind="pixels", width=64, num_plain_convs=16, num_res_blocks=6, bits=8),
        texture=TextureConfig(kind="pixels", candidates=0, memory_size=0),
        denoiser=DenoiserConfig(width=64, exit_depth=4, exit_blocks=6),
        groups=GroupConfig(overlap=4, start_times=(0, 0, 0), num_inference_steps=(0, 1, 1)),
    ),
    # For tests: everything of `compact` at a size that runs in milliseconds.
    "tiny": ModelConfig(
        name="tiny",
        autoencoder=AutoencoderConfig(channels=8, correction_channels=4),
        grm=GRMConfig(kind="pixels", width=8, num_res_blocks=1),
        texture=TextureConfig(
            widths=(8, 8), classes=("a", "b"), top_k=2, candidates=40, memory_size=10
        ),
        patch_dit=PATCH_DIT_SIZES["tiny"],
        diffusion=DiffusionConfig(prediction_type="residual"),
        groups=GroupConfig(start_times=(0, 400, 800), num_inference_steps=(0, 1, 2)),
    ),
    # For tests: the RRDB denoiser.
    "tiny-rrdb": ModelConfig(
        name="tiny-rrdb",
        autoencoder=AutoencoderConfig(kind="pixel_unshuffle", channels=192),
        grm=GRMConfig(kind="pixels", width=8, num_res_blocks=1),
        texture=TextureConfig(widths=(8, 8), candidates=0, memory_size=0),
        denoiser=DenoiserConfig(width=8, growth=4, depth=3, exit_depth=1, exit_blocks=1),
        groups=GroupConfig(overlap=4, start_times=(0, 0, 100), num_inference_steps=(0, 1, 1)),
    ),
}


def preset(name: str) -> ModelConfig:
    """The preset of this name.

    Raises PatchScalerError, listing the known ones (`tiny` is for tests).
    """
    if name not in PRESETS:
        raise PatchScalerError(f"unknown preset '{name}': choose paper or compact")
    return PRESETS[name]
