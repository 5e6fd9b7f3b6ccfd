"""The elastic vision transformer of AutoFormer (Chen et al., ICCV 2021, arXiv:2107.00651).

Embedding dimension, number of blocks, and in every block the number of heads and the ratio of the hidden units to the
embedding dimension. What is chosen and how it shares weights is section 3.2 of the paper, the three spaces are table 1;
the rest follows the authors' code (microsoft/Cream, AutoFormer, ``supernet_transformer.py``) as its commands run it:
``--gp --change_qkv --relative_position``. What differs: layer normalisation adds 1e-6 to the variance as timm's does,
not 1e-5, and the supernet is as wide as its widest network (they have 256 and 640 features where 240 and 624 are used).
Left out is their option ``--scale``, which none of their commands has.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from .base import arguments, check_classes, image_shape
from .elastic import ElasticArch, ElasticNetwork, ElasticSpace, ElasticSupernet, check_depths, elastic_choices
from .elastic_layers import ElasticLinear
from .elastic_transformer import (
    EPS,
    STD,
    Attention,
    ElasticAttention,
    ElasticLayerNorm,
    ElasticPatchEmbedding,
    ElasticTransformerBlock,
    Grid,
    PatchEmbedding,
    RelativePosition2d,
    TransformerBlock,
    initialise,
    set_stochastic_depth,
)

HEAD_DIM = 64  # features of a head: the Q-K-V dimension of the paper is 64 for every head

Pool = Literal["token", "average"]
Size = Literal["tiny", "small", "base"]
ImageSize = int | tuple[int, int]


class ViTBlock(NamedTuple):
    """What is chosen in a block.

    Args:
        heads: Number of heads.
        mlp_ratio: Hidden units per feature.
    """

    heads: int
    mlp_ratio: float

    def __str__(self) -> str:
        return f"h{self.heads}_m{self.mlp_ratio:g}"

    @classmethod
    def parse(cls, name: str) -> ViTBlock:
        """Inverse of ``str``.

        Raises:
            ValueError: If it is no such name.

        Example:
            >>> ViTBlock.parse("h3_m3.5")
            ViTBlock(heads=3, mlp_ratio=3.5)
        """
        heads, found, ratio = name.removeprefix("h").partition("_m")
        try:
            block = cls(int(heads), float(ratio))
        except ValueError:
            block = cls(0, 0.0)
        if not (name.startswith("h") and found and block.heads > 0 and 0 < block.mlp_ratio < float("inf")):
            raise ValueError(f"A block is named for its heads and its MLP ratio, as 'h3_m3.5'; got {name!r}.")
        return block

    def hidden(self, embed_dim: int) -> int:
        """Hidden units, rounded down as in the authors' code."""
        return int(embed_dim * self.mlp_ratio)


def vit_blocks(heads: Sequence[int], mlp_ratios: Sequence[float]) -> list[str]:
    """Names of blocks.

    Args:
        heads: Of every block.
        mlp_ratios: Of every block.

    Raises:
        ValueError: If the lists have different lengths.

    Example:
        >>> vit_blocks([3, 4], [3.5, 4])
        ['h3_m3.5', 'h4_m4']
    """
    if len(heads) != len(mlp_ratios):
        raise ValueError(
            f"There must be as many numbers of heads as MLP ratios; got {len(heads)} and {len(mlp_ratios)}."
        )
    return [str(ViTBlock(*pair)) for pair in zip(heads, mlp_ratios, strict=True)]


class _Choices(TypedDict):
    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    mlp_ratios: tuple[float, ...]


AUTOFORMER_SPACES: Mapping[Size, _Choices] = MappingProxyType(
    {
        "tiny": {"embed_dims": (192, 216, 240), "depths": (12, 13, 14), "heads": (3, 4), "mlp_ratios": (3.5, 4)},
        "small": {"embed_dims": (320, 384, 448), "depths": (12, 13, 14), "heads": (5, 6, 7), "mlp_ratios": (3, 3.5, 4)},
        "base": {"embed_dims": (528, 576, 624), "depths": (14, 15, 16), "heads": (8, 9, 10), "mlp_ratios": (3, 3.5, 4)},
    }
)
"""What can be chosen in the paper's spaces (table 1)."""

