"""The README.md that a model folder carries on a hub: what can be said from the model itself."""

from collections import Counter
from pathlib import Path

from torch import nn

from patchscaler._version import __version__
from patchscaler.config import GROUP_NAMES, ModelConfig
from patchscaler.texture_memory import TextureMemory

MARK = "<!-- written by save_pretrained; a card without this line is left as it is -->"
WHAT = {
    "autoencoder": "pictures to latents and back",
    "grm": "Global Restoration Module: coarse picture and confidence",
    "classifier": "texture classifier, keys of the memory",
    "texture_encoder": "similarity-aware texture encoder",
    "text_projection": "text prompt in place of textures",
    "patch_dit": "Patch-DiT, the diffusion transformer",
    "denoiser": "RRDB denoiser on pixels, in place of Patch-DiT",
}


def model_card(
    config: ModelConfig,
    networks: dict[str, nn.Module],
    memory: TextureMemory | None,
    license: str = "unknown",
) -> str:
    """Markdown with the hub's header. license: of the weights, as the hub calls it (apache-2.0,
    mit, other).
    """
    groups = zip(
        GROUP_NAMES, config.groups.num_inference_steps, config.groups.start_times, strict=True
    )
    steps = "; ".join(f"{name} patches {n} from t = {t}" for name, n, t in groups)
    lines = [
        "---",
        f"license: {license}",
        "library_name: patchscaler",
        "pipeline_tag: image-to-image",
        "tags:",
        "- super-resolution",
        "- image-restoration",
        "- diffusion",
        "---",
        MARK,
        "",
        f"# {config.name}",
        "",
        "A PatchScaler model ([the paper](https://arxiv.org/abs/2405.17158)): enlarges RGB "
        "pictures of any size four "
        f"times. Saved by patchscaler {__version__}.",
        "",
        "    pip install 'patchscaler[hub]'",
        "    patchscaler upscale photo.jpg --model OWNER/NAME      # or the path of this folder",
        "",
        "```python",
        "from patchscaler import PatchScaler",
        "",
        'PatchScaler.from_pretrained("OWNER/NAME").upscale(image).image.save("photo_x4.png")',
        "```",
        "",
        "| file | what | parameters |",
        "|---|---|---|",
        *(
            f"| `{_file(name, config)}` | {WHAT[name]} | {_count(network):,} |"
            for name, network in networks.items()
        ),
    ]
    if memory:
        lines += [f"| `memory.safetensors` | texture memory, {len(memory):,} crops |  |"]
    lines += [
        "",
        f"Steps: {steps} (predicts {config.diffusion.prediction_type}).",
    ]
    if config.autoencoder.kind == "kl":
        revision = (
            f" at commit {config.autoencoder.revision}" if config.autoencoder.revision else ""
        )
        name = config.autoencoder.model_id
        # the path of a local folder means nothing elsewhere
        name = Path(name).name if Path(name).is_dir() else name
        lines += ["", f"The autoencoder is {name}{revision}, under its own licence."]
    if memory:
        counts = Counter(origin.licence for origin in memory.origins).most_common()
        lines += [
            "",
            "Licences of the texture memory's crops: "
            + ", ".join(f"{k} ({n})" for k, n in counts)
            + ".",
        ]
    lines += [
        "",
        "## Limits",
        "",
        "Fine texture is invented, and another seed invents another: not for evidence, medicine "
        "or identification.",
        "Training data and scores are not known to the program; whoever publishes this model "
        "writes them here and",
        "takes the mark at the top out.",
    ]
    return "\n".join(lines) + "\n"


def _file(name: str, config: ModelConfig) -> str:
    return (
        "autoencoder/"
        if name == "autoencoder" and config.autoencoder.kind == "kl"
        else f"{name}.safetensors"
    )


def _count(network: nn.Module) -> int:
    return sum(x.numel() for x in network.parameters()) or sum(x.numel() for x in network.buffers())
