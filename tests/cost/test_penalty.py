"""Latency-aware losses equal the papers' formulas, with gradients derived by hand, and never become NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from oneshot.cost import AdditiveCost, CostPenalty, LatencyTable, count_candidates, describe_supernet
from oneshot.cost.latency.table import describe_choices
from oneshot.cost.penalty import positive_log
from oneshot.methods.fbnet import FBNet
from oneshot.supernets import Choice, NASBench201Supernet, SearchSpace

Matrix = npt.NDArray[np.float64]
SPACE = SearchSpace("chain", (Choice("layer", ("a", "b", "c"), rows=4),))
COSTS = np.array([[9.0, 4.0, 0.5], [3.0, 8.0, 1.0], [2.0, 7.5, 0.25], [6.0, 5.0, 0.0]])
ALPHA = np.random.default_rng(0).normal(size=(4, 3))
LOSS = 1.7


def by_hand(
    outer: Callable[[float], float], slope: Callable[[float], float], fixed: float = 0.0
) -> tuple[float, Matrix]:
    """Loss, and its gradient ``f'(c) p_i (t_i - sum_k p_k t_k)`` through the softmax of every row."""
    p = np.exp(ALPHA) / np.exp(ALPHA).sum(1, keepdims=True)
    cost = float((p * COSTS).sum()) + fixed
    return outer(cost), slope(cost) * p * (COSTS - (p * COSTS).sum(1, keepdims=True))


def ours(*args: Any, detach: bool = False, unit: str = "us", fixed: float = 0.0, **kwargs: Any) -> tuple[float, Tensor]:
    penalty = CostPenalty(
        AdditiveCost(SPACE, {"layer": torch.from_numpy(COSTS)}, unit=unit, fixed=fixed), *args, **kwargs
    )
    alpha = torch.from_numpy(ALPHA).requires_grad_()
    weights = alpha.softmax(-1)
    # NNI's bug (reference, section 1): the probabilities leave the graph on their way into the penalty.
    loss = penalty(torch.tensor(LOSS, dtype=torch.float64), {"layer": weights.detach() if detach else weights})
    (gradient,) = torch.autograd.grad(loss + 0 * alpha.sum(), alpha)
    return loss.item(), gradient


