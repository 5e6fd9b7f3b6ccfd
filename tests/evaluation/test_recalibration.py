"""Statistics of one architecture, against those computed by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from oneshot.evaluation.recalibration import recalibrate, recalibrated
from oneshot.supernets.darts import DARTSSupernet
from oneshot.supernets.nasbench201 import NASBench201Supernet

from .networks import batches, supernet


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


def test_without_images_there_are_no_statistics() -> None:
    network = supernet()
    before = copy.deepcopy(network.state_dict())
    with (
        pytest.raises(ValueError, match="at least one batch; got none"),
        recalibrated(network, network.space.sample(0), []),
    ):
        pass
    assert all(torch.equal(a, before[name]) for name, a in network.state_dict().items())
