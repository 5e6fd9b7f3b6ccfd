"""Scores of architectures: as numbers to rank by, as features of predictors, as a start of a search."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from oneshot.errors import NoScoreError
from oneshot.evaluation.images import fitted
from oneshot.inputs import Inputs, joined, length, mapped, tensors
from oneshot.random_numbers import own_random_numbers
from oneshot.regression.extra import ExtraFeatures
from oneshot.supernets.base import Subnet, Supernet, example_inputs
from oneshot.supernets.space import Floats, SearchSpace, SubnetConfig
from oneshot.training.batches import pair_of
from oneshot.training.samples import loader_samples, plain_samples

from .base import Proxy
from .ranks import combined
from .score_file import ScoreFile
from .scoring import DEFAULT, proxies_of, scores_or_reasons

Build: TypeAlias = Callable[[SubnetConfig], nn.Module]
REFERENCES = 64  # architectures by which features are scaled
CLIPPED = 5.0  # largest feature


class ArchitectureScorer:
    """Scores architectures by networks with new weights, all on one batch. Equal architectures are scored once.

    All networks are drawn with the same seed, so that a score is a function of the architecture. Where resolution is
    part of an architecture, images are resized for it; scores of different resolutions do not compare, so rank within
    one.

    Args:
        build: A supernet, or a function that builds the network of an architecture with new weights.
        names: See :func:`~oneshot.proxies.score`.
        data: Whose training samples are looked at, without augmentation where the data offer that; a fixed draw.
            Without data, inputs are random numbers, and proxies that take a loss are refused.
        samples: Size of the batch.
        options: Arguments of proxies, ``{"zico": {"batches": 4}}``.
        repeats: Draws of the weights, whose mean is the score.
        seed: Of weights, and of what proxies draw.
        strict: See :func:`~oneshot.proxies.score`; by default a network without a score has NaN, also where it lacks
            what a proxy looks at.
        file: Where scores are kept (``scores/naswot.jsonl``), so that no later process computes them again, such as a
            search that goes on. One process at a time may write to its folder.

    Raises:
        ValueError: If a name is unknown, a number below its least, labels are needed and there are no data, or the file
            has scores of something else.
    """

    def __init__(
        self,
        build: Supernet | Build,
        names: str | Proxy | Sequence[str | Proxy] = DEFAULT,
        data: pl.LightningDataModule | None = None,
        *,
        samples: int = 32,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        repeats: int = 1,
        seed: int = 0,
        strict: bool = False,
        file: str | Path | None = None,
    ) -> None:
        self.proxies = proxies_of(names, options)
        if samples < 1 or repeats < 1:
            raise ValueError(f"samples and repeats must be at least 1; got samples={samples}, repeats={repeats}.")
        labelled = [proxy.name for proxy in self.proxies if proxy.needs_targets]
        if data is None and labelled:
            raise ValueError(f"{', '.join(labelled)} take the loss of labelled data; give data=.")
        self.build, self.samples, self.repeats, self.seed, self.strict = build, samples, repeats, seed, strict
        self.batch = None if data is None else batch_of(data, samples)
        self._reasons: dict[str, str] = {}
        self._file = None if file is None else ScoreFile(file, self._made_by(), self._fingerprint)
        self._known: dict[SubnetConfig, dict[str, float]] = dict(self._file or ())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scores."""
        return tuple(proxy.name for proxy in self.proxies)

    def __call__(self, config: SubnetConfig) -> dict[str, float]:
        """The scores of an architecture.

        Raises:
            ValueError: See :func:`~oneshot.proxies.score`.
        """
        if config not in self._known:
            self._known[config] = self._score(config)
            if self._file is not None:
                self._file.add(config, self._known[config])
        return dict(self._known[config])

    def network(self, config: SubnetConfig, seed: int) -> nn.Module:
        """The network of an architecture, with weights drawn from a seed."""
        with own_random_numbers(seed):
            if isinstance(self.build, Supernet):
                return self.build.extract(config, inherit=False)
            return self.build(config)

    def check_scored(self, scores: Sequence[Mapping[str, float]], names: Sequence[str] | None = None) -> None:
        """Check that every score is there for at least one of several networks, or nothing can be ranked by it.

        Args:
            scores: What calls have returned.
            names: The scores that matter; by default all.

        Raises:
            ValueError: Naming the score that is NaN everywhere, and why, where that is known.
        """
        for name in self.names if names is None else names:
            if scores and all(math.isnan(row.get(name, math.nan)) for row in scores):
                raise ValueError(
                    f"At least one network must have a score of {name}; none of {len(scores)} has one. "
                    f"{self._reasons.get(name, 'Leave this proxy out.')}"
                )

    def _fingerprint(self, config: SubnetConfig) -> str:
        """A checksum of what the network of an architecture is made of."""
        network = self.network(config, self.seed)
        shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        return f"{zlib.crc32(repr((str(network), getattr(network, 'input_shape', None), shapes)).encode()):08x}"

    def _made_by(self) -> str:
        """What scores follow from beside the architecture and its network: samples, proxies and their seeds."""
        networks = getattr(self.build, "__qualname__", type(self.build).__qualname__)
        if isinstance(self.build, Supernet):
            networks += f" {zlib.crc32(repr(self.build.space).encode()):08x}"
        samples = [] if self.batch is None else [*tensors(self.batch[0]), self.batch[1]]
        images = 0
        for part in samples:
            images = zlib.crc32(part.detach().cpu().contiguous().numpy().tobytes(), images)
        proxies = ", ".join(f"{proxy.name} {proxy!r}" for proxy in self.proxies)
        return f"{proxies}; {networks}; {self.samples} samples {images:08x}; seed {self.seed}, {self.repeats} draws"

    def _score(self, config: SubnetConfig) -> dict[str, float]:
        runs = []
        for seed in range(self.seed, self.seed + self.repeats):
            network = self.network(config, seed)
            found, run = scores_or_reasons(network, *self._inputs(network), self.proxies, seed=seed), dict[str, float]()
            for name, value in found.items():
                if isinstance(value, NoScoreError):
                    if self.strict:
                        raise value
                    self._reasons.setdefault(name, str(value))
                    value = math.nan
                run[name] = value
            runs.append(run)
        return {name: sum(run[name] for run in runs) / self.repeats for name in self.names}

    def _inputs(self, network: nn.Module) -> tuple[Inputs, Tensor | None]:
        if self.batch is None:
            if not isinstance(network, Subnet):
                raise ValueError(
                    f"Without data, networks must say their input_shape, as a Subnet does; {type(network).__name__} is "
                    "none. Give data=."
                )
            return example_inputs(network, self.samples), None
        x, y = self.batch
        return (fitted(network, x) if isinstance(network, Subnet) else x), y


