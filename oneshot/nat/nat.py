"""Neural Architecture Transfer (Lu et al., IEEE TPAMI 2021, arXiv:2005.05859): a supernet and a front, by turns."""

from __future__ import annotations

import itertools
import math
import warnings
import zlib
from collections.abc import Mapping, Sequence, Sized
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from oneshot._lightning import may_stop_early, validation_source
from oneshot.cost.counting.candidates import UNITS
from oneshot.cost.latency.table import UNIT
from oneshot.cost.model import CostModel
from oneshot.cost.record import Prediction
from oneshot.cost.resolve import FILES, cost_name, resolve_cost
from oneshot.engine.options import SandwichOptions, Unpack
from oneshot.engine.sandwich import SandwichTraining
from oneshot.evaluation.images import EvaluationData, decode_images, joined, training_samples
from oneshot.regression.extra import ExtraFeatures
from oneshot.regression.surrogates import Kind
from oneshot.storage.class_paths import public_path
from oneshot.supernets.base import Supernet
from oneshot.supernets.space import IntMatrix, SubnetConfig
from oneshot.training.head import check_head_task
from oneshot.training.resume import KEY

from .evaluators import (
    Done,
    Evaluator,
    JournalledEvaluator,
    RayEvaluator,
    SharedEvaluator,
    SupernetEvaluator,
    checksum,
    fingerprint,
)
from .marginals import Marginals
from .objectives import Constraint, Objective
from .search import ParetoSearch

JOURNAL = "evaluations"
PREDICTORS: tuple[Kind, ...] = ("rbf", "gp", "boosting", "mlp", "ridge")  # of all releases, so that runs are resumed


