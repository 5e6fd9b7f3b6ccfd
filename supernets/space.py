"""Search spaces as data: what can vary, and one architecture of a space. NumPy only; nothing here imports torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .json_files import parse_json, read_json, shorten

if TYPE_CHECKING:
    from .connection import CellGraph
    from .decisions import Decisions

Candidate: TypeAlias = str | int | float
RNG: TypeAlias = np.random.Generator | int | None
IntMatrix: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

SCHEMA_VERSION = 1
NONE = "none"  # the pick of a row that is left out, in every space
RENAMED_HOOKS = {
    "_genes": "check_rules() for its rules",
    "_config": "check_rules() for its rules",
    "_draw": "draw_genes()",
    "_mutate": "mutate_genes()",
    "_around": "single_changes()",
    "_linkage": "gene_groups()",
    "_canonical": "canonical_genes(), which takes many architectures, [N, G]",
    "_repair": "repair_genes()",
}


@dataclass(frozen=True)
class Choice:
    """One list of candidates, decided independently for each of its rows (the edges of a cell, the layers of a stage).

    Args:
        name: Key of the choice in configs, alphas and edge weights.
        candidates: What a row can be; operation names in operation spaces, numbers in elastic ones.
        rows: Number of independent decisions, R.
        droppable: A row may be left out of the network even though ``none`` is not among the candidates.

    Raises:
        ValueError: If a candidate appears twice, there is nothing to choose, or the name is not an identifier.
    """

    name: str
    candidates: tuple[Candidate, ...]
    rows: int = 1
    droppable: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidates", tuple(self.candidates))
        if not self.name.isidentifier():
            raise ValueError(f"The name of a choice must be a Python identifier, such as 'stage_0'; got {self.name!r}.")
        if not self.candidates or len(set(self.candidates)) != len(self.candidates):
            raise ValueError(
                f"Choice {self.name!r} must have distinct candidates, at least one; got {self.candidates}."
            )
        if self.rows < 1:
            raise ValueError(f"Choice {self.name!r} must have at least one row; got rows={self.rows}.")

    @property
    def picks(self) -> tuple[Candidate, ...]:
        """Picks that a row of a config can have: the candidates, then ``none`` if a row may be left out."""
        return (*self.candidates, NONE) if self.droppable and NONE not in self.candidates else self.candidates


@dataclass(frozen=True)
class SubnetConfig:
    """One architecture: for each choice of a space, the pick of every row. Hashable, and JSON on disk.

    Args:
        space: Name of the :class:`SearchSpace` it belongs to.
        picks: ``{choice name: picks}``, stored as nested tuples in order of name.

    Example:
        >>> config = SubnetConfig("toy", {"layer": ["conv", "skip"]})
        >>> config["layer"]
        ('conv', 'skip')
        >>> SubnetConfig.from_json(config.to_json()) == config
        True
    """

    space: str
    picks: tuple[tuple[str, tuple[Candidate, ...]], ...]

    def __init__(self, space: str, picks: Mapping[str, Sequence[Candidate]]) -> None:
        object.__setattr__(self, "space", space)
        # by name, so that two configs are equal however their picks were listed
        object.__setattr__(self, "picks", tuple((name, tuple(picks[name])) for name in sorted(picks)))

    def __getitem__(self, choice: str) -> tuple[Candidate, ...]:
        for name, picks in self.picks:
            if name == choice:
                return picks
        raise KeyError(f"this config of {self.space!r} has no choice {choice!r}; it has {[n for n, _ in self.picks]}")

    def __str__(self) -> str:
        """One readable line: the picks of every choice."""
        return "; ".join(f"{name}: {' '.join(map(str, picks))}" for name, picks in self.picks)

    def __reduce__(self) -> tuple[Any, ...]:
        return SubnetConfig, (self.space, dict(self.picks))

    def to_dict(self) -> dict[str, Any]:
        """The config as a JSON-able dictionary with the schema version."""
        picks = {name: list(picks) for name, picks in self.picks}
        return {"schema_version": SCHEMA_VERSION, "space": self.space, "picks": picks}

    @classmethod
    def from_dict(cls, data: object) -> SubnetConfig:
        """Inverse of :meth:`to_dict`.

        Raises:
            ValueError: If ``data`` is not a config, or was written by another schema version.
        """
        if not isinstance(data, Mapping) or not {"schema_version", "space", "picks"} <= data.keys():
            raise ValueError(
                "A SubnetConfig must be a JSON object with 'schema_version', 'space' and 'picks'; "
                f"got {shorten(data)}. Is this another program's file?"
            )
        if data["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"A SubnetConfig must have schema version {SCHEMA_VERSION}; this one has {data['schema_version']!r}. "
                f"Read it with the release that wrote it, or write it again."
            )
        picks = data["picks"]
        if (
            not isinstance(data["space"], str)
            or not isinstance(picks, Mapping)
            or not all(
                isinstance(name, str) and isinstance(row, list) and all(map(_is_pick, row))
                for name, row in picks.items()
            )
        ):
            raise ValueError(
                f"'space' must be a name and 'picks' a list of names or numbers for each choice; got {shorten(data)}."
            )
        return cls(data["space"], picks)

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> SubnetConfig:
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: If ``text`` is not JSON (truncated, say) or not a config.
        """
        data = parse_json(text, "A SubnetConfig", advice=f"The text may be truncated: {shorten(text)}")
        return cls.from_dict(data)


