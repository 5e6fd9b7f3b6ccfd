"""Losses that add what an architecture costs, as the papers write them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from oneshot.fronts.numbers import rounded_up
from oneshot.functional import in_32_bits, most_likely_within
from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.connection import LEAST, connected
from oneshot.supernets.space import NONE, SearchSpace, SubnetConfig

from .bounds import no_architecture
from .extremes import extremes
from .model import AdditiveCost, CostModel
from .resolve import GivenCost, resolve_cost, unit_of

SLACK = 0.05  # what is derived may cost this much less than the target
Form = Literal["fbnet", "mul_log", "add_linear", "additive", "target"]


class CostPenalty(nn.Module):
    r"""The loss of the alphas with the expected cost :math:`c` of the edge weights, in one of these forms.

    :math:`L` is the cross-entropy, :math:`T` the target.

    - ``fbnet``: :math:`a L \log(c)^b`. FBNet (arXiv:1812.03443, equation 2).
    - ``mul_log``: :math:`a L (\log c / \log T)^b`. ProxylessNAS, the authors' code.
    - ``add_linear``: :math:`L + a (c - T) / T`. ProxylessNAS (arXiv:1812.00332, equation 4), relative to the target.
    - ``additive``: :math:`L + a c`. SqueezeNAS (arXiv:1908.01748).
    - ``target``: :math:`L + (\max(0, \lambda + b g)^2 - \lambda^2) / 2b` with :math:`g = (c - T) / T`: the augmented
      Lagrangian of :math:`c \le T` (Nocedal and Wright, Numerical Optimization, section 17.4).

    The unit of the cost matters: in FBNet's form it shifts the logarithm (FBNet's latencies are in microseconds). A
    power of a logarithm needs costs above 1; where a cost is below, :func:`positive_log` goes on.

    ``target`` ends at the target: after every step :math:`\lambda`, at first 0, moves by :math:`a g` and never below 0,
    so the push grows while the expected cost is above the target, and is gone where the cost has fallen below. What is
    derived keeps to the target, too, see :meth:`most_likely`.

    Args:
        cost: What an architecture costs, as :func:`~oneshot.cost.resolve_cost` takes it.
        form: See above.
        a: Factor; FBNet 0.2, ProxylessNAS 0.2 (``mul_log``) and 0.1 (``add_linear``); 0.01 for ``target``.
        b: Exponent; FBNet 0.6, ProxylessNAS 0.3. Stiffness of ``target``; 1.
        target: T in the unit of the cost.
        allow_noisy: Take latencies also where the file says, or shows, that they may be wrong: noise above 10 %, or
            networks that need less than nothing. Otherwise they are refused.

    Raises:
        ValueError: If the form is unknown, a number is missing, superfluous or out of its range.
    """

    multiplier: Tensor

    def __init__(
        self,
        cost: GivenCost,
        form: Form,
        *,
        a: float | None = None,
        b: float | None = None,
        target: float | None = None,
        allow_noisy: bool = False,
    ) -> None:
        super().__init__()
        if form not in get_args(Form):
            raise ValueError(f"form must be one of {', '.join(get_args(Form))}; got {form!r}.")
        unit = unit_of(cost)
        needs_b, needs_target = form in ("fbnet", "mul_log", "target"), form in ("mul_log", "add_linear", "target")
        for name, value, needed in (("b", b, needs_b), ("target", target, needs_target)):
            if (value is not None) and not needed:
                raise ValueError(f"The form {form!r} must have no {name}; got {name}={value}. Leave it out.")
        if needs_target and not (target or 0) > (1 if form == "mul_log" else 0):
            least = "above 1, because its logarithm divides" if form == "mul_log" else "above 0"
            raise ValueError(f"The form {form!r} needs a target in {unit}, {least}; got target={target}.")
        if form == "additive" and a is None:
            raise ValueError(f"The form 'additive' needs a, loss per {unit}; SqueezeNAS does not give one.")
        defaults = {"fbnet": (0.2, 0.6), "mul_log": (0.2, 0.3), "add_linear": (0.1, 1.0), "target": (0.01, 1.0)}
        default_a, default_b = defaults.get(form, (0.0, 1.0))
        self._given = cost
        self.cost: CostModel | None = None if isinstance(cost, str) else cost
        self.form, self.target, self.allow_noisy = form, target or 1.0, allow_noisy
        self.a, self.b = default_a if a is None else a, default_b if b is None else b
        if not (self.a > 0 and self.b > 0):
            raise ValueError(f"a and b of a penalty must be above 0; got a={self.a}, b={self.b}.")
        self.register_buffer("multiplier", torch.zeros(()))

    def bind(self, supernet: OperationSupernet) -> None:
        """Get ready for a search: count the candidates of ``supernet``, or read the table, if that is the cost.

        Raises:
            ValueError: If the cost model or the table is of another space or of other networks, if its latencies are
                doubtful, or if a ``target`` is below the cheapest architecture.
        """
        self.cost = resolve_cost(self._given, supernet, allow_noisy=self.allow_noisy)
        if self.form == "target" and isinstance(self.cost, AdditiveCost):
            self._check_target(self.cost, supernet.space)

    def _check_target(self, cost: AdditiveCost, space: SearchSpace) -> None:
        """Check that some architecture is not above the target."""
        proven = cost.proven_extremes()
        cheapest = extremes(cost)[0] if proven is None else proven[0]
        if (least := float(cost.costs(cheapest[None])[0])) > self.target:
            wanted, smallest = f"target={self.target:g} {cost.unit}", f"{rounded_up(least)} {cost.unit}"
            config = space.config_of(cheapest)
            raise ValueError(no_architecture(space, wanted, smallest, config, proven=proven is not None, what="target"))

    def most_likely(
        self,
        probabilities: Mapping[str, npt.NDArray[np.floating[Any]]],
        space: SearchSpace,
        *,
        target: float | None = None,
    ) -> SubnetConfig:
        """Derive: the most likely architecture by the rule of the space; with ``target``, of those that cost as much.

        The alphas of a search that is not certain yet have a mean at the target, and the most likely candidate of every
        row together may be far from it, on either side. So with the form ``target``, an additive cost and rows that are
        independent, the most likely architecture is found whose cost is at most T, and at least 95 % of the mean, or of
        T if the mean is above: a knapsack with one candidate of every row, solved exactly but for the rounding of costs
        (:func:`~oneshot.functional.most_likely_within`). Architectures whose output reads no input do not count.

        Args:
            probabilities: ``{choice: [R, O]}``.
            space: Of the supernet.
            target: Another T; then the cost is at least 95 % of it, whatever the mean.
        """
        cost = self.cost
        independent = type(space).most_likely is SearchSpace.most_likely
        if self.form != "target" or not isinstance(cost, AdditiveCost) or not independent:
            return space.most_likely(probabilities)
        rows = [np.asarray(row, dtype=np.float64) for c in space.choices for row in probabilities[c.name]]
        rows = [row / row.sum() for row in rows]
        costs = self._rows(cost)
        mean = cost.fixed + sum(float(p @ c) for p, c in zip(rows, costs, strict=True))
        high = target or self.target
        low, high = (1 - SLACK) * (target or min(mean, high)) - cost.fixed, high - cost.fixed
        picks = most_likely_within(rows, costs, low=low, high=high)
        if not connected(space, np.array([picks]))[0]:
            picks = _connected_within(space, rows, costs, low=low, high=high)
        return space.decode(np.array([picks]))[0]

    @staticmethod
    def _rows(cost: AdditiveCost) -> list[npt.NDArray[np.float64]]:
        """Costs of the candidates of every gene."""
        return [row for table in cost.table.values() for row in table.cpu().numpy()]

    def forward(self, loss: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """The loss of the alphas.

        Args:
            loss: Cross-entropy, scalar.
            weights: Edge weights it was computed under, ``{choice: [R, O]}``.

        Returns:
            Scalar, differentiable in both.
        """
        if self.cost is None:
            raise RuntimeError("The candidates are counted when the penalty is given to a search; call bind(supernet).")
        loss = in_32_bits(loss)  # 16 bits do not tell a cost from its target
        cost = self.cost.expected(weights).to(loss)
        if self.form == "fbnet":
            return self.a * loss * positive_log(cost) ** self.b
        if self.form == "mul_log":
            return self.a * loss * (positive_log(cost) / torch.tensor(self.target).log().item()) ** self.b
        if self.form == "additive":
            return loss + self.a * cost
        excess = (cost - self.target) / self.target
        if self.form == "add_linear":
            return loss + self.a * excess
        before = self.multiplier.clone()
        if self.training:
            self.multiplier.add_(self.a * excess.detach().to(self.multiplier)).clamp_(min=0)
        return loss + ((before + self.b * excess).clamp(min=0) ** 2 - before**2) / (2 * self.b)


def _connected_within(
    space: SearchSpace,
    probabilities: Sequence[npt.NDArray[np.float64]],
    costs: Sequence[npt.NDArray[np.float64]],
    *,
    low: float,
    high: float,
) -> list[int]:
    """What :func:`most_likely_within` finds among architectures whose cells have an output.

    One of the ways through every cell holds no ``none``. So for all ways in turn the knapsack is filled without it.
    """
    candidates = [choice.candidates for choice in space.choices for _ in range(choice.rows)]
    found = []
    for ways in itertools.product(*(graph.ways() for graph in space.cell_graphs())):
        forced = {gene for way in ways for gene in way}
        left = [
            [o for o, candidate in enumerate(row) if candidate != NONE or gene not in forced]
            for gene, row in enumerate(candidates)
        ]
        if not all(left):
            continue
        rows, prices = ([row[o] for row, o in zip(table, left, strict=True)] for table in (probabilities, costs))
        picks = most_likely_within(rows, prices, low=low, high=high)
        total = sum(float(price[o]) for price, o in zip(prices, picks, strict=True))
        likelihood = sum(math.log(max(row[o], LEAST)) for row, o in zip(rows, picks, strict=True))
        rank = (total <= high, likelihood if total <= high else -total)
        found.append((rank, [o[pick] for o, pick in zip(left, picks, strict=True)]))
    if not found:
        raise ValueError(
            f"A cell must have an operation on the way from its input to its output; the candidates of space "
            f"{space.name!r} leave no way. Give it others than {NONE!r}."
        )
    return max(found)[1]


def positive_log(x: Tensor, floor: float = 0.1) -> Tensor:
    """Logarithm where it is above ``floor``; below, an exponential that continues it smoothly and stays above 0.

    A power of the logarithm, and its gradient, are NaN for costs below 1. Value and slope agree at the joint, so that
    every cost has a gradient of the right sign.

    Args:
        x: Above 0, any shape.
        floor: Value of the logarithm at the joint.
    """
    joint = torch.tensor(floor).exp().item()
    below = floor * ((x - joint).clamp(max=0) / (floor * joint)).exp()
    return torch.where(x >= joint, x.clamp_min(joint).log(), below)
