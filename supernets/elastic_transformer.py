"""Layers of transformers that use the first features, heads and hidden units of what they have.

This is the weight entanglement of AutoFormer (Chen et al., ICCV 2021, arXiv:2107.00651, section 3.2): of two blocks in
one layer, the weights of the smaller are a part of those of the larger. The plain layers beside them have parameters of
the same names, so a network of them inherits by slicing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .elastic_layers import (
    ElasticBlock,
    ElasticLinear,
    PartialLayer,
    by_importance,
    laid_out,
    permute_inputs,
    permute_outputs,
)
from .ops import drop_path

EPS = 1e-6  # of layer normalisation, as in timm and DeiT; AutoFormer's code has 1e-5
STD = 0.02  # of weights, tokens and positions at the beginning

Grid = tuple[int, int]


class ElasticLayerNorm(nn.LayerNorm):
    """Layer normalisation of the first features."""

    def forward(self, x: Tensor) -> Tensor:
        """``[..., D] -> [..., D]``, with D up to the most features."""
        features = x.shape[-1]
        return F.layer_norm(x, (features,), self.weight[:features], self.bias[:features], self.eps)


class PatchEmbedding(nn.Conv2d):
    """One vector for every patch of an image: a convolution whose stride is its kernel (arXiv:2010.11929).

    Args:
        in_channels: C.
        embed_dim: D.
        patch_size: Height and width of a patch, P.
    """

    def __init__(self, in_channels: int, embed_dim: int, patch_size: int) -> None:
        super().__init__(in_channels, embed_dim, patch_size, patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, H / P * W / P, D]``, row by row."""
        return super().forward(x).flatten(2).transpose(1, 2)


class ElasticPatchEmbedding(PatchEmbedding):
    """:class:`PatchEmbedding` that writes its first features; ``embed_dim`` is the most there are."""

    def forward(self, x: Tensor, embed_dim: int | None = None) -> Tensor:
        """``[B, C, H, W] -> [B, H / P * W / P, embed_dim]``; by default all features."""
        weight = laid_out(self.weight[:embed_dim], self.weight)
        bias = None if self.bias is None else self.bias[:embed_dim]
        return F.conv2d(x, weight, bias, self.stride).flatten(2).transpose(1, 2)


class ElasticQKV(nn.Linear, PartialLayer):
    """Queries, keys and values of the first heads, from the first features.

    Rows are queries, keys, values, each head by head, as in timm. So two numbers of heads share the queries, the keys
    and the values of the first heads.

    Args:
        embed_dim: Most features.
        heads: Most heads.
        head_dim: Features of a head.
    """

    def __init__(self, embed_dim: int, heads: int, head_dim: int) -> None:
        super().__init__(embed_dim, 3 * heads * head_dim)
        self.heads, self.head_dim = heads, head_dim

    def part(self, name: str, shape: Sequence[int]) -> Tensor | None:
        return self._by_head(name, shape).flatten(0, 2)

    def set_part(self, name: str, value: Tensor) -> None:
        """Replace the part of a parameter that a layer of the shape of ``value`` uses, in place.

        Raises:
            ValueError: If these are no queries, keys and values of whole heads.
        """
        own = self._by_head(name, value.shape)
        own.copy_(value.view_as(own))

    def _by_head(self, name: str, shape: Sequence[int]) -> Tensor:
        """A view of a part, ``[3, heads, head_dim]`` of biases, ``[3, heads, head_dim, D]`` of weights."""
        whole = self.get_parameter(name)
        heads, rest = divmod(shape[0], 3 * self.head_dim)
        if rest or not 1 <= heads <= self.heads:
            raise ValueError(
                f"Queries, keys and values must be of whole heads, from 1 to {self.heads} of {self.head_dim} features "
                f"each; got {shape[0]} rows."
            )
        by_head = whole.view(3, self.heads, self.head_dim, *whole.shape[1:])[:, :heads]
        return by_head if whole.dim() == 1 else by_head[..., : shape[1]]

    def forward(self, x: Tensor, heads: int | None = None) -> Tensor:
        """``[B, N, D] -> [B, N, 3 * heads * head_dim]``; by default of all heads."""
        rows = 3 * (heads or self.heads) * self.head_dim
        weight, bias = self.part("weight", (rows, x.shape[-1])), self.part("bias", (rows,))
        assert weight is not None
        return F.linear(x, weight.contiguous(), bias)