class NAT(SandwichTraining):
    """Trains a supernet where the front is, searches the front in the supernet, and so on.

    The fit begins with ``warmup_epochs`` in which sub-networks are drawn uniformly. Then, ``iterations`` times: errors
    of the archive are measured anew (the weights have moved), a predictor of the error is fitted to them, evolution
    looks for the front of predicted error and exact costs, the most useful candidates are measured and added to the
    archive, and the weights are trained for ``adapt_epochs`` on sub-networks drawn as the archive has them. In the end,
    also where the fit is stopped early, the errors of the archive are measured once more. Weights are inherited;
    nothing is retrained.

    The archive always holds the smallest and the largest architecture. Errors are those of validation images (the
    validation loader) after batch normalisation was calibrated for each architecture on training images
    (:class:`~oneshot.nat.evaluators.SupernetEvaluator`), in 32 bits whatever the precision of the training, as the
    networks are exported. In a distributed fit the processes share the evaluations; or a Ray cluster makes them.

    Where there are checkpoints, every evaluation is written down as it is made (``evaluations/`` in the folder of the
    run), and archive, predictor and search are in every checkpoint: a resumed fit ends as an uninterrupted one, and
    evaluates nothing twice.

    Left out of the paper: its two supernets of different widths (one that is elastic in width takes their place), and
    continuous distributions of genes, which categorical ones replace (the authors' answer in their issue 7).

    Args:
        supernet: Any supernet.
        objectives: What is minimised beside the error: ``"params"``, ``"macs"``, ``"memory"``, a path of a latency
            table (``.json``) or of measured networks (``.csv``), a name of ``costs``, or an
            :class:`~oneshot.nat.objectives.Objective`. One file is the objective ``latency``; several have the names of
            the files, ``phone`` of ``phone.json``.
        constraints: Upper bounds by objective, ``{"macs": 3e8}``; a pair has the probability with which it must hold.
        warmup_epochs: Epochs before the first search.
        iterations: Searches.
        adapt_epochs: Epochs after each. With 0 all searches come at the end of the warm-up, over weights that stay: for
            a trained network that few epochs of shared training would only harm (with ``random_paths=0,
            smallest=False`` the warm-up trains the largest architecture alone).
        initial: Architectures of the first archive.
        batch: Architectures added by every search.
        population: Of the evolution.
        generations: Likewise.
        predictors: Kinds of accuracy predictors that cross-validation chooses among in every iteration; ``"rank_gp"``,
            a Gaussian process of ranks, is one that is not among the default ones.
        features: Extra features that the predictors see beside the genes, such as
            :class:`~oneshot.proxies.ProxyFeatures` of cheap scores: those of some thousand architectures are computed
            for every search.
        sampler: What is trained between searches: draws from the ``"archive"``'s categorical distributions, the
            ``"candidates"`` of its front themselves (ENCAS), or ``"uniform"`` draws.
        sampled_from: Distributions are those of so many best of the archive, by non-domination rank and crowding;
            ``None`` takes all. The authors' later framework has 150, ENCAS 300 of a larger archive.
        calibration_images: Training images that batch normalisation is calibrated on.
        fit_heads: Whether every architecture has a last layer of its own, fitted in closed form to the calibration
            images (:func:`~oneshot.training.head.fit_head`) wherever it is evaluated or exported: for supernets of a
            pretrained network. There the shared last layer is that of the largest, and narrow architectures are near
            chance with it until the training has been long.
        evaluation_batch: Images in a batch of evaluations.
        search_seed: Of archive, predictor and evolution.
        allow_noisy: Take latencies also where their file says, or shows, that they may be wrong: noise above 10 %, or
            networks that need less than nothing. Otherwise they are refused.
        ray: Address of a Ray cluster that evaluates; ``"auto"`` takes the one that runs, ``"local"`` starts one on this
            machine. ``None`` evaluates where the training is.
        ray_workers: Processes there, with a core each.
        ray_gpus: GPUs of each.
        **kwargs: See :class:`~oneshot.engine.sandwich.SandwichTraining`.

    Raises:
        ValueError: If a number is out of its range, an objective has no model, or no architecture keeps the
            constraints; at the start of ``fit``, if ``max_epochs`` is not ``warmup_epochs + iterations *
            adapt_epochs``, or there are no validation images.
        ConnectionError: At the start of ``fit``, if the cluster is not there.
    """

    dropped = ("alphas.", "_genes", "_accuracies")

    def __init__(
        self,
        supernet: Supernet,
        *,
        objectives: Sequence[str | Objective] = ("macs",),
        constraints: Mapping[str, float | tuple[float, float]] | None = None,
        warmup_epochs: int = 50,
        iterations: int = 30,
        adapt_epochs: int = 5,
        initial: int = 100,
        batch: int = 8,
        population: int = 100,
        generations: int = 100,
        predictors: Sequence[Kind] = PREDICTORS,
        features: ExtraFeatures | None = None,
        sampler: Literal["archive", "candidates", "uniform"] = "archive",
        sampled_from: int | None = 150,
        calibration_images: int = 2048,
        fit_heads: bool = False,
        evaluation_batch: int = 256,
        search_seed: int = 0,
        allow_noisy: bool = False,
        ray: str | None = None,
        ray_workers: int = 2,
        ray_gpus: float = 0.0,
        **kwargs: Unpack[SandwichOptions],
    ) -> None:
        if isinstance(supernet, Supernet):  # what else it may be is refused below
            supernet.own_head = fit_heads  # before it is copied for averages
        super().__init__(supernet, **kwargs)
        if fit_heads:
            check_head_task(self.task)
        if iterations < 1 or min(warmup_epochs, adapt_epochs) < 0 or not warmup_epochs + adapt_epochs:
            raise ValueError(
                "warmup_epochs and adapt_epochs must be at least 0, one of them above 0, and iterations at least 1; "
                f"got warmup_epochs={warmup_epochs}, adapt_epochs={adapt_epochs}, iterations={iterations}."
            )
        if sampler not in ("archive", "candidates", "uniform"):
            raise ValueError(f"sampler must be 'archive', 'candidates' or 'uniform'; got {sampler!r}.")
        if sampled_from is not None and sampled_from < 1:
            raise ValueError(f"sampled_from must be at least 1, or None for the whole archive; got {sampled_from}.")
        if calibration_images < 2:
            raise ValueError(f"calibration_images must be at least 2; got {calibration_images}.")
        self.warmup_epochs, self.iterations, self.adapt_epochs = warmup_epochs, iterations, adapt_epochs
        self.drawn_from, self.sampled_from = sampler, sampled_from
        self.calibration_images, self.evaluation_batch = calibration_images, evaluation_batch
        macs = Objective("macs", model=self.macs)
        several = sum(isinstance(given, str) and given.endswith(FILES) for given in objectives) > 1
        own = {name: Objective(name, model=model) for name, model in self.costs.items()} | {"macs": macs}
        known = [
            own[given]
            if isinstance(given, str) and given in own
            else objective_of(given, supernet, by_file=several, allow_noisy=allow_noisy)
            for given in objectives
        ]
        bounds = [
            _bound(name, bound, [*known, *own.values()], supernet, allow_noisy=allow_noisy)
            for name, bound in (constraints or {}).items()
        ]
        self.pareto = ParetoSearch(
            supernet.space,
            known,
            constraints=bounds,
            first=supernet.space.repair(np.stack(self.smallest_and_largest[-1])),
            initial=initial,
            batch=batch,
            population=population,
            generations=generations,
            kinds=predictors,
            features=features,
            seed=search_seed,
        )
        if ray_workers < 1 or ray_gpus < 0:
            raise ValueError(
                f"ray_workers must be at least 1 and ray_gpus at least 0; got {ray_workers} and {ray_gpus}."
            )
        self.ray, self.ray_workers, self.ray_gpus = ray, ray_workers, ray_gpus
        self._images: EvaluationData | None = None
        self._cluster: RayEvaluator | None = None
        self._images_checksum = 0
        self._images_before: int | None = None  # checksum of those before the fit was resumed
        self._measured_at = self._loaded_at = 0  # steps
        self._forget_what_is_drawn()

    # What is trained.

    def _forget_what_is_drawn(self) -> None:
        self._rows: npt.NDArray[np.int64] | None = None  # of the archive, until the next search
        self._marginals: Marginals | None = None

    def draw(self, n: int, rng: np.random.Generator) -> IntMatrix:
        archive = self.pareto.archive
        if self._rows is None:
            pareto = self.pareto
            self._rows = pareto.front() if self.drawn_from == "candidates" else pareto.best(self.sampled_from)
        if self.drawn_from == "uniform" or not len(self._rows):
            return super().draw(n, rng)
        genes = archive.genes[self._rows]
        if self.drawn_from == "candidates":
            return genes[rng.choice(len(genes), size=n, replace=len(genes) < n)]
        if self._marginals is None:
            self._marginals = Marginals.of(self.supernet.space, genes)
        return self._marginals.sample(n, rng)

    def schedule_position(self) -> tuple[int, int]:
        # The learning rate is annealed within the warm-up, and within every adaptation (arXiv:2005.05859, section 4.1).
        epoch = self.current_epoch
        if epoch < self.warmup_epochs or not self.adapt_epochs:
            return epoch, self.warmup_epochs
        return (epoch - self.warmup_epochs) % self.adapt_epochs, self.adapt_epochs

    # The search between two epochs.

    def derive(self) -> SubnetConfig:
        """The architecture of the smallest error that keeps the constraints; before any is known, a random one."""
        archive = self.pareto.archive
        front = self.pareto.front()
        if not len(front):
            return self.sample(np.random.default_rng(self.run_seed))
        best = front[int(np.argmin(archive.values[front, 0]))]
        return self.supernet.space.decode(archive.genes[best][None])[0]

    def searches_after(self, epochs: int) -> int | None:
        """Number of the first search after so many epochs, from 0; ``None`` if there is none. The last one measures."""
        if not self.adapt_epochs:  # the first of all
            return 0 if epochs == self.warmup_epochs else None
        turn, rest = divmod(epochs - self.warmup_epochs, self.adapt_epochs)
        return turn if rest == 0 and 0 <= turn <= self.iterations else None

    def conclude(self) -> None:
        """Measure the errors of the archive with the weights as they are now, unless that is done."""
        archive = self.pareto.archive
        if len(archive) and self.outdated():
            told = self._counted("evaluating the archive", archive)
            errors = self.evaluator().evaluate(self.supernet.space.decode(archive.genes), told)
            self.pareto.update(np.array(errors))
            self.progress("", 0, 0)
        self._measured_at = self.trainer.global_step

    def outdated(self) -> int:
        """Steps the weights have made since the errors of the archive were measured."""
        return (self._loaded_at if self._trainer is None else self.trainer.global_step) - self._measured_at

    def on_fit_start(self) -> None:
        super().on_fit_start()
        epochs = self.warmup_epochs + self.iterations * self.adapt_epochs
        if self.trainer.max_epochs != epochs and not getattr(self.trainer, "fast_dev_run", 0):
            raise ValueError(
                f"max_epochs must be {epochs}: {self.warmup_epochs} epochs of warm-up and {self.iterations} times "
                f"{self.adapt_epochs}; got max_epochs={self.trainer.max_epochs}. Use Trainer(max_epochs={epochs})."
            )
        if self.ray is not None and self.trainer.world_size > 1:
            raise ValueError(
                f"The {self.trainer.world_size} processes of this fit share the evaluations already; a Ray cluster "
                f"evaluates for a fit of one process. Leave out ray={self.ray!r}, or use Trainer(devices=1)."
            )

    def look_for_held_out(self) -> None:
        images, strategy = self._decoded(), self.trainer.strategy
        own = self._checksum(images)
        if not strategy.reduce_boolean_decision(strategy.broadcast(own) == own):
            images = strategy.broadcast(images)  # loaders that give every process another part
        self._images, self._images_checksum = images, self._checksum(images)
        if self._images_before not in (None, self._images_checksum):
            warnings.warn(
                "The search began with other validation images, calibration images or evaluation_batch than it goes on "
                f"with: their checksum was {self._images_before} and is {self._images_checksum}. Evaluations are made "
                "again, and errors differ. Resume with the same data, from loaders that do not depend on chance.",
                stacklevel=2,
            )
        self._cluster = None
        self.evaluator()  # raises where images tell nothing, or a cluster is not there: now, not after the warm-up

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.current_epoch == 0 and self.trainer.fit_loop.total_batch_idx <= 0 and self.warmup_epochs == 0:
            self.search(0)
            self._log_front()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.is_last_batch and (number := self.searches_after(self.current_epoch + 1)) is not None:
            self.check_finite()
            for later in range(number, number + 1 if self.adapt_epochs else self.iterations + 1):
                self.search(later)
            self._log_front()
        elif self.trainer.should_stop and may_stop_early(self.trainer):
            self.conclude_once()  # before the callbacks that look at the last epoch
        super().on_train_batch_end(outputs, batch, batch_idx)

    def on_train_end(self) -> None:
        super().on_train_end()
        self.conclude()  # EarlyStopping stops a fit after the end of an epoch
        self._cluster = None  # which lets the cluster forget the images, and the module be copied

    def search(self, number: int) -> None:
        """Measure the archive anew; unless all iterations are done, search and add to it."""
        self.conclude()
        pareto, space, evaluator = self.pareto, self.supernet.space, self.evaluator()
        last = number == self.iterations
        for _ in range(0 if last else 2 if number == 0 else 1):  # the first time also the initial archive
            self.progress("predictor and evolution", 0, 1)
            genes = self._asked()
            if len(genes):
                errors = evaluator.evaluate(space.decode(genes), self._counted("evaluating candidates", genes))
                pareto.tell(genes, np.array(errors))
        self.progress("", 0, 0)
        self._forget_what_is_drawn()

    def _log_front(self) -> None:
        """Log facts about the front after a search."""
        pareto = self.pareto
        if pareto.history:
            now = pareto.history[-1]
            facts = {"hypervolume": now.hypervolume, "evaluations": float(now.evaluations)}
            if now.kind is not None:
                facts["tau"] = now.tau.get(now.kind, math.nan)
            front = pareto.archive.values[pareto.front(), 0]
            facts |= {"front": float(len(front)), "best_error": float(front.min(initial=math.inf))}
            finite = {f"nat/{name}": value for name, value in facts.items() if math.isfinite(value)}
            # Of the epoch: Lightning keeps what belongs to a step at every log_every_n_steps-th only.
            self.log_dict(finite, on_step=False, on_epoch=True, batch_size=1, rank_zero_only=True)

    def _asked(self) -> IntMatrix:
        """Candidates, in all processes those of the first: others may round differently."""
        if self.trainer.world_size > 1:
            if self.trainer.is_global_zero:
                self.pareto.ask()
            self.pareto.load_state_dict(self.trainer.strategy.broadcast(self.pareto.state_dict()))
        return self.pareto.ask()

    def evaluator(self) -> Evaluator:
        """Build the evaluator of a fit, for the weights as they are now."""
        assert self._images is not None  # read when the fit began
        supernet = self.evaluation_supernet
        local: Evaluator = SupernetEvaluator(supernet, *self._images, batch_size=self.evaluation_batch)
        if self.ray is not None:
            if self._cluster is None:
                self._cluster = RayEvaluator(local, address=self.ray, workers=self.ray_workers, gpus=self.ray_gpus)
            self._cluster.local = local  # with the weights of now; the images are stored already
            local = self._cluster
        folder = Path(self.trainer.default_root_dir) / JOURNAL
        resumable = bool(self.trainer.checkpoint_callbacks) or folder.is_dir()
        if getattr(self.trainer, "fast_dev_run", 0) or not resumable:
            return SharedEvaluator(local)
        return SharedEvaluator(JournalledEvaluator(local, folder, fingerprint(supernet, self._images_checksum)))

    def _counted(self, what: str, architectures: Sized) -> Done:
        """A function that reports every evaluation of this process to :attr:`progress`."""
        total, done = math.ceil(len(architectures) / self.trainer.world_size), itertools.count(1)
        self.progress(what, 0, total)
        return lambda config, error: self.progress(what, next(done), total)

    def _checksum(self, images: EvaluationData) -> int:
        batch = zlib.crc32(str(self.evaluation_batch).encode())
        named = images._asdict()
        if not self.supernet.own_head:
            del named["calibration_labels"]  # which nothing reads
        parts = [
            (name if key is None else f"{name}.{key}", tensor)
            for name, part in named.items()
            for key, tensor in (part.items() if isinstance(part, Mapping) else [(None, part)])
        ]
        return checksum(parts, batch)

    def _decoded(self) -> EvaluationData:
        data: Any = getattr(self.trainer, "datamodule", None)
        if data is not None:
            return decode_images(data, self.calibration_images, batch_size=self.evaluation_batch)
        # Lightning does not set loaders up that limit_val_batches=0 leaves out of its own validation.
        source = validation_source(self.trainer)
        loaders = source.dataloader() if source.is_defined() else self.held_out()
        validation = loaders[0] if isinstance(loaders, list | tuple) else loaders
        calibration = training_samples(
            self.trainer.train_dataloader, self.calibration_images, batch_size=self.evaluation_batch
        )
        return EvaluationData(*joined(validation), *calibration)

    # What networks cost.

    def _objectives(self) -> list[Objective]:
        """All costs that are minimised or bounded, once each."""
        pareto = self.pareto
        return list({o.name: o for o in [*pareto.objectives, *(c.objective for c in pareto.constraints)]}.values())

    def cost_models(self) -> dict[str, object]:
        return {objective.name: objective.model for objective in self._objectives()}

    def predictions(self, config: SubnetConfig) -> list[Prediction]:
        genes = self.supernet.space.encode([config])
        return [
            Prediction(o.name, float(o.values(genes)[0]), getattr(o.model, "record", None))
            for o in self._objectives()
            if o.unit == UNIT
        ]

    # Checkpoints.

    def facts(self) -> dict[str, Any]:
        names = [f"{o.name} [{o.unit}]" for o in self.pareto.objectives]
        turns = f"{self.warmup_epochs} + {self.iterations} x {self.adapt_epochs}"
        heads = {"heads": "their own"} if self.supernet.own_head else {}
        features = {}
        if self.pareto.features is not None:
            source = self.pareto.features.source
            features = {"features": f"{public_path(type(source))} ({', '.join(source.names)})"}
        return {**super().facts(), "objectives": ", ".join(names), "turns": turns, **heads, **features}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        drawn = None if self._rows is None else self._rows.tolist()
        ours = {"measured_at": self._measured_at, "drawn": drawn, "images": self._images_checksum}
        checkpoint["nat"] = {**self.pareto.state_dict(), **ours}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if made_by := checkpoint.get(KEY):
            made_by["facts"].pop("candidates", None)  # of earlier releases, whose NAT also compared one candidate
        super().on_load_checkpoint(checkpoint)
        state = checkpoint["nat"]
        self.pareto.load_state_dict(state)
        self._loaded_at = checkpoint["global_step"]
        self._measured_at = state.get("measured_at", self._loaded_at)
        self._images_before = state.get("images")
        self._forget_what_is_drawn()
        self._rows = None if state.get("drawn") is None else np.array(state["drawn"], dtype=np.int64)


