"""``oneshot measure``: latency tables of this machine, and how wrong they are."""

from __future__ import annotations

import json
import math
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jsonargparse import Namespace
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from oneshot.cost import (
    Device,
    FewShot,
    LatencyTable,
    Record,
    Verification,
    bundled_sources,
    describe_supernet,
    measure_samples,
    noise_ceiling,
    read_csv,
    read_record,
    write_csv,
)
from oneshot.cost import measure as measure_table
from oneshot.cost import verify as verify_table
from oneshot.cost.counting.work import work_of
from oneshot.cost.latency.device import DType, Runtime
from oneshot.cost.latency.table import UNRECORDED
from oneshot.cost.learned.few_shot import MEASUREMENTS
from oneshot.cost.learned.fit import SAMPLES
from oneshot.cost.learned.measured import learned_cost
from oneshot.cost.record import changes, noise_doubt
from oneshot.report.latency import draw_agreement
from oneshot.report.live import LiveReport
from oneshot.report.style import save_figure
from oneshot.report.tables import network_table
from oneshot.storage.files import write_atomically
from oneshot.storage.lock import RunLock
from oneshot.supernets.base import Supernet
from oneshot.supernets.space import IntMatrix

from .next_steps import next_step, of_the_same_space
from .supernets import SupernetParser, read_supernet, supernet_parser
from .terminal import console, say

VERIFIED = 50
NETWORKS = 200  # how many are measured by default where there is no table


def measure(args: Sequence[str]) -> None:
    """``oneshot measure``: measure a latency table unless it is there already, and verify it if asked for.

    The table of ``--out table.json`` has ``table.journal`` beside it, with the raw timings, from which an interrupted
    measurement goes on; verification writes ``table.verify.json``, ``table.verify.png`` and ``table.verify.journal``.
    ``table.report.html`` shows all of it.
    With ``--few-shot``, and of spaces without candidates, there is no table but a ``.csv`` of some networks, from which
    a cost model is made.

    Raises:
        FileExistsError: If the table is there, and neither to be verified nor replaced.
    """
    options, supernet = read_supernet(_parser(), args)
    target = Device(options.runtime, options.device, batch=options.batch, dtype=options.dtype, threads=options.threads)
    table = supernet.has_candidates and not options.few_shot
    out = Path(options.out or ("runs/latency.json" if table else "runs/latency.csv"))
    to_be_filled_in = options.elsewhere and not out.exists()
    with RunLock(out.parent, out.name):
        _measure(options, supernet, target, out)
        if out.is_file() and not options.elsewhere:
            LiveReport(out).finish()
    if to_be_filled_in:
        return
    if table and not options.verify:
        again = [word for word in args if word != "--overwrite"]
        say(next_step("measure", *again, "--verify", str(VERIFIED)))
    else:
        say(of_the_same_space("profile", args, "--cost", out))


def _measure(options: Namespace, supernet: Supernet, target: Device, out: Path) -> None:
    """Do what :func:`measure` says, with the files locked against other processes."""
    journal, verified = out.with_suffix(".journal"), out.with_suffix(".verify.journal")
    if options.overwrite:
        for path in (out, journal, verified):
            path.unlink(missing_ok=True)
    if not supernet.has_candidates:
        return _networks(options, supernet, target, out, journal)
    if options.few_shot or options.elsewhere:
        return _few_shot(options, supernet, target, out, journal)
    if out.exists() and not options.verify:
        raise FileExistsError(f"{out} exists. Verify it with --verify {VERIFIED}, or replace it with --overwrite.")
    if not out.exists():
        with _progress("networks of the table") as progress:
            table = measure_table(
                supernet, target, networks=options.networks, seed=options.seed, journal=journal, progress=progress
            )
        table.save(out)
        verified.unlink(missing_ok=True)  # its timings belong to another table
        _describe(table, supernet)
        _warn_of_doubts(out, table.doubts)
        say(f"Table: {out}. In a search: --model.penalty.cost {shlex.quote(str(out))}.")
    if options.verify:
        with _progress("networks to verify") as progress:
            result = verify_table(
                LatencyTable.load(out),
                supernet,
                target,
                networks=options.verify,
                seed=options.seed + 1,
                journal=verified,
                progress=progress,
            )
        write_atomically(out.with_suffix(".verify.json"), json.dumps(result.to_dict(), indent=1))
        picture = save_figure(draw_agreement(result, title=_title(result)), out.with_suffix(".verify.png"))
        _report(result)
        say(f"Picture: {picture}")


