"""The recurrent space against the facts its authors published."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.recurrent import RecurrentSupernet
from oneshot.testing import SpaceContract
import numpy as np
import numpy.typing as npt
from oneshot.supernets.space import SearchSpace
from oneshot.supernets.recurrent import EDGES

NO_DROPOUT = dict.fromkeys(("dropout_words", "dropout_embedding", "dropout_input", "dropout_hidden", "dropout_output"), 0.0)


class RecurrentContract(SpaceContract):
    configs_tested = 5
    genes_per_mutation = 2

    def inputs(self, supernet: OperationSupernet) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randint(supernet.num_classes, (4, *supernet.input_shape), generator=generator)

    def gene_probabilities(self, space: SearchSpace) -> list[npt.NDArray[np.float64]]:
        """One of the edges that enter a node is on, with any of the four activations."""
        return [np.array([1 - 1 / (node + 1), *[1 / (node + 1) / 4] * 4]) for _, node in EDGES]


class TestRecurrent(RecurrentContract):
    @pytest.fixture
    def supernet(self) -> OperationSupernet:
        return RecurrentSupernet(num_classes=7, size=6, window=3, **NO_DROPOUT)


class TestWithoutBatchNorm(RecurrentContract):
    @pytest.fixture
    def supernet(self) -> OperationSupernet:
        return RecurrentSupernet(num_classes=7, size=6, window=3, batch_norm=False, **NO_DROPOUT)
