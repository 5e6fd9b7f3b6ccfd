from __future__ import annotations

import math
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from oneshot import RandomSharing
from oneshot.callbacks import CollapseMonitor
from oneshot.callbacks.collapse_monitor import likeliest_has_output, reaches_its_end
from oneshot.supernets import (
    FBNetSpace,
    NASBench1Shot1Space,
    NASBench201Space,
    NASBench201Supernet,
    NASBenchMacroSpace,
    ProxylessSpace,
    RecurrentSpace,
    SearchSpace,
    darts_space,
    segmentation_space,
)

from .searches import IMAGES, Unrelated, choose, fit, make_darts_supernet, make_search, make_trainer

WARNING = "The search has collapsed in epoch"


def test_an_all_skip_architecture_of_nasbench201_is_noticed_once(tmp_path: Path) -> None:
    search, monitor = make_search(arch_lr=0.0), CollapseMonitor(start_epoch=1)
    choose(search, "cell", "skip_connect")
    with pytest.warns(UserWarning, match=WARNING) as caught:
        trainer = make_trainer(tmp_path, monitor, max_epochs=3)
        fit(trainer, search)

    (message,) = [str(w.message) for w in caught if WARNING in str(w.message)]
    assert "epoch 1: it derives 6 skip connections, healthy are at most 3; no derived operation has param" in message
    assert monitor.collapsed_since == 1
    assert trainer.current_epoch == 3
    assert trainer.callback_metrics["collapse/skip_connections"] == 6
    assert trainer.callback_metrics["collapse/entropy"] < 0.01


def test_skip_connections_of_a_darts_space_are_counted_in_the_normal_cell(tmp_path: Path) -> None:
    search, monitor = make_search(make_darts_supernet(), arch_lr=0.0), CollapseMonitor(start_epoch=0, action="stop")
    choose(search, "normal", "skip_connect")
    choose(search, "reduce", "sep_conv_3x3")
    trainer = make_trainer(tmp_path, monitor, max_epochs=3)
    with pytest.warns(UserWarning, match=r"it derives 4 skip connections, healthy are at most 1\. It stops here\."):
        fit(trainer, search)

    assert trainer.current_epoch == 1

    choose(search, "normal", "sep_conv_3x3")
    choose(search, "reduce", "skip_connect")
    trainer = make_trainer(tmp_path, monitor, max_epochs=1)
    fit(trainer, search)
    assert trainer.callback_metrics["collapse/skip_connections"] == 0
    assert monitor.collapsed_since is None


@pytest.mark.parametrize("settings", [{}, {"max_skip": 0, "min_entropy": 1e-6}, {"action": "stop"}])
def test_convolutions_are_no_collapse(tmp_path: Path, settings: dict[str, Any]) -> None:
    search, monitor = make_search(arch_lr=0.0), CollapseMonitor(start_epoch=0, **settings)
    choose(search, "cell", "nor_conv_3x3")
    trainer = make_trainer(tmp_path, monitor)
    fit(trainer, search)

    assert monitor.collapsed_since is None
    assert trainer.current_epoch == 2


def test_poolings_alone_are_a_collapse(tmp_path: Path) -> None:
    search = make_search(arch_lr=0.0)
    choose(search, "cell", "avg_pool_3x3")
    with pytest.warns(UserWarning, match="no derived operation has parameters"):
        fit(make_trainer(tmp_path, CollapseMonitor(start_epoch=0), max_epochs=1), search)


@pytest.mark.parametrize(
    ("arch", "reached"),
    [
        pytest.param("|none~0|+|none~0|nor_conv_3x3~1|+|none~0|nor_conv_3x3~1|nor_conv_3x3~2|", False, id="nothing"),
        pytest.param("|none~0|+|skip_connect~0|none~1|+|none~0|none~1|skip_connect~2|", True, id="one-way"),
        pytest.param("|skip_connect~0|+|none~0|none~1|+|none~0|none~1|nor_conv_3x3~2|", False, id="dead-end"),
    ],
)
def test_an_output_that_no_input_reaches_is_noticed(arch: str, reached: bool) -> None:
    space = NASBench201Space()
    assert [reaches_its_end(graph) for graph in space.graphs(space.from_arch_string(arch))] == [reached]


def test_an_architecture_without_an_output_is_a_collapse(tmp_path: Path) -> None:
    search = make_search(arch_lr=0.0)
    choose(search, "cell", "nor_conv_3x3")
    with torch.no_grad():  # all edges that leave the input
        search.alphas["cell"][[0, 1, 3], search.supernet.space["cell"].candidates.index("none")] = 20.0
    with pytest.warns(UserWarning, match="no input reaches the output of a cell by the likeliest candidates"):
        fit(make_trainer(tmp_path, CollapseMonitor(start_epoch=0), max_epochs=1), search)


