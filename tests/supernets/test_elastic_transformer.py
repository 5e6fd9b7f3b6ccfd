"""Layers of transformers against formulas written out in float64 on sliced weights; mistakes must be seen."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from oneshot.supernets.elastic_layers import ElasticLinear
from oneshot.supernets.elastic_transformer import (
    Attention,
    ElasticAttention,
    ElasticLayerNorm,
    ElasticPatchEmbedding,
    ElasticQKV,
    ElasticTransformerBlock,
    RelativePosition2d,
    TransformerBlock,
    attend,
    relative_indices,
    set_stochastic_depth,
)
from oneshot.supernets.ops import drop_path
from oneshot.testing.spaces import disturb

GRID, HEADS, DIM = (2, 3), 3, 4  # rows and columns of patches; most heads; features of a head


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


def double(module: nn.Module) -> nn.Module:
    return disturb(module).double()


def test_a_linear_layer_uses_its_first_inputs_and_outputs() -> None:
    layer, x = ElasticLinear(6, 5).double(), torch.randn(2, 7, 4, dtype=torch.float64)

    expected = torch.stack(
        [sum(layer.weight[o, i] * x[..., i] for i in range(4)) + layer.bias[o] for o in range(3)], dim=-1
    )

    torch.testing.assert_close(layer(x, 3), expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(x @ layer.weight[:3, 2:].T + layer.bias[:3], expected)  # the last inputs
    assert not torch.allclose(x @ layer.weight[2:, :4].T + layer.bias[2:], expected)  # the last outputs
    assert layer(x).shape == (2, 7, 5)
    torch.testing.assert_close(
        ElasticLinear(6, 5, bias=False).double()(x, 3) * 0, torch.zeros(2, 7, 3, dtype=torch.float64)
    )


def test_layer_normalisation_is_of_the_features_there_are() -> None:
    layer, x = ElasticLayerNorm(6, eps=1e-3), torch.randn(2, 5, 4, dtype=torch.float64)
    double(layer)

    mean = x.sum(-1, keepdim=True) / 4
    variance = ((x - mean) ** 2).sum(-1, keepdim=True) / 4
    expected = (x - mean) / (variance + 1e-3).sqrt() * layer.weight[:4] + layer.bias[:4]

    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    padded = torch.cat([x, torch.zeros(2, 5, 2, dtype=torch.float64)], dim=-1)
    masked = nn.LayerNorm.forward(layer, padded)[..., :4]  # statistics of all features, as if the others were 0
    assert not torch.allclose(masked, expected, rtol=1e-2)


def test_a_patch_is_multiplied_by_the_first_rows() -> None:
    layer = ElasticPatchEmbedding(2, 5, 3).double()
    x = torch.randn(4, 2, 6, 9, dtype=torch.float64)

    patches = [x[:, :, 3 * r : 3 * r + 3, 3 * c : 3 * c + 3] for r in range(2) for c in range(3)]
    vectors = [torch.einsum("bchw,dchw->bd", patch, layer.weight[:4]) + layer.bias[:4] for patch in patches]
    expected = torch.stack(vectors, dim=1)

    torch.testing.assert_close(layer(x, 4), expected, rtol=1e-12, atol=1e-12)
    by_column = torch.stack([vectors[i] for i in (0, 3, 1, 4, 2, 5)], dim=1)
    assert not torch.allclose(layer(x, 4), by_column)
    assert layer(x).shape == (4, 6, 5)


def index_by_loops(grid: tuple[int, int], most: int) -> tuple[Tensor, Tensor]:
    """Distances of all pairs of patches, one by one; the class token is the first of the tokens."""
    places = list(itertools.product(range(grid[0]), range(grid[1])))
    found = torch.zeros(2, len(places) + 1, len(places) + 1, dtype=torch.long)
    for i, here in enumerate(places):
        for j, there in enumerate(places):
            for axis in (0, 1):
                distance = min(max(there[axis] - here[axis], -most), most)
                found[axis, i + 1, j + 1] = distance + most + 1
    return found[0], found[1]


@pytest.mark.parametrize("grid", [(3, 3), (2, 5), (5, 2), (1, 4)])
@pytest.mark.parametrize("most", [0, 2, 14])
def test_every_pair_has_the_vector_of_its_distance(grid: tuple[int, int], most: int) -> None:
    expected = index_by_loops(grid, most)

    for found, wanted in zip(relative_indices(grid, most), expected, strict=True):
        assert torch.equal(found, wanted)
        assert int(found.min()) >= 0 and int(found.max()) <= 2 * most + 1
    if most:
        assert not torch.equal(relative_indices(grid, most)[1], expected[1].T)  # of the first token to the second
    if most and grid[0] != grid[1]:
        assert not torch.equal(relative_indices((grid[1], grid[0]), most)[0], expected[0])


def attention_by_loops(qkv: Tensor, heads: int, keys: Tensor, values: Tensor) -> Tensor:
    """Equations 3 and 4 of arXiv:1803.02155 for each pair of tokens."""
    batch, tokens, width = qkv.shape
    size = width // (3 * heads)
    out = torch.zeros(batch, tokens, heads * size, dtype=torch.float64)
    for b, h, i in itertools.product(range(batch), range(heads), range(tokens)):
        own = slice(h * size, (h + 1) * size)
        q, k, v = (part[:, own] for part in qkv[b].split(heads * size, dim=-1))
        scores = torch.stack([q[i] @ (k[j] + keys[i, j]) / math.sqrt(size) for j in range(tokens)])
        weights = scores.exp() / scores.exp().sum()
        out[b, i, own] = sum(weights[j] * (v[j] + values[i, j]) for j in range(tokens))
    return out


@pytest.mark.parametrize("relative", [False, True])
def test_attention_is_that_of_the_papers(relative: bool) -> None:
    tokens = 1 + GRID[0] * GRID[1]
    qkv = torch.randn(2, tokens, 3 * HEADS * DIM, dtype=torch.float64)
    positions = RelativePosition2d(GRID, DIM, 1) if relative else None
    keys = values = torch.zeros(tokens, tokens, DIM, dtype=torch.float64)
    if positions is not None:
        double(positions)
        rows, columns = index_by_loops(GRID, 1)
        keys = positions.key_rows[rows] + positions.key_columns[columns]
        values = positions.value_rows[rows] + positions.value_columns[columns]

    found = attend(qkv, HEADS, positions)

    torch.testing.assert_close(found, attention_by_loops(qkv, HEADS, keys, values), rtol=1e-10, atol=1e-12)
    if relative:
        for wrong in ((keys, torch.zeros_like(values)), (torch.zeros_like(keys), values), (values, keys)):
            assert not torch.allclose(found, attention_by_loops(qkv, HEADS, *wrong), rtol=1e-3)
        turned = (keys.transpose(0, 1), values.transpose(0, 1))
        assert not torch.allclose(found, attention_by_loops(qkv, HEADS, *turned), rtol=1e-3)
    shuffled = torch.cat([part.flip(-1) for part in qkv.split(HEADS * DIM, dim=-1)], dim=-1)
    assert not torch.allclose(found, attention_by_loops(shuffled, HEADS, keys, values), rtol=1e-3)


def test_queries_keys_and_values_are_those_of_the_first_heads() -> None:
    layer, x = ElasticQKV(6, HEADS, DIM).double(), torch.randn(2, 5, 4, dtype=torch.float64)
    full = nn.functional.pad(x, (0, 2)) @ layer.weight.T + layer.bias

    found = layer(x, 2)

    parts = full.split(HEADS * DIM, dim=-1)
    torch.testing.assert_close(found, torch.cat([part[..., : 2 * DIM] for part in parts], dim=-1))
    assert not torch.allclose(found, full[..., : 3 * 2 * DIM])  # the first rows: all heads of queries, no values
    assert layer(x).shape == (2, 5, 3 * HEADS * DIM)


def test_a_part_that_is_set_is_the_part_that_is_used() -> None:
    layer = ElasticQKV(6, HEADS, DIM)
    before = layer.weight.clone()
    value = torch.randn(3 * 2 * DIM, 4)

    with torch.no_grad():
        layer.set_part("weight", value)
        layer.set_part("bias", value[:, 0].clone())

    assert torch.equal(layer.part("weight", value.shape), value)
    assert torch.equal(layer.part("bias", (len(value),)), value[:, 0])
    assert int((layer.weight != before).sum()) == value.numel()
    for rows in (3 * (HEADS + 1) * DIM, 3 * DIM + 1, 0):
        with pytest.raises(ValueError, match=f"of whole heads, from 1 to 3 of 4 features each; got {rows} rows"):
            layer.part("weight", (rows, 4))


def test_a_block_adds_attention_and_hidden_units_of_the_first_heads_and_features() -> None:
    block = ElasticTransformerBlock(6, 10, ElasticAttention(6, HEADS, DIM))
    double(block)
    x = torch.randn(2, 5, 4, dtype=torch.float64)

    def normalised(y: Tensor, norm: nn.LayerNorm) -> Tensor:
        spread = (y.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        return (y - y.mean(-1, keepdim=True)) / spread * norm.weight[:4] + norm.bias[:4]

    attention = nn.MultiheadAttention(8, 2, bias=True, batch_first=True, kdim=8, vdim=8).double()
    qkv = block.attn.qkv
    y = normalised(x, block.norm1)
    q, k, v = ((y @ qkv.weight[s : s + 8, :4].T + qkv.bias[s : s + 8]) for s in (0, 12, 24))
    with torch.no_grad():  # ready-made projections: the identity, and a part of ours
        for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
            if (weight := getattr(attention, name)) is not None:
                weight.copy_(torch.eye(8))
        if attention.in_proj_weight is not None:
            attention.in_proj_weight.copy_(torch.eye(8).repeat(3, 1))
        attention.in_proj_bias.zero_()
        attention.out_proj.weight.copy_(torch.eye(8))
        attention.out_proj.bias.zero_()
    z = x + attention(q, k, v, need_weights=False)[0] @ block.attn.proj.weight[:4, :8].T + block.attn.proj.bias[:4]
    hidden = normalised(z, block.norm2) @ block.fc1.weight[:7, :4].T + block.fc1.bias[:7]
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    expected = z + hidden @ block.fc2.weight[:4, :7].T + block.fc2.bias[:4]

    torch.testing.assert_close(block(x, 2, 7), expected, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(block(x, 2, 8), expected, rtol=1e-3)
    assert not torch.allclose(block(x, 3, 7), expected, rtol=1e-3)
    relu = z + (normalised(z, block.norm2) @ block.fc1.weight[:7, :4].T + block.fc1.bias[:7]).relu() @ (
        block.fc2.weight[:4, :7].T
    )
    assert not torch.allclose(relu + block.fc2.bias[:4], expected, rtol=1e-3)


@pytest.mark.parametrize("shape", [(4000, 2), (4000, 2, 3), (4000, 2, 1, 1)])
def test_a_path_is_dropped_for_whole_images_of_any_shape(shape: tuple[int, ...]) -> None:
    dropped = drop_path(torch.ones(shape), 0.25)

    assert dropped.shape == shape
    of_images = dropped.flatten(1)
    assert torch.equal(of_images, of_images[:, :1].expand_as(of_images))
    assert of_images[:, 0].unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert abs(float((of_images[:, 0] == 0).float().mean()) - 0.25) < 0.03


def test_stochastic_depth_grows_from_block_to_block_and_is_for_training() -> None:
    blocks = [TransformerBlock(4, 4, Attention(4, 1, 4)) for _ in range(5)]
    x = torch.randn(2000, 1, 4)
    set_stochastic_depth(blocks, 0.4)

    assert [block.drop_path for block in blocks] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    with torch.no_grad():
        untouched = (blocks[-1].train()(x) == x).all(-1).float().mean()  # both parts are dropped
        assert abs(float(untouched) - 0.4**2) < 0.03
        assert not (blocks[-1].eval()(x) == x).all(-1).any()
        assert not (blocks[0].train()(x) == x).all(-1).any()
    set_stochastic_depth(blocks[:1], 0.4)
    assert blocks[0].drop_path == 0


def test_distances_are_not_negative() -> None:
    with pytest.raises(ValueError, match="max_distance must be a number of patches, 0 or more; got -1"):
        RelativePosition2d((2, 2), 4, -1)
