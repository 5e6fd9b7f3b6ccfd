"""The rooms of the project, who may import whom, and the drawing of both: ``make architecture``.

A room is a folder, or a file where a folder has files of several floors. `ROOMS` is the one table: the test of the
imports reads it, and so do the picture and the list in docs/architecture.md.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"oneshot": "oneshot", "supernets": "oneshot.supernets", "callbacks": "oneshot.callbacks"}
PAGE, PICTURE = "docs/architecture.md", "docs/images/rooms.svg"
BEGIN, END = "<!-- rooms: written by make architecture -->", "<!-- end of rooms -->"


class Room(NamedTuple):
    """What a room holds, and which others its files may import; ``cost.*`` is all rooms of that folder."""

    holds: str
    imports: str = ""


# From the ground up: a room stands below those that import it.
ROOMS = {
    "_lazy": Room("packages whose names are imported on first use"),
    "inputs": Room("inputs of networks: one tensor, or several by name"),
    "_typing": Room("how types of passed-on options are written"),
    "tasks": Room("what outputs are for: loss, metric, direction, decoding", "_lazy inputs"),
    "supernets": Room("search spaces, networks with shared weights, the networks they yield"),
    "errors": Room("errors that callers may want to catch"),
    "quantisation": Room("ONNX models of floats as models of INT8", "errors"),
    "random_numbers": Room("random numbers of their own for a part of a process"),
    "_version": Room("the version"),
    "_stability": Room("marks of what is experimental, or on its way out"),
    "_lightning": Room("what we use of PyTorch and Lightning under private names"),
    "fronts": Room("dominance, hypervolume, evolution, which network of a front to take", "supernets"),
    "storage": Room("files: written whole, read strictly, locked, trusted or not", "_lightning supernets"),
    "functional": Room("formulas without state", "errors supernets"),
    "parallel": Room("processes and clusters", "errors storage"),
    "regression": Room("encodings, models, and scores of how well they predict", "supernets"),
    "training": Room(
        "one network's training: tasks, checks, exact resuming",
        "_lightning _version errors functional regression random_numbers storage supernets",
    ),
    "cost.counting.network": Room("exact size of one network", "_lightning supernets"),
    "conversion": Room(
        "a trained network as a search space", "_lightning cost.counting.network errors functional storage supernets"
    ),
    "cost.record": Room("which networks and which device a cost is of", "cost.counting.network storage supernets"),
    "cost.model": Room("what a cost model is", "cost.record functional supernets"),
    "cost.counting": Room(
        "exact size of every architecture, from tables",
        "_lightning conversion cost.counting.network cost.model cost.record supernets",
    ),
    "cost.latency": Room(
        "latency: device, design, measurement, tables",
        "cost.counting cost.counting.network cost.model cost.record errors quantisation regression storage supernets",
    ),
    "cost.learned": Room(
        "costs learned from hundreds of measurements, or from ten",
        "cost.counting cost.latency cost.model cost.record regression storage supernets",
    ),
    "cost": Room(
        "penalties, bounds and targets of a search; what a space costs", "cost.* fronts functional regression supernets"
    ),
    "data": Room("image sets, folders, text, and their streams", "errors random_numbers storage supernets training"),
    "evaluation": Room(
        "accuracy by inherited weights, recalibration, images", "_lightning errors random_numbers supernets training"
    ),
    "proxies": Room(
        "scores of networks that were not trained",
        "_lightning cost.counting.network errors evaluation random_numbers regression storage supernets training",
    ),
    "engine": Room(
        "the search loops and samplers", "_lightning _stability cost.* evaluation functional supernets training"
    ),
    "policy": Room("the LSTM that draws architectures, and its loss", "functional supernets"),
    "methods": Room(
        "one paper, one file",
        "_lightning _stability cost.* engine errors evaluation functional policy supernets training",
    ),
    "nat": Room(
        "Pareto search over a trained supernet",
        "_lightning cost.* engine errors evaluation fronts functional parallel regression storage supernets training",
    ),
    "discrete": Room("ask and tell: the protocol and studies", "fronts parallel storage supernets"),
    "discrete.graphs": Room("networks as graphs, and morphisms", "evaluation functional storage supernets training"),
    "discrete.strategies": Room(
        "one paper, one file",
        "cost.* discrete discrete.graphs fronts functional policy regression supernets",
    ),
    "discrete.evaluators": Room(
        "answers from tables, inherited weights, trainings",
        "cost.* discrete discrete.graphs errors evaluation proxies regression random_numbers storage supernets "
        "training",
    ),
    "deploy": Room(
        "networks as files, each verified",
        "_version cost.* errors evaluation functional quantisation storage supernets training",
    ),
    "report": Room("pictures, tables and pages", "_version cost.* discrete fronts storage supernets"),
    "comparison": Room(
        "methods against each other: runs, results, what differences are worth",
        "_version cost.* data discrete engine fronts parallel report random_numbers storage supernets training",
    ),
    "testing": Room("contract tests for spaces and methods of users", "_lightning discrete engine supernets training"),
    "callbacks": Room(
        "what a search logs, draws, writes and watches",
        "_lightning cost.* deploy engine evaluation fronts functional nat report storage supernets training",
    ),
    "cli": Room("one command, one file", "*"),
}
GROUND = ("_lazy", "_typing", "inputs", "tasks")  # rooms that all others may import
# Files whose room is another one than that of their folder.
ELSEWHERE = {"cost.counting.operators": "cost.counting.network"}
FRONT_DOOR = ("oneshot", "oneshot.__main__")  # may import everything; nobody imports it


def modules(root: Path) -> dict[Path, str]:
    """All source files below ``root`` with their module names."""
    found = {}
    for folder, mount in FOLDERS.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = [mount, *path.relative_to(root / folder).with_suffix("").parts]
            found[path] = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return found


def room_of(module: str) -> str:
    """The room of a module; "" for the front door.

    Raises:
        ValueError: If the table has no room for it.
    """
    if module in FRONT_DOOR:
        return ""
    name = module.removeprefix("oneshot.")
    name = ELSEWHERE.get(name, name)
    while name and name not in ROOMS:
        name = name.rpartition(".")[0]
    if not name:
        raise ValueError(f"{module} must lie in a room of tests/rooms.py. Move it to one, or add a room with a rule.")
    return name


def may_import(room: str) -> set[str]:
    """The rooms that files of ``room`` may import, beside their own."""
    found: set[str] = set()
    for name in ROOMS[room].imports.split():
        if name == "*":
            found |= set(ROOMS)
        elif name.endswith(".*"):
            found |= {other for other in ROOMS if other == name[:-2] or other.startswith(name[:-1])}
        else:
            found.add(name)
    return (found if room in GROUND else found | set(GROUND)) - {room}


def imports(tree: ast.AST, package: str) -> Iterator[tuple[int, str, str | None, bool]]:
    """Yield (line, module, imported name, whether relative), also inside functions and `if TYPE_CHECKING`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, None, False
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            for alias in node.names:
                yield node.lineno, module, alias.name, node.level > 0
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            name = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else "."
            if not str(name).startswith("."):
                yield node.lineno, str(name), None, False


