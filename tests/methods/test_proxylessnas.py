"""ProxylessNAS keeps the contract, and its gradients are those of equations 4 and 5 of the paper."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from oneshot.cost import AdditiveCost, CostPenalty, count_candidates
from oneshot.engine.module import Batch
from oneshot.methods.proxylessnas import (
    ProxylessNAS,
    Reward,
    draw_pair,
    keep_mass,
    moving_average,
    reinforce_gradient,
    two_path_gradient,
)
from oneshot.supernets.base import OperationSupernet, frozen_batch_norm
from oneshot.supernets.mixed_op import MixedOp, Path
from oneshot.supernets.nasbench201 import NASBench201Supernet
from oneshot.supernets.space import Choice, SearchSpace
from oneshot.testing import MethodContract, PlantedSupernet, fit, random_streams
from oneshot.testing.methods import Method

SEED = 1  # in every step a path leads from the images to the logits, so that gates have gradients
Array = npt.NDArray[np.float64]


class TestTwoPaths(MethodContract):
    epochs = 6

    @pytest.fixture
    def method(self) -> Method:
        def build(supernet: OperationSupernet) -> ProxylessNAS:
            # The winner has to be trained before it can be preferred; other supernets are fitted for an epoch or two.
            warmup = 2 if isinstance(supernet, PlantedSupernet) else 0
            return ProxylessNAS(supernet, arch_lr=0.1, arch_warmup_epochs=warmup, arch_every=1)

        return build


class TestReinforce(MethodContract):
    epochs = 5

    @pytest.fixture
    def supernet(self) -> OperationSupernet:
        torch.manual_seed(0)
        return PlantedSupernet()

    @pytest.fixture
    def method(self) -> Method:
        def build(supernet: OperationSupernet) -> ProxylessNAS:
            reward = Reward(count_candidates(supernet, "macs"), target=1e5, exponent=0.01, samples=8)
            options: dict[str, Any] = {"arch_lr": 0.1, "arch_warmup_epochs": 0, "arch_every": 1}
            return ProxylessNAS(supernet, gradient="reinforce", reward=reward, **options)

        return build


def small_supernet() -> NASBench201Supernet:
    return NASBench201Supernet(channels=2, cells_per_stage=1, num_classes=3, in_channels=1, image_size=8)


def eager(supernet: OperationSupernet, **options: Any) -> ProxylessNAS:
    """Moves its alphas in every step."""
    return ProxylessNAS(supernet, arch_warmup_epochs=0, arch_every=1, **options)


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max())
    result: Array = powers / powers.sum()
    return result


def equation_4(gates: Array, alpha: Array, drawn: list[int]) -> Array:
    """``dL/dalpha_i = sum_j dL/dg_j p_j (delta_ij - p_i)`` over the drawn candidates of one row, ``[O]``."""
    p, gradient = softmax(alpha[drawn]), np.zeros_like(alpha)
    for i, at in enumerate(drawn):
        gradient[at] = sum(gates[other] * p[j] * ((i == j) - p[i]) for j, other in enumerate(drawn))
    return gradient


def textbook(module: ProxylessNAS, batch: Batch, *, wrong: str = "") -> Array:
    """The gradient of one step, from gates of which all candidates run, and costs by finite differences; ``[R, O]``."""
    x, y = batch["arch"]
    pair, alpha = module._pairs["cell"][0], module.alphas["cell"].detach().numpy()
    gates = torch.zeros(alpha.shape, dtype=torch.float64).scatter_(1, pair[:, :1], 1.0).requires_grad_()
    with frozen_batch_norm(module.supernet):
        arch: Any = {"cell": Path(gates)} if wrong == "closed gates add up" else {"cell": gates}
        loss = nn.functional.cross_entropy(module.supernet(x, arch), y)
    of_gates = torch.autograd.grad(loss, gates)[0].numpy()
    table, target = module.penalty.cost.table["cell"].numpy(), module.penalty.target  # type: ignore[union-attr]

    def factor(values: Array) -> float:
        if wrong == "costs of the sample":
            p = np.zeros_like(values)
            for row, drawn in enumerate(pair.tolist()):
                p[row, drawn] = softmax(values[row, drawn])
        else:
            p = np.stack([softmax(row) for row in values])
        fixed = module.penalty.cost.fixed  # type: ignore[union-attr]
        return float(0.2 * (np.log(fixed + (p * table).sum()) / np.log(target)) ** 0.3)

    every = list(range(alpha.shape[1]))
    gradient = np.stack(
        [
            equation_4(factor(alpha) * g, a, every if wrong == "all candidates" else drawn)
            for g, a, drawn in zip(of_gates, alpha, pair.tolist(), strict=True)
        ]
    )
    for index in itertools.product(*map(range, alpha.shape)):
        step = np.zeros_like(alpha)
        step[index] = 1e-5
        gradient[index] += float(loss.detach()) * (factor(alpha + step) - factor(alpha - step)) / 2e-5
    return gradient


def compare(monkeypatch: pytest.MonkeyPatch, wrong: str = "") -> list[bool]:
    """Compare the gradient of every step of a short search with the textbook's."""
    torch.manual_seed(SEED)
    supernet, agree = small_supernet(), []
    cost = count_candidates(supernet, "macs")
    cost = AdditiveCost(supernet.space, cost.table, unit="MACs", fixed=10.0)  # so that its gradient is not small
    module = eager(supernet, arch_lr=0.1, alpha_std=0.5, penalty=CostPenalty(cost, "mul_log", target=1e3)).double()
    original = module.arch_backward

    def arch_backward(batch: Batch) -> Tensor:
        loss = original(batch)
        ours = module.alphas["cell"].grad
        assert ours is not None
        agree.append(np.allclose(ours.numpy(), textbook(module, batch, wrong=wrong), rtol=1e-5, atol=1e-8))
        return loss

    monkeypatch.setattr(module, "arch_backward", arch_backward)
    fit(module, random_streams(supernet, dtype=torch.float64), epochs=1)
    return agree


