"""The small formulas; the second-order gradient is in `tests/reference/test_bilevel.py`."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oneshot.functional import (
    alpha_divergence,
    entropy,
    expected_cost,
    frozen_batch_norm,
    most_likely_within,
    unrolled_arch_grad,
    warmup_cosine,
)


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


# Distillation.


def divergence_by_hand(p: Any, q: Any, alpha: float) -> Any:
    """arXiv:2102.07954, equation 3, for one image, with its limits at 0 and 1."""
    if alpha == 0:
        return (q * (q / p).log()).sum()
    if alpha == 1:
        return (p * (p / q).log()).sum()
    return (q * ((p / q) ** alpha - 1)).sum() / (alpha * (alpha - 1))


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_the_alpha_divergence_equals_its_formula_in_value_and_gradient(alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    student.requires_grad_()
    ours = alpha_divergence(teacher, student, alphas=[alpha], clip=float("inf"))
    by_hand = torch.stack(
        [divergence_by_hand(t.softmax(0), s.softmax(0), alpha) for t, s in zip(teacher, student, strict=True)]
    ).mean()
    torch.testing.assert_close(ours, by_hand)
    gradients = [torch.autograd.grad(value, student, retain_graph=True)[0] for value in (ours, by_hand)]
    torch.testing.assert_close(*gradients)
    swapped = alpha_divergence(student.detach(), teacher.clone().requires_grad_(), alphas=[alpha], clip=float("inf"))
    assert alpha == 0.5 or not torch.allclose(ours, swapped, rtol=1e-3)  # symmetric at a half only


def test_each_image_has_its_largest_divergence() -> None:
    generator = torch.Generator().manual_seed(1)
    teacher, student = 2 * torch.randn(2, 30, 4, generator=generator, dtype=torch.float64)
    rows = [
        torch.stack([alpha_divergence(t[None], s[None], alphas=[a], clip=5) for a in (-1, 1)])
        for t, s in zip(teacher, student, strict=True)
    ]
    both = torch.stack(rows).amax(1).mean()
    torch.testing.assert_close(alpha_divergence(teacher, student, alphas=(-1, 1), clip=5), both)
    assert len({int(row.argmax()) for row in rows}) == 2  # either wins somewhere


def authors_slope(p: Tensor, logits: Tensor, alpha: float, clip: float, *, clip_all: bool) -> tuple[float, Tensor]:
    """Divergence and its gradient for one image, by the rule of facebookresearch/AlphaNet's ``loss_ops.py``."""
    q = logits.softmax(0)
    ratio = p / q
    if alpha == 1:
        weight = ratio.clamp(max=clip) if clip_all else ratio
        value = (q * weight * ratio.log()).sum()
    elif alpha == 0:
        weight = ratio.clamp(max=clip).log()
        value = -(q * weight).sum()
    else:
        weight = (ratio**alpha).clamp(max=clip)
        value = (q * (weight - 1)).sum() / (alpha * (alpha - 1))
        weight = weight / alpha
    pull = q * weight  # of -sum(pull log q), both factors held
    return value.item(), q * pull.sum() - pull


@pytest.mark.parametrize("alphas", [(-1.0, 1.0), (0.0, 1.0), (-1.0, 2.0)])
def test_clipping_is_that_of_the_authors(alphas: tuple[float, ...]) -> None:
    """Also of students that are untrained, or too certain of something else: there, the clip matters."""
    generator = torch.Generator().manual_seed(3)
    teacher, student = 3 * torch.randn(2, 40, 50, generator=generator, dtype=torch.float64)
    student[:4] *= 0.01
    student[4:8] *= 4
    teacher[20:], student[20:] = teacher[20:] / 5, student[20:] / 3  # where the divergences are small, either is larger
    student.requires_grad_()
    loss = alpha_divergence(teacher, student, alphas=alphas, clip=5)
    (gradient,) = torch.autograd.grad(loss, student)
    for clip_all in (False, True):
        found, winners = [], []
        for t, s in zip(teacher, student.detach(), strict=True):
            slopes = [authors_slope(t.softmax(0), s, a, 5.0, clip_all=clip_all) for a in alphas]
            winners.append(max(range(len(slopes)), key=lambda i: slopes[i][0]))
            found.append(slopes[winners[-1]])
        value = sum(v for v, _ in found) / len(found)
        expected = torch.stack([g for _, g in found]) / len(found)
        if clip_all:  # what only looks like it
            assert 1.0 not in alphas or not torch.allclose(gradient, expected, rtol=1e-2, atol=1e-4)
            continue
        assert loss.item() == pytest.approx(value, rel=1e-9)
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
        assert len(set(winners)) == 2 or 1.0 not in alphas
    p, q = torch.tensor([[0.5, 0.5], [0.005, 0.995]], dtype=torch.float64).log()
    assert alpha_divergence(p[None], q[None], alphas=(-1.0, 1.0), clip=5).item() == pytest.approx(1.959, abs=1e-3)