FORMS: dict[str, tuple[dict[str, Any], Callable[[float], float], Callable[[float], float]]] = {
    "fbnet": (
        {"a": 0.2, "b": 0.6},
        lambda c: LOSS * 0.2 * math.log(c) ** 0.6,
        lambda c: LOSS * 0.2 * 0.6 * math.log(c) ** -0.4 / c,
    ),
    "mul_log": (
        {"a": 0.2, "b": 0.3, "target": 8.0},
        lambda c: LOSS * 0.2 * (math.log(c) / math.log(8)) ** 0.3,
        lambda c: LOSS * 0.2 * 0.3 * (math.log(c) / math.log(8)) ** -0.7 / (c * math.log(8)),
    ),
    "add_linear": ({"a": 0.1, "target": 8.0}, lambda c: LOSS + 0.1 * (c - 8) / 8, lambda c: 0.1 / 8),
    "additive": ({"a": 0.03}, lambda c: LOSS + 0.03 * c, lambda c: 0.03),
    "target": (
        {"b": 0.5, "target": 8.0},
        lambda c: LOSS + 0.5 * ((c - 8) / 8) ** 2 / 2,  # before the multiplier has grown
        lambda c: 0.5 * (c - 8) / 8 / 8,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_loss_and_its_gradient_are_those_derived_by_hand(form: str) -> None:
    options, outer, slope = FORMS[form]
    loss, gradient = ours(form, **options)
    exact_loss, exact = by_hand(outer, slope)
    assert loss == pytest.approx(exact_loss, rel=1e-6)
    np.testing.assert_allclose(gradient, exact, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_every_alpha_has_a_gradient_that_points_to_the_cheaper_candidates(form: str) -> None:
    _, gradient = ours(form, **FORMS[form][0])
    p = torch.from_numpy(ALPHA).softmax(-1)
    dearer = torch.from_numpy(COSTS) - (p * torch.from_numpy(COSTS)).sum(1, keepdim=True)
    assert (gradient != 0).all() and torch.equal(gradient.sign(), dearer.sign())


@pytest.mark.parametrize("form", FORMS)
def test_the_comparison_tells_a_penalty_whose_probabilities_left_the_graph(form: str) -> None:
    options, outer, slope = FORMS[form]
    _, gradient = ours(form, detach=True, **options)
    assert not np.allclose(gradient, by_hand(outer, slope)[1], rtol=1e-2)
    assert not gradient.any()


@pytest.mark.parametrize("form", ["fbnet", "mul_log"])
@pytest.mark.parametrize("scale", [1.0, 0.1, 0.05, 1e-2, 1e-3, 1e-6])
def test_costs_below_one_give_a_finite_loss_and_a_gradient_of_the_right_sign(form: str, scale: float) -> None:
    table = {"layer": torch.from_numpy(COSTS * scale)}
    alpha = torch.from_numpy(ALPHA).requires_grad_()
    options = {name: value for name, value in FORMS[form][0].items()}
    penalty = CostPenalty(AdditiveCost(SPACE, table, unit="ms"), form, **options)  # type: ignore[arg-type]
    loss = penalty(torch.tensor(LOSS, dtype=torch.float64), {"layer": alpha.softmax(-1)})
    (gradient,) = torch.autograd.grad(loss, alpha)
    reference = ours(form, **options)[1]
    assert loss.isfinite() and gradient.isfinite().all() and (gradient != 0).all()
    assert torch.equal(gradient.sign(), reference.sign())


def test_the_logarithm_goes_on_without_a_jump_in_value_or_slope() -> None:
    joint = math.exp(0.1)
    x = torch.tensor([joint - 1e-9, joint + 1e-9], dtype=torch.float64, requires_grad=True)
    y = positive_log(x)
    slopes = torch.autograd.grad(y.sum(), x)[0]
    assert y[0].item() == pytest.approx(y[1].item(), abs=1e-8)
    assert slopes[0].item() == pytest.approx(slopes[1].item(), rel=1e-6)
    far = torch.linspace(0, 1, 100, dtype=torch.float64)
    assert (positive_log(far) > 0).all() and (positive_log(far).diff() > 0).all()


@pytest.mark.parametrize("pull", [0.0, 0.02], ids=["alone", "against-a-loss-that-wants-more"])
def test_the_hard_target_is_reached_and_not_pushed_beyond(pull: float) -> None:
    cost = AdditiveCost(SPACE, {"layer": torch.from_numpy(COSTS)}, unit="ms")
    penalty = CostPenalty(cost, "target", a=0.02, target=8.0)
    alpha = torch.from_numpy(ALPHA).clone().requires_grad_()
    optimizer = torch.optim.SGD([alpha], lr=0.2)
    costs, multipliers = [], []
    for _ in range(2000):
        weights = {"layer": alpha.softmax(-1)}
        expected = cost.expected(weights)
        costs.append(expected.item())
        optimizer.zero_grad()
        penalty(-pull * expected, weights).backward()
        optimizer.step()
        multipliers.append(penalty.multiplier.item())
    assert costs[0] > 12 and max(multipliers) > 0
    if pull:
        assert costs[-1] == pytest.approx(8.0, rel=0.05)  # where the two forces meet
        assert multipliers[-1] == pytest.approx(8 * pull, rel=0.2)  # the slopes are equal there
    else:
        assert costs[-1] <= 8.0 and multipliers[-1] == 0
        assert costs[-1] == costs[-100]  # at rest


def certain(target: float) -> CostPenalty:
    return CostPenalty(AdditiveCost(SPACE, {"layer": torch.from_numpy(COSTS)}, unit="ms"), "target", target=target)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_derived_keeps_to_the_target(seed: int) -> None:
    """Against all 81 architectures, up to the rounding of four costs."""
    rng, rounding = np.random.default_rng(seed), 1 - 4 / 4096
    p, target = rng.dirichlet(np.ones(3), size=4), float(rng.integers(8, 80)) / 4
    genes = SPACE.decode(np.array(list(np.ndindex(3, 3, 3, 3))))
    picked = np.array(list(np.ndindex(3, 3, 3, 3)))
    costs, likely = COSTS[range(4), picked].sum(1), p[range(4), picked].prod(1)
    low = 0.95 * min((p * COSTS).sum(), target)
    between = (costs >= low) & (costs <= target * rounding)
    derived = certain(target).most_likely({"layer": p}, SPACE)
    index = genes.index(derived)
    if between.any():
        assert low * rounding <= costs[index] <= target and likely[index] >= likely[between].max() * (1 - 1e-9)
    else:
        assert costs[costs <= target * rounding].max() <= costs[index] <= target


def test_the_target_changes_what_is_derived_and_other_forms_do_not() -> None:
    p = {"layer": np.tile([0.5, 0.2, 0.3], (4, 1))}
    argmax, cost = SPACE.most_likely(p), AdditiveCost(SPACE, {"layer": torch.from_numpy(COSTS)}, unit="ms")
    assert cost.cost(argmax) == 20.0  # the first of every row
    assert cost.cost(certain(12.0).most_likely(p, SPACE)) <= 12.0
    assert CostPenalty(cost, "add_linear", target=12.0).most_likely(p, SPACE) == argmax


def test_a_target_below_the_cheapest_architecture_is_refused(tmp_path: Path) -> None:
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)
    refused = r"target=1.5 ms; the smallest is 2\S* ms. Raise the target to that at least.*architecture: cell: \w+"
    with pytest.raises(ValueError, match=refused):
        FBNet(supernet, CostPenalty(write_table(tmp_path, supernet), "target", target=1.5))


def test_the_multiplier_moves_in_training_only() -> None:
    penalty = CostPenalty(
        AdditiveCost(SPACE, {"layer": torch.from_numpy(COSTS)}, unit="ms"), "target", target=8.0
    ).eval()
    penalty(torch.zeros(()), {"layer": torch.from_numpy(ALPHA).softmax(-1)})
    assert penalty.multiplier == 0
    assert "multiplier" in penalty.state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"cost": "time", "form": "fbnet"},
            "CostModel, 'params', 'macs', 'memory', the .json of .* or the .csv of measured networks; got 'time'",
            id="cost",
        ),
        pytest.param({"form": "linear"}, "form must be one of fbnet, .*; got 'linear'", id="form"),
        pytest.param({"form": "target"}, "needs a target in ms, above 0; got target=None", id="no-target"),
        pytest.param({"form": "mul_log", "target": 0.5}, "above 1, because its logarithm divides", id="log-target"),
        pytest.param(
            {"form": "fbnet", "target": 5.0}, "must have no target; got target=5.0. Leave it out", id="target"
        ),
        pytest.param({"form": "additive", "a": 1.0, "b": 2.0}, "must have no b", id="b"),
        pytest.param({"form": "additive"}, "needs a, loss per ms", id="no-a"),
        pytest.param({"form": "fbnet", "a": -1.0}, "a and b of a penalty must be above 0; got a=-1.0", id="negative"),
    ],
)
def test_a_penalty_that_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CostPenalty(**{"cost": AdditiveCost(SPACE, {"layer": torch.from_numpy(COSTS)}, unit="ms"), **options})


