"""The table of commands fits the files and the help that belong to it."""

from __future__ import annotations

import inspect
from argparse import ArgumentParser
from importlib import import_module

import pytest

from oneshot.cli import short_help
from oneshot.cli.commands import COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_the_file_of_a_command_has_a_function_that_takes_its_options(name: str) -> None:
    function, declare = getattr(import_module(f"oneshot.cli.{name}"), name), COMMANDS[name].options
    parameters = inspect.signature(function).parameters
    if declare is None:
        assert list(parameters) == ["args"] and name in short_help.COMMANDS
        return
    parser = ArgumentParser(add_help=False)
    declare(parser)
    more = {"data_options"} if COMMANDS[name].reads_data else set()
    declared = {action.dest for action in parser._actions} | more
    needed = {p.name for p in parameters.values() if p.default is p.empty}
    assert needed <= declared <= set(parameters) and name not in short_help.COMMANDS
