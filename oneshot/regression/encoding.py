"""Architectures as features: one column for every candidate of every row."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from oneshot.supernets.space import Floats, IntMatrix, SearchSpace


def one_hot(space: SearchSpace, genes: IntMatrix) -> Floats:
    """Indicators of the picks of all genes: ``[N, G]`` -> ``[N, P]``, P the number of picks of all genes together."""
    return np.concatenate([np.eye(size)[genes[:, g]] for g, size in enumerate(space.gene_sizes)], axis=1)


def soft_one_hot(space: SearchSpace, weights: Mapping[str, Tensor]) -> Tensor:
    """Edge weights ``{choice: [R, O]}`` as :func:`one_hot` has them, ``[P]``; what a row lacks to 1 leaves it out."""
    rows = []
    for choice in space.choices:
        row = weights[choice.name]
        left_out = len(choice.picks) > len(choice.candidates)
        rows.append((torch.cat([row, 1 - row.sum(-1, keepdim=True)], dim=-1) if left_out else row).flatten())
    return torch.cat(rows)
