"""Network morphisms: changes of a network that keep what it has learned.

Exact operators keep the function (Net2Net, arXiv:1511.05641; network morphism, arXiv:1603.01670; NASH,
arXiv:1711.04528; path-level transformations, arXiv:1806.02639); approximate ones make a network smaller (LEMONADE,
arXiv:1804.09081). Every operator returns a new network that shares no memory with its parent, which stays as it is.

The state of an optimiser belongs to the parameters of the parent. A child has new ones, of other shapes: build its
optimiser anew, as all searches with morphisms do that restart their learning rate with every child.

What "keeps the function" means for an exact operator, besides rounding:

- in eval mode, for all images;
- in training mode, for the batch of images that was given to the operator, as one batch. The identity block of
  :func:`deepen` normalises with the moments of that batch; on another batch the moments differ by sampling noise, and
  so do the outputs. The other operators are exact on every batch;
- in eval mode after that training pass, except that running variances are unbiased estimates: the identity block is
  off by the factor ``1 + momentum / (2 n)``, with n values of a channel in the batch. No choice of its parameters
  avoids that, for both modes need the biased variance before the pass. So take enough images: with 512 of 8 x 8 pixels,
  twenty random operators are off by less than 1e-5; with 256, one block behind maps of 4 x 4 pixels is by 1.2e-5.

But for this factor, twenty random operators are exact to 1e-13 in float64 and to 1e-6 in float32 (tests).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import Tensor

from oneshot.supernets.json_files import checked
from oneshot.supernets.space import RNG

from .approximate import MERGES, prune, remove_layer, remove_skip, separate
from .editor import (
    channel_classes,
    free_convs,
    weakest,
    without_input,
)
from .exact import branch, deepen, deepen_separable, enlarge_kernel, skip_add, skip_concat, widen
from .graph import ACTIVATIONS, IMAGE, POOLS, Node
from .network import GraphNetwork

NASH_OPERATORS = ("deepen", "widen", "skip_add", "skip_concat")

EXACT_OPERATORS = (*NASH_OPERATORS, "deepen_separable", "branch", "enlarge_kernel")

APPROXIMATE_OPERATORS = ("remove_layer", "remove_skip", "prune", "separate")

LEMONADE_OPERATORS = (*NASH_OPERATORS, *APPROXIMATE_OPERATORS)


@dataclass(frozen=True)
class MorphismRecord:
    """A change of a network, so that it can be repeated.

    Args:
        operator: Name of an operator.
        arguments: Its keyword arguments, JSON-able; without images and random numbers.
        seed: Seed of its random numbers.
    """

    operator: str
    arguments: Mapping[str, Any] = field(hash=False)
    seed: int

    def __post_init__(self) -> None:
        if self.operator not in _OPERATORS:
            raise ValueError(f"There is no operator {self.operator!r}; operators are {', '.join(_OPERATORS)}.")
        object.__setattr__(self, "arguments", MappingProxyType(dict(self.arguments)))

    def __reduce__(self) -> tuple[Any, ...]:
        return MorphismRecord, (self.operator, dict(self.arguments), self.seed)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return {"operator": self.operator, "arguments": dict(self.arguments), "seed": self.seed}

    @classmethod
    def from_dict(cls, data: object) -> MorphismRecord:
        """Inverse of :meth:`to_dict`.

        Raises:
            ValueError: If ``data`` is no record.
        """
        what = "A record is an object with operator, arguments and seed: this one"
        known = checked(data, dict[str, Any], what)
        checked(known, cls, what)
        return cls(**known)


def morph(network: GraphNetwork, record: MorphismRecord, images: Tensor) -> GraphNetwork:
    """Repeat the change of a record.

    Args:
        network: The parent.
        record: Operator, arguments and seed.
        images: Training images, ``[B, C, H, W]``, for the operators that need them.
    """
    operator = _OPERATORS[record.operator]
    options: dict[str, Any] = {"images": images} if operator.images else {}
    if operator.random:
        options["rng"] = record.seed
    return operator.run(network, **record.arguments, **options)


def replay(network: GraphNetwork, records: Iterable[MorphismRecord], images: Tensor) -> GraphNetwork:
    """Repeat the changes of all records in order: the same child, bit by bit, on the same machine and images."""
    for record in records:
        network = morph(network, record, images)
    return network


def random_morphism(
    network: GraphNetwork,
    rng: RNG = None,
    *,
    images: Tensor,
    operators: Sequence[str] = NASH_OPERATORS,
    max_params: int | None = None,
) -> tuple[GraphNetwork, MorphismRecord]:
    """Draw an operator uniformly among those that can be applied, then a place for it uniformly, and apply it.

    Args:
        network: The parent; a sketch, if only the graph of the child is asked for.
        rng: A seed or a generator.
        images: Training images, ``[B, C, H, W]``; see :func:`deepen` and :func:`remove_layer`.
        operators: Names of operators, such as ``NASH_OPERATORS`` or ``LEMONADE_OPERATORS``.
        max_params: Children with more parameters are drawn again, so that a search that grows stays in memory.

    Returns:
        The child and what was done.

    Raises:
        ValueError: If an operator is unknown, or none can be applied.
    """
    rng = np.random.default_rng(rng)
    if unknown := [name for name in operators if name not in _OPERATORS]:
        raise ValueError(f"There are no operators {unknown}; operators are {', '.join(_OPERATORS)}.")
    names, left = list(operators), dict[str, list[dict[str, Any]]]()
    while names:
        name = str(rng.choice(names))
        operator = _OPERATORS[name]
        places = left[name] if name in left else left.setdefault(name, operator.places(network))
        arguments = places.pop(int(rng.integers(len(places)))) if places else None
        if not places:
            names.remove(name)
        if arguments is None or not operator.fits(network, arguments):
            continue
        record = MorphismRecord(name, arguments, int(rng.integers(2**31)))
        child = morph(network, record, images)
        if max_params is None or child.num_params <= max_params:
            return child, record
    raise ValueError(
        f"None of {tuple(operators)} can be applied"
        + (f" without more than {max_params} parameters. Raise max_params." if max_params else ". Allow others.")
    )


def _outputs(network: GraphNetwork) -> list[str]:
    """Ends of blocks, where skips and new blocks are put: activations, pooling and merges of more than one pixel."""
    return [
        node.name
        for node in network.graph.nodes
        if node.op in (*ACTIVATIONS, *POOLS, *MERGES) and math.prod(network.shapes[node.name][1:]) > 1
    ]


def _deepen_places(network: GraphNetwork) -> list[dict[str, Any]]:
    return [{"after": name, "kernel": kernel} for name in _outputs(network) for kernel in (3, 5)]


def _widen_places(network: GraphNetwork) -> list[dict[str, Any]]:
    return [{"node": n.name, "channels": 2 * n.channels} for n in free_convs(network)]


def _skip_add_places(network: GraphNetwork) -> list[dict[str, Any]]:
    shapes, places = network.shapes, []
    for target in _outputs(network):
        behind = network.graph.descendants(target)
        sources = [s for s in _outputs(network) if s not in behind and shapes[s] == shapes[target]]
        places += [{"source": source, "target": target} for source in sources]
    return places


def _skip_concat_places(network: GraphNetwork) -> list[dict[str, Any]]:
    shapes, places = network.shapes, []
    for node in network.graph.nodes:
        if node.op == "conv" and node.groups == 1:
            behind, (old,) = network.graph.descendants(node.name), node.inputs
            read = {old, *(network.graph[old].inputs if old != IMAGE and network.graph[old].op == "concat" else ())}
            sources = [s for s in _outputs(network) if s not in behind | read and shapes[s][1:] == shapes[old][1:]]
            places += [{"source": source, "consumer": node.name} for source in sources]
    return places


def _convs(network: GraphNetwork) -> list[Node]:
    return [node for node in network.graph.nodes if node.op in ("conv", "depthwise")]


def _branch_places(network: GraphNetwork) -> list[dict[str, Any]]:
    places: list[dict[str, Any]] = [{"node": node.name, "how": "add"} for node in _convs(network)]
    halves = [n for n in network.graph.nodes if n.op == "conv" and n.groups == 1 and n.channels > 1]
    return places + [{"node": node.name, "how": "concat"} for node in halves]


def _kernel_places(network: GraphNetwork) -> list[dict[str, Any]]:
    side = {node.name: min(network.shapes[node.inputs[0]][1:]) for node in _convs(network)}
    larger = {node.name: node.kernel + 2 for node in _convs(network)}
    return [{"node": name, "kernel": kernel} for name, kernel in larger.items() if kernel <= min(7, 2 * side[name])]


def _layer_places(network: GraphNetwork) -> list[dict[str, Any]]:
    return [{"node": n.name} for n in _convs(network) if network.shapes[n.inputs[0]] == network.shapes[n.name]]


def _remove_skip_places(network: GraphNetwork) -> list[dict[str, Any]]:
    places = []
    for node in network.graph.nodes:
        if node.op in MERGES:
            for drop in range(len(node.inputs)):
                if node.op != "concat" or without_input(network, node, drop, strict=False):
                    places.append({"node": node.name, "drop": drop})
    return places


def _prune_places(network: GraphNetwork) -> list[dict[str, Any]]:
    places = []
    for node in free_convs(network):
        for count in sorted({node.channels // 2, node.channels // 4} - {0}):
            places.append({"node": node.name, "count": count})
    return places


def _can_prune(network: GraphNetwork, arguments: Mapping[str, Any]) -> bool:
    classes, _ = channel_classes(network)
    count: int = arguments["count"]
    return len(weakest(network, classes, arguments["node"], count)) == count


def _separate_places(network: GraphNetwork) -> list[dict[str, Any]]:
    return [{"node": n.name} for n in network.graph.nodes if n.op == "conv" and n.groups == 1 and n.window > (1, 1)]


@dataclass(frozen=True)
class _Operator:
    run: Callable[..., GraphNetwork]
    places: Callable[[GraphNetwork], list[dict[str, Any]]]  # arguments with which it can be applied, if it fits
    images: bool = False
    random: bool = False
    fits: Callable[[GraphNetwork, Mapping[str, Any]], bool] = lambda network, arguments: True  # too slow for all places


_OPERATORS = {
    "deepen": _Operator(deepen, _deepen_places, images=True, random=True),
    "deepen_separable": _Operator(deepen_separable, _deepen_places, images=True, random=True),
    "widen": _Operator(widen, _widen_places, random=True),
    "skip_add": _Operator(skip_add, _skip_add_places),
    "skip_concat": _Operator(skip_concat, _skip_concat_places),
    "branch": _Operator(branch, _branch_places, random=True),
    "enlarge_kernel": _Operator(enlarge_kernel, _kernel_places),
    "remove_layer": _Operator(remove_layer, _layer_places, images=True),
    "remove_skip": _Operator(remove_skip, _remove_skip_places, images=True),
    "prune": _Operator(prune, _prune_places, images=True, fits=_can_prune),
    "separate": _Operator(separate, _separate_places, images=True),
}
