"""Facts about a data set that a trained network needs where the images are absent."""

from __future__ import annotations

import json
from typing import Any

import pytorch_lightning as pl

from .base import LabelledData

FACTS = ("mean", "std", "classes", "num_classes", "input_shape", "preprocessing")


def data_counts(data: pl.LightningDataModule) -> dict[str, Any]:
    """How many samples the parts of the data have, and how many training samples every class has.

    Args:
        data: Set up. What a search splits is looked at as a whole. Test samples count where they have been read.

    Returns:
        ``samples``, a mapping of ``train``, ``val`` and ``test``, and ``class_counts``, a list in the order of the
        labels, or None where targets are no classes. Empty for data modules that are not ours.
    """
    inner = getattr(data, "data", data)
    if not isinstance(inner, LabelledData):
        return {}
    parts = {"train": inner.train_set, "val": inner.val_set, "test": inner.__dict__.get("test_set")}
    samples = {name: len(part) for name, part in parts.items() if part is not None}
    counts = inner.class_counts
    return {"samples": samples, "class_counts": None if counts is None else list(counts)}


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