def _few_shot(options: Namespace, supernet: Supernet, target: Device, out: Path, journal: Path) -> None:
    """Propose a few networks, measure them here or elsewhere, and say what follows for all others."""
    space = supernet.space
    if options.few_shot < MEASUREMENTS or options.verify or out.suffix != ".csv":
        raise ValueError(
            f"--few-shot must be {MEASUREMENTS} networks or more, better 10, with --out FILE.csv and without --verify; "
            f"got --few-shot {options.few_shot} --verify {options.verify} --out {out}."
        )
    sources = list(bundled_sources(space).values())

    def propose() -> IntMatrix:
        return FewShot(space, sources).propose(options.few_shot, seed=options.seed)

    if (measured := _measured(options, supernet, target, out, journal, propose)) is None:
        return
    genes, ms, record = measured
    cost = FewShot(space, sources).fit(genes, ms)
    others = space.sample_matrix(1000, options.seed)
    predicted, (low, high) = cost.costs(others), cost.interval(others, 0.9)
    say(
        f"{len(ms)} measurements and {len(sources)} known devices: random networks need {predicted.min():.3g} to "
        f"{predicted.max():.3g} {cost.unit}, each ± {((high - low) / 2 / predicted).mean():.0%} with a probability of "
        "90 %.",
    )
    _warn_of_noise(out, record)
    say(f"Measurements: {out}. In a search: --model.penalty.cost {shlex.quote(str(out))}.")


def _networks(options: Namespace, supernet: Supernet, target: Device, out: Path, journal: Path) -> None:
    """Measure random networks of a space without candidates, and say how well they predict each other."""
    space, networks = supernet.space, options.networks or NETWORKS
    least = min(SAMPLES["elastic"], SAMPLES["pairwise"])
    if options.few_shot or options.verify or out.suffix != ".csv" or networks < least:
        raise ValueError(
            f"In space {space.name!r} what a block needs depends on other choices, so there is no table: at least "
            f"{least} random networks are measured (--networks, {NETWORKS} by default) and written to "
            f"--out FILE.csv, without --verify and --few-shot; got --networks {networks} --verify {options.verify} "
            f"--few-shot {options.few_shot} --out {out}."
        )

    def draw() -> IntMatrix:
        return space.encode(space.unique(space.decode(space.sample_matrix(networks, options.seed))))

    if (measured := _measured(options, supernet, target, out, journal, draw)) is None:
        return
    genes, ms, record = measured
    _, agreement = learned_cost(space, genes, ms, work_of(supernet))
    say(
        f"{len(ms)} networks need {ms.min():.3g} to {ms.max():.3g} ms; learned from the others, "
        f"{agreement.within_10:.0%} of them are predicted within 10 %, Kendall's tau {agreement.kendall:.3f}.",
    )
    known = None if record is None or record.noise is None or not math.isfinite(record.noise) else record.noise
    if ceiling := noise_ceiling(genes, ms, noise=known):
        say(f"At this noise of the measurements, {ceiling}.")
    _warn_of_noise(out, record)
    say(f"Measurements: {out}, an objective for 'oneshot pareto'.")


def _measured(
    options: Namespace,
    supernet: Supernet,
    target: Device,
    out: Path,
    journal: Path,
    networks: Callable[[], IntMatrix],
) -> tuple[IntMatrix, npt.NDArray[np.float64], Record | None] | None:
    """Networks, their latencies in ms and their record, read from ``out``, or measured if there is no such file.

    None if they are to be measured elsewhere.
    """
    space = supernet.space
    if not out.exists():
        genes = networks()
        if options.elsewhere:
            record = Record(describe_supernet(supernet), seed=options.seed, networks=_asked(options))
            write_csv(out, space, genes, record=record)
            say(
                f"Measure the {len(genes)} networks of {out}, fill in the column ms, and give the same command.",
            )
            return None
        with _progress("networks") as progress:
            ms, now = measure_samples(supernet, target, genes, seed=options.seed, journal=journal, progress=progress)
        write_csv(out, space, genes, ms, record=replace(now, networks=_asked(options)))
        return genes, ms, now
    then = read_record(out)
    if then is None:
        warnings.warn(UNRECORDED.format(source=out), stacklevel=2)
    else:
        _check_continued(options, then, supernet, target, out)
    return *read_csv(out, space), then


def _asked(options: Namespace) -> int | None:
    networks: int | None = options.few_shot or options.networks
    return networks


