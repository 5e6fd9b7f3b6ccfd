"""What every search method must keep, and a task whose answer is known."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from oneshot.engine.alphas import AlphaSearch
from oneshot.engine.gradient import BilevelSearch, SingleLevelSearch
from oneshot.engine.module import SearchModule
from oneshot.engine.sharing import WeightSharingSearch
from oneshot.supernets.base import OperationSupernet, Subnet, inherit_weights
from oneshot.supernets.mixed_op import MixedOp, add_up, arch_of_cell, mixed_op
from oneshot.supernets.nasbench201 import NASBench201Supernet
from oneshot.supernets.ops import make_op
from oneshot.supernets.space import ArchGraph, Choice, SearchSpace, SubnetConfig

WINNER = "nor_conv_3x3"
CANDIDATES = ("none", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", WINNER)
Method = Callable[[OperationSupernet], SearchModule]
Streams = Mapping[str, DataLoader[tuple[Tensor, ...]]]


@dataclass(frozen=True)
class PlantedSpace(SearchSpace):
    """Edges from one state to one node."""

    def nodes(self) -> list[list[int]]:
        return [list(range(self.num_genes))]


class PlantedSupernet(OperationSupernet):
    """A pointwise stem, mixed operations in parallel, a pooled head: only a 3x3 convolution tells rows from columns.

    Args:
        candidates: Operation names, in any order.
        channels: C.
        edges: Number of parallel mixed operations.
        partial_channels: K: the candidates read one of K parts of the channels.
        cells: Number of cells, one after the other, that share the choice.
    """

    def __init__(
        self,
        candidates: Sequence[str] = CANDIDATES,
        *,
        channels: int = 8,
        edges: int = 1,
        partial_channels: int = 1,
        cells: int = 1,
    ) -> None:
        super().__init__()
        self.space = PlantedSpace("planted", (Choice("edge", tuple(candidates), rows=edges),))
        self.num_classes, self.input_shape = 2, (1, 8, 8)
        self.stem, self.head = _stem_and_head(channels)
        self.edges, self.partial_channels = nn.ModuleList(), partial_channels
        for _ in range(cells * edges):
            ops = [make_op(name, channels // partial_channels, 1, affine=False, pool_bn=True) for name in candidates]
            self.edges.append(mixed_op(ops, parts=partial_channels))
        self._channels, self._cells = channels, cells

    def forward(self, x: Tensor, arch: Mapping[str, Tensor]) -> Tensor:
        self.check_arch(arch)
        x, rows = self.stem(x), self.space["edge"].rows
        for cell in range(self._cells):
            weights, edges = arch_of_cell(arch, cell)["edge"], self.edges[cell * rows : (cell + 1) * rows]
            x = add_up([edge(x, weights[row]) for row, edge in enumerate(edges)])
        logits: Tensor = self.head(x)
        return logits

    def shared_choices(self) -> dict[tuple[str, ...], int]:
        return {("edge",): self._cells}

    def extract(self, config: SubnetConfig, *, inherit: bool = True) -> PlantedNetwork:
        self.space.validate(config)
        self.check_inheritance(inherit)
        picks = [str(pick) for pick in config["edge"]]
        net = PlantedNetwork(picks, channels=self._channels, cells=self._cells).to(next(self.parameters()))
        net.config = config
        if inherit:
            inherit_weights(net.stem, self.stem)
            inherit_weights(net.head, self.head)
            for op, pick, mixed in zip(net.edges, picks * self._cells, self.edges, strict=True):
                inherit_weights(op, cast(MixedOp, mixed).ops[self.space["edge"].candidates.index(pick)])
        return net.train(self.training)

    def mixed_ops(self) -> dict[str, list[list[MixedOp]]]:
        rows = self.space["edge"].rows
        return {"edge": [[cast(MixedOp, edge) for edge in self.edges[row::rows]] for row in range(rows)]}


class PlantedNetwork(Subnet):
    """One architecture of :class:`PlantedSupernet`.

    Args:
        ops: Operation names of the edges.
        channels: C.
        cells: Number of cells, one after the other, all of these operations.
    """

    def __init__(self, ops: Sequence[str], *, channels: int = 8, cells: int = 1) -> None:
        super().__init__()
        self.num_classes, self.input_shape = 2, (1, 8, 8)
        self.init_args = {"ops": list(ops), "channels": channels, "cells": cells}
        self.stem, self.head = _stem_and_head(channels)
        names = [op for _ in range(cells) for op in ops]
        self.edges = nn.ModuleList(make_op(op, channels, 1, affine=True, pool_bn=True) for op in names)

    def forward(self, x: Tensor) -> Tensor:
        x, edges = self.stem(x), len(self.init_args["ops"])
        *before, last = (self.edges[first : first + edges] for first in range(0, len(self.edges), edges))
        for cell in before:
            x = add_up([edge(x) for edge in cell])
        logits: Tensor = self.head(sum(edge(x) for edge in last))
        return logits

    def graphs(self) -> list[ArchGraph]:
        return [ArchGraph("planted", ("in", "out"), tuple((0, 1, op) for op in self.init_args["ops"]))]


def stripes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows (class 0) or columns (class 1) of alternating sign, either sign first, in noise.

    A transposed image is in the other class and has the same pixel values and the same averages: what works pointwise
    or averages symmetrically, and then pools over the image, cannot tell the classes apart.

    Args:
        count: Number of images, N.
        seed: Seed of signs, labels and noise.

    Returns:
        Images ``[N, 1, 8, 8]`` and labels ``[N]``.
    """
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    y = y[torch.randperm(count, generator=generator)]
    sign = 1.0 - 2.0 * torch.randint(2, (count, 1, 1, 1), generator=generator)
    rows = (1.0 - 2.0 * (torch.arange(8) % 2))[:, None].expand(8, 8)
    x = sign * torch.where(y[:, None, None, None] == 0, rows, rows.T)
    return x + 0.3 * torch.randn(x.shape, generator=generator), y


