"""The samples that a network gets most wrong, with small pictures: what a person looks at first."""

from __future__ import annotations

import base64
import heapq
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MOST = 12
SIDE = 112  # largest side of a picture, pixels
SMALL = 48  # sides up to here are shown pixel by pixel


@dataclass(frozen=True)
class Mistake:
    """A sample that was wrong.

    Args:
        badness: What the worst ones have most of: the probability of the wrong class, or the absolute error.
        index: Place of the sample in its data.
        true: The class, or the value.
        predicted: Likewise.
        image: The input ``[C, H, W]``, if it is an image; else None.
    """

    badness: float
    index: int
    true: float
    predicted: float
    image: Tensor | None


class WorstMistakes:
    """Keeps the worst mistakes of a test, batch by batch.

    Of classes, those wrong samples are worst of which the network was surest; of one number that is predicted, those
    with the largest absolute error. Other targets (labels, pixels, several numbers) have none.

    Args:
        most: How many are kept.

    Attributes:
        samples: How many samples there were.
        independent: Whether every sample had one class.
    """

    def __init__(self, most: int = MOST) -> None:
        self.most, self.samples, self.independent = most, 0, False
        self._kept: list[tuple[float, int, Mistake]] = []

    def update(self, x: Any, outputs: Tensor, targets: Tensor, *, classes: bool) -> None:
        """Look at a batch.

        Args:
            x: Inputs ``[B, ...]``.
            outputs: Of classes, probabilities ``[B, K]``; else predictions ``[B]``.
            targets: Classes ``[B]``, or values ``[B]``.
            classes: Whether targets are classes.
        """
        first, self.samples = self.samples, self.samples + len(targets)
        if targets.dim() != 1 or outputs.dim() != (2 if classes else 1):
            return
        outputs, targets = outputs.detach(), targets.detach()
        if classes:
            self.independent = True
            badness, predicted = outputs.float().max(dim=1)
            badness = torch.where(predicted == targets, -1.0, badness)
        else:
            predicted, badness = outputs, (outputs - targets).abs().float()
        badness = badness.nan_to_num(nan=torch.inf)
        values, places = badness.topk(min(self.most, len(badness)))
        for value, place in zip(values.tolist(), places.tolist(), strict=True):
            if value < 0 or (len(self._kept) == self.most and value <= self._kept[0][0]):
                continue
            image = x[place].detach().float().cpu() if isinstance(x, Tensor) and x.dim() == 4 else None
            mistake = Mistake(value, first + place, targets[place].item(), predicted[place].item(), image)
            # The later of two that are equally bad is the lesser one: the same samples in every run.
            entry = (value, -mistake.index, mistake)
            (heapq.heappushpop if len(self._kept) == self.most else heapq.heappush)(self._kept, entry)

    def worst(self) -> list[Mistake]:
        """The mistakes, the worst one first."""
        return [mistake for *_, mistake in sorted(self._kept, key=lambda entry: entry[:2], reverse=True)]


def mistakes_as_json(
    mistakes: Sequence[Mistake],
    *,
    classes: Sequence[str] | None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    files: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Mistakes as JSON-able rows with pictures in them.

    Args:
        mistakes: See :meth:`WorstMistakes.worst`.
        classes: Names of the classes; None where values are predicted.
        mean: Of the channels, by which the inputs were normalised.
        std: Likewise.
        files: Names of the files of all samples, if they come from files.
    """
    rows: list[dict[str, Any]] = []
    for one in mistakes:
        badness = one.badness if math.isfinite(one.badness) else None
        if classes is None:
            row: dict[str, Any] = {"true": f"{one.true:.4g}", "predicted": f"{one.predicted:.4g}", "error": badness}
        else:
            named = [classes[int(v)] if 0 <= int(v) < len(classes) else str(int(v)) for v in (one.true, one.predicted)]
            row = {"true": named[0], "predicted": named[1], "confidence": badness}
        row |= {"index": one.index, "file": files[one.index] if files and one.index < len(files) else None}
        if one.image is not None and (picture := thumbnail(one.image, mean, std)) is not None:
            row |= {"picture": picture, "photo": max(one.image.shape[1:]) > SMALL}
        rows.append(row)
    return rows


def thumbnail(image: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> str | None:
    """A small picture of an input as a data URL; None if it has neither one nor three channels.

    Args:
        image: ``[C, H, W]``.
        mean: Of the channels, by which it was normalised; None stretches what is there to all grey values.
        std: Likewise.
    """
    from PIL import Image

    if image.shape[0] not in (1, 3) or 0 in image.shape:
        return None
    if mean is not None and std is not None and len(mean) == len(std) == len(image):
        pixels = image * torch.tensor(std).view(-1, 1, 1) + torch.tensor(mean).view(-1, 1, 1)
    else:
        low, high = image.min(), image.max()
        pixels = (image - low) / (high - low).clamp(min=1e-12)
    array = (pixels.nan_to_num().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    small = max(picture.size) <= SMALL
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    if small:
        picture.save(buffer, "PNG")
    else:
        picture.convert("RGB").save(buffer, "JPEG", quality=82)
    content = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{'png' if small else 'jpeg'};base64,{content}"