def test_the_candidates_are_counted_for_the_supernet_of_the_search() -> None:
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)
    penalty = CostPenalty("macs", "fbnet")
    with pytest.raises(RuntimeError, match=r"given to a search; call bind\(supernet\)"):
        penalty(torch.tensor(1.0), {})
    FBNet(supernet, penalty)
    assert penalty.cost is not None
    config = supernet.space.sample(0)
    assert penalty.cost.cost(config) == count_candidates(supernet, "macs").cost(config)


def write_table(folder: Path, supernet: NASBench201Supernet, space: str = "nasbench201") -> str:
    macs = count_candidates(supernet, "macs").cost(supernet.space.sample(0))
    table = LatencyTable(
        space=space,
        choices=describe_choices(supernet.space),
        input_shape=supernet.input_shape,
        batch=1,
        dtype="float32",
        table={"cell": [[0.0, 0.25, 1.5, 4.0, 0.75]] * 6},
        fixed=2.0,
        spread={},
        noise=0.01,
        residual=0.02,
        networks=30,
        reference={"config": supernet.space.sample(0).to_dict(), "ms": 6.0, "macs": macs},
        device={},
        date="2026-01-01",
        supernet=describe_supernet(supernet),
    )
    return str(table.save(folder / "table.json"))


def test_a_path_is_that_of_a_latency_table(tmp_path: Path) -> None:
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)
    penalty = CostPenalty(write_table(tmp_path, supernet), "target", target=8.0)
    FBNet(supernet, penalty)
    assert penalty.cost is not None and penalty.cost.unit == "ms"
    config = supernet.space.from_arch_string(
        "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"
    )
    assert penalty.cost.cost(config) == 2.0 + 4.0 + 0.25 + 0.75 + 1.5