def test_the_gradient_of_two_paths_is_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compare(monkeypatch) == [True, True, True]


@pytest.mark.parametrize("wrong", ["closed gates add up", "all candidates", "costs of the sample"])
def test_the_comparison_tells_plausible_mistakes(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """GDAS's trick for candidates that do not run; a softmax over all; costs of what was drawn."""
    assert not any(compare(monkeypatch, wrong))


def test_the_formula_equals_the_double_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    gates, alpha = torch.randn(2, 5, 2, generator=generator, dtype=torch.float64)
    expected = np.stack([equation_4(g, a, [0, 1]) for g, a in zip(gates.numpy(), alpha.numpy(), strict=True)])
    np.testing.assert_allclose(two_path_gradient(gates, alpha).numpy(), expected, rtol=1e-12, atol=1e-14)


def follow(monkeypatch: pytest.MonkeyPatch, module: ProxylessNAS) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Alphas before and after every step, and the pairs."""
    seen, before, after = [], module.arch_backward, module._after_step

    def arch_backward(batch: Batch) -> Tensor:
        alphas.append(module.alphas["cell"].detach().clone())
        return before(batch)

    def after_step(*args: Any) -> None:
        after(*args)
        seen.append((alphas[-1], module.alphas["cell"].detach().clone(), module._pairs["cell"][0]))

    alphas: list[Tensor] = []
    monkeypatch.setattr(module, "arch_backward", arch_backward)
    monkeypatch.setattr(module, "_after_step", after_step)
    fit(module, random_streams(module.supernet), epochs=2)
    return seen


def test_candidates_that_were_not_drawn_keep_their_alphas_and_their_probability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    for before, after, pair in (steps := follow(monkeypatch, eager(small_supernet(), arch_lr=0.3))):
        drawn = torch.zeros_like(before, dtype=torch.bool).scatter(1, pair, True)
        assert torch.equal(after[~drawn], before[~drawn])
        assert (after[drawn] != before[drawn]).any()
        torch.testing.assert_close(after.softmax(-1)[~drawn], before.softmax(-1)[~drawn], rtol=1e-5, atol=1e-7)
    assert len(steps) == 6


def test_without_the_shift_they_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr("oneshot.methods.proxylessnas.keep_mass", lambda alpha, before: alpha)
    moved = False
    for before, after, pair in follow(monkeypatch, eager(small_supernet(), arch_lr=0.3)):
        drawn = torch.zeros_like(before, dtype=torch.bool).scatter(1, pair, True)
        moved |= not torch.allclose(after.softmax(-1)[~drawn], before.softmax(-1)[~drawn], rtol=1e-3)
    assert moved


def test_the_shift_keeps_the_difference_and_the_sum_of_the_exponentials() -> None:
    before, after = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept = keep_mass(after, before)
    torch.testing.assert_close(kept[:, 0] - kept[:, 1], after[:, 0] - after[:, 1], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(kept.exp().sum(1), before.exp().sum(1), rtol=1e-12, atol=1e-14)


def test_weights_train_on_one_path_and_alphas_on_the_two_that_were_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = eager(PlantedSupernet(("skip_connect", "nor_conv_1x1", "nor_conv_3x3")))
    edge, ran, drawn = module.supernet.edges[0], [], []
    assert isinstance(edge, MixedOp)
    forward, original = edge.forward, module.arch_backward

    def counted(x: Tensor, weights: Any, seen: Any = None) -> Tensor:
        ran.append(set(weights.active))
        return forward(x, weights, seen)

    def arch_backward(batch: Batch) -> Tensor:
        loss = original(batch)
        drawn.append(set(module._pairs["edge"][0][0].tolist()))
        return loss

    monkeypatch.setattr(edge, "forward", counted)
    monkeypatch.setattr(module, "arch_backward", arch_backward)
    fit(module, random_streams(module.supernet), epochs=1)
    assert ran[::2] == drawn and all(len(pair) == 2 for pair in drawn)
    assert [len(path) for path in ran[1::2]] == [1, 1, 1]


def test_pairs_are_drawn_without_replacement_and_opened_by_the_softmax_of_the_two() -> None:
    torch.manual_seed(0)
    alpha, n = torch.tensor([1.0, 0.0, -1.0, -60.0], dtype=torch.float64), 40_000
    pairs = draw_pair(alpha.expand(n, 4))
    p = alpha.softmax(0).tolist()
    for i, j in itertools.permutations(range(3), 2):
        together = p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j])
        expected = together * p[i] / (p[i] + p[j])
        share = float(((pairs[:, 0] == i) & (pairs[:, 1] == j)).double().mean())
        assert abs(share - expected) < 4 * (expected * (1 - expected) / n) ** 0.5
    assert (pairs[:, 0] != pairs[:, 1]).all() and (pairs < 3).all()


def test_a_row_without_a_choice_has_no_gradient() -> None:
    torch.manual_seed(0)
    supernet = PlantedSupernet(("nor_conv_3x3",))
    module = eager(supernet)
    before = module.alphas["edge"].detach().clone()
    fit(module, random_streams(supernet), epochs=1)
    torch.testing.assert_close(module.alphas["edge"].detach(), before, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("score", [True, False], ids=["score", "without-the-mean"])
def test_reinforce_is_unbiased_whatever_the_baseline(score: bool) -> None:
    alpha = torch.tensor([[0.3, -0.2, 0.9]], dtype=torch.float64, requires_grad=True)
    rewards, p = torch.tensor([0.2, 0.7, 0.4], dtype=torch.float64), alpha.softmax(-1)
    exact = torch.autograd.grad(-(p[0] * rewards).sum(), alpha)[0]
    one_hot = torch.eye(3, dtype=torch.float64)[:, None, None]  # [draw, M, R, O]
    mean = torch.zeros_like(exact)
    for k in range(3):
        gradient = reinforce_gradient(alpha.detach(), one_hot[k], rewards[k : k + 1] - 0.5)
        mean += p[0, k].detach() * (gradient if score else -(rewards[k] - 0.5) * one_hot[k, 0])
    assert torch.allclose(mean, exact, rtol=1e-12, atol=1e-14) == score


def baselines(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Mean reward and baseline of every step, as a short search has them."""
    torch.manual_seed(0)
    supernet = PlantedSupernet()
    module, seen = eager(supernet, gradient="reinforce", reward=Reward(samples=2)), []
    reward = module.reward
    assert reward is not None
    original = reward.next_baseline

    def next_baseline(mean: Tensor) -> Tensor:
        value = original(mean)
        seen.append((float(mean), float(value)))
        return value

    monkeypatch.setattr(reward, "next_baseline", next_baseline)
    fit(module, random_streams(supernet, batches=6), epochs=1)
    assert float(reward.baseline) == seen[-1][1] and int(reward.updates) == len(seen) == 6
    return seen


def test_an_advantage_is_over_the_baseline_that_this_step_moved() -> None:
    """As in the authors' code, which moves the baseline first."""
    torch.manual_seed(0)
    supernet = PlantedSupernet()
    module = ProxylessNAS(supernet, gradient="reinforce", reward=Reward(samples=3, decay=0.5), alpha_std=0.5)
    reward = module.reward
    assert reward is not None
    reward.baseline.fill_(0.9)
    reward.updates.fill_(1)
    paths, rewards, seen = [], [0.2, 0.6, 0.7], iter([0.2, 0.6, 0.7])

    def earned(logits: Tensor, y: Tensor, path: dict[str, Tensor]) -> Tensor:
        paths.append(path["edge"].numpy())
        return torch.tensor(next(seen))

    reward.forward = earned  # type: ignore[method-assign]
    x, y = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 1, 0])
    module.arch_backward({"weights": (x, y), "arch": (x, y)})
    alpha = module.alphas["edge"]
    assert alpha.grad is not None
    p = np.exp(alpha.detach().double().numpy())
    p /= p.sum(1, keepdims=True)

    def gradient(baseline: float) -> Array:
        return -sum((r - baseline) * (path - p) for r, path in zip(rewards, paths, strict=True)) / 3

    np.testing.assert_allclose(alpha.grad.numpy(), gradient(0.5 * 0.9 + 0.5 * 0.5), rtol=1e-5, atol=1e-6)
    assert not np.allclose(alpha.grad.numpy(), gradient(0.9), rtol=1e-2)
    assert not np.allclose(alpha.grad.numpy(), gradient(0.5), rtol=1e-2)