def edges(root: Path) -> dict[str, set[str]]:
    """Which rooms the files of a room import. What a package offers (``__init__.py``) is no import of its own."""
    files = modules(root)
    known = set(files.values())
    inhabited = {room_of(module) for module in known}
    found: dict[str, set[str]] = {room: set() for room in ROOMS if room in inhabited}
    for path, module in files.items():
        if path.name == "__init__.py" or module in FRONT_DOOR:
            continue
        for _, target, name, _ in imports(ast.parse(path.read_text(encoding="utf-8")), module.rpartition(".")[0]):
            full = f"{target}.{name}" if f"{target}.{name}" in known else target
            if full in known and (other := room_of(full)) and other != room_of(module):
                found[room_of(module)].add(other)
    return found


def floors(graph: Mapping[str, set[str]]) -> dict[str, int]:
    """The floor of every room: one above the highest that it imports, 0 on the ground.

    Raises:
        ValueError: If rooms import each other in a circle.
    """
    found: dict[str, int] = {}

    def floor(room: str, above: tuple[str, ...]) -> int:
        if room in above:
            circle = " > ".join([*above[above.index(room) :], room])
            raise ValueError(f"Rooms must not import each other in a circle; these do: {circle}.")
        if room not in found:
            found[room] = 1 + max((floor(other, (*above, room)) for other in graph[room]), default=-1)
        return found[room]

    for room in graph:
        floor(room, ())
    return found