@pytest.mark.parametrize(
    "space",
    [
        darts_space(),
        FBNetSpace(),
        ProxylessSpace(),
        NASBenchMacroSpace(),
        *map(NASBench1Shot1Space, (1, 2, 3)),
        RecurrentSpace(),
        segmentation_space(),
    ],
    ids=lambda space: space.name,
)
def test_every_architecture_of_a_space_without_gaps_reaches_its_output(space: SearchSpace) -> None:
    assert all(reaches_its_end(graph) for seed in range(50) for graph in space.graphs(space.sample(seed)))


def test_certain_alphas_are_a_collapse_if_asked_for(tmp_path: Path) -> None:
    search = make_search(arch_lr=0.0)
    choose(search, "cell", "nor_conv_3x3")
    with pytest.warns(UserWarning, match=r"the mean entropy of the alphas is 0\.00\d+ nats, below 0\.1"):
        fit(make_trainer(tmp_path, CollapseMonitor(start_epoch=0, min_entropy=0.1), max_epochs=1), search)


def test_the_entropy_of_equal_alphas_is_the_logarithm_of_their_number(tmp_path: Path) -> None:
    search = make_search(arch_lr=0.0, alpha_std=0.0)
    trainer = make_trainer(tmp_path, CollapseMonitor(), max_epochs=1)
    fit(trainer, search)

    torch.testing.assert_close(trainer.callback_metrics["collapse/entropy"], torch.tensor(5.0).log())


def test_the_entropy_is_the_mean_of_all_rows(tmp_path: Path) -> None:
    search = make_search(arch_lr=0.0, alpha_std=0.0)
    with torch.no_grad():
        search.alphas["cell"][0, 1], search.alphas["cell"][1, 2] = 50.0, 1.0
    trainer = make_trainer(tmp_path, CollapseMonitor(), max_epochs=1)
    fit(trainer, search)

    p = torch.tensor([math.e, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64) / (math.e + 4)
    one = float(-(p * p.log()).sum())  # of the second row; the first is certain, and four are equal
    assert float(trainer.callback_metrics["collapse/entropy"]) == pytest.approx((one + 4 * math.log(5)) / 6, rel=1e-5)


# It goes on for longer on purpose, to see it stop early; tests/training/test_resume.py checks the warning.
@pytest.mark.filterwarnings("ignore:The run goes on to 5 epochs")
def test_a_resumed_search_still_stops_and_does_not_warn_again(tmp_path: Path) -> None:
    search = make_search(arch_lr=0.0)
    choose(search, "cell", "skip_connect")
    trainer = make_trainer(tmp_path, CollapseMonitor(start_epoch=0), max_epochs=2)
    with pytest.warns(UserWarning, match=WARNING):
        fit(trainer, search)
    trainer.save_checkpoint(tmp_path / "last.ckpt")

    monitor = CollapseMonitor(start_epoch=0, action="stop")
    trainer = make_trainer(tmp_path, monitor, max_epochs=5)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=re.escape(WARNING))
        fit(trainer, make_search(arch_lr=0.0), ckpt_path=tmp_path / "last.ckpt")

    assert monitor.collapsed_since == 0
    assert trainer.current_epoch == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"action": "pray"}, r"one of \('warn', 'stop'\); got 'pray'", id="action"),
        pytest.param({"max_skip": -1}, "max_skip must not be negative; got -1", id="max_skip"),
        pytest.param({"min_entropy": -0.5}, "min_entropy must not be negative; got -0.5", id="min_entropy"),
        pytest.param({"start_epoch": -2}, "start_epoch must not be negative; got -2", id="start_epoch"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CollapseMonitor(**settings)


def test_a_module_that_is_not_a_search_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="CollapseMonitor looks at a search and needs a SearchModule"):
        fit(make_trainer(tmp_path, CollapseMonitor()), Unrelated())


def test_a_search_without_alphas_is_not_judged_by_a_draw(tmp_path: Path) -> None:
    """Before it has ranked architectures it would derive any one, and all candidates are as likely."""
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, **IMAGES)
    search = RandomSharing(supernet, candidates=4, finalists=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=WARNING)
        trainer = make_trainer(tmp_path, CollapseMonitor(max_skip=0, start_epoch=0), max_epochs=1)
        fit(trainer, search)
    assert not any(name.startswith("collapse/") for name in trainer.callback_metrics)


def test_none_is_not_the_likeliest_of_equals() -> None:
    space = NASBench201Space()
    equal = {"cell": torch.full((6, 5), 0.2)}
    assert likeliest_has_output(space, equal)
    equal["cell"][:, space["cell"].candidates.index("none")] += 0.01
    assert not likeliest_has_output(space, equal)
