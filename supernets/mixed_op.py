"""Mixed operations: the candidates of an edge under given weights."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from .ops import Zero


class MixedOp(nn.Module):
    """Weighted sum of candidate operations, ``sum_o w_o op_o(x)`` (DARTS, arXiv:1806.09055, equation 2).

    Args:
        ops: The candidates, O modules that map the same input to outputs of one shape.
    """

    def __init__(self, ops: Iterable[nn.Module]) -> None:
        super().__init__()
        self.ops = nn.ModuleList(ops)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Mix.

        Args:
            x: Input, ``[B, C, H, W]``.
            weights: Candidate weights, ``[O]``.

        Returns:
            ``[B, C, H', W']``. The candidate ``none`` adds nothing and is not run.
        """
        terms = [w * op(x) for w, op in zip(weights.unbind(), self.ops, strict=True) if not isinstance(op, Zero)]
        if not terms:
            zero: Tensor = self.ops[0](x)
            return zero
        mixed: Tensor = sum(terms[1:], terms[0])
        return mixed
