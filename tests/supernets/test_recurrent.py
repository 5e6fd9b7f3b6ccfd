"""The recurrent space against the facts its authors published."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from oneshot.supernets.base import OperationSupernet, Supernet, count_parameters
from oneshot.supernets.recurrent import (
    CANDIDATES,
    EDGES,
    PUBLISHED_RECURRENT,
    LSTMLanguageModel,
    RecurrentGenotype,
    RecurrentLanguageModel,
    RecurrentSpace,
    RecurrentSupernet,
    locked_mask,
)
from oneshot.supernets.space import SearchSpace, SubnetConfig
from oneshot.testing import SpaceContract

SPACE = RecurrentSpace()
PARTS = ("words", "embedding", "input", "hidden", "output")
NO_DROPOUT = {f"dropout_{part}": 0.0 for part in PARTS}


class RecurrentContract(SpaceContract):
    configs_tested = 5
    genes_per_mutation = 2

    def inputs(self, supernet: Supernet, config: SubnetConfig | None = None) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randint(supernet.num_classes, (4, *supernet.input_shape), generator=generator)

    def gene_probabilities(self, space: SearchSpace) -> list[npt.NDArray[np.float64]]:
        """One of the edges that enter a node is on, with any of the four activations."""
        return [np.array([1 - 1 / (node + 1), *[1 / (node + 1) / 4] * 4]) for _, node in EDGES]


class TestRecurrent(RecurrentContract):
    @pytest.fixture
    def supernet(self) -> OperationSupernet:
        return RecurrentSupernet(num_classes=7, size=6, window=3, **NO_DROPOUT)


class TestWithoutBatchNorm(RecurrentContract):
    @pytest.fixture
    def supernet(self) -> OperationSupernet:
        return RecurrentSupernet(num_classes=7, size=6, window=3, batch_norm=False, **NO_DROPOUT)


# The space and its genotypes.


def test_the_space_is_the_papers() -> None:
    """arXiv:1806.09055: 8 nodes, each reads one of i states by one of 4 activations; 36 edges of 5 candidates."""
    assert SPACE.size == math.factorial(8) * 4**8 == 2_642_411_520
    assert [(c.name, c.rows, c.picks) for c in SPACE.choices] == [("recurrent", 36, CANDIDATES)]
    assert CANDIDATES == ("none", "tanh", "relu", "sigmoid", "identity")


@pytest.mark.parametrize("name", ["DARTS_V1", "DARTS_V2"])
def test_the_cells_of_darts_are_in_the_space(name: str) -> None:
    genotype = PUBLISHED_RECURRENT[name]
    assert SPACE.genotype(SPACE.config(genotype)) == genotype
    assert RecurrentGenotype.parse(str(genotype)) == genotype


def test_the_cell_of_enas_outputs_the_mean_of_what_nobody_reads_and_is_built_directly() -> None:
    enas = PUBLISHED_RECURRENT["ENAS"]
    assert set(enas.concat) == set(range(1, 12)) - {state for _, state in enas.recurrent}
    with pytest.raises(ValueError, match=r"8 nodes.*; this one has 11 nodes .* RecurrentLanguageModel\(genotype\)"):
        SPACE.config(enas)
    network = RecurrentLanguageModel("ENAS", num_classes=5, size=4)
    assert network(torch.zeros(2, 3, dtype=torch.int64)).shape == (2, 5, 3)
    assert network.config is None
    (graph,) = network.graphs()
    assert len(graph.edges) == 2 + 11 + 6 and graph.nodes[-1] == "h_{t}"


@pytest.mark.parametrize(
    ("words", "size", "millions"),
    [pytest.param(10_000, 850, 23, id="Penn Treebank"), pytest.param(33_278, 700, 33, id="WikiText-2")],
)
def test_the_number_of_parameters_is_the_papers(words: int, size: int, millions: int) -> None:
    """arXiv:1806.09055: 23 M with 850 units, 33 M with 700 (as published, recalled; not read from a stored copy)."""
    with torch.device("meta"):
        network = RecurrentLanguageModel("DARTS_V2", num_classes=words, size=size)
    assert round(count_parameters(network) / 1e6) == millions
    assert count_parameters(network) == words * size + words + 20 * size**2


def test_a_derived_node_keeps_the_edge_with_the_likeliest_activation_and_none_does_not_count() -> None:
    probabilities = np.full((36, 5), 0.1)
    probabilities[:, 0] = 0.9
    probabilities[0, 3] = 0.2  # node 0
    probabilities[1, 1], probabilities[2, 4] = 0.3, 0.4  # node 1 reads state 0 or state 1
    config = SPACE.most_likely({"recurrent": probabilities})
    assert SPACE.genotype(config).recurrent == (("sigmoid", 0), ("identity", 1), *[("tanh", 0)] * 6)


@pytest.mark.parametrize("change", [(2, "none"), (1, "tanh")], ids=["no state", "two states"])
def test_a_node_that_does_not_read_one_state_is_refused(change: tuple[int, str]) -> None:
    picks = list(SPACE.config(PUBLISHED_RECURRENT["DARTS_V1"])["recurrent"])
    picks[change[0]] = change[1]
    with pytest.raises(ValueError, match=r"must read one state, .*; node 1 of genome 0 reads [02]\. most_likely\(\)"):
        SPACE.validate(SubnetConfig("recurrent", {"recurrent": picks}))
    genes = [[CANDIDATES.index(str(pick)) for pick in picks]]
    with pytest.raises(ValueError, match="node 1 of genome 0 reads"):
        SPACE.decode(genes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "reads Genotype", id="empty"),
        pytest.param("Genotype(recurrent=[('tanh', 0)])", "'concat'", id="no output"),
        pytest.param("Genotype([('tanh', 0)], [1])", "keyword arguments", id="positional"),
        pytest.param("Genotype(recurrent=[('tanh', 1)], concat=[1])", "Node 0 can read .* reads state 1", id="itself"),
        pytest.param("Genotype(recurrent=[('conv', 0)], concat=[1])", "'conv' is not an activation", id="unknown"),
        pytest.param("Genotype(recurrent=[('none', 0)], concat=[1])", "'none' is not an activation", id="none"),
        pytest.param("Genotype(recurrent=[('tanh', 0)], concat=[2])", r"from 0 to 1, .* got \[2\]", id="no such state"),
        pytest.param("Genotype(recurrent=[('tanh', 0)], concat=[])", r"at least one; got \[\]", id="no states"),
    ],
)
def test_a_malformed_genotype_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RecurrentLanguageModel(text)


# The networks.


def lstm(**options: Any) -> LSTMLanguageModel:
    return LSTMLanguageModel(**{"num_classes": 7, "size": 4, "hidden": 5, **options})


def cell(**options: Any) -> RecurrentLanguageModel:
    return RecurrentLanguageModel("DARTS_V1", **{"num_classes": 7, "size": 4, **options})


def test_without_inherited_weights_the_cell_is_the_papers_without_batch_normalisation() -> None:
    supernet = RecurrentSupernet(num_classes=7, size=4)
    config = supernet.space.sample(0)
    norms = [
        [m for m in supernet.extract(config, inherit=inherit).modules() if isinstance(m, nn.BatchNorm1d)]
        for inherit in (True, False)
    ]
    assert [len(found) for found in norms] == [9, 0]
    assert not any(norm.affine for norm in norms[0])


@pytest.mark.parametrize("part", [part for part in PARTS if part != "words"])
def test_a_locked_dropout_is_the_same_at_every_step_and_differs_from_sequence_to_sequence(part: str) -> None:
    """A mask of a window of one word, repeated, must be the mask of the window."""
    torch.manual_seed(0)
    network = cell(**{**NO_DROPOUT, f"dropout_{part}": 0.5}).double().train()
    x = torch.zeros(2, 1, dtype=torch.int64)
    torch.manual_seed(1)
    first = network(x)
    torch.manual_seed(1)
    whole = network(x.expand(2, 3))
    torch.testing.assert_close(whole[:, :, :1], first, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(network(x), first, rtol=1e-9, atol=1e-12)  # drawn anew
    if part != "hidden":  # which has little to multiply in the first step
        assert not torch.allclose(first[0], first[1], rtol=1e-9, atol=1e-12)
    network.eval()
    assert torch.equal(network(x), network(x))


def test_a_dropped_word_is_dropped_wherever_it_occurs() -> None:
    torch.manual_seed(0)
    words = cell(**{**NO_DROPOUT, "dropout_words": 0.5}).train().words
    x = words.embed(torch.arange(7).repeat(2, 3))  # [21, 2, 4]
    weight = words.weight.detach()
    assert torch.equal(x[:7], x[7:14]) and torch.equal(x[:, 0], x[:, 1])
    dropped = (x[:7, 0] == 0).all(1)
    assert 0 < int(dropped.sum()) < 7
    torch.testing.assert_close(x[:7, 0], torch.where(dropped[:, None], 0.0, 2 * weight), rtol=1e-6, atol=0.0)


def test_dropout_keeps_the_mean() -> None:
    torch.manual_seed(0)
    mask = locked_mask(torch.zeros(500, 500), 0.75, training=True)
    assert mask is not None and float(mask.mean()) == pytest.approx(1.0, abs=0.02)
    assert set(mask.unique().tolist()) == {0.0, 4.0}
    assert locked_mask(mask, 0.75, training=False) is None


def test_embedding_and_output_share_one_matrix() -> None:
    network = cell(**NO_DROPOUT)
    assert sum(p.numel() for p in network.parameters() if 7 in p.shape) == 7 * 4 + 7


def test_an_lstm_carries_its_state_and_has_the_parameters_it_should() -> None:
    network = lstm(layers=3).double().eval()
    assert count_parameters(network) == 7 * 4 + 7 + sum(4 * b * (a + b + 2) for a, b in ((4, 5), (5, 5), (5, 4)))
    x = torch.randint(7, (2, 6), generator=torch.Generator().manual_seed(0))
    first = network.read(x[:, :4], network.start(2))
    second = network.read(x[:, 4:], first.state)
    logits = torch.cat([first.logits, second.logits], dim=2)
    torch.testing.assert_close(logits, network(x), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(second.logits, network(x[:, 4:]), rtol=1e-6)
    rebuilt = type(network)(**json.loads(json.dumps(network.init_args))).double().eval()
    rebuilt.load_state_dict(network.state_dict())
    assert torch.equal(rebuilt(x), network(x))
    assert [edge[2] for graph in network.graphs() for edge in graph.edges] == ["lstm"] * 3


def test_gradient_checkpointing_changes_no_number() -> None:
    arch = {"recurrent": torch.full((36, 5), 0.2)}
    x = torch.randint(7, (3, 4), generator=torch.Generator().manual_seed(0))
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        supernet = RecurrentSupernet(num_classes=7, size=4)  # with dropout
        supernet.gradient_checkpointing = checkpointing
        logits = supernet(x, arch)
        torch.autograd.backward(logits.square().sum())
        results.append([logits, *supernet.buffers(), *(p.grad for p in supernet.parameters() if p.grad is not None)])
    assert len(results[0]) == len(results[1]) > 30
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("build", [RecurrentSupernet, cell, lstm])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "at least two words; got num_classes=1"),
        ({"size": 0}, "at least one number; got size=0"),
        ({"dropout_words": 1.0}, r"dropout_words must be in \[0, 1\); got 1\.0"),
        ({"dropout_hidden": -0.1}, r"dropout_hidden must be in \[0, 1\); got -0\.1"),
    ],
)
def test_a_network_that_cannot_work_is_refused(
    build: Callable[..., object], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.parametrize("x", [torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)], ids=["image", "one-word"])
def test_what_is_no_text_is_refused(x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"reads numbers of words, int64 \[B, T\]; got torch"):
        cell()(x)


def test_an_lstm_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one layer of at least one unit; got 0 of 5"):
        lstm(layers=0)


def test_edge_weights_of_another_shape_are_refused() -> None:
    supernet = RecurrentSupernet(num_classes=7, size=4)
    with pytest.raises(ValueError, match=r"hold 'recurrent' with shape \[36, 5\]; got \[5, 36\]"):
        supernet(torch.zeros(2, 3, dtype=torch.int64), {"recurrent": torch.zeros(5, 36)})