def batch_of(data: pl.LightningDataModule, samples: int) -> tuple[Inputs, Tensor]:
    """Training samples of a data module and their targets, a fixed draw without augmentation where it offers that.

    Raises:
        ValueError: If there are fewer.
    """
    data.prepare_data()
    data.setup("fit")
    plain = plain_samples(data, samples)
    if plain is not None:
        pairs = [pair_of(batch) for batch in plain]
    else:
        with loader_samples(data.train_dataloader(), samples) as batches:
            pairs = []
            for batch in batches:
                pairs.append(pair_of(batch))
                if sum(length(x) for x, _ in pairs) >= samples:
                    break
    found = sum(length(x) for x, _ in pairs)
    if found < samples:
        raise ValueError(
            f"The training data must have samples={samples}; {type(data).__name__} has {found}. Ask for fewer."
        )
    x, y = joined([x for x, _ in pairs]), torch.cat([y for _, y in pairs])
    return mapped(lambda part: part[:samples], x), y[:samples]


class ProxyFeatures(ExtraFeatures):
    """Scores as features of a predictor, ``configs -> [N, P]``: of one scale, finite, and the same in any order.

    ``asinh`` of a score, less its median and divided by its interquartile range over random architectures, within
    ``[-5, 5]``. A network without a score has -5.

    Args:
        scorer: What scores them.
        space: The space of the architectures; by default that of the supernet that the scorer builds networks of.
        references: Random architectures for the scale, scored on the first call.

    Raises:
        ValueError: If there are fewer than two references, or no space; at the first call, if no reference has a score.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)
        >>> scorer = ArchitectureScorer(supernet, ["params", "naswot"], samples=8)
        >>> ProxyFeatures(scorer, supernet.space, references=4)([supernet.space.sample(0)]).shape
        (1, 2)
    """

    def __init__(
        self, scorer: ArchitectureScorer, space: SearchSpace | None = None, *, references: int = REFERENCES
    ) -> None:
        if references < 2:
            raise ValueError(
                f"The scale of features must be of at least two architectures; got references={references}."
            )
        if space is None and not isinstance(scorer.build, Supernet):
            raise ValueError("Features must have a space, whose architectures set their scale; give space=.")
        self.scorer, self.references = scorer, references
        self.space: SearchSpace = scorer.build.space if space is None else space  # type: ignore[union-attr]
        self._scale: tuple[Floats, Floats] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What the columns are."""
        return self.scorer.names

    def __call__(self, configs: Sequence[SubnetConfig]) -> Floats:
        """Features of architectures, ``[N, P]``."""
        if self._scale is None:
            drawn = self.space.repair(self.space.sample_matrix(self.references, self.scorer.seed))
            references = self.space.decode(drawn)
            self.scorer.check_scored([self.scorer(config) for config in references])
            known = self._transformed(references)
            low, middle, high = np.nanquantile(known, [0.25, 0.5, 0.75], axis=0)
            width = np.where(high > low, high - low, 1.0)
            self._scale = np.nan_to_num(middle), np.nan_to_num(width, nan=1.0)
        middle, width = self._scale
        scaled = (self._transformed(configs) - middle) / width
        return np.clip(np.nan_to_num(scaled, nan=-CLIPPED), -CLIPPED, CLIPPED)

    def score(self, config: SubnetConfig) -> float:
        """The mean of the features of an architecture: one finite number, the larger the better.

        Strategies take it that begin with the best by a score: ``GaussianProcess(space, scores=features.score)``.
        """
        return float(self([config]).mean())

    def _transformed(self, configs: Sequence[SubnetConfig]) -> Floats:
        rows = [list(self.scorer(config).values()) for config in configs]
        return np.arcsinh(np.array(rows, dtype=np.float64).reshape(len(rows), len(self.names)))


def promising(
    scorer: ArchitectureScorer,
    space: SearchSpace,
    count: int,
    *,
    names: Sequence[str] | None = None,
    pool: int = 200,
    seed: int = 0,
) -> list[SubnetConfig]:
    """The architectures of a random pool that rank highest, best first, to begin a search with.

    Args:
        scorer: What scores them.
        space: The space of the architectures.
        count: How many.
        names: The scores that are ranked by, together (:func:`~oneshot.proxies.combined`); by default all.
        pool: Different architectures that are drawn; fewer if the space has fewer.
        seed: Of the pool.

    Raises:
        ValueError: If ``count`` is below 1, or above what the pool holds, or no network has a score.
    """
    drawn = space.repair(space.sample_matrix(pool, seed)) if pool > 0 else space.sample_matrix(1, seed)[:0]
    genes = drawn[np.sort(np.unique(drawn, axis=0, return_index=True)[1])]
    if not 1 <= count <= len(genes):
        raise ValueError(
            f"count must be from 1 to the number of different architectures in the pool, {len(genes)} of {pool} drawn; "
            f"got {count}. Draw a larger pool."
        )
    configs = space.decode(genes)
    rows = [scorer(config) for config in configs]
    scorer.check_scored(rows, names)
    scores = combined(rows, scorer.names if names is None else names)
    return [configs[i] for i in np.argsort(-np.array(scores), kind="stable")[:count]]
