"""Tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from oneshot.fronts.numbers import scale_of

if TYPE_CHECKING:
    from rich.table import Table


_NUMBERS = (int, float, np.integer, np.floating)


def network_table(rows: Sequence[Mapping[str, Any]], title: str | None = None) -> Table:
    """Makes a table of networks, or of anything else: one line per mapping, one column per key.

    Columns come in the order in which the keys first appear. Columns of numbers are right-justified with the same
    number of decimals in all lines; a missing value or None is shown as a dash.

    Args:
        rows: The lines.
        title: Heading of the table.

    Returns:
        A table for ``rich.print`` or a ``rich.console.Console``.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title) if title else None, title_justify="left")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = []
    for column in columns:
        values = [row.get(column) for row in rows]
        numbers = [float(v) for v in values if isinstance(v, _NUMBERS) and not isinstance(v, bool)]
        texts = [v for v in values if isinstance(v, bool) or not (v is None or isinstance(v, _NUMBERS))]
        table.add_column(Text(column), justify="right" if numbers and not texts else "left", no_wrap=bool(numbers))
        cells.append([Text(_format(value, numbers)) for value in values])
    for line in zip(*cells):
        table.add_row(*line)
    return table


def _format(value: object, column: Sequence[float]) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{int(value):,}"
    if isinstance(value, float | np.floating):
        largest = max((abs(v) for v in column if math.isfinite(v)), default=0.0)
        if 0 < largest < 1e-2:
            return f"{float(value):.2e}"
        decimals = 4 if largest < 2 else 2 if largest < 1000 else 0
        return f"{float(value):,.{decimals}f}"
    return str(value)


def comparison_table(
    found: Mapping[str, float],
    random: Sequence[Mapping[str, float]],
    *,
    title: str = "Found network against random ones",
) -> Table:
    """Compares a found network with random networks of the same space, trained the same way.

    Args:
        found: ``accuracy`` as a fraction, ``params`` and ``macs`` as counts.
        random: The same of each random network.
        title: Heading of the table.

    Returns:
        Table with the found network, the mean and sample standard deviation (N - 1) of the random networks, and the
        most accurate of them. Accuracy in percent, counts in thousands or millions.

    Raises:
        ValueError: If there is no random network.
    """
    from rich.table import Table
    from rich.text import Text

    if not random:
        raise ValueError("comparison_table must get at least one random network; got none.")
    best = max(random, key=lambda network: network["accuracy"])
    table = Table(title=Text(title), title_justify="left")
    several = f"random, mean ± std of {len(random)}" if len(random) > 1 else "random, 1 network"
    lines = [["found"], [several], ["random, most accurate"]]
    table.add_column("network")
    for key, name in (("accuracy", "accuracy [%]"), ("params", "params"), ("macs", "MACs")):
        values = np.array([network[key] for network in random], dtype=np.float64)
        unit, letter = (0.01, "") if key == "accuracy" else scale_of(max(float(found[key]), float(values.max())))
        table.add_column(Text(f"{name} [{letter}]" if letter else name), justify="right", no_wrap=True)
        decimals = 0 if unit == 1.0 else 2
        spread = f" ± {values.std(ddof=1) / unit:,.{decimals}f}" if len(values) > 1 else ""
        lines[0].append(f"{found[key] / unit:,.{decimals}f}")
        lines[1].append(f"{values.mean() / unit:,.{decimals}f}{spread}")
        lines[2].append(f"{best[key] / unit:,.{decimals}f}")
    for line in lines if len(random) > 1 else lines[:2]:
        table.add_row(*map(Text, line))
    return table