AUTOFORMERS: Mapping[Size, Mapping[str, Any]] = MappingProxyType(
    {
        "tiny": {
            "embed_dim": 192,
            "blocks": vit_blocks([3] * 10 + [4, 3, 3], [3.5, 3.5, 3, 3.5, 3, 3, 4, 4, 3.5, 4, 3.5, 4, 3.5]),
        },
        "small": {
            "embed_dim": 384,
            "blocks": vit_blocks(
                [6, 6, 5, 7, 5, 5, 5, 6, 6, 7, 7, 6, 7], [3, 3.5, 3, 3.5, 4, 4, 4, 4, 4, 4, 4, 3.5, 4]
            ),
        },
        "base": {
            "embed_dim": 576,
            "blocks": vit_blocks(
                [9, 9, 9, 9, 9, 10, 9, 9, 10, 9, 10, 9, 9, 10],
                [3.5, 3.5, 4, 3.5, 4, 3.5, 3.5, 3, 4, 4, 3, 4, 3, 3.5],
            ),
        },
    }
)
"""The architectures that the authors published, as arguments of :class:`ViTNetwork`.

That of ``"tiny"`` has blocks of ratio 3, which its space in table 1 has not: ``mlp_ratios=(3, 3.5, 4)`` has them.
"""


@dataclass(frozen=True, init=False)
class ViTSpace(ElasticSpace):
    """Embedding dimension, number of blocks, and in every block the number of heads and the MLP ratio.

    The choice ``width`` is the embedding dimension, and ``stage_0`` holds the blocks, named ``h3_m3.5`` for 3 heads and
    a ratio of 3.5. ``resolution`` has one candidate, the width of the images. Architectures are drawn as AutoFormer
    draws them: dimension, depth, and then heads and ratio of every block, each uniformly.

    Args:
        image_width: Width of the images.
        embed_dims: Embedding dimensions.
        depths: Numbers of blocks, consecutive.
        heads: Numbers of heads of a block.
        mlp_ratios: Hidden units per feature; for every embedding dimension they give different numbers.

    Raises:
        ValueError: If depths leave one out, there is nothing to choose from, or two ratios are one for some dimension.

    Example:
        >>> space = ViTSpace(**AUTOFORMER_SPACES["tiny"])
        >>> space.num_genes, space.size == 3 * (4**12 + 4**13 + 4**14)
        (16, True)
    """

    def __init__(
        self,
        *,
        image_width: int = 224,
        embed_dims: Sequence[int] = (192, 216, 240),
        depths: Sequence[int] = (12, 13, 14),
        heads: Sequence[int] = (3, 4),
        mlp_ratios: Sequence[float] = (3.5, 4),
    ) -> None:
        for name, numbers in (("embed_dims", embed_dims), ("depths", depths), ("heads", heads)):
            _check_numbers(name, numbers, whole=True)
        _check_numbers("mlp_ratios", mlp_ratios, whole=False)
        check_depths(depths)
        ratios = sorted({float(ratio) for ratio in mlp_ratios})
        for dim, (first, second) in itertools.product(embed_dims, itertools.pairwise([0.0, *ratios])):
            if ViTBlock(1, first).hidden(dim) == (hidden := ViTBlock(1, second).hidden(dim)):
                other = f"{first:g} and {second:g} are both" if first else f"{second:g} is"
                raise ValueError(
                    f"MLP ratios must stand for different numbers of hidden units, at least one; of {dim} features, "
                    f"{other} {hidden}. Leave one out, or take others."
                )
        blocks = [str(ViTBlock(h, ratio)) for h in sorted(set(heads)) for ratio in ratios]
        sizes, _, stage = elastic_choices((image_width,), (1.0,), blocks, [max(depths)])
        width = elastic_choices((1,), embed_dims, blocks, [1])[1]
        super().__init__("vit", (sizes, width, stage), (min(depths),))

    def vit(self, embed_dim: int, blocks: Sequence[str]) -> ElasticArch:
        """An architecture as :class:`ViTNetwork` writes it; see :meth:`ElasticSpace.config`."""
        return ElasticArch(int(self.choices[0].candidates[0]), embed_dim, (tuple(blocks),))


def _check_numbers(name: str, numbers: object, *, whole: bool) -> None:
    """Check that there are numbers above 0, at least one."""
    given = list(numbers) if isinstance(numbers, Iterable) else []
    if not given or not all(isinstance(n, int) or not whole for n in given) or min(given) <= 0:
        kind = "whole numbers from 1 on" if whole else "numbers above 0"
        raise ValueError(f"{name} must be {kind}, at least one, in a list; got {numbers!r}.")


