"""Blocks for tables against the formulas of the paper, the contract, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from oneshot.cost import count_candidates
from oneshot.cost.counting.network import count
from oneshot.supernets import MLPNetwork, MLPSpace, MLPSupernet
from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.chain import Layer
from oneshot.supernets.mlp import mlp_block
from oneshot.testing import SpaceContract

SMALL: dict[str, Any] = {"width": 8, "layers": 3, "features": 5, "num_classes": 3}


class TestMLP(SpaceContract):
    configs_tested = 5

    @pytest.fixture(params=["batch", "layer"])
    def supernet(self, request: pytest.FixtureRequest) -> OperationSupernet:
        return MLPSupernet(**SMALL, norm=request.param)


def block(name: str, width: int = 6, norm: str = "layer") -> nn.Module:
    torch.manual_seed(0)
    return mlp_block(name, Layer(width, width), norm=norm, dropout=0.0).double().eval()


def weights(module: nn.Module) -> list[torch.Tensor]:
    return [p.detach() for m in module.modules() if isinstance(m, nn.Linear) for p in (m.weight, m.bias)]


@pytest.mark.parametrize(
    ("name", "hidden", "activation"),
    [
        pytest.param("relu_1", 6, lambda h: h.clamp(min=0), id="relu"),
        pytest.param("relu_3", 18, lambda h: h.clamp(min=0), id="wide"),
        pytest.param("bottleneck", 1, lambda h: h.clamp(min=0), id="bottleneck"),
        pytest.param("silu_2", 12, lambda h: h / (1 + (-h).exp()), id="silu"),
        pytest.param("glu_2", 12, lambda h: h[:, :12] / (1 + (-h[:, 12:]).exp()), id="glu"),
    ],
)
def test_a_residual_block_is_that_of_the_paper(
    name: str, hidden: int, activation: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """arXiv:2106.11959, section 3.2, in double precision without dropout."""
    module, x = block(name), torch.randn(4, 6, dtype=torch.float64)
    a, a0, b, b0 = weights(module)
    assert b.shape == (6, hidden)
    normal = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5) ** 0.5
    expected = x + activation(normal @ a.T + a0) @ b.T + b0

    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(module(x), expected - x, rtol=1e-3)
    assert not torch.allclose(module(x), x + activation(x @ a.T + a0) @ b.T + b0, rtol=1e-3)


def test_a_dense_block_has_nothing_beside_it() -> None:
    module, x = block("dense"), torch.randn(4, 6, dtype=torch.float64)
    a, a0 = weights(module)
    torch.testing.assert_close(module(x), (x @ a.T + a0).clamp(min=0), rtol=1e-12, atol=1e-12)


def test_dropout_falls_on_both_layers_in_training_and_nowhere_else() -> None:
    network = MLPNetwork(["relu_2", "dense", "glu_2"], **SMALL, dropout=0.5)
    x = torch.randn(16, 5)
    torch.manual_seed(1)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.5] * 5


def test_batch_normalisation_looks_at_other_rows_and_layer_normalisation_does_not() -> None:
    x = torch.randn(6, 5)
    for norm, same in (("batch", False), ("layer", True)):
        torch.manual_seed(0)
        network = MLPNetwork(["relu_2"] * 3, **SMALL, norm=norm)  # type: ignore[arg-type]  # a literal in a loop
        assert torch.allclose(network(x)[:3], network(x[:3]), atol=1e-6) == same


@pytest.mark.parametrize("what", ["params", "macs", "memory"])
def test_the_cost_of_every_architecture_is_that_of_its_network(what: Any) -> None:
    supernet = MLPSupernet(**SMALL)
    costs = count_candidates(supernet, what)
    for seed in range(8):
        config = supernet.space.sample(seed)
        counts = count(supernet.extract(config, inherit=False), (5,))
        assert not counts.uncounted
        assert costs.cost(config) == getattr(counts, what)


def test_multiplications_are_those_counted_by_hand() -> None:
    by_hand = 5 * 8 + 2 * 8 * 16 + (8 * 32 + 16 * 8) + 8 * 8 + 8 * 3
    assert count(MLPNetwork(["relu_2", "glu_2", "dense"], **SMALL), (5,)).macs == by_hand


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(lambda: MLPSupernet(features=0), "features must be at least 1; got 0", id="no column"),
        pytest.param(lambda: MLPSupernet(width=0), "width must be at least 1; got 0", id="no width"),
        pytest.param(lambda: MLPSupernet(layers=0), "at least one layer; got layers=0", id="no layer"),
        pytest.param(lambda: MLPSupernet(norm="group"), "'batch' or 'layer'; got 'group'", id="norm"),  # type: ignore[arg-type]  # the mistake
        pytest.param(lambda: MLPSupernet(dropout=-0.1), r"dropout must be in \[0, 1\); got -0.1", id="dropout"),
        pytest.param(lambda: MLPSpace(candidates=("tanh_2", "skip")), "one of relu_K, .* got 'tanh_2'", id="unknown"),
        pytest.param(lambda: MLPSpace(candidates=("relu_0",)), "got 'relu_0'", id="no unit"),
        pytest.param(lambda: MLPNetwork(["skip"]), "must have 4 layers; got 1 picks", id="few picks"),
    ],
)
def test_a_network_that_cannot_work_is_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        build()
