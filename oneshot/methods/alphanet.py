"""AlphaNet: Improved Training of Supernets with Alpha-Divergence (Wang et al., ICML 2021)."""

from __future__ import annotations

from collections.abc import Sequence

from oneshot.engine.options import Finalists, FixedSandwichOptions, PathOptions, Unpack
from oneshot.engine.sandwich import Phase, SandwichSearch
from oneshot.supernets.base import Supernet


class AlphaNetOptions(PathOptions, FixedSandwichOptions, Finalists, total=False):
    """Options that :class:`AlphaNet` passes on."""

    smallest: bool
    phases: Sequence[Phase]
    candidates: int


class AlphaNet(SandwichSearch):
    """The sandwich rule with a divergence that punishes both too certain and too uncertain sub-networks.

    Every image has the larger of the divergences of alpha -1 and 1, its importance weights at most 5
    (arXiv:2102.07954, equation 7). Otherwise as :class:`~oneshot.methods.bignas.BigNAS`; left out is also that the
    authors' code does not decay batch normalisation and biases.

    Args:
        supernet: Any supernet.
        distillation: See :class:`~oneshot.engine.sandwich.SandwichTraining`.
        random_paths: See :class:`~oneshot.engine.sandwich.SandwichTraining`.
        **kwargs: See :class:`~oneshot.engine.sandwich.SandwichSearch`.

    Example:
        >>> from oneshot.supernets import NASBenchMacroSupernet
        >>> AlphaNet(NASBenchMacroSupernet(channels=4, image_size=8)).divergences
        (-1.0, 1.0)
    """

    def __init__(
        self,
        supernet: Supernet,
        *,
        distillation: str = "alpha",
        random_paths: int = 2,
        **kwargs: Unpack[AlphaNetOptions],
    ) -> None:
        super().__init__(supernet, distillation=distillation, random_paths=random_paths, **kwargs)
