"""Images, their masks and the predictions of networks, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .style import CYCLE, DPI, FAINT, INK, MUTED

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_segmentations(
    images: npt.NDArray[np.uint8],
    masks: npt.NDArray[np.integer[Any]],
    predictions: Mapping[str, npt.NDArray[np.integer[Any]]],
    classes: Sequence[str],
) -> Figure:
    """Draws image, mask and predictions side by side, one example to a line.

    Args:
        images: ``[N, H, W, 3]``, or ``[N, H, W, 1]`` for grey ones.
        masks: Class of every pixel, ``[N, H, W]``; 255 is ignored, and white.
        predictions: Heading (the name of a network) -> classes, ``[N, H, W]``.
        classes: Names of the classes, for the legend.

    Returns:
        The figure, with a colour to a class in all pictures.

    Raises:
        ValueError: If masks or predictions are not of the images' number and size, or hold what is neither a class nor
            255.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex, to_rgb
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colours: Sequence[str] = CYCLE
    if len(classes) > len(CYCLE):
        colours = [to_hex(colormaps["turbo"](i / (len(classes) - 1))) for i in range(len(classes))]
    palette = np.ones((256, 3))
    palette[: len(classes)] = [to_rgb(colour) for colour in colours[: len(classes)]]
    columns = {"image": images, "mask": masks, **predictions}
    for name, maps in list(columns.items())[1:]:
        if maps.shape != images.shape[:3]:
            raise ValueError(
                f"{name} must have a class for every pixel of the images, {images.shape[:3]}; got {maps.shape}."
            )
        if foreign := sorted(set(np.unique(maps).tolist()) - {*range(len(classes)), 255}):
            raise ValueError(f"{name} must hold classes below {len(classes)}, or 255; got {foreign}.")
        columns[name] = palette[maps]
    count, height, width = images.shape[:3]
    size = 1.5
    page = (size * len(columns), (size * height / width + 0.03) * count + 0.6)
    figure = Figure(figsize=page, dpi=DPI, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)  # type: ignore[union-attr, call-arg]  # of constrained layout
    grid = figure.subplots(count, len(columns), squeeze=False)
    for column, (name, pictures) in enumerate(columns.items()):
        grid[0, column].set_title(name, fontsize=9, color=INK)
        for axes, picture in zip(grid[:, column], pictures):
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_color(FAINT)
    handles = [Patch(facecolor=colour, label=name) for name, colour in zip(classes, colours)]
    if (masks == 255).any():
        handles.append(Patch(facecolor="white", edgecolor=MUTED, label="ignored"))
    across = min(len(handles), 2 * len(columns))
    figure.legend(handles=handles, loc="outside lower center", ncols=across, frameon=False, fontsize=8)
    return figure
