"""The small formulas; the second-order gradient is in `tests/reference/test_bilevel.py`."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from oneshot.functional import entropy, expected_cost, frozen_batch_norm, unrolled_arch_grad, warmup_cosine


def test_entropy_is_in_nats_and_certainty_has_none() -> None:
    p = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0], [0.5, 0.2, 0.3, 0.0]], dtype=torch.float64)
    by_hand = -(0.5 * math.log(0.5) + 0.2 * math.log(0.2) + 0.3 * math.log(0.3))
    expected = torch.tensor([math.log(4), 0.0, by_hand], dtype=torch.float64)
    torch.testing.assert_close(entropy(p), expected, rtol=1e-12, atol=1e-12)


def test_the_expected_cost_is_the_mean_over_independent_draws() -> None:
    weights = {"a": torch.tensor([[0.25, 0.75], [0.5, 0.5]]), "b": torch.tensor([[0.125, 0.25, 0.625]])}
    costs = {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor([[10.0, 20.0, 30.0]])}
    mean = sum(
        float(weights["a"][0, i] * weights["a"][1, j] * weights["b"][0, k])
        * float(costs["a"][0, i] + costs["a"][1, j] + costs["b"][0, k])
        for i in range(2)
        for j in range(2)
        for k in range(3)
    )
    for w in weights.values():
        w.requires_grad_()
    cost = expected_cost(weights, costs)
    assert float(cost.detach()) == pytest.approx(mean, rel=1e-6)
    cost.backward()
    for name, w in weights.items():
        torch.testing.assert_close(w.grad, costs[name], rtol=0.0, atol=0.0)


@pytest.mark.parametrize(
    "costs",
    [
        pytest.param({}, id="missing"),
        pytest.param({"b": torch.zeros(2, 3)}, id="other name"),
        pytest.param({"a": torch.zeros(3)}, id="one row"),
    ],
)
def test_costs_of_another_space_are_refused(costs: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match=r"Costs need the names and shapes .*\{'a': \(2, 3\)\}; got"):
        expected_cost({"a": torch.zeros(2, 3)}, costs)


def test_frozen_batch_norm_uses_batch_statistics_and_moves_none() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False))
    x = 2 + 3 * torch.randn(8, 3, 4, 4)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with frozen_batch_norm(network):
        frozen = network(x)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(network(x), frozen)
    assert int(network.state_dict()["0.num_batches_tracked"]) == 1  # works again ...
    assert [m.track_running_stats for m in network.children()] == [True, False]  # ... and only where it did


def test_frozen_batch_norm_in_evaluation_uses_the_running_statistics() -> None:
    network = nn.BatchNorm2d(3)
    network(5 + torch.randn(8, 3, 4, 4))
    x = torch.randn(8, 3, 4, 4)
    expected = network.eval()(x)
    with frozen_batch_norm(network):
        assert torch.equal(network(x), expected)


def test_batch_norm_is_thawed_after_an_exception() -> None:
    network = nn.BatchNorm2d(3)
    with pytest.raises(ArithmeticError), frozen_batch_norm(network):
        raise ArithmeticError
    assert network.track_running_stats


def test_the_learning_rate_warms_up_and_anneals_by_half_a_cosine() -> None:
    factors = [warmup_cosine(step, steps=10, warmup=2, floor=0.2) for step in range(11)]
    cosine = [0.2 + 0.8 * (1 + math.cos(math.pi * t / 8)) / 2 for t in range(9)]
    assert factors == pytest.approx([1 / 3, 2 / 3, *cosine], rel=1e-12)
    assert max(factors) == factors[2] == 1.0
    assert factors[10] == warmup_cosine(99, steps=10, warmup=2, floor=0.2) == pytest.approx(0.2)
    assert warmup_cosine(0, steps=1) == 1.0 and warmup_cosine(3, steps=3, warmup=3) == 1.0


def test_second_order_uses_the_same_random_numbers_on_both_sides_of_the_difference() -> None:
    """A loss with noise that multiplies alpha but not the weights has no mixed derivative: the Hessian term is zero."""
    weight, alpha = torch.ones(3, dtype=torch.float64, requires_grad=True), torch.ones(3, dtype=torch.float64)
    alpha.requires_grad_()

    def train_loss() -> torch.Tensor:
        return (weight**2).sum() + (alpha * torch.randn(3, dtype=torch.float64)).sum()

    def val_loss() -> torch.Tensor:
        return (weight * alpha).sum()

    (gradient,) = unrolled_arch_grad(train_loss, val_loss, [weight], [alpha], lr=0.1)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 0.8), rtol=1e-9, atol=1e-9)  # w' = w - 0.1 * 2 w
