"""Random search with weight sharing (Li, Talwalkar, UAI 2019, arXiv:1902.07638), known as RSPS."""

from __future__ import annotations

import numpy as np
import torch

from oneshot.engine.options import Finalists, FixedPathOptions, Unpack
from oneshot.engine.sharing import WeightSharingSearch
from oneshot.supernets.base import Supernet
from oneshot.supernets.space import SubnetConfig


class RandomSharingOptions(FixedPathOptions, Finalists, total=False):
    """Options that :class:`RandomSharing` passes on."""

    candidates: int


class RandomSharing(WeightSharingSearch):
    """One architecture a step, drawn uniformly from the space; the best of many that are drawn at the end is derived.

    The baseline that every other method has to beat. Defaults are those of the authors' code for CIFAR-10
    (liamcli/randomNAS_release; 100 epochs, batches of 64): SGD 0.025 to 0.001, gradients clipped at 0.25, and at the
    end 1000 architectures compared on one batch, the best 10 on all of the held-out half. We differ in three ways:
    they repeat that comparison for every 10,000 steps of the training; theirs is one batch per architecture, ours the
    same batch for all; and an architecture that is ``none`` everywhere is not drawn.

    Args:
        supernet: The supernet of any space.
        grad_clip: See :class:`~oneshot.engine.supernet_training.SupernetTraining`.
        **kwargs: See :class:`~oneshot.engine.sharing.WeightSharingSearch`.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> search = RandomSharing(NASBench201Supernet(channels=4, cells_per_stage=1))
        >>> len(search.paths(0))
        1
    """

    def __init__(self, supernet: Supernet, *, grad_clip: float = 0.25, **kwargs: Unpack[RandomSharingOptions]) -> None:
        super().__init__(supernet, grad_clip=grad_clip, **kwargs)

    def paths(self, step: int) -> list[SubnetConfig]:
        return [self.sample(np.random.default_rng(int(torch.randint(2**62, ()))))]
