"""A surrogate benchmark of the DARTS space, fitted to cells that were trained.

NAS-Bench-301 (arXiv:2008.09777) is one of 60,000 trainings; :class:`~.benchmarks.NASBench301Evaluator` asks its models,
where its package and files are at hand. This one needs a table of some hundred trainings alone, and says by
cross-validation how far it can be trusted.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from oneshot.discrete.protocol import Evaluator, Proposal
from oneshot.regression.feature_models import FeatureBoosting, FeatureGP
from oneshot.regression.folds import FOLDS, cross_validate, folds_of
from oneshot.regression.scores import kendall
from oneshot.supernets.darts import DARTSSpace, darts_space
from oneshot.supernets.genotype import Cell, Genotype
from oneshot.supernets.space import Floats

from .cells import cell_features, check_cells, is_dead
from .tables import read_cell, read_lines, say_missing, value_of

FEWEST = 50  # cells that a surrogate is fitted to
REDUCTION_SHARE = 0.1  # cells of a network that are reduction cells: 2 of 20
CHANCE = 10.0  # accuracy of a constant output on ten classes, in percent
LEVELS = (0.5, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class SurrogateReport:
    """What five-fold cross-validation says of a surrogate: every figure is of cells that its models have not seen.

    Args:
        cells: Cells it is fitted to.
        dead: Cells without a path from an input to the output, which are known without a model.
        kendall: Kendall's tau-b.
        spearman: Spearman's rho.
        rmse: Root mean square error, in points of accuracy.
        coverage: Share of accuracies inside the interval of each probability, with the width of the interval learned
            from the other folds.
        mean_std: Mean standard deviation of a prediction, in points.
        error_and_std: Spearman's rho of absolute errors with standard deviations: near 0, the uncertainty tells how
            far off predictions are on average, and not which of them.
        seed: Of folds and models.
    """

    cells: int
    dead: int
    kendall: float
    spearman: float
    rmse: float
    coverage: Mapping[float, float]
    mean_std: float
    error_and_std: float
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return {**asdict(self), "coverage": {f"{level:g}": share for level, share in self.coverage.items()}}

    def __str__(self) -> str:
        inside = ", ".join(f"{share:.0%} in the {level:.0%} interval" for level, share in self.coverage.items())
        return (
            f"{self.cells} cells and {self.dead} without an output; {FOLDS}-fold cross-validation: Kendall tau "
            f"{self.kendall:.3f}, Spearman rho {self.spearman:.3f}, RMSE {self.rmse:.2f} points. Uncertainty: "
            f"{inside}; standard deviation {self.mean_std:.2f} points on average, its rank correlation with the "
            f"errors {self.error_and_std:.2f}."
        )


class DARTSSurrogate(Evaluator):
    """Predicted accuracies of the cells of the DARTS space, with their uncertainty.

    The mean of a Gaussian process and of boosted trees, both on :func:`~.cells.cell_features`; the standard deviation
    is that of the Gaussian process, stretched so that it fits the errors in cross-validation. Normal and reduction
    cells of the trained networks are equal, so accuracies of other networks are not known: the prediction is then the
    mean of those of the two cells, weighted as 18 and 2 of 20 cells, and the standard deviation has the share of the
    reduction cell added to it. A network whose normal cell has no output is constant.

    Metrics: ``accuracy``, in percent, and ``accuracy_std``, in points.

    Args:
        cells: Trained cells, distinct.
        accuracies: Their accuracies in percent, ``[N]``.
        seed: Of folds, trees and noise.
        noise: Draw accuracies from the uncertainty, as trainings would, the same for the same cells; else the mean.
        space: Where configs are from; ``darts_space()`` by default.

    Attributes:
        report: Figures of cross-validation; print it.

    Raises:
        ValueError: If there are fewer than 50 cells with an output, accuracies are not between 0 and 100 or all the
            same, or the space has other cells.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        accuracies: npt.ArrayLike,
        *,
        seed: int = 0,
        noise: bool = False,
        space: DARTSSpace | None = None,
    ) -> None:
        self.space, self.seed, self.noise = space or darts_space(), seed, noise
        check_cells(self.space.genotype(self.space.sample(0)))
        y = np.asarray(accuracies, np.float64)
        if y.shape != (len(cells),):
            raise ValueError(f"{len(cells)} cells must have as many accuracies; got shape {list(y.shape)}.")
        bad = np.flatnonzero(~((y >= 0) & (y <= 100)))
        if len(bad):
            raise ValueError(f"Accuracies must be percentages between 0 and 100; cell {bad[0]} has {y[bad[0]]}.")
        dead = np.array([is_dead(cell) for cell in cells], dtype=bool)
        self._dead = float(y[dead].mean()) if dead.any() else CHANCE
        x, y = cell_features(cell for cell, gone in zip(cells, dead, strict=True) if not gone), y[~dead]
        if len(y) < FEWEST or np.ptp(y) == 0:
            what = f"{len(y)}" if len(y) < FEWEST else f"{len(y)}, all of {y[0]} percent"
            raise ValueError(
                f"A surrogate needs {FEWEST} or more cells with an output, of different accuracies; got {what}."
            )
        self._process, self._trees = _fit(x, y, seed)
        self.report, self._stretch = _validate(x, y, int(dead.sum()), seed)

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("accuracy", "accuracy_std")

    @property
    def remark(self) -> str:
        return f"Accuracies are predicted. {self.report}"

    def predict(self, genotypes: Sequence[Genotype]) -> tuple[Floats, Floats]:
        """Mean and standard deviation of accuracies, in percent, ``[N]`` each; nodes may read a state twice.

        Raises:
            ValueError: If a cell is no DARTS cell.
        """
        for genotype in genotypes:
            check_cells(genotype)
        mean, std = self._cells([genotype.normal for genotype in genotypes])
        other, spread = mean, std
        if any(genotype.reduce != genotype.normal for genotype in genotypes):
            other, spread = self._cells([genotype.reduce for genotype in genotypes])
        constant = np.array([is_dead(genotype.normal) for genotype in genotypes], dtype=bool)
        share = np.where(constant, 0.0, REDUCTION_SHARE)
        std = np.sqrt(((1 - share) * std + share * spread) ** 2 + (share * (other - mean)) ** 2)
        return (1 - share) * mean + share * other, std

    def _cells(self, cells: Sequence[Cell]) -> tuple[Floats, Floats]:
        """The same of networks with equal cells."""
        mean, std = np.full(len(cells), self._dead), np.zeros(len(cells))
        live = np.array([not is_dead(cell) for cell in cells], dtype=bool)
        if live.any():
            x = cell_features(cell for cell, there in zip(cells, live, strict=True) if there)
            mean[live], std[live] = _predict(self._process, self._trees, x)
        return mean, std * self._stretch

    def __call__(self, proposal: Proposal) -> dict[str, float]:
        """Metrics of one architecture."""
        genotype = self.space.genotype(proposal.config)
        (mean,), (std,) = self.predict([genotype])
        if self.noise:
            text = zlib.crc32(str(genotype).encode())
            mean = np.clip(mean + std * np.random.default_rng([self.seed, text]).standard_normal(), 0, 100)
        return {"accuracy": float(mean), "accuracy_std": float(std)}


def darts_surrogate(
    path: str | Path,
    *,
    accuracy: str = "cifar10_val_accuracy",
    genotype: str = "genotype",
    seed: int = 0,
    noise: bool = False,
) -> DARTSSurrogate:
    """A surrogate benchmark of the DARTS space, from a CSV file (``.gz`` too) of trained cells; it takes seconds.

    ``print(darts_surrogate(path).report)`` says how well it predicts cells that it has not seen.

    Args:
        path: The file, with a header; a line for each cell.
        accuracy: Column of accuracies in percent. Lines without one are left out, with a warning that counts them.
        genotype: Column of genotypes, ``Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=[2, 3, 4, 5], ...)``.
            Nodes may read one state twice; normal and reduction cell are equal.
        seed: Of folds, trees and noise.
        noise: See :class:`DARTSSurrogate`.

    Raises:
        ValueError: If the file is missing or of another kind, a genotype is none or has other cells than DARTS',
            normal and reduction cell differ, a cell is repeated, an accuracy is no percentage, or there are fewer than
            50 cells; the line is named.
    """
    cells: list[Cell] = []
    values: list[float] = []
    lines: dict[Cell, str] = {}
    missing = 0
    for where, row in read_lines(Path(path)):
        if absent := [name for name in (genotype, accuracy) if name not in row]:
            raise ValueError(
                f"{where}: a table of trained DARTS cells must have the columns {genotype!r} and {accuracy!r}; "
                f"{absent[0]!r} is not among {', '.join(row)}. genotype= and accuracy= name others."
            )
        cell = read_cell(where, row, genotype, _cell_of)
        if (first := lines.setdefault(_unordered(cell), where)) != where:
            raise ValueError(f"{where} has the cell of {first.rpartition(', ')[2]} once more; keep one.")
        value = value_of(where, row, accuracy, accuracy)
        if value is None:
            missing += 1
            continue
        if not 0 <= value <= 100 or not math.isfinite(value):
            raise ValueError(f"{where}: an accuracy must be a percentage between 0 and 100; got {value}.")
        cells.append(cell)
        values.append(value)
    if not lines:
        raise ValueError(f"{path} has no cells.")
    say_missing(path, missing, len(lines), {accuracy: missing})
    try:
        return DARTSSurrogate(cells, values, seed=seed, noise=noise)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _cell_of(text: str) -> Cell:
    """The cell of a genotype whose two cells are equal."""
    genotype = Genotype.parse(text)
    check_cells(genotype)
    if genotype.normal != genotype.reduce:
        raise ValueError("Normal and reduction cell must be equal; those of this genotype differ.")
    return genotype.normal


