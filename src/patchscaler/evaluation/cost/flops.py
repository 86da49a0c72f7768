"""Floating-point operations, a multiplication and an addition counted as two."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


# torch counts attention on GPUs, but leaves out what only processors have
_PROCESSOR: dict[Any, Any] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention
}


def count_flops(function: Callable[[], Any]) -> int:
    """Of all convolutions, matrix products and attentions; element-wise work is left out."""
    with (
        torch.inference_mode(),
        FlopCounterMode(display=False, custom_mapping=_PROCESSOR) as counter,
    ):
        function()
    return int(counter.get_total_flops())
