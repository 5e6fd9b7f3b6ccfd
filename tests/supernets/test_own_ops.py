"""Operations of users in spaces of cells: searched, counted, drawn, saved by class path, refused if they are wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import oneshot
from oneshot.cost import count, count_candidates
from oneshot.deploy.export import export_subnet, load
from oneshot.report.cells import draw_cells
from oneshot.supernets import (
    DARTSNetwork,
    DARTSSupernet,
    Genotype,
    NASBench201Space,
    NASBench201Supernet,
    OperationSupernet,
    SearchSpace,
    darts_space,
    nasbench201_space,
)
from oneshot.supernets.own_ops import checked_ops
from oneshot.testing import SpaceContract, fit, random_streams


class Gate(nn.Module):
    """A channel is multiplied by a number that follows from its mean."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride, self.weight = stride, nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        out: Tensor = x * self.weight(x.mean((2, 3), keepdim=True)).sigmoid()
        return out


def blur(channels: int, stride: int) -> nn.Module:
    return nn.AvgPool2d(3, stride, 1)


HERE = f"{__name__}."
OPS = {"gate": Gate, "my_pool": blur}
NAMES = ("none", "skip_connect", "sep_conv_3x3", *OPS)
SMALL: dict[str, Any] = {"channels": 4, "num_classes": 3, "image_size": 9}
SUPERNETS: dict[str, Callable[[], OperationSupernet]] = {
    "darts": lambda: DARTSSupernet(darts_space(candidates=NAMES, steps=2, ops=OPS), cells=3, **SMALL),
    "nasbench201": lambda: NASBench201Supernet(candidates=NAMES, ops=OPS, cells_per_stage=1, **SMALL),
}


class TestDARTSWithOwnOps(SpaceContract):
    genes_per_mutation = 2

    def gene_probabilities(self, space: SearchSpace) -> list[Any]:
        edges = [node + 2 for _ in range(2) for node in range(2) for _ in range(node + 2)]
        live = len(NAMES) - 1
        return [np.array([1 - 2 / n, *[2 / n / live] * live]) for n in edges]

    @pytest.fixture
    def supernet(self) -> OperationSupernet:
        return SUPERNETS["darts"]()


class TestNASBench201WithOwnOps(SpaceContract):
    @pytest.fixture
    def supernet(self) -> OperationSupernet:
        return SUPERNETS["nasbench201"]()


@pytest.mark.parametrize("name", SUPERNETS)
def test_networks_with_own_operations_are_counted_drawn_and_built_again_from_class_paths(name: str) -> None:
    supernet = SUPERNETS[name]().eval()
    space, x = supernet.space, torch.randn(2, *supernet.input_shape)
    macs = count_candidates(supernet, "macs")
    used = set[str]()
    for config in map(space.sample, range(8)):
        network = supernet.extract(config)
        paths = network.init_args.get("ops", {})
        used.update(paths)
        assert paths == {op: f"{HERE}{OPS[op].__name__}" for op in paths}
        rebuilt = type(network)(**network.init_args).eval()
        rebuilt.load_state_dict(network.state_dict())
        assert torch.equal(rebuilt(x), network(x)) and rebuilt.describes(config)
        assert macs.cost(config) == count(supernet.extract(config, inherit=False), supernet.input_shape).macs
        assert {op for _, _, op in network.graphs()[0].edges if op} <= {*NAMES, ""}
        draw_cells(network.graphs())
    assert used == set(OPS)


def test_a_pooling_of_ones_own_gets_no_normalisation_and_edges_do_not_share_it() -> None:
    supernet = SUPERNETS["darts"]()
    (first, *_), (second, *_) = supernet.mixed_ops()["normal"][:2]
    mine = NAMES.index("my_pool")
    assert isinstance(first.ops[mine], nn.AvgPool2d) and first.ops[mine] is not second.ops[mine]


def test_own_operations_are_the_last_candidates_by_default() -> None:
    assert darts_space(ops=OPS).choices[0].candidates[-2:] == ("gate", "my_pool")
    space = nasbench201_space(ops=OPS)
    assert (space.name, space.choices[0].candidates[5:]) == ("nasbench201-own", ("gate", "my_pool"))
    assert nasbench201_space() == NASBench201Space() and NASBench201Supernet(**SMALL).space == NASBench201Space()
    assert hash(darts_space(ops=OPS)) == hash(darts_space(ops=OPS)) and darts_space(ops=OPS) != darts_space()


