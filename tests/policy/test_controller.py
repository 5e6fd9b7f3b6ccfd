"""The controller is a distribution over architectures, and a second implementation gives the same numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from oneshot.discrete import ZophLeSpace
from oneshot.discrete.protocol import listed
from oneshot.policy.controller import Controller, ControllerSettings
from oneshot.supernets.darts import darts_space
from oneshot.supernets.decisions import Decisions, InputDecisions
from oneshot.supernets.nasbench201 import NASBench201Space
from oneshot.supernets.recurrent import RecurrentSpace
from oneshot.supernets.space import Choice, SearchSpace

Floats = NDArray[np.float64]
TINY = SearchSpace("tiny", (Choice("a", (1, 2, 3)), Choice("b", ("x", "y"), rows=2)))
SMALL_DARTS = darts_space(candidates=("sep_conv_3x3", "skip_connect"), steps=2)
SPACES: dict[str, SearchSpace] = {
    "nasbench201": NASBench201Space(),
    "recurrent": RecurrentSpace(),
    "darts": SMALL_DARTS,
    "zoph_le": ZophLeSpace(layers=4),
}


def make(space: SearchSpace, **options: Any) -> Controller:
    seed = options.pop("seed", 0)
    return Controller(
        space.decisions(), ControllerSettings(**{"hidden": 7, "init": 0.8, **options}), seed=seed
    ).double()


def draw(controller: Controller, n: int, seed: int = 0) -> torch.Tensor:
    uniform = torch.from_numpy(np.random.default_rng(seed).random((n, len(controller.decisions.sizes))))
    return controller.sample(uniform)[0]


# A second implementation, one architecture at a time.


def sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))


def reference(controller: Controller, picks: list[int], mistake: str | None = None) -> tuple[list[float], list[float]]:
    """Log-probability and entropy of each decision, textbook LSTM, loops."""
    p = {name: value.detach().numpy() for name, value in controller.named_parameters()}
    decisions, layers = controller.decisions, controller.lstm.num_layers
    state = [(np.zeros(7), np.zeros(7)) for _ in range(layers)]
    x, anchors = p["start"], []
    log_probs, entropies = [], []
    for number, step in enumerate(decisions.steps):
        h = x
        for layer in range(layers):
            old, cell = state[layer]
            gates = p[f"lstm.weight_ih_l{layer}"] @ h + p[f"lstm.bias_ih_l{layer}"]
            gates = gates + p[f"lstm.weight_hh_l{layer}"] @ old + p[f"lstm.bias_hh_l{layer}"]
            i, f, g, o = np.split(gates, 4)
            cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(cell)
            state[layer] = h, cell
        for place, d in enumerate(step):
            if number in decisions.anchors:
                q = p["vector"] @ np.tanh(p["previous"] @ anchors[place] + p["current"] @ h)
                logits = np.array([-q, q]) if mistake == "twice the query" else np.array([0.0, q])
            else:
                logits = np.array([p["weights"][d, o] @ h + p["biases"][d, o] for o in range(decisions.sizes[d])])
            if mistake == "temperature after tanh":
                logits = controller.settings.tanh * np.tanh(logits) / controller.settings.temperature
            else:
                logits = controller.settings.tanh * np.tanh(logits / controller.settings.temperature)
            if isinstance(decisions, InputDecisions) and mistake != "no mask":
                before = decisions._before.get(d)
                taken = [picks[e] for e in before] if before is not None else []
                logits = np.array([-np.inf if o in taken else v for o, v in enumerate(logits)])
            chances = np.exp(logits) / np.exp(logits).sum()
            log_probs.append(math.log(chances[picks[d]]))
            entropy = -sum(c * math.log(c) for c in chances if c)
            chosen = chances[picks[d]]
            entropies.append(-chosen * math.log(chosen) if mistake == "entropy of the pick" else entropy)
        if number in decisions.anchors:
            anchors.append(h)
        x = sum((p["embeddings"][d, picks[d]] for d in step), np.zeros(7))
    return log_probs, entropies


@pytest.mark.parametrize("name", SPACES)
def test_log_probabilities_and_entropies_are_those_of_a_second_implementation(name: str) -> None:
    controller = make(SPACES[name], temperature=1.5, tanh=2.0)
    picks = draw(controller, 5)
    ours = controller.log_probs(picks)
    exact = [np.array(rows) for rows in zip(*(reference(controller, row) for row in picks.tolist()), strict=True)]
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a.detach(), torch.from_numpy(b), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("nasbench201", "temperature after tanh"),
        ("nasbench201", "entropy of the pick"),
        ("zoph_le", "twice the query"),
        ("darts", "no mask"),
    ],
)
def test_the_second_implementation_tells_mistakes_apart(name: str, mistake: str) -> None:
    controller = make(SPACES[name], temperature=1.5, tanh=2.0)
    picks = draw(controller, 5)
    wrong = [reference(controller, row, mistake) for row in picks.tolist()]
    ours = controller.log_probs(picks)
    close = [np.allclose(a.detach(), [row[i] for row in wrong], rtol=1e-3) for i, a in enumerate(ours)]
    assert not all(close)


# It is a distribution.


def every(decisions: Decisions) -> torch.Tensor:
    """All picks that are legal."""
    rows = torch.tensor(list(itertools.product(*map(range, decisions.sizes))))
    for d in range(rows.shape[1]):
        legal = torch.from_numpy(decisions.legal(d, rows.numpy())).expand(len(rows), -1)
        rows = rows[legal[range(len(rows)), rows[:, d]]]
    return rows


@pytest.mark.parametrize(
    "space", [TINY, ZophLeSpace(layers=2), darts_space(candidates=("skip_connect",), steps=2)], ids=lambda s: s.name
)
def test_probabilities_sum_to_one_and_entropies_of_decisions_add_up_to_that_of_the_whole(space: SearchSpace) -> None:
    controller = make(space)
    picks = every(controller.decisions)
    log_probs, entropies = (x.detach() for x in controller.log_probs(picks))
    joint = log_probs.sum(1)
    assert float(joint.exp().sum()) == pytest.approx(1, abs=1e-10)
    assert float((joint.exp() * entropies.sum(1)).sum()) == pytest.approx(float(-(joint.exp() * joint).sum()), rel=1e-9)
    means = entropies.mean(1)  # the mean of decisions is another number
    assert float((joint.exp() * means).sum()) != pytest.approx(float(-(joint.exp() * joint).sum()), rel=1e-2)


def test_architectures_are_drawn_as_often_as_their_probability_says() -> None:
    """A chi-square of 11 degrees of freedom above 31.3 has p = 0.001."""
    controller = make(TINY, init=1.5)
    picks = every(controller.decisions)
    expected = 20_000 * controller.log_probs(picks)[0].sum(1).exp().detach().numpy()
    drawn = draw(controller, 20_000)
    counts = np.array([int((drawn == row).all(1).sum()) for row in picks])
    assert expected.std() > 200  # far from uniform
    assert ((counts - expected) ** 2 / expected).sum() < 31.3


@pytest.mark.parametrize("name", SPACES)
def test_samples_have_the_log_probabilities_that_are_computed_afterwards(name: str) -> None:
    controller = Controller(SPACES[name].decisions(), ControllerSettings(init=0.5))
    picks, log_probs = controller.sample(torch.rand(20, len(controller.decisions.sizes), dtype=torch.float64))
    torch.testing.assert_close(controller.log_probs(picks)[0].detach(), log_probs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("extreme", [0.0, 1 - 2**-53], ids=["smallest", "largest"])
@pytest.mark.parametrize("name", SPACES)
def test_the_smallest_and_the_largest_number_draw_something_legal(name: str, extreme: float) -> None:
    controller = Controller(SPACES[name].decisions(), ControllerSettings())
    uniform = torch.full((1, len(controller.decisions.sizes)), extreme, dtype=torch.float64)
    picks, log_probs = controller.sample(uniform)
    assert log_probs.isfinite().all()
    SPACES[name].decode(controller.decisions.genes(picks.numpy()))


def test_gradients_are_finite_where_picks_are_masked() -> None:
    controller = Controller(SMALL_DARTS.decisions(), ControllerSettings())
    log_probs, entropies = controller.log_probs(draw(controller.double(), 8))
    (log_probs.sum() + entropies.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in controller.parameters())


# How architectures are written down.


@pytest.mark.parametrize("name", SPACES)
def test_what_is_drawn_are_canonical_architectures(name: str) -> None:
    space, controller = SPACES[name], make(SPACES[name])
    genes = controller.decisions.genes(draw(controller, 50).numpy())
    assert len(space.decode(genes)) == 50
    assert np.array_equal(space.repair(genes), genes)


def test_a_node_never_reads_a_state_twice() -> None:
    decisions = SMALL_DARTS.decisions()
    assert isinstance(decisions, InputDecisions)
    picks = draw(make(SMALL_DARTS), 200)
    for _, states, _ in decisions._nodes:
        first, second = (picks[:, state] for state in states)
        assert (first != second).all()


def test_every_cell_of_a_space_of_inputs_can_be_written() -> None:
    space = darts_space(candidates=("sep_conv_3x3", "skip_connect"), steps=1)
    decisions = space.decisions()
    written = {tuple(row) for row in decisions.genes(every(decisions).numpy())}
    assert written == {tuple(row) for row in listed(space)}


def test_a_new_controller_lets_recurrent_nodes_read_any_state() -> None:
    """With a softmax for every edge and repair, the first state would be read four times out of five."""
    space = RecurrentSpace()
    controller = Controller(space.decisions(), ControllerSettings())
    genes = controller.decisions.genes(draw(controller.double(), 400).numpy())
    last = space.gene_groups()[-1]
    reads = (genes[:, last] != 0).mean(0)
    assert reads == pytest.approx(np.full(len(last), 1 / len(last)), abs=0.08)
    naive = Decisions(space)
    uniform = np.random.default_rng(0).integers(0, 5, (400, len(naive.sizes)))
    assert (naive.genes(uniform)[:, last[0]] != 0).mean() > 0.7


# Randomness and bad arguments.


def test_neither_building_nor_drawing_touches_the_global_generator() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    draw(make(TINY), 4)
    assert torch.equal(torch.rand(1), expected)


def test_the_seed_decides_the_parameters() -> None:
    first, same, other = (make(TINY, seed=seed).start for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert all(p.abs().max() <= 0.08 for p in Controller(TINY.decisions(), ControllerSettings()).parameters())


BAD: dict[str, Callable[[], object]] = {
    "at least one layer of at least one unit; got 2 of 0": lambda: make(TINY, hidden=0),
    "temperature, tanh and init must be above 0 and finite, .*; got 0": lambda: make(TINY, temperature=0),
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_argument_is_refused(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BAD[message]()
