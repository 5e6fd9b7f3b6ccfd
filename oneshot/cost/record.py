"""The networks and the device that a cost was counted or measured for; they are compared before the cost is used."""

from __future__ import annotations

import inspect
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from oneshot.inputs import Shape, json_shape
from oneshot.storage.class_paths import public_path, stable_name
from oneshot.supernets.base import Subnet, Supernet
from oneshot.supernets.space import SearchSpace

from .counting.network import count

SAMPLES = 3  # networks that are looked at: what they have in common are the settings of all
FOR_TRAINING = ("dropout", "drop_path", "auxiliary")  # how arguments begin that change no network in eval mode
SIZES = ("params", "macs")
NOISY = 0.1  # relative deviation of one network's latency from one measurement to another
OF_THE_FILE = ("source", "checksum")
ABSENT = "nothing"
LATENCIES = "checksums of latencies"


@dataclass(frozen=True)
class Record:
    """Which networks the numbers of a cost belong to, and which device they were measured on.

    Args:
        supernet: The networks, as :func:`describe_supernet` has them; empty where it is not known.
        device: See :meth:`~oneshot.cost.LatencyDevice.facts`; empty for counts, and where it is not known.
        batch: Inputs in one pass.
        dtype: Of weights and inputs.
        noise: Standard deviation of one network's latency from one measurement to another, relative.
        date: When it was measured, ISO 8601.
        seed: The networks were drawn from.
        networks: How many were asked for.
        source: The file, for messages; not part of the record.
        checksum: Of the numbers, so that a search that is resumed can compare them; not part of the record, either.
    """

    supernet: dict[str, Any]
    device: dict[str, Any] = field(default_factory=dict)
    batch: int | None = None
    dtype: str | None = None
    noise: float | None = None
    date: str | None = None
    seed: int | None = None
    networks: int | None = None
    source: str = field(default="", compare=False)
    checksum: str = field(default="", compare=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, without what belongs to the file."""
        return {name: value for name, value in asdict(self).items() if name not in OF_THE_FILE}

    @property
    def measured(self) -> dict[str, Any]:
        """Runtime, device, threads, batch and data type: what a measurement must share to be compared with this one."""
        known = {name: self.device.get(name) for name in ("runtime", "compile_mode", "device", "threads")}
        return {name: value for name, value in {**known, "batch": self.batch, "dtype": self.dtype}.items() if value}

    def on(self) -> str:
        """What it was measured on, in words."""
        if not self.device:
            return "a device that is not recorded"
        threads = self.device.get("threads")
        parts = [
            f"{self.device.get('runtime')} on {self.device.get('name') or self.device.get('device')}",
            f"{threads} thread{'' if threads == 1 else 's'}",
            f"batch {self.batch}",
            str(self.dtype),
        ]
        return ", ".join(parts) + (f", measured {self.date[:10]}" if self.date else "")

    def check_supernet(self, supernet: Supernet) -> None:
        """Check that the numbers are those of the networks of ``supernet``.

        Raises:
            ValueError: Naming every setting that differs.
        """
        if told := self.differs(supernet):
            raise ValueError(
                f"{self.source or 'This cost model'} is of other networks than this supernet's: {told}. Build the "
                "supernet with those settings, or count or measure this one."
            )

    def differs(self, supernet: Supernet) -> str:
        """How the networks of ``supernet`` differ from those of the record, in words; empty if they do not."""
        if not self.supernet:
            return ""  # the networks are not known
        now, networks = _look_at(supernet, None)
        found = differences(self.supernet, now, _defaults(networks[0]))
        return "; ".join(f"{name} is {then} there, {here} here" for name, then, here in found)


@dataclass(frozen=True)
class Prediction:
    """What a search takes the latency of a network to be.

    Args:
        objective: Name of the latency in the search.
        ms: Milliseconds.
        record: What the costs were measured on; None if nobody has said.
    """

    objective: str
    ms: float
    record: Record | None = None

    @property
    def by(self) -> str:
        """Who predicts it, in words."""
        return (self.record and self.record.source) or f"objective {self.objective!r}"


def describe_supernet(supernet: Supernet, *, input_shape: Shape | None = None) -> dict[str, Any]:
    """What the networks of a supernet are: everything that what they need depends on, JSON-able.

    Beside the space, the input and the number of classes these are the arguments that the extracted networks have in
    common (width, stem, channels, ...), and the sizes of some of them, for classes that do not tell all arguments.

    Args:
        supernet: The supernet.
        input_shape: Another shape of one input, at which the networks are counted.
    """
    return _look_at(supernet, input_shape)[0]


def _look_at(supernet: Supernet, input_shape: Shape | None) -> tuple[dict[str, Any], list[Subnet]]:
    space, shape = supernet.space, input_shape or supernet.input_shape
    with own_random_numbers(supernet):
        networks = [supernet.extract(space.sample(seed), inherit=False) for seed in range(SAMPLES)]
    first, *others = [_plain(network.init_args) for network in networks]
    common = {
        name: value
        for name, value in first.items()
        if not name.startswith(FOR_TRAINING) and all(name in other and other[name] == value for other in others)
    }
    if input_shape is not None and "image_size" in common and not isinstance(input_shape, Mapping):
        height, width = input_shape[-2:]
        common["image_size"] = width if height == width else [height, width]
    at = networks[0].input_shape if input_shape is None else input_shape
    found = {
        "supernet": public_path(type(supernet)),
        "space": space.name,
        "choices": describe_choices(space),
        "input_shape": json_shape(shape),
        "num_classes": supernet.num_classes,
        "task": supernet.task.name,
        "network": public_path(type(networks[0])),
        "arguments": common,
        "params": [sum(p.numel() for p in network.parameters()) for network in networks],
        "macs": count(networks[0], at).macs if not isinstance(at, Mapping) and len(at) == 3 else None,
    }
    return found, networks


def describe_choices(space: SearchSpace) -> list[dict[str, Any]]:
    """What a file says of a space, JSON-able."""
    return [
        {"name": c.name, "candidates": list(c.candidates), "rows": c.rows, "droppable": c.droppable}
        for c in space.choices
    ]


def own_random_numbers(supernet: Supernet) -> AbstractContextManager[None]:
    """Inside, networks are built without a change of the caller's random numbers."""
    device = next(supernet.parameters()).device
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def differences(
    then: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> Iterator[tuple[str, str, str]]:
    """Settings that differ between two descriptions of :func:`describe_supernet`, as name, value then and now.

    What one does not say is not compared, but for arguments: those that ``then`` lacks had their defaults, since a
    release that did not know them built the network without.

    Args:
        then: What was counted or measured.
        now: What it is to be used for.
        defaults: Of the arguments of the networks.
    """
    # Which class the supernet has does not matter where it builds the same networks.
    shared = [name for name in now if name in then and name not in ("supernet", "arguments", "choices", *SIZES)]
    found = [(name, then[name], now[name]) for name in shared if then[name] != now[name]]
    found = [f for f in found if f[0] != "network" or stable_name(str(f[1])) != stable_name(str(f[2]))]
    if "choices" in then and then["choices"] != now["choices"]:
        ours, theirs = (_by_choice(which["choices"]) for which in (now, then))
        names = dict.fromkeys([*theirs, *ours])
        found += [(f"choice {n!r}", theirs.get(n), ours.get(n)) for n in names if theirs.get(n) != ours.get(n)]
        found = found or [("choices", list(theirs), list(ours))]  # in another order
    same, told = then.get("choices") == now["choices"], {name for name, _, _ in found}
    told |= {"image_size", "in_channels"} if "input_shape" in then else {"image_size"}  # or the size does not matter
    before, after = then.get("arguments", {}), now["arguments"]
    for name in dict.fromkeys([*before, *after]):
        if name in told or not (same or (name in before and name in after)):
            continue  # of other choices, what networks have in common may be some of these
        was = before.get(name, _plain((defaults or {}).get(name, ABSENT)))
        if was != (is_now := after.get(name, ABSENT)):
            found.append((name, was, is_now))
    if not found:  # otherwise a consequence
        found = [(f"{n} of samples", then[n], now[n]) for n in SIZES if n in then and then[n] != now[n]]
    for name, was, is_now in found:
        yield name, _said(was), _said(is_now)


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between the settings of two measurements, in words; empty if nothing does."""
    found = []
    for name in sorted(then.keys() | now.keys()):
        before, after = then.get(name), now.get(name)
        if name == "supernet" and isinstance(before, dict) and isinstance(after, dict):
            found += list(differences(before, after))
        elif isinstance(before, dict) and isinstance(after, dict):
            keys = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
            found += [(key, _said(before.get(key)), _said(after.get(key))) for key in keys]
        elif before != after:
            found.append((name, _said(before), _said(after)))
    return "; ".join(f"{name} was {before}, is {after}" for name, before, after in found)


def check_doubts(doubts: Sequence[str], source: str, *, allowed: bool) -> None:
    """Refuse latencies there are doubts about; where those are allowed, warn.

    Args:
        doubts: Why they may be wrong.
        source: Their file, or what they are.
        allowed: Whether a search may use them nevertheless.

    Raises:
        ValueError: Naming all doubts.
    """
    if not doubts:
        return
    what = f"{source} is doubtful: {'; '.join(doubts)}."
    if not allowed:
        raise ValueError(
            f"{what} Measure again when nothing else runs on the machine, or search with it as it is: allow_noisy=True "
            "(allow_noisy: true in YAML)."
        )
    warnings.warn(f"{what} It is used as it is, since allow_noisy is set.", stacklevel=3)


def latency_facts(models: Mapping[str, object]) -> dict[str, str]:
    """What a search must go on with: checksums of the latencies among its cost models, by name; none without any."""
    records = {name: getattr(model, "record", None) for name, model in models.items()}
    sums = [f"{name} {record.checksum}" for name, record in records.items() if record is not None and record.checksum]
    return {LATENCIES: ", ".join(sums)} if sums else {}


def noise_doubt(noise: float | None) -> str | None:
    """The doubt about a noise that is too high or not a number; None if there is none."""
    if noise is None or 0 <= noise <= NOISY:
        return None
    said = f"{noise:.0%}, above {NOISY:.0%}" if math.isfinite(noise) and noise > 0 else f"{noise}"
    return f"its noise from one measurement to the next is {said}"


def _by_choice(choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {c["name"]: {key: value for key, value in c.items() if key != "name"} for c in choices}


def _defaults(network: Subnet) -> dict[str, Any]:
    parameters = inspect.signature(type(network)).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _plain(value: Any) -> Any:
    """As a file of JSON gives it back."""
    return json.loads(json.dumps(value, default=repr))


def _said(value: object) -> str:
    text = repr(value) if value != ABSENT else ABSENT
    return text if len(text) <= 200 else f"{text[:200]}..."
