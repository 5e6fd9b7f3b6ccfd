"""Accuracies with shared weights, against networks that stand alone."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from oneshot.data import ImageFolder
from oneshot.evaluation.accuracy import evaluate_configs
from oneshot.evaluation.images import calibration_images, mixed, shuffled
from oneshot.evaluation.recalibration import recalibrate, recalibrated
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


def test_mixed_batches_are_of_all_images_always_the_same_and_cost_no_random_numbers() -> None:
    loader = DataLoader(TensorDataset(torch.arange(24)), batch_size=8)
    state = torch.get_rng_state()
    ((batch,),) = mixed(loader)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(batch) == 8 and batch.max() - batch.min() > 12
    assert [x.tolist() for (x,) in mixed(loader)] == [batch.tolist()]
    assert sorted(itertools.chain(*(x.tolist() for (x,) in shuffled(loader)))) == [*range(24)]
    assert [x.tolist() for (x,) in mixed([*loader])] == [[*range(8)]]
    assert [len(x) for (x,) in mixed(DataLoader(TensorDataset(torch.arange(4))))] == [2]


# Statistics of one architecture.


def by_hand(network: torch.nn.Module, images: list[Tensor], *, last_only: bool = False) -> dict[str, Tensor]:
    """Mean over the batches of the mean and the unbiased variance of what every batch normalisation reads."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    hooks = []
    for name, layer in network.named_modules():
        if isinstance(layer, torch.nn.BatchNorm2d):

            def look(module: torch.nn.Module, args: tuple[Tensor], name: str = name) -> None:
                x = args[0].transpose(0, 1).flatten(1)
                seen.setdefault(name, []).append((x.mean(1), x.var(1)))

            hooks.append(layer.register_forward_pre_hook(look))
    network.train()
    with torch.no_grad():
        for x in images[-1:] if last_only else images:
            network(x)
    for hook in hooks:
        hook.remove()
    return {
        f"{name}.running_{part}": torch.stack([pair[i] for pair in pairs]).mean(0)
        for name, pairs in seen.items()
        for i, part in enumerate(("mean", "var"))
    }


def test_recalibration_is_the_plain_mean_over_the_batches() -> None:
    network, images = supernet(), [x for x, _ in batches()[:2]]
    config = network.space.decode(network.space.sample_matrix(1, 3))[0]
    subnet, twin = network.extract(config), network.extract(config)
    subnet.train()
    recalibrate(subnet, iter(images))
    assert subnet.training and all(m.momentum == 0.1 for m in subnet.modules() if isinstance(m, torch.nn.BatchNorm2d))
    expected, wrong = by_hand(twin, images), by_hand(twin, images, last_only=True)
    found = subnet.state_dict()
    assert expected
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values)
    assert any(not torch.allclose(found[name], values) for name, values in wrong.items())


@pytest.mark.parametrize("kind", [NASBench201Supernet, DARTSSupernet])
def test_a_recalibrated_supernet_is_the_recalibrated_network_and_then_itself_again(
    kind: type[NASBench201Supernet] | type[DARTSSupernet],
) -> None:
    network, images = supernet(kind).train(), [x for x, _ in batches()]
    before = copy.deepcopy(network.state_dict())
    for config in network.space.decode(network.space.sample_matrix(3, 0)):
        subnet = network.extract(config)
        recalibrate(subnet, images)
        with recalibrated(network, config, images), torch.no_grad():
            assert not network.training
            torch.testing.assert_close(network.run_config(images[0], config), subnet.eval()(images[0]))
        assert network.training and all(m.training for m in network.modules())
        assert all(torch.equal(a, before[name]) for name, a in network.state_dict().items())


def test_calibration_images_are_of_all_classes_where_a_folder_lists_one_after_the_other(tmp_path: Path) -> None:
    for value, name in ((0, "black"), (128, "grey"), (255, "white")):
        (tmp_path / name).mkdir()
        for i in range(20):
            Image.fromarray(np.full((8, 8), value, dtype=np.uint8)).save(tmp_path / name / f"{i:02}.png")
    data = ImageFolder(tmp_path, batch_size=4, val_fraction=0.25)
    data.setup("fit")
    found = calibration_images(data, 18, batch_size=6)
    assert len(found) == 18 and len(found.unique()) == 3
    assert torch.equal(calibration_images(data, 18, batch_size=5), found), "the same ones every time"
    assert all(len(part.unique()) > 1 for part in found.split(6)), "and mixed"
    assert len(calibration_images(data, 1000)) == len(data.train_images) == 36


def test_without_images_there_are_no_statistics() -> None:
    network = supernet()
    before = copy.deepcopy(network.state_dict())
    with (
        pytest.raises(ValueError, match="at least one batch; got none"),
        recalibrated(network, network.space.sample(0), []),
    ):
        pass
    assert all(torch.equal(a, before[name]) for name, a in network.state_dict().items())