@dataclass(frozen=True)
class ArchGraph:
    """Graph for a picture of an architecture: nodes in topological order, and labelled edges between them.

    Args:
        name: Caption, for example ``"normal"``.
        nodes: Node labels.
        edges: ``(source index, target index, label)``.
    """

    name: str
    nodes: tuple[str, ...]
    edges: tuple[tuple[int, int, str], ...]


@dataclass(frozen=True)
class SearchSpace:
    """All architectures that a search can find. Sampling, variation, validation and encoding, for every space alike.

    Architectures are :class:`SubnetConfig` one at a time and integer matrices ``[N, G]`` many at a time: one column
    (gene) per row of each choice, in order, holding an index into :attr:`Choice.picks`. A space with rules between
    genes overrides hooks: :meth:`check_rules`, :meth:`repair_genes`, :meth:`canonical_genes`, :meth:`draw_genes`,
    :meth:`mutate_genes`, :meth:`gene_groups` and :meth:`single_changes`. All other methods call these.

    Args:
        name: Written into every config, so that configs of different spaces are not mixed up.
        choices: The choices, with distinct names.

    Example:
        >>> space = SearchSpace("toy", (Choice("layer", ("conv", "skip"), rows=3),))
        >>> space.size, space.num_genes
        (8, 3)
        >>> space.sample(0) == space.sample(0)
        True
    """

    name: str
    choices: tuple[Choice, ...]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for old in RENAMED_HOOKS.keys() & vars(cls).keys():
            raise TypeError(
                f"{cls.__name__} must define {RENAMED_HOOKS[old]}, not {old}(), which nothing calls any more: the "
                "hooks of SearchSpace are public. Rename it; the docstring of SearchSpace names all hooks."
            )

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", tuple(self.choices))
        names = [choice.name for choice in self.choices]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"Space {self.name!r} must have choices with distinct names, at least one; got {names}.")

    def __getitem__(self, choice: str) -> Choice:
        for candidate in self.choices:
            if candidate.name == choice:
                return candidate
        raise KeyError(f"space {self.name!r} has no choice {choice!r}; it has {[c.name for c in self.choices]}")

    @property
    def num_genes(self) -> int:
        """Number of genes, G: the rows of all choices."""
        return sum(choice.rows for choice in self.choices)

    @cached_property
    def gene_sizes(self) -> tuple[int, ...]:
        """Number of picks of every gene, length G."""
        return tuple(len(choice.picks) for choice in self.choices for _ in range(choice.rows))

    @property
    def size(self) -> int:
        """Number of different configs :meth:`sample` can return."""
        return math.prod(self.gene_sizes)

    def describe(self) -> dict[str, Any]:
        """Name and choices, JSON-able: what a file says of a space, for :meth:`check_same`."""
        choices = [{"name": c.name, "picks": list(c.picks), "rows": c.rows} for c in self.choices]
        return {"name": self.name, "choices": choices}

    def check_same(self, other: object, what: str, way_out: str = "Build the space with the same arguments.") -> None:
        """Check that genes of ``other`` are the same architectures here.

        Args:
            other: A space, or what :meth:`describe` has said of one. Of a space, settings that both have count, too.
            what: Whose space ``other`` is; the error begins with it.
            way_out: The error ends with it.

        Raises:
            ValueError: If it is another space; the first choice or setting that differs is named.
        """
        theirs: Any = other.describe() if isinstance(other, SearchSpace) else other
        ours, theirs = self.describe(), theirs if isinstance(theirs, Mapping) else {}
        if theirs.get("name") != self.name:
            raise ValueError(f"{what} must be of space {self.name!r}; it is of {theirs.get('name')!r}. {way_out}")
        choices = theirs.get("choices")
        pairs = [*zip_longest(choices if isinstance(choices, list) else (), ours["choices"])]
        told = [(_choice_of(there), _choice_of(here)) for there, here in pairs if there != here]
        if isinstance(other, SearchSpace):
            shared = [f.name for f in fields(self) if f.name != "choices" and hasattr(other, f.name)]
            settings = [(name, getattr(other, name), getattr(self, name)) for name in shared]
            told += [(f"{name}={there!r}", f"{name}={here!r}") for name, there, here in settings if there != here]
        if told:
            raise ValueError(
                f"{what} must be of space {self.name!r} with the same choices and settings; the first that differs is "
                f"{told[0][0]} there and {told[0][1]} here. {way_out}"
            )

    def validate(self, config: SubnetConfig) -> None:
        """Check that ``config`` belongs to this space.

        Raises:
            ValueError: Naming the choice, the row and the candidates that would have been right.
        """
        self.genes_of(config)

    def canonical(self, config: SubnetConfig) -> SubnetConfig:
        """The one config that stands for all configs of the same network."""
        return self.config_of(self.canonical_genes(self.genes_of(config)[None])[0])

    def sample(self, rng: RNG = None) -> SubnetConfig:
        """Draw one config uniformly."""
        return self.config_of(self.sample_matrix(1, rng)[0])

    def sample_matrix(self, n: int, rng: RNG = None) -> IntMatrix:
        """Draw ``n`` configs uniformly and independently.

        Args:
            n: How many, N.
            rng: A seed or a generator; the same seed gives the same configs.

        Returns:
            Genes, ``[N, G]``.
        """
        return self.draw_genes(n, np.random.default_rng(rng))

    def mutate(self, config: SubnetConfig, rng: RNG = None, *, mutations: int = 1) -> SubnetConfig:
        """Take ``mutations`` random steps; each changes exactly one decision to another legal value."""
        genes, generator = self.genes_of(config), np.random.default_rng(rng)
        for _ in range(mutations):
            genes = self.mutate_genes(genes, generator)
        return self.config_of(genes)

    def crossover(self, first: SubnetConfig, second: SubnetConfig, rng: RNG = None) -> SubnetConfig:
        """Uniform crossover: every group of genes that belongs together comes from either parent with equal chance."""
        return self.config_of(self.cross_genes(self.genes_of(first), self.genes_of(second), np.random.default_rng(rng)))

    def cross_genes(self, first: IntMatrix, second: IntMatrix, rng: np.random.Generator) -> IntMatrix:
        """What :meth:`crossover` does, on genes: ``[G], [G] -> [G]``."""
        child = first.copy()
        for group in self.gene_groups():
            if rng.random() < 0.5:
                child[group] = second[group]
        return child

    def encode(self, configs: Iterable[SubnetConfig]) -> IntMatrix:
        """Genes of ``configs``, ``[N, G]``. Every config is validated."""
        rows = [self.genes_of(config) for config in configs]
        return np.stack(rows) if rows else np.empty((0, self.num_genes), dtype=np.int64)

    def decode(self, matrix: npt.ArrayLike) -> list[SubnetConfig]:
        """Inverse of :meth:`encode`.

        Raises:
            ValueError: If the shape is not ``[N, G]``, a gene is out of range, or a rule of the space is broken.
        """
        genes = self.check_genes(matrix)
        self.check_rules(genes)
        return [self.config_of(row) for row in genes]

    def check_genes(self, matrix: npt.ArrayLike) -> IntMatrix:
        """Check genes, and return them as an array.

        Raises:
            ValueError: If the shape is not ``[N, G]`` or a gene is out of range.
        """
        genes = np.asarray(matrix)
        if genes.ndim != 2 or genes.shape[1] != self.num_genes or not np.issubdtype(genes.dtype, np.integer):
            raise ValueError(
                f"Genes of space {self.name!r} must be an integer matrix [N, {self.num_genes}]; "
                f"got {genes.dtype} {list(genes.shape)}."
            )
        bad = (genes < 0) | (genes >= np.array(self.gene_sizes))
        if bad.any():
            row, gene = np.argwhere(bad)[0]
            raise ValueError(
                f"Gene {gene} of space {self.name!r} must be an index below {self.gene_sizes[gene]}; "
                f"row {row} holds {genes[row, gene]}."
            )
        return genes

    def unique(self, configs: Iterable[SubnetConfig]) -> list[SubnetConfig]:
        """Canonical forms without repetition, in order of first appearance."""
        return list(dict.fromkeys(self.canonical(config) for config in configs))

    def repair(self, matrix: npt.ArrayLike) -> IntMatrix:
        """Replace each row of genes by the nearest architecture of the space, in canonical form.

        Args:
            matrix: ``[N, G]``, every gene an index of its picks; rules between genes may be broken.

        Returns:
            ``[N, G]``, valid and canonical, a copy. Of what sampling, mutation and crossover yield, it is the canonical
            form.

        Raises:
            ValueError: If the shape is not ``[N, G]`` or a gene is out of range.
        """
        genes = self.check_genes(matrix)
        copy = np.array(genes, dtype=np.int64)
        return self.repair_genes(copy) if len(genes) else copy

    def neighbours(self, genes: IntMatrix) -> IntMatrix:
        """All other architectures that differ in one gene, canonical, each once: ``[G] -> [N, G]``."""
        found = self.repair(self.single_changes(genes))
        found = found[(found != genes).any(1)]
        _, first = np.unique(found, axis=0, return_index=True)
        return np.asarray(found[np.sort(first)])

    def one_hot(self, config: SubnetConfig) -> dict[str, npt.NDArray[np.float32]]:
        """Edge weights that select exactly ``config``: ``{choice: [R, O]}``; the row of a dropped edge is zero."""
        genes, weights, start = self.genes_of(config), {}, 0
        for choice in self.choices:
            picks = genes[start : start + choice.rows]
            weights[choice.name] = np.eye(len(choice.picks), dtype=np.float32)[picks, : len(choice.candidates)]
            start += choice.rows
        return weights

    def nodes(self) -> list[list[int]]:
        """Genes of the edges that enter each node; an empty list where the space is not one of graphs."""
        return []

    def cell_graphs(self) -> list[CellGraph]:
        """Cells with edges that may hold ``none``; an empty list where every architecture has an output."""
        return []

    def decisions(self) -> Decisions:
        """How a policy writes an architecture down: one decision for every gene, unless the space has its own way."""
        from .decisions import Decisions

        return Decisions(self)

    def most_likely(self, probabilities: Mapping[str, npt.NDArray[np.floating[Any]]]) -> SubnetConfig:
        """Derive: the most likely candidate of every row, or the likeliest architecture whose cells have an output.

        Args:
            probabilities: ``{choice: [R, O]}``.
        """
        from .connection import connect

        picks = {c.name: [c.candidates[o] for o in probabilities[c.name].argmax(-1)] for c in self.choices}
        return connect(self, SubnetConfig(self.name, picks), probabilities)

    def centroid(self) -> SubnetConfig:
        """The architecture in the middle of every choice.

        The candidate in the middle of those of a choice, in every row: the one at index ``(O - 1) // 2`` of O, so the
        lower one of two. Candidates that are sizes go from the smallest to the largest; of operations, which have no
        order, it is the one that is listed there. Then it is repaired, where the space has rules, and canonical.
        """
        middle = [(len(choice.candidates) - 1) // 2 for choice in self.choices for _ in range(choice.rows)]
        return self.config_of(self.repair([middle])[0])

    def graphs(self, config: SubnetConfig) -> list[ArchGraph]:
        """Graphs for a picture of the architecture: one chain of all picks, unless the space has its own graphs."""
        self.validate(config)
        labels = [f"{pick}" for choice in self.choices for pick in config[choice.name]]
        nodes = ("in", *(str(i) for i in range(1, len(labels))), "out")
        return [ArchGraph(self.name, nodes, tuple((i, i + 1, label) for i, label in enumerate(labels)))]

    # Hooks: a space with rules between genes, or with several spellings of one network, overrides them.

    def check_rules(self, genes: IntMatrix) -> None:
        """Check the rules between genes; a space without rules has nothing to check.

        Args:
            genes: ``[N, G]``, every gene an index of its picks.

        Raises:
            ValueError: If a row breaks a rule; the message names the row, the rule and the way out.
        """

    def repair_genes(self, genes: IntMatrix) -> IntMatrix:
        """Make any genes valid and canonical; :meth:`repair` calls this with a checked copy.

        Args:
            genes: ``[N, G]``, N at least 1, int64, every gene an index of its picks. It may be changed in place.

        Returns:
            ``[N, G]``. It passes :meth:`check_rules`, and repairing it again changes nothing. Where sampling, mutation
            or crossover yields a row, the result is that of :meth:`canonical_genes`.
        """
        return self.canonical_genes(genes)

    def canonical_genes(self, genes: IntMatrix) -> IntMatrix:
        """Choose one of all genes that build the same network; a space with one spelling each changes nothing.

        Args:
            genes: ``[N, G]``, N at least 1, int64, valid. It may be changed in place.

        Returns:
            ``[N, G]``, valid, building the same networks; the same rows for all spellings of a network.
        """
        return genes

    def draw_genes(self, n: int, rng: np.random.Generator) -> IntMatrix:
        """Draw ``n`` architectures uniformly and independently, from ``rng`` alone: ``[N, G]``, valid."""
        return rng.integers(0, np.array(self.gene_sizes), size=(n, self.num_genes), dtype=np.int64)

    def mutate_genes(self, genes: IntMatrix, rng: np.random.Generator) -> IntMatrix:
        """Change one decision of a valid architecture to another legal value, by chance of ``rng`` alone.

        Args:
            genes: ``[G]``, valid; it stays as it is.
            rng: Source of chance.

        Returns:
            ``[G]``, valid, another array.

        Raises:
            ValueError: If the space has no other architecture to offer.
        """
        free = [gene for gene, size in enumerate(self.gene_sizes) if size > 1]
        if not free:
            raise ValueError(
                f"Space {self.name!r} must have two architectures or more to mutate one; it has a single one."
            )
        gene = free[rng.integers(len(free))]
        child = genes.copy()
        child[gene] = (genes[gene] + rng.integers(1, self.gene_sizes[gene])) % self.gene_sizes[gene]
        return child

    def gene_groups(self) -> list[list[int]]:
        """Groups of genes that crossover takes from one parent; every gene is in exactly one.

        A child whose groups come from two valid parents must be valid.
        """
        return [[gene] for gene in range(self.num_genes)]

    def single_changes(self, genes: IntMatrix) -> IntMatrix:
        """Change each gene to each other pick; :meth:`neighbours` repairs the result, so rules may be broken.

        Args:
            genes: ``[G]``, valid and canonical.

        Returns:
            ``[N, G]``.
        """
        rows = [
            np.concatenate([genes[:g], [pick], genes[g + 1 :]])
            for g, size in enumerate(self.gene_sizes)
            for pick in range(size)
            if pick != genes[g]
        ]
        return np.array(rows, dtype=np.int64).reshape(-1, self.num_genes)

    # Between the two forms.

    def genes_of(self, config: SubnetConfig) -> IntMatrix:
        """Genes ``[G]`` of a config, which is validated.

        Raises:
            ValueError: If ``config`` does not belong to this space, or breaks a rule of it.
        """
        if config.space != self.name:
            raise ValueError(
                f"The config must belong to space {self.name!r}; this one belongs to {config.space!r}. "
                "Build the space it was made in, or derive again."
            )
        names, expected = [name for name, _ in config.picks], [choice.name for choice in self.choices]
        if names != sorted(expected):
            raise ValueError(f"A config of space {self.name!r} must have the choices {expected}; got {names}.")
        found: list[int] = []
        for choice in self.choices:
            picks = config[choice.name]
            if len(picks) != choice.rows:
                raise ValueError(
                    f"Choice {choice.name!r} of {self.name!r} must have {choice.rows} rows; got {len(picks)}."
                )
            index = {pick: i for i, pick in enumerate(choice.picks)}
            for row, pick in enumerate(picks):
                if pick not in index:
                    raise ValueError(
                        f"{shorten(pick)} is not a candidate of {choice.name!r} (row {row}) in space {self.name!r}; "
                        f"candidates are {choice.picks}."
                    )
                found.append(index[pick])
        genes = np.array(found, dtype=np.int64)
        self.check_rules(genes[None])
        return genes

    def config_of(self, genes: IntMatrix) -> SubnetConfig:
        """The config of valid genes ``[G]``, which are not checked; :meth:`decode` checks them."""
        picks, start = {}, 0
        for choice in self.choices:
            picks[choice.name] = tuple(choice.picks[gene] for gene in genes[start : start + choice.rows])
            start += choice.rows
        return SubnetConfig(self.name, picks)


def load_config(path: str | Path) -> SubnetConfig:
    """Read the ``SubnetConfig`` of a ``subnet.json``: the bare config, or the file an exported network comes with.

    Raises:
        ValueError: If the file is missing, truncated or not ours; the path is named.
    """
    try:
        data = read_json(path)
    except FileNotFoundError as error:
        raise ValueError(f"There is no config file {path}. 'oneshot derive RUN' writes one.") from error
    except ValueError as error:
        raise ValueError(
            f"{path} is not a subnet.json: {error} It may be truncated; derive or export again."
        ) from error
    nested = data.get("config") if isinstance(data, Mapping) and "network" in data else data
    try:
        return SubnetConfig.from_dict(nested)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _is_pick(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)


def natural(name: str) -> tuple[str, int]:
    """Key that sorts ``stage_10`` behind ``stage_2``."""
    head, _, number = name.rpartition("_")
    return (head, int(number)) if number.isdecimal() else (name, -1)


def _choice_of(description: object) -> str:
    if not isinstance(description, Mapping):
        return "nothing" if description is None else shorten(description)
    return f"{description.get('name')!r} ({description.get('rows')} rows, picks {description.get('picks')})"