def objective_of(
    given: str | Objective, supernet: Supernet, *, by_file: bool = False, allow_noisy: bool = False
) -> Objective:
    """An objective by the name of a count or the path of a file.

    Args:
        given: See :class:`NAT`.
        supernet: Whose architectures cost it.
        by_file: Whether a latency is named for its file.
        allow_noisy: See :class:`NAT`.

    Raises:
        ValueError: If it is neither, or the costs are of another supernet, or doubtful.
    """
    if isinstance(given, Objective):
        if isinstance(given.model, CostModel):
            resolve_cost(given.model, supernet, allow_noisy=allow_noisy, what=f"The model of objective {given.name!r}")
        return given
    model = resolve_cost(given, supernet, allow_noisy=allow_noisy)
    return Objective(cost_name(given, by_file=by_file), model=model, deviation=model.deviation)


def _bound(
    name: str,
    bound: float | tuple[float, float],
    known: Sequence[Objective],
    supernet: Supernet,
    *,
    allow_noisy: bool,
) -> Constraint:
    by_name = {objective.name: objective for objective in known}
    if name not in by_name and name not in UNITS and not name.endswith(FILES):
        raise ValueError(
            f"A constraint must be on one of the objectives {', '.join(by_name)}, on one of {', '.join(UNITS)}, or "
            f"on the file of a latency; got {name!r}."
        )
    objective = by_name[name] if name in by_name else objective_of(name, supernet, allow_noisy=allow_noisy)
    pair = tuple(bound) if isinstance(bound, list | tuple) else (bound, 0.5)
    if len(pair) != 2 or not all(isinstance(number, Real) for number in pair):
        raise ValueError(
            "A constraint must be a number, or a pair of a number and the probability with which it must hold, such as "
            f"(3e8, 0.9); got {bound!r} for {name!r}."
        )
    at_most, probability = pair
    return Constraint(objective, at_most, probability=probability)
