"""Random numbers of their own for a part of a process: the rest of it draws as if nothing had been drawn."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from pytorch_lightning.utilities.seed import isolate_rng


@contextmanager
def own_random_numbers(seed: int | None = None, *, cuda: bool = True) -> Iterator[None]:
    """Inside, Python, NumPy and PyTorch may draw random numbers; afterwards their generators are as they were.

    So they are if something is raised, too; Lightning's ``isolate_rng`` puts nothing back then.

    Args:
        seed: What the numbers inside follow from, at least 0; by default they go on from where the process is.
        cuda: Whether the generators of GPUs are put back as well, which begins to use them.
    """
    isolated = isolate_rng(include_cuda=cuda)
    isolated.__enter__()
    try:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
        yield
    finally:
        isolated.__exit__(None, None, None)
