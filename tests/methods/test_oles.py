"""OLES: candidates whose gradients on both halves of the data disagree are trained no further."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from oneshot.engine.module import Batch
from oneshot.functional import gradient_match
from oneshot.methods.oles import OLES
from oneshot.supernets import NASBench201Supernet
from oneshot.supernets.base import frozen_batch_norm
from oneshot.testing import MethodContract, PlantedSupernet, fit, random_streams
from oneshot.testing.methods import Method


class TestOLES(MethodContract):
    @pytest.fixture
    def method(self) -> Method:
        return lambda supernet: OLES(supernet, arch_lr=0.1, window=5)


def test_a_match_is_the_cosine_of_all_gradients_of_a_candidate() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 2, 3, 3), (4,))
    ours, theirs = ([torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes] for _ in range(2))
    a, b = (np.concatenate([part.numpy().ravel() for part in parts]) for parts in (ours, theirs))

    def cosine(u: np.ndarray, v: np.ndarray) -> float:
        return float(u @ v / math.sqrt((u @ u) * (v @ v)))

    pairs = list(zip(ours, theirs, strict=True))
    assert gradient_match(pairs).item() == pytest.approx(cosine(a, b), rel=1e-12)
    assert gradient_match(pairs, accumulated=True).item() == pytest.approx(cosine(a, a + b), rel=1e-12)
    by_tensor = np.mean([cosine(u.numpy().ravel(), v.numpy().ravel()) for u, v in pairs])
    assert gradient_match(pairs).item() != pytest.approx(by_tensor, rel=1e-2)
    assert gradient_match([(torch.zeros(3), torch.ones(3))]).item() == 0


def test_unrelated_gradients_of_one_length_have_a_cosine_of_a_half_of_the_root_of_two_with_their_sum() -> None:
    pair = [(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))]
    assert gradient_match(pair).item() == 0
    assert gradient_match(pair, accumulated=True).item() == pytest.approx(math.sqrt(0.5))


class Watched(OLES):
    """Keeps what each step has added to the sums, and what it should have."""

    def __init__(self, supernet: Any, **options: Any) -> None:
        super().__init__(supernet, **options)
        self.seen, self.exact = list[Tensor](), list[Tensor]()

    def arch_backward(self, batch: Batch) -> Tensor:
        supernet, weights = copy.deepcopy(self.supernet), {n: w.detach() for n, w in self.edge_weights().items()}
        gradients = []
        for half in ("weights", "arch"):
            x, y = batch[half]  # type: ignore[literal-required]  # mypy sees a string
            parameters = [supernet.mixed_ops()["edge"][0][0].ops[o][1].weight for o in (3, 4)]  # the two convolutions
            with frozen_batch_norm(supernet):
                loss = torch.nn.functional.cross_entropy(supernet(x, weights), y)
            gradients.append(torch.autograd.grad(loss, parameters))
        pairs = [(a.flatten(), b.flatten()) for a, b in zip(*gradients, strict=True)]
        self.exact.append(torch.stack([a @ b / (a.norm() * b.norm()) for a, b in pairs]))
        return super().arch_backward(batch)

    def after_weight_backward(self, *args: Any) -> None:
        before = self._sums.clone()
        super().after_weight_backward(*args)
        self.seen.append(self._sums - before)


def test_the_cosines_of_a_fit_are_those_of_the_gradients_on_both_halves_at_the_same_weights() -> None:
    torch.manual_seed(0)
    # the alphas stay, so that both gradients are under the same edge weights here and there
    search = Watched(PlantedSupernet(), accumulated=False, window=100, arch_lr=0.0, arch_weight_decay=0.0)
    fit(search, random_streams(search.supernet), epochs=1)
    torch.testing.assert_close(torch.stack(search.seen), torch.stack(search.exact), rtol=1e-4, atol=1e-6)


class Weights(pl.Callback):
    """Keeps the weights of the candidates after every step."""

    def __init__(self) -> None:
        self.after: list[list[Tensor]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, OLES)
        self.after.append([p[0].detach().clone() for p in pl_module._candidates])


@pytest.mark.parametrize(("threshold", "stops"), [(1.0, True), (-1.0, False)])
def test_a_candidate_below_the_threshold_stays_as_it_is_after_the_window(threshold: float, stops: bool) -> None:
    """Momentum and weight decay do not move it either, and its alpha goes on."""
    torch.manual_seed(0)
    search, watch = OLES(PlantedSupernet(), threshold=threshold, window=2, arch_lr=0.1), Weights()
    fit(search, random_streams(search.supernet, batches=5), epochs=1, callbacks=[watch])
    assert search.stopped.tolist() == [stops] * 2
    for candidate in range(2):
        steps = itertools.pairwise(watch.after)
        moved = [not torch.equal(a[candidate], b[candidate]) for a, b in steps]
        # the second step is the last of the window, and moves nothing any more
        assert moved == ([False] * 4 if stops else [True] * 4)
    head = search.supernet.head[-1].weight
    before, alphas = head.detach().clone(), copy.deepcopy(search.alphas["edge"].detach())
    fit(search, random_streams(search.supernet, batches=2), epochs=2)
    assert not torch.equal(head, before) and not torch.equal(search.alphas["edge"], alphas)


def test_every_candidate_of_every_cell_is_stopped_by_itself() -> None:
    torch.manual_seed(0)
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, num_classes=3, in_channels=1, image_size=8)
    search = OLES(supernet, threshold=0.05, window=3, accumulated=False)
    fit(search, random_streams(supernet, batches=3), epochs=1)
    assert len(search.stopped) == 36 and 0 < int(search.stopped.sum()) < 36
    assert not search._sums.any() and search._steps == 0  # a new window


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"threshold, a cosine, must be in \[-1, 1\]; got 2.0. -1 stops nothing"):
        OLES(PlantedSupernet(), threshold=2.0)
    with pytest.raises(ValueError, match="window, the steps in a mean, must be at least 1; got 0"):
        OLES(PlantedSupernet(), window=0)
    with pytest.raises(ValueError, match="needs candidates with weights; PlantedSupernet has none. Use DARTS"):
        OLES(PlantedSupernet(("none", "skip_connect")))
