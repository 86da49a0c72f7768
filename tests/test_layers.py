"""Parts of Patch-DiT, each against a few lines of its own."""

import pytest
import torch
import torch.nn.functional as F

from patchscaler.models.layers import (
    MLP,
    CrossAttention,
    sincos_positions,
    timestep_embedding,
    tokenise,
    untokenise,
)


def test_cross_attention_is_softmax_over_the_context():
    torch.manual_seed(0)
    cross = CrossAttention(32, 2, 16)
    x, context = torch.randn(2, 5, 32), torch.randn(2, 7, 32)
    q, (k, v) = cross.q(x), cross.kv(context).split(16, -1)
    heads = []
    for h in (slice(0, 8), slice(8, 16)):
        weights = torch.softmax(q[..., h] @ k[..., h].transpose(1, 2) / 8**0.5, -1)
        heads.append(weights @ v[..., h])
    expected = cross.proj(torch.cat(heads, -1))
    torch.testing.assert_close(cross(x, cross.keys_values(context)), expected)


@pytest.mark.parametrize("side", [1, 2, 4])
def test_untokenise_undoes_tokenise(side):
    x = torch.randn(2, 3, 16, 16)
    tokens = tokenise(x, side)
    assert tokens.shape == (2, (16 // side) ** 2, 3 * side**2)
    assert torch.equal(untokenise(tokens, side), x)
    # A token is a square of neighbours: the second one of the first row.
    assert torch.equal(
        tokens[0, 1].sort().values, x[0, :, :side, side : 2 * side].flatten().sort().values
    )


def test_time_embedding_by_hand():
    # Two frequencies, 1 and 10000^-1/2 = .01; cosines first.
    expected = [0.540302, 0.99995, 0.841471, 0.0099998]
    assert timestep_embedding(torch.tensor([1]), 4)[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_positions_by_hand():
    # Frequencies 1 and .01, sines first; the column in the first half, the row in the second.
    expected = [[0, 0, 1, 1, 0, 0, 1, 1], [0.841471, 0.0099998, 0.540302, 0.99995, 0, 0, 1, 1]]
    torch.testing.assert_close(
        sincos_positions(2, 8)[:2], torch.tensor(expected), atol=1e-6, rtol=0
    )


def test_depthwise_convolution_works_on_the_square_of_tokens():
    torch.manual_seed(0)
    mlp, x = MLP(8, 2.0, depthwise=True), torch.randn(2, 16, 8)
    h = mlp.fc1(x)
    square = h.view(2, 4, 4, 16).permute(0, 3, 1, 2)
    h = (square + mlp.depthwise(square)).permute(0, 2, 3, 1).reshape(2, 16, 16)
    torch.testing.assert_close(mlp(x), mlp.fc2(F.gelu(h, approximate="tanh")))


def test_positions_differ_everywhere():
    positions = sincos_positions(8, 32)
    assert positions.shape == (64, 32)
    distances = torch.cdist(positions, positions) + 9 * torch.eye(64)
    assert distances.min() > 0.1
    # Half for each axis: two tokens of one column share the columns' half.
    assert torch.equal(positions[3, :16], positions[11, :16]) and torch.equal(
        positions[8, 16:], positions[9, 16:]
    )
