"""Genotypes as text and as cells."""

from __future__ import annotations

import pytest

from oneshot.supernets.genotype import PUBLISHED, Genotype
from oneshot.supernets.recurrent import PUBLISHED_RECURRENT, RecurrentGenotype

PAIRS = "[('skip_connect', 0), ('sep_conv_3x3', 1), ('none', 2), ('max_pool_3x3', 0)]"
TEXT = f"Genotype(normal={PAIRS}, normal_concat=range(2, 4), reduce={PAIRS}, reduce_concat=[2, 3])"
CELL = ((("skip_connect", 0), ("sep_conv_3x3", 1)), (("none", 2), ("max_pool_3x3", 0)))


def test_pairs_are_two_edges_a_node() -> None:
    genotype = Genotype.parse(TEXT)
    assert genotype == Genotype(CELL, (2, 3), CELL, (2, 3))
    assert genotype.ops == {"skip_connect", "sep_conv_3x3", "none", "max_pool_3x3"}
    assert genotype.skip_connections == 1


def test_triples_name_the_node() -> None:
    cell = "[('skip_connect', 0, 2), ('sep_conv_3x3', 1, 3), ('max_pool_3x3', 2, 3), ('skip_connect', 0, 3)]"
    genotype = Genotype.parse(f"Genotype(normal={cell}, normal_concat=[2, 3, 4], reduce={cell}, reduce_concat=[3])")
    nodes = ((("skip_connect", 0),), (("sep_conv_3x3", 1), ("max_pool_3x3", 2), ("skip_connect", 0)))
    assert genotype.normal == (*nodes, ())  # nothing enters the last node
    assert genotype.reduce == nodes
    assert Genotype.parse(str(genotype)) == genotype


def test_nodes_that_concatenate_are_part_of_the_text_and_the_picture() -> None:
    genotype = Genotype.parse(TEXT[:-1] + ", reduce_joined=[3])")
    assert (genotype.normal_joined, genotype.reduce_joined) == ((), (3,))
    assert str(genotype).endswith("reduce_concat=[2, 3], reduce_joined=[3])")
    assert Genotype.parse(str(genotype)) == genotype != Genotype.parse(TEXT)
    assert [graph.nodes[2:4] for graph in genotype.graphs()] == [("0", "1"), ("0", "1 concat")]
    for state in (1, 4):
        with pytest.raises(
            ValueError, match=rf"normal_joined lists nodes by their states, from 2 to 3; got \[{state}\]"
        ):
            Genotype(CELL, (2, 3), CELL, (2, 3), normal_joined=(state,))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_genotype_survives_its_text(name: str) -> None:
    genotype = PUBLISHED[name]
    assert Genotype.parse(str(genotype)) == genotype
    steps = 5 if name in ("NASNet_A", "AmoebaNet_A") else 4
    assert [len(node) for node in (*genotype.normal, *genotype.reduce)] == [2] * 2 * steps


def test_its_text_is_the_papers() -> None:
    assert str(PUBLISHED["DARTS_V2"]) == (
        "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
        "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], "
        "normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), "
        "('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], "
        "reduce_concat=[2, 3, 4, 5])"
    )


def test_its_pictures_show_both_cells_with_their_outputs() -> None:
    normal, reduce = Genotype.parse(TEXT).graphs()
    assert (normal.name, reduce.name) == ("normal", "reduce")
    assert normal.nodes == ("c_{k-2}", "c_{k-1}", "0", "1", "c_{k}")
    assert normal.edges == (
        (0, 2, "skip_connect"),
        (1, 2, "sep_conv_3x3"),
        (2, 3, "none"),
        (0, 3, "max_pool_3x3"),
        (2, 4, ""),
        (3, 4, ""),
    )


@pytest.mark.parametrize(
    ("source", "concat", "message"),
    [
        pytest.param(4, (2,), "Node 0 of the normal cell can read the states 0 to 1; .* reads state 4", id="forward"),
        pytest.param(2, (2,), "reads state 2", id="itself"),
        pytest.param(-1, (2,), "reads state -1", id="negative"),
        pytest.param(0, (), r"normal_concat lists states from 0 to 2, at least one; got \[\]", id="no-output"),
        pytest.param(0, (3,), r"normal_concat .* got \[3\]", id="output-of-a-missing-node"),
        pytest.param(0, (-1,), r"normal_concat .* got \[-1\]", id="negative-output"),
    ],
)
def test_an_edge_or_output_that_names_a_missing_state_is_refused(
    source: int, concat: tuple[int, ...], message: str
) -> None:
    good = ((("skip_connect", 0),),)
    with pytest.raises(ValueError, match=message):
        Genotype(((("skip_connect", source),),), concat, good, (2,))
    with pytest.raises(ValueError, match=message.replace("normal", "reduce")):
        Genotype(good, (2,), ((("skip_connect", source),),), concat)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("Genotype(normal=[", "never closed", id="truncated"),
        pytest.param("3", "not a call", id="a-number"),
        pytest.param("Genotype([1])", "not a call with keyword", id="positional"),
        pytest.param("Genotype(normal=[], normal_concat=[2])", "'reduce'", id="half-of-it"),
        pytest.param(TEXT.replace("('skip_connect', 0), ", ""), "3 edges; pairs need two a node", id="odd"),
        pytest.param(TEXT.replace("1)", "'one')"), "invalid literal", id="not-a-number"),
        pytest.param(TEXT.replace("range(2, 4)", "7"), "not iterable", id="concat-is-a-number"),
        pytest.param(TEXT.replace("range(2, 4)", "__import__('os').listdir()"), "malformed", id="code"),
        pytest.param(TEXT.replace("1)", "9)"), "reads state 9", id="missing-state"),
    ],
)
def test_a_text_that_is_no_genotype_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"A genotype reads Genotype.*{message}"):
        Genotype.parse(text)