class RelativePosition2d(nn.Module):
    r"""Vectors for the distances between the patches of a grid, in AutoFormer's attention.

    The keys and the values of a pair have one vector each, that of its distance in rows plus that in columns, both cut
    off at ``max_distance``. Pairs with the class token, which comes first, have a vector of their own. This is Shaw et
    al. (arXiv:1803.02155, equations 3 and 4) in two dimensions, as in the authors' code (microsoft/Cream,
    ``multihead_super.py``). All heads of a layer share the vectors.

    Args:
        grid: Patches in a column and in a row of the image.
        head_dim: Features of a head.
        max_distance: m; there are 2m + 1 distances. Those that the grid does not have are never used.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, grid: Grid, head_dim: int, max_distance: int) -> None:
        super().__init__()
        if max_distance < 0:
            raise ValueError(f"max_distance must be a number of patches, 0 or more; got {max_distance}.")
        shape = (2 * max_distance + 2, head_dim)
        self.key_rows, self.key_columns = nn.Parameter(torch.empty(shape)), nn.Parameter(torch.empty(shape))
        self.value_rows, self.value_columns = nn.Parameter(torch.empty(shape)), nn.Parameter(torch.empty(shape))
        for parameter in self.parameters():
            nn.init.trunc_normal_(parameter, std=STD)
        for name, index in zip(("rows", "columns"), relative_indices(grid, max_distance), strict=True):
            self.register_buffer(name, index, persistent=False)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Vectors of all pairs for the keys and for the values, ``[N, N, head_dim]`` each."""
        keys = F.embedding(self.rows, self.key_rows) + F.embedding(self.columns, self.key_columns)
        values = F.embedding(self.rows, self.value_rows) + F.embedding(self.columns, self.value_columns)
        return keys, values