def _grid(image_size: ImageSize | Sequence[int], patch_size: int) -> tuple[Grid, Grid]:
    """Height and width of an image, in pixels and in patches.

    Raises:
        ValueError: If a patch has no pixels, or patches do not fill the image.
    """
    _, height, width = image_shape(1, image_size)
    if patch_size < 1 or min(height, width) < patch_size or height % patch_size or width % patch_size:
        raise ValueError(
            f"image_size must be a multiple of patch_size in height and width; got {height} x {width} pixels and "
            f"patch_size={patch_size}. Resize or pad the images, or take another patch_size."
        )
    return (height, width), (height // patch_size, width // patch_size)


def _check_settings(num_classes: int, head_dim: int, pool: str, embed_dim: int = 1) -> None:
    check_classes(num_classes)
    if min(head_dim, embed_dim) < 1:
        name, value = ("head_dim", head_dim) if head_dim < 1 else ("embed_dim", embed_dim)
        raise ValueError(f"{name} must be 1 or more; got {value}.")
    if pool not in ("token", "average"):
        raise ValueError(f"pool must be 'token' (the class token) or 'average' (all patches); got {pool!r}.")


class ViTSupernet(ElasticSupernet):
    """Shared weights of all architectures of a :class:`ViTSpace`.

    AutoFormer trains it by one architecture a step, drawn uniformly, as :class:`~oneshot.methods.RandomSharing` does.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Height and width of an image: one number for both, or two.
        patch_size: Height and width of a patch.
        size: The paper's space: ``"tiny"``, ``"small"`` or ``"base"``. What follows replaces parts of it.
        embed_dims: See :class:`ViTSpace`.
        depths: See :class:`ViTSpace`.
        heads: See :class:`ViTSpace`.
        mlp_ratios: See :class:`ViTSpace`.
        head_dim: Features of a head.
        pool: What the classifier reads: ``"average"``, the mean over the patches, or ``"token"``, the class token.
        relative_position: Whether attention knows the distances between patches, beside the position of each; see
            :class:`~.elastic_transformer.RelativePosition2d`.
        max_distance: Of patches, where distances are cut off.
        upsample: Whether images smaller than ``image_size`` may be enlarged to it.

    Raises:
        ValueError: If patches do not fill the images, there is no output, or no such space.

    Example:
        >>> small = {"num_classes": 10, "image_size": 8, "patch_size": 2, "head_dim": 8}
        >>> net = ViTSupernet(embed_dims=(16, 24), depths=(1, 2), heads=(1, 2), mlp_ratios=(2, 4), **small).eval()
        >>> net(torch.zeros(2, 3, 8, 8), net.space.smallest).shape
        torch.Size([2, 10])
    """

    space: ViTSpace

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        image_size: ImageSize = 224,
        patch_size: int = 16,
        size: Size = "tiny",
        embed_dims: tuple[int, ...] | None = None,
        depths: tuple[int, ...] | None = None,
        heads: tuple[int, ...] | None = None,
        mlp_ratios: tuple[float, ...] | None = None,
        head_dim: int = HEAD_DIM,
        pool: Pool = "average",
        relative_position: bool = True,
        max_distance: int = 14,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        _check_settings(num_classes, head_dim, pool)
        if size not in AUTOFORMER_SPACES:
            raise ValueError(f"size must be one of {tuple(AUTOFORMER_SPACES)}; got {size!r}.")
        (height, width), grid = _grid(image_size, patch_size)
        paper = AUTOFORMER_SPACES[size]
        self.space = ViTSpace(
            image_width=width,
            embed_dims=paper["embed_dims"] if embed_dims is None else embed_dims,
            depths=paper["depths"] if depths is None else depths,
            heads=paper["heads"] if heads is None else heads,
            mlp_ratios=paper["mlp_ratios"] if mlp_ratios is None else mlp_ratios,
        )
        self.input_shape, self.num_classes = (in_channels, height, width), num_classes
        self.upsample, self.pool = upsample, pool
        self.settings = {
            "num_classes": num_classes,
            "in_channels": in_channels,
            "image_size": [height, width],
            "patch_size": patch_size,
            "head_dim": head_dim,
            "pool": pool,
            "relative_position": relative_position,
            "max_distance": max_distance,
        }

        largest = self.space.arch(self.space.largest)
        most, dim = ViTBlock.parse(largest.stages[0][-1]), int(largest.width)
        self.patch_embed = ElasticPatchEmbedding(in_channels, dim, patch_size)
        self.cls_token, self.pos_embed = _tokens(grid, dim)

        def block() -> ElasticTransformerBlock:
            positions = RelativePosition2d(grid, head_dim, max_distance) if relative_position else None
            attention = ElasticAttention(dim, most.heads, head_dim, positions)
            return ElasticTransformerBlock(dim, most.hidden(dim), attention)

        self.stages = nn.ModuleList([nn.ModuleList(block() for _ in largest.stages[0])])
        self.norm, self.head = ElasticLayerNorm(dim, EPS), ElasticLinear(dim, num_classes)
        initialise(self)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that do not decay where biases do not, as in timm and AutoFormer."""
        return {"cls_token", "pos_embed"}

    def drop_paths(self, probability: float) -> None:
        set_stochastic_depth([*self.stages[0]], probability)  # type: ignore[misc]  # ModuleList is untyped

    def run(self, x: Tensor, arch: ElasticArch) -> Tensor:
        dim = int(arch.width)
        x = _with_positions(self.patch_embed(x, dim), self.cls_token[..., :dim], self.pos_embed[..., :dim])
        blocks: Any = self.stages[0]
        for module, name in zip(blocks, arch.stages[0], strict=False):  # those behind are left out
            block = ViTBlock.parse(name)
            x = self.run_cell(module, x, block.heads, block.hidden(dim))
        logits: Tensor = self.head(_pooled(self.norm(x), self.pool))
        return logits

    def standalone(self, arch: ElasticArch) -> ViTNetwork:
        return ViTNetwork(arch.stages[0], embed_dim=int(arch.width), **self.settings)


def _tokens(grid: Grid, embed_dim: int) -> tuple[nn.Parameter, nn.Parameter]:
    """The class token, ``[1, 1, D]``, and the positions of all tokens, ``[1, N, D]``."""
    found = [nn.Parameter(torch.empty(1, count, embed_dim)) for count in (1, 1 + grid[0] * grid[1])]
    for tokens in found:
        nn.init.trunc_normal_(tokens, std=STD)
    return found[0], found[1]


def _with_positions(patches: Tensor, cls_token: Tensor, pos_embed: Tensor) -> Tensor:
    """The class token and the patches, each with its position: ``[B, N - 1, D] -> [B, N, D]``."""
    return torch.cat([cls_token.expand(patches.shape[0], -1, -1), patches], dim=1) + pos_embed


def _pooled(x: Tensor, pool: Pool) -> Tensor:
    """What the classifier reads: ``[B, N, D] -> [B, D]``."""
    return x[:, 0] if pool == "token" else x[:, 1:].mean(1)


class ViTNetwork(ElasticNetwork):
    """A vision transformer; see :class:`ViTSupernet`.

    Args:
        blocks: Names of all blocks, first to last; see :func:`vit_blocks`.
        embed_dim: Embedding dimension.
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Height and width of an image: one number for both, or two.
        patch_size: Height and width of a patch.
        head_dim: See :class:`ViTSupernet`.
        pool: See :class:`ViTSupernet`.
        relative_position: See :class:`ViTSupernet`.
        max_distance: See :class:`ViTSupernet`.

    Raises:
        ValueError: If there is no block, one has another name, or patches do not fill the image.

    Example:
        >>> net = ViTNetwork(**AUTOFORMERS["tiny"])  # AutoFormer-T
        >>> sum(p.numel() for p in net.parameters())
        5867944
    """

    space_name = "vit"

    def __init__(
        self,
        blocks: Sequence[str],
        *,
        embed_dim: int,
        num_classes: int = 1000,
        in_channels: int = 3,
        image_size: ImageSize = 224,
        patch_size: int = 16,
        head_dim: int = HEAD_DIM,
        pool: Pool = "average",
        relative_position: bool = True,
        max_distance: int = 14,
    ) -> None:
        size = image_size if isinstance(image_size, int) else list(image_size)
        self.init_args = arguments(locals(), "size") | {"blocks": list(blocks), "image_size": size}
        super().__init__()
        _check_settings(num_classes, head_dim, pool, embed_dim)
        (height, width), grid = _grid(image_size, patch_size)
        if not blocks:
            raise ValueError("A vision transformer must have a block at least; got no blocks.")
        self.input_shape, self.num_classes, self.pool = (in_channels, height, width), num_classes, pool
        self.arch = ElasticArch(width, embed_dim, (tuple(blocks),))

        self.patch_embed = PatchEmbedding(in_channels, embed_dim, patch_size)
        self.cls_token, self.pos_embed = _tokens(grid, embed_dim)

        def block(name: str) -> TransformerBlock:
            chosen = ViTBlock.parse(name)
            positions = RelativePosition2d(grid, head_dim, max_distance) if relative_position else None
            attention = Attention(embed_dim, chosen.heads, head_dim, positions)
            return TransformerBlock(embed_dim, chosen.hidden(embed_dim), attention)

        self.stages = nn.ModuleList([nn.ModuleList(map(block, blocks))])
        self.norm, self.head = nn.LayerNorm(embed_dim, EPS), nn.Linear(embed_dim, num_classes)
        initialise(self)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that do not decay where biases do not, as in timm and AutoFormer."""
        return {"cls_token", "pos_embed"}

    def set_drop_path(self, probability: float) -> None:
        """Drop the two parts of blocks by stochastic depth; ``probability`` is that of the last block."""
        set_stochastic_depth(self.layers(), probability)

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.input_shape:
            raise ValueError(
                f"Images must have the shape {list(self.input_shape)}, for every patch has a position of its own; got "
                f"a batch of {list(x.shape[1:])}. Resize them, or build the network with their image_size."
            )
        x = _with_positions(self.patch_embed(x), self.cls_token, self.pos_embed)
        for block in self.layers():
            x = block(x)
        logits: Tensor = self.head(_pooled(self.norm(x), self.pool))
        return logits
