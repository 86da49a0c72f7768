"""MUSIQ, MANIQA and CLIP-IQA by way of pyiqa, where its user has it.

Nothing here depends on pyiqa: its licence is non-commercial (PolyForm Noncommercial 1.0.0), and it
fetches weights itself. The name of each measure says which weights it means.
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


def pyiqa_metric(name: str, theirs: str) -> Callable[[MetricOptions], Metric]:
    """name: ours, with the variant; theirs: what pyiqa calls it."""

    def build(options: MetricOptions) -> Metric:
        pyiqa, model = _load(name, theirs, options.device)

        def score(picture: np.ndarray, reference: np.ndarray | None) -> float:
            with torch.inference_mode(), torch.random.fork_rng():
                torch.manual_seed(0)  # some of them look at random crops
                return float(model(to_tensor(picture, options.device)))

        protocol = (
            f"pyiqa {getattr(pyiqa, '__version__', '?')} '{theirs}', RGB in [0, 1], no reference, "
            f"{border_text(options.crop_border)}"
        )
        return Metric(
            name,
            not getattr(model, "lower_better", False),
            False,
            protocol,
            score,
            32,
            options.crop_border,
            weights=_state_hash(model),
        )

    return build


def _load(name: str, theirs: str, device: str) -> tuple[Any, Any]:
    """pyiqa and the model. Raises MetricUnavailable with the reason."""
    if importlib.util.find_spec("pyiqa") is None:
        raise MetricUnavailable(name, "needs pyiqa, which is not installed", HINT)
    try:
        pyiqa = importlib.import_module("pyiqa")
    except Exception as error:
        # a torchvision that does not fit torch raises RuntimeError, others ImportError
        raise MetricUnavailable(
            name, f"pyiqa cannot be imported ({_first_line(error)})", HINT
        ) from error
    try:
        return pyiqa, pyiqa.create_metric(theirs, device=torch.device(device))
    except Exception as error:  # network, hub and format errors have no common base class
        hint = (
            f"with a network, run once: python -c \"import pyiqa; pyiqa.create_metric('{theirs}')\""
        )
        raise MetricUnavailable(
            name, f"pyiqa cannot load its weights ({_first_line(error)})", hint
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _state_hash(model: Any) -> str:
    """SHA-256 of a network's numbers, whatever file they came from."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode() + value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()
