"""In which layout of memory networks are trained: the fast one where they compute the same with it."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

import oneshot
from oneshot import NAT, Retrain
from oneshot.data import FakeImages, SearchDataModule
from oneshot.supernets import NASBench201Supernet
from oneshot.supernets.base import Subnet, lay_out, layout_of
from oneshot.supernets.space import ArchGraph
from oneshot.training import layout
from oneshot.training.layout import lay_out_for_training

SHAPE = (3, 8, 8)


class Flattening(nn.Module):
    """Flattens the outputs of a convolution by a view, as many networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16 * 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(x).relu()).relu()
        logits: Tensor = self.head(x.view(x.shape[0], -1))
        return logits


class Network(Subnet):
    """A convolution, and a function of its outputs."""

    count: Tensor

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.num_classes, self.input_shape, self.init_args = 10, SHAPE, {}
        self.one, self.function = nn.Conv2d(3, 10, 3, padding=1), function
        self.register_buffer("count", torch.zeros(()))

    def graphs(self) -> list[ArchGraph]:
        return []

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.function(self.one(x)).mean((2, 3))


def as_it_lies(y: Tensor) -> Tensor:
    """The numbers in the order in which they lie in memory: nothing fails, and the result depends on the layout."""
    return torch.as_strided(y, y.shape, (y[0].numel(), y[0, 0].numel(), y.shape[3], 1))


def layout_after(network: Any) -> torch.memory_format:
    lay_out_for_training(network)
    return layout_of(*network.parameters())


def trainer(epochs: int = 1) -> pl.Trainer:
    quiet: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(max_epochs=epochs, accelerator="cpu", enable_model_summary=False, **quiet)


def images() -> FakeImages:
    return FakeImages(input_shape=SHAPE, train_size=64, test_size=16, batch_size=16, val_fraction=0.25)


def test_networks_of_ours_are_laid_out_without_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_runs_the_same", lambda network: pytest.fail("nothing of it is of others"))
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)
    assert layout_after(supernet) == torch.channels_last
    assert layout_after(supernet.extract(supernet.space.sample(0), inherit=False)) == torch.channels_last


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (torch.relu, torch.channels_last),
        (lambda y: y.view(len(y), -1).view(y.shape), torch.contiguous_format),
        (as_it_lies, torch.contiguous_format),
    ],
    ids=["any layout", "fails", "computes something else"],
)
def test_code_of_others_is_tried(function: Callable[[Tensor], Tensor], expected: torch.memory_format) -> None:
    assert layout_after(Network(function)) == expected
    network = Network(function)
    lay_out(network, torch.channels_last)
    assert layout_after(network) == expected


def test_the_trial_changes_nothing() -> None:
    network = Network(lambda y: y + torch.rand(()) + random.random()).train()
    before, state = copy.deepcopy(network.state_dict()), (torch.get_rng_state(), random.getstate())
    assert layout_after(network) == torch.channels_last
    assert network.training and network.count == 0
    assert torch.equal(torch.get_rng_state(), state[0]) and random.getstate() == state[1]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_what_fails_with_any_layout_stays_as_it_is_and_fails_in_the_training() -> None:
    def broken(y: Tensor) -> Tensor:
        raise RuntimeError("no such operator")

    assert layout_after(Network(broken)) == torch.contiguous_format
    with pytest.raises(RuntimeError, match="no such operator"):
        trainer().fit(Retrain(Network(broken)), images())


@pytest.mark.filterwarnings("ignore:.*")
def test_a_network_that_flattens_by_a_view_is_converted_searched_and_trained() -> None:
    supernet = oneshot.convert(Flattening(), torch.zeros(2, *SHAPE))
    search = NAT(
        supernet, constraints={"params": 2e4}, warmup_epochs=1, iterations=1, adapt_epochs=1, initial=6, batch=2
    )
    trainer(2).fit(search, SearchDataModule(images()))
    assert layout_of(*supernet.parameters()) == torch.contiguous_format
    network, teacher = supernet.extract(search.derive()), supernet.extract(supernet.uniform(1.0))
    module = Retrain(network, teacher=teacher, teacher_weight=0.5)
    trainer().fit(module, images())
    assert layout_of(*network.parameters()) == torch.contiguous_format


def test_trainings_have_the_fast_layout_also_of_weights_that_were_loaded() -> None:
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)
    source = supernet.extract(supernet.space.sample(1), inherit=False)
    network = supernet.extract(supernet.space.sample(1), inherit=False)
    module = Retrain(network, ema_decay=0.9)
    module.load_network(source)
    trainer().fit(module, images())
    assert module.ema is not None
    for trained in (network, module.ema):
        assert layout_of(*trained.parameters()) == torch.channels_last