def find_planted_winner(
    method: Method, *, seed: int, candidates: Sequence[str] = CANDIDATES, epochs: int = 4, **options: int
) -> SubnetConfig:
    """Search :class:`PlantedSupernet` on :func:`stripes`; a search that works derives ``nor_conv_3x3``.

    Args:
        method: Builds the search around a supernet.
        seed: Seed of weights, alphas and images.
        candidates: Operation names, in any order.
        epochs: Passes over 8 batches of 32 images in each stream.
        **options: Of :class:`PlantedSupernet`.

    Returns:
        What the search derives.
    """
    torch.manual_seed(seed)
    module = method(PlantedSupernet(candidates, **options))
    streams = {name: _loader(*stripes(256, 2 * seed + i), batch_size=32) for i, name in enumerate(("weights", "arch"))}
    fit(module, streams, epochs=epochs)
    return module.derive()


def random_streams(
    supernet: OperationSupernet,
    *,
    batches: int = 3,
    batch_size: int = 8,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Streams:
    """Noise for both streams, the same in every epoch; ``seed`` decides the order and nothing else."""
    streams = {}
    for i, name in enumerate(("weights", "arch")):
        generator = torch.Generator().manual_seed(i)
        x = torch.randn(batches * batch_size, *supernet.input_shape, generator=generator, dtype=dtype)
        y = torch.randint(supernet.num_classes, (len(x),), generator=generator)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        streams[name] = _loader(x[order], y[order], batch_size=batch_size)
    return streams


def fit(module: SearchModule, data: Any, *, epochs: int, **options: Any) -> pl.Trainer:
    """Run the search on the CPU, without logger, validation and checkpoints; ``options`` go to the Trainer."""
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    ckpt_path = options.pop("ckpt_path", None)
    if isinstance(data, Mapping) and isinstance(module, SingleLevelSearch):
        data = data["weights"]
    cpu = {"accelerator": "cpu", "devices": 1, "max_epochs": epochs, "limit_val_batches": 0}
    trainer = pl.Trainer(**{**cpu, **quiet, **options})
    if isinstance(data, pl.LightningDataModule):
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    else:
        trainer.fit(module, data, [], ckpt_path=ckpt_path)
    return trainer


class SearchContract(ABC):
    """What holds for a search of any kind. Subclass one of its two kinds, not this.

    Attributes:
        epochs: How long the planted winner is looked for, in epochs of 8 steps.
        candidates: What it is looked for among.
        distributions: Whether the probabilities of a row sum to 1.
        planted: Options of the :class:`PlantedSupernet` the winner is looked for in.
        trained: What a training moves.
    """

    epochs: int = 4
    candidates: Sequence[str] = CANDIDATES
    distributions: bool = True
    planted: Mapping[str, int] = MappingProxyType({})
    trained: tuple[str, ...] = ("alphas", "supernet")

    @pytest.fixture
    @abstractmethod
    def method(self) -> Method:
        """A callable that builds the search around a supernet."""

    @pytest.fixture
    def supernet(self) -> OperationSupernet:
        """A small supernet the method is tried on."""
        torch.manual_seed(0)
        return NASBench201Supernet(channels=4, cells_per_stage=1, num_classes=3, in_channels=1, image_size=8)

    def test_the_optimisers_together_hold_every_parameter_once(
        self, method: Method, supernet: OperationSupernet
    ) -> None:
        module = method(supernet)
        trainer = fit(module, random_streams(supernet, batches=1), epochs=1)
        held = [p for o in trainer.optimizers for group in o.param_groups for p in group["params"]]
        assert len(held) == len(set(held))
        assert set(held) == {p for p in module.parameters() if p.requires_grad}

    def test_probabilities_are_one_distribution_a_row(self, method: Method, supernet: OperationSupernet) -> None:
        module = method(supernet)
        for p in module.probabilities().values():
            assert not p.requires_grad
            assert ((p >= 0) & (p <= 1)).all()
            if self.distributions:
                torch.testing.assert_close(p.sum(-1), torch.ones(len(p)), rtol=1e-5, atol=1e-6)

    def test_what_is_derived_can_be_extracted(self, method: Method, supernet: OperationSupernet) -> None:
        config = method(supernet).derive()
        supernet.space.validate(config)
        assert supernet.extract(config, inherit=supernet.partial_channels == 1).config == config

    def test_the_same_seed_gives_the_same_search_and_another_order_of_the_data_does_not(
        self, method: Method, supernet: OperationSupernet
    ) -> None:
        first, second, other = (
            _search(method, supernet, random_streams(supernet, seed=order), seed=0)[0] for order in (0, 0, 1)
        )
        _assert_identical(first.state_dict(), second.state_dict())
        for part in self.trained:
            ours, theirs = getattr(first, part).parameters(), getattr(other, part).parameters()
            assert any(not torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))

    def test_a_resumed_search_equals_an_uninterrupted_one(
        self, method: Method, supernet: OperationSupernet, tmp_path: Path
    ) -> None:
        streams, path = random_streams(supernet), tmp_path / "first.ckpt"
        options = {"enable_checkpointing": True, "callbacks": [_SaveFirstEpoch(path)]}
        whole, trainer = _search(method, supernet, streams, seed=0, epochs=3, **options)
        resumed, again = _search(method, supernet, streams, seed=1, epochs=3, ckpt_path=path)
        _assert_identical(whole.state_dict(), resumed.state_dict())
        for a, b in zip(trainer.optimizers, again.optimizers, strict=True):
            _assert_identical(a.state_dict(), b.state_dict())
        for first, second in zip(trainer.lr_scheduler_configs, again.lr_scheduler_configs, strict=True):
            assert first.scheduler.state_dict() == second.scheduler.state_dict()

    @pytest.mark.parametrize("order", [pytest.param(1, id="as-listed"), pytest.param(-1, id="reversed")])
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_the_planted_winner_is_found(self, method: Method, seed: int, order: int) -> None:
        config = find_planted_winner(
            method, seed=seed, candidates=self.candidates[::order], epochs=self.epochs, **self.planted
        )
        assert WINNER in config["edge"]


