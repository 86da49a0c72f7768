"""The refiner in eight bits, for processors that multiply bytes twice as fast as bfloat16 (VNNI).

Each channel's range is known from training pictures (`train ranges`) and folded into the weights
before and after it, so that all that a convolution reads are bytes of one scale, 128 meaning zero.
What lies between two convolutions is float32: on bytes leaky_relu would leave a fifth of them, and
cost a grey level.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchscaler.errors import PatchScalerError
from patchscaler.models.refiner import GROWTH, SCALE, DenseBlock, Refiner, enlarged_in_bands

ZERO = 128  # the byte that means zero
MARGIN = 1.1  # of a range, for pictures that reach further than those of training
LEAST = 0.02  # of the widest range of a map: what a channel is given at least


def int8_available() -> bool:
    """Is this a processor with VNNI, and a torch with oneDNN's convolutions of bytes?"""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    fast = capabilities.get("avx512_vnni") or capabilities.get("avx_vnni")
    return (
        bool(fast)
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.onednn, "qconv_pointwise")
    )


class Int8Refiner:
    """A `Refiner` whose ranges are known, in bytes: to draw with, on the processor."""

    def __init__(self, refiner: Refiner):
        width = refiner.config.width
        dense, ends = (
            refiner.ranges_dense.view(-1, width + 4 * GROWTH),
            refiner.ranges_ends.view(5, width),
        )
        if not all(
            torch.isfinite(rows).all() and (rows.amax(1) > 0).all() for rows in (dense, ends)
        ):
            raise PatchScalerError(
                "the refiner's ranges are no use: find them again with 'patchscaler train ranges'"
            )
        self.first = refiner.conv_first  # it reads several pictures, in what precision is asked for
        maps = iter(_channel_scales(dense))
        self.blocks = [
            [
                _Dense(dense, next(maps))
                for dense in block.children()
                if isinstance(dense, DenseBlock)
            ]
            for block in refiner.blocks
        ]
        body, up1, up2, hr, last = (_channel_scales(row[None])[0] for row in ends)
        self.to_body, self.to_up1 = _ToBytes(body), _ToBytes(up1)
        self.conv_body, self.conv_last = (
            _Conv(refiner.conv_body, body),
            _Conv(refiner.conv_last, last),
        )
        self.conv_up1, self.conv_up2 = (
            _Conv(refiner.conv_up1, up1, up2),
            _Conv(refiner.conv_up2, up2, hr),
        )
        self.conv_hr = _Conv(refiner.conv_hr, hr, last)

    def features(self, pixels: Tensor, small: Tensor) -> Tensor:
        """(N, 6, s, s), (N, 3, s/4, s/4) -> (N, W, s/4, s/4), what the enlargement draws from,
        float32.
        """
        # (N, W, s/4, s/4)
        first = self.first(torch.cat([F.pixel_unshuffle(pixels, SCALE), small], 1)).float()
        h = first
        for block in self.blocks:
            x = h
            for dense in block:
                x = dense(x)  # (N, W, s/4, s/4)
            h = torch.add(h, x, alpha=0.2)  # (N, W, s/4, s/4)
        return first + self.conv_body(self.to_body(h))  # (N, W, s/4, s/4)

    def enlarge(self, q: Tensor) -> Tensor:
        """(N, W, s/4, s/4) bytes -> (N, 3, s, s)"""
        q = _curved(self.conv_up1(F.interpolate(q, scale_factor=2.0)))  # (N, W, s/2, s/2)
        q = _curved(self.conv_up2(F.interpolate(q, scale_factor=2.0)))  # (N, W, s, s)
        q = _curved(self.conv_hr(q))  # (N, W, s, s)
        return 2 * self.conv_last(q) - 1  # (N, 3, s, s)

    def refine(self, pixels: Tensor, small: Tensor) -> Tensor:
        """As `Refiner.refine`."""
        return enlarged_in_bands(self.to_up1(self.features(pixels, small)), self.enlarge)


class _Dense:
    """`DenseBlock`, its fifth of the last convolution folded into the weights. scales: (W + 4 *
    32,)
    """

    def __init__(self, block: DenseBlock, scales: Tensor):
        convs: list[nn.Conv2d] = list(block.convs)  # type: ignore[arg-type]
        width = len(scales) - GROWTH * (len(convs) - 1)
        ends = [width + GROWTH * i for i in range(len(convs))]
        self.to_bytes = _ToBytes(scales[:width])
        self.growing = [
            _Conv(conv, scales[:end], scales[end : end + GROWTH])
            for conv, end in zip(convs[:-1], ends, strict=False)
        ]
        self.last = _Conv(convs[-1], scales, factor=0.2)

    def __call__(self, x: Tensor) -> Tensor:
        """(N, W, h, w) float32 -> the same"""
        q = self.to_bytes(x)  # (N, W, h, w)
        for conv in self.growing:
            q = torch.cat([q, _curved(conv(q))], 1)  # (N, W + 32 i, h, w)
        return x + self.last(q)  # (N, W, h, w)


