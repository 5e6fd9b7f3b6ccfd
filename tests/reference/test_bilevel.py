"""The second-order DARTS gradient against exact autograd through the step, and against the known mistakes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer

from oneshot.engine.virtual_step import virtual_step
from oneshot.functional import Step, unrolled_arch_grad

from .bilevel import (
    WRONG_VARIANTS,
    Array,
    Gradients,
    Loss,
    WrongVariant,
    autograd_gradients,
    darts_arch_grad,
    exact_arch_grad,
    flatten,
    mixed_mlp_loss,
    toy_train_gradients,
    toy_train_loss,
    toy_val_gradients,
    toy_val_loss,
)

RTOL, ATOL = 1e-4, 1e-6  # finite differences at epsilon = 0.01
OPTIMISER = {"lr": 0.25, "momentum": 0.9, "weight_decay": 0.1}  # large on purpose: every term must matter


@dataclass
class Problem:
    """One bilevel problem with everything both sides need."""

    train_loss: Loss
    val_loss: Loss
    train_gradients: Gradients
    val_gradients: Gradients
    weights: list[Tensor]
    alphas: list[Tensor]
    buffers: list[Tensor | None]

    def exact(self) -> Array:
        return exact_arch_grad(
            self.train_loss, self.val_loss, self.weights, self.alphas, momentum_buffers=self.buffers, **OPTIMISER
        )

    def approximate(self, *, epsilon: float = 0.01, variant: WrongVariant | None = None) -> Array:
        known = [b for b in self.buffers if b is not None]
        return darts_arch_grad(
            self.train_gradients,
            self.val_gradients,
            flatten(self.weights),
            flatten(self.alphas),
            buffer=flatten(known) if known else None,
            epsilon=epsilon,
            variant=variant,
            **OPTIMISER,
        )

    def ours(self, **kwargs: Any) -> list[Tensor]:
        arguments: dict[str, Any] = {"momentum_buffers": self.buffers, **OPTIMISER, **kwargs}
        return unrolled_arch_grad(
            lambda: self.train_loss(self.weights, self.alphas),
            lambda: self.val_loss(self.weights, self.alphas),
            self.weights,
            self.alphas,
            **arguments,
        )


def toy() -> Problem:
    return Problem(
        toy_train_loss,
        toy_val_loss,
        toy_train_gradients,
        toy_val_gradients,
        [torch.tensor([0.8, -0.5], dtype=torch.float64, requires_grad=True)],
        [torch.tensor([0.6, 0.9], dtype=torch.float64, requires_grad=True)],
        [torch.tensor([-0.4, 0.7], dtype=torch.float64)],
    )


def mlp() -> Problem:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def batch() -> tuple[Tensor, Tensor]:
        return normal(12, 4), torch.randint(3, (12,), generator=generator)

    train, val = mixed_mlp_loss(*batch()), mixed_mlp_loss(*batch())
    shapes = ((5, 4), (5,), (3, 5), (3,))
    weights = [(0.7 * normal(*shape)).requires_grad_() for shape in shapes]
    alphas = [normal(2, 3).requires_grad_()]
    buffers: list[Tensor | None] = [0.3 * normal(*shape) for shape in shapes]
    return Problem(
        train,
        val,
        autograd_gradients(train, weights, alphas),
        autograd_gradients(val, weights, alphas),
        weights,
        alphas,
        buffers,
    )


PROBLEMS = pytest.mark.parametrize("make", [pytest.param(toy, id="toy"), pytest.param(mlp, id="mlp")])
Make = Callable[[], Problem]


def close(actual: Array, expected: Array) -> bool:
    return bool(np.allclose(actual, expected, rtol=RTOL, atol=ATOL))


def test_hand_written_toy_derivatives_equal_autograd() -> None:
    problem = toy()
    point = flatten(problem.weights), flatten(problem.alphas)
    for loss, by_hand in ((toy_train_loss, toy_train_gradients), (toy_val_loss, toy_val_gradients)):
        expected = autograd_gradients(loss, problem.weights, problem.alphas)(*point)
        for ours, theirs in zip(by_hand(*point), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


@PROBLEMS
def test_the_papers_formula_agrees_with_exact_autograd(make: Make) -> None:
    problem = make()
    np.testing.assert_allclose(problem.approximate(), problem.exact(), rtol=RTOL, atol=ATOL)


@PROBLEMS
@pytest.mark.parametrize("variant", WRONG_VARIANTS)
def test_a_wrong_variant_fails_the_same_comparison(make: Make, variant: WrongVariant) -> None:
    problem = make()
    assert not close(problem.approximate(variant=variant), problem.exact())


@PROBLEMS
def test_our_gradient_agrees_with_exact_autograd(make: Make) -> None:
    problem = make()
    np.testing.assert_allclose(flatten(problem.ours()), problem.exact(), rtol=RTOL, atol=ATOL)


@PROBLEMS
def test_our_gradient_equals_the_papers_formula_to_rounding_error(make: Make) -> None:
    problem = make()
    np.testing.assert_allclose(
        flatten(problem.ours(epsilon=0.1)), problem.approximate(epsilon=0.1), rtol=1e-9, atol=1e-11
    )
    # The difference of two probe lengths is far above that tolerance: epsilon is the probe's length, and is used.
    assert not np.allclose(flatten(problem.ours(epsilon=0.2)), problem.approximate(epsilon=0.1), rtol=1e-6, atol=1e-8)


@PROBLEMS
def test_the_error_falls_with_the_square_of_epsilon(make: Make) -> None:
    problem = make()
    exact = problem.exact()
    errors = [np.linalg.norm(flatten(problem.ours(epsilon=e)) - exact) for e in (0.08, 0.04, 0.02)]
    np.testing.assert_allclose([errors[0] / errors[1], errors[1] / errors[2]], 4.0, rtol=0.05, atol=0.0)


@PROBLEMS
def test_the_gradient_is_right_before_the_first_step_when_there_is_no_momentum_buffer(make: Make) -> None:
    problem = make()
    with_buffers = problem.exact()
    problem.buffers = [None] * len(problem.weights)
    np.testing.assert_allclose(flatten(problem.ours()), problem.exact(), rtol=RTOL, atol=ATOL)
    assert not close(flatten(problem.ours()), with_buffers)


@PROBLEMS
def test_the_probe_length_does_not_depend_on_the_scale_of_the_validation_loss(make: Make) -> None:
    problem = make()
    plain = flatten(problem.ours(epsilon=0.1))
    unscaled = problem.val_loss
    problem.val_loss = lambda w, a: 100 * unscaled(w, a)
    np.testing.assert_allclose(flatten(problem.ours(epsilon=0.1)) / 100, plain, rtol=1e-9, atol=1e-11)
    # An epsilon that is not divided by the norm of v would make the probe 100 times longer, which shows.
    assert not np.allclose(flatten(problem.ours(epsilon=10.0)) / 100, plain, rtol=1e-4, atol=1e-6)


@PROBLEMS
def test_weights_alphas_buffers_and_their_gradients_are_left_exactly_as_they_were(make: Make) -> None:
    problem = make()
    tensors = [*problem.weights, *problem.alphas]
    marks = [torch.full_like(t, float(i + 1)) for i, t in enumerate(tensors)]
    kept = [b for b in problem.buffers if b is not None]
    before = [t.detach().clone() for t in [*tensors, *kept]]
    addresses = [t.data_ptr() for t in tensors]
    for tensor, mark in zip(tensors, marks, strict=True):
        tensor.grad = mark.clone()

    gradients = problem.ours()

    assert all(torch.equal(now, then) for now, then in zip([*tensors, *kept], before, strict=True))
    assert all(t.grad is not None and torch.equal(t.grad, mark) for t, mark in zip(tensors, marks, strict=True))
    assert [t.data_ptr() for t in tensors] == addresses
    assert all(t.requires_grad for t in tensors)
    assert [g.shape for g in gradients] == [a.shape for a in problem.alphas]
    assert not any(g.requires_grad for g in gradients)


def test_gradients_that_were_none_stay_none() -> None:
    problem = mlp()
    problem.ours()
    assert all(t.grad is None for t in [*problem.weights, *problem.alphas])


def test_weights_come_back_when_a_loss_raises_at_the_virtual_weights() -> None:
    problem = toy()
    before = problem.weights[0].detach().clone()

    def fail(weights: list[Tensor], alphas: list[Tensor]) -> Tensor:
        raise ArithmeticError("loss failed")

    problem.val_loss = fail
    with pytest.raises(ArithmeticError, match="loss failed"):
        problem.ours()
    assert torch.equal(problem.weights[0], before)


def test_a_validation_loss_that_is_flat_in_the_weights_gives_its_direct_gradient() -> None:
    problem = toy()
    problem.val_loss = lambda w, a: (a[0] ** 2).sum() + 0.0 * w[0].sum()
    torch.testing.assert_close(problem.ours()[0], 2 * problem.alphas[0].detach(), rtol=1e-12, atol=1e-14)


# Other optimisers: autograd through the step that torch.optim itself takes, which is differentiable there.

Options = dict[str, Any]
NESTEROV = {"lr": 0.25, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True}
DAMPED = {"lr": 0.25, "momentum": 0.9, "weight_decay": 0.1, "dampening": 0.4}
ADAM = {"lr": 0.3, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.2}
OPTIMISERS = pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param(SGD, {"lr": 0.25, "momentum": 0.9, "weight_decay": 0.1}, id="sgd"),
        pytest.param(SGD, NESTEROV, id="nesterov"),
        pytest.param(SGD, DAMPED, id="dampening"),
        pytest.param(Adam, ADAM, id="adam"),
        pytest.param(AdamW, ADAM, id="adamw"),
    ],
)
STEPS = pytest.mark.parametrize("steps", [0, 1, 3])


def groups(weights: list[Tensor]) -> list[Options]:
    """The second group has a rate of its own, and no decay."""
    return [{"params": weights[:2]}, {"params": weights[2:], "lr": 0.1, "weight_decay": 0.0}]


def used(kind: type[Optimizer], options: Options, weights: list[Tensor], steps: int) -> Optimizer:
    """An optimiser after some steps by random gradients, which move copies, not the weights."""
    before = [w.detach().clone() for w in weights]
    optimizer = kind(groups(weights), **options)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for w in weights:
            w.grad = torch.randn(w.shape, generator=generator, dtype=w.dtype)
        optimizer.step()
    with torch.no_grad():
        for w, old in zip(weights, before, strict=True):
            w.copy_(old)
            w.grad = None
    return optimizer


def through_the_real_step(problem: Problem, optimizer: Optimizer, options: Options) -> Array:
    """The exact gradient of the validation loss after the step of torch.optim, by autograd."""
    moved = [w.clone() for w in problem.weights]
    real = type(optimizer)(groups(moved), **options, differentiable=True)  # type: ignore[call-arg]  # of all three
    real.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # or it would move those averages
    for group in real.param_groups:
        group["differentiable"], group["foreach"] = True, False
    gradients = torch.autograd.grad(
        problem.train_loss(problem.weights, problem.alphas), problem.weights, create_graph=True
    )
    for w, gradient in zip(moved, gradients, strict=True):
        w.grad = gradient
    real.step()
    return flatten(list(torch.autograd.grad(problem.val_loss(moved, problem.alphas), problem.alphas)))


def ours_through(problem: Problem, optimizer: Optimizer, change: Callable[[Step], Step] = lambda step: step) -> Array:
    lr, step = virtual_step(optimizer, problem.weights)
    gradients = unrolled_arch_grad(
        lambda: problem.train_loss(problem.weights, problem.alphas),
        lambda: problem.val_loss(problem.weights, problem.alphas),
        problem.weights,
        problem.alphas,
        lr=lr,
        step=change(step),
        epsilon=1e-4,
    )
    return flatten(gradients)


@OPTIMISERS
@STEPS
def test_second_order_agrees_with_autograd_through_the_step_of_any_known_optimiser(
    kind: type[Optimizer], options: Options, steps: int
) -> None:
    if kind is SGD and steps == 0:
        options = {**options, "momentum": 0.0, "nesterov": False, "dampening": 0.0}  # torch cuts the first buffer off
    problem = mlp()
    optimizer = used(kind, options, problem.weights, steps)
    exact = through_the_real_step(problem, optimizer, options)
    np.testing.assert_allclose(ours_through(problem, optimizer), exact, rtol=1e-5, atol=1e-8)


def without_derivative(step: Step) -> Step:
    def wrong(gradients: Any) -> Any:
        updates, slopes = step(gradients)
        return updates, [1.0] * len(slopes)

    return wrong


def of_other_sign(step: Step) -> Step:
    def wrong(gradients: Any) -> Any:
        updates, slopes = step(gradients)
        return updates, [-slope for slope in slopes]

    return wrong


@pytest.mark.parametrize("change", [without_derivative, of_other_sign])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param(SGD, NESTEROV, id="nesterov"),
        pytest.param(SGD, DAMPED, id="dampening"),
        pytest.param(Adam, ADAM, id="adam"),
        pytest.param(AdamW, ADAM, id="adamw"),
    ],
)
def test_second_order_without_the_derivative_of_the_step_fails_the_same_comparison(
    kind: type[Optimizer], options: Options, change: Callable[[Step], Step]
) -> None:
    problem = mlp()
    optimizer = used(kind, options, problem.weights, 3)
    exact = through_the_real_step(problem, optimizer, options)
    assert not np.allclose(ours_through(problem, optimizer, change), exact, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        pytest.param(Adam, AdamW, id="decay-not-decoupled"),
        pytest.param(AdamW, Adam, id="decay-decoupled"),
    ],
)
def test_second_order_of_another_optimiser_fails_the_same_comparison(
    kind: type[Optimizer], wrong: type[Optimizer]
) -> None:
    problem = mlp()
    exact = through_the_real_step(problem, used(kind, ADAM, problem.weights, 3), ADAM)
    assert not np.allclose(ours_through(problem, used(wrong, ADAM, problem.weights, 3)), exact, rtol=1e-3, atol=1e-6)
    forgotten = used(kind, ADAM, problem.weights, 0)
    assert not np.allclose(ours_through(problem, forgotten), exact, rtol=1e-3, atol=1e-6)


def test_weights_that_an_optimiser_does_not_hold_stay() -> None:
    problem = mlp()
    optimizer = SGD(problem.weights[:2], lr=0.25)
    moved = [w - 0.25 * g for w, g in zip(problem.weights[:2], _gradients(problem)[:2], strict=True)]
    exact = torch.autograd.grad(problem.val_loss([*moved, *problem.weights[2:]], problem.alphas), problem.alphas)
    np.testing.assert_allclose(ours_through(problem, optimizer), flatten(list(exact)), rtol=1e-5, atol=1e-8)


def _gradients(problem: Problem) -> tuple[Tensor, ...]:
    loss = problem.train_loss(problem.weights, problem.alphas)
    return torch.autograd.grad(loss, problem.weights, create_graph=True)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(lambda w: NAdam(w), "SGD, Adam and AdamW of torch.optim; got NAdam. .* order=1", id="nadam"),
        pytest.param(lambda w: type("Mine", (SGD,), {})(w, lr=0.1), r"; got .*\.Mine", id="subclass"),
        pytest.param(lambda w: Adam(w, amsgrad=True), "Adam without amsgrad; got amsgrad=True", id="amsgrad"),
        pytest.param(lambda w: SGD(w, lr=0.1, maximize=True), "SGD without maximize", id="maximize"),
    ],
)
def test_optimisers_whose_derivative_is_not_known_are_refused(
    build: Callable[[list[Tensor]], Optimizer], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        virtual_step(build(mlp().weights), [])
