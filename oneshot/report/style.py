"""Resolution, colours and axes of all pictures, and how a picture becomes a file."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from oneshot.storage.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


DPI = 150

SUFFIXES = (".png", ".svg", ".pdf")

INK, MUTED, FAINT = "#222222", "#767676", "#D0D0D0"

CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#882255", "#999933", "#44AA99")

DASHES = ("-", "--", ":", "-.")

_OP_COLOURS = {
    "none": "#BBBBBB",
    "skip_connect": "#222222",
    "max_pool_3x3": "#009E73",
    "avg_pool_3x3": "#7CCBAF",
    "sep_conv_3x3": "#0072B2",
    "sep_conv_5x5": "#56B4E9",
    "sep_conv_7x7": "#332288",
    "dil_conv_3x3": "#D55E00",
    "dil_conv_5x5": "#E69F00",
    "nor_conv_1x1": "#CC79A7",
    "nor_conv_3x3": "#882255",
    "noise": "#999933",
}


def op_colours(ops: Iterable[str]) -> dict[str, str]:
    """A colour per operation: fixed for those of the published spaces, else from the rest of the cycle in turn."""
    ops = list(dict.fromkeys(ops))
    taken = {_OP_COLOURS[op] for op in ops if op in _OP_COLOURS}
    free = [colour for colour in CYCLE if colour not in taken] or list(CYCLE)
    unknown = [op for op in ops if op not in _OP_COLOURS]
    return {op: _OP_COLOURS[op] if op in _OP_COLOURS else free[unknown.index(op) % len(free)] for op in ops}


def save_figure(figure: Figure, path: str | Path, *, patient: bool = False) -> Path:
    """Writes a figure whole or not at all: to a temporary file beside the target, then renamed.

    Args:
        figure: Any matplotlib figure.
        path: Target; the suffix says the format. Missing folders are made.
        patient: Wait a while for room if the disk is full.

    Returns:
        The path written.

    Raises:
        ValueError: If the suffix is none of ``.png``, ``.svg``, ``.pdf``.
    """
    return write_atomically(path, picture(figure, Path(path)), patient=patient)


def picture(figure: Figure, path: Path) -> bytes:
    """Make the content of a file with a figure.

    Args:
        figure: Any matplotlib figure.
        path: The file; the suffix says the format.

    Raises:
        ValueError: If the suffix is none of ``.png``, ``.svg``, ``.pdf``.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"The suffix of a picture must be one of {SUFFIXES}; got {path.name!r}.")
    return picture_of(figure, path.suffix.lower()[1:])


def picture_of(figure: Figure, kind: str) -> bytes:
    """Make a picture of the kind ``"png"``, ``"svg"`` or ``"pdf"``."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=DPI)
    return buffer.getvalue()


def plain_axes(axes: Axes, size: float) -> None:
    """Give axes two spines, a faint grid, and labels of ``size`` points."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(labelsize=size, colors=MUTED, labelcolor=INK, length=2.5)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)
