"""The product's recurrent cells against textbook ones with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from oneshot.supernets.recurrent import (
    PUBLISHED_RECURRENT,
    LanguageModel,
    RecurrentLanguageModel,
    RecurrentSupernet,
)

from .recurrent_net import RecurrentDerivedNet, RecurrentSearchNet

WORDS, SIZE = 7, 5
NO_DROPOUT = dict.fromkeys(("words", "embedding", "input", "hidden", "output"), 0.0)
OPTIONS = {"num_classes": WORDS, "size": SIZE, **{f"dropout_{name}": p for name, p in NO_DROPOUT.items()}}
assert_equal = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)


def tokens() -> Tensor:
    return torch.randint(WORDS, (8, 4), generator=torch.Generator().manual_seed(0))


def randomise(network: nn.Module) -> None:
    """Large weights, or everything stays in the straight part of the activations."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


Product = RecurrentSupernet | RecurrentLanguageModel


def ours(network: Product, name: str, of: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Tensor:
    """The product's counterpart of a textbook tensor; all nodes are one tensor there, so ``of`` it comes the part."""
    part, *rest = name.split(".")
    if part == "nodes":
        return of(network.cell.nodes)[int(rest[0])]
    if part == "norms":
        return network.cell.get_buffer(name)
    return of({"embedding": network.words.weight, "bias": network.words.bias, "first": network.cell.first}[part])


def copy_weights(textbook: nn.Module, network: Product) -> None:
    with torch.no_grad():
        for name, value in textbook.state_dict().items():
            value.copy_(ours(network, name))
    sizes = [sum(v.numel() for v in side.state_dict().values()) for side in (textbook, network)]
    assert sizes[0] == sizes[1]


def assert_same(textbook: nn.Module, network: Product, edge_weights: Tensor | None = None) -> None:
    """Same logits, gradients and running statistics, and the same in evaluation mode."""
    theirs = () if edge_weights is None else (edge_weights,)
    mine = () if edge_weights is None else ({"recurrent": edge_weights},)
    expected, actual = textbook(tokens(), *theirs), network(tokens(), *mine)
    assert float(expected.detach().std()) > 0.1
    assert_equal(actual, expected)
    cotangent = torch.linspace(-1.0, 1.0, expected.numel(), dtype=torch.float64).view_as(expected)
    inputs = {"weights": edge_weights} if edge_weights is not None else {}
    exact = gradients((expected * cotangent).sum(), {**dict(textbook.named_parameters()), **inputs})
    found = gradients((actual * cotangent).sum(), {**dict(network.named_parameters()), **inputs})
    by_id = {id(parameter): found[name] for name, parameter in network.named_parameters()}
    for name, gradient in exact.items():
        counterpart = found[name] if name in inputs else ours(network, name, lambda tensor: by_id[id(tensor)])
        assert_equal(counterpart, gradient)
    for name, buffer in textbook.named_buffers():
        assert_equal(ours(network, name), buffer)
    textbook.eval()
    network.eval()
    assert_equal(network(tokens(), *mine), textbook(tokens(), *theirs))


def gradients(loss: Tensor, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(zip(inputs, torch.autograd.grad(loss, list(inputs.values())), strict=True))


@pytest.fixture
def edge_weights() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(36, 5, generator=generator, dtype=torch.float64).requires_grad_()


def test_the_supernet_is_the_textbooks(edge_weights: Tensor) -> None:
    network, textbook = RecurrentSupernet(**OPTIONS).double(), RecurrentSearchNet(WORDS, SIZE).double()
    randomise(network)
    copy_weights(textbook, network)
    assert_same(textbook, network, edge_weights)


def test_a_textbook_where_none_keeps_the_state_is_another(edge_weights: Tensor) -> None:
    network, wrong = RecurrentSupernet(**OPTIONS).double(), RecurrentSearchNet(WORDS, SIZE, none_keeps_state=True)
    randomise(network)
    copy_weights(wrong.double(), network)
    assert not torch.allclose(wrong(tokens(), edge_weights), network(tokens(), {"recurrent": edge_weights}), rtol=1e-2)


@pytest.mark.parametrize("name", PUBLISHED_RECURRENT)
@pytest.mark.parametrize("normalise", [False, True])
def test_a_derived_network_is_the_textbooks(name: str, normalise: bool) -> None:
    genotype = PUBLISHED_RECURRENT[name]
    network = RecurrentLanguageModel(name, batch_norm=normalise, **OPTIONS).double()
    textbook = RecurrentDerivedNet(WORDS, SIZE, genotype.recurrent, genotype.concat, normalise=normalise).double()
    randomise(network)
    copy_weights(textbook, network)
    assert_same(textbook, network)
    wrong = RecurrentDerivedNet(
        WORDS, SIZE, genotype.recurrent, genotype.concat, normalise=normalise, mean_of_all=True
    ).double()
    copy_weights(wrong, network)
    assert not torch.allclose(wrong.eval()(tokens()), network(tokens()), rtol=1e-2)


def test_a_state_carried_over_continues_the_sequence() -> None:
    network: LanguageModel = RecurrentLanguageModel("DARTS_V2", **OPTIONS).double()
    randomise(network)
    x = tokens()
    first = network.read(x[:, :2], network.start(8))
    second = network.read(x[:, 2:], first.state)
    assert_equal(torch.cat([first.logits, second.logits], dim=2), network(x))
    assert not torch.allclose(second.logits, network(x[:, 2:]), rtol=1e-2)