def follows_one_percent(seen: list[tuple[float, float]]) -> bool:
    baseline = seen[0][0]
    agree = seen[0][1] == baseline
    for mean, value in seen[1:]:
        baseline = 0.99 * baseline + 0.01 * mean
        agree &= abs(value - baseline) < 1e-6
    return agree


def test_the_baseline_begins_at_the_first_mean_and_moves_by_one_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert follows_one_percent(baselines(monkeypatch))


def test_a_baseline_that_moves_by_99_percent_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published mistake: ``baseline += decay * (mean - baseline)``."""
    monkeypatch.setattr(
        "oneshot.methods.proxylessnas.moving_average", lambda a, v, decay: moving_average(a, v, 1 - decay)
    )
    assert not follows_one_percent(baselines(monkeypatch))


def test_the_reward_is_accuracy_times_relative_cost_to_a_power() -> None:
    space = SearchSpace("toy", (Choice("layer", ("conv", "skip")),))
    reward = Reward(AdditiveCost(space, {"layer": torch.tensor([[8.0, 0.0]])}, unit="ms"), target=2.0, exponent=0.5)
    logits, y = torch.eye(4), torch.tensor([0, 1, 2, 0])
    conv, skip = {"layer": torch.tensor([[1.0, 0.0]])}, {"layer": torch.tensor([[0.0, 1.0]])}
    assert float(reward(logits, y, conv)) == pytest.approx(0.75 * (2.0 / 8.0) ** 0.5)
    assert float(reward(logits, y, skip)) == pytest.approx(0.75 * 1000**0.5)  # of no cost
    assert float(Reward()(logits, y, conv)) == 0.75


def cost() -> AdditiveCost:
    return count_candidates(PlantedSupernet(), "macs")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        pytest.param(lambda: {"gradient": "three"}, "'two_path' or 'reinforce'; got 'three'", id="unknown"),
        pytest.param(lambda: {"reward": Reward()}, "loss, not a reward.*gradient='reinforce'", id="reward"),
        pytest.param(
            lambda: {"gradient": "reinforce", "penalty": CostPenalty(cost(), "additive", a=1.0)},
            "rewards, not losses.*reward=Reward",
            id="penalty",
        ),
        pytest.param(
            lambda: {
                "gradient": "reinforce",
                "reward": Reward(count_candidates(small_supernet(), "macs"), target=1.0),
            },
            "must be of space 'planted'; it is of 'nasbench201'",
            id="another space",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(options: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ProxylessNAS(PlantedSupernet(), **options())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        pytest.param({"target": 1.0}, "must be given together, .* got target=1.0", id="target alone"),
        pytest.param({"cost": None, "samples": 0}, "samples, .* must be at least 1; got 0", id="no samples"),
        pytest.param({"decay": 1.0}, r"decay, .* in \[0, 1\); got 1.0", id="decay"),
    ],
)
def test_a_reward_with_wrong_numbers_is_refused(options: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Reward(**options)


def test_a_cost_needs_a_target() -> None:
    for target in (None, 0.0):
        with pytest.raises(ValueError, match=f"target be above 0; got target={target}"):
            Reward(cost(), target=target)
