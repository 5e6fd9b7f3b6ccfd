"""Networks for rows of tables ``[F]``: a chain of residual blocks of linear layers.

Blocks, the first linear layer and the head are those of "Revisiting Deep Learning Models for Tabular Data" (Gorishniy,
Rubachev, Khrulkov, Babenko, NeurIPS 2021, arXiv:2106.11959, section 3.2)::

    ResNet(x)      = Prediction(ResNetBlock(... ResNetBlock(Linear(x))))
    ResNetBlock(x) = x + Dropout(Linear(Dropout(ReLU(Linear(Norm(x))))))
    MLPBlock(x)    = Dropout(ReLU(Linear(x)))
    Prediction(x)  = Linear(ReLU(Norm(x)))

What a search chooses, the activation and the width in between, is our own space. Categories and missing values are for
the data to bring into numbers; columns should have mean 0 and variance 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor, nn

from .base import arguments
from .chain import ChainNetwork, ChainSupernet, EqualLayers, Layer, Skeleton, check_dropout

SKIP, DENSE, BOTTLENECK = "skip", "dense", "bottleneck"
CANDIDATES = ("relu_1", "relu_2", "relu_4", "silu_2", "glu_2", BOTTLENECK, DENSE, SKIP)
NAMED = re.compile(r"(relu|silu|glu)_([1-9]\d*)")
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "glu": nn.GLU}
NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


@dataclass(frozen=True)
class MLPSpace(EqualLayers):
    """Blocks for rows of tables, W being the width of the network and ``K`` any whole number from 1 on.

    | candidate | what it is |
    |---|---|
    | ``relu_K`` | residual block with ``K * W`` units and ReLU in between |
    | ``silu_K`` | the same with SiLU (arXiv:1702.03118) |
    | ``glu_K`` | the same with a gated linear unit (arXiv:1612.08083): values times the sigmoid of gates |
    | ``bottleneck`` | residual block with ``W / 4`` units, at least one, and ReLU in between |
    | ``dense`` | linear layer and ReLU, with nothing beside it |
    | ``skip`` | the input |

    Args:
        name: Name of the space.
        layers: Number of blocks.
        candidates: What a block can be.

    Raises:
        ValueError: If a candidate is none of these, or there is no layer.

    Example:
        >>> space = MLPSpace()
        >>> space.num_genes, space.size == 8**4
        (4, True)
    """

    name: str = "mlp"
    layers: int = 4
    candidates: tuple[str, ...] = CANDIDATES

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.candidates:
            _activation_of(name)


def _activation_of(name: str) -> tuple[str, int] | None:
    """Activation of a residual block and how many times the width it has; None of other candidates."""
    match = NAMED.fullmatch(str(name))
    if match is None and name not in (BOTTLENECK, DENSE, SKIP):
        raise ValueError(
            "A candidate must be 'skip', 'dense', 'bottleneck', or one of relu_K, silu_K and glu_K with a whole number "
            f"K; got {name!r}. Write for example 'relu_2'."
        )
    return (match[1], int(match[2])) if match else None


class ResidualMLP(nn.Module):
    """``x + Dropout(Linear(Dropout(activation(Linear(Norm(x))))))``.

    Args:
        width: W, length of the input and the output.
        hidden: Units in between.
        activation: ``"relu"``, ``"silu"`` or ``"glu"``; of the last there are as many gates as units.
        norm: ``"batch"`` or ``"layer"``.
        dropout: Probability of both dropouts.
    """

    def __init__(self, width: int, hidden: int, activation: str, *, norm: str, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            NORMS[norm](width),
            nn.Linear(width, hidden * (2 if activation == "glu" else 1)),
            ACTIVATIONS[activation](),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, W] -> [B, W]``."""
        y: Tensor = self.body(x)
        return x + y


def mlp_block(name: str, layer: Layer, *, norm: str, dropout: float) -> nn.Module:
    """A candidate of :class:`MLPSpace`."""
    width = layer.in_channels
    if name == SKIP:
        return nn.Identity()
    if name == DENSE:
        return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout))
    activation, times = _activation_of(name) or ("relu", 0)
    return ResidualMLP(width, times * width or max(1, width // 4), activation, norm=norm, dropout=dropout)


def _mlp(
    *,
    features: int,
    width: int,
    layers: int,
    candidates: Sequence[str],
    norm: str,
    dropout: float,
    num_classes: int,
) -> tuple[MLPSpace, Skeleton]:
    for name, value in (("features", features), ("width", width)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}.")
    if norm not in NORMS:
        raise ValueError(f"norm must be 'batch' or 'layer'; got {norm!r}.")
    check_dropout(dropout)
    space = MLPSpace(layers=layers, candidates=tuple(candidates))
    stem = nn.Sequential(nn.Linear(features, width))
    head = nn.Sequential(NORMS[norm](width), nn.ReLU(), nn.Linear(width, num_classes))
    return space, Skeleton(stem, [Layer(width, width)] * layers, head, (features,), num_classes)


class MLPSupernet(ChainSupernet):
    """All blocks in all layers of a network for rows of tables ``[F]``.

    Args:
        width: W, length of the states.
        layers: Number of blocks.
        candidates: What a block can be, see :class:`MLPSpace`.
        norm: ``"batch"`` normalisation, or ``"layer"`` normalisation, which does not depend on other rows.
        dropout: Probability of dropping a unit in training.
        num_classes: Number of outputs: classes, or numbers that are predicted.
        features: F, columns of the table.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> net = MLPSupernet(width=8, layers=2, features=5)
        >>> net(torch.zeros(3, 5), net.one_hot(net.space.sample(0))).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        *,
        width: int = 128,
        layers: int = 4,
        candidates: Sequence[str] = CANDIDATES,
        norm: Literal["batch", "layer"] = "batch",
        dropout: float = 0.0,
        num_classes: int = 2,
        features: int = 16,
    ) -> None:
        self._settings = arguments(locals())
        super().__init__(*_mlp(**self._settings), partial(mlp_block, norm=norm, dropout=dropout))

    def standalone(self, operations: Sequence[str]) -> MLPNetwork:
        return MLPNetwork(operations, **self._settings)


class MLPNetwork(ChainNetwork):
    """A network for rows of tables, to be trained from scratch.

    Args:
        operations: The candidate of every layer.
        width: See :class:`MLPSupernet`.
        layers: See :class:`MLPSupernet`.
        candidates: See :class:`MLPSupernet`.
        norm: See :class:`MLPSupernet`.
        dropout: See :class:`MLPSupernet`.
        num_classes: Number of outputs.
        features: F, columns of the table.

    Raises:
        ValueError: See :class:`MLPSupernet`; or if there is not one known candidate for every layer.

    Example:
        >>> net = MLPNetwork(["relu_2", "skip"], layers=2, width=8, features=5)
        >>> sum(p.numel() for p in net.parameters())
        378
    """

    def __init__(
        self,
        operations: Sequence[str],
        *,
        width: int = 128,
        layers: int = 4,
        candidates: Sequence[str] = CANDIDATES,
        norm: Literal["batch", "layer"] = "batch",
        dropout: float = 0.0,
        num_classes: int = 2,
        features: int = 16,
    ) -> None:
        settings = arguments(locals(), "operations")
        space, skeleton = _mlp(**settings)
        super().__init__(space, operations, skeleton, partial(mlp_block, norm=norm, dropout=dropout))
        self.init_args = {"operations": list(operations), **settings}
