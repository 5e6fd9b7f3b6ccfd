"""Axes: what is the same, a product or a sum, and what remains of a tensor when leaves are cut."""

from __future__ import annotations

import pytest
import torch

from oneshot.conversion.axes import Axis, Extent, cut, extent, fixed, paste, permute, product, split_off, total, unify


def leaf(index: int, size: int) -> Extent:
    return Extent("leaf", size, index)


def constant(size: int) -> Extent:
    return Extent("fixed", size)


def test_axes_that_are_the_same_are_frozen_together() -> None:
    first, second, third = Axis(8), Axis(8), fixed(8, "it is the output")
    unify(first, second, "add")
    assert first.found() is second.found() and not first.found().fixed
    unify(second, third, "add")
    assert first.found().fixed == "it is the output"


def test_a_leaf_becomes_the_product_that_it_is_said_to_be() -> None:
    channels, three, heads, size = Axis(24), Axis(3), Axis(4), Axis(2)
    unify(channels, product([three, heads, size]), "view")
    assert [axis.size for axis in channels.leaves()] == [3, 4, 2]
    other = Axis(6), Axis(4)  # 6 x 4 fits no factors of 3 x 4 x 2 from the inside but 2 x 2 of 4
    unify(channels, product(other), "view")
    assert [axis.size for axis in channels.leaves()] == [3, 2, 2, 2]
    assert [axis.size for axis in other[0].leaves()] == [3, 2]


def test_sums_are_split_where_others_end() -> None:
    whole = Axis(10)
    first, second = split_off(whole, [4, 6], "split")
    parts = Axis(7), Axis(3)
    unify(whole, total(parts), "cat")
    assert [axis.size for axis in whole.leaves()] == [4, 3, 3]
    assert [axis.size for axis in second.leaves()] == [3, 3] and first.found() is next(whole.leaves())


def test_what_does_not_fit_is_frozen_and_nothing_else() -> None:
    first, second, other = product([Axis(2), Axis(3)]), product([Axis(3), Axis(2)]), Axis(6)
    unify(first, second, "why")
    assert all(axis.fixed == "why" for axis in (*first.leaves(), *second.leaves()))
    assert not other.fixed
    unlike = Axis(5)
    unify(unlike, Axis(4), "other sizes")
    assert unlike.fixed == "other sizes"


def test_interleaved_halves_are_the_same() -> None:
    """Channel shuffle: two halves one after the other are read as [2, C / 2]."""
    one, other = Axis(6), Axis(6)
    two, inner = Axis(2), Axis(6)
    unify(total([one, other]), product([two, inner]), "view")
    assert one.found() is other.found() is inner.found()
    assert two.found().fixed


def test_cut_takes_the_first_entries_of_every_leaf() -> None:
    heads, size = leaf(0, 4), leaf(1, 2)
    shape = (Extent("product", 24, parts=(constant(3), heads, size)), Extent("sum", 5, parts=(constant(2), leaf(2, 3))))
    x = torch.arange(24 * 5).view(24, 5)
    part = cut(x, shape, [2, 1, 1])
    expected = x.view(3, 4, 2, 5)[:, :2, :1].reshape(6, 5)[:, [0, 1, 2]]
    assert torch.equal(part, expected)
    assert [side.at([2, 1, 1]) for side in shape] == [6, 3] == list(part.shape)
    kernel = torch.arange(25.0).view(1, 1, 5, 5)
    middle = cut(kernel, (constant(1), constant(1), leaf(0, 5), leaf(0, 5)), [3], frozenset({0}))
    assert torch.equal(middle, kernel[:, :, 1:4, 1:4])


def test_a_cut_is_a_view_where_it_can_be() -> None:
    x = torch.zeros(8, 3)
    cut(x, (leaf(0, 8), constant(3)), [4]).fill_(1)
    assert x.sum() == 12


def test_paste_writes_what_cut_reads() -> None:
    shape = (Extent("product", 12, parts=(constant(3), leaf(0, 4))),)
    x, values = torch.zeros(12), torch.arange(1.0, 7.0)
    paste(x, shape, [2], values)
    assert torch.equal(cut(x, shape, [2]), values)
    assert x.count_nonzero() == 6


def test_permute_moves_the_entries_of_a_leaf_everywhere() -> None:
    order = torch.tensor([2, 0, 1])
    shape = (Extent("product", 6, parts=(constant(2), leaf(0, 3))), Extent("sum", 4, parts=(constant(1), leaf(0, 3))))
    x = torch.arange(24).view(6, 4)
    expected = x.view(2, 3, 4)[:, order].reshape(6, 4)[:, [0, 3, 1, 2]]
    assert torch.equal(permute(x, shape, {0: order}), expected)


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_extents_of_many_networks_are_those_of_each(kept: int) -> None:
    import numpy as np

    inner = Axis(3)
    side = extent(total([product([fixed(2, ""), inner]), fixed(4, "")]), {inner: 0})
    assert side.at([kept]) == 2 * kept + 4 == side.of(np.array([[kept]]))[0]
    assert side.indices() == {0} and side.size == 10
