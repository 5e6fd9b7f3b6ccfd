"""FairNAS: Rethinking Evaluation Fairness of Weight Sharing Neural Architecture Search (Chu et al., ICCV 2021)."""

from __future__ import annotations

from oneshot.engine.options import SharingOptions, Unpack
from oneshot.engine.sharing import WeightSharingSearch
from oneshot.functional import fair_paths
from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.space import SubnetConfig


class FairNAS(WeightSharingSearch):
    """Strict fairness: every step trains every candidate of every row exactly once (arXiv:1907.01845, algorithm 1).

    With m candidates a row, m single paths run on the same batch, their gradients are added up, and the weights move
    once; so a step costs m times that of one path. Fairness is that of rows:

    - Rows with fewer candidates than the longest run some of theirs once more, chosen anew at random in each step.
    - Where ``none`` is a candidate, it cuts off others on its path, which run but learn nothing from that path.
    - Rules between rows do not hold for what is trained: in DARTS cells every edge has an operation (or ``none``),
      while derived cells keep two edges a node. What is compared at the end are architectures of the space.

    The search of the paper, an evolution with several objectives, is left out: the best of the architectures that are
    drawn at the end is derived. The authors published no search code; learning rates and the like are those of
    :class:`~oneshot.engine.supernet_training.SupernetTraining`, not the paper's for ImageNet.

    Args:
        supernet: The supernet of any space of operation choices.
        **kwargs: See :class:`~oneshot.engine.sharing.WeightSharingSearch`.

    Raises:
        ValueError: If the rules of the space forbid that every row holds a candidate.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> search = FairNAS(NASBench201Supernet(channels=4, cells_per_stage=1))
        >>> sorted(path["cell"][0] for path in search.paths(0))
        ['avg_pool_3x3', 'none', 'nor_conv_1x1', 'nor_conv_3x3', 'skip_connect']
    """

    def __init__(self, supernet: OperationSupernet, **kwargs: Unpack[SharingOptions]) -> None:
        super().__init__(supernet, **kwargs)
        try:
            FairNAS.paths(self, 0)
        except ValueError as error:
            raise ValueError(
                f"FairNAS trains a candidate of every row in every path; space {supernet.space.name!r} forbids that "
                f"({error}) Use RandomSharing."
            ) from error

    def paths(self, step: int) -> list[SubnetConfig]:
        space = self.supernet.space
        sizes = [len(choice.candidates) for choice in space.choices for _ in range(choice.rows)]
        return space.decode(fair_paths(sizes).numpy())
