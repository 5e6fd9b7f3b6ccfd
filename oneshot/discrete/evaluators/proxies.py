"""Evaluation without training: zero-cost proxies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl

from oneshot.discrete.protocol import Evaluator, Proposal
from oneshot.proxies.architectures import ArchitectureScorer, Build
from oneshot.proxies.base import Proxy
from oneshot.supernets.base import Supernet


class ProxyEvaluator(Evaluator):
    """Scores of networks that are not trained, each a metric to maximise: ``Study(..., ["max naswot", "min params"])``.

    A network without a finite score is an evaluation that failed, with the reason.

    Args:
        names: See :func:`oneshot.proxies.score`; ``"az_nas"`` ranks a set, so its parts are named here.
        build: A supernet, or a function that builds the network of an architecture with new weights.
        data: Whose training samples are looked at; without data, inputs are random numbers, and proxies that take a
            loss are refused.
        samples: Size of the batch.
        options: Arguments of proxies, ``{"zico": {"batches": 4}}``.
        repeats: Draws of the weights, whose mean is the score.
        seed: Of weights, and of what proxies draw.

    Raises:
        ValueError: If a name is unknown, a number below its least, or labels are needed and there are no data.

    Example:
        >>> from oneshot.discrete import RandomSearch, Study
        >>> from oneshot.supernets import NASBench201Supernet
        >>> supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)
        >>> evaluator = ProxyEvaluator(["naswot", "synflow"], supernet, samples=8)
        >>> study = Study(RandomSearch(supernet.space), evaluator, ["max naswot", "max synflow"], evaluations=4)
        >>> study = study.run()
        >>> len(study.evaluated)
        4
    """

    def __init__(
        self,
        names: str | Proxy | Sequence[str | Proxy],
        build: Supernet | Build,
        data: pl.LightningDataModule | None = None,
        *,
        samples: int = 32,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        repeats: int = 1,
        seed: int = 0,
    ) -> None:
        self.scorer = ArchitectureScorer(
            build, names, data, samples=samples, options=options, repeats=repeats, seed=seed, strict=True
        )
        self.space, self.data = build.space if isinstance(build, Supernet) else None, data

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.scorer.names

    def __call__(self, proposal: Proposal) -> dict[str, float]:
        return self.scorer(proposal.config)
