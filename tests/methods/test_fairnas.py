"""FairNAS keeps the contract of a search without alphas, and is strictly fair."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from oneshot.functional import fair_paths
from oneshot.methods.fairnas import FairNAS
from oneshot.supernets.darts import DARTSSupernet, reduced_space
from oneshot.supernets.mixed_op import Path
from oneshot.supernets.nasbench201 import NASBench201Supernet
from oneshot.supernets.space import SubnetConfig
from oneshot.testing import SharingContract, fit, random_streams
from oneshot.testing.methods import Method


class TestFairNAS(SharingContract):
    @pytest.fixture
    def method(self) -> Method:
        return lambda supernet: FairNAS(supernet, weight_lr=0.05, candidates=20, finalists=4)


# The paths.

Draw = Callable[[list[int]], Tensor]


def uniform_paths(sizes: list[int]) -> Tensor:
    """As many paths, each uniform: fair in expectation only (section 3.2)."""
    return torch.stack([torch.randint(size, (max(sizes),)) for size in sizes], dim=1)


def one_permutation(sizes: list[int]) -> Tensor:
    """The same order in every row: fair, but most architectures can never be drawn."""
    return torch.randperm(max(sizes))[:, None].expand(-1, len(sizes))


def shuffled(sizes: list[int]) -> Tensor:
    """An independent implementation of algorithm 1, by Python's random numbers."""
    rows = [random.sample(range(size), size) for size in sizes]
    return torch.tensor([[row[k] for row in rows] for k in range(max(sizes))])


def is_strictly_fair(draw: Draw) -> bool:
    """Every candidate of every row exactly once in each of 50 steps."""
    once = torch.arange(4)[:, None].expand(4, 3)
    return all(torch.equal(draw([4, 4, 4]).sort(0).values, once) for _ in range(50))


def is_uniform(draw: Draw) -> bool:
    """Whether all 9 pairs of candidates of two rows are in a path equally often (chi-square, p = 0.001)."""
    counts = Counter(tuple(path) for _ in range(300) for path in draw([3, 3]).tolist())
    pairs = [counts[a, b] for a in range(3) for b in range(3)]
    return sum((count - 100) ** 2 / 100 for count in pairs) < 26.1


@pytest.mark.parametrize(
    ("draw", "fair", "uniform"),
    [
        pytest.param(fair_paths, True, True, id="ours"),
        pytest.param(shuffled, True, True, id="algorithm-1"),
        pytest.param(uniform_paths, False, True, id="uniform-paths"),
        pytest.param(one_permutation, True, False, id="one-permutation-for-all-rows"),
    ],
)
def test_paths_are_strictly_fair_and_every_combination_is_equally_likely(draw: Draw, fair: bool, uniform: bool) -> None:
    assert (is_strictly_fair(draw), is_uniform(draw)) == (fair, uniform)


def test_shorter_rows_run_their_candidates_equally_often_give_or_take_one() -> None:
    for _ in range(50):
        paths = fair_paths([5, 2, 1, 3])
        assert paths.shape == (5, 4)
        for row, size in enumerate([5, 2, 1, 3]):
            counts = torch.bincount(paths[:, row], minlength=size)
            assert counts.max() - counts.min() <= 1 and len(counts) == size


def test_darts_cells_have_a_candidate_on_every_edge() -> None:
    search = FairNAS(DARTSSupernet(channels=2, cells=3))
    paths = search.paths(0)
    assert len(paths) == 8
    for name in ("normal", "reduce"):
        for row in range(14):
            assert {path[name][row] for path in paths} == set(search.supernet.space[name].candidates)


# The step.


class Recorded(FairNAS):
    """Remembers what it trained."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[list[SubnetConfig]] = []

    def paths(self, step: int) -> list[SubnetConfig]:
        self.seen.append(super().paths(step))
        return self.seen[-1]


def plain(supernet: NASBench201Supernet, streams: Any, seen: list[list[SubnetConfig]], mistake: str | None) -> None:
    """Algorithm 1 with SGD and no library; changes ``supernet``."""
    optimizer = torch.optim.SGD(supernet.parameters(), 0.1, momentum=0.9, weight_decay=3e-4)
    for (x, y), paths in zip(streams["weights"], seen, strict=True):
        optimizer.zero_grad()
        for config in paths:
            path = {name: Path(weights) for name, weights in supernet.one_hot(config).items()}
            F.cross_entropy(supernet(x, path), y).backward()
            if mistake == "a step after every path":
                optimizer.step()
                optimizer.zero_grad()
        if mistake == "the mean of the gradients":
            for p in supernet.parameters():
                p.grad = None if p.grad is None else p.grad / len(paths)
        if mistake == "only the last path":
            optimizer.zero_grad()
            F.cross_entropy(supernet(x, path), y).backward()
        optimizer.step()


@pytest.mark.parametrize(
    "mistake", [None, "a step after every path", "the mean of the gradients", "only the last path"]
)
def test_the_gradients_of_all_paths_are_added_up_before_one_step(mistake: str | None) -> None:
    torch.manual_seed(0)
    ours = NASBench201Supernet(channels=2, cells_per_stage=1, num_classes=3, in_channels=1, image_size=8).double()
    theirs, streams = copy.deepcopy(ours), random_streams(ours, dtype=torch.float64)
    search = Recorded(ours, weight_lr=0.1, grad_clip=1e9, candidates=2, finalists=1).double()
    fit(search, streams, epochs=1)
    plain(theirs, streams, search.seen, mistake)
    same = [
        torch.allclose(a, b, rtol=1e-9, atol=1e-11) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)
    ]
    assert all(same) == (mistake is None)


def test_every_candidate_gets_a_gradient_in_every_step() -> None:
    """In a space without `none`, which would cut candidates off that run before or after it."""
    search = FairNAS(DARTSSupernet(reduced_space("s2"), channels=2, cells=3, in_channels=1, image_size=8), finalists=1)
    streams = random_streams(search.supernet, batches=1)
    search.candidates, before = 1, copy.deepcopy(search.supernet.state_dict())
    fit(search, streams, epochs=1)
    assert [name for name, p in search.supernet.named_parameters() if torch.equal(before[name], p)] == []