def relative_indices(grid: Grid, max_distance: int) -> tuple[Tensor, Tensor]:
    """Which vector every pair of tokens has: 0 with the class token, which is first, else the distance + m + 1.

    Args:
        grid: Rows and columns of patches.
        max_distance: m, where distances are cut off.

    Returns:
        For the distance in rows and in columns, ``[N, N]`` each; the distance is that of the second token to the first.

    Example:
        >>> rows, columns = relative_indices((1, 3), max_distance=1)
        >>> columns.tolist()
        [[0, 0, 0, 0], [0, 2, 3, 3], [0, 1, 2, 3], [0, 1, 1, 2]]
    """
    patches = torch.arange(grid[0] * grid[1])

    def index(places: Tensor) -> Tensor:
        distance = (places[None] - places[:, None]).clamp(-max_distance, max_distance)
        return F.pad(distance + max_distance + 1, (1, 0, 1, 0))

    return index(patches // grid[1]), index(patches % grid[1])


def attend(qkv: Tensor, heads: int, positions: RelativePosition2d | None) -> Tensor:
    r"""Attention of every token to all, head by head.

    .. math:: a_{ij} = \mathrm{softmax}_j \frac{q_i (k_j + r^K_{ij})^T}{\sqrt{d}}, \quad
        y_i = \sum_j a_{ij} (v_j + r^V_{ij})

    Args:
        qkv: Queries, keys, values, each head by head, ``[B, N, 3 * heads * d]``.
        heads: Number of heads.
        positions: Of r; without it r is 0.

    Returns:
        ``[B, N, heads * d]``.
    """
    q, k, v = qkv.reshape(*qkv.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)  # [B, heads, N, d]
    if positions is None:
        y = F.scaled_dot_product_attention(q, k, v)
    else:
        keys, values = positions()
        scores = q @ k.transpose(-2, -1) + torch.einsum("bhid,ijd->bhij", q, keys)
        weights = (scores * q.shape[-1] ** -0.5).softmax(-1)
        y = weights @ v + torch.einsum("bhij,ijd->bhid", weights, values)
    return y.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Multi-head self-attention; see :func:`attend`.

    Args:
        embed_dim: D.
        heads: Number of heads.
        head_dim: Features of a head; all heads together may have more or fewer than D.
        positions: Vectors of relative positions, if there are any.
    """

    def __init__(self, embed_dim: int, heads: int, head_dim: int, positions: RelativePosition2d | None = None) -> None:
        super().__init__()
        self.heads, self.positions = heads, positions
        self.qkv = nn.Linear(embed_dim, 3 * heads * head_dim)
        self.proj = nn.Linear(heads * head_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, D] -> [B, N, D]``."""
        y: Tensor = self.proj(attend(self.qkv(x), self.heads, self.positions))
        return y


class ElasticAttention(nn.Module):
    """:class:`Attention` of the first heads and features.

    Args:
        embed_dim: Most features.
        heads: Most heads.
        head_dim: Features of a head.
        positions: Vectors of relative positions, if there are any.
    """

    def __init__(self, embed_dim: int, heads: int, head_dim: int, positions: RelativePosition2d | None = None) -> None:
        super().__init__()
        self.positions = positions
        self.qkv = ElasticQKV(embed_dim, heads, head_dim)
        self.proj = ElasticLinear(heads * head_dim, embed_dim)

    def forward(self, x: Tensor, heads: int) -> Tensor:
        """``[B, N, D] -> [B, N, D]``."""
        y: Tensor = self.proj(attend(self.qkv(x, heads), heads, self.positions), x.shape[-1])
        return y

    def sort_heads(self) -> None:
        """Put the heads in order of the absolute weights that read them, in place, largest sum first."""
        heads, size = self.qkv.heads, self.qkv.head_dim
        by_head = self.proj.weight.view(-1, heads, size)
        order = by_importance(by_head)
        self.proj.weight.copy_(by_head[:, order].flatten(1))
        for tensor in (self.qkv.weight, self.qkv.bias):
            tensor.copy_(tensor.view(3, heads, size, *tensor.shape[1:])[:, order].flatten(0, 2))


class TransformerBlock(nn.Module):
    """Attention, then two linear layers with GELU; normalisation before, the input added behind (arXiv:2010.11929).

    Args:
        embed_dim: D.
        hidden: Units between the two linear layers.
        attention: The attention.

    Attributes:
        drop_path: Probability that an image loses one of the two parts in training (arXiv:1603.09382).
    """

    drop_path: float = 0.0

    def __init__(self, embed_dim: int, hidden: int, attention: Attention) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(embed_dim, EPS), attention
        self.norm2 = nn.LayerNorm(embed_dim, EPS)
        self.fc1, self.fc2 = nn.Linear(embed_dim, hidden), nn.Linear(hidden, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, D] -> [B, N, D]``."""
        x = x + dropped(self, self.attn(self.norm1(x)))
        return x + dropped(self, self.fc2(F.gelu(self.fc1(self.norm2(x)))))


class ElasticTransformerBlock(ElasticBlock):
    """:class:`TransformerBlock` of the first features, heads and hidden units.

    Args:
        embed_dim: Most features.
        hidden: Most units between the two linear layers.
        attention: The attention.

    Attributes:
        drop_path: See :class:`TransformerBlock`.
    """

    drop_path: float = 0.0

    def __init__(self, embed_dim: int, hidden: int, attention: ElasticAttention) -> None:
        super().__init__()
        self.norm1, self.attn = ElasticLayerNorm(embed_dim, EPS), attention
        self.norm2 = ElasticLayerNorm(embed_dim, EPS)
        self.fc1, self.fc2 = ElasticLinear(embed_dim, hidden), ElasticLinear(hidden, embed_dim)

    def forward(self, x: Tensor, heads: int, hidden: int) -> Tensor:
        """``[B, N, D] -> [B, N, D]``."""
        x = x + dropped(self, self.attn(self.norm1(x), heads))
        return x + dropped(self, self.fc2(F.gelu(self.fc1(self.norm2(x), hidden)), x.shape[-1]))

    def sort_channels(self) -> None:
        """The heads, and the units between the two linear layers."""
        with torch.no_grad():
            self.attn.sort_heads()
            order = by_importance(self.fc2.weight)
            permute_inputs(self.fc2, order)
            permute_outputs(self.fc1, order)


def dropped(block: TransformerBlock | ElasticTransformerBlock, x: Tensor) -> Tensor:
    """What a block adds, without the images that lose it in training; ``[B, N, D]``."""
    return drop_path(x, block.drop_path) if block.training and block.drop_path else x


def set_stochastic_depth(blocks: Sequence[nn.Module], probability: float) -> None:
    """Let blocks be dropped with a probability that grows in a straight line from 0 to that of the last one.

    This is the decay rule of stochastic depth (Huang et al., ECCV 2016, arXiv:1603.09382, section 3), but 0 for the
    first block, as in the code of DeiT and AutoFormer.
    """
    for index, block in enumerate(blocks):
        assert isinstance(block, TransformerBlock | ElasticTransformerBlock)
        block.drop_path = probability * index / max(1, len(blocks) - 1)


def initialise(network: nn.Module) -> None:
    """Draw the weights of linear layers from a truncated normal distribution, and set their biases to 0, in place."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=STD)
            nn.init.zeros_(module.bias)
