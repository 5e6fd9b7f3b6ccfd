"""The worst mistakes of a test are those of a sort of all samples, however they come in batches."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from oneshot.evaluation.mistakes import WorstMistakes, mistakes_as_json, thumbnail


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_the_worst_are_the_wrong_ones_of_which_the_network_was_surest(batch: int) -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(100, 4, generator=generator).softmax(dim=1)
    labels, x = torch.randint(4, (100,), generator=generator), torch.rand(100, 3, 8, 8, generator=generator)
    found = WorstMistakes(most=5)
    for i in range(0, 100, batch):
        part = slice(i, i + batch)
        found.update(x[part], probabilities[part], labels[part], classes=True)
    rows = [(p.max(), -i, int(p.argmax())) for i, p in enumerate(probabilities.numpy()) if p.argmax() != labels[i]]
    expected = sorted(rows, reverse=True)[:5]
    assert [(m.index, m.predicted) for m in found.worst()] == [(-i, predicted) for _, i, predicted in expected]
    assert found.samples == 100 and found.independent
    assert all(m.true == labels[m.index] and torch.equal(m.image, x[m.index]) for m in found.worst())  # type: ignore[arg-type]
    right = sorted((p.max(), -i) for i, p in enumerate(probabilities.numpy()) if p.argmax() == labels[i])
    assert {m.index for m in found.worst()}.isdisjoint({-i for _, i in right})


def test_of_numbers_the_worst_have_the_largest_errors_and_no_classes() -> None:
    found = WorstMistakes(most=2)
    found.update(
        torch.zeros(4, 6), torch.tensor([1.0, 5.0, 2.0, 2.5]), torch.tensor([1.0, 1.0, 8.0, 2.0]), classes=False
    )
    rows = mistakes_as_json(found.worst(), classes=None)
    assert [(row["index"], row["true"], row["predicted"], row["error"]) for row in rows] == [
        (2, "8", "2", 6.0),
        (1, "1", "5", 4.0),
    ]
    assert "picture" not in rows[0] and not found.independent


def test_pixels_and_labels_have_none() -> None:
    found = WorstMistakes()
    found.update(
        torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64), classes=True
    )
    found.update(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5), torch.zeros(2, 5), classes=False)
    assert found.worst() == [] and found.samples == 4 and not found.independent


def test_rows_have_names_files_and_pictures_of_what_the_network_saw() -> None:
    found = WorstMistakes(most=1)
    image = torch.tensor([0.0, 1.0, 0.5]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.1, 0.3)
    x = (image - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    found.update(x, torch.tensor([[0.9, 0.1]]), torch.tensor([1]), classes=True)
    (row,) = mistakes_as_json(found.worst(), classes=["cat", "dog"], mean=mean, std=std, files=["dog/1.png"])
    assert (row["true"], row["predicted"], row["file"]) == ("dog", "cat", "dog/1.png")
    assert row["confidence"] == pytest.approx(0.9)
    kind, _, content = row["picture"].partition(",")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    assert kind == "data:image/png;base64" and pixels.shape == (8, 8, 3) and (pixels == (0, 255, 128)).all()


def test_large_pictures_become_small_and_other_channels_have_none() -> None:
    picture = thumbnail(torch.rand(3, 300, 200), None, None)
    assert picture is not None and picture.startswith("data:image/jpeg;base64,")
    size = Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))).size
    assert size == (75, 112) and len(picture) < 12_000
    assert thumbnail(torch.rand(4, 8, 8), None, None) is None
    assert thumbnail(torch.full((1, 8, 8), float("nan")), None, None) is not None


def test_outputs_that_are_no_numbers_count_as_worst_and_stay_json() -> None:
    found = WorstMistakes(most=2)
    found.update(torch.zeros(2, 3), torch.tensor([[0.2, float("nan")], [0.9, 0.1]]), torch.tensor([0, 1]), classes=True)
    rows = mistakes_as_json(found.worst(), classes=["a", "b"])
    assert [row["index"] for row in rows] == [0, 1] and rows[0]["confidence"] is None
