"""DARTS: Differentiable Architecture Search (Liu, Simonyan, Yang, ICLR 2019, arXiv:1806.09055)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from oneshot.engine.gradient import BilevelSearch
from oneshot.engine.module import Batch
from oneshot.engine.options import GradientOptions, Unpack
from oneshot.engine.samplers import SoftmaxSampler
from oneshot.supernets.base import OperationSupernet


class DARTS(BilevelSearch):
    """Softmax-weighted candidates, alphas trained by gradient descent on held-out data.

    Defaults are the paper's for CIFAR-10 (appendix A.1): weights by SGD 0.025 to 0.001, momentum 0.9, decay 3e-4,
    clipped at 5; alphas by Adam 3e-4, betas (0.5, 0.999), decay 1e-3, initialised with standard deviation 1e-3.

    Args:
        supernet: The supernet of any space of operation choices.
        order: 1 takes the weights as they are, 2 looks one weight step ahead (equations 7 and 8), at about three times
            the cost of a step; the optimiser of the weights is then SGD, Adam or AdamW.
        epsilon: Length of the finite difference of the second order.
        **kwargs: See :class:`~oneshot.engine.gradient.BilevelSearch`.

    Raises:
        ValueError: If ``order`` is neither 1 nor 2.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> search = DARTS(NASBench201Supernet(channels=4, cells_per_stage=1), order=2)
        >>> search.derive().space
        'nasbench201'
    """

    def __init__(
        self,
        supernet: OperationSupernet,
        *,
        order: Literal[1, 2] = 1,
        epsilon: float = 0.01,
        **kwargs: Unpack[GradientOptions],
    ) -> None:
        super().__init__(supernet, SoftmaxSampler(), **kwargs)
        if order not in (1, 2):
            raise ValueError(f"order must be 1 or 2; got {order}.")
        self.order, self.epsilon = order, epsilon

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.order == 2:
            self.check_second_order()

    def arch_backward(self, batch: Batch) -> Tensor:
        return super().arch_backward(batch) if self.order == 1 else self.unrolled_backward(batch, self.epsilon)
