"""AlphaNet: Improved Training of Supernets with Alpha-Divergence (Wang et al., ICML 2021)."""

from __future__ import annotations

from typing import Any

from oneshot.engine.sandwich import SandwichSearch
from oneshot.supernets.base import Supernet


class AlphaNet(SandwichSearch):
    """The sandwich rule with a divergence that punishes both too certain and too uncertain sub-networks.

    Every image has the larger of the divergences of alpha -1 and 1, its importance weights at most 5
    (arXiv:2102.07954, equation 7). Otherwise as :class:`~oneshot.methods.bignas.BigNAS`; left out is also that the
    authors' code does not decay batch normalisation and biases.

    Args:
        supernet: Any supernet.
        **kwargs: See :class:`~oneshot.engine.sandwich.SandwichSearch`.

    Example:
        >>> from oneshot.supernets import NASBenchMacroSupernet
        >>> AlphaNet(NASBenchMacroSupernet(channels=4, image_size=8)).divergences
        (-1.0, 1.0)
    """

    def __init__(self, supernet: Supernet, **kwargs: Any) -> None:
        super().__init__(supernet, **{"distillation": "alpha", "random_paths": 2, **kwargs})
