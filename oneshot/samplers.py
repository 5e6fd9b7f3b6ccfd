"""From alphas to edge weights. A sampler is a module, so that temperatures and the like are saved with the search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn


class Sampler(nn.Module, ABC):
    """Turns alphas ``{choice: [R, O]}`` into edge weights of the same shapes, differentiably."""

    @abstractmethod
    def forward(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Edge weights for one forward pass; may be random.

        Args:
            alphas: ``{choice: [R, O]}``.

        Returns:
            Edge weights, ``{choice: [R, O]}``.
        """

    @abstractmethod
    def probabilities(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """How much each candidate counts, without randomness: what is derived from, logged and drawn, ``[R, O]``."""


class SoftmaxSampler(Sampler):
    """Softmax over the candidates of each row (DARTS, arXiv:1806.09055, equation 2)."""

    def forward(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: alpha.softmax(-1) for name, alpha in alphas.items()}

    def probabilities(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self(alphas)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped
