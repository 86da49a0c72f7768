"""Patch-DiT and the texture encoder: shapes, sizes, and what each input does."""

import inspect
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from patchscaler.config import PATCH_DIT_SIZES
from patchscaler.models.patch_dit import CHUNKS, DiTBlock, PatchDiT, TextureEncoder

TINY = PATCH_DIT_SIZES["tiny"]
# As the paper's: a modulation of its own in each block, no convolution, full width; only smaller.
PLAIN = replace(
    TINY,
    shared_modulation=False,
    depthwise_mlp=False,
    cross_size=0,
    context_patch_size=2,
    mlp_ratio=4.0,
)
BOTH = pytest.mark.parametrize("config", [TINY, PLAIN], ids=["tiny", "plain"])


def random_dit(config=TINY) -> PatchDiT:
    """With random weights where training starts from zero."""
    torch.manual_seed(0)
    dit = PatchDiT(config, 4, 16).eval()
    for layer in [
        m for m in dit.modules() if isinstance(m, nn.Linear | nn.Conv2d) and not m.weight.any()
    ]:
        nn.init.normal_(layer.weight, std=0.1)
    return dit


def inputs(n: int = 2):
    """x_t, t, coarse, context."""
    g = torch.Generator().manual_seed(1)
    x_t, coarse = torch.randn(n, 4, 16, 16, generator=g), torch.randn(n, 4, 16, 16, generator=g)
    return (
        x_t,
        torch.tensor([400, 950, 1][:n]),
        coarse,
        torch.randn(n, 10, TINY.hidden_size, generator=g),
    )


# --- the network of Eq. 8 -------------------------------------------------------------------------


@BOTH
def test_output_is_zero_at_initialisation(config):
    dit = PatchDiT(config, 4, 16)
    x_t, t, coarse, context = inputs()
    for prompt in (None, dit.prepare(context)):
        output = dit(x_t, t, coarse, prompt)
        assert output.shape == (2, 4, 16, 16)
        assert not output.any()


@BOTH
def test_blocks_start_as_the_identity(config):
    block = PatchDiT(config, 4, 16).blocks[0]
    x, c = torch.randn(2, 64, config.hidden_size), torch.zeros(2, config.hidden_size)
    if config.shared_modulation:
        c = torch.zeros(2, CHUNKS * config.hidden_size)
    keys_values = block.cross.keys_values(torch.randn(2, 10, config.hidden_size))
    assert torch.equal(block(x, c, keys_values), x)


def test_block_by_hand():
    torch.manual_seed(0)
    block, d = DiTBlock(TINY), TINY.hidden_size
    nn.init.normal_(block.table)
    x, m, context = torch.randn(2, 64, d), torch.randn(2, CHUNKS, d), torch.randn(2, 10, d)
    shift1, scale1, gate1, cross, shift2, scale2, gate2 = (m + block.table.view(CHUNKS, d)).unbind(
        1
    )
    norm = lambda h: F.layer_norm(h, (d,), eps=1e-6)  # noqa: E731
    h = x + gate1[:, None] * block.attention(norm(x) * (1 + scale1[:, None]) + shift1[:, None])
    h = h + (1 + cross[:, None]) * block.cross(norm(h), block.cross.keys_values(context))
    expected = h + gate2[:, None] * block.mlp(norm(h) * (1 + scale2[:, None]) + shift2[:, None])
    torch.testing.assert_close(block(x, m.flatten(1), block.cross.keys_values(context)), expected)


@BOTH
def test_every_input_matters(config):
    dit = random_dit(config)
    x_t, t, coarse, context = inputs()
    with torch.no_grad():
        base = dit(x_t, t, coarse, dit.prepare(context))
        others = {
            "x_t": dit(-x_t, t, coarse, dit.prepare(context)),
            "t": dit(x_t, t + 30, coarse, dit.prepare(context)),
            "coarse": dit(x_t, t, -coarse, dit.prepare(context)),
            "prompt": dit(x_t, t, coarse, dit.prepare(-context)),
            "no prompt": dit(x_t, t, coarse, None),
        }
    for name, other in others.items():
        assert (other - base).abs().max() > 1e-3, name


@BOTH
def test_patches_are_independent(config):
    dit = random_dit(config)
    x_t, t, coarse, context = inputs(3)
    with torch.no_grad():
        together = dit(x_t, t, coarse, dit.prepare(context))
        for i in range(3):
            row = slice(i, i + 1)
            alone = dit(x_t[row], t[row], coarse[row], dit.prepare(context[row]))
            torch.testing.assert_close(alone, together[row], atol=1e-5, rtol=1e-4)


def test_positions_matter_within_a_patch():
    # Without positions a transformer would only permute its answer with its tokens.
    dit = random_dit(PLAIN)
    x_t, t, coarse, _ = inputs()
    roll = lambda x: x.roll(2, -1)  # noqa: E731  one token to the right
    with torch.no_grad():
        assert (
            dit(roll(x_t), t, roll(coarse), None) - roll(dit(x_t, t, coarse, None))
        ).abs().max() > 1e-3


# Millions of parameters on 16x16 latents of 4 channels. The plain sum for DiT with cross-attention
# is 39.6, 157.9, 557.6, 822.5; the scale of cross-attention from the time adds depth * width^2.
@pytest.mark.parametrize(
    ("size", "plain", "dit", "encoder"),
    [
        ("S", 39.6, 41.351, 10.827),
        ("B", 157.9, 164.983, 43.182),
        ("L", 557.6, 582.768, 152.290),
        ("XL", 822.5, 859.637, 224.588),
    ],
)
def test_number_of_parameters(size, plain, dit, encoder):
    config = PATCH_DIT_SIZES[size]
    with torch.device("meta"):  # counts without memory
        found = sum(p.numel() for p in PatchDiT(config, 4, 16).parameters()) / 1e6
        other = sum(p.numel() for p in TextureEncoder(config, 4, 16).parameters()) / 1e6
    assert found == pytest.approx(dit, abs=1e-3) and other == pytest.approx(encoder, abs=1e-3)
    assert found == pytest.approx(plain + config.depth * config.hidden_size**2 / 1e6, rel=1e-3)


# --- the prompt and its cross-attention -----------------------------------------------------------


def test_keys_and_values_once_equal_those_of_every_step():
    dit = random_dit()
    x_t, _, coarse, context = inputs()
    once = dit.prepare(context)
    with torch.no_grad():
        x = y = x_t
        for time in (800, 400, 50):
            t = torch.full((2,), time)
            x = x + 0.5 * dit(x, t, coarse, once)
            y = y + 0.5 * dit(y, t, coarse, dit.prepare(context))
    assert torch.equal(x, y)
    assert (x - x_t).abs().max() > 0.01


def test_every_block_has_its_own_keys_and_values():
    dit = random_dit()
    x_t, t, coarse, context = inputs()
    with torch.no_grad():
        base = dit(x_t, t, coarse, dit.prepare(context))
        for i in range(TINY.depth):
            prompt = dit.prepare(context)
            prompt.keys_values[i] = dit.prepare(-context).keys_values[i]
            assert (dit(x_t, t, coarse, prompt) - base).abs().max() > 1e-3


def test_selected_rows_of_a_prompt():
    dit = random_dit()
    x_t, t, coarse, context = inputs(3)
    rows = torch.tensor([2, 0])
    with torch.no_grad():
        got = dit(x_t[rows], t[rows], coarse[rows], dit.prepare(context).select(rows))
        expected = dit(x_t, t, coarse, dit.prepare(context))[rows]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_scale_of_cross_attention_is_per_dimension():
    torch.manual_seed(0)
    block, d = DiTBlock(TINY), TINY.hidden_size
    x, keys_values = torch.randn(1, 64, d), block.cross.keys_values(torch.randn(1, 10, d))
    added = block.cross(block.norm2(x), keys_values)
    scale = torch.linspace(-1, 2, d)
    modulation = torch.zeros(1, CHUNKS, d)  # gates of zero: nothing but cross-attention is left
    modulation[:, 3] = scale
    torch.testing.assert_close(
        block(x, modulation.flatten(1), keys_values) - x, (1 + scale) * added
    )