def test_a_table_of_wider_networks_is_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path, NASBench201Supernet(channels=16, cells_per_stage=1, image_size=8))
    with pytest.raises(ValueError, match="channels is 16 there, 8 here"):
        FBNet(NASBench201Supernet(channels=8, cells_per_stage=1, image_size=8), CostPenalty(path, "fbnet"))
    more_classes = NASBench201Supernet(channels=16, cells_per_stage=1, image_size=8, num_classes=100)
    with pytest.raises(ValueError, match="num_classes is 10 there, 100 here"):
        FBNet(more_classes, CostPenalty(path, "fbnet"))


def test_a_table_of_an_earlier_release_is_compared_by_the_size_of_its_reference(tmp_path: Path) -> None:
    path = Path(write_table(tmp_path, NASBench201Supernet(channels=16, cells_per_stage=1, image_size=8)))
    content = json.loads(path.read_text())
    del content["supernet"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="networks of another size: its reference network has .* MACs, here"):
        FBNet(NASBench201Supernet(channels=8, cells_per_stage=1, image_size=8), CostPenalty(str(path), "fbnet"))
    more_classes = NASBench201Supernet(channels=16, cells_per_stage=1, image_size=8, num_classes=100)
    with pytest.warns(UserWarning, match="table.json does not say which networks it was measured for"):
        FBNet(more_classes, CostPenalty(str(path), "fbnet"))


@pytest.mark.parametrize(
    ("space", "size", "message"),
    [
        pytest.param("other", 8, "must be of space 'nasbench201'; it is of 'other'", id="space"),
        pytest.param("nasbench201", 16, r"input_shape is \[3, 8, 8\] there, \[3, 16, 16\] here", id="size"),
    ],
)
def test_a_table_of_something_else_is_refused(space: str, size: int, message: str, tmp_path: Path) -> None:
    path = write_table(tmp_path, NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8), space)
    with pytest.raises(ValueError, match=message):
        FBNet(NASBench201Supernet(channels=4, cells_per_stage=1, image_size=size), CostPenalty(path, "fbnet"))


def test_a_table_that_is_not_there_is_refused_when_the_search_is_made() -> None:
    with pytest.raises(ValueError, match="There is no latency table nowhere.json"):
        FBNet(NASBench201Supernet(channels=4, cells_per_stage=1), CostPenalty("nowhere.json", "fbnet"))


def test_a_cost_of_another_space_is_refused() -> None:
    with pytest.raises(ValueError, match="must be of space 'nasbench201'; it is of 'chain'"):
        FBNet(
            NASBench201Supernet(channels=4, cells_per_stage=1),
            CostPenalty(AdditiveCost(SPACE, {"layer": torch.from_numpy(COSTS)}, unit="ms"), "fbnet"),
        )


def test_a_cost_of_another_resolution_is_refused() -> None:
    small, large = (NASBench201Supernet(channels=4, cells_per_stage=1, image_size=size) for size in (8, 16))
    with pytest.raises(ValueError, match="holds for images of 8 pixels, the supernet reads 16"):
        FBNet(large, CostPenalty(count_candidates(small, "macs"), "fbnet"))
    FBNet(large, CostPenalty(count_candidates(small, "macs", image_size=16), "fbnet"))
