"""The NAS-Bench-201 space against the facts its authors published."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from oneshot.supernets.base import OperationSupernet, count_parameters
from oneshot.supernets.nasbench201 import (
    CANDIDATES,
    NASBench201Network,
    NASBench201Space,
    NASBench201Supernet,
)
from oneshot.supernets.space import Choice, SubnetConfig
from oneshot.testing import SpaceContract

SPACE = NASBench201Space()
TEXT = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|nor_conv_3x3~2|"


class TestNASBench201(SpaceContract):
    @pytest.fixture
    def supernet(self) -> OperationSupernet:
        return NASBench201Supernet(channels=4, cells_per_stage=1, num_classes=3, in_channels=2, image_size=9)


@pytest.fixture(scope="module")
def everything() -> list[SubnetConfig]:
    matrix: npt.NDArray[np.int64] = np.array(list(itertools.product(range(5), repeat=6)))
    return SPACE.decode(matrix)


def test_an_architecture_string_lists_the_edges_node_by_node() -> None:
    config = SPACE.from_arch_string(TEXT)
    assert config["cell"] == ("nor_conv_3x3", "none", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3")
    assert SPACE.arch_string(config) == TEXT
    (graph,) = SPACE.graphs(config)
    assert graph.edges == (
        (0, 1, "nor_conv_3x3"),
        (0, 2, "none"),
        (1, 2, "skip_connect"),
        (0, 3, "avg_pool_3x3"),
        (1, 3, "nor_conv_1x1"),
        (2, 3, "nor_conv_3x3"),
    )


def test_all_15625_architectures_survive_their_string(everything: list[SubnetConfig]) -> None:
    assert len(everything) == SPACE.size == 15_625
    strings = [SPACE.arch_string(config) for config in everything]
    assert len(set(strings)) == 15_625
    assert [SPACE.from_arch_string(text) for text in strings] == everything


def test_6466_architectures_are_not_isomorphic(everything: list[SubnetConfig]) -> None:
    """NAS-Bench-201, arXiv:2001.00326, section 2.1: 6,466 unique topologies."""
    assert len({SPACE.unique_string(config) for config in everything}) == 6_466


@pytest.mark.parametrize(
    ("picks", "canonical"),
    [
        pytest.param("c.....", "......", id="an edge that leads nowhere"),
        pytest.param("c....s", "......", id="two edges that do not meet"),
        pytest.param(".ss..c", ".s...c", id="a skip from a node that receives nothing"),
        pytest.param("..a.cc", "....cc", id="a convolution of zero is not zero, because normalisation shifts it"),
        pytest.param("cs..s.", "c...s.", id="a node nobody reads"),
        pytest.param("csacsa", "csacsa", id="nothing to remove"),
    ],
)
def test_the_canonical_form_removes_what_cannot_matter(picks: str, canonical: str) -> None:
    names = {".": "none", "s": "skip_connect", "a": "avg_pool_3x3", "c": "nor_conv_3x3"}
    before, after = (SubnetConfig(SPACE.name, {"cell": [names[p] for p in text]}) for text in (picks, canonical))
    assert SPACE.canonical(before) == after


def test_spaces_too_large_for_a_list_of_spellings_have_the_same_canonical_forms() -> None:
    more = (*SPACE.choices[0].candidates, "sep_conv_3x3", "dil_conv_3x3")  # at the end, so genes mean the same
    large = NASBench201Space(choices=(Choice("cell", more, rows=6),))
    genes = SPACE.sample_matrix(2000, 0)
    assert (large.repair(genes) == SPACE.repair(genes)).all()
    assert (SPACE.repair(genes) != genes).any()


@pytest.mark.parametrize("text", [SPACE.arch_string(SPACE.sample(seed)) for seed in range(4)] + [TEXT])
def test_the_number_of_parameters_is_the_benchmarks(text: str) -> None:
    """C=16, N=5 on CIFAR-10: 0.073306 MB without operations to 1.531546 MB with six 3x3 convolutions."""
    with torch.device("meta"):
        network = NASBench201Network(text)
    expected = 73_306 + 243_040 * text.count("nor_conv_3x3") + 28_000 * text.count("nor_conv_1x1")
    assert count_parameters(network) == expected


def test_candidate_parameters_count_every_cell_that_shares_the_edge() -> None:
    counts = NASBench201Supernet(channels=16, cells_per_stage=5).candidate_parameters()["cell"]
    cells = 5 * (16**2 + 32**2 + 64**2)
    assert counts.tolist() == [[0, 0, cells, 9 * cells, 0]] * 6
    assert CANDIDATES == ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


@pytest.mark.parametrize("size", [4, 9, 28])
def test_odd_and_small_images_work(size: int) -> None:
    network = NASBench201Network(TEXT, channels=4, cells_per_stage=1, in_channels=1, image_size=size)
    assert network(torch.zeros(2, 1, size, size)).shape == (2, 10)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(TEXT[:-1], id="truncated"),
        pytest.param(TEXT.rpartition("+")[0], id="two nodes"),
        pytest.param(TEXT.replace("~2|", "~3|"), id="an input that does not exist"),
        pytest.param(TEXT.replace("skip_connect~1|", ""), id="an input too few"),
        pytest.param(TEXT.replace("|none~0|skip_connect~1|", "|skip_connect~1|none~0|"), id="inputs out of order"),
        pytest.param(TEXT.replace("+", "+x"), id="something in between"),
    ],
)
def test_a_malformed_architecture_string_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"reads '\|op~0\|\+.*; got"):
        SPACE.from_arch_string(text)


def test_an_unknown_operation_in_a_string_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'sep_conv_9x9' is not a candidate of 'cell' \(row 0\)"):
        NASBench201Network(TEXT.replace("nor_conv_3x3", "sep_conv_9x9"))
    assert "sep_conv_3x3" in str(NASBench201Network(TEXT.replace("nor_conv_3x3", "sep_conv_3x3")).config)  # a known one


@pytest.mark.parametrize("build", [NASBench201Supernet, lambda **options: NASBench201Network(TEXT, **options)])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"cells_per_stage": 0}, "at least one cell; got cells_per_stage=0", id="no cells"),
        pytest.param({"num_classes": 0}, "at least 1, and 2 for classes; got num_classes=0", id="one class"),
        pytest.param({"image_size": 3}, "at least 4 pixels; got image_size=3", id="small image"),
    ],
)
def test_a_network_that_cannot_work_is_refused(
    build: Callable[..., object], options: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_it_has_no_paths_to_drop_and_no_auxiliary_head() -> None:
    network = NASBench201Network(TEXT, channels=4, cells_per_stage=1, image_size=8)
    network.set_drop_path(0.0)
    with pytest.raises(ValueError, match=r"NASBench201Network has no droppable paths; .* got 0\.2"):
        network.set_drop_path(0.2)
    x = torch.zeros(2, 3, 8, 8)
    logits, auxiliary = network.eval().forward_with_auxiliary(x)
    assert auxiliary is None and torch.equal(logits, network(x))


@pytest.mark.parametrize(
    ("arch", "got"),
    [
        pytest.param({}, "got None", id="missing"),
        pytest.param({"cell": torch.zeros(5, 6)}, r"got \[5, 6\]", id="transposed"),
    ],
)
def test_edge_weights_of_another_shape_are_refused(arch: dict[str, torch.Tensor], got: str) -> None:
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)
    with pytest.raises(ValueError, match=rf"hold 'cell' with shape \[6, 5\]; {got}"):
        supernet(torch.zeros(2, 3, 8, 8), arch)


@pytest.mark.parametrize("ops", [("none", "nor_conv_3x3"), ("skip_connect", "nor_conv_3x3")])
def test_a_space_of_fewer_operations_has_canonical_forms_too(ops: tuple[str, ...]) -> None:
    space = NASBench201Space(choices=(Choice("cell", ops, rows=6),))
    config = SubnetConfig(space.name, {"cell": [ops[0], *[ops[1]] * 5]})
    assert space.canonical(space.canonical(config)) == space.canonical(config)