def test_clipping_bounds_the_gradient_of_a_student_that_has_missed_a_class() -> None:
    teacher = torch.tensor([[8.0, 0.0]], dtype=torch.float64)
    student = torch.tensor([[0.0, 8.0]], dtype=torch.float64, requires_grad=True)
    norms = [
        torch.autograd.grad(alpha_divergence(teacher, student, alphas=[2.0], clip=clip), student)[0].norm().item()
        for clip in (5.0, float("inf"))
    ]
    assert norms[0] < 10 < norms[1]
    with pytest.raises(ValueError, match="clip of 1 or more"):
        alpha_divergence(teacher, student, clip=0.5)


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.5, 1.0])
def test_a_student_that_has_forgotten_a_class_has_a_finite_loss_in_single_precision(alpha: float) -> None:
    """p / q overflows there; the variant that multiplies it by q gives NaN."""
    teacher = torch.tensor([[120.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    student = torch.tensor([[0.0, 120.0, 0.0], [-200.0, 0.0, 0.0]], requires_grad=True)
    loss = alpha_divergence(teacher, student, alphas=[alpha], clip=float("inf") if alpha > 0 else 5.0)
    assert loss.isfinite() and torch.autograd.grad(loss, student)[0].isfinite().all()
    p, q = teacher.softmax(1), student.detach().softmax(1)
    assert not (q * (p / q)).sum().isfinite()


def test_a_student_that_agrees_is_not_pushed() -> None:
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    loss = alpha_divergence(logits.detach() + 7.0, logits, alphas=(-1, 1))
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(loss, logits)[0].abs().max() < 1e-12


BINS = 64


@pytest.mark.parametrize("seed", range(20))
def test_the_most_likely_within_a_bound_is_that_of_all_there_are(seed: int) -> None:
    """Against all 1024 sums, each cost rounded up to one of 64 steps: so no sum is above the bound."""
    rng = np.random.default_rng(seed)
    rows, high = 5, 1.0
    probabilities = [rng.dirichlet(np.ones(4)) for _ in range(rows)]
    costs = [rng.random(4) * 2 * high / rows for _ in range(rows)]
    every = list(itertools.product(range(4), repeat=rows))
    likely = {picks: math.prod(p[o] for p, o in zip(probabilities, picks, strict=True)) for picks in every}
    total = {picks: sum(c[o] for c, o in zip(costs, picks, strict=True)) for picks in every}
    steps = {picks: sum(math.ceil(c[o] * BINS / high) for c, o in zip(costs, picks, strict=True)) for picks in every}

    chosen = tuple(most_likely_within(probabilities, costs, low=0.9 * high, high=high, bins=BINS))

    inside = [picks for picks in every if 0.9 * BINS <= steps[picks] <= BINS]
    assert chosen == max(inside, key=lambda picks: likely[picks])
    assert 0.9 * high - rows * high / BINS <= total[chosen] <= high


def test_a_sum_that_rounding_to_the_nearest_step_would_allow_is_above_the_bound() -> None:
    """Ten costs of 6.4 steps are 64 steps, the bound; ten of 6.45 would be 60 steps if they were rounded to 6."""
    likely, cost = np.array([0.9, 0.1]), np.array([6.45 / BINS, 0.0])
    chosen = most_likely_within([likely] * 10, [cost] * 10, low=0.0, high=1.0, bins=BINS)
    assert sum(cost[o] for o in chosen) <= 1.0
    assert chosen.count(0) == 9