def test_genotypes_with_own_names_are_parsed_and_built() -> None:
    cell = "[('gate', 0), ('skip_connect', 1)]"
    text = f"Genotype(normal={cell}, normal_concat=[2], reduce={cell}, reduce_concat=[2])"
    network = DARTSNetwork(Genotype.parse(text), cells=3, ops={"gate": f"{HERE}Gate"}, **SMALL)
    assert network.init_args["genotype"] == text and any(isinstance(m, Gate) for m in network.modules())
    with pytest.raises(ValueError, match=r"must be one of none, .*; got 'gate'. Give one of your own with its factory"):
        DARTSNetwork(text, cells=3, **SMALL)


@pytest.mark.parametrize("name", SUPERNETS)
def test_a_search_of_own_operations_is_exported_and_loaded_only_where_it_is_trusted(name: str, tmp_path: Path) -> None:
    supernet = SUPERNETS[name]()
    search = oneshot.DARTS(supernet)
    fit(search, random_streams(supernet, batches=2), epochs=1)
    supernet.space.validate(search.derive())
    gates = {choice.name: ["gate"] * choice.rows for choice in supernet.space.choices}
    config = supernet.space.repair(supernet.space.encode([type(search.derive())(supernet.space.name, gates)]))
    network = supernet.extract(supernet.space.decode(config)[0]).eval()

    folder = export_subnet(network, tmp_path / "export", formats=["torch_export"])

    with pytest.raises(ValueError, match=rf"Building an operation runs its code.*this is {HERE}Gate. If you trust it"):
        load(folder)
    x = torch.randn(2, *supernet.input_shape)
    root = __name__.partition(".")[0]
    torch.testing.assert_close(load(folder, trust=(root,))(x), network(x), rtol=1e-5, atol=1e-6)


def test_what_cannot_be_imported_again_works_and_is_not_exported(tmp_path: Path) -> None:
    supernet = NASBench201Supernet(ops={"mine": lambda channels, stride: nn.Identity()}, cells_per_stage=1, **SMALL)
    config = supernet.space.from_arch_string("|mine~0|+|mine~0|mine~1|+|mine~0|mine~1|mine~2|")
    network = supernet.extract(config)
    assert network(torch.randn(2, *supernet.input_shape)).shape == (2, 3)
    with pytest.raises(ValueError, match="Operation 'mine' must be importable to be saved; .*<lambda> is not. Define"):
        export_subnet(network, tmp_path / "export", formats=[])
    assert not list(tmp_path.iterdir())


class Reads(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ({"skip_connect": Gate}, "must have a name of its own; 'skip_connect' is built in"),
        ({"none": Gate}, "must have a name of its own; 'none' is built in"),
        ({"my op": Gate}, "letters, digits and underscores, a letter first; got 'my op'"),
        ({"mine": nn.Identity()}, "as a factory .* got Identity"),
        ({"mine": "Gate"}, "or as its class path, such as 'mine.Attention'; got 'Gate' for 'mine'"),
        ({"mine": f"{HERE}Gone"}, "'mine' must be importable; .*Gone is not: module"),
        ({"mine": f"{HERE}HERE"}, "must be a class or a function; .*HERE is a str"),
        ({"mine": lambda channels: nn.Identity()}, r"must take \(channels, stride\); called with \(4, 1\)"),
        ({"mine": lambda channels, stride: None}, "must return an nn.Module; got a NoneType"),
        (
            {"mine": lambda c, s: nn.Conv2d(c, c, 3)},
            r"must return \[2, 4, 8, 8\] with stride 1.*returned \[2, 4, 6, 6\]",
        ),
        ({"mine": lambda c, s: nn.Conv2d(c, 2 * c, 1)}, r"returned \[2, 8, 8, 8\]. Keep the channels"),
        ({"mine": lambda c, s: Reads()}, "it returned tuple"),
        ({"mine": lambda c, s: nn.ReLU(inplace=True)}, "must leave its input as it is.*Leave out inplace=True"),
    ],
)
def test_operations_that_break_the_rules_are_refused(ops: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NASBench201Supernet(ops=ops, cells_per_stage=1, **SMALL)


def test_an_operation_that_rounds_odd_sizes_down_is_refused_where_it_has_a_stride() -> None:
    def halve(channels: int, stride: int) -> nn.Module:
        return nn.AvgPool2d(stride) if stride > 1 else nn.Identity()

    with pytest.raises(ValueError, match=r"must return \[2, 8, 4, 3\] with stride 2.*returned \[2, 8, 3, 2\]"):
        DARTSSupernet(ops={"mine": halve}, cells=3, **SMALL)


def test_a_space_has_its_own_operations() -> None:
    with pytest.raises(ValueError, match=r"given to the space.* got both, \['gate'\] and space 'darts'"):
        DARTSSupernet(darts_space(), ops={"gate": Gate}, cells=3, **SMALL)
    assert checked_ops(None) == {}
