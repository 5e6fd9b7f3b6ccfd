"""Options that data modules pass on have names and types: for mypy, and, from signatures, for the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser

import oneshot.data
from oneshot.data import LabelledData, TableData, TimeSeries
from oneshot.data import options as module
from oneshot.data.vision import TorchvisionData

# What constructors have by inheritance, and refuse.
REFUSED = {name: {"train_transforms", "eval_transforms"} for name in ("SegmentationFolder", "Shapes")}
NAMES = ["CIFAR10", "CIFAR100", "Digits", "FakeImages", "FashionMNIST", "ImageFolder", "TableData", "TimeSeries"]
CLASSES = [getattr(oneshot.data, name) for name in [*NAMES, *REFUSED]]


def taken_by(function: Callable[..., Any]) -> dict[str, str]:
    """Names and types of the arguments of a function, as they are written, but ``**options``."""
    found = inspect.signature(function).parameters.values()
    return {one.name: one.annotation for one in found if one.kind is not one.VAR_KEYWORD and one.name != "self"}


def passed_on(function: Callable[..., Any]) -> dict[str, str]:
    """Names and types of the options that a function passes on, as they are written."""
    annotation = str(inspect.signature(function).parameters["options"].annotation)
    assert annotation.startswith("Unpack[")
    kind = getattr(module, annotation.removeprefix("Unpack[").removesuffix("]"))
    return {name: reference.__forward_arg__ for name, reference in kind.__annotations__.items()}


def of_the_bases(kind: type[Any]) -> dict[str, str]:
    """Names and types of what the constructors of the base classes take."""
    found: dict[str, str] = {}
    for base in kind.__mro__[1:]:
        if "__init__" in base.__dict__ and base.__module__.startswith("oneshot"):
            found = taken_by(base.__dict__["__init__"]) | found
    return found


@pytest.mark.parametrize("kind", [*CLASSES, TorchvisionData], ids=lambda kind: kind.__name__)
def test_the_types_of_passed_on_options_are_those_of_the_constructors_that_take_them(kind: type[Any]) -> None:
    owner = next(base for base in kind.__mro__ if "__init__" in base.__dict__)
    typed, taken = passed_on(owner.__init__), of_the_bases(owner)
    assert typed and typed == {name: taken[name] for name in typed}


@pytest.mark.parametrize(
    ("function", "not_for_a_file"),
    [
        (TableData.from_csv, {"x", "y", "y_test", "names", "target"}),
        (TimeSeries.from_npz, {"x", "y", "x_test", "y_test"}),
    ],
)
def test_the_options_of_a_file_are_those_of_the_class_without_what_is_in_the_file(
    function: Any, not_for_a_file: set[str]
) -> None:
    constructor = function.__self__.__init__
    taken = taken_by(constructor) | passed_on(constructor)
    assert passed_on(function) == {name: taken[name] for name in taken.keys() - not_for_a_file}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_the_command_line_takes_the_same_options_with_defaults_and_help(kind: type[LabelledData[Any]]) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "data")
    shown = {action.dest.removeprefix("data."): action for action in parser._actions if "data." in action.dest}
    names = {name for name in shown if not name.endswith(".help")}
    typed = taken_by(kind.__init__) | passed_on(kind.__init__)
    assert names - REFUSED.get(kind.__name__, set()) == set(typed)
    assert all(str(shown[name].help).strip() for name in names)
    assert shown["batch_size"].default == 64 and shown["val_fraction"].default == 0.0


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_the_command_line_reads_passed_on_options_by_type(kind: type[LabelledData[Any]]) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "data", skip={"root", "x"})
    read = parser.parse_args(["--data.batch_size=8", "--data.seed=3", "--data.balanced=true"]).data
    assert (read.batch_size, read.seed, read.balanced) == (8, 3, True)
    with pytest.raises(Exception, match="batch_size"):
        parser.parse_args(["--data.batch_size=many"])


def test_a_wrong_name_is_refused_when_data_are_built(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n" + "".join(f"{i},{i / 7}\n" for i in range(20)), encoding="utf-8")
    assert TableData.from_csv(path, target="y", batch_size=8).batch_size == 8
    with pytest.raises(TypeError, match="unexpected keyword argument 'batch_sze'"):
        TableData.from_csv(path, target="y", batch_sze=8)  # type: ignore[call-arg]  # that is the point
