"""The NAS-Bench-Macro space against the table its authors published."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from oneshot.cost.counting.network import Counts, count
from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.nasbenchmacro import NASBenchMacroNetwork, NASBenchMacroSpace, NASBenchMacroSupernet
from oneshot.testing import SpaceContract
from tests.tables import rows, whole_or_extract

SPACE = NASBenchMacroSpace()


class TestNASBenchMacro(SpaceContract):
    @pytest.fixture
    def supernet(self) -> OperationSupernet:
        return NASBenchMacroSupernet(channels=4, num_classes=3, in_channels=2, image_size=9)


def measured(arch: str) -> Counts:
    with torch.device("meta"):
        return count(NASBenchMacroNetwork(arch), (3, 32, 32))


def test_all_6561_architectures_survive_their_string() -> None:
    strings = ["".join(digits) for digits in itertools.product("012", repeat=8)]
    configs = [SPACE.from_arch_string(text) for text in strings]
    assert len(set(configs)) == SPACE.size == 6_561
    assert [SPACE.arch_string(config) for config in configs] == strings
    assert np.array_equal(SPACE.encode(configs), [[int(digit) for digit in text] for text in strings])


def test_3969_architectures_are_different_networks() -> None:
    """9 in the first stage; in the two others, 3 first layers with 7 distinct pairs behind them (arXiv:2103.11922)."""
    configs = [SPACE.from_arch_string("".join(digits)) for digits in itertools.product("012", repeat=8)]
    assert len({SPACE.unique_string(config) for config in configs}) == 9 * 21 * 21 == 3_969


@pytest.mark.parametrize(
    ("text", "unique"),
    [
        pytest.param("00000000", "00000000", id="nothing to move"),
        pytest.param("01001001", "01010010", id="an identity behind the first layer moves to the end of the stage"),
        pytest.param("10120210", "10120210", id="the first of a stage is none and stays, and so does the rest"),
        pytest.param("00012021", "00012021", id="the order of other blocks counts"),
    ],
)
def test_identities_inside_a_stage_commute(text: str, unique: str) -> None:
    assert SPACE.unique_string(SPACE.from_arch_string(text)) == unique


@pytest.mark.parametrize(
    ("arch", "params", "macs"),
    [
        pytest.param("00000000", 387_882, 7_713_280, id="smallest"),
        pytest.param("11111111", 1_588_874, 53_246_464, id="all e3"),
        pytest.param("22222222", 2_932_586, 105_660_928, id="largest"),
        pytest.param("01200120", 1_442_922, 41_421_312, id="mixed"),
        pytest.param("10000000", 396_298, 12_128_768, id="one e3"),
    ],
)
def test_size_and_cost_are_the_tables(arch: str, params: int, macs: int) -> None:
    """Rows of the table; nothing is left over, neither batch normalisation nor biases."""
    assert (measured(arch).params, measured(arch).macs) == (params, macs)


@whole_or_extract
def test_size_and_cost_of_all_architectures_are_the_tables(whole: bool) -> None:
    """What a block costs does not depend on the other blocks, so 17 networks tell about all."""
    table = rows("nas_bench_macro", whole=whole)
    assert len(table) == 6_561 if whole else len(table) >= 150
    base = measured("0" * 8)
    params, macs = np.zeros((8, 3), dtype=int), np.zeros((8, 3), dtype=int)
    for layer, digit in itertools.product(range(8), (1, 2)):
        one = measured("0" * layer + str(digit) + "0" * (7 - layer))
        params[layer, digit], macs[layer, digit] = one.params - base.params, one.macs - base.macs
    genes = SPACE.encode(SPACE.from_arch_string(row["arch"]) for row in table)
    layers = np.arange(8)
    assert np.array_equal(base.params + params[layers, genes].sum(1), [int(row["params"]) for row in table])
    assert np.array_equal(base.macs + macs[layers, genes].sum(1), [int(row["flops"]) for row in table])


@pytest.mark.parametrize("text", ["", "0" * 7, "0" * 9, "0120120x", "01201203", "⁰1201200"])
def test_a_malformed_architecture_string_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"8 digits from 0 to 2; got {text!r}"):
        NASBenchMacroNetwork(text)


@pytest.mark.parametrize("build", [NASBenchMacroSupernet, lambda **options: NASBenchMacroNetwork("0" * 8, **options)])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"num_classes": 0}, "at least 1, and 2 for classes; got num_classes=0", id="one class"),
        pytest.param({"image_size": 7}, "at least 8 pixels; got image_size=7", id="small image"),
    ],
)
def test_a_network_that_cannot_work_is_refused(
    build: Callable[..., object], options: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)
