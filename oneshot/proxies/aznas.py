"""AZ-NAS: an assembly of zero-cost proxies (Lee and Ham, CVPR 2024, arXiv:2403.19232).

Four scores of a network, of which :func:`az_nas` makes one by their ranks in a set. Expressivity, progressivity and
trainability are of the feature maps between the blocks of the network, for Gaussian images and weights of
``N(0, 2 / inputs)``; the fourth, complexity, are its MACs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneshot.errors import NoScoreError
from oneshot.supernets.json_files import nearest

from .base import Batch, Proxy, gradients, numbers_with_digits, output_of
from .initial import draw_weights
from .ranks import combined
from .zen import gaussian_like

AZ_NAS = ("az_expressivity", "az_progressivity", "az_trainability", "macs")


@dataclass(frozen=True)
class _OfBlocks(Proxy):
    """A score of the feature maps that the blocks hand on.

    Args:
        blocks: Names of the modules whose outputs are looked at, in order; by default :func:`blocks_of`.
    """

    blocks: tuple[str, ...] = ()

    def features(self, network: nn.Module, batch: Batch, *, differentiable: bool) -> list[Tensor]:
        """Outputs of the blocks ``[B, C, H, W]`` for Gaussian inputs and new weights."""
        numbers_with_digits(batch.inputs, self.name)
        draw_weights(network, "kaiming")
        found: list[Tensor] = []

        def keep(module: nn.Module, args: object, out: object) -> object:
            if not (isinstance(out, Tensor) and out.dim() == 4):
                return out
            found.append(out)
            return out.clone()  # what follows may write into it

        for block in _named(network, self.blocks) if self.blocks else blocks_of(network):
            block.register_forward_hook(keep)
        with torch.set_grad_enabled(differentiable):
            output_of(network, gaussian_like(batch.inputs))
        if len(found) < 2:
            raise NoScoreError(
                f"{self.name} compares the feature maps [B, C, H, W] of blocks that follow each other, at least two; "
                f"{type(network).__name__} has {len(found)}. Name its blocks: {type(self).__name__}(blocks=('layer1', "
                "'layer2'))."
            )
        return found


@dataclass(frozen=True)
class Expressivity(_OfBlocks):
    """Sum over blocks of the entropy of the principal components of the features (equations 1 to 3)."""

    name: ClassVar[str] = "az_expressivity"
    fewest: ClassVar[int] = 2

    def __call__(self, network: nn.Module, batch: Batch) -> float:
        return sum(map(entropy_of_components, self.features(network, batch, differentiable=False)))


@dataclass(frozen=True)
class Progressivity(_OfBlocks):
    """Least gain of that entropy from one block to the next (equation 4)."""

    name: ClassVar[str] = "az_progressivity"
    fewest: ClassVar[int] = 2

    def __call__(self, network: nn.Module, batch: Batch) -> float:
        scores = [entropy_of_components(x) for x in self.features(network, batch, differentiable=False)]
        return float(np.min(np.diff(scores)))


@dataclass(frozen=True)
class Trainability(_OfBlocks):
    """Mean over blocks of ``2 - s - 1 / s``, s the spectral norm of the block's mean Jacobian (equations 5 to 8).

    The Jacobian is estimated from one product with random signs. It is best, 0, if s is 1. A block that passes its
    input on as it is has no Jacobian to estimate: there is no score.
    """

    name: ClassVar[str] = "az_trainability"
    needs_gradients: ClassVar[bool] = True
    fewest: ClassVar[int] = 2

    def __call__(self, network: nn.Module, batch: Batch) -> float:
        features = self.features(network, batch, differentiable=True)
        scores = []
        for before, after in pairwise(features):
            signs = torch.randint(0, 2, after.shape, device=after.device).to(after) * 2 - 1
            (back,) = gradients(after, [before], grad_outputs=signs, retain_graph=True)
            scores.append(block_trainability(signs, back))
        return float(np.mean(scores))


def entropy_of_components(features: Tensor) -> float:
    """``-sum p log p``, p the shares of variance of the principal components of ``[B, C, H, W]``; NaN without any."""
    x = features.detach().double().movedim(1, -1).flatten(0, -2)
    x = x - x.mean(0)
    values = torch.linalg.eigvalsh(x.T @ x / len(x))
    p = values / values.sum()
    return float((-p * (p + 1e-8).log()).sum())


def block_trainability(signs: Tensor, back: Tensor) -> float:
    """``2 - s - 1 / s`` of random signs at the output ``[B, C', H', W']`` and their gradient at the input of a block.

    Where the block has shrunk the maps, the input's pixels of one output pixel become channels; where it has enlarged
    them, there is no score.
    """
    if signs.shape == back.shape and torch.equal(signs, back):
        return -math.inf
    if any(signs.shape[axis] > back.shape[axis] for axis in (2, 3)):
        return math.nan
    if signs.shape[2:] != back.shape[2:]:
        stride = max(math.ceil(back.shape[axis] / signs.shape[axis]) for axis in (2, 3))
        lacking = [stride * signs.shape[axis] - back.shape[axis] for axis in (3, 2)]
        back = F.pixel_unshuffle(F.pad(back, (0, lacking[0], 0, lacking[1])), stride)
    out, into = (x.double().movedim(1, -1).flatten(0, -2) for x in (signs, back))
    s = float(torch.linalg.matrix_norm(into.T @ out / len(out), ord=2))
    return 2 - s - 1 / (s + 1e-6)


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The blocks of a network, in order: what its lists of modules hold, and the composite modules of its sequences.

    The lists and sequences are those among its children; a network with one child is looked for in that. An
    ``nn.Identity``, a layer that an architecture has left out, is no block.

    Example:
        >>> block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
        >>> len(blocks_of(nn.ModuleDict({"stem": nn.Conv2d(3, 3, 1), "layers": nn.Sequential(block, block, block)})))
        3
    """
    found: list[nn.Module] = []
    children = [network] if isinstance(network, nn.Sequential) else list(network.children())
    for child in children:
        if isinstance(child, nn.ModuleList):
            found += [part for part in child if not isinstance(part, nn.Identity)]
        elif isinstance(child, nn.Sequential):
            found += [part for part in child if any(True for _ in part.children())]
    if not found and len(children) == 1 and children[0] is not network:
        return blocks_of(children[0])
    return found


def _named(network: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    modules = dict(network.named_modules())
    for name in names:
        if name not in modules:
            raise ValueError(
                f"Blocks must be names of modules of {type(network).__name__}; there is no {name!r}."
                f"{nearest(name, list(modules))}"
            )
    return [modules[name] for name in names]


def az_nas(scores: Sequence[Mapping[str, float]]) -> list[float]:
    """One score for each network of a set: ``sum_k log(rank_k / M)``, ranks from 1 (worst) to M (equation 9).

    Equal scores share the mean of their ranks. A score that is NaN is worse than all others.

    Args:
        scores: Of M networks, each with the four names of ``AZ_NAS``.

    Raises:
        ValueError: If a score is missing.

    Example:
        >>> rows = [dict.fromkeys(AZ_NAS, 1.0), dict.fromkeys(AZ_NAS, 2.0)]
        >>> [round(score, 3) for score in az_nas(rows)]
        [-2.773, 0.0]
    """
    return combined(scores, AZ_NAS)