def upward(graph: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """Imports that the table does not allow."""
    return [(room, other) for room, others in graph.items() for other in sorted(others - may_import(room))]


def listing(graph: Mapping[str, set[str]]) -> str:
    """The rooms as a table for the page, the top floor first."""
    level = floors(graph)
    rows = ["| floor | room | holds | imports |", "|---|---|---|---|"]
    for room in sorted(graph, key=lambda room: (-level[room], room)):
        theirs = ", ".join(f"`{other}`" for other in sorted(graph[room]))
        rows.append(f"| {level[room]} | `{room}` | {ROOMS[room].holds} | {theirs or 'nothing of ours'} |")
    return "\n".join(rows)


def arrows(graph: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """Imports that do not follow from others."""
    level = floors(graph)
    reach: dict[str, set[str]] = {}
    for room in sorted(graph, key=lambda room: level[room]):
        reach[room] = graph[room].union(*(reach[other] for other in graph[room]))
    return [
        (room, other)
        for room, others in graph.items()
        for other in sorted(others)
        if not any(other in reach[between] for between in others - {other})
    ]


def places(graph: Mapping[str, set[str]], width: float, height: float) -> dict[str, tuple[float, float]]:
    """The middle of every room; rooms of a floor are ordered so that arrows are short."""
    level, drawn = floors(graph), arrows(graph)
    top = max(level.values())
    rows = [sorted(room for room in graph if level[room] == n) for n in range(top + 1)]

    def x(row: Sequence[str]) -> dict[str, float]:
        return {room: 40 + (width - 40) * (i + 0.5) / len(row) for i, room in enumerate(row)}

    at = {room: place for row in rows for room, place in x(row).items()}
    for sweep in range(20):
        for n in range(top + 1) if sweep % 2 else range(top, -1, -1):
            near = {
                room: [at[b] for a, b in drawn if a == room] + [at[a] for a, b in drawn if b == room]
                for room in rows[n]
            }
            rows[n].sort(key=lambda room: (sum(near[room]) / max(len(near[room]), 1), room))
            at |= x(rows[n])
    return {room: (at[room], (top - level[room] + 0.5) * height) for room in graph}


def drawing(graph: Mapping[str, set[str]]) -> str:
    """The rooms on their floors as SVG. Of the arrows only those that follow from no others."""
    width, height, half = 1000, 92, 18
    at, level = places(graph, width, height), floors(graph)
    total = (max(level.values()) + 1) * height
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="13">',
        f'<rect width="{width}" height="{total}" fill="#ffffff"/>',
        '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="3" orient="auto">'
        '<path d="M0,0 L7,3 L0,6 z" fill="#0072b2"/></marker></defs>',
        *(
            f'<text x="10" y="{total - (n + 0.5) * height + 5:.0f}" fill="#767676">{n}</text>'
            for n in sorted(set(level.values()))
        ),
    ]
    for room, other in arrows(graph):
        (x, y), (x2, y2) = at[room], at[other]
        bend = 0.45 * height
        parts.append(
            f'<path d="M{x:.0f},{y + half:.0f} C{x:.0f},{y + half + bend:.0f} {x2:.0f},{y2 - half - bend:.0f} '
            f'{x2:.0f},{y2 - half:.0f}" stroke="#0072b2" stroke-opacity="0.5" fill="none" marker-end="url(#tip)"/>'
        )
    for room, (x, y) in at.items():
        wide = 7.5 * len(room) + 24
        parts.append(
            f'<rect x="{x - wide / 2:.0f}" y="{y - half:.0f}" width="{wide:.0f}" height="{2 * half}" rx="4" '
            f'fill="#f3f3f3" stroke="#777777"><title>{escape(f"{room}: {ROOMS[room].holds}")}</title></rect>'
            f'<text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle" fill="#222222">{escape(room)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def lines(root: Path) -> tuple[int, int]:
    """Lines of code without tests and experiments: neither empty ones, nor comments alone on a line, nor docstrings.

    Returns:
        All of them, and those of import statements, which grow with the number of files.
    """
    count, importing = 0, 0
    for path in modules(root):
        text = path.read_text(encoding="utf-8")
        code = {number for number, line in enumerate(text.splitlines(), 1) if line.strip() and line.strip()[0] != "#"}
        for node in ast.walk(ast.parse(text)):
            body = getattr(node, "body", None)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and body and ast.get_docstring(node):
                code -= set(range(body[0].lineno, (body[0].end_lineno or 0) + 1))
            if isinstance(node, ast.Import | ast.ImportFrom):
                importing += (node.end_lineno or 0) - node.lineno + 1
        count += len(code)
    return count, importing


def pages(root: Path) -> dict[str, str]:
    """What ``make architecture`` writes: texts by path."""
    graph = edges(root)
    page = (root / PAGE).read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    return {
        PAGE: pattern.sub(lambda _: f"{BEGIN}\n{listing(graph)}\n{END}", page),
        PICTURE: drawing(graph),
    }


def main() -> None:
    """Write the drawing and the list, and print how the house stands."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--root", type=Path, default=ROOT, help="checkout to read (this one)")
    parser.add_argument("--print", action="store_true", help="write nothing")
    options = parser.parse_args()
    graph = edges(options.root)
    if not options.print:
        for name, text in pages(options.root).items():
            (options.root / name).write_text(text, encoding="utf-8")
    up = upward(graph)
    code, importing = lines(options.root)
    said = [
        f"{len(graph)} rooms on {max(floors(graph).values()) + 1} floors, {len(up)} imports against the rules",
        *(f"  {room} imports {other}" for room, other in up),
        f"{code:,} lines of code without tests, comments and docstrings, {importing:,} of them imports; "
        f"{len(modules(options.root))} files",
    ]
    sys.stdout.write("\n".join(said) + "\n")


if __name__ == "__main__":
    main()
