"""Options that constructors pass on have names and types: for mypy, and, from signatures, for the command line."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import pytest
from jsonargparse import ArgumentParser

import oneshot
import oneshot.engine
from oneshot.engine import options as module
from oneshot.engine.gradient import GradientSearch
from oneshot.engine.paths import PathTraining
from oneshot.engine.sharing import WeightSharingSearch

METHODS = [
    *(
        "AlphaNet",
        "BetaDARTS",
        "BigNAS",
        "DARTS",
        "DARTSPT",
        "OLES",
        "LambdaDARTS",
        "DARTSMinus",
        "DrNAS",
        "DSNAS",
        "ENAS",
        "FairDARTS",
        "FairNAS",
        "FBNet",
        "GDAS",
    ),
    *("NAT", "OnceForAll", "PCDARTS", "ProxylessNAS", "RandomSharing", "RobustDARTS", "SandwichSearch", "SmoothDARTS"),
    *("SNAS", "SingleLevelSearch"),
]
CLASSES = [*(getattr(oneshot, name) for name in METHODS), oneshot.engine.SandwichTraining, oneshot.engine.AlphaSearch]
ENGINE = [GradientSearch, PathTraining, WeightSharingSearch, oneshot.engine.SupernetTraining]


def passed_on(kind: type[Any]) -> type[Any]:
    """The class of options in ``**kwargs: Unpack[...]`` of a constructor."""
    annotation = str(inspect.signature(kind.__init__).parameters["kwargs"].annotation)
    name = annotation.removeprefix("Unpack[").removesuffix("]")
    return getattr(module, name, None) or getattr(sys.modules[kind.__module__], name)


def of_the_bases(kind: type[Any]) -> dict[str, Any]:
    """Names and types of what the constructors of the base classes take, as they are written."""
    found: dict[str, Any] = {}
    for base in kind.__mro__:
        if "__init__" in base.__dict__ and base.__module__.startswith("oneshot"):
            for name, parameter in inspect.signature(base.__dict__["__init__"]).parameters.items():
                found.setdefault(name, parameter.annotation)
    return found


@pytest.mark.parametrize("kind", [*CLASSES, *ENGINE], ids=lambda kind: kind.__name__)
def test_the_types_of_passed_on_options_are_those_of_the_constructors_that_take_them(kind: type[Any]) -> None:
    typed = {name: reference.__forward_arg__ for name, reference in passed_on(kind).__annotations__.items()}
    taken = of_the_bases(kind)
    assert typed == {name: taken[name] for name in typed}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_the_command_line_takes_the_same_options_with_defaults_and_help(
    kind: type[Any],
) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "method", skip={"supernet", "sampler"})
    shown = {action.dest.removeprefix("method."): action for action in parser._actions if "method." in action.dest}
    own = set(inspect.signature(kind.__init__).parameters) - {"self", "supernet", "sampler", "kwargs"}
    names = {name for name in shown if "." not in name and not name.endswith("help")}
    refused = {"perturbation"}  # which some methods have by inheritance, to refuse it
    assert names - refused == (own | set(passed_on(kind).__annotations__)) - refused
    assert all(str(shown[name].help).strip() for name in names)
    assert shown["weight_momentum"].default == 0.9 and shown["accumulate"].default == 1


def test_a_wrong_name_is_refused_when_a_search_is_built() -> None:
    from oneshot.testing import PlantedSupernet

    with pytest.raises(TypeError, match="unexpected keyword argument 'arch_lrr'"):
        oneshot.DARTS(PlantedSupernet(), arch_lrr=0.1)  # type: ignore[call-arg]  # that is the point
