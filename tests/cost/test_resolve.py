"""A cost means the same in a penalty, in a callback and in a Pareto search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from oneshot.callbacks import CostMonitor
from oneshot.cost import CostPenalty, count_candidates, measure, resolve_cost
from oneshot.cost.latency.table import LatencyTable
from oneshot.cost.resolve import unit_of
from oneshot.nat.nat import objective_of

from .toys import SPACE, ToyDevice, ToySupernet, latency


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    return measure(ToySupernet(), ToyDevice(), networks=60)


def test_names_models_and_files_become_cost_models(table: LatencyTable, tmp_path: Path) -> None:
    supernet, path = ToySupernet(), str(table.save(tmp_path / "toy.json"))
    config = SPACE.sample(3)
    assert resolve_cost("params", supernet).cost(config) == count_candidates(supernet, "params").cost(config)
    ms = resolve_cost(path, supernet)
    assert ms.cost(config) == pytest.approx(latency(config), rel=0.05)
    assert ms.deviation == table.residual
    assert resolve_cost(ms, supernet) is ms
    assert [unit_of(given) for given in ("params", "macs", path, "a.csv", ms)] == ["params", "MACs", "ms", "ms", "ms"]


def test_penalties_objectives_and_callbacks_take_the_same(table: LatencyTable, tmp_path: Path) -> None:
    supernet, path = ToySupernet(), str(table.save(tmp_path / "toy.json"))
    genes, ms = SPACE.sample_matrix(20, 0), resolve_cost(path, supernet)
    penalty, objective = CostPenalty(path, "additive", a=1.0), objective_of(path, supernet)
    penalty.bind(supernet)
    assert penalty.cost is not None
    assert penalty.cost.costs(genes).tolist() == objective.values(genes).tolist() == ms.costs(genes).tolist()
    assert objective.deviation == table.residual
    assert CostMonitor([path, "macs"]).costs == (path, "macs")
    for refuse in (
        lambda: CostPenalty("time", "fbnet"),
        lambda: CostMonitor("time"),
        lambda: objective_of("time", supernet),
        lambda: resolve_cost("time", supernet),
    ):
        with pytest.raises(ValueError, match=r"A cost must be a CostModel, .* of measured networks; got 'time'"):
            refuse()


def test_doubtful_latencies_are_refused_unless_they_are_allowed(table: LatencyTable, tmp_path: Path) -> None:
    path = str(replace(table, noise=0.5).save(tmp_path / "noisy.json"))
    model = LatencyTable.load(path, warn=False).cost_of(ToySupernet())
    with pytest.raises(ValueError, match=r"noisy\.json is doubtful: .*allow_noisy=True"):
        resolve_cost(path, ToySupernet())
    with pytest.raises(ValueError, match="This cost model is doubtful"):
        resolve_cost(model, ToySupernet())
    with pytest.warns(UserWarning, match="It is used as it is"):
        assert resolve_cost(path, ToySupernet(), allow_noisy=True).doubts == model.doubts


def test_costs_of_other_networks_are_refused(table: LatencyTable, tmp_path: Path) -> None:
    path = str(table.save(tmp_path / "toy.json"))
    for given in (path, resolve_cost(path, ToySupernet())):
        with pytest.raises(ValueError, match="16"):
            resolve_cost(given, ToySupernet(image_size=16))
