"""The core of every search space; rules that hold for each of them are in the contract."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oneshot.discrete.evaluators.tables import DistinctMacroSpace
from oneshot.supernets import NASBenchMacroSpace, darts_space
from oneshot.supernets.space import NONE, Choice, SearchSpace, SubnetConfig, load_config

LAYERS = Choice("layer", ("conv", "skip"), rows=3)
WIDTH = Choice("width", (8, 16, 0.5))
EDGES = Choice("edge", ("conv", "pool"), rows=2, droppable=True)
SPACE = SearchSpace("toy", (LAYERS, WIDTH, EDGES))


def test_picks_of_a_droppable_row_end_with_none_unless_it_is_a_candidate() -> None:
    assert LAYERS.picks == ("conv", "skip")
    assert EDGES.picks == ("conv", "pool", NONE)
    assert Choice("edge", (NONE, "pool"), droppable=True).picks == (NONE, "pool")


def test_size_and_genes_count_every_row() -> None:
    assert SPACE.num_genes == 6
    assert SPACE.gene_sizes == (2, 2, 2, 3, 3, 3)
    assert SPACE.size == 2**3 * 3 * 3**2


def test_encoding_is_the_index_of_each_pick_in_order() -> None:
    config = SubnetConfig("toy", {"layer": ["skip", "conv", "skip"], "width": [0.5], "edge": ["none", "pool"]})
    assert SPACE.encode([config]).tolist() == [[1, 0, 1, 2, 2, 1]]


def test_one_hot_selects_the_picks_and_leaves_the_row_of_a_dropped_edge_zero() -> None:
    config = SubnetConfig("toy", {"layer": ["skip", "conv", "skip"], "width": [0.5], "edge": ["none", "pool"]})
    weights = SPACE.one_hot(config)
    assert {name: w.tolist() for name, w in weights.items()} == {
        "layer": [[0, 1], [1, 0], [0, 1]],
        "width": [[0, 0, 1]],
        "edge": [[0, 0], [0, 1]],
    }
    assert all(w.dtype == np.float32 for w in weights.values())


def test_the_most_likely_config_has_the_most_likely_candidate_of_every_row() -> None:
    space = SearchSpace("toy", (LAYERS, WIDTH))
    probabilities = {"layer": np.array([[0.4, 0.6], [0.9, 0.1], [0.2, 0.8]]), "width": np.array([[0.3, 0.4, 0.3]])}
    assert dict(space.most_likely(probabilities).picks) == {"layer": ("skip", "conv", "skip"), "width": (16,)}


def test_mutation_goes_to_every_other_value_of_every_gene_equally_often() -> None:
    config, generator = SPACE.decode(np.zeros((1, 6), dtype=np.int64))[0], np.random.default_rng(0)
    children = SPACE.encode([SPACE.mutate(config, generator) for _ in range(3000)])
    assert ((children != 0).sum(axis=1) == 1).all()
    for gene, size in enumerate(SPACE.gene_sizes):
        counts = np.bincount(children[:, gene], minlength=size)[1:]
        assert abs(counts / 500 - 1 / (size - 1)).max() < 0.2


def test_crossover_decides_every_gene_on_its_own() -> None:
    zeros, ones = SPACE.decode(np.repeat([[0], [1]], 6, axis=1))
    children = SPACE.encode([SPACE.crossover(zeros, ones, seed) for seed in range(400)])
    assert len(np.unique(children, axis=0)) == 2**6
    assert abs(children.mean(axis=0) - 0.5).max() < 0.1


def test_the_plain_picture_is_a_chain_of_decisions() -> None:
    (graph,) = SearchSpace("toy", (LAYERS,)).graphs(SubnetConfig("toy", {"layer": ["conv", "skip", "conv"]}))
    assert graph.nodes == ("in", "1", "2", "out")
    assert graph.edges == ((0, 1, "conv"), (1, 2, "skip"), (2, 3, "conv"))


def test_a_config_is_hashable_and_its_rows_are_read_by_name() -> None:
    config, same = (SubnetConfig("toy", {"layer": ["conv"], "width": row}) for row in ([16], (16,)))
    assert config == same and hash(config) == hash(same)
    assert config["width"] == (16,)
    with pytest.raises(KeyError, match=r"no choice 'depth'; it has \['layer', 'width'\]"):
        config["depth"]


def test_a_config_file_carries_the_schema_version() -> None:
    config = SPACE.sample(0)
    assert json.loads(config.to_json())["schema_version"] == 1
    assert SubnetConfig.from_dict(config.to_dict()) == config


def test_a_config_is_read_from_its_own_file_and_from_the_file_of_an_exported_network(tmp_path: Path) -> None:
    config = SPACE.sample(0)
    exported = {"schema_version": 1, "config": config.to_dict(), "network": {"class_path": "x", "init_args": {}}}
    for content in (config.to_dict(), exported):
        (tmp_path / "subnet.json").write_text(json.dumps(content), encoding="utf-8")
        assert load_config(tmp_path / "subnet.json") == config


def test_the_rows_of_a_choice_are_found_by_name() -> None:
    assert SPACE["width"] is WIDTH
    with pytest.raises(KeyError, match="space 'toy' has no choice 'depth'"):
        SPACE["depth"]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(lambda: Choice("layer", ()), r"distinct candidates, at least one; got \(\)", id="no-candidates"),
        pytest.param(lambda: Choice("layer", ("a", "a")), "distinct candidates", id="a-candidate-twice"),
        pytest.param(lambda: Choice("layer", ("a",), rows=0), "at least one row; got rows=0", id="no-rows"),
        pytest.param(lambda: SearchSpace("toy", ()), r"distinct names, at least one; got \[\]", id="no-choices"),
        pytest.param(lambda: SearchSpace("toy", (WIDTH, WIDTH)), "distinct names", id="a-choice-twice"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        pytest.param([0, 0], r"integer matrix \[N, 2\]; got int64 \[2\]", id="a-vector"),
        pytest.param([[0, 0, 0]], r"got int64 \[1, 3\]", id="too-many-genes"),
        pytest.param([[0.0, 1.0]], r"got float64 \[1, 2\]", id="not-integers"),
        pytest.param([[0, 1], [0, 2]], "Gene 1 .* below 2; row 1 holds 2", id="too-large"),
        pytest.param([[-1, 0]], "Gene 0 .* below 2; row 0 holds -1", id="negative"),
    ],
)
def test_genes_of_another_space_are_refused(matrix: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchSpace("toy", (Choice("layer", ("a", "b"), rows=2),)).decode(matrix)


def test_a_space_with_one_architecture_cannot_mutate_it() -> None:
    space = SearchSpace("toy", (Choice("layer", ("conv",), rows=2),))
    assert space.size == 1
    with pytest.raises(ValueError, match="must have two architectures or more"):
        space.mutate(space.sample(0))


GOOD = {"schema_version": 1, "space": "toy", "picks": {"layer": ["conv"]}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param([1], "JSON object with 'schema_version', 'space' and 'picks'; got", id="not-an-object"),
        pytest.param({"epoch": 3}, "another program's file", id="foreign"),
        pytest.param({**GOOD, "schema_version": 2}, "schema version 1; this one has 2", id="newer"),
        pytest.param({**GOOD, "space": 3}, "'space' must be a name", id="space-is-a-number"),
        pytest.param({**GOOD, "picks": ["conv"]}, "'picks' a list of names", id="picks-are-a-list"),
        pytest.param({**GOOD, "picks": {"layer": "conv"}}, "'picks' a list of names", id="a-row-is-a-string"),
        pytest.param({**GOOD, "picks": {"layer": [None]}}, "'picks' a list of names", id="a-pick-is-null"),
        pytest.param({**GOOD, "picks": {"layer": [["conv"]]}}, "'picks' a list of names", id="a-pick-is-a-list"),
    ],
)
def test_a_file_that_is_not_a_config_is_refused(data: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        SubnetConfig.from_dict(data)
    path = tmp_path / "subnet.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ValueError, match=f"subnet.json: .*{message}"):
        load_config(path)


def test_a_long_foreign_file_is_not_quoted_in_full() -> None:
    with pytest.raises(ValueError, match=r"\.\.\.") as caught:
        SubnetConfig.from_dict({"weights": list(range(10_000))})
    assert len(str(caught.value)) < 400


def test_a_truncated_config_is_refused(tmp_path: Path) -> None:
    text = SPACE.sample(0).to_json()[:-5]
    with pytest.raises(ValueError, match="A SubnetConfig must be JSON; .* truncated"):
        SubnetConfig.from_json(text)
    (tmp_path / "subnet.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"subnet\.json is not a subnet\.json: .* truncated"):
        load_config(tmp_path / "subnet.json")


def test_a_binary_file_is_not_a_config(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match=r"model\.safetensors is not a subnet\.json"):
        load_config(tmp_path / "model.safetensors")


def test_a_missing_config_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"There is no config file .*nowhere\.json"):
        load_config(tmp_path / "nowhere.json")


def test_the_network_of_a_hand_written_genotype_has_no_config_to_load(tmp_path: Path) -> None:
    (tmp_path / "subnet.json").write_text(json.dumps({"schema_version": 1, "config": None, "network": {}}))
    with pytest.raises(ValueError, match=r"subnet\.json: .*got None"):
        load_config(tmp_path / "subnet.json")


def test_the_order_in_which_picks_are_listed_does_not_matter() -> None:
    space = SearchSpace("toy", (Choice("b", ("x", "y"), rows=2), Choice("a", ("x", "y"))))
    one = SubnetConfig("toy", {"b": ["x", "y"], "a": ["y"]})
    other = SubnetConfig("toy", {"a": ["y"], "b": ["x", "y"]})
    assert one == other and hash(one) == hash(other)
    assert space.encode([one]).tolist() == space.encode([other]).tolist() == [[0, 1, 1]]


def test_neighbours_are_all_that_differ_in_one_gene() -> None:
    space = SearchSpace("toy", (Choice("layer", ("a", "b", "c"), rows=2), Choice("width", (8, 16))))
    genes = np.array([1, 2, 0])
    found = space.neighbours(genes)
    assert len(found) == 2 + 2 + 1 == len(np.unique(found, axis=0))
    assert ((found != genes).sum(1) == 1).all()


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        pytest.param(
            (LAYERS, Choice("width", (8, 12, 0.5)), EDGES),
            r"that differs is 'width' \(1 rows, picks \[8, 12, 0.5\]\) there and 'width' \(1 rows, picks \[8, 16,",
            id="picks",
        ),
        pytest.param((LAYERS, WIDTH), r"differs is nothing there and 'edge' \(2 rows", id="fewer"),
        pytest.param((*SPACE.choices, Choice("more", (1, 2))), r"is 'more' \(1 .* there and nothing here\.", id="more"),
    ],
)
def test_the_first_choice_that_differs_is_named(choices: tuple[Choice, ...], message: str) -> None:
    other = SearchSpace("toy", choices)
    for good, bad in ((SPACE, other), (json.loads(json.dumps(SPACE.describe())), other.describe())):
        SPACE.check_same(good, "This")
        with pytest.raises(ValueError, match=f"This must be of space 'toy' with .*{message}"):
            SPACE.check_same(bad, "This")


def test_spaces_of_other_names_or_settings_are_not_the_same() -> None:
    with pytest.raises(ValueError, match=r"This must be of space 'toy'; it is of 'mine'\. Leave it out\."):
        SPACE.check_same(SearchSpace("mine", SPACE.choices), "This", "Leave it out.")
    with pytest.raises(ValueError, match=r"must be of space 'toy'; it is of None"):
        SPACE.check_same("no description", "This")
    with pytest.raises(ValueError, match="first that differs is multiplier=2 there and multiplier=4 here"):
        darts_space().check_same(darts_space(multiplier=2), "This")
    space = NASBenchMacroSpace()
    space.check_same(DistinctMacroSpace(), "A space with another canonical form")


@pytest.mark.parametrize(
    ("old", "new"),
    [("_draw", r"draw_genes\(\)"), ("_canonical", r"canonical_genes\(\), .*\[N, G\]"), ("_genes", r"check_rules\(\)")],
)
def test_a_space_with_a_hook_of_the_old_name_is_refused_where_it_is_written(old: str, new: str) -> None:
    with pytest.raises(TypeError, match=rf"MySpace must define {new}.*, not {old}\(\)"):
        type("MySpace", (SearchSpace,), {old: lambda self, *args: args[0]})


def test_a_rule_holds_for_configs_and_for_genes() -> None:
    class NoPair(SearchSpace):
        def check_rules(self, genes: np.ndarray) -> None:
            if (bad := (genes[:, 0] == genes[:, 1])).any():
                raise ValueError(f"The first two layers must differ; genome {np.argmax(bad)} has twice the same.")

    space = NoPair("toy", (LAYERS,))
    good, bad = [0, 1, 1], [1, 1, 0]
    assert space.encode(space.decode([good])).tolist() == [good]
    with pytest.raises(ValueError, match="genome 1 has twice the same"):
        space.decode([good, bad])
    with pytest.raises(ValueError, match="genome 0 has twice the same"):
        space.validate(space.config_of(np.array(bad)))
