"""Facts about a data set that a trained network needs where the images are absent."""

from __future__ import annotations

import json
from typing import Any

import pytorch_lightning as pl

FACTS = ("mean", "std", "classes", "num_classes", "input_shape", "preprocessing")


def data_facts(data: pl.LightningDataModule) -> dict[str, Any]:
    """Mean, deviation, classes, number of classes, shape of an input and preprocessing of a data module.

    Args:
        data: Set up, so that what it infers from its images is known.

    Returns:
        JSON-able values by the names of :data:`FACTS`; None where the data module does not say.

    Raises:
        ValueError: If one of them is no JSON.

    Example:
        >>> from oneshot.data import Digits
        >>> facts = data_facts(Digits())
        >>> facts["num_classes"], facts["input_shape"]
        (10, [1, 8, 8])
    """
    facts = {name: getattr(data, name, None) for name in FACTS}
    try:
        return dict(json.loads(json.dumps(facts)))  # tuples become lists, as they are when read again
    except TypeError as error:
        raise ValueError(
            f"What a data module says of itself ({', '.join(FACTS)}) is JSON: numbers, texts, lists; that of "
            f"{type(data).__name__} is not: {error}."
        ) from error
