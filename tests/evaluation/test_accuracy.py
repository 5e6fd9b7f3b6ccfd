"""Accuracies with shared weights, against networks that stand alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from oneshot.evaluation.accuracy import evaluate_configs
from oneshot.evaluation.recalibration import recalibrate
from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.darts import DARTSSupernet
from oneshot.supernets.nasbench201 import NASBench201Supernet
from oneshot.supernets.space import SubnetConfig

from .networks import Batches, batches, supernet


def alone(network: OperationSupernet, config: SubnetConfig, data: Batches, mistake: str | None) -> float:
    """Accuracy of the extracted network, in training mode for the statistics of the batch."""
    subnet = network.extract(config).double()
    subnet.train(mistake != "running statistics")
    right = [(subnet(x).argmax(1) == y).double() for x, y in data]
    if mistake == "mean of the batches":
        return float(torch.stack([r.mean() for r in right]).mean())
    return float(torch.cat(right).mean())


@pytest.mark.parametrize("kind", [NASBench201Supernet, DARTSSupernet])
def test_accuracies_are_those_of_the_extracted_networks_in_batch_statistics(
    kind: type[NASBench201Supernet] | type[DARTSSupernet],
) -> None:
    network, data = supernet(kind), batches()
    configs = network.space.decode(network.space.sample_matrix(6, 0))
    ours = evaluate_configs(network, configs, iter(data))
    assert ours == pytest.approx([alone(network, c, data, None) for c in configs], rel=0, abs=1e-12)
    for mistake in ("running statistics", "mean of the batches"):  # the first is that of AutoDL-Projects, issue 115
        assert ours != pytest.approx([alone(network, c, data, mistake) for c in configs], rel=0, abs=1e-3)


def test_with_calibration_accuracies_are_those_of_recalibrated_networks() -> None:
    network, data = supernet(), batches()
    configs, calibration = network.space.decode(network.space.sample_matrix(6, 0)), [x + 1 for x, _ in batches()[:2]]
    ours = evaluate_configs(network, configs, data, calibration=calibration)
    expected = []
    for config in configs:
        subnet = network.extract(config).double()
        recalibrate(subnet, calibration)
        subnet.eval()
        expected.append(float(torch.cat([(subnet(x).argmax(1) == y).double() for x, y in data]).mean()))
    assert ours == pytest.approx(expected, rel=0, abs=1e-12)
    assert ours != pytest.approx(evaluate_configs(network, configs, data), rel=0, abs=1e-3)


@pytest.mark.parametrize("calibrated", [False, True], ids=["batch", "calibrated"])
def test_nothing_of_the_supernet_changes(calibrated: bool) -> None:
    network = supernet().train()
    network.stem[1].eval()  # type: ignore[index]  # some layers may be in another mode
    before, modes = copy.deepcopy(network.state_dict()), [m.training for m in network.modules()]
    calibration = [x for x, _ in batches()] if calibrated else []
    evaluate_configs(network, [network.space.sample(0)], batches(), calibration=calibration)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert [m.training for m in network.modules()] == modes
    assert all(m.track_running_stats for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_counts_are_added_up_over_processes_before_they_are_divided() -> None:
    network, data = supernet(), batches()
    configs = network.space.decode(network.space.sample_matrix(3, 0))
    rest: list[Tensor] = []

    def keep(counts: Tensor) -> Tensor:
        rest.append(counts)
        return counts

    one = evaluate_configs(network, configs, data[1:], total=keep)
    both = evaluate_configs(network, configs, data[:1], total=lambda counts: counts + rest[0])
    assert both == pytest.approx(evaluate_configs(network, configs, data)) and both != pytest.approx(one)


def test_an_architecture_whose_logits_are_not_finite_has_an_accuracy_of_0() -> None:
    network, ((x, y), *_) = supernet(), batches()
    broken, whole = network.space.decode([[3] * 6, [1] * 6])
    with torch.no_grad():
        for row in network.mixed_ops()["cell"]:
            for mixed in row:
                for weight in mixed.ops[3].parameters():
                    weight.fill_(torch.nan)
    assert network.run_config(x, broken).isnan().any()
    found = evaluate_configs(network, [broken, whole], [(x, y * 0)])  # argmax takes NaN for class 0
    assert found[0] == 0.0 < found[1]


def test_a_loader_that_is_used_up_and_a_foreign_config_are_refused() -> None:
    network = supernet()
    with pytest.raises(ValueError, match="at least one image; got no batches. Pass a loader that is not used up"):
        evaluate_configs(network, [network.space.sample(0)], iter([]))
    with pytest.raises(ValueError, match="belongs to 'elsewhere'"):
        evaluate_configs(network, [SubnetConfig("elsewhere", {})], batches())
