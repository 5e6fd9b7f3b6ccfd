"""Texts of genotypes as repositories and logs print them: parsed, never evaluated. No torch."""

from __future__ import annotations

import ast
import re
import textwrap
from typing import Any

WRAPPERS = re.compile(r"list|tuple|array|asarray|str|str_|int|long|intp|u?int(8|16|32|64)")  # NumPy's names for values
LONGEST_RANGE = 1000
ERRORS = (SyntaxError, KeyError, TypeError, ValueError, RecursionError, MemoryError)


def genotype_fields(text: str) -> dict[str, Any]:
    """Arguments of the one genotype in a text, by name.

    Around ``Genotype(...)`` there may be an assignment, imports, comments, a semicolon or the rest of a line of a log;
    inside, NumPy's numbers (``np.int64(0)``), ``range(2, 6)``, comments and line breaks.

    Args:
        text: The text.

    Raises:
        SyntaxError, TypeError, ValueError, RecursionError, MemoryError: If there is none, or several that differ.

    Example:
        >>> genotype_fields("best = Genotype(recurrent=[('tanh', np.int64(0))], concat=range(1, 2));  # epoch 9")
        {'recurrent': [('tanh', 0)], 'concat': [1]}
    """
    calls = _calls(text)
    if not calls:
        raise ValueError("not a call with keyword arguments")
    if len({ast.dump(call) for call in calls}) > 1:
        raise ValueError(f"{len(calls)} genotypes; give one of them")
    return {str(keyword.arg): _value(keyword.value) for keyword in calls[0].keywords}


def _calls(text: str) -> list[ast.Call]:
    try:
        found = _statements(text)
    except SyntaxError:
        if not (parts := _cut(text)):
            raise
        found = [call for part in parts for call in _statements(part)]
    else:
        found = found or [call for part in _cut(text) for call in _statements(part)]  # print(Genotype(...))
    return found


def _statements(text: str) -> list[ast.Call]:
    body = ast.parse(textwrap.dedent(text).strip()).body
    values = [statement.value for statement in body if isinstance(statement, ast.Expr | ast.Assign | ast.AnnAssign)]
    return [v for v in values if isinstance(v, ast.Call) and v.keywords and not v.args]


def _cut(text: str) -> list[str]:
    """Every ``Genotype(...)`` of a text, up to the bracket that closes it."""
    return [text[match.start() : _end(text, match.end())] for match in re.finditer(r"\bGenotype\s*\(", text)]


def _end(text: str, start: int) -> int:
    """Where the bracket closes that opened before ``start``; the end of the text if it does not."""
    open_brackets = 1
    for token in re.finditer(r"#[^\n]*|'[^'\n]*'|\"[^\"\n]*\"|[()]", text[start:]):
        open_brackets += {"(": 1, ")": -1}.get(token.group(), 0)
        if not open_brackets:
            return start + token.end()
    return len(text)


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.List | ast.Tuple):
        values = [_value(element) for element in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    if not isinstance(node, ast.Call):
        return ast.literal_eval(node)
    name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
    if name == "range":
        states = range(*(int(_value(argument)) for argument in node.args))
        if len(states) > LONGEST_RANGE:
            raise ValueError(f"a range of {len(states)} states; at most {LONGEST_RANGE} make sense")
        return list(states)
    if WRAPPERS.fullmatch(name) and len(node.args) == 1:
        return _value(node.args[0])
    raise ValueError(f"malformed: {ast.unparse(node)[:60]!r} is no value")
