"""What is experimental says so, and what is deprecated goes when it was said to go."""

from __future__ import annotations

import warnings

import pytest

import oneshot
from oneshot._stability import DEPRECATED, ExperimentalWarning, deprecated, experimental, warn_if_experimental
from oneshot.supernets import NASBench201Supernet

PUBLIC = {name: getattr(oneshot, name) for name in oneshot.__all__}
EXPERIMENTAL = sorted(name for name, what in PUBLIC.items() if "_experimental" in getattr(what, "__dict__", ()))


def test_methods_without_a_reproduced_experiment_are_marked() -> None:
    assert EXPERIMENTAL == ["BetaDARTS", "DARTSMinus", "LambdaDARTS", "OLES"]


@pytest.mark.parametrize("name", EXPERIMENTAL)
def test_an_experimental_method_says_so_once_and_in_its_docstring(name: str) -> None:
    method = PUBLIC[name]
    assert f"Experimental: {method._experimental}." in method.__doc__
    with pytest.warns(ExperimentalWarning, match=f"{name} is experimental: .*may change in any release") as caught:
        method(NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8))
    assert len(caught) == 1 and caught[0].filename == __file__


def test_others_say_nothing_and_subclasses_name_what_is_experimental() -> None:
    @experimental("nobody has tried it")
    class New:
        def __init__(self) -> None:
            warn_if_experimental(self)

    class Own(New):
        pass

    with pytest.warns(ExperimentalWarning, match="^New is experimental: nobody has tried it"):
        Own()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_experimental(object())
        oneshot.DARTS(NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8))


def test_what_is_deprecated_works_and_names_what_to_use() -> None:
    before = list(DEPRECATED)
    try:

        @deprecated("0.2", "0.4", instead="oneshot.double")
        def twice(x: int) -> int:
            """Two times."""
            return 2 * x

        @deprecated("0.2", "0.4", instead="oneshot.Box")
        class Crate:
            def __init__(self, size: int) -> None:
                self.size = size

        said = r"twice is deprecated since 0\.2, and goes in 0\.4\. Use oneshot\.double\."
        with pytest.warns(FutureWarning, match=said):
            assert twice(4) == 8
        with pytest.warns(FutureWarning, match=r"Crate is deprecated .* Use oneshot\.Box\."):
            assert Crate(3).size == 3
        assert twice.__doc__ == "Two times." and [version for _, version in DEPRECATED[len(before) :]] == ["0.4", "0.4"]
    finally:
        DEPRECATED[:] = before


def test_nothing_outlives_the_version_in_which_it_goes() -> None:
    def number(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in version.split(".")[:2])

    late = [name for name, version in DEPRECATED if number(version) <= number(oneshot.__version__)]
    assert not late
