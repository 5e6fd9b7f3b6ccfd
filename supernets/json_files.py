"""JSON that may be damaged, foreign or hostile: read strictly, and every value with the type that it must have.

Every error is one line of a ``ValueError``: the file, the line where there is one, the rule, and what came instead.
Standard library only.
"""

from __future__ import annotations

import difflib
import json
import math
import stat
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

T = TypeVar("T")

LARGEST = 1 << 30  # bytes of a file that is read as a whole
DEEPEST = 100  # levels of lists and objects; more would exhaust the stack of whatever walks through them
SHOWN = 80  # characters of a value in an error

MayBeNaN = Annotated[float, "NaN"]
"""A number that need not be finite."""


@dataclass(frozen=True)
class AtLeast:
    """Bound of a number, for ``Annotated[int, AtLeast(0)]``."""

    value: float


def read_content(path: str | Path) -> bytes:
    """The bytes of a file.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is a folder, or something that may never end (a pipe, a device), or larger than 1 GiB.
        OSError: If it cannot be read; the file is named.
    """
    path = Path(path)
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise ValueError(f"{path} must be a file; it is {kind}.")
    if status.st_size > LARGEST:
        raise ValueError(f"{path} must have at most {LARGEST:,} bytes; it has {status.st_size:,}.")
    return path.read_bytes()


def read_text(path: str | Path, *, advice: str = "") -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Args:
        path: The file.
        advice: The way out, last in an error.

    Raises:
        ValueError, OSError: See :func:`read_content`; also if it is not UTF-8.
    """
    return decode(read_content(path), str(path), advice=advice)


def decode(content: bytes, where: str, *, advice: str = "") -> str:
    """Bytes as text.

    Raises:
        ValueError: If they are not UTF-8; ``where`` and the line are named.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            _one_line(f"{where} must be UTF-8 text; byte {error.start} (line {line}) is not. {advice}")
        ) from error


def read_json(path: str | Path, *, advice: str = "", not_finite: bool = False) -> Any:
    """The value of a JSON file; see :func:`parse_json`.

    Raises:
        ValueError, OSError: See :func:`read_content` and :func:`parse_json`.
    """
    return parse_json(read_text(path, advice=advice), str(path), advice=advice, not_finite=not_finite)


def parse_json(text: str | bytes, where: str, *, advice: str = "", not_finite: bool = False) -> Any:
    """The value of a JSON text. What Python's reader takes in silence is an error: a key that comes twice, NaN.

    Args:
        text: The text.
        where: What errors call it: the file, and the line where a line is the text.
        advice: The way out, last in an error.
        not_finite: Whether NaN and Infinity are numbers, as Python writes them.

    Raises:
        ValueError: If it is not JSON, a key comes twice, a number is not finite, or it is nested too deep.
    """
    if isinstance(text, bytes):
        text = decode(text, where, advice=advice)
    constant, number = (float, float) if not_finite else (_no_number, _number)
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=constant, parse_float=number)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half of a pair of surrogates is no text
        _check_depth(value)
    except RecursionError as error:
        raise ValueError(_one_line(f"{where} must not be nested deeper than {DEEPEST} levels. {advice}")) from error
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}" if "\n" in text.strip() else f"column {error.colno}"
        raise ValueError(_one_line(f"{where} must be JSON; {error.msg} at {at}. {advice}")) from error
    except ValueError as error:
        reason = "a whole number has too many digits" if "set_int_max_str_digits" in str(error) else error
        raise ValueError(_one_line(f"{where} must be JSON; {reason}. {advice}")) from error
    return value


def checked(value: object, kind: type[T], where: str, *, advice: str = "") -> T:
    """``value``, if it is of a kind.

    Args:
        value: Out of JSON or YAML.
        kind: ``str``, ``bool``, ``int``, ``float`` (an int is one, too), ``dict`` and ``list`` with or without
            arguments, unions, ``Literal``, ``Any``, a ``TypedDict`` or a dataclass (objects with these keys and no
            others; ``total=False`` for keys that may lack), ``Annotated[..., AtLeast(0)]``, :data:`MayBeNaN`.
        where: What errors call it.
        advice: The way out, last in an error.

    Raises:
        ValueError: Naming the place of the first value that is of another type, is not finite, or has too many digits
            for 64 bits, and keys that are missing or unknown.

    Example:
        >>> checked({"a": [1, 2]}, dict[str, list[int]], "table.json")
        {'a': [1, 2]}
        >>> checked({"a": [1, "2"]}, dict[str, list[int]], "table.json")
        Traceback (most recent call last):
        ...
        ValueError: table.json: a[1] must be a whole number; got '2'.
    """
    if misfit := _misfit(value, kind, ""):
        raise ValueError(_one_line(f"{where}{misfit} {advice}"))
    return cast(T, value)


