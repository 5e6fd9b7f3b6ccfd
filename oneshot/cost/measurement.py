"""Latency tables by measuring: whole networks, in a design from which the candidates' shares can be told.

A block that is timed alone, in a loop, finds its weights in the cache and its memory allocated, which it never does in
a network. So nothing is timed but whole networks, as ``extract`` builds them: a design of random ones in which all
candidates of a row appear equally often, each pass between two of one reference network, by which changes of the
machine's speed are divided out. Regression then gives every candidate its share. Every network informs every row,
which is more precise than exchanging one block at a time: a weighing design (Hotelling, 1944, Annals of Mathematical
Statistics 15, p. 297).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from oneshot.faults import patiently
from oneshot.files import append
from oneshot.supernets import mixed_op
from oneshot.supernets.base import OperationSupernet, Subnet, Supernet
from oneshot.supernets.json_files import checked, parse_json, read_content
from oneshot.supernets.space import IntMatrix, SearchSpace

from .counts import MacCounter, count
from .record import Record, changes, describe_choices, describe_supernet
from .table import LatencyTable
from .target import Run, Target, example_input

Matrix = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]

WARM_UP, RUNS = 2, 11
LONE_RUNS = 25  # where every network stands for itself
REPEATED = 12  # networks that are measured a second time at the end, for the noise
PER_UNKNOWN = 3  # networks for each latency that is to be found, by default
RIDGES = np.geomspace(1e-3, 10, 25)
HUBER = 1.5  # standard deviations a network may be off before it counts less


class Visit(NamedTuple):
    """One network measured, pass by pass in turn with the reference.

    Args:
        genes: The network, length G.
        ms: Its passes.
        reference_ms: Those of the reference before each of them, and one after the last.
    """

    genes: tuple[int, ...]
    ms: tuple[float, ...]
    reference_ms: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Latency in units of the reference's, the median over the passes.

        The machine's speed, which may change several times a second, is divided out: every pass is compared with those
        of the reference just before and after it.
        """
        reference = np.asarray(self.reference_ms)
        return float(np.median(2 * np.asarray(self.ms) / (reference[:-1] + reference[1:])))


@dataclass(frozen=True)
class Shares:
    """What :func:`fit_shares` finds.

    Args:
        entries: Latency of every unknown, ``[P]``, ms.
        fixed: Latency of what is in every network, ms.
        errors: Standard errors of ``entries``, ``[P]``, ms.
        residual: Standard deviation of a network from the sum that was fitted without it, relative.
    """

    entries: Matrix
    fixed: float
    errors: Matrix
    residual: float


def measure(
    supernet: Supernet,
    target: Target,
    *,
    networks: int | None = None,
    seed: int = 0,
    journal: str | Path | None = None,
    progress: Progress | None = None,
) -> LatencyTable:
    """Measure a latency table of a supernet's candidates.

    Networks are ``supernet.extract(config, inherit=False)`` in eval mode; the supernet itself never runs on the target,
    and the caller's random numbers stay where they are.

    Args:
        supernet: The supernet, on the CPU.
        target: What is measured on.
        networks: How many networks to measure; three for each different latency by default.
        seed: Of the design.
        journal: File that raw timings are appended to, so that measuring goes on where it was interrupted.
        progress: Called after every network with the number of those done and of all.

    Raises:
        ValueError: If there are too few networks to see every candidate, the supernet is elastic, or the journal has
            other settings.
        RuntimeError: If the device fails, or gives times that are not positive.
    """
    if not isinstance(supernet, OperationSupernet):
        raise ValueError(
            f"A latency table has one latency for every candidate in its place; in space {supernet.space.name!r} it "
            "depends on other choices. Measure random networks: measure_latencies(supernet, target, genes), then "
            "fit_predictor(space, genes, latencies)."
        )
    space, places = supernet.space, Places.of(supernet)
    unknowns = len(places.features)
    networks = max(PER_UNKNOWN * unknowns, 2 * REPEATED) if networks is None else networks
    design = balanced_design(space, networks, seed)
    seen = {place for genes in design for place in places.of_genes(genes)}
    unseen = [name for place, name in enumerate(places.names) if place not in seen]
    if networks < REPEATED or unseen:
        raise ValueError(
            f"A table needs at least {REPEATED} networks, in which every candidate appears; got networks={networks}, "
            f"without {', '.join(unseen) or 'nothing'}. Measure more networks; {PER_UNKNOWN * unknowns} is the default."
        )
    reference = space.encode([space.sample(seed)])[0]
    settings = {"measured": "table", "networks": networks, "seed": seed, **describe(supernet, target)}
    log = Journal(journal, settings)
    plan = [*design, *design[:REPEATED]]
    measure_networks(supernet, target, reference, plan, log, progress)

    anchor = log.reference_ms()
    ratios = np.array([visit.ratio for visit in log.visits])
    shares = fit_shares(
        np.stack([places.occurrences(visit.genes) for visit in log.visits]),
        places.features,
        anchor * ratios,
    )
    table, fixed = places.tables(shares.entries, shares.fixed)
    spread, _ = places.tables(shares.errors, 0.0, level=False)
    with torch.random.fork_rng(devices=[]):
        network = supernet.extract(space.decode(reference[None])[0], inherit=False)
    return LatencyTable(
        space=space.name,
        choices=describe_choices(space),
        input_shape=supernet.input_shape,
        batch=target.batch,
        dtype=target.dtype,
        table=table,
        fixed=fixed,
        spread=spread,
        noise=repeat_noise(ratios[:REPEATED], ratios[networks:]),
        residual=shares.residual,
        networks=networks,
        reference={"config": space.decode(reference[None])[0].to_dict(), "ms": anchor, **_size(network)},
        device=target.facts(),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        supernet=describe_supernet(supernet),
    )


