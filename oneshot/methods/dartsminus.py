"""DARTS-: Robustly Stepping out of Performance Collapse Without Indicators (Chu et al., ICLR 2021)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from oneshot._stability import experimental
from oneshot.engine.gradient import BilevelSearch
from oneshot.engine.options import GradientOptions, Unpack
from oneshot.engine.samplers import SoftmaxSampler
from oneshot.inputs import mapped
from oneshot.supernets.base import OperationSupernet, example_inputs, restored_modes
from oneshot.supernets.mixed_op import MixedOp, PartialMixedOp
from oneshot.supernets.ops import make_op


@experimental("its published accuracy has not been reproduced here")
class DARTSMinus(BilevelSearch):
    r"""DARTS with a skip connection beside the candidates of every edge, which fades (arXiv:2009.01027).

    An edge is :math:`\beta\,\mathrm{skip}(x) + \sum_o w_o\,o(x)`. The auxiliary skip makes the supernet trainable, so
    the candidate ``skip_connect`` need not. It has no alpha and is not in derived networks. Where an edge halves the
    resolution it has weights (``FactorizedReduce``), a module of its own. Edges that change the channels have none.
    :math:`\beta` falls from 1 to 0, in epoch e of E to :math:`(1 + \cos(\pi e / E)) / 2` or ``1 - e / E``.

    Published on NAS-Bench-201 (test accuracy on CIFAR-10, CIFAR-100 and ImageNet16-120, search on CIFAR-10): 93.80,
    71.53 and 45.12 %. On the DARTS space no gain is claimed here: improvements reported there often fall "within the
    margin of noise" (confopt, AutoML 2025, arXiv:2507.16533).

    Experimental: its published accuracy has not been reproduced here.

    Args:
        supernet: The supernet of any space of operation choices; it keeps the skips: build another for another search.
        decay: How the weight falls; the authors' script for S1 to S4 takes ``"linear"``.
        **kwargs: See :class:`~oneshot.engine.gradient.GradientSearch`.

    Raises:
        ValueError: If the decay is unknown, or no edge of the supernet can have a skip connection.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> search = DARTSMinus(NASBench201Supernet(channels=4, cells_per_stage=1))
        >>> search.supernet.mixed_ops()["cell"][0][0].auxiliary
        Identity()
    """

    def __init__(
        self,
        supernet: OperationSupernet,
        *,
        decay: Literal["cosine", "linear"] = "cosine",
        **kwargs: Unpack[GradientOptions],
    ) -> None:
        self.check_kind(supernet)
        if decay not in ("cosine", "linear"):
            raise ValueError(f"decay must be 'cosine' or 'linear'; got {decay!r}.")
        add_skips(supernet)
        super().__init__(supernet, SoftmaxSampler(), **kwargs)
        self.decay = decay

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        epoch, epochs = self.schedule_position()
        beta = (1 + math.cos(math.pi * epoch / epochs)) / 2 if self.decay == "cosine" else 1 - epoch / epochs
        for module in self.modules():  # also those of averages
            if isinstance(module, MixedOp) and module.auxiliary is not None:
                module.auxiliary_weight.fill_(beta)


@torch.no_grad()
def add_skips(supernet: OperationSupernet) -> None:
    """Add a skip connection to every mixed operation that keeps its channels, unless it has one.

    Raises:
        ValueError: If there is no such operation.
    """
    mixed, sizes = [m for m in supernet.modules() if isinstance(m, MixedOp)], dict[MixedOp, tuple[Any, Any]]()

    def note(module: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        sizes[module] = list(inputs[0].shape), list(output.shape)

    handles = [module.register_forward_hook(note) for module in mixed]
    like, choices = next(supernet.parameters()), supernet.space.choices
    uniform = {c.name: like.new_full((c.rows, len(c.candidates)), 1 / len(c.candidates)) for c in choices}
    x = mapped(lambda p: p.to(like if p.is_floating_point() else like.device), example_inputs(supernet, 2))
    with restored_modes(supernet), torch.random.fork_rng(devices=[]):  # one pass says which edges halve the resolution
        supernet.eval()(x, uniform)
    for handle in handles:
        handle.remove()
    for module, (before, after) in sizes.items():
        halved = len(before) == 4 and [*before[:2], *(-(-side // 2) for side in before[2:])] == after
        channels = after[1] // (module.parts if isinstance(module, PartialMixedOp) else 1) if halved else 0
        if module.auxiliary is None and (before == after or (channels and channels % 2 == 0)):
            skip = nn.Identity() if before == after else make_op("skip_connect", channels, 2, affine=False)
            module.add_auxiliary(skip.to(like))
    if all(module.auxiliary is None for module in mixed):
        name = type(supernet).__name__
        raise ValueError(f"DARTS- needs an edge that keeps its channels; all of {name} change them. Use DARTS.")