@BOTH
def test_scale_of_cross_attention_depends_on_the_time(config):
    torch.manual_seed(0)
    dit, d = PatchDiT(config, 4, 16), config.hidden_size
    linear = dit.shared if config.shared_modulation else dit.blocks[0].modulation
    nn.init.normal_(linear.weight[3 * d : 4 * d].detach(), std=0.5)  # of the scale alone
    nn.init.normal_(dit.blocks[0].cross.proj.weight, std=0.5)
    keys_values = dit.prepare(torch.randn(1, 10, d)).keys_values[0]
    x = torch.randn(1, 64, d)
    added = dit.blocks[0].cross(dit.blocks[0].norm2(x), keys_values)
    for time in (50, 1000):
        c = dit.time(torch.tensor([time]))
        scale = linear(F.silu(c))[:, 3 * d : 4 * d]
        got = (
            dit.blocks[0](x, linear(F.silu(c)) if config.shared_modulation else c, keys_values) - x
        )
        torch.testing.assert_close(got, (1 + scale) * added, atol=1e-5, rtol=1e-4)
        assert scale.std() > 1e-3
    early, late = (linear(F.silu(dit.time(torch.tensor([time])))) for time in (50, 1000))
    assert (early - late).abs().max() > 1e-3


# --- the texture encoder --------------------------------------------------------------------------


def encoder(config=TINY) -> TextureEncoder:
    torch.manual_seed(0)
    return TextureEncoder(config, 4, 16).eval()


@pytest.mark.parametrize("k", [1, 2, 5])
def test_number_of_retrieved_patches_may_vary(k):
    context = encoder()(torch.randn(3, k, 4, 16, 16), torch.rand(3, k))
    assert context.shape == (3, k * 16, TINY.hidden_size)  # 4x4 tokens of 4x4 latents each


def test_scores_and_values_matter():
    net, values, scores = encoder(), torch.randn(1, 2, 4, 16, 16), torch.tensor([[0.9, 0.5]])
    with torch.no_grad():
        base = net(values, scores)
        assert (net(values, torch.tensor([[0.9, 0.4]])) - base).abs().max() > 1e-3
        # which value has which score
        assert (net(values, scores.flip(1)) - base).abs().max() > 1e-3
        assert (net(-values, scores) - base).abs().max() > 1e-3


def test_places_within_a_value_matter():
    net, values, scores = encoder(), torch.randn(1, 2, 4, 16, 16), torch.tensor([[0.9, 0.5]])
    with torch.no_grad():
        moved = net(values.roll(4, -1), scores)  # one token to the right
        back = moved.unflatten(1, (2, 4, 4)).roll(-1, 3).flatten(1, 3)
        assert (back - net(values, scores)).abs().max() > 1e-3


def test_prompts_are_independent():
    net, values, scores = encoder(), torch.randn(2, 2, 4, 16, 16), torch.rand(2, 2)
    with torch.no_grad():
        torch.testing.assert_close(
            net(values, scores)[1:], net(values[1:], scores[1:]), atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize(("depth", "blocks"), [(1, 1), (2, 1), (6, 3), (12, 6)])
def test_encoder_is_the_front_half(depth, blocks):
    assert len(TextureEncoder(replace(TINY, depth=depth), 4, 16).blocks) == blocks


def test_encoder_knows_no_time():
    assert list(inspect.signature(TextureEncoder.forward).parameters) == [
        "self",
        "values",
        "scores",
    ]
