"""Errors of options in one line, with the nearest name.

This file imports nothing heavy, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, NoReturn

NOISE = (
    "Does not validate against any of the Union subtypes",
    "Subtypes: ",
    "Errors:",
    "Given value type: ",
    "Expected a <class 'NoneType'>",
    "Expected a path but ",
)
OTHER_CLASS = ", or a function that returns one"
WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "NoneType": "null",
    "list": "a list",
    "dict": "a mapping",
    "collections.abc.Iterable": "a list",
}
MOST_NAMES = 12  # that an error lists


class UsageError(ValueError):
    """Options that are wrong; the exit code of the command is 2."""


def did_you_mean(name: str, known: Iterable[str], *, dashes: str = "") -> str:
    """``" Did you mean 'x'?"``, or nothing if no known name is near.

    Args:
        name: The word that was written.
        known: The names there are.
        dashes: Text in front of the name that is shown.
    """
    names = {_bare(one): one for one in reversed([*known])}
    found = difflib.get_close_matches(_bare(name), names, n=1, cutoff=0.6)
    if not found:  # a part of it: lrr is near to arch_lr, and --epochs to --trainer.max_epochs
        found = [one for one in names if difflib.get_close_matches(_bare(name), re.split(r"[._-]", one), cutoff=0.75)]
    shown = [repr(dashes + names[one]) for one in sorted(found, key=lambda one: (len(one), one))[:3]]
    return f" Did you mean {' or '.join(shown)}?" if shown else ""


def with_article(noun: str) -> str:
    """``"an Evaluator"``, ``"a SearchStrategy"``."""
    return f"{'an' if noun[0] in 'AEIOU' else 'a'} {noun}"


def _bare(name: str) -> str:
    return name.lstrip("-")


def explain(message: str, known: Sequence[str] = ()) -> str:
    """An error of argparse or jsonargparse as one line: the option, the rule, what came, and the nearest name.

    Args:
        message: The error; jsonargparse lists every type that the option may have.
        known: Options there are, with their dashes.
    """
    if match := re.search(r"unrecognized arguments: (\S+)", message):
        name = match[1].partition("=")[0]
        if not name.startswith("-"):
            return f"{name!r} must follow an option, which begins with --; there is none before it. --help lists them."
        return f"There is no option {name}.{did_you_mean(name, known)} --help lists them."
    if match := re.match(r"argument (\S+): expected (one|at least one) argument", message):
        return f"{match[1]} must be followed by a value."
    if match := re.match(r"argument (\S+): invalid (int|float) value: (.*)", message):
        return f"{match[1]} must be {WORDS[match[2]]}; got {match[3]}."
    if match := re.search(r"argument (\S+): invalid choice: '(.*?)' \(choose from (.*)\)", message):
        choices = [choice.strip("' ") for choice in match[3].split(",")]
        there = f"must be one of {', '.join(choices)}; got {match[2]!r}."
        return f"{match[1]} {there}{did_you_mean(match[2], choices)}"
    if (match := re.match(r"the following arguments are required: (.*)", message)) and known:
        if all(f"--{name}" not in known for name in match[1].split(", ")):
            return f"{match[1].upper()} must be given. --help shows how."
        names = ", ".join(f"--{name}" if f"--{name}" in known else name for name in match[1].split(", "))
        return f"{names} must be given: as an option, or in a YAML file with --config. --help shows how."
    if match := re.match(r"Group '(.+?)' does not accept option '(.+?)'", message.removeprefix("Parser key ")):
        group = [option.removeprefix(f"--{match[1]}.") for option in known if option.startswith(f"--{match[1]}.")]
        return f"{match[1]} has no option {match[2]!r}.{did_you_mean(match[2], group)} --help-all lists them."
    reasons = _reasons(message, known)
    if not reasons:
        return " ".join(message.split())
    deepest = max(place.count(".") if place else -1 for place, _ in reasons)
    chosen = [(place, text) for place, text in reasons if (place.count(".") if place else -1) == deepest]
    # An option that may be of several classes: what is wrong with the one that was given says more.
    chosen = [reason for reason in chosen if OTHER_CLASS not in reason[1]] or chosen
    place = f"--{chosen[0][0]}: " if chosen[0][0] else ""
    return place + " ".join(dict.fromkeys(text for _, text in chosen))


def one_line(message: str) -> str:
    """Any error as one line; that of jsonargparse without the list of all types that an option may have."""
    marks = ("Does not validate against any of the Union subtypes", "Problem with given class_path", 'Parser key "')
    return explain(message) if any(mark in message for mark in marks) else " ".join(message.split())


def _reasons(message: str, known: Sequence[str] = ()) -> list[tuple[str, str]]:
    """The reasons of jsonargparse: pairs of the dotted name of an option and the innermost text about it."""
    stack: list[tuple[int, str]] = []
    classes: list[tuple[int, str]] = []
    found: list[tuple[str, str]] = []
    wanted: list[tuple[str, str]] = []
    value = ""
    for line in message.splitlines():
        indent, text = len(line) - len(line.lstrip(" -")), line.strip(" -")
        if match := re.match(r"Given value: (?:NestedArg\(key='.*?', val=)?(.*?)\)?$", text):
            value = "" if match[1].startswith("Namespace") else match[1]
            continue
        while match := re.match(r"(?:Parser key \"(.+?)\"|Problem with given class_path '(.+?)'):\s*", text):
            stack = [entry for entry in stack if entry[0] < indent]
            classes = [entry for entry in classes if entry[0] < indent]
            stack += [(indent, match[1])] if match[1] else []
            classes += [(indent, match[2])] if match[2] else []
            indent, text = indent + 1, text[match.end() :]
        if not text or text.startswith(NOISE):
            continue
        place = ".".join(name for level, name in stack if level < indent)
        kind = next((name for level, name in reversed(classes) if level < indent), "")
        if match := re.match(r"Expected a (.*?)(?:\. Got value: (.*))?$", text):
            if match[2] is None:
                wanted.append((place, match[1]))
            else:
                found.append((place, _must_be([match[1]], match[2])))
        else:
            found.append((place, _plain(text, kind, known)))
    if wanted and not found:
        found.append((wanted[0][0], _must_be([kind for _, kind in wanted], value)))
    return found


def _must_be(kinds: Sequence[str], value: str) -> str:
    choices: list[str] = []
    words: list[str] = []
    for kind in kinds:
        if match := re.match(r"typing\.Literal(\[.*\])", kind):
            choices += [str(choice) for choice in ast.literal_eval(match[1])]
        else:
            name = re.sub(r"<class '(.*)'>", r"\1", kind)
            words.append("the path of a class" if name.startswith("dot import path") else WORDS.get(name, name))
    if choices:
        words.append(f"one of {', '.join(dict.fromkeys(choices))}")
    value = value if len(value) <= 80 else f"{value[:80]}..."
    return f"must be {' or '.join(dict.fromkeys(words))}; got {value}.{did_you_mean(value.strip(chr(39)), choices)}"


def _plain(text: str, kind: str, known: Sequence[str]) -> str:
    """A reason in plain words, with the nearest name if a name is wrong."""
    if match := re.match(r"Option '(.+?)' is not accepted", text):
        name = match[1]
        if not kind:  # of the command: a key in a file
            near = did_you_mean(name, [_bare(option) for option in known])
            lower = " An option with a point in its name stands below the first part, indented." if "." in near else ""
            return f"There is no option {name!r}, which the configuration has.{near}{lower} --help lists the options."
        names = _arguments(kind)
        near = did_you_mean(name, names)
        if not near and 0 < len(names) <= MOST_NAMES:
            near = f" Its arguments are {', '.join(names)}."
        return f"Option {name!r} is not accepted by {kind}.{near}"
    if match := re.match(r"Import path ?(.*?) does not correspond to a subclass of (\w+)", text):
        what = f"; {match[1]} is neither" if match[1] else ""
        return f"must be a class that is {with_article(match[2])}{OTHER_CLASS}{what}. --help names some."
    if match := re.match(r"Expected an instantiatable class, but (\S+) is abstract", text):
        return f"must be a class that can be built; {match[1]} is abstract. --help names some."
    if match := re.match(r"(?:Key|Group key) '(.+?)' is not expected", text):
        return f"{text.rstrip('.')}."
    if match := re.match(r"the following arguments are required: (.*)", text):
        return f"{kind or 'it'} needs {match[1]} (the following arguments are required: {match[1]})."
    return name_classes(text)


def name_classes(text: str) -> str:
    """Add the nearest name in a module to a message that says that the module lacks a class."""
    match = re.search(r"module '([\w.]+)' has no attribute '(\w+)'", text)
    if match is None or "Did you mean" in text or (module := sys.modules.get(match[1])) is None:
        return text
    from oneshot.storage.class_paths import present_path

    written = f"{match[1]}.{match[2]}"
    if (present := present_path(written)) != written:
        return f"{text.rstrip('.')}. Did you mean {present!r}?"
    return f"{text.rstrip('.')}.{did_you_mean(match[2], dir(module), dashes=match[1] + '.')}"


def _arguments(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    try:
        found: Any = getattr(import_module(module), name)
        kinds = inspect.getmro(found) if isinstance(found, type) else (found,)
        # Arguments of its parents are options, too, because classes pass them on.
        given = [argument for kind in kinds if kind is not object for argument in inspect.signature(kind).parameters]
        return [argument for argument in dict.fromkeys(given) if argument not in ("args", "kwargs")]
    except (ImportError, AttributeError, ValueError, TypeError):
        return []


class OneLineErrors(argparse.ArgumentParser):
    """A parser, of argparse or jsonargparse, that says what is wrong in one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not getattr(self, "exit_on_error", True):
            super().error(message, *(() if ex is None else (ex,)))
        sys.stderr.write(f"{self.prog}: {explain(message, self.option_names())}\n")
        self.exit(2)
        raise SystemExit(2)  # jsonargparse may replace exit() by a function that returns

    def short_usage(self) -> str:
        """The usage without the list of all options, which the help has below."""
        words = [action.dest.upper() for action in self._actions if not action.option_strings]
        return " ".join([self.prog, *words, "[options]"])

    def option_names(self) -> list[str]:
        """All options, with their dashes."""
        return [option for action in self._actions for option in action.option_strings]