DARTS_V2 = str(PUBLISHED["DARTS_V2"])


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"genotype = {DARTS_V2}", id="assigned"),
        pytest.param(f"DARTS_V2 = {DARTS_V2};", id="semicolon"),
        pytest.param(f"best: Genotype = {DARTS_V2}", id="annotated"),
        pytest.param(f"\n   {DARTS_V2}   # the best, epoch 49 (of 50)\n", id="indented"),
        pytest.param(f"# found 3 (three) times\n{DARTS_V2}", id="comment before"),
        pytest.param(DARTS_V2.replace(", ", ",  # it's (one\n   "), id="comments and lines inside"),
        pytest.param(DARTS_V2.replace(", 0)", ", np.int64(0))").replace(", 2)", ", numpy.int32(2))"), id="numpy"),
        pytest.param(DARTS_V2.replace("'sep_conv_3x3'", "np.str_('sep_conv_3x3')"), id="numpy strings"),
        pytest.param(DARTS_V2.replace("[2, 3, 4, 5]", "range(2, 6)"), id="range"),
        pytest.param(DARTS_V2.replace("[2, 3, 4, 5]", "list(range(2, 6))"), id="list of a range"),
        pytest.param(DARTS_V2.replace("[2, 3, 4, 5]", "array([2, 3, 4, 5])"), id="array"),
        pytest.param(f"genotypes.{DARTS_V2}", id="module"),
        pytest.param(
            "from collections import namedtuple\n\nGenotype = namedtuple('Genotype', 'normal normal_concat reduce "
            f"reduce_concat')\n\nPRIMITIVES = ['none']\n\nDARTS_V2 = {DARTS_V2}\nDARTS = DARTS_V2\n",
            id="genotypes.py",
        ),
        pytest.param(f"03/21 08:12:45 PM genotype = {DARTS_V2}\n03/21 08:12:46 PM train_acc 93.1", id="log"),
        pytest.param(f"[INFO] epoch 9: {DARTS_V2} (valid 93.1)", id="log with brackets"),
        pytest.param(f"print({DARTS_V2})", id="printed"),
    ],
)
def test_genotypes_are_read_as_repositories_print_them(text: str) -> None:
    assert Genotype.parse(text) == PUBLISHED["DARTS_V2"]


def test_recurrent_genotypes_are_read_as_repositories_print_them() -> None:
    cell = PUBLISHED_RECURRENT["DARTS_V1"]
    printed = f"03/21 genotype = {cell}".replace(", 0)", ", np.int64(0))")
    text = printed.replace("[1, 2, 3, 4, 5, 6, 7, 8]", "range(1, 9)")

    assert "np.int64" in text and "range" in text
    assert RecurrentGenotype.parse(text + ";  # best") == cell


CONCAT = "[2, 3, 4, 5]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(f"{DARTS_V2}\n{PUBLISHED['DARTS_V1']}", "2 genotypes; give one of them", id="two"),
        pytest.param(DARTS_V2.replace(CONCAT, "range(10**12)"), "malformed", id="arithmetic"),
        pytest.param(DARTS_V2.replace(CONCAT, "range(1000000000000)"), "at most 1000 make sense", id="bomb"),
        pytest.param("genotype = ", "invalid syntax", id="nothing"),
        pytest.param(DARTS_V2[:200], "was never closed", id="cut off"),
        pytest.param("(" * 5000, "", id="deep"),
        pytest.param("-" * 100_000 + "1", "", id="deeper"),
        pytest.param(DARTS_V2.replace(CONCAT, "open('/tmp/x', 'w')"), "malformed: .* is no value", id="code"),
        pytest.param(DARTS_V2.replace(CONCAT, "list(open('/tmp/x'))"), "malformed: .* is no value", id="wrapped"),
    ],
)
def test_other_texts_are_refused_and_nothing_in_them_runs(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s)A genotype reads Genotype.*{message}"):
        Genotype.parse(text)
