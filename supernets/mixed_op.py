"""Mixed operations: the candidates of an edge under given weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .ops import Zero, make_op


class MixedOp(nn.Module):
    """Weighted sum of candidate operations, ``sum_o w_o op_o(x)`` (DARTS, arXiv:1806.09055, equation 2).

    Args:
        candidates: Operation names, O of them.
        channels: C in and out.
        stride: 1 or 2.
        affine: Learnable scale in batch normalisation; off in search, where it would undo the weights.
        pool_bn: See :func:`~oneshot.supernets.ops.make_op`.
    """

    def __init__(
        self, candidates: Sequence[str], channels: int, stride: int, *, affine: bool = False, pool_bn: bool = True
    ) -> None:
        super().__init__()
        self.ops = nn.ModuleList(make_op(name, channels, stride, affine=affine, pool_bn=pool_bn) for name in candidates)

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
