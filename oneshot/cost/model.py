"""What an architecture costs: for one, for many at once, and as an expectation with gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from oneshot.functional import expected_cost
from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.mixed_op import MixedOp, Path
from oneshot.supernets.space import IntMatrix, SearchSpace, SubnetConfig

from .counts import count, count_macs


class CostModel(nn.Module, ABC):
    """The cost of the architectures of a space, in one unit.

    Attributes:
        space: The search space.
        unit: Unit of every number, written out (``"MACs"``, ``"ms"``).
    """

    space: SearchSpace
    unit: str

    def cost(self, config: SubnetConfig) -> float:
        """Cost of one architecture.

        Raises:
            ValueError: If ``config`` is not of this space.
        """
        return float(self.costs(self.space.encode([config]))[0])

    @abstractmethod
    def costs(self, genes: IntMatrix) -> npt.NDArray[np.float64]:
        """Costs of many architectures: ``[N, G]`` -> ``[N]``."""

    @abstractmethod
    def expected(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Expected cost under edge weights ``{choice: [R, O]}``; scalar, differentiable in them."""


class AdditiveCost(CostModel):
    """A fixed cost and one for every candidate in its place, as of parameters, MACs or a table of latencies.

    Args:
        space: The search space.
        table: Cost of every candidate, ``{choice: [R, O]}``. What a row leaves out (``none``) costs nothing.
        unit: Unit of the costs.
        fixed: Cost of what is in every architecture.

    Raises:
        ValueError: If the table does not have the shapes of the space, or a cost is negative or not finite.

    Example:
        >>> from oneshot.supernets import Choice
        >>> space = SearchSpace("toy", (Choice("layer", ("conv", "skip"), rows=2),))
        >>> latency = AdditiveCost(space, {"layer": torch.tensor([[3.0, 1.0], [5.0, 0.5]])}, unit="ms", fixed=2.0)
        >>> latency.cost(SubnetConfig("toy", {"layer": ["conv", "skip"]}))
        5.5
    """

    def __init__(self, space: SearchSpace, table: Mapping[str, Tensor], *, unit: str, fixed: float = 0.0) -> None:
        super().__init__()
        shapes = {c.name: (c.rows, len(c.candidates)) for c in space.choices}
        got = {name: tuple(costs.shape) for name, costs in table.items()}
        if got != shapes:
            raise ValueError(f"A cost table of space {space.name!r} has the shapes {shapes}; got {got}.")
        for name, costs in table.items():
            if not (costs.isfinite() & (costs >= 0)).all():
                raise ValueError(f"Costs are finite and not negative; those of {name!r} in {unit} are not.")
        self.space, self.unit, self.fixed = space, unit, fixed
        self.names = [c.name for c in space.choices]
        for name in self.names:
            self.register_buffer(f"table_{name}", table[name].double(), persistent=False)

    @property
    def table(self) -> dict[str, Tensor]:
        """Cost of every candidate, ``{choice: [R, O]}``, float64."""
        return {name: self.get_buffer(f"table_{name}") for name in self.names}

    def costs(self, genes: IntMatrix) -> npt.NDArray[np.float64]:
        total, gene, table = np.full(len(genes), float(self.fixed)), 0, self.table
        for choice in self.space.choices:
            extra = len(choice.picks) - len(choice.candidates)  # an edge left out
            costs = np.pad(table[choice.name].cpu().numpy(), ((0, 0), (0, extra)))
            for row in costs:
                total += row[genes[:, gene]]
                gene += 1
        return total

    def expected(self, weights: Mapping[str, Tensor]) -> Tensor:
        return self.fixed + expected_cost(weights, self.table)


def count_candidates(supernet: OperationSupernet, what: Literal["params", "macs"]) -> AdditiveCost:
    """Cost table of a supernet's candidates, by running each once.

    MACs are those of one image; parameters are those of the supernet, whose batch normalisation may have none.

    Args:
        supernet: The supernet.
        what: ``"params"`` or ``"macs"``.

    Returns:
        The table. Its fixed part is what the supernet has beside its candidates.
    """
    mixed_ops = supernet.mixed_ops()
    every = {id(mixed): mixed for rows in mixed_ops.values() for row in rows for mixed in row}
    if what == "params":
        theirs = {id(p) for mixed in every.values() for p in mixed.parameters()}
        fixed = sum(p.numel() for p in supernet.parameters() if p.requires_grad and id(p) not in theirs)
        return AdditiveCost(supernet.space, supernet.candidate_parameters(), unit="params", fixed=fixed)
    macs: dict[int, list[int]] = {}

    def look(mixed: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(mixed, MixedOp)
        shape = mixed.part(args[0], {}).shape[1:]
        macs[id(mixed)] = [count(op, (shape[0], shape[1], shape[2])).macs for op in mixed.ops]

    like = next(supernet.parameters())
    weights = {c.name: Path(torch.ones(c.rows, len(c.candidates)).to(like)) for c in supernet.space.choices}
    x = torch.zeros(1, *supernet.input_shape).to(like)
    hooks = [mixed.register_forward_pre_hook(look) for mixed in every.values()]
    try:
        count_macs(supernet, lambda: supernet(x, weights))
    finally:
        for hook in hooks:
            hook.remove()
    total = count_macs(supernet, lambda: supernet(x, weights))
    table = {
        name: torch.tensor([torch.tensor([macs[id(m)] for m in row]).sum(0).tolist() for row in rows])
        for name, rows in mixed_ops.items()
    }
    return AdditiveCost(supernet.space, table, unit="MACs", fixed=total - sum(map(sum, macs.values())))
