"""The results of a comparison: one run for each method and seed, and the tables that are made of them."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from oneshot.fronts.numbers import scale_of
from oneshot.supernets.space import SubnetConfig

from .significance import Difference, compare_pairs, seeds_needed

Direction = Literal["min", "max"]


@dataclass(frozen=True)
class Score:
    """A metric by which methods are compared.

    Args:
        metric: Its name.
        direction: Which way is better.
    """

    metric: str
    direction: Direction

    def best(self, values: Iterable[float]) -> float:
        """The best of some values."""
        return max(values) if self.direction == "max" else min(values)

    def __str__(self) -> str:
        return f"{self.metric} ({'higher' if self.direction == 'max' else 'lower'} is better)"


@dataclass(frozen=True)
class Run:
    """One search of one method, and what it found; or why it failed.

    Args:
        label: Of the method.
        seed: Of everything that is random.
        scores: ``{metric: value}``, in the order of importance.
        directions: ``{metric: "min" or "max"}`` of the same metrics.
        metrics: All metrics of the test of the retrained network.
        config: The architecture that was found.
        params: Parameters of its network.
        macs: MACs of its network; None where they cannot be counted.
        seconds: Time of the search.
        cpu_seconds: Time that all CPU cores together spent on the search.
        total_seconds: Time of search, retraining and test.
        curves: ``{metric: value after every epoch of the search}``; None where there is none.
        notes: What the search warned of.
        failure: Why it failed, in one line; None if it did not.
        settings: Of the method, by dotted names.
    """

    label: str
    seed: int
    scores: Mapping[str, float] = field(default_factory=dict)
    directions: Mapping[str, Direction] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    config: SubnetConfig | None = None
    params: int = 0
    macs: int | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    total_seconds: float = 0.0
    curves: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    failure: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values by name."""
        values = asdict(replace(self, config=None))
        return {**values, "notes": list(self.notes), "config": None if self.config is None else self.config.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Run:
        """The run of :meth:`to_dict`."""
        config = values["config"]
        return cls(**{**values, "config": None if config is None else SubnetConfig.from_dict(config)})


@dataclass(frozen=True)
class Results:
    """The runs of a comparison.

    Args:
        runs: Finished and failed ones, one for each label and seed.
        labels: Labels of all methods, in order.
        seeds: All seeds.
        baseline: The others are compared with this method only; None compares all pairs.
        about: What all runs have in common, for the reader: ``{what: value}``.
    """

    runs: Sequence[Run]
    labels: Sequence[str]
    seeds: Sequence[int]
    baseline: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> list[Run]:
        """The runs that did not fail."""
        return [run for run in self.runs if run.failure is None]

    @property
    def failed(self) -> list[Run]:
        """The runs that failed."""
        return [run for run in self.runs if run.failure is not None]

    @property
    def scores(self) -> list[Score]:
        """The metrics that the methods are compared by, the most important one first."""
        found = {name: Score(name, run.directions[name]) for run in self.finished for name in run.scores}
        return list(found.values())

    def values(self, score: Score) -> dict[str, dict[int, float]]:
        """``{label: {seed: value}}`` of the runs that have this score, the best mean first."""
        found: dict[str, dict[int, float]] = {}
        for label in self.labels:
            of = {run.seed: run.scores[score.metric] for run in self.of(label) if score.metric in run.scores}
            if of:
                found[label] = {seed: of[seed] for seed in self.seeds if seed in of}
        sign = -1 if score.direction == "max" else 1
        return dict(sorted(found.items(), key=lambda item: sign * statistics.fmean(item[1].values())))

    def of(self, label: str) -> list[Run]:
        """The finished runs of a method."""
        return [run for run in self.finished if run.label == label]

    def differences(self, score: Score) -> list[Difference]:
        """The differences between methods; see :func:`~oneshot.comparison.significance.compare_pairs`."""
        values = self.values(score)
        if self.baseline is not None and self.baseline not in values:
            return []  # every run of it failed
        return compare_pairs(values, baseline=self.baseline)

    def order(self) -> list[str]:
        """Labels, the best mean of the first score first, then those that have no result."""
        ranked = list(self.values(self.scores[0])) if self.scores else []
        return [*ranked, *(label for label in self.labels if label not in ranked)]

    def rows(self) -> list[dict[str, str]]:
        """One row for each method: scores as mean ± standard deviation, the best seed, and what the search took."""
        rows, sizes = [], self._sizes()
        for label in self.order():
            runs, failed = self.of(label), sum(run.label == label for run in self.failed)
            row = {"method": label, "seeds": str(len(runs))}
            for score in self.scores:
                values = [run.scores[score.metric] for run in runs if score.metric in run.scores]
                digits = decimals(self.values(score))
                row[score.metric] = spread(values, digits)
                row["best" if score == self.scores[0] else f"best {score.metric}"] = (
                    f"{score.best(values):.{digits}f}" if values else "–"
                )
            row["search, s"] = spread([run.seconds for run in runs if run.seconds], 1)
            row |= {name: spread(of.get(label, []), 2 if "," in name else 0) for name, of in sizes.items()}
            row["failed"] = str(failed or "–")
            rows.append(row)
        return rows

    def _sizes(self) -> dict[str, dict[str, list[float]]]:
        """Parameters and MACs of what was found, ``{column: {label: values}}``, in short numbers."""
        found: dict[str, dict[str, list[float]]] = {}
        for name, kind in (("params", "params"), ("MACs", "macs")):
            known = {
                label: [size for run in self.of(label) if (size := getattr(run, kind)) is not None]
                for label in self.labels
            }
            factor, letter = scale_of(max((size for sizes in known.values() for size in sizes), default=0))
            shown = {label: [size / factor for size in sizes] for label, sizes in known.items()}
            found[f"{name}, {letter}" if letter else name] = shown
        return found

    def to_json(self) -> str:
        """Everything, also for other programs."""
        content = {
            "about": dict(self.about),
            "scores": [asdict(score) for score in self.scores],
            "methods": [
                {
                    "label": label,
                    **{
                        score.metric: {
                            "mean": statistics.fmean(values),
                            "std": statistics.stdev(values) if len(values) > 1 else None,
                            "best": score.best(values),
                            "seeds": list(by_seed),
                        }
                        for score in self.scores
                        if (by_seed := self.values(score).get(label)) and (values := list(by_seed.values()))
                    },
                }
                for label in self.order()
            ],
            "differences": {score.metric: [asdict(d) for d in self.differences(score)] for score in self.scores},
            "runs": [run.to_dict() for run in self.runs],
        }
        return json.dumps(content, indent=2) + "\n"

    def to_csv(self) -> str:
        """One line for each run."""
        names = [score.metric for score in self.scores]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        sizes = ["params", "macs", "seconds", "cpu_seconds", "total_seconds"]
        writer.writerow(["method", "seed", *names, *sizes, "failure", "architecture"])
        for run in self.runs:
            values = [repr(run.scores[name]) if name in run.scores else "" for name in names]
            facts = [getattr(run, name) for name in sizes] if run.failure is None else [""] * len(sizes)
            writer.writerow([run.label, run.seed, *values, *facts, run.failure or "", run.config or ""])
        return text.getvalue()

    def to_markdown(self) -> str:
        """A page: the table of methods, every seed, the differences and what they are worth, failures and notes."""
        lines = ["# Comparison of methods", "", *self._about(), *markdown_table(self.rows()), ""]
        spread_of = "± is the standard deviation over seeds (N - 1)."
        lines += [f"{spread_of} Parameters and MACs are those of the network that was found.", ""]
        for score in self.scores:
            values = self.values(score)
            digits = decimals(values)
            lines += [f"## {score.metric}, every seed", ""]
            every = [
                {
                    "method": label,
                    **{f"seed {s}": f"{of[s]:.{digits}f}" if s in of else "–" for s in self.seeds},
                }
                for label, of in values.items()
            ]
            lines += [*markdown_table(every), "", *self._differences(score), ""]
        for title, runs in (("Failed", self.failed), ("Warnings", [run for run in self.finished if run.notes])):
            if runs:
                said = [f"- {r.label}, seed {r.seed}: {'; '.join([r.failure] if r.failure else r.notes)}" for r in runs]
                lines += [f"## {title}", "", *said, ""]
        found = [
            {"method": run.label, "seed": str(run.seed), "architecture": f"`{run.config}`"} for run in self.finished
        ]
        return "\n".join([*lines, *(["## Architectures", "", *markdown_table(found), ""] if found else [])])

    def _about(self) -> list[str]:
        said = [f"- {name}: {value}" for name, value in self.about.items()]
        said += [f"- compared by {score}" for score in self.scores]
        return [*said, ""] if said else []

    def _differences(self, score: Score) -> list[str]:
        """The table of differences, and how to read it."""
        found = self.differences(score)
        if all(difference.p is None for difference in found):
            return verdict(found, baseline=self.baseline is not None)
        digits = decimals(self.values(score))
        rows = [
            {
                "first": d.first,
                "second": d.second,
                "seeds": str(d.seeds),
                "first - second": f"{d.mean:+.{digits}f}",
                "95 % interval": "–" if d.low is None else f"{d.low:+.{digits}f} to {d.high:+.{digits}f}",
                "p": "–" if d.p is None else f"{d.p:.3g}",
                "p, Holm": "–" if d.adjusted is None else f"{d.adjusted:.3g}{' *' if d.significant else ''}",
            }
            for d in found
        ]
        how = (
            "Differences are formed seed by seed. The interval is the paired bootstrap's; p is two-sided, of the "
            "paired permutation test (all signs of the differences); Holm's correction is for all rows of this table. "
            "* marks what is below 0.05 after it."
        )
        return [
            f"## {score.metric}, differences",
            "",
            *markdown_table(rows),
            "",
            how,
            "",
            *verdict(found, baseline=self.baseline is not None),
        ]


def verdict(differences: Sequence[Difference], *, baseline: bool = False) -> list[str]:
    """What the differences say, and what so few seeds cannot say; sentences."""
    if not differences:
        return []
    most, needed = max(d.seeds for d in differences), seeds_needed(len(differences))
    if most < 2:
        return ["With one seed there is no spread, so nothing can be said about the differences."]
    if most < needed:
        fewer = "" if baseline else "; a baseline means fewer differences"
        together = f", {len(differences)} together at least {needed}{fewer}"
        said = (
            f"With {most} seeds no difference can be significant: the smallest possible p is {2 / 2**most:.3g}. One "
            f"difference needs at least {seeds_needed(1)} seeds{together if len(differences) > 1 else ''}."
        )
    elif stars := sum(d.significant for d in differences):
        said = f"{stars} of {len(differences)} differences have p < 0.05 after the correction."
    else:
        said = "No difference has p < 0.05 after the correction: no method is shown to be better than another."
    if most < seeds_needed(1):
        return [said, "Intervals of so few pairs are too narrow; they describe these seeds only."]
    return [said]


def markdown_table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Lines of a Markdown table, a column for each key; bars in cells are escaped."""
    if not rows:
        return []
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([row.get(column, "–") for column in columns] for row in rows)]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def spread(values: Sequence[float], digits: int) -> str:
    """Mean, and the standard deviation where there are several values."""
    if not values:
        return "–"
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{deviation}"


def decimals(values: Mapping[str, Mapping[int, float]]) -> int:
    """Digits behind the point, so that the largest value has four that count; at most eight."""
    largest = max((abs(value) for of in values.values() for value in of.values()), default=0.0)
    if largest == 0 or 0.1 <= largest <= 1:
        return 4
    return min(8, max(0, 3 - math.floor(math.log10(largest))))