def _unordered(cell: Cell) -> Cell:
    return tuple(tuple(sorted(node)) for node in cell)


def _fit(x: Floats, y: Floats, seed: int) -> tuple[FeatureGP, FeatureBoosting]:
    return FeatureGP(x, y), FeatureBoosting(x, y, seed=seed)


def _predict(process: FeatureGP, trees: FeatureBoosting, x: Floats) -> tuple[Floats, Floats]:
    mean, std = process.predict(x)
    return (mean + trees.predict(x)) / 2, std


def _validate(x: Floats, y: Floats, dead: int, seed: int) -> tuple[SurrogateReport, float]:
    """Figures of cross-validation, and by what the standard deviation must be multiplied to fit the errors."""
    from scipy.stats import norm, spearmanr

    fold = folds_of(len(y), seed)
    mean, std = cross_validate(fold, lambda train, test: np.stack(_predict(*_fit(x[train], y[train], seed), x[test])))
    off = np.abs(y - mean) / std
    elsewhere = np.array([_size(off[fold != f]) for f in range(FOLDS)])[fold]
    coverage = {level: float((off <= norm.ppf((1 + level) / 2) * elsewhere).mean()) for level in LEVELS}
    report = SurrogateReport(
        cells=len(y),
        dead=dead,
        kendall=kendall(mean, y),
        spearman=float(spearmanr(mean, y)[0]),
        rmse=float(np.sqrt(((mean - y) ** 2).mean())),
        coverage=coverage,
        mean_std=float((std * elsewhere).mean()),
        error_and_std=float(spearmanr(np.abs(y - mean), std)[0]),
        seed=seed,
    )
    return report, _size(off)


def _size(off: Floats) -> float:
    """Root mean square."""
    return float(np.sqrt((off**2).mean()))
