"""What ``cost=`` means: a cost model, the name of a count, or the file of a table or of measured networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from oneshot.supernets.base import Supernet
from oneshot.supernets.space import SubnetConfig

from .counting.candidates import UNITS, count_candidates
from .counting.traced import TracedCost
from .counting.work import work_of
from .latency.table import UNIT, LatencyTable
from .learned.measured import measured_cost
from .model import CostModel
from .record import check_doubts

GivenCost: TypeAlias = CostModel | str
OwnCost: TypeAlias = CostModel | Callable[[SubnetConfig], float] | str
OwnCosts: TypeAlias = Mapping[str, OwnCost] | Callable[[SubnetConfig], float]

TABLE, MEASURED = ".json", ".csv"
LATENCY = "latency"  # what the only one is called
FILES = (TABLE, MEASURED)


def unit_of(given: object) -> str:
    """The unit of a cost, which is known before its supernet.

    Raises:
        ValueError: If it is no cost.
    """
    if isinstance(given, CostModel):
        return given.unit
    if isinstance(given, str) and given in UNITS:
        return UNITS[given]
    if isinstance(given, str) and given.endswith(FILES):
        return UNIT
    raise ValueError(
        f"A cost must be a CostModel, {', '.join(map(repr, UNITS))}, the {TABLE} of a latency table or the {MEASURED} "
        f"of measured networks; got {given!r}."
    )


def cost_name(given: str, *, by_file: bool = False) -> str:
    """What a count, or the file of a latency, is called.

    Args:
        given: Name of a count, or path of a file.
        by_file: Whether there are several files, so that a latency is named for its own.

    Example:
        >>> cost_name("macs"), cost_name("runs/phone.csv"), cost_name("runs/phone.csv", by_file=True)
        ('macs', 'latency', 'phone')
    """
    if given in UNITS:
        return given
    return Path(given).stem if by_file else LATENCY


def resolve_cost(
    given: GivenCost, supernet: Supernet, *, allow_noisy: bool = False, what: str = "This cost model"
) -> CostModel:
    """The cost model of a supernet that is given as a model, by its name or by its file.

    Args:
        given: A cost model; ``"params"``, ``"macs"`` or ``"memory"``, which counts the candidates of the supernet; the
            path of a latency table (``.json``); or the path of measured networks (``.csv``, see
            :func:`~oneshot.cost.measured_cost`).
        supernet: The supernet whose architectures have the cost.
        allow_noisy: Warn of latencies that are doubtful, instead of refusing them.
        what: What errors call a cost model that is given as such.

    Raises:
        ValueError: If it is no cost, is of another space or of other networks, or is doubtful.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> resolve_cost("macs", NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)).unit
        'MACs'
    """
    unit_of(given)  # refuses what is no cost
    if not isinstance(given, CostModel) and given in UNITS:
        return count_candidates(supernet, given)
    source = what if isinstance(given, CostModel) else given
    if isinstance(given, str) and given.endswith(TABLE):
        table = LatencyTable.load(given, warn=False)
        check_doubts(table.doubts, source, allowed=allow_noisy)
        return table.cost_of(supernet)
    model = given if isinstance(given, CostModel) else measured_cost(given, supernet.space, work_of(supernet))
    model.check_supernet(supernet)
    check_doubts(model.doubts, source, allowed=allow_noisy)
    return model


def own_costs(given: OwnCosts | None, supernet: Supernet, *, allow_noisy: bool = False) -> dict[str, CostModel]:
    """Cost models by name, of what ``costs=`` of a search may be.

    Args:
        given: Costs by name, each a cost model, a name or file as :func:`resolve_cost` takes it, or a function of a
            ``SubnetConfig`` that returns a number; a function alone is ``{"macs": function}``.
        supernet: The supernet whose architectures have the costs.
        allow_noisy: See :func:`resolve_cost`.

    Raises:
        ValueError: If something is no cost, or the costs are of another supernet.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)
        >>> costs = own_costs({"convolutions": lambda config: sum("conv" in op for op in config["cell"])}, supernet)
        >>> costs["convolutions"].cost(supernet.space.sample(0))
        2.0
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        given = {"macs": given}
    found: dict[str, CostModel] = {}
    for name, cost in given.items():
        if isinstance(cost, CostModel | str):
            found[name] = resolve_cost(cost, supernet, allow_noisy=allow_noisy, what=f"The cost {name!r}")
        elif callable(cost):
            found[name] = TracedCost(supernet.space, cost, unit=UNITS.get(name, ""), what=name)  # type: ignore[call-overload]  # any name
        else:
            raise ValueError(
                f"A cost must be a CostModel, its name or file, or a function of a SubnetConfig; got {cost!r} for "
                f"{name!r}."
            )
    return found