class _ToBytes:
    """(N, C, h, w) floats -> bytes in these channels' scales."""

    def __init__(self, scales: Tensor):
        self.factor = (1 / scales)[:, None, None].float()

    def __call__(self, x: Tensor) -> Tensor:
        return _bytes(x * self.factor)


class _Conv:
    """A 3x3 convolution of bytes -> floats. read: (in,), its channels' scales; written: (out,),
    those of what will be made of the floats, or None.
    """

    def __init__(
        self, conv: nn.Conv2d, read: Tensor, written: Tensor | None = None, factor: float = 1.0
    ):
        assert conv.bias is not None
        weight = factor * conv.weight.detach().float() * read[:, None, None]
        self.bias = factor * conv.bias.detach().float()
        if written is not None:
            weight, self.bias = weight / written[:, None, None, None], self.bias / written
        self.scale = weight.abs().amax((1, 2, 3)).clamp_min(1e-12) / 127
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)
        # (out, in, 3, 3)
        self.whole = rounded(weight / self.scale[:, None, None, None]).to(torch.int8)
        self._pack()

    def _pack(self) -> None:
        sides = [1, 1]  # stride, padding and dilation
        self.packed = torch.ops.onednn.qconv_prepack(
            self.whole, self.scale, 1.0, ZERO, sides, sides, sides, 1, None
        )

    def __getstate__(self) -> dict[str, Any]:
        """What is packed can be neither copied nor pickled."""
        return {name: value for name, value in vars(self).items() if name != "packed"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._pack()

    def __call__(self, q: Tensor) -> Tensor:
        sides = [1, 1]
        return torch.ops.onednn.qconv_pointwise(
            q,
            1.0,
            ZERO,
            self.packed,
            self.scale,
            self.zeros,
            self.bias,
            sides,
            sides,
            sides,
            1,
            1.0,
            0,
            torch.float32,
            "none",
            [None],
            "",
        )


def rounded(weight: Tensor) -> Tensor:
    """(out, in, h, w) to whole numbers whose sum over each kernel is the nearest one, too.

    Rounded one by one, what a flat area becomes would be off by the nine errors together, and
    colours with it.
    """
    flat = weight.flatten(2)  # (out, in, 9)
    whole = flat.round()
    error = flat - whole
    missing = error.sum(2, keepdim=True).round()  # so many should have been rounded the other way
    place = error.argsort(2, descending=True).argsort(2)
    whole += (place < missing).float() - (place >= flat.shape[2] + missing).float()
    return whole.clamp(-127, 127).view(weight.shape)


def _bytes(x: Tensor) -> Tensor:
    """Rounded; x is used up."""
    return x.add_(ZERO + 0.5).clamp_(0, 255).to(torch.uint8)


def _curved(x: Tensor) -> Tensor:
    """leaky_relu, which leaves the scale of a channel as it is; x is used up."""
    return _bytes(F.leaky_relu_(x, 0.2))


def _channel_scales(ranges: Tensor) -> list[Tensor]:
    """(R, C) -> for each row what a byte's step is worth, (C,)."""
    wide = ranges.float() * MARGIN
    return list(torch.maximum(wide, LEAST * wide.amax(1, keepdim=True)).div(127))


# --- finding the ranges ---------------------------------------------------------------------------


@torch.no_grad()
def find_ranges(refiner: Refiner, pictures: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Fill the refiner's ranges: what each channel before a convolution reaches at most on these
    (pixels, small).
    """
    seen: dict[nn.Module, Tensor] = {}

    def watch(conv: nn.Module, inputs: tuple[Tensor]) -> None:
        most = inputs[0].detach().abs().amax((0, 2, 3)).float().cpu()  # (C,)
        seen[conv] = torch.maximum(seen.get(conv, most), most)

    ends = [
        refiner.conv_body,
        refiner.conv_up1,
        refiner.conv_up2,
        refiner.conv_hr,
        refiner.conv_last,
    ]
    # it reads all of the maps
    dense = [m.convs[-1] for m in refiner.blocks.modules() if isinstance(m, DenseBlock)]
    hooks = [conv.register_forward_pre_hook(watch) for conv in [*dense, *ends]]
    try:
        for pixels, small in pictures:
            refiner(pixels, small)
    finally:
        for hook in hooks:
            hook.remove()
    refiner.ranges_dense.copy_(torch.cat([seen[conv] for conv in dense]))
    refiner.ranges_ends.copy_(torch.cat([seen[conv] for conv in ends]))
