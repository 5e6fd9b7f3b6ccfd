"""BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models (Yu et al., ECCV 2020)."""

from __future__ import annotations

from collections.abc import Sequence

from oneshot.engine.options import Finalists, FixedSandwichOptions, PathOptions, Unpack
from oneshot.engine.sandwich import Phase, SandwichSearch
from oneshot.supernets.base import Supernet


class BigNASOptions(PathOptions, FixedSandwichOptions, Finalists, total=False):
    """Options that :class:`BigNAS` passes on."""

    smallest: bool
    phases: Sequence[Phase]
    candidates: int


class BigNAS(SandwichSearch):
    """One supernet whose sub-networks need no retraining (arXiv:2003.11142).

    In every step the largest sub-network learns from the labels, the smallest and two random ones from its predictions.
    Left out are the initialisation of residual branches at 0, dropout and weight decay for the largest alone, none for
    batch normalisation and biases, and the learning rate that ends at a constant.

    Args:
        supernet: Any supernet.
        distillation: See :class:`~oneshot.engine.sandwich.SandwichTraining`.
        random_paths: See :class:`~oneshot.engine.sandwich.SandwichTraining`.
        **kwargs: See :class:`~oneshot.engine.sandwich.SandwichSearch`.

    Example:
        >>> from oneshot.supernets import NASBenchMacroSupernet
        >>> search = BigNAS(NASBenchMacroSupernet(channels=4, image_size=8))
        >>> paths = search.paths(0)
        >>> len(paths), paths[0]["layers"][0], paths[-1]["layers"][0]
        (4, 'k5_e6', 'identity')
    """

    def __init__(
        self,
        supernet: Supernet,
        *,
        distillation: str = "kl",
        random_paths: int = 2,
        **kwargs: Unpack[BigNASOptions],
    ) -> None:
        super().__init__(supernet, distillation=distillation, random_paths=random_paths, **kwargs)