def _check_continued(options: Namespace, record: Record, supernet: Supernet, target: Device, out: Path) -> None:
    """Refuse a file that was measured with other settings than those that are given."""
    record.check_supernet(supernet)
    then = {"seed": record.seed, "networks": record.networks}
    now = {"seed": options.seed, "networks": _asked(options)}
    if record.device:  # without one, the latencies were measured elsewhere
        names = ("runtime", "device", "name", "threads")
        then |= {name: record.device.get(name) for name in names} | {"batch": record.batch, "dtype": record.dtype}
        facts = target.facts()
        now |= {name: facts.get(name) for name in names} | {"batch": target.batch, "dtype": target.dtype}
    if different := changes(then, now):
        raise ValueError(
            f"{out} was measured with other settings: {different}. Give those, replace the file with --overwrite, or "
            "write to another --out."
        )


def _parser() -> SupernetParser:
    parser = supernet_parser(
        "measure", "Measure the latencies of a search space on this machine, and verify them.", "to measure"
    )
    parser.add_argument("--out", type=str | None, default=None, help="table to write or to verify (runs/latency.json)")
    parser.add_argument("--runtime", type=Runtime, default="eager", help="what runs the networks")
    parser.add_argument("--device", type=str, default="cpu", help="cpu, cuda or cuda:1")
    parser.add_argument("--threads", type=int | None, default=None, help="of the CPU; PyTorch's number by default")
    parser.add_argument("--batch", type=int, default=1, help="inputs in one pass")
    parser.add_argument("--dtype", type=DType, default="float32", help="of weights and inputs")
    parser.add_argument(
        "--networks",
        type=int | None,
        default=None,
        help="to measure; by default 3 for each unknown, without a table 200",
    )
    parser.add_argument("--verify", type=int, default=0, help="compare with this many whole random networks")
    parser.add_argument(
        "--few-shot", type=int, default=0, help="measure this many networks only, and take the rest from known devices"
    )
    parser.add_argument(
        "--elsewhere",
        action="store_true",
        help="with --few-shot, or of a space without candidates: write a .csv, to be filled in elsewhere",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the networks")
    parser.add_argument("--overwrite", action="store_true", help="begin anew, where otherwise a run is gone on with")
    return parser


def _warn_of_doubts(out: Path, doubts: Sequence[str]) -> None:
    if doubts:
        say(
            f"WARNING: {out} is doubtful: {'; '.join(doubts)}. Measure again with --overwrite when nothing else runs "
            "on the machine; a search refuses it unless it is given allow_noisy.",
        )


def _warn_of_noise(out: Path, record: Record | None) -> None:
    doubt = noise_doubt(record.noise) if record is not None else None
    _warn_of_doubts(out, [doubt] if doubt else [])


def _describe(table: LatencyTable, supernet: Supernet) -> None:
    device = table.device
    arguments = ", ".join(f"{name} {value}" for name, value in (table.supernet or {}).get("arguments", {}).items())
    say(f"Networks of {type(supernet).__name__}: {arguments or 'without arguments in common'}.")
    say(
        f"{device['runtime']} on {device['name']}, {_threads(device)}, batch {table.batch}, {table.dtype}: "
        f"{table.networks} networks of space {table.space!r}.",
    )
    say(
        f"Noise from one measurement to the next {table.noise:.1%}; a network differs from its sum by "
        f"{table.residual:.1%}. The reference needs {table.reference['ms']:.3g} ms.",
    )


def _report(result: Verification) -> None:
    rows = [
        {
            "compared": name,
            "within 5 %": f"{agreement.within_5:.0%}",
            "within 10 %": f"{agreement.within_10:.0%}",
            "RMSE, ms": f"{agreement.rmse:.3g}",
            "tau": f"{agreement.kendall:.3f}",
            "rho": f"{agreement.spearman:.3f}",
        }
        for name, agreement in (
            ("measured", result.agreement),
            ("by the clock", result.by_the_clock),
            ("measured twice", result.repeat),
        )
    ]
    say(network_table(rows, title=f"{len(result.genes)} random networks, {_title(result)}"))
    say(
        "'measured' compares the table with relative latencies, 'by the clock' with milliseconds as they were, "
        f"'measured twice' the networks with themselves. Noise {result.noise:.1%}; the reference was "
        f"{abs(result.drift):.1%} {'slower' if result.drift > 0 else 'faster'} than when the table was made.",
    )


def _title(result: Verification) -> str:
    device = result.device
    return f"{device['runtime']} on {device['name']}, {_threads(device)}"


def _threads(device: Mapping[str, Any]) -> str:
    return f"{device['threads']} thread{'' if device['threads'] == 1 else 's'}"


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console()) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