def measure_latencies(
    supernet: Supernet,
    target: Target,
    genes: IntMatrix,
    *,
    seed: int = 0,
    journal: str | Path | None = None,
    progress: Progress | None = None,
) -> Matrix:
    """Latency of given whole networks, in ms at the speed the machine had most of the time: ``[N, G]`` -> ``[N]``.

    Args:
        supernet: Extracts the networks.
        target: What is measured on.
        genes: The networks.
        seed: The reference network is drawn from it.
        journal: See :func:`measure`.
        progress: Likewise.

    Raises:
        ValueError: If the journal has other settings.
        RuntimeError: If the device fails, or gives times that are not positive.
    """
    space = supernet.space
    settings = {"measured": np.asarray(genes).tolist(), "seed": seed, **describe(supernet, target)}
    log = Journal(journal, settings)
    reference = space.encode([space.sample(seed)])[0]
    measure_networks(supernet, target, reference, list(genes), log, progress, runs=LONE_RUNS)
    return log.reference_ms() * np.array([visit.ratio for visit in log.visits])


def measure_samples(
    supernet: Supernet,
    target: Target,
    genes: IntMatrix,
    *,
    seed: int = 0,
    journal: str | Path | None = None,
    progress: Progress | None = None,
) -> tuple[Matrix, Record]:
    """Latency of given whole networks as :func:`measure_latencies`, ``[N]``, ms, and what it was measured for and on.

    The first networks are measured once more at the end, which tells the noise.

    Args:
        supernet: Extracts the networks.
        target: What is measured on.
        genes: The networks, ``[N, G]``.
        seed: The reference network is drawn from it.
        journal: See :func:`measure`.
        progress: Likewise.

    Raises:
        ValueError: If the journal has other settings.
        RuntimeError: If the device fails, or gives times that are not positive.
    """
    space, count = supernet.space, len(genes)
    again = genes[:REPEATED]
    about = describe(supernet, target)
    settings = {"measured": np.asarray(genes).tolist(), "repeated": len(again), "seed": seed, **about}
    log = Journal(journal, settings)
    reference = space.encode([space.sample(seed)])[0]
    measure_networks(supernet, target, reference, [*genes, *again], log, progress, runs=LONE_RUNS)
    ratios = np.array([visit.ratio for visit in log.visits])
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    record = Record(**about, noise=repeat_noise(ratios[: len(again)], ratios[count:]), date=date, seed=seed)
    return log.reference_ms() * ratios[:count], record