class MethodContract(SearchContract):
    """Subclass it as ``class TestMyMethod(MethodContract)`` and define the fixture ``method``.

    The learning rates of the fixture must let the alphas decide in 32 steps (for example ``arch_lr=0.1``).
    """

    def test_alphas_are_in_the_state_dict(self, method: Method, supernet: OperationSupernet) -> None:
        module = method(supernet)
        assert {f"alphas.{choice.name}" for choice in supernet.space.choices} <= module.state_dict().keys()

    def test_weights_and_alphas_are_disjoint_and_cover_all_trainable_parameters(
        self, method: Method, supernet: OperationSupernet
    ) -> None:
        module = self._with_alphas(method, supernet)
        weights, alphas = set(module.supernet.parameters()), set(module.arch_parameters())
        assert weights and alphas and not weights & alphas
        assert weights | alphas == {p for p in module.parameters() if p.requires_grad}
        shapes = {name: tuple(alpha.shape) for name, alpha in module.alphas.items()}
        assert shapes == {c.name: (c.rows, len(c.candidates)) for c in supernet.space.choices}

    def test_the_alphas_move_and_every_step_moves_the_weights(
        self, method: Method, supernet: OperationSupernet
    ) -> None:
        torch.manual_seed(0)
        module = self._with_alphas(method, supernet)
        before = copy.deepcopy(module.state_dict())
        fit(module, random_streams(supernet), epochs=1)
        after = module.state_dict()
        assert all(not torch.equal(before[f"alphas.{n}"], after[f"alphas.{n}"]) for n in module.alphas)
        assert any(not torch.equal(before[f"supernet.{n}"], p) for n, p in module.supernet.named_parameters())
        assert all(torch.isfinite(value).all() for value in after.values())

    def test_the_step_of_the_alphas_touches_nothing_else(
        self, method: Method, supernet: OperationSupernet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither gradients nor values of the weights, nor the statistics of batch normalisation, bit for bit."""
        module, seen = self._bilevel(method, supernet), 0
        original = module.arch_backward

        def arch_backward(batch: Any) -> Tensor:
            nonlocal seen
            for weight in module.supernet.parameters():
                weight.grad = torch.full_like(weight, 7.0)
            state = copy.deepcopy(module.state_dict())
            loss = original(batch)
            seen += 1
            _assert_identical(module.state_dict(), state)
            assert all((w.grad == 7.0).all() for w in module.supernet.parameters() if w.grad is not None)
            assert all(w.grad is not None for w in module.supernet.parameters())
            assert any(a.grad is not None and a.grad.any() for a in module.alphas.parameters())
            return loss

        monkeypatch.setattr(module, "arch_backward", arch_backward)
        fit(module, random_streams(supernet), epochs=1)
        assert seen == 3

    def test_the_step_of_the_weights_leaves_the_alphas_alone(self, method: Method, supernet: OperationSupernet) -> None:
        module = self._bilevel(method, supernet)
        watch = _AlphasDuringWeightStep()
        fit(module, random_streams(supernet), epochs=1, callbacks=[watch])
        assert watch.steps == 3

    def _with_alphas(self, method: Method, supernet: OperationSupernet) -> AlphaSearch:
        module = method(supernet)
        assert isinstance(module, AlphaSearch)
        return module

    def _bilevel(self, method: Method, supernet: OperationSupernet) -> BilevelSearch:
        module = method(supernet)
        if not isinstance(module, BilevelSearch):
            pytest.skip("only a bilevel search has separate steps")
        return module


class SharingContract(SearchContract):
    """For methods that train paths and no alphas: ``class TestMyMethod(SharingContract)``, with the same fixture.

    The learning rates of the fixture must let the paths learn in 32 steps.
    """

    trained = ("supernet",)

    def test_what_is_trained_is_what_the_method_says_and_no_alphas(
        self, method: Method, supernet: OperationSupernet
    ) -> None:
        module = method(supernet)
        trained = {p for part in self.trained for p in getattr(module, part).parameters()}
        assert {p for p in module.parameters() if p.requires_grad} == trained
        assert module.arch_parameters() == []

    def test_every_step_moves_the_weights(self, method: Method, supernet: OperationSupernet) -> None:
        module, watch = method(supernet), _WeightsDuringSteps()
        fit(module, random_streams(supernet), epochs=1, callbacks=[watch])
        assert watch.steps == 3
        assert all(torch.isfinite(value).all() for value in module.state_dict().values())

    def test_paths_are_architectures_and_follow_the_default_generator(
        self, method: Method, supernet: OperationSupernet
    ) -> None:
        module, drawn = self._sharing(method, supernet), []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            drawn.append([module.paths(step) for step in range(3)])
        for config in (config for paths in drawn[0] for config in paths):
            supernet.space.validate(config)
        assert drawn[0] == drawn[1] != drawn[2]

    def test_the_best_of_the_ranking_is_derived_also_from_a_checkpoint(
        self, method: Method, supernet: OperationSupernet, tmp_path: Path
    ) -> None:
        module, path = self._sharing(method, copy.deepcopy(supernet)), tmp_path / "first.ckpt"
        assert module.ranking == [] and module.derive() == module.derive()
        options = {"enable_checkpointing": True, "callbacks": [_SaveFirstEpoch(path)]}
        fit(module, random_streams(supernet), epochs=1, **options)
        accuracies = [accuracy for _, accuracy in module.ranking]
        assert accuracies == sorted(accuracies, reverse=True) and 1 <= len(accuracies) <= module.finalists
        assert module.derive() == module.ranking[0][0]
        again = self._sharing(method, copy.deepcopy(supernet))
        again.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
        assert again.ranking == module.ranking

    def _sharing(self, method: Method, supernet: OperationSupernet) -> WeightSharingSearch:
        module = method(supernet)
        assert isinstance(module, WeightSharingSearch)
        return module


class _SaveFirstEpoch(pl.callbacks.Checkpoint):
    """Saves as ``ModelCheckpoint`` does, after all other hooks of the epoch, but leaves no state in the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


class _AlphasDuringWeightStep(pl.Callback):
    """No alpha may have a gradient when the weights step, and none may move."""

    def __init__(self) -> None:
        self.steps = 0

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        assert isinstance(pl_module, SearchModule)
        if optimizer is trainer.optimizers[0]:
            assert all(alpha.grad is None or not alpha.grad.any() for alpha in pl_module.arch_parameters())
            self.before = [alpha.detach().clone() for alpha in pl_module.arch_parameters()]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, SearchModule)
        now = pl_module.arch_parameters()
        assert all(torch.equal(a, b) for a, b in zip(now, self.before, strict=True))
        self.steps += 1


class _WeightsDuringSteps(pl.Callback):
    """Every step must move the weights."""

    def __init__(self) -> None:
        self.steps = 0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, SearchModule)
        self.before = [p.detach().clone() for p in pl_module.supernet.parameters()]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, SearchModule)
        now = pl_module.supernet.parameters()
        assert any(not torch.equal(a, b) for a, b in zip(now, self.before, strict=True))
        self.steps += 1


def _search(
    method: Method, supernet: OperationSupernet, streams: Streams, *, seed: int, epochs: int = 2, **options: Any
) -> tuple[SearchModule, pl.Trainer]:
    torch.manual_seed(seed)
    module = method(copy.deepcopy(supernet))
    trainer = fit(module, streams, epochs=epochs, **options)
    return module, trainer


def _assert_identical(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=0.0)


def _loader(x: Tensor, y: Tensor, *, batch_size: int) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(x, y), batch_size=batch_size)


def _stem_and_head(channels: int) -> tuple[nn.Module, nn.Module]:
    stem = nn.Sequential(nn.Conv2d(1, channels, 1, bias=False), nn.BatchNorm2d(channels))
    head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2))
    return stem, head
