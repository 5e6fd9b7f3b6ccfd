"""``oneshot rank``: score random architectures without training them, and compare the scores with a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from oneshot.discrete.evaluators.tables import TabularEvaluator, nas_bench_201, nas_bench_macro
from oneshot.discrete.protocol import Evaluator, Proposal
from oneshot.proxies.architectures import ArchitectureScorer
from oneshot.proxies.aznas import AZ_NAS
from oneshot.proxies.counts import Macs, Params
from oneshot.proxies.ranks import RankAgreement, combined
from oneshot.proxies.scoring import COMBINED, DEFAULT
from oneshot.report.ranking import draw_ranking
from oneshot.report.style import save_figure
from oneshot.report.tables import network_table
from oneshot.storage.files import write_atomically
from oneshot.supernets.base import Supernet
from oneshot.supernets.json_files import nearest
from oneshot.supernets.nasbench201 import NASBench201Space
from oneshot.supernets.nasbenchmacro import NASBenchMacroSpace
from oneshot.supernets.space import SubnetConfig

from .discrete import build_object
from .next_steps import of_the_same_space
from .outputs import picture_and_numbers
from .supernets import SupernetParser, read_supernet, supernet_parser
from .terminal import bars_on_a_terminal, say

SIZES = (Params.name, Macs.name)


@dataclass(frozen=True)
class Ranked:
    """What was scored.

    Args:
        configs: The architectures.
        scores: Of each, by name; NaN where there is none.
        names: The scores that the order is by.
        known: Values of the table, better the larger; None without a table.
        metric: Their name.
    """

    configs: list[SubnetConfig]
    scores: list[dict[str, float]]
    names: tuple[str, ...]
    known: list[float] | None
    metric: str | None


def rank(args: Sequence[str]) -> None:
    """``oneshot rank``: print the best of random architectures and how scores agree; write all with ``--out``.

    Raises:
        ValueError: If a name is unknown, labels are needed and there are no data, or the table does not do.
    """
    options, supernet = read_supernet(_parser(), args)
    picture, numbers = picture_and_numbers(options.out, ".csv")
    names, several = _names(options.names)
    scorer = ArchitectureScorer(
        supernet,
        names,
        options.data,
        samples=options.batch_size,
        options=options.options,
        repeats=options.repeats,
        seed=options.seed,
    )
    table = None if options.table is None else _table(options.table, supernet, options.metric)
    configs = _drawn(supernet, table, options.samples, options.seed)
    metric = None if table is None else _metric(table, options.metric)
    known = None if table is None or metric is None else [_value(table, config, metric) for config in configs]
    scores: list[dict[str, float]] = []
    with bars_on_a_terminal() as progress:
        for done, config in enumerate(configs, 1):
            scores.append(scorer(config))
            progress("networks", done, len(configs))
    scorer.check_scored(scores, options.by and [name for name in options.by if name in scorer.names])
    if several:
        for row, value in zip(scores, combined(scores, AZ_NAS), strict=True):
            row[COMBINED] = value
    ranked = Ranked(configs, scores, _by(options.by, scores[0]), known, metric)
    _report(ranked, options.top, supernet.space.name, without_data=options.data is None)
    if numbers is not None:
        write_atomically(numbers, _as_csv(ranked))
        say(f"All scores: {numbers}")
    if picture is not None:
        say(f"Picture: {save_figure(_drawn_scores(ranked, supernet.space.name), picture)}")
    say(of_the_same_space("profile", args))


def _parser() -> SupernetParser:
    parser = supernet_parser(
        "rank", "Score random architectures of a space without training them, and rank them.", "to rank"
    )
    parser.add_argument(
        "--names", type=str, nargs="+", default=[*DEFAULT], help="proxies, also az_nas, which ranks by four of them"
    )
    parser.add_argument("--by", type=str, nargs="+", default=None, help="scores to order by (all but params and macs)")
    parser.add_argument("--options", type=dict | None, default=None, help="of proxies: '{zico: {batches: 4}}'")
    parser.add_argument("--samples", type=int, default=50, help="architectures that are drawn")
    parser.add_argument("--batch-size", type=int, default=32, help="training samples that a network reads")
    parser.add_argument("--repeats", type=int, default=1, help="draws of the weights; the score is their mean")
    parser.add_argument("--seed", type=int, default=0, help="of the architectures and the weights")
    parser.add_argument("--top", type=int, default=10, help="architectures that are printed")
    given = "trained networks to compare with: a .csv of the space, or class_path and init_args of an evaluator"
    parser.add_argument("--table", type=str | dict | None, default=None, help=given)
    parser.add_argument("--metric", type=str | None, default=None, help="column of the table; larger is better")
    parser.add_argument(
        "--out", type=str | None, default=None, help="file to write: NAME.csv, NAME.png, or NAME for both"
    )
    return parser


def _names(given: Sequence[str]) -> tuple[list[str], bool]:
    """Names of proxies, ``az_nas`` replaced by its parts, and whether it was there."""
    names = [name for name in given if name != COMBINED]
    several = len(names) < len(given)
    return [*names, *(name for name in AZ_NAS if several and name not in names)], several


def _by(given: Sequence[str] | None, scores: Mapping[str, float]) -> tuple[str, ...]:
    """The scores to order by."""
    for name in given or ():
        if name not in scores:
            raise ValueError(f"--by must name scores, {', '.join(scores)}; got {name!r}.{nearest(name, list(scores))}")
    if given:
        return tuple(given)
    parts = AZ_NAS if COMBINED in scores else ()
    return tuple(name for name in scores if name not in (*SIZES, *parts)) or tuple(scores)


def _table(given: str | Mapping[str, Any], supernet: Supernet, metric: str | None) -> Evaluator:
    """The table of trained networks.

    Raises:
        ValueError: If a file is of a space whose tables are not known, or the table is of another space.
    """
    space = supernet.space
    if isinstance(given, str):
        if isinstance(space, NASBench201Space):
            table: Evaluator = nas_bench_201(given) if metric is None else nas_bench_201(given, [metric])
        elif isinstance(space, NASBenchMacroSpace):
            table = nas_bench_macro(given) if metric is None else nas_bench_macro(given, [metric])
        else:
            raise ValueError(
                f"A file is a table of NAS-Bench-201 or NAS-Bench-Macro; the space is {space.name!r}. Name what reads "
                "its table: --table '{class_path: mypackage.read_table, init_args: {path: FILE}}', a function that "
                "returns an Evaluator."
            )
    else:
        try:
            table = build_object("evaluator", given, {"space": space})
        except ValueError as error:
            raise ValueError(str(error).replace("--evaluator", "--table")) from error
    theirs = getattr(table, "space", space)
    if theirs.name != space.name:
        raise ValueError(f"The table must be of the space {space.name!r}; it is of {theirs.name!r}. Give its supernet.")
    return table


def _metric(table: Evaluator, given: str | None) -> str:
    name = table.metrics[0] if given is None else given
    if name not in table.metrics:
        raise ValueError(
            f"--metric must be a metric of the table, {', '.join(table.metrics)}; got {name!r}."
            f"{nearest(name, table.metrics)}"
        )
    return name


def _drawn(supernet: Supernet, table: Evaluator | None, samples: int, seed: int) -> list[SubnetConfig]:
    """Different architectures: of the table where it lists them, else of the space."""
    if samples < 2:
        raise ValueError(f"--samples must be at least 2, or there is nothing to rank; got {samples}.")
    if isinstance(table, TabularEvaluator):
        drawn = np.random.default_rng(seed).permutation(len(table.genes))[:samples]
        return supernet.space.decode(table.genes[drawn])
    space = supernet.space
    genes = space.repair(space.sample_matrix(2 * samples, seed))
    genes = genes[np.sort(np.unique(genes, axis=0, return_index=True)[1])][:samples]
    return space.decode(genes)


def _value(table: Evaluator, config: SubnetConfig, metric: str) -> float:
    return float(table(Proposal(0, config))[metric])


def _report(ranked: Ranked, top: int, space: str, *, without_data: bool) -> None:
    order = combined(ranked.scores, ranked.names)
    best = sorted(range(len(order)), key=lambda i: -order[i])[: max(top, 1)]
    rows: list[dict[str, object]] = []
    shown = dict.fromkeys([name for name in SIZES if name in ranked.scores[0]] + [*ranked.names])
    for place, i in enumerate(best, 1):
        row: dict[str, object] = {"rank": place}
        row |= {name: _short(ranked.scores[i][name]) for name in shown}
        row |= {} if ranked.known is None else {str(ranked.metric): f"{ranked.known[i]:.5g}"}
        rows.append(row)
    say(network_table(rows, title=f"{len(order)} random architectures of {space}, by {' and '.join(ranked.names)}"))
    for place, i in enumerate(best, 1):
        say(f"{place}: {ranked.configs[i]}")
    compared = ranked.known if ranked.known is not None else [row.get("params", np.nan) for row in ranked.scores]
    what = ranked.metric if ranked.known is not None else "params"
    if np.isfinite(compared).all():
        say(network_table(_agreements(ranked, compared), title=f"Rank correlation with {what}"))
    if ranked.known is None:
        say("Without --table it is not known how good any of them is; a proxy that ranks as params does says no more.")
    else:
        found = [ranked.known[i] for i in best]
        say(
            f"The {len(best)} best by the scores have a mean {ranked.metric} of {np.mean(found):.5g}, all "
            f"{len(order)} of {np.mean(ranked.known):.5g}, the best of all {np.max(ranked.known):.5g}."
        )
    if without_data:
        say("Note: without --data the networks have read random numbers.")


def _short(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.5g}"


def _agreements(ranked: Ranked, values: Sequence[float]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for name in ranked.scores[0]:
        agreement = RankAgreement.of([row[name] for row in ranked.scores], values)
        rho, tau = (_short(round(value, 3)) for value in (agreement.spearman, agreement.kendall))
        found.append({"score": name, "rho": rho, "tau": tau, "without a score": agreement.without_score})
    return found


def _as_csv(ranked: Ranked) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names, metric = list(ranked.scores[0]), [] if ranked.metric is None else [ranked.metric]
    writer.writerow(["rank", *names, *metric, "architecture"])
    order = combined(ranked.scores, ranked.names)
    for place, i in enumerate(sorted(range(len(order)), key=lambda i: -order[i]), 1):
        scores = ["" if np.isnan(ranked.scores[i][name]) else repr(ranked.scores[i][name]) for name in names]
        known = [] if ranked.known is None else [repr(ranked.known[i])]
        writer.writerow([place, *scores, *known, ranked.configs[i].to_json()])
    return text.getvalue()


def _drawn_scores(ranked: Ranked, space: str) -> Any:
    scores = {name: [row[name] for row in ranked.scores] for name in ranked.scores[0]}
    title = f"{space}: {len(ranked.configs)} random architectures"
    if ranked.known is not None:
        captions = {
            name: f"Spearman {RankAgreement.of(column, ranked.known).spearman:.2f}" for name, column in scores.items()
        }
        return draw_ranking(scores, ranked.known, str(ranked.metric), captions, title=title)
    size = scores.pop(Params.name, None)
    if size is None or not scores:
        return draw_ranking(
            scores or {Params.name: size or []}, combined(ranked.scores, ranked.names), "rank", title=title
        )
    return draw_ranking(scores, size, Params.name, title=title)
