"""Which network of a front to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from oneshot.supernets.space import Floats

from .numbers import rounded_up, short


def at_most(names: Sequence[str], values: Floats, bounds: Mapping[str, float], *, minimise: str | None = None) -> int:
    """Row with the smallest error, or the smallest value of another objective, among those that keep all bounds.

    Args:
        names: Of the objectives, M.
        values: Of a front, ``[N, M]``.
        bounds: Largest values of some objectives.
        minimise: The objective; by default the first that has no bound, which is the error unless that has one.

    Raises:
        ValueError: If an objective is unknown, or nothing keeps the bounds; the nearest is named.
    """
    columns = [_column(names, name) for name in bounds]
    limits = np.array(list(bounds.values()), dtype=np.float64)
    free = [name for name in names if name not in bounds] or list(names)
    target = _column(names, minimise or free[0])
    kept = (values[:, columns] <= limits).all(1)
    if not kept.any():
        over = ((values[:, columns] - limits) / np.maximum(np.abs(limits), 1e-12)).max(1)
        nearest = ", ".join(
            f"{name} {rounded_up(value)}" for name, value in zip(names, values[over.argmin()], strict=True)
        )
        wanted = " and ".join(f"{name} <= {limit:g}" for name, limit in bounds.items())
        raise ValueError(f"No network of the front has {wanted}; the nearest has {nearest}. Raise the bound to that.")
    rows = np.flatnonzero(kept)
    return int(rows[values[rows, target].argmin()])


def near(names: Sequence[str], values: Floats, point: Mapping[str, float]) -> int:
    """Row that is nearest to a point, in the objectives it names, each relative to its range in the front.

    Raises:
        ValueError: If an objective is unknown, or none is named.
    """
    if not point:
        raise ValueError(f"A point names some of the objectives {', '.join(names)}; got none.")
    columns = [_column(names, name) for name in point]
    part = values[:, columns]
    scale = np.ptp(part, axis=0)
    scaled = (part - np.array(list(point.values()))) / np.where(scale > 0, scale, 1.0)
    return int((scaled**2).sum(1).argmin())


def knee(values: Floats) -> int:
    """Row where giving up a little of one objective costs most of another.

    The point of the front that lies farthest in front of the hyperplane through the ends of the axes, all objectives
    scaled to their range in the front (Das, Structural Optimization 18, 1999).

    Example:
        >>> knee(np.array([[0.0, 10.0], [1.0, 2.0], [5.0, 1.0], [10.0, 0.0]]))
        1
    """
    scale = np.ptp(values, axis=0)
    scaled = (values - values.min(0)) / np.where(scale > 0, scale, 1.0)
    return int(scaled.sum(1).argmin())


def front_rows(names: Sequence[str], units: Sequence[str], values: Floats) -> list[dict[str, object]]:
    """A front as a table: one row for each network, by rising error; errors without a unit are shares, in per cent."""
    rows: list[dict[str, object]] = []
    for row in values[np.argsort(values[:, 0], kind="stable")]:
        texts: dict[str, object] = {
            f"{name} [{unit}]" if unit else name: short(v) for name, unit, v in zip(names, units, row, strict=True)
        }
        rows.append(texts if units[0] else {**texts, names[0]: f"{100 * row[0]:.2f} %"})
    return rows


def _column(names: Sequence[str], name: str) -> int:
    if name not in names:
        raise ValueError(f"The objectives of this front are {', '.join(names)}; got {name!r}.")
    return list(names).index(name)
