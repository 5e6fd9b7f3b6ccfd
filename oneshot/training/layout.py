"""Which layout of memory a network is trained in."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from oneshot.random_numbers import own_random_numbers
from oneshot.supernets.base import Subnet, Supernet, example_inputs, lay_out

OURS = ("oneshot", "torch")  # packages whose layers run in any layout
RTOL = 1e-2  # of the largest output; rounding differs by far less


def lay_out_for_training(network: Subnet | Supernet) -> None:
    """Lay weights out channels-last.

    Steps of training on a CPU are 1.3 to 2 times as fast then, those of a ResNet-18 as fast as before
    (``experiments/benchmarks/training_layout.py``).

    Outputs of a convolution are laid out as its weights are. Code may rely on the usual layout: ``x.view(len(x), -1)``
    is an error with the other one. So a network that has code of others, of the user or of a library, is tried: copies
    of it run once with each layout, and it is laid out channels-last only if both run and compute the same.

    Args:
        network: A network, or a supernet, of which a random architecture is tried.
    """
    if _is_ours(network) or _runs_the_same(network):
        lay_out(network, torch.channels_last)
    else:
        lay_out(network, torch.contiguous_format)


def _is_ours(network: Subnet | Supernet) -> bool:
    return all(type(module).__module__.partition(".")[0] in OURS for module in network.modules())


def _runs_the_same(network: Subnet | Supernet) -> bool:
    try:
        usual, other = (_outputs(network, layout) for layout in (torch.contiguous_format, torch.channels_last))
    except Exception:  # noqa: BLE001  # of code that we do not know; what is wrong with it comes up in the training
        return False
    return bool(torch.allclose(usual, other, rtol=0.0, atol=RTOL * float(usual.abs().max())))


def _outputs(network: Subnet | Supernet, layout: torch.memory_format) -> Tensor:
    """Of a copy, for two samples."""
    tried = copy.deepcopy(network).eval()
    lay_out(tried, layout)
    weight = next(tried.parameters(), torch.empty(()))
    inputs = _like(example_inputs(tried, 2), weight)
    with torch.no_grad(), own_random_numbers(0, cuda=weight.is_cuda):
        outputs: Tensor = (
            tried.run_config(inputs, tried.space.sample(0)) if isinstance(tried, Supernet) else tried(inputs)
        )
    return outputs.float()


def _like(inputs: object, weight: Tensor) -> object:
    """Inputs where the weight is; numbers of its type."""
    if isinstance(inputs, dict):
        return {name: _like(part, weight) for name, part in inputs.items()}
    assert isinstance(inputs, Tensor)
    return inputs.to(weight.device, weight.dtype if inputs.is_floating_point() else inputs.dtype)
