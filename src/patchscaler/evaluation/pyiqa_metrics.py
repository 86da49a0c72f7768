"""MUSIQ, MANIQA and CLIP-IQA: adapters over pyiqa, where it is installed.

pyiqa is optional: its licence is non-commercial (PolyForm Noncommercial 1.0.0), and it fetches
trained weights itself. None of these weights was at hand when this adapter was written: it is
tested against pyiqa's classes with random weights.
"""

import hashlib
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from patchscaler.evaluation.learned import to_tensor
from patchscaler.evaluation.metric import Metric, MetricOptions, MetricUnavailable, border_text

HINT = (
    "pip install 'patchscaler[pyiqa]' (non-commercial licence; brings torchvision, which must "
    "fit your torch)"
)
# ours -> pyiqa's name, and what its weights were trained on
VARIANTS = {
    "musiq-koniq": ("musiq", "KonIQ-10k"),
    "maniqa-koniq": ("maniqa", "KonIQ-10k"),
    "maniqa-pipal": ("maniqa-pipal", "PIPAL"),
    "clipiqa": ("clipiqa", "CLIP RN50, fixed prompts"),
    "clipiqa+": ("clipiqa+", "CLIP RN50, prompts trained on KonIQ-10k"),
}
INPUT = "RGB in [0, 1], NCHW, float32, not resized here"


def pyiqa_metric(name: str) -> Callable[[MetricOptions], Metric]:
    theirs, trained_on = VARIANTS[name]

    def build(options: MetricOptions) -> Metric:
        pyiqa, model = _load(name, theirs, options.device)
        protocol = (
            f"pyiqa {getattr(pyiqa, '__version__', '?')} '{theirs}' ({trained_on}), {INPUT}, "
            f"{border_text(options.crop_border)}"
        )
        return Metric(
            name,
            higher_is_better=not getattr(model, "lower_better", False),
            needs_reference=False,
            protocol=protocol,
            score=lambda image, reference: score_of(model, image, options.device),
            least=32,
            crop_border=options.crop_border,
            weights=_state_hash(model),
        )

    return build


def score_of(model: Any, image: np.ndarray, device: str) -> float:
    """(H, W, 3) uint8 -> what the network says; its random crops are the same ones each time."""
    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(0)
        return float(model(to_tensor(image, device)))


def _load(name: str, theirs: str, device: str) -> tuple[Any, Any]:
    """pyiqa and the model. Raises MetricUnavailable with the reason."""
    if importlib.util.find_spec("pyiqa") is None:
        raise MetricUnavailable(name, "needs pyiqa, which is not installed", HINT)
    try:
        pyiqa = importlib.import_module("pyiqa")
    except Exception as error:
        # a torchvision that does not fit torch raises RuntimeError, others ImportError
        reason = f"pyiqa cannot be imported ({_first_line(error)})"
        raise MetricUnavailable(name, reason, HINT) from error
    try:
        return pyiqa, pyiqa.create_metric(theirs, device=torch.device(device))
    except Exception as error:  # network, hub and format errors have no common base class
        command = f"import pyiqa; pyiqa.create_metric('{theirs}')"
        reason = f"pyiqa cannot load its weights ({_first_line(error)})"
        hint = f'with a network, run once: python -c "{command}"'
        raise MetricUnavailable(name, reason, hint) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _state_hash(model: Any) -> str:
    """SHA-256 of a network's numbers, whatever file they came from."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode() + value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()
