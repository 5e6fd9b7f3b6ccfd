"""Accuracies with shared weights, against networks that stand alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from oneshot.evaluation import evaluate_configs
from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.darts import DARTSSupernet
from oneshot.supernets.nasbench201 import NASBench201Supernet
from oneshot.supernets.space import SubnetConfig
from oneshot.testing.spaces import disturb

Batches = list[tuple[Tensor, Tensor]]


def supernet(kind: type[NASBench201Supernet] | type[DARTSSupernet] = NASBench201Supernet) -> OperationSupernet:
    torch.manual_seed(0)
    sizes = {"cells_per_stage": 1} if kind is NASBench201Supernet else {"cells": 1}
    network = kind(channels=4, num_classes=3, in_channels=1, image_size=8, **sizes).double()  # type: ignore[arg-type]  # a mixed-type dict
    disturb(network)
    return network


def batches() -> Batches:
    generator = torch.Generator().manual_seed(1)
    sizes = (32, 32, 16)  # the last one is smaller, as a loader's is
    return [
        (torch.randn(n, 1, 8, 8, generator=generator).double(), torch.randint(3, (n,), generator=generator))
        for n in sizes
    ]


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


def test_nothing_of_the_supernet_changes() -> None:
    network = supernet().train()
    network.stem[1].eval()  # type: ignore[index]  # some layers may be in another mode
    before, modes = copy.deepcopy(network.state_dict()), [m.training for m in network.modules()]
    evaluate_configs(network, [network.space.sample(0)], batches())
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert [m.training for m in network.modules()] == modes
    assert all(m.track_running_stats for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_counts_are_added_up_over_processes_before_they_are_divided() -> None:
    network, data = supernet(), batches()
    configs = network.space.decode(network.space.sample_matrix(3, 0))
    rest = evaluate_configs(network, configs, data[1:])
    both = evaluate_configs(
        network, configs, data[:1], total=lambda counts: counts + counts.new_tensor([*(48 * a for a in rest), 48])
    )
    assert both == pytest.approx(evaluate_configs(network, configs, data))


def test_a_loader_that_is_used_up_and_a_foreign_config_are_refused() -> None:
    network = supernet()
    with pytest.raises(ValueError, match="at least one image; got no batches. Pass a loader that is not used up"):
        evaluate_configs(network, [network.space.sample(0)], iter([]))
    with pytest.raises(ValueError, match="belongs to 'elsewhere'"):
        evaluate_configs(network, [SubnetConfig("elsewhere", {})], batches())