def nearest(name: str, known: Sequence[str]) -> str:
    """``" Did you mean 'x'?"``, or nothing if no known name is near."""
    found = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {found[0]!r}?" if found else ""


def shorten(value: object, limit: int = SHOWN) -> str:
    """A value in an error: one line, not long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number with thousands of digits has no text
        text = f"{type(value).__name__} that is too large to show"
    return text if len(text) <= limit else f"{text[:limit]}..."


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {shorten(next(n for n in names if names.count(n) > 1))} comes twice")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _number(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{shorten(text)} is too large a number")
    return value


def _check_depth(value: object) -> None:
    level: list[Any] = [value]
    for _ in range(DEEPEST + 1):
        level = [outer for outer in level if isinstance(outer, dict | list)]
        if not level:
            return
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
    raise RecursionError


def _misfit(value: object, kind: Any, place: str) -> str | None:
    """What is wrong with a value, from the end of the name of its file on; None if nothing is."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or kind is object:
        return None
    if is_typeddict(kind) or (is_dataclass(kind) and isinstance(kind, type)):
        return _misfit_of_object(value, kind, place)
    if origin is Annotated:
        return _misfit_of_number(value, arguments[0], arguments[1:], place)
    if origin in (Union, types.UnionType):
        return _misfit_of_union(value, kind, arguments, place)
    if origin is Literal:
        return None if any(value == one and type(value) is type(one) for one in arguments) else _say(value, kind, place)
    if kind is None or kind is type(None):
        return None if value is None else _say(value, kind, place)
    outer = origin or kind
    if outer in (int, float):
        return _misfit_of_number(value, outer, (), place)
    outer = {tuple: list, Sequence: list, Mapping: dict}.get(outer, outer)
    if not isinstance(value, outer) and not (outer is list and isinstance(value, tuple)):
        return _say(value, kind, place)
    if outer is dict:
        for key, inner in cast(dict[Any, Any], value).items():
            if not isinstance(key, str):
                return f"{_where(place)} must have texts for keys; got {shorten(key)}."
            if arguments and (found := _misfit(inner, arguments[1], f"{place}.{key}" if place else key)):
                return found
    elif outer is list and arguments:
        items = cast(list[Any], value)
        if outer is not kind and origin is tuple and arguments[-1] is not Ellipsis:
            if len(items) != len(arguments):
                return f"{_where(place)} must have {len(arguments)} values; got {shorten(value)}."
            kinds: Sequence[Any] = arguments
        else:
            kinds = (arguments[0],) * len(items)
        for i, (inner, its) in enumerate(zip(items, kinds, strict=True)):
            if found := _misfit(inner, its, f"{place}[{i}]"):
                return found
    return None


def _misfit_of_object(value: object, kind: Any, place: str) -> str | None:
    if not isinstance(value, dict):
        return _say(value, dict, place)
    hints = get_type_hints(kind, include_extras=True)
    needed = kind.__required_keys__ if is_typeddict(kind) else {field.name for field in fields(kind)}
    if missing := sorted(needed - value.keys()):
        return f"{_where(place)} must have the key {missing[0]!r}; it has {shorten(sorted(map(str, value)))}."
    if unknown := sorted(str(key) for key in value.keys() - hints.keys()):
        return f"{_where(place)} has the unknown key {shorten(unknown[0])}.{nearest(unknown[0], list(hints))}"
    for name, inner in value.items():
        if found := _misfit(inner, hints[name], f"{place}.{name}" if place else name):
            return found
    return None


def _misfit_of_union(value: object, kind: Any, arguments: tuple[Any, ...], place: str) -> str | None:
    found = [_misfit(value, one, place) for one in arguments]
    if None in found:
        return None
    if value is not None and len(real := [one for one in arguments if one is not type(None)]) == 1:
        return _misfit(value, real[0], place)  # says more than that it is neither
    return _say(value, kind, place)


def _misfit_of_number(value: object, kind: Any, rules: tuple[object, ...], place: str) -> str | None:
    if kind not in (int, float):
        return _misfit(value, kind, place)
    fits = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if fits and isinstance(value, int):
        fits = -(2**63) <= value < 2**63
    elif fits and "NaN" not in rules:
        fits = math.isfinite(cast(float, value))
    if not fits:
        return _say(value, kind, place)
    for rule in rules:
        if isinstance(rule, AtLeast) and not cast(float, value) >= rule.value:
            return f"{_where(place)} must be at least {rule.value:g}; got {shorten(value)}."
    return None


def _say(value: object, kind: Any, place: str) -> str:
    return f"{_where(place)} must be {_words(kind)}; got {shorten(value)}."


def _where(place: str) -> str:
    return f": {place}" if place else ""


def _words(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is Annotated:
        return _words(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(map(_words, arguments))
    outer = origin or kind
    names: dict[Any, str] = {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false"}
    names |= {list: "a list", tuple: "a list", Sequence: "a list", None: "null", type(None): "null"}
    return names.get(outer, "an object")
