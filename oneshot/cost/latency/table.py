"""Latency tables: the measured latency of every candidate on a device, as a JSON file."""

from __future__ import annotations

import json
import math
import warnings
import zlib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import torch

from oneshot.cost.counting.network import count
from oneshot.cost.model import AdditiveCost
from oneshot.cost.record import Record, noise_doubt
from oneshot.cost.record import describe_choices as describe_choices
from oneshot.storage.files import write_atomically
from oneshot.supernets.base import Supernet
from oneshot.supernets.json_files import MayBeNaN, checked, read_json
from oneshot.supernets.space import SearchSpace, SubnetConfig

SIZE_TOLERANCE = 0.05  # of MACs, relative: networks with another number of classes may differ by so much

SCHEMA_VERSION = 1
UNIT = "ms"
OPTIONAL = {"supernet"}  # earlier releases did not write it
UNRECORDED = (
    "{source} does not say which networks it was measured for: an earlier release wrote it, or its record was removed. "
    "Whether width, stem, channels and number of classes are those of this supernet cannot be checked. 'oneshot "
    "measure' writes a table that says it."
)


@dataclass(frozen=True)
class LatencyTable:
    """Latencies of the candidates of a space on one device.

    Whole networks do not tell which part of a latency belongs to a row that is never left out, and which to all
    networks. So the cheapest candidate of such a row counts 0, and its latency is in ``fixed``.

    Args:
        space: Name of the search space.
        choices: Its choices: name, candidates, rows and whether a row may be left out, as :func:`describe_choices` has
            them.
        input_shape: Shape of one input, C, H, W of an image.
        batch: Inputs in one pass.
        dtype: Of weights and inputs.
        table: Latency of every candidate in its place, ``{choice: [R][O]}``, ms.
        fixed: Latency of what is in every architecture, ms.
        spread: Standard error of every entry of the table, ms.
        noise: Standard deviation of one network's latency from one measurement to another, relative.
        residual: Standard deviation of the measured networks from their sums, relative; noise is part of it.
        networks: Number of networks measured.
        reference: Network that was measured between all others: ``config``, ``ms``, ``params`` and ``macs``.
        device: What was measured on: runtime, device, driver, threads, versions.
        date: When, ISO 8601.
        unit: Of all latencies, ``"ms"``.
        supernet: The networks it holds for, as :func:`~oneshot.cost.record.describe_supernet` has them; ``None`` in
            tables of earlier releases.
        source: The file it was read from, for messages; not written.

    Raises:
        ValueError: If a value is not what it must be; candidates without a latency are named.
    """

    space: str
    choices: list[dict[str, Any]]
    input_shape: tuple[int, ...]
    batch: int
    dtype: str
    table: dict[str, list[list[float]]]
    fixed: float
    spread: dict[str, list[list[float]]]
    noise: float
    residual: float
    networks: int
    reference: dict[str, Any]
    device: dict[str, Any]
    date: str
    unit: str = UNIT
    supernet: dict[str, Any] | None = None
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_shape", tuple(self.input_shape))
        if self.unit != UNIT:
            raise ValueError(
                f"Latencies must be in {UNIT}; this table is in {self.unit!r}. Convert it, or measure again."
            )
        if not _positive(self.reference.get("ms")):
            raise ValueError(f"A table must name the latency of its reference in ms; got {self.reference.get('ms')!r}.")
        if not math.isfinite(self.fixed):
            raise ValueError(f"The fixed latency must be finite; got {self.fixed} ms. Measure again.")
        missing, wrong = [], []
        for choice in self.choices:
            rows = self.table.get(choice["name"]) or []
            for row in range(choice["rows"]):
                costs = rows[row] if row < len(rows) else []
                for position, candidate in enumerate(choice["candidates"]):
                    cost = costs[position] if position < len(costs) else None
                    place = f"{candidate} in row {row} of {choice['name']!r}"
                    if cost is None:
                        missing.append(place)
                    elif not (math.isfinite(cost) and cost >= 0):
                        wrong.append(f"{place} ({cost} ms)")
        if missing:
            raise ValueError(
                f"A table must have a latency for every candidate; missing: {', '.join(missing)}. Measure again; a sum "
                "without them would be too small."
            )
        if wrong:
            raise ValueError(f"Latencies must be finite and not negative; wrong: {', '.join(wrong)}. Measure again.")

    @property
    def record(self) -> Record:
        """The networks and the device it was measured for."""
        return Record(
            supernet=self.supernet or {},
            device=self.device,
            batch=self.batch,
            dtype=self.dtype,
            noise=self.noise,
            date=self.date,
            networks=self.networks,
            source=self.source,
            checksum=f"{zlib.crc32(json.dumps([self.table, self.fixed], sort_keys=True).encode()):08x}",
        )

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why its latencies may be wrong; empty for a good table."""
        found = [noise_doubt(self.noise)]
        cheapest = self.fixed
        for choice in self.choices:
            droppable = choice.get("droppable", False)
            cheapest += sum(0.0 if droppable else min(row) for row in self.table[choice["name"]][: choice["rows"]])
        if self.fixed < 0:
            found.append(f"what is in every network needs {self.fixed:.3g} {UNIT}, less than nothing")
        if cheapest <= 0:
            found.append(f"the cheapest network needs {cheapest:.3g} {UNIT}")
        if not (math.isfinite(self.residual) and self.residual >= 0):
            found.append(f"how far networks are from their sums is {self.residual}")
        return tuple(doubt for doubt in found if doubt)

    def save(self, path: str | Path) -> Path:
        """Write the table as JSON, whole or not at all."""
        content = {name: value for name, value in asdict(self).items() if name != "source"}
        return write_atomically(path, json.dumps({"schema_version": SCHEMA_VERSION, **content}, indent=1))

    @classmethod
    def load(cls, path: str | Path, *, warn: bool = True) -> LatencyTable:
        """Read a table.

        Args:
            path: The file.
            warn: Whether to warn of a table that is doubtful, see :attr:`doubts`.

        Raises:
            ValueError: If the file is missing, truncated, not a table, or one of another schema version.
        """
        try:
            data = read_json(path, not_finite=True)
        except FileNotFoundError as error:
            raise ValueError(f"There is no latency table {path}. 'oneshot measure --out {path}' makes one.") from error
        except ValueError as error:
            raise ValueError(f"{path} is not a latency table: {error} It may be truncated; measure again.") from error
        if not isinstance(data, dict) or "schema_version" not in data:
            raise ValueError(f"{path} is not a latency table: it has no schema_version. 'oneshot measure' makes one.")
        version = data.pop("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"{path} has schema version {version!r}; this release reads version {SCHEMA_VERSION}. Measure again, "
                "or read it with the release that wrote it."
            )
        names = {field.name for field in fields(cls)} - {"source"}
        if not names - OPTIONAL <= data.keys() <= names:
            raise ValueError(
                f"{path} is not a latency table: missing {sorted(names - OPTIONAL - data.keys())}, unknown "
                f"{sorted(data.keys() - names)}. Measure again."
            )
        try:
            table = cls(**data, source=str(path))
            doubts = table.doubts
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            raise ValueError(f"{path}: {error}") from error
        kinds: dict[str, Any] = get_type_hints(cls)
        for name, value in data.items():  # what the class does not look at itself
            kind = MayBeNaN if kinds[name] is float else kinds[name]
            checked(value, kind, f"{path}: {name}", advice="Measure again.")
        if doubts and warn:
            warnings.warn(f"{path} is doubtful: {'; '.join(doubts)}. Measure again on a quiet machine.", stacklevel=2)
        return table

    def cost(self, space: SearchSpace, *, input_shape: tuple[int, ...] | None = None) -> AdditiveCost:
        """The table as a cost model, in ms.

        Args:
            space: The space it will be asked about.
            input_shape: Shape of one input of the supernet, C, H, W; ``None`` does not compare it.

        Raises:
            ValueError: If the table is of another space, of other choices, or of another input shape.
        """
        if space.name != self.space:
            raise ValueError(
                f"The latency table must be of space {space.name!r}; it is of {self.space!r}. Measure that space."
            )
        expected = describe_choices(space)
        if expected != self.choices:
            theirs = [c for c in self.choices if c not in expected]
            ours = [c for c in expected if c not in self.choices]
            raise ValueError(
                f"This latency table and the space, both {space.name!r}, have different choices: {theirs or 'fewer'} "
                f"in the table, {ours or 'fewer'} in the space. Measure the space that is searched."
            )
        if input_shape is not None and tuple(input_shape) != self.input_shape:
            raise ValueError(
                f"This latency table was measured with inputs of shape {list(self.input_shape)}; the supernet's are "
                f"{list(input_shape)}. Measure again for that size."
            )
        table = {name: torch.tensor(rows, dtype=torch.float64) for name, rows in self.table.items()}
        square = len(self.input_shape) == 3 and self.input_shape[1] == self.input_shape[2]
        size = self.input_shape[-1] if square else None
        cost = AdditiveCost(space, table, unit=self.unit, fixed=self.fixed, image_size=size)
        cost.input_shape, cost.record, cost.doubts = self.input_shape, self.record, self.doubts
        cost.deviation = self.residual if math.isfinite(self.residual) and self.residual >= 0 else 0.0
        return cost

    def cost_of(self, supernet: Supernet) -> AdditiveCost:
        """The table as the cost model of a supernet, in ms.

        Raises:
            ValueError: If it was measured for other networks: every setting that differs is named. A table of an
                earlier release does not say them all; a warning says so, and space, choices, input and, up to 5 %, the
                MACs of the reference network are compared.
        """
        self.record.check_supernet(supernet)
        cost = self.cost(supernet.space, input_shape=supernet.input_shape)
        if self.supernet is None:
            self._check_size(supernet)
            warnings.warn(UNRECORDED.format(source=self.source or "This latency table"), stacklevel=2)
        return cost

    def _check_size(self, supernet: Supernet) -> None:
        if (then := self.reference.get("macs")) is None:
            return
        with torch.random.fork_rng([]):
            network = supernet.extract(self.reference_config, inherit=False)
        now = count(network, supernet.input_shape).macs
        if abs(now / then - 1) > SIZE_TOLERANCE:
            raise ValueError(
                f"This latency table was measured with networks of another size: its reference network has "
                f"{then:,} MACs, here {now:,}. Build the supernet with the width and channels that were measured, "
                "or measure this one."
            )

    @property
    def reference_config(self) -> SubnetConfig:
        """The reference network's architecture."""
        return SubnetConfig.from_dict(self.reference["config"])


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0