def measure_networks(
    supernet: Supernet,
    target: Target,
    reference: IntMatrix,
    plan: Sequence[IntMatrix],
    journal: Journal,
    progress: Progress | None = None,
    *,
    runs: int = RUNS,
) -> None:
    """Measure the networks of ``plan`` that are not in the journal yet, in turn with the reference.

    Args:
        supernet: Extracts the networks.
        target: What is measured on.
        reference: Genes of the reference network, ``[G]``.
        plan: Genes of the networks, in order.
        journal: Holds the first visits of the plan, and gets the others.
        progress: Called after every network with the number of those done and of all.
        runs: Passes of every network.

    Raises:
        RuntimeError: If the device fails, or gives times that are not positive.
    """
    if progress is not None:
        progress(len(journal.visits), len(plan))
    if len(journal.visits) >= len(plan):
        return
    try:
        with target.ready(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the weights
            base = _prepare(supernet, target, reference)
            for genes in plan[len(journal.visits) :]:
                journal.append(_visit(target, base, _prepare(supernet, target, genes), genes, runs))
                if progress is not None:
                    progress(len(journal.visits), len(plan))
    except RuntimeError as error:
        kept = f" {journal.path} keeps them; the same command goes on from there." if journal.path else ""
        raise RuntimeError(
            f"Measuring stopped after {len(journal.visits)} of {len(plan)} networks: {error} If the device has "
            f"vanished or its memory ran out, see to that first.{kept}"
        ) from error


class _Visit(TypedDict):
    """A :class:`Visit` as JSON."""

    genes: list[int]
    ms: list[float]
    reference_ms: list[float]


class Journal:
    """Raw timings, one line of JSON a visit, after a line with the settings they were measured under.

    Args:
        path: The file; ``None`` keeps them in memory.
        settings: What must be the same for timings to belong together.

    Raises:
        ValueError: If the file is there and has other settings, or is no journal.
    """

    def __init__(self, path: str | Path | None, settings: dict[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.visits: list[Visit] = []
        self._size = 0  # bytes of whole lines
        if self.path is None:
            return
        settings = json.loads(json.dumps(settings))
        if self.path.exists():
            self._read(self.path, settings)
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._write(json.dumps(settings))

    def append(self, visit: Visit) -> None:
        """Keep a visit, on the disk if there is a file.

        Raises:
            OSError: If a full disk stays full.
        """
        self._write(json.dumps(visit._asdict()))
        self.visits.append(visit)

    def reference_ms(self) -> float:
        """Median of all passes of the reference."""
        return float(np.median([ms for visit in self.visits for ms in visit.reference_ms]))

    def _read(self, path: Path, settings: dict[str, Any]) -> None:
        whole = [line + b"\n" for line in read_content(path).split(b"\n")[:-1]]  # the last may have been cut off
        try:
            then, *rows = [parse_json(line, f"line {number}") for number, line in enumerate(whole, 1)] or [None]
            for number, row in enumerate(rows, 2):
                checked(row, _Visit, f"line {number}")
                self.visits.append(Visit(**{name: tuple(values) for name, values in row.items()}))
        except ValueError as error:
            raise ValueError(f"{path} is not a journal of timings ({error}). Delete it to begin anew.") from error
        if then != settings:
            different = changes(then if isinstance(then, dict) else {}, settings)
            raise ValueError(
                f"Measuring goes on with the settings it began with; in {path} {different}. Use those, delete the "
                "file to begin anew, or write to another."
            )
        self._size = sum(map(len, whole))

    def _write(self, line: str) -> None:
        if (path := self.path) is not None:
            content = f"{line}\n".encode()
            self._size = patiently(lambda: append(path, content, at=self._size, sync=True), f"{path} cannot be written")


class _Seen(NamedTuple):
    shape: tuple[int, ...]  # of the input
    work: Matrix  # of the candidates, [O, 4]


class Places:
    """Which candidates of which rows share one latency, because they are the same modules on inputs of one shape.

    Attributes:
        names: Every unknown latency in words, ``[P]``.
        features: What suggests how large it is, ``[P, K]``: MACs, elements read and written, modules run, parameters;
            each with mean 1 where it is not 0 everywhere.
    """

    def __init__(self, space: SearchSpace, keys: dict[str, list[list[Any]]], features: dict[str, Matrix]) -> None:
        self.space = space
        index: dict[Any, int] = {}
        self.index: dict[str, npt.NDArray[np.int64]] = {}
        self.names: list[str] = []
        found: list[Matrix] = []
        for choice in space.choices:
            self.index[choice.name] = np.zeros((choice.rows, len(choice.candidates)), np.int64)
            for row, keys_of_row in enumerate(keys[choice.name]):
                for position, key in enumerate(keys_of_row):
                    if key not in index:
                        index[key] = len(index)
                        self.names.append(f"{choice.candidates[position]} in row {row} of {choice.name!r}")
                        found.append(features[choice.name][row, position])
                    self.index[choice.name][row, position] = index[key]
        means = np.stack(found).mean(0)
        self.features = np.stack(found) / np.where(means > 0, means, 1)

    @classmethod
    def of(cls, supernet: OperationSupernet) -> Places:
        """Run every candidate of ``supernet`` once, and see what it is and does."""
        space, mixed_ops = supernet.space, supernet.mixed_ops()
        every = {id(mixed): mixed for rows in mixed_ops.values() for row in rows for mixed in row}
        seen: dict[int, _Seen] = {}

        def look(mixed: nn.Module, args: tuple[Any, ...]) -> None:
            assert isinstance(mixed, mixed_op.MixedOp)
            x = mixed.part(args[0], {})
            seen[id(mixed)] = _Seen(tuple(x.shape), np.stack([_work(op, x) for op in mixed.ops]))

        like = next(supernet.parameters())
        arch = {c.name: mixed_op.Path(torch.eye(len(c.candidates))[[0] * c.rows].to(like)) for c in space.choices}
        with torch.random.fork_rng(devices=[]):
            network = supernet.extract(space.sample(0), inherit=False)
        x = example_input(network, 1, like.dtype).to(like.device)
        training = {module: module.training for module in supernet.modules()}
        hooks = [mixed.register_forward_pre_hook(look) for mixed in every.values()]
        try:
            supernet.eval()
            with torch.no_grad():
                supernet(x, arch)
        finally:
            for hook in hooks:
                hook.remove()
            for module, flag in training.items():
                module.training = flag
        keys: dict[str, list[list[Any]]] = {}
        features: dict[str, Matrix] = {}
        for choice in space.choices:
            size, rows = len(choice.candidates), mixed_ops[choice.name]
            keys[choice.name] = [
                [
                    # A choice that decides about no modules, but about wires, has nothing to compare.
                    tuple((seen[id(m)].shape, _what_it_is(m.ops[o])) for m in row) or (choice.name, r, o)
                    for o in range(size)
                ]
                for r, row in enumerate(rows)
            ]
            features[choice.name] = np.array([sum((seen[id(m)].work for m in r), np.zeros((size, 4))) for r in rows])
        return cls(space, keys, features)

    def of_genes(self, genes: Sequence[int] | IntMatrix) -> list[int]:
        """Unknowns in the network of ``genes``; a row that is left out has none."""
        found, gene = [], 0
        for choice in self.space.choices:
            for row in self.index[choice.name]:
                if genes[gene] < len(row):
                    found.append(int(row[genes[gene]]))
                gene += 1
        return found

    def occurrences(self, genes: Sequence[int] | IntMatrix) -> Matrix:
        """How often every unknown is in the network of ``genes``, ``[P]``."""
        return np.bincount(self.of_genes(genes), minlength=len(self.names)).astype(np.float64)

    def tables(self, values: Matrix, fixed: float, *, level: bool = True) -> tuple[dict[str, list[list[float]]], float]:
        """Lay values ``[P]`` out as ``{choice: [R][O]}``; with ``level`` the least of a row moves into ``fixed``.

        A row that can be left out keeps its level, and what is below 0 becomes 0.
        """
        table = {}
        for choice in self.space.choices:
            rows = values[self.index[choice.name]]
            if level and len(choice.picks) == len(choice.candidates):
                least = rows.min(1, keepdims=True)
                rows, fixed = rows - least, fixed + float(least.sum())
            table[choice.name] = np.maximum(rows, 0).tolist()
        return table, fixed


def balanced_design(space: SearchSpace, networks: int, seed: int, *, draws: int = 32) -> IntMatrix:
    """Random networks in which all picks of a gene appear about equally often, also in every first part of them.

    Of some random networks each time the one is taken whose picks have appeared least. For spaces without rules between
    genes this comes close to Latin squares; for the others it keeps their rules.

    Args:
        space: The search space.
        networks: How many, N.
        seed: Same seed, same design.
        draws: From how many each is chosen.

    Returns:
        Genes, ``[N, G]``.
    """
    rng, columns = np.random.default_rng(seed), np.arange(space.num_genes)
    counts = np.zeros((space.num_genes, max(space.gene_sizes)))
    design = np.empty((networks, space.num_genes), np.int64)
    for n in range(networks):
        pool = space.sample_matrix(draws, rng)
        design[n] = pool[counts[columns, pool].sum(1).argmin()]
        counts[columns, design[n]] += 1
    return design


def fit_shares(occurrences: Matrix, features: Matrix, latencies: Matrix) -> Shares:
    r"""Latencies of parts from those of wholes, :math:`y_n = c + \sum_p A_{np} x_p` with relative errors.

    The prior of a part is what its features suggest, :math:`x = F b + d`: :math:`b` is free, and :math:`d` is as large
    as leave-one-out cross-validation says (ridge regression). So parts that the networks tell apart badly stay near
    what their work suggests, and the others are what was measured. Networks far from their sum count less (Huber's
    weights, 1964), as when something else woke up on the machine.

    Args:
        occurrences: A, ``[N, P]``.
        features: F, ``[P, K]``, not negative, of mean about 1.
        latencies: y, ``[N]``, above 0.
    """
    n, parts = occurrences.shape
    free = features.shape[1] + 1
    scale = latencies.mean() / max(occurrences.sum(1).mean(), 1.0)  # of one part
    inputs = np.hstack([occurrences @ features * scale, np.ones((n, 1)), occurrences * scale])
    penalty = np.r_[np.full(free, 1e-6), np.ones(parts)]
    weights = np.ones(n)

    def solve(ridge: float) -> tuple[Matrix, Matrix, Matrix]:
        rows = inputs / latencies[:, None] * np.sqrt(weights)[:, None]
        inverse = np.linalg.inv(rows.T @ rows + np.diag(np.where(penalty == 1, ridge**2, 1e-9)))
        solution = inverse @ rows.T @ np.sqrt(weights)
        leverage = np.einsum("ni,ij,nj->n", rows, inverse, rows)
        error = (inputs @ solution / latencies - 1) / np.maximum(1 - leverage, 1e-3)
        return solution, inverse, error

    best = float(RIDGES[0])
    for _ in range(5):
        errors = {float(ridge): solve(float(ridge))[2] for ridge in RIDGES}
        best = min(errors, key=lambda ridge: float((weights * errors[ridge] ** 2).sum()))
        size = 1.4826 * np.median(np.abs(errors[best])) + 1e-12
        weights = np.minimum(1, HUBER * size / np.maximum(np.abs(errors[best]), 1e-12))
    solution, inverse, error = solve(best)
    back = np.hstack([features, np.zeros((parts, 1)), np.eye(parts)]) * scale  # from the solution to the parts
    residual = float(np.sqrt((weights * error**2).sum() / weights.sum()))
    variance = np.einsum("pi,ij,pj->p", back, inverse, back) * residual**2
    return Shares(back @ solution, float(solution[free - 1]), np.sqrt(np.maximum(variance, 0)), residual)


def repeat_noise(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Relative standard deviation of one measurement, from pairs of them, by their median (outliers don't count)."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    return float(1.4826 * np.median(np.abs(a - b) / ((a + b) / 2)) / math.sqrt(2))


def describe(supernet: Supernet, target: Target) -> dict[str, Any]:
    """What timings depend on, JSON-able."""
    return {
        "supernet": describe_supernet(supernet),
        "batch": target.batch,
        "dtype": target.dtype,
        "device": target.facts(),
    }


def _prepare(supernet: Supernet, target: Target, genes: IntMatrix) -> Run:
    return target.prepare(supernet.extract(supernet.space.decode(genes[None])[0], inherit=False).eval())


def _visit(target: Target, reference: Run, run: Run, genes: IntMatrix, runs: int) -> Visit:
    times = [target.time(each) for _ in range(WARM_UP + runs) for each in (reference, run)] + [target.time(reference)]
    if not all(math.isfinite(ms) and ms > 0 for ms in times):
        raise RuntimeError(f"A pass takes a time above 0; the clock of the device said {times} ms.")
    kept = times[2 * WARM_UP :]
    return Visit(tuple(int(gene) for gene in genes), tuple(kept[1::2]), tuple(kept[::2]))


def _size(network: Subnet) -> dict[str, int]:
    if len(network.input_shape) != 3:
        return {}
    counts = count(network, network.input_shape)
    return {"params": counts.params, "macs": counts.macs, "memory": counts.memory}


def _work(op: nn.Module, x: Tensor) -> Matrix:
    """MACs, elements read and written, modules run and parameters of ``op(x)``, ``[4]``; in eval mode."""
    work = np.zeros(4)

    def add(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(module, nn.Identity) or next(module.children(), None) is not None:
            return
        work[1:] += args[0].numel() + output.numel(), 1, sum(p.numel() for p in module.parameters())

    hooks = [module.register_forward_hook(add) for module in op.modules()]
    try:
        with MacCounter() as counter:
            op(x)
    finally:
        for hook in hooks:
            hook.remove()
    work[0] = counter.macs
    return work


def _what_it_is(op: nn.Module) -> tuple[Any, ...]:
    """Classes, settings and shapes of weights of a module and all in it: equal for modules that do the same work."""
    plain = (bool, int, float, str, tuple, type(None))
    return tuple(
        (
            name,
            type(module),
            tuple(
                sorted(
                    (key, repr(value))
                    for key, value in vars(module).items()
                    if isinstance(value, plain) and key != "training"
                )
            ),
            tuple((key, tuple(weight.shape)) for key, weight in module.named_parameters(recurse=False)),
        )
        for name, module in op.named_modules()
    )
